"""The search (paper 3.1, A.2, A.4): operators, a generation, one image, many images."""

from typing import Any

from dsl_jax.evolution.operators import (
    crossover,
    mutate,
    normalize,
    perturb_image,
    reproduce,
    smooth,
    spread,
    standardize,
)

__all__ = [
    "RepresentationGA",
    "crossover",
    "mutate",
    "normalize",
    "perturb_image",
    "reproduce",
    "smooth",
    "spread",
    "standardize",
]


def __getattr__(name: str) -> Any:
    # Importing evosax's algorithms starts a backend, which importing dsl_jax must not do.
    if name == "RepresentationGA":
        from dsl_jax.evolution.generation import RepresentationGA

        return RepresentationGA
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
