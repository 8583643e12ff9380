"""The optimiser of the learner and of SGD: Nesterov momentum and its schedule (paper A.3)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dsl_jax.config import LearnConfig


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

    A parameter is known by its path: one with "norm" in it is a BatchNorm bias and learns
    `bias_rate_factor` times as fast; one with "stem" is trained for `stem_bias_epochs` epochs.
    """
    stem_steps = config.stem_bias_epochs * steps_per_epoch

    def while_stem_learns(step):
        return jnp.where(step < stem_steps, 1.0, 0.0)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_paths_with("kernel")),
        optax.trace(config.momentum, nesterov=True),
        optax.masked(optax.scale(config.bias_rate_factor), _paths_with("norm")),
        optax.masked(optax.scale_by_schedule(while_stem_learns), _paths_with("stem")),
        optax.scale_by_learning_rate(learning_rate(config, steps_per_epoch)),
    )


def _paths_with(word: str) -> Any:
    """A mask for optax: the parameters whose path has the word in it."""

    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: word in jax.tree_util.keystr(path), params
        )

    return mask
