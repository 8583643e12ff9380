"""A step of learning, and many of them as one program."""

from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from flax import nnx
from jax.tree_util import Partial

from dsl_jax.config import LearnConfig
from dsl_jax.data.augmentation import augment
from dsl_jax.data.dataset import normalize_pixels
from dsl_jax.learning.optimizer import Rates, Timing, make_optimizer


class Program(NamedTuple):
    """What a step is compiled for, all of it hashable.

    graph: the network without its arrays. config: what of it belongs to `Rates` is not looked at.
    """

    graph: Any
    config: LearnConfig
    timing: Timing
    mean: tuple[float, ...]
    std: tuple[float, ...]


def step(
    key: jax.Array,
    params: Any,
    optimizer_state: Any,
    rest: Any,
    objective: Partial,
    images: jax.Array,
    answers: Any,
    rates: Rates,
    program: Program,
) -> tuple[Any, Any, jax.Array]:
    """One step on a batch of uint8 images [B, H, W, C].

    objective: (network, images, answers, config) -> loss; with the arrays that it needs besides.
    """
    graph, config, timing, mean, std = program
    if config.augment:
        images = augment(key, images, padding=config.crop_padding, flip=config.flip)
    images = normalize_pixels(images, mean, std)

    def loss_of(params: Any) -> jax.Array:
        # A copy, since BatchNorm writes its statistics into variables of the trace outside.
        return objective(nnx.merge(graph, params, rest, copy=True), images, answers, config)

    loss, gradient = jax.value_and_grad(loss_of)(params)
    optimizer = make_optimizer(rates, timing)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, loss


take_step = jax.jit(step, static_argnames="program", donate_argnames=("params", "optimizer_state"))


@partial(jax.jit, static_argnames="program", donate_argnames=("params", "optimizer_state"))
def take_steps(
    key: jax.Array,
    params: Any,
    optimizer_state: Any,
    rest: Any,
    objective: Partial,
    data: tuple[jax.Array, Any],
    batches: tuple[jax.Array, jax.Array],
    rates: Rates,
    program: Program,
) -> tuple[Any, Any, jax.Array]:
    """Steps on batches: their numbers [S], and their rows [S, B] of data, which are images and
    answers [N, ...].

    One program, so that a chip need not wait for the host after each step.
    """

    def one(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        (params, optimizer_state), (number, rows) = carry, batch
        some, theirs = jax.tree.map(lambda array: array[rows], data)
        step_key = jax.random.fold_in(key, number)
        params, optimizer_state, loss = step(
            step_key, params, optimizer_state, rest, objective, some, theirs, rates, program
        )
        return (params, optimizer_state), loss

    (params, optimizer_state), losses = jax.lax.scan(one, (params, optimizer_state), batches)
    return params, optimizer_state, losses
