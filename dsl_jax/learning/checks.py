"""What learning refuses, and why: networks, settings, targets and losses."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from dsl_jax.config import LearnConfig
from dsl_jax.data.dataset import Dataset, rows_of
from dsl_jax.devices import check_mesh
from dsl_jax.evolution.fitness import output_shapes
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.inputs import check_distinct, check_labels
from dsl_jax.learning.batches import exact_batch_size
from dsl_jax.networks.interface import check_fits, check_learner, learner_shapes
from dsl_jax.values import instance_of

logger = logging.getLogger(__name__)


def check_arguments(
    network: nnx.Module, dataset: Dataset, config: LearnConfig, mesh: Mesh | None
) -> None:
    """Raises ValueError for what cannot be learned with, TypeError for an argument that is none."""
    instance_of(Dataset, "dataset", dataset)
    instance_of(LearnConfig, "config", config)
    check_mesh(mesh)
    check_learner(network)
    check_fits(network, dataset.image_shape, dataset.num_classes)
    for name, split in (("training", dataset.train), ("validation", dataset.validation)):
        if len(split.images):
            what = f"{name} labels"
            check_labels(split.labels, len(split.images), dataset.num_classes, what=what)
    if not len(dataset.validation.images):
        raise ValueError("the dataset has no validation images: they choose the epoch")
    check_crop(dataset, config)
    _warn_of_no_effect(config)
    if config.batch_size > len(dataset.train.images):
        logger.warning(
            "batch_size is %d, but there are %d training images: a batch holds all of them",
            config.batch_size,
            len(dataset.train.images),
        )
    size = exact_batch_size(len(dataset.train.images), config.batch_size, config.batch_multiple)
    if mesh is not None and size % mesh.size:
        raise ValueError(
            f"a batch has {size} images, which {mesh.size} devices cannot share equally: set "
            f"batch_multiple={mesh.size}, or choose the devices by dsl_jax.devices.device_mesh"
            f"({size})"
        )


def _warn_of_no_effect(config: LearnConfig) -> None:
    """Warns of settings that need another one."""
    if config.flip and not config.augment:
        logger.warning("flip is True, but augment is False: no image is mirrored")
    if config.relations != "targets" and not config.relational_weight:
        logger.warning(
            "relations is %r, but relational_weight is 0: no relations are learned",
            config.relations,
        )


def check_crop(dataset: Dataset, config: LearnConfig) -> None:
    """Raises ValueError for a crop that could leave nothing of an image."""
    side = min(dataset.image_shape[:2])
    if config.augment and config.crop_padding >= side:
        raise ValueError(
            f"crop_padding is {config.crop_padding}: it must be below the images' side, {side}"
        )


def checked_targets(network: nnx.Module, dataset: Dataset, targets: Any) -> tuple[np.ndarray, ...]:
    """Targets of the training images, on the host; the last are the logits.

    Raises:
      ValueError: an image has no targets, or not finite ones of the network's shapes, or an id is
        that of two images.
      TypeError: they are no targets.
    """
    arrays = _target_arrays(targets, dataset.train.ids)
    _check_targets(network, dataset, arrays)
    return arrays


def _target_arrays(targets: Any, ids: np.ndarray) -> tuple[np.ndarray, ...]:
    if hasattr(targets, "read"):
        check_distinct(ids, "the training split")
        rows = rows_of(targets.ids, ids)
        if missing := ids[rows < 0].tolist():
            remedy = "search the same training split"
            if np.array_equal(targets.ids, np.arange(len(targets.ids))):
                remedy = "the targets are of ids 0, 1, 2 ...: search with ids=dataset.train.ids"
            raise ValueError(
                f"the targets lack {len(missing)} of {len(ids)} training images, ids "
                f"{missing[:5]} ...: {remedy}"
            )
        targets = targets.read(rows)
    if not hasattr(targets, "representations"):
        remedy = (
            "what search returns, a TargetStore, an Overlay, SharedTargets, a Sampler, or a "
            "function that returns one of the first three for each epoch"
        )
        if isinstance(targets, str | os.PathLike):
            remedy = "TargetStore.open of it"
        if hasattr(getattr(targets, "targets", None), "of"):  # what a search or training returned
            remedy = "its .targets"
        raise TypeError(f"the targets are a {type(targets).__name__}: give {remedy}")
    return tuple(np.asarray(h) for h in targets.representations)


def _check_targets(network: nnx.Module, dataset: Dataset, arrays: Sequence[np.ndarray]) -> None:
    _check_shapes(network, dataset, arrays)
    count = len(dataset.train.images)
    if any(len(array) != count for array in arrays):
        raise ValueError(f"{len(arrays[0])} targets for {count} training images: need one each")
    for number, array in enumerate(arrays):
        fine = [np.isfinite(one).all() for one in array]
        if not all(fine):
            bad = dataset.train.ids[~np.array(fine)]
            raise ValueError(
                f"the targets of layer {number} are not finite for {len(bad)} of {count} images, "
                f"ids {bad[:5].tolist()}: search them again, or leave these images out"
            )


def warn_of_other_images(dataset: Dataset, logits: np.ndarray) -> None:
    """Warns where target logits [N, C] name the classes of few of the training images."""
    named = float(np.mean(np.argmax(logits, axis=1) == dataset.train.labels))
    if named < (1 + 1 / dataset.num_classes) / 2:
        logger.warning(
            "the targets' logits name the class of %.0f %% of the training images: are they the "
            "targets of these images, in this order?",
            100 * named,
        )


def check_shared_targets(network: nnx.Module, dataset: Dataset, targets: Any) -> None:
    """Raises ValueError unless `SharedTargets`, or those of a `Sampler`, are finite, of the
    network's shapes and of all classes."""
    is_sampler = not isinstance(targets, SharedTargets)
    targets = targets.shared if is_sampler else targets
    if is_sampler and (targets.centres is not None or targets.propagates):
        raise ValueError(
            "the sampler's shared targets are those of clusters, or of a search that goes on from "
            "moved images: give it what class_part_targets returns"
        )
    arrays = (*targets.directions, targets.logits)
    _check_shapes(network, dataset, arrays)
    made, wanted = output_shapes(targets.stages, dataset.image_shape), [a.shape[1:] for a in arrays]
    if made != wanted:
        raise ValueError(
            f"the targets have the shapes {wanted}, but their stages return {made}: give the "
            "stages of the network that was searched"
        )
    for array in arrays:
        clusters, rest = divmod(len(array), dataset.num_classes)
        if rest or (clusters != 1 and targets.centres is None):
            raise ValueError(
                f"the targets are for {len(array)} classes, but there are {dataset.num_classes}"
            )
        if not np.isfinite(array).all():
            raise ValueError("the targets' directions or logits are not finite: search them again")


def _check_shapes(network: nnx.Module, dataset: Dataset, arrays: Sequence[Any]) -> None:
    expected = learner_shapes(network, dataset.image_shape)
    found = [array.shape[1:] for array in arrays]
    if expected != found:
        raise ValueError(
            f"the targets have shapes {found}, the network's representations and logits "
            f"{expected}: search and learn with the same widths"
        )


def check_finite(losses: np.ndarray, epoch: int, steps_per_epoch: int) -> None:
    """Raises FloatingPointError for the losses of an epoch, counted from 0, that are not finite."""
    if np.isfinite(losses).all():
        return
    first = int(np.argmin(np.isfinite(losses)))
    step = epoch * steps_per_epoch + first
    advice = "try a lower learning_rate; the last checkpoint, if there is one, is kept"
    if step == 0:
        advice = (
            "nothing was learned before it, so the images, the targets or what the network makes "
            "of them are not finite"
        )
    raise FloatingPointError(
        f"the loss is {losses[first]} at step {step} (epoch {epoch + 1}): {advice}"
    )
