"""What a configuration names, looked up, and whether it fits the stages."""

from typing import NamedTuple

from dsl_jax.config import SearchConfig
from dsl_jax.evolution import fitness, strategies
from dsl_jax.evolution.fitness import Fitness, Stages
from dsl_jax.values import instance_of


class Rules(NamedTuple):
    """What a configuration names: the fitness function, and the strategy (None: the paper's)."""

    fitness: Fitness
    strategy: type | None


def rules_of(config: SearchConfig) -> Rules:
    """The functions and classes that a configuration names, looked up now. Raises ValueError."""
    return Rules(fitness.resolve(config.fitness), strategies.resolve(config.strategy))


def check_config(config: SearchConfig) -> None:
    """Raises ValueError for a fitness or a strategy that is not there or cannot be used, TypeError
    for what is no `SearchConfig`."""
    instance_of(SearchConfig, "config", config)
    strategies.check(rules_of(config).strategy, config)


def check_functions(stages: Stages) -> None:
    """Raises TypeError for stages that are no functions."""
    if not isinstance(stages, tuple | list):
        raise TypeError(
            f"stages is a {type(stages).__name__}: search needs a tuple of functions, such as "
            "dsl_jax.frozen_stages(network) returns"
        )
    for number, stage in enumerate(stages):
        if not callable(stage):
            raise TypeError(f"stage {number} is a {type(stage).__name__}: it cannot be called")


def check_schedules(stages: Stages, config: SearchConfig) -> None:
    """Raises TypeError for stages that are no functions, ValueError for what does not fit."""
    check_functions(stages)
    check_config(config)
    if len(stages) != len(config.layers):
        raise ValueError(
            f"{len(stages)} stages but {len(config.layers)} layer schedules: "
            "config.layers needs one for each stage, the last being the logits"
        )
