"""How large a search is: populations in the paper's proportions, and generations by one factor."""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

from dsl_jax.config import SearchConfig

POPULATION = ("search.num_parents", "search.num_explorers", "search.num_refiners")
PARTS = 12  # parents, explorers and refiners are 1, 5 and 6 of them: 20 : 100 : 120


class Size(NamedTuple):
    """A population, and the factor on all layers' generations."""

    population: int
    factor: float = 1.0

    @property
    def name(self) -> str:
        """For a point of a sweep."""
        return f"population{self.population}-generations_x{self.factor:g}"

    def of(self, config: SearchConfig) -> SearchConfig:
        """The search in this size."""
        return with_generations(with_population(config, self.population), self.factor)


def sizes(populations: Iterable[int], factors: Iterable[float], population: int) -> list[Size]:
    """Every population with all generations, then every factor with one population; none twice."""
    by_population = [Size(each) for each in populations]
    by_factor = [Size(population, factor) for factor in factors]
    return list(dict.fromkeys([*by_population, *by_factor, Size(population)]))


def columns(size: Size, config: SearchConfig) -> dict[str, Any]:
    """What a sweep's rows say of their search's size."""
    generations = "-".join(str(layer.generations) for layer in size.of(config).layers)
    return {"population": size.population, "factor": size.factor, "generations": generations}


def with_population(config: SearchConfig, population: int) -> SearchConfig:
    """The search with so many candidates a generation, in the paper's proportions.

    Raises:
      ValueError: the population is not a multiple of 12.
    """
    if population < PARTS or population % PARTS:
        raise ValueError(f"population {population}: 20 : 100 : 120 needs a multiple of {PARTS}")
    part = population // PARTS
    return dataclasses.replace(
        config, num_parents=part, num_explorers=5 * part, num_refiners=6 * part
    )


def with_generations(config: SearchConfig, factor: float) -> SearchConfig:
    """The search with all layers' generations times a factor, rounded.

    Raises:
      ValueError: the factor is negative.
    """
    if factor < 0:
        raise ValueError(f"factor {factor} on the generations: it must be at least 0")
    layers = tuple(
        dataclasses.replace(schedule, generations=round(schedule.generations * factor))
        for schedule in config.layers
    )
    return dataclasses.replace(config, layers=layers)
