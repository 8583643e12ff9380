"""How a sampler learns: by regression on what a search of a few images has found (paper 2.1).

Letters: N searched images, C classes, L blocks.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dsl_jax.config import SamplerConfig
from dsl_jax.evolution.fitness import Stages
from dsl_jax.inputs import as_array, check_images
from dsl_jax.keys import check_key, threefry_key
from dsl_jax.networks.sampler import Sampler, Weights, first_weights, propose
from dsl_jax.progress import progress_bar
from dsl_jax.reprs import short_repr
from dsl_jax.targets.controls import class_part_targets
from dsl_jax.targets.reading import (
    Control,
    Given,
    Naturals,
    as_targets,
    blocks_of,
    check_aligned,
)

HELD_OUT_AT_ONCE = 256


class LearnedSampler(NamedTuple):
    """What `learn_sampler` returns.

    Attributes:
      targets: the `Sampler`, which `learn` takes.
      unexplained: for each block float64 [epochs + 1], the share of the held-out targets' variance
        that is not predicted; the first is what the class and the natural representation leave.
        The weights are those of the epoch in which it was smallest.
    """

    targets: Sampler
    unexplained: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return short_repr(self, **self._asdict())


def learn_sampler(
    key: jax.Array,
    stages: Stages,
    targets: Given,
    images: Any,
    labels: Any,
    num_classes: int,
    config: SamplerConfig | None = None,
    *,
    progress: bool = False,
) -> LearnedSampler:
    """Learns to propose targets for any image of a class from those of N searched ones.

    A target is taken apart: what it has of the image's natural representation, what is common to
    its class (`controls.class_part_targets`), and the rest, on which the small network regresses.
    A share of the images is held out, and chooses the epoch, block by block.

    Args:
      key: a `jax.random` key.
      stages: those that were searched.
      targets: a `SearchResult`, or what is read from a store: of N images.
      images: [N, ...], normalised floats, in the order of the targets.
      labels: integers [N], likewise.
      num_classes: C.
      config: None: the defaults.
      progress: show a bar of epochs.

    Raises:
      ValueError: other numbers of images, a class without images, or too few images for the share
        that is held out.
    """
    config = SamplerConfig() if config is None else config
    check_key(key)
    images = as_array("images", images)
    check_images(images)
    read, naturals = as_targets(targets), Naturals(stages, images)
    labels = check_aligned(read, naturals, labels, num_classes)
    train, test = split_rows(key, labels, num_classes, config)
    key = threefry_key(key)
    few = Control(read.ids[train], lambda rows: read.read(train[rows]).representations)
    shared = class_part_targets(
        stages, few, Naturals(stages, images[train]), labels[train], num_classes
    )
    found, shares = [], []
    rows = np.arange(len(labels))
    everything = zip(naturals.read(rows), blocks_of(read, rows), strict=True)
    with progress_bar(
        len(shared.directions) * config.epochs,
        unit="epoch",
        description="sampler",
        show=progress,
    ) as bar:
        for index, (natural, target) in enumerate(everything):
            common = np.asarray(shared.directions[index])[labels]
            rest = target - shared.cosines[index] * natural - common
            data = (natural, rest, labels)
            block_key = jax.random.fold_in(key, 1 + index)
            scale = float(np.sum(np.square(target[test], dtype=np.float64)))
            weights, errors = _fit(block_key, data, train, test, num_classes, config, bar)
            found.append(weights)
            shares.append(errors / scale)
    return LearnedSampler(Sampler(shared, tuple(found)), tuple(shares))


def split_rows(
    key: jax.Array, labels: np.ndarray, num_classes: int, config: SamplerConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a sampler learns from, and those that are held out, in order.

    Raises:
      ValueError: nothing is held out, or of a class there is nothing to learn from.
    """
    held_out = round(config.held_out * len(labels))
    if not 0 < held_out < len(labels):
        raise ValueError(
            f"held_out is {config.held_out} of {len(labels)} images: leave at least one, and keep "
            "at least one to learn from"
        )
    order_key = jax.random.fold_in(threefry_key(key), 0)
    order = np.asarray(jax.random.permutation(order_key, len(labels)))
    train = np.sort(order[held_out:])
    absent = np.setdiff1d(np.arange(num_classes), np.asarray(labels)[train]).tolist()
    if absent:
        raise ValueError(
            f"of {len(labels)} searched images, {held_out} of them held out, none is left of the "
            f"classes {absent}: search more images"
        )
    return train, np.sort(order[:held_out])


def _fit(
    key: jax.Array,
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    train: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    config: SamplerConfig,
    bar: Any,
) -> tuple[Weights, np.ndarray]:
    """The best weights of a block, and the held-out sum of squares after 0, 1, ... epochs."""
    natural = data[0]
    init_key, order_key = jax.random.split(key)
    weights = first_weights(init_key, natural.shape[1:], num_classes, config.hidden)
    size = min(config.batch_size, len(train))
    steps = len(train) // size
    optimizer = _optimizer(config, steps)
    state, best, errors = optimizer.init(weights), weights, [_squares(weights, data, test)]
    for epoch in range(config.epochs):
        order = jax.random.permutation(jax.random.fold_in(order_key, epoch), len(train))
        for rows in train[np.asarray(order)][: steps * size].reshape(steps, size):
            batch = tuple(array[rows] for array in data)
            weights, state = _step(weights, state, batch, config, steps)
        errors.append(_squares(weights, data, test))
        if errors[-1] == min(errors):
            best = weights
        bar.update()
    return jax.device_get(best), np.asarray(errors)


def _optimizer(config: SamplerConfig, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.epochs * steps))


@partial(jax.jit, static_argnames=("config", "steps"))
def _step(weights: Weights, state: Any, batch: Any, config: SamplerConfig, steps: int) -> Any:
    """One step on a batch of natural representations, what they lack, and labels."""

    def loss(weights: Weights) -> jax.Array:
        natural, rest, labels = batch
        return jnp.mean(jnp.square(propose(weights, natural, labels) - rest))

    updates, state = _optimizer(config, steps).update(jax.grad(loss)(weights), state, weights)
    return optax.apply_updates(weights, updates), state


_proposed = jax.jit(propose)


def _squares(weights: Weights, data: Any, rows: np.ndarray) -> float:
    """The sum of squares of what is not proposed, over these images."""
    natural, rest, labels = (array[rows] for array in data)
    total = 0.0
    for start in range(0, len(rows), HELD_OUT_AT_ONCE):
        some = slice(start, start + HELD_OUT_AT_ONCE)
        left = rest[some] - np.asarray(_proposed(weights, natural[some], labels[some]))
        total += float(np.sum(np.square(left, dtype=np.float64)))
    return total
