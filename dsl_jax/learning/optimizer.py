"""The optimiser of the learner and of SGD: Nesterov momentum and its schedule (paper A.3)."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dsl_jax.config import LearnConfig
from dsl_jax.networks.interface import path_name


def learning_rate(config: LearnConfig, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at a step: a linear rise, then a linear fall (paper A.3)."""
    total = config.epochs * steps_per_epoch
    rise = round(config.warmup_fraction * total)
    peak = config.learning_rate
    return optax.join_schedules(
        [
            optax.linear_schedule(config.initial_rate_fraction * peak, peak, rise),
            optax.linear_schedule(peak, config.final_rate_fraction * peak, total - rise),
        ],
        [rise],
    )


def make_optimizer(config: LearnConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, weight decay on weights, and the rates of the biases.

    Weights are the parameters of rank 2 and more that are not called "bias". The bias of a module
    with "norm" in its name, in any case of letters, learns `bias_rate_factor` times as fast; one
    called "stem_bias" is trained for `stem_bias_epochs` epochs.
    """
    stem_steps = config.stem_bias_epochs * steps_per_epoch

    def while_stem_learns(step: jax.Array) -> jax.Array:
        return jnp.where(step < stem_steps, 1.0, 0.0)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_weights),
        optax.trace(config.momentum, nesterov=True),
        optax.masked(optax.scale(config.bias_rate_factor), _paths(r"norm[^.]*\.bias")),
        optax.masked(optax.scale_by_schedule(while_stem_learns), _paths("stem_bias")),
        optax.scale_by_learning_rate(learning_rate(config, steps_per_epoch)),
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
