"""Layers that cannot change, known before a search from their shapes and schedules alone."""

import math
from collections.abc import Sequence

import numpy as np

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution.noise import smoothing_matrix
from dsl_jax.evolution.operators import kind_of
from dsl_jax.evolution.task import largest_strength

# Noise in units of a channel's spread, of which float32 keeps nothing.
NO_NOISE = 1e-6


def check_layers_change(shapes: Sequence[tuple[int, ...]], config: SearchConfig) -> None:
    """Refuses layers whose children would be their parents.

    Args:
      shapes: of one image's H(0) .. H(L-1).
      config: with L layers; one with 0 generations is meant to stay as it is.

    Raises:
      ValueError: names the stage, why nothing would change, and what to do.
    """
    for number, (shape, layer) in enumerate(zip(shapes, config.layers, strict=True)):
        if not layer.generations:
            continue
        reason = _dead_by_shape(shape, last=number == len(shapes) - 1)
        reason = reason or _dead_by_schedule(shape, layer, config)
        if reason:
            raise ValueError(
                f"stage {number} returns {list(shape)} an image, {reason}; or set generations=0 in "
                f"layers[{number}] to keep what comes from the layer before"
            )


def _dead_by_shape(shape: tuple[int, ...], *, last: bool) -> str:
    """Why a representation of this shape has no spread to mutate in; empty: it has one."""
    kind = kind_of(shape, last=last)
    if kind == "conv" and math.prod(shape[:-1]) == 1:
        return (
            "one position alone: its spread over space is 0, so mutation adds nothing to it. Use "
            "larger images or fewer blocks (of a ConvNet with n blocks at least 2**(n + 1) + 1 "
            "pixels a side), or return a vector [features]"
        )
    if kind != "conv" and math.prod(shape) == 1:
        what = "one logit, of which the fitness" if kind == "logits" else "one number, which"
        return f"{what} is the same whatever it is after normalisation. Return at least 2"
    return ""


def _dead_by_schedule(shape: tuple[int, ...], layer: LayerSchedule, config: SearchConfig) -> str:
    """Why a layer's schedule adds no noise to a representation of this shape; empty: it does."""
    strength = float(largest_strength(layer, config))
    if strength < NO_NOISE:
        return (
            f"and its children get no noise: mutation_strength is {layer.mutation_strength}, "
            f"exploration_boost {layer.exploration_boost}. Set them higher"
        )
    left = _left_of_noise(shape, layer.smoothing_passes, config.smoothing)
    if strength * left < NO_NOISE:
        return (
            f"of whose noise {layer.smoothing_passes} smoothing_passes leave {left:.0e} of its "
            "strength. Use fewer, or smoothing='noise_rescaled'"
        )
    return ""


def _left_of_noise(shape: tuple[int, ...], passes: int, smoothing: str) -> float:
    """The standard deviation, over all positions, of smoothed noise that had 1."""
    if smoothing != "noise" or not passes:
        return 1.0
    lengths = (np.linalg.norm(smoothing_matrix(n, passes)) / math.sqrt(n) for n in shape[:-1])
    return float(math.prod(lengths))
