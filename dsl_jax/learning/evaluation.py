"""Evaluation: accuracy and loss of a network, every example counted once.

Where the network or the images lie on a mesh of several devices, its devices share each batch.
"""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from dsl_jax.batching import in_batches
from dsl_jax.config import EVALUATION_STATISTICS
from dsl_jax.data.dataset import Dataset, Split
from dsl_jax.devices import mesh_of, replicate, sharding, sharing, take
from dsl_jax.inputs import check_labels
from dsl_jax.networks.interface import batch_norms, check_fits, check_network, in_mode
from dsl_jax.values import instance_of, one_of, whole_number

BATCH_SIZE = 500


class Evaluation(NamedTuple):
    """How well a network does.

    Attributes:
      accuracy: share of images classified right.
      loss: mean cross-entropy, in nats.
    """

    accuracy: float
    loss: float


def evaluate(
    network: nnx.Module,
    dataset: Dataset,
    split: str = "test",
    *,
    statistics: str = "train",
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Accuracy and mean cross-entropy on a split.

    Args:
      network: an `nnx.Module` with `representations` and `head`; not changed.
      dataset: a `Dataset`.
      split: "train", "validation" or "test".
      statistics: BatchNorm statistics: "train": those that the network holds, so that a
        prediction does not depend on its batch-mates; "batch": the evaluation batch's own.
      batch_size: images at once.

    Raises:
      ValueError: an unknown split or kind of statistics, a split without images, or a network that
        does not take these images or has not one logit a class.
      TypeError: the network lacks `representations` or `head`, or an argument is of another type.
    """
    images = _checked_split(network, dataset, split)
    return evaluate_images(network, dataset, images, statistics, batch_size)


def predict(
    network: nnx.Module, dataset: Dataset, split: str = "test", *, statistics: str = "train"
) -> np.ndarray:
    """The class that a network gives each image of a split, int32 [N].

    As `reports.pictures.plot_confusion` and `plot_mistakes` take them. Arguments and what is raised
    as in `evaluate`.
    """
    images = _checked_split(network, dataset, split)
    return evaluation_and_predictions(network, dataset, images, statistics)[1]


def _checked_split(network: nnx.Module, dataset: Dataset, split: str) -> Split:
    """The split of this name. Raises what `evaluate` does."""
    instance_of(Dataset, "dataset", dataset)
    check_network(network)
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    one_of("split", split, tuple(splits))
    check_fits(network, dataset.image_shape, dataset.num_classes)
    if not len(splits[split].images):
        raise ValueError(f"the split {split!r} of {dataset.name} has no images to evaluate")
    return splits[split]


def evaluate_images(
    network: nnx.Module,
    dataset: Dataset,
    split: Split,
    statistics: str = "train",
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """`evaluate` on a `Split`."""
    return _evaluate(network, dataset, split, statistics, batch_size)[0]


def evaluation_and_predictions(
    network: nnx.Module, dataset: Dataset, split: Split, statistics: str
) -> tuple[Evaluation, np.ndarray]:
    """`evaluate` on a `Split`, and the class that the network gives each image: int32 [N]."""
    evaluation, parts = _evaluate(network, dataset, split, statistics, BATCH_SIZE)
    classes = np.concatenate([np.asarray(part)[:real] for part, real in parts])
    return evaluation, classes.astype(np.int32)


def _evaluate(
    network: nnx.Module, dataset: Dataset, split: Split, statistics: str, batch_size: int
) -> tuple[Evaluation, list[tuple[jax.Array, int]]]:
    """`evaluate`, and for each batch the classes, where they lie, and how many images it has."""
    one_of("statistics", statistics, EVALUATION_STATISTICS)
    count = len(split.images)
    if not count:
        raise ValueError("there are no images to evaluate")
    check_labels(split.labels, count, dataset.num_classes)
    graph, state = nnx.split(in_mode(network, training=statistics == "batch"))
    mesh = mesh_of((state, split.images))
    state = replicate(state, mesh)
    if (batch_size := min(whole_number("batch_size", batch_size), count)) < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    if statistics == "train":  # padded to one shape, which any devices can share equally
        batch_size += 0 if mesh is None else -batch_size % mesh.size
        batches = np.split(np.arange(count), range(batch_size, count, batch_size))
    else:  # padding would be counted in; of about one size, or the last might be an image alone
        batches = np.array_split(np.arange(count), -(-count // batch_size))
    correct, loss, predictions = 0.0, 0.0, []
    for rows in batches:
        real = len(rows)
        if statistics == "train":
            rows = np.pad(rows, (0, batch_size - real), mode="edge")
        images = dataset.normalize(take(split.images, rows, mesh))
        labels = take(split.labels, rows, mesh)
        weights = np.arange(len(rows)) < real
        with sharing(mesh):
            right, losses, classes = _score(graph, state, images, labels, weights)
        correct, loss = correct + float(right), loss + float(losses)
        predictions.append((classes, real))
    return Evaluation(correct / count, loss / count), predictions


@partial(jax.jit, static_argnames="graph")
def _score(
    graph: Any, state: Any, images: jax.Array, labels: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Right predictions and summed cross-entropy of the images with weight True, all classes."""
    network = nnx.merge(graph, state)
    logits = network.head(network.representations(images)[-1]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    classes = jnp.argmax(logits, axis=-1)
    right = jnp.sum((classes == labels) & weights)
    return right, jnp.sum(jnp.where(weights, losses, 0)), classes


def representations_of(
    network: nnx.Module, dataset: Dataset, split: Split, batch_size: int = BATCH_SIZE
) -> tuple[np.ndarray, ...]:
    """What a network, with the statistics that it holds, makes of a split's images.

    Returns:
      Its representations and, last, its logits: [N, ...] each, on the host, of the dtypes that the
      network computes.
    """
    return in_batches(_still(network, dataset), split.images, batch_size)


def logits_of(network: nnx.Module, dataset: Dataset, split: Split) -> np.ndarray:
    """What a network, with the statistics that it holds, says of a split's images.

    Returns:
      [N, classes], on the host, of the dtype that the network computes.
    """
    outputs = _still(network, dataset)
    return in_batches(lambda images: outputs(images)[-1], split.images)


def _still(network: nnx.Module, dataset: Dataset) -> Callable:
    """The network with the statistics that it holds: from uint8 images to `_outputs`."""
    graph, state = nnx.split(in_mode(network, training=False))
    return lambda images: _outputs(graph, state, dataset.normalize(images))


@partial(jax.jit, static_argnames="graph")
def _outputs(graph: Any, state: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    """Representations and logits of a batch."""
    network = nnx.merge(graph, state)
    representations = network.representations(images)
    return (*representations, network.head(representations[-1]))


def with_training_statistics(
    network: nnx.Module, dataset: Dataset, rows: Any, batch_size: int = BATCH_SIZE
) -> nnx.Module:
    """A copy whose BatchNorm statistics are those of training images (docs/choices.md).

    The means and variances of batches of equal size are averaged, each batch normalised by its own
    statistics as in training; images left over (fewer than there are batches) are not used.

    Args:
      network: an `nnx.Module`; not changed.
      dataset: its training images are used.
      rows: [M] indices of the images to use.
      batch_size: images at once, at most.

    Returns:
      The copy, set to use these statistics.
    """
    graph, *states = nnx.split(in_mode(network, training=True), nnx.BatchStat, ...)
    statistics, rest = states
    mesh = mesh_of((statistics, rest, dataset.train.images))
    statistics, rest = replicate((statistics, rest), mesh)
    if jax.tree.leaves(statistics):
        count = -(-len(rows) // batch_size)
        size = len(rows) // count
        batches = np.asarray(rows)[: count * size].reshape(count, size)
        if mesh is None or size % mesh.size == 0:
            parts = _of_shared_batches(graph, statistics, rest, dataset, batches, mesh)
        else:
            parts = _of_dealt_batches(graph, statistics, rest, dataset, batches, mesh)
        total = functools.reduce(partial(jax.tree.map, jnp.add), parts)
        statistics = jax.tree.map(lambda x: x / count, total)
    return in_mode(nnx.merge(graph, statistics, rest), training=False)


def _of_shared_batches(
    graph: Any, statistics: Any, rest: Any, dataset: Dataset, batches: np.ndarray, mesh: Mesh | None
) -> Iterator[Any]:
    """The statistics of each batch, rows [count, size], of which the devices take equal parts."""
    for batch in batches:
        images = dataset.normalize(take(dataset.train.images, batch, mesh))
        with sharing(mesh):
            yield _batch_statistics(graph, statistics, rest, images)


def _of_dealt_batches(
    graph: Any, statistics: Any, rest: Any, dataset: Dataset, batches: np.ndarray, mesh: Mesh
) -> Iterator[Any]:
    """Sums over batches, where the devices cannot share one equally: each takes whole ones."""
    for start in range(0, len(batches), mesh.size):
        some = batches[start : start + mesh.size]
        rows = np.resize(some, (mesh.size, batches.shape[1]))  # as many batches as devices
        images = dataset.normalize(take(dataset.train.images, rows.ravel(), mesh))
        weights = take(np.float32(np.arange(mesh.size) < len(some)), np.arange(mesh.size), mesh)
        yield _sum_over_devices(graph, statistics, rest, images, weights, sharding(mesh).mesh)


@partial(jax.jit, static_argnames=("graph", "mesh"))
def _sum_over_devices(
    graph: Any, statistics: Any, rest: Any, images: jax.Array, weights: jax.Array, mesh: Mesh
) -> Any:
    """The sum of `_batch_statistics` of each device's images, weighted; whole on every device."""
    (axis,) = mesh.axis_names

    def of_all(statistics: Any, rest: Any, images: jax.Array, weights: jax.Array) -> Any:
        found = _batch_statistics(graph, statistics, rest, images)
        return jax.tree.map(lambda x: jax.lax.psum(weights[0] * x, axis), found)

    whole, part = PartitionSpec(), PartitionSpec(axis)
    return jax.shard_map(
        of_all, mesh=mesh, in_specs=(whole, whole, part, part), out_specs=whole, check_vma=False
    )(statistics, rest, images, weights)


@partial(jax.jit, static_argnames="graph")
def _batch_statistics(graph: Any, statistics: Any, rest: Any, images: jax.Array) -> Any:
    """The statistics that one batch leaves in the network's BatchNorms."""
    network = nnx.merge(graph, statistics, rest)
    for norm in batch_norms(network):
        norm.momentum = 0.0  # keep nothing of what was there before
    network.head(network.representations(images)[-1])
    return nnx.state(network, nnx.BatchStat)
