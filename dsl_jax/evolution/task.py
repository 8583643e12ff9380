"""`LayerTask`: all that the evolution of a layer needs but for a key and candidates."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from dsl_jax.config import LayerSchedule, SearchConfig
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
