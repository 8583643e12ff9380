"""Splits, normalisation and augmentation against independent computations."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from some_images import some_arrays

from dsl_jax.data import prepare, sources
from dsl_jax.data.augmentation import augment
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.load import load_or_substitute
from dsl_jax.data.prepare import DatasetUnavailable


def some_dataset(num=100, **options):
    return Dataset.from_arrays("own", some_arrays(num), some_arrays(20, seed=1), **options)


# --------------------------------------------------------------------------------------------
# Normalisation
# --------------------------------------------------------------------------------------------


def test_training_images_are_normalised_to_mean_0_and_std_1_per_channel():
    dataset = some_dataset()
    normal = dataset.normalize(dataset.train.images)
    assert normal.dtype == np.float32 and normal.shape == dataset.train.images.shape
    np.testing.assert_allclose(normal.mean((0, 1, 2), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(normal.std((0, 1, 2), dtype=np.float64), 1, atol=1e-6)


def test_statistics_are_those_of_the_training_split_alone():
    dataset = some_dataset(validation_size=40)
    train = dataset.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, train.std((0, 1, 2)), rtol=1e-12)
    everything = some_arrays()[0].astype(np.float64) / 255
    assert not np.allclose(dataset.mean, everything.mean((0, 1, 2)), rtol=1e-4)


def test_normalize_is_the_same_for_numpy_jax_and_traced_images_of_any_rank():
    dataset = some_dataset()
    images = dataset.test.images
    mean, std = np.array(dataset.mean), np.array(dataset.std)
    expected = (images.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(dataset.normalize(images), expected, atol=1e-5)
    on_device = dataset.normalize(jnp.asarray(images))
    traced = jax.jit(dataset.normalize)(images)
    assert isinstance(on_device, jax.Array) and traced.dtype == on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, expected, atol=1e-5)
    np.testing.assert_allclose(traced, expected, atol=1e-5)
    np.testing.assert_allclose(dataset.normalize(images[3]), expected[3], atol=1e-5)


def test_normalize_refuses_what_is_normalised_already_and_other_shapes():
    dataset = some_dataset()
    with pytest.raises(ValueError, match="float32"):
        dataset.normalize(dataset.normalize(dataset.test.images))
    with pytest.raises(ValueError, match=r"\(20, 6, 5\)"):
        dataset.normalize(dataset.test.images[..., 0])


def test_a_constant_channel_gives_finite_images():
    images, labels = some_arrays()
    images[..., 1] = 9
    dataset = Dataset.from_arrays("own", (images, labels), (images, labels))
    assert dataset.std[1] == 1
    assert np.isfinite(dataset.normalize(dataset.train.images)).all()


# --------------------------------------------------------------------------------------------
# Splits
# --------------------------------------------------------------------------------------------


def test_ids_are_source_rows_and_no_image_is_in_two_splits():
    images, labels = some_arrays()
    dataset = some_dataset(num_train=90)
    assert dataset.image_shape == (6, 5, 3) and dataset.num_classes == 7
    assert len(dataset.validation.ids) == 7  # 8 % of 90
    ids = np.concatenate([dataset.train.ids, dataset.validation.ids])
    assert len(ids) == 90 == len(set(ids))
    for split in (dataset.train, dataset.validation):
        np.testing.assert_array_equal(split.images, images[split.ids])
        np.testing.assert_array_equal(split.labels, labels[split.ids])
        assert [part.dtype for part in split] == [np.uint8, np.int32, np.int64]
    test_images, test_labels = some_arrays(20, seed=1)
    np.testing.assert_array_equal(dataset.test.images, test_images)
    np.testing.assert_array_equal(dataset.test.labels, test_labels)
    np.testing.assert_array_equal(dataset.test.ids, np.arange(20))


def test_the_split_is_fixed_by_the_seed():
    first, again, other = (some_dataset(seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.train.ids, again.train.ids)
    np.testing.assert_array_equal(first.validation.ids, again.validation.ids)
    assert set(first.validation.ids) != set(other.validation.ids)


def test_fewer_images_are_a_subset_and_keep_what_is_held_out():
    def taken(dataset):
        return np.concatenate([dataset.validation.ids, dataset.train.ids])

    small, large = some_dataset(num_train=30), some_dataset(num_train=80)
    np.testing.assert_array_equal(taken(small), taken(large)[:30])
    assert not set(small.validation.ids) & set(large.train.ids)
    assert set(taken(some_dataset())) == set(range(100))


def test_default_validation_is_8_percent_and_at_least_one_image():
    assert len(some_dataset().validation.ids) == 8
    assert len(some_dataset(num_train=2).validation.ids) == 1
    assert len(some_dataset(validation_size=0).validation.ids) == 0


@pytest.mark.parametrize(
    ("sizes", "bad", "limit"),
    [
        ({"num_train": 101}, "101", "100"),
        ({"num_train": 0}, "0", "1"),
        ({"num_train": -3}, "-3", "100"),
        ({"num_train": 1}, "1", "0"),
        ({"validation_size": 100}, "100", "99"),
        ({"validation_size": -1}, "-1", "0"),
        ({"num_train": 50, "validation_size": 60}, "60", "49"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_value_and_limit(sizes, bad, limit):
    with pytest.raises(ValueError, match=rf"is {bad}: .*\b{limit}\b"):
        some_dataset(**sizes)


def with_images(change):
    images, labels = some_arrays()
    return change(images), labels


def with_labels(change):
    images, labels = some_arrays()
    return images, change(labels)


def test_labels_that_do_not_count_from_0_are_told():
    images, labels = some_arrays(20)
    with pytest.warns(
        UserWarning, match=r"no training image has the labels \[0, 3, 4, 5, 6\]; labels"
    ):
        dataset = Dataset.from_arrays("own", (images, labels % 2 + 1), some_arrays(20, seed=1))
    assert dataset.num_classes >= 3
    given = {"num_classes": dataset.num_classes}  # then it is meant so
    Dataset.from_arrays("own", (images, labels % 2 + 1), some_arrays(20, seed=1), **given)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (with_images(lambda x: x / 255), {}, "float64"),
        (with_images(lambda x: x[..., 0]), {}, r"\(100, 6, 5\)"),
        (with_images(lambda x: x[:0]), {}, r"\(0, 6, 5, 3\)"),
        (with_images(lambda x: x[:50]), {}, r"\(100,\): 50 images"),
        (with_images(lambda x: x[:, :4]), {}, r"\(4, 5, 3\)"),
        (with_labels(lambda y: y.astype(float)), {}, "float64"),
        (with_labels(lambda y: y - 1), {}, "-1"),
        (with_labels(lambda y: y), {"num_classes": 5}, "num_classes is 5"),
        (with_labels(lambda y: np.eye(7, dtype=int)[y]), {}, r"\(100, 7\)"),
        (with_labels(lambda y: y == 1), {}, "bool"),
        (with_labels(lambda y: y + np.nan), {}, "float64"),
        (with_labels(lambda y: y + 20230101), {}, "up to 20230107 for 100 images, as ids do"),
        (with_labels(lambda y: y + 10**12), {}, "up to 1000000000006 for 100 images"),
        (with_labels(lambda y: y.astype(np.uint64) + 2**63), {}, f"up to {2**63 + 6} for 100"),
        (with_labels(lambda y: y + 10**12), {"num_classes": 10}, "between 0 and 9"),
        (with_labels(lambda y: y), {"num_classes": 10**12}, "num_classes is 1000000000000"),
        (with_labels(lambda y: y), {"num_classes": 1}, "num_classes is 1: it must be at least 2"),
    ],
)
def test_from_arrays_names_what_is_wrong(train, options, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays("own", train, some_arrays(20, seed=1), **options)


def test_a_number_of_classes_is_plain_data():
    images, labels = some_arrays()
    dataset = some_dataset(num_classes=labels.max() + 1)
    assert json.dumps(dataset.num_classes) == "7"
    replaced = dataclasses.replace(dataset, num_classes=np.int64(8), mean=np.array(dataset.mean))
    assert json.dumps([replaced.num_classes, replaced.mean]) == json.dumps([8, dataset.mean])
    many = np.arange(len(images)) * 5  # few images of many classes, as one finds in a first try
    with pytest.warns(UserWarning, match="no training image has the labels"):
        dataset = Dataset.from_arrays("own", (images, many), (images, many), validation_size=0)
    assert dataset.num_classes == 496


@pytest.mark.parametrize("change", [{"mean": (0.5,)}, {"std": (1, 1)}])
def test_statistics_are_one_for_each_channel(change):
    with pytest.raises(ValueError, match="give one number for each of 3 channels"):
        dataclasses.replace(some_dataset(), **change)


@pytest.mark.parametrize("change", [{"mean": (np.nan, 0, 0)}, {"std": (1, 0, 1)}])
def test_statistics_that_make_images_nan_are_refused(change):
    with pytest.raises(ValueError, match="they must be finite, std above 0"):
        dataclasses.replace(some_dataset(), **change)


def test_images_in_another_order_of_axes_are_told():
    images, labels = some_arrays(shape=(6, 6, 3))
    own = images.transpose(0, 3, 1, 2), labels
    with pytest.warns(UserWarning, match=r"\(100, 3, 6, 6\), taken for 6 channels.*transpose"):
        Dataset.from_arrays("own", own, own)


def test_one_class_is_told():
    images, labels = some_arrays()
    with pytest.warns(UserWarning, match="all training images are of class 2: there is nothing"):
        Dataset.from_arrays("own", (images, 0 * labels + 2), (images, labels), num_classes=7)
    with pytest.raises(ValueError, match="num_classes is 1: it must be at least 2"):
        Dataset.from_arrays("own", (images, 0 * labels), (images, 0 * labels))


def test_a_class_that_is_all_held_out_is_told():
    images, labels = some_arrays()
    held_out = some_dataset().validation.ids[0]
    rare = np.where(np.arange(100) == held_out, 6, labels % 6)
    with pytest.warns(UserWarning, match=r"all images of the classes \[6\] fell into the valid"):
        Dataset.from_arrays("own", (images, rare), (images, labels))


# --------------------------------------------------------------------------------------------
# In place of mnist
# --------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_prepared(tmp_path, monkeypatch):
    """No dataset on this machine, and no way to prepare one."""

    def cannot(name, folder, url):
        raise DatasetUnavailable(name, str(folder), "there is no TensorFlow")

    monkeypatch.setattr(sources, "prepare", cannot)
    monkeypatch.setattr(prepare, "has_tensorflow", lambda: False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DSL_JAX_CACHE", str(tmp_path / "cache"))


def test_small_runs_of_mnist_go_on_with_mnist_5k_and_say_so(nothing_prepared, monkeypatch):
    for preset in ("smoke", "laptop"):
        dataset, notice = load_or_substitute(
            "mnist", data_dir=None, preset=preset, num_train=5000, validation_size=500, seed=1
        )
        assert (dataset.name, len(dataset.train.ids)) == ("mnist_5k", 3500)
        assert len(dataset.validation.ids) == 500
        for part in (
            "mnist_5k",
            "5,000-image sample",
            "1,000 to test",
            "no TensorFlow",
            "pip install tensorflow-cpu",
        ):
            assert part in notice
        assert "5,000 is clipped to the 4,000" in notice
    monkeypatch.setattr(prepare, "has_tensorflow", lambda: True)
    _, notice = load_or_substitute("mnist", data_dir=None, preset="smoke", num_train=440)
    assert "clipped" not in notice
    assert "pip install" not in notice  # what is installed need not be installed


@pytest.mark.parametrize(
    ("name", "preset"), [("mnist", "paper"), ("fashion_mnist", "smoke"), ("cifar10", "laptop")]
)
def test_nothing_else_is_substituted(nothing_prepared, name, preset):
    with pytest.raises(DatasetUnavailable):
        load_or_substitute(name, data_dir=None, preset=preset)


# --------------------------------------------------------------------------------------------
# Augmentation
# --------------------------------------------------------------------------------------------


def all_crops(image, padding):
    """{(row, column, mirrored): crop}, from NumPy alone."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    places = [(r, c) for r in range(2 * padding + 1) for c in range(2 * padding + 1)]
    crops = {(r, c, False): padded[r : r + height, c : c + width] for r, c in places}
    return crops | {(r, c, True): crop[:, ::-1] for (r, c, _), crop in crops.items()}


def place_of(output, image, padding):
    crops = all_crops(image, padding)
    (place,) = [key for key, crop in crops.items() if np.array_equal(crop, output)]
    return place


augment_jitted = jax.jit(augment, static_argnames=("padding", "flip"))


@pytest.mark.parametrize("flip", [False, True])
def test_every_output_is_a_crop_of_its_padded_image_and_mirrored_only_when_asked(flip):
    images = np.random.default_rng(0).integers(0, 256, (300, 7, 6, 3)).astype(np.uint8)
    outputs = augment_jitted(jax.random.key(1), images, padding=2, flip=flip)
    assert outputs.dtype == jnp.uint8 and outputs.shape == images.shape
    places = [place_of(*pair, 2) for pair in zip(np.asarray(outputs), images, strict=True)]
    assert {place[:2] for place in places} == {(r, c) for r in range(5) for c in range(5)}
    mirrored = sum(place[2] for place in places)
    assert (120 < mirrored < 180) if flip else mirrored == 0


def test_augmentation_of_an_image_depends_on_neither_neighbours_nor_batch_size():
    images = np.random.default_rng(0).normal(size=(8, 7, 6, 1)).astype(np.float32)
    key = jax.random.key(3)
    outputs = augment_jitted(key, images, flip=True)
    others = images.copy()
    others[[0, 1, 3, 4, 5, 6, 7]] = 0
    np.testing.assert_array_equal(augment_jitted(key, others, flip=True)[2], outputs[2])
    np.testing.assert_array_equal(augment_jitted(key, images[:3], flip=True), outputs[:3])
    assert not np.array_equal(augment_jitted(jax.random.key(4), images, flip=True), outputs)


def test_padding_zero_changes_nothing_and_bad_arguments_are_refused():
    images = np.random.default_rng(0).normal(size=(3, 5, 6, 1)).astype(np.float32)
    key = jax.random.key(0)
    np.testing.assert_array_equal(augment(key, images, padding=0), images)
    for padding in (-1, 5):
        with pytest.raises(ValueError, match=f"padding is {padding}"):
            augment(key, images, padding=padding)
    with pytest.raises(ValueError, match=r"\(5, 6, 1\)"):
        augment(key, images[0])
