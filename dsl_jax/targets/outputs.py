"""What stages compute, as a few numbers: a hash of what they hold does not tell it all.

A function may use lists, modules and other functions of the place where it was defined. So every
stage is given a few fixed inputs, and random sums of its outputs are kept with the targets.
Letters: M inputs, L stages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.evolution.fitness import Fitness, Stages

NUM_INPUTS = 4  # of each kind: images, and random ones
# Of the size of a stage's outputs; what rounding does is far below. The second: on another kind of
# machine or with other versions, where a stage of 16 bits may round otherwise.
TOLERANCE, WIDE_TOLERANCE = 1e-3, 3e-2

Numbers = list[float] | None


def summarize_outputs(
    stages: Stages, images: np.ndarray, fitness: Fitness | None = None
) -> dict[str, Numbers]:
    """A few numbers for every stage, nearly the same wherever the stages are.

    Stages are called as they stand: each is compiled anew, as `jit` might remember what the same
    function did before.

    Args:
      stages: L functions.
      images: [M, H, W, C] float32, the first of those that are searched.
      fitness: one's own, (logits [n, C], label) -> [n].

    Returns:
      For "stage 0", ..., and "fitness": the size of the outputs and random sums of them; None:
      they are not finite.
    """
    numbers, hidden = {}, jnp.asarray(images[:NUM_INPUTS])
    with jax.default_matmul_precision("highest"):
        for index, stage in enumerate(stages):
            random = _random(index, (NUM_INPUTS, *hidden.shape[1:]))
            both = jnp.concatenate([hidden, jnp.asarray(random, hidden.dtype)])
            outputs = jax.jit(lambda x, stage=stage: stage(x))(both)
            numbers[f"stage {index}"] = _summary([outputs])
            hidden = outputs[: len(hidden)]
        if fitness is not None:
            labels = {0, hidden.shape[-1] - 1}
            values = [fitness(hidden, jnp.int32(label))[None] for label in sorted(labels)]
            numbers["fitness"] = _summary(values)
    return numbers


def different_outputs(
    ours: Mapping[str, Numbers], theirs: Mapping[str, Numbers], tolerance: float
) -> list[str]:
    """A line for the first that computes something else; those after it may do so for its sake."""
    for name in [name for name in ours if name in theirs]:
        if (share := _difference(ours[name], theirs[name])) > tolerance:
            how = f"differ by {share:.1%} of their size"
            how = how if share < np.inf else "are not finite in one of the two"
            return [f"what {name} computes: for a few fixed inputs, its outputs {how}"]
    return []


def _random(seed: int, shape: Sequence[int]) -> np.ndarray:
    """Standard normal float32; of this old generator NumPy keeps the numbers the same for good."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def _summary(outputs: Sequence[Any]) -> Numbers:
    """The root mean square of some arrays [M, ...], and a sum with random signs of every row.

    Each sum is as large as one number of the row; all are rounded to a ten-thousandth of that.
    """
    rows = np.concatenate(
        [np.asarray(array.astype(jnp.float32)).reshape(len(array), -1) for array in outputs]
    ).astype(np.float64)
    if not np.isfinite(rows).all():
        return None
    size = float(np.sqrt(np.mean(rows**2)))
    sums = rows @ np.sign(_random(0, rows.shape[1:])) / np.sqrt(rows.shape[1])
    digits = 4 - int(np.floor(np.log10(size))) if size else 0
    return [round(number, digits) for number in (size, *sums.tolist())]


def _difference(ours: Numbers, theirs: Numbers) -> float:
    """The largest difference of two summaries, as a share of the outputs' size."""
    if ours is None or theirs is None or len(ours) != len(theirs):
        return 0.0 if ours == theirs else np.inf
    size = max(ours[0], theirs[0]) or 1.0
    return float(np.abs(np.subtract(ours, theirs)).max() / size)
