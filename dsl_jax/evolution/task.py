"""`LayerTask`: all that the evolution of a layer needs but for a key and candidates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dsl_jax.config import PAPERS_STRATEGY, LayerSchedule, SearchConfig
from dsl_jax.evolution.operators import Near

Evaluate = Callable[[jax.Array], jax.Array]


class LayerTask(NamedTuple):
    """What is to be evolved, and how.

    Attributes:
      evaluate: from candidates [n, ...] to their fitness [n].
      layer: the layer's own schedule.
      config: the whole search's.
      kind: what its representations are, see `operators.kind_of`.
      strategy: the algorithm, see `strategies.resolve`; None: the paper's.
      renewed: from a generation's number (0: the first candidates') to how it evaluates in place of
        `evaluate`, also its parents, whose fitness is that of another generation; for the paper's
        algorithm alone.
      near: see `operators.reproduce`.
    """

    evaluate: Evaluate
    layer: LayerSchedule
    config: SearchConfig
    kind: str
    strategy: type | None = None
    renewed: Callable[[jax.Array], Evaluate] | None = None
    near: Near | None = None

    @property
    def mutation(self) -> dict[str, Any]:
        """How its candidates are mutated, see `mutation_options`."""
        return mutation_options(self.layer, self.config, self.kind, self.near)


def largest_strength(layer: LayerSchedule, config: SearchConfig) -> float:
    """The strength with which those children are mutated that a layer mutates most."""
    explorers = layer.mutation_strength * layer.exploration_boost
    if config.strategy != PAPERS_STRATEGY or not config.num_refiners:  # all are explorers
        return explorers
    if not config.num_explorers:
        return layer.mutation_strength
    return max(explorers, layer.mutation_strength)


def mutation_options(
    layer: LayerSchedule, config: SearchConfig, kind: str, near: Near | None = None
) -> dict[str, Any]:
    """How a layer's candidates are mutated but for the strength: for `operators.reproduce`, and for
    `RepresentationGA`."""
    return {
        "smoothing_passes": layer.smoothing_passes,
        "smoothing": config.smoothing,
        "kind": kind,
        "truncation": config.noise_truncation,
        "near": near,
    }
