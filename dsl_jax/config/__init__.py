"""Configuration: frozen dataclasses, and the way to plain data and back.

Every class is a pytree, so that a config passes through `jit` and `vmap` as part of the program;
only the strengths of a search are its leaves, so that others do not compile again. Building one
checks its values; a bad one raises `ValueError` that names it.
"""

from dsl_jax.config.learning import (
    EVALUATION_STATISTICS,
    MATCHINGS,
    RELATIONS,
    VARIANTS,
    LearnConfig,
)
from dsl_jax.config.plain import from_dict, search_from_dict, to_dict
from dsl_jax.config.run import (
    CONTROLS,
    IMAGES_TO_SEARCH,
    PRESETS,
    REPRESENTATIONS,
    SEARCHES,
    TARGET_CONTROLS,
    CycleConfig,
    RunConfig,
)
from dsl_jax.config.search import (
    COMPUTE_DTYPES,
    PAPER_LAYERS,
    PAPERS_FITNESS,
    PAPERS_STRATEGY,
    SMOOTHINGS,
    TARGETS,
    LayerSchedule,
    SamplerConfig,
    SearchConfig,
    SharedConfig,
)

__all__ = [
    "COMPUTE_DTYPES",
    "CONTROLS",
    "EVALUATION_STATISTICS",
    "IMAGES_TO_SEARCH",
    "MATCHINGS",
    "PAPERS_FITNESS",
    "PAPERS_STRATEGY",
    "PAPER_LAYERS",
    "PRESETS",
    "RELATIONS",
    "REPRESENTATIONS",
    "SEARCHES",
    "SMOOTHINGS",
    "TARGETS",
    "TARGET_CONTROLS",
    "VARIANTS",
    "CycleConfig",
    "LayerSchedule",
    "LearnConfig",
    "RunConfig",
    "SamplerConfig",
    "SearchConfig",
    "SharedConfig",
    "from_dict",
    "search_from_dict",
    "to_dict",
]
