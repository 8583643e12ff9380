"""The optimiser of the learner and of SGD: Nesterov momentum and its schedule (paper A.3)."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dsl_jax.config import LearnConfig
from dsl_jax.networks.interface import path_name


class Rates(NamedTuple):
    """What a program of steps takes as arguments: other rates need no other program.

    initial, peak, final: learning rates.
    """

    initial: float
    peak: float
    final: float
    momentum: float
    weight_decay: float
    bias_rate_factor: float


class Timing(NamedTuple):
    """For how many steps the learning rate rises, it falls, and a stem's bias learns."""

    rise: int
    fall: int
    stem_bias: int


def rates_of(config: LearnConfig) -> Rates:
    """The rates, as Python's numbers: with these a parameter keeps its dtype."""
    peak = config.learning_rate
    return Rates(
        initial=config.initial_rate_fraction * peak,
        peak=peak,
        final=config.final_rate_fraction * peak,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        bias_rate_factor=config.bias_rate_factor,
    )


def timing_of(config: LearnConfig, steps_per_epoch: int) -> Timing:
    """The schedule of so many steps an epoch."""
    total = config.epochs * steps_per_epoch
    rise = round(config.warmup_fraction * total)
    return Timing(rise, total - rise, config.stem_bias_epochs * steps_per_epoch)


def without_rates(config: LearnConfig) -> LearnConfig:
    """The same for all settings that differ in their `Rates` alone."""
    names = (
        *("learning_rate", "initial_rate_fraction", "final_rate_fraction"),
        *("momentum", "weight_decay", "bias_rate_factor"),
    )
    return dataclasses.replace(config, **{name: getattr(LearnConfig, name) for name in names})


def learning_rate(rates: Rates, timing: Timing) -> optax.Schedule:
    """The learning rate at a step: a linear rise, then a linear fall (paper A.3)."""
    return optax.join_schedules(
        [
            optax.linear_schedule(rates.initial, rates.peak, timing.rise),
            optax.linear_schedule(rates.peak, rates.final, timing.fall),
        ],
        [timing.rise],
    )


def make_optimizer(rates: Rates, timing: Timing) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, weight decay on weights, and the rates of the biases.

    Weights are the parameters of rank 2 and more that are not called "bias". The bias of a module
    with "norm" in its name, in any case of letters, learns `bias_rate_factor` times as fast; one
    called "stem_bias" is trained for `stem_bias_epochs` epochs.
    """

    def while_stem_learns(step: jax.Array) -> jax.Array:
        return jnp.where(step < timing.stem_bias, 1.0, 0.0)

    return optax.chain(
        optax.add_decayed_weights(rates.weight_decay, mask=_weights),
        optax.trace(rates.momentum, nesterov=True),
        optax.masked(optax.scale(rates.bias_rate_factor), _paths(r"norm[^.]*\.bias")),
        optax.masked(optax.scale_by_schedule(while_stem_learns), _paths("stem_bias")),
        optax.scale_by_learning_rate(learning_rate(rates, timing)),
    )


def _weights(params: Any) -> Any:
    """A mask for optax: what weight decay acts on."""
    is_bias = _paths(r"(^|\.)bias")(params)
    return jax.tree.map(lambda x, is_bias: jnp.ndim(x) >= 2 and not is_bias, params, is_bias)


def _paths(pattern: str) -> Callable[[Any], Any]:
    """A mask for optax: the parameters whose path ends with the pattern."""

    def matches(path: Any, _: Any) -> bool:
        # What nnx wraps a parameter in ends its path with ".value".
        text = path_name(path).removesuffix(".value")
        return re.search(f"(?:{pattern})$", text, re.IGNORECASE) is not None

    return lambda params: jax.tree_util.tree_map_with_path(matches, params)
