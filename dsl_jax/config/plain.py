"""Configurations as plain data, for JSON, and back."""

import dataclasses
from typing import Any

from dsl_jax.config.learning import LearnConfig
from dsl_jax.config.run import CycleConfig, RunConfig
from dsl_jax.config.search import LayerSchedule, SamplerConfig, SearchConfig, SharedConfig


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, lists, numbers and strings, for JSON."""
    return dataclasses.asdict(config, dict_factory=_plain_fields)


def _plain_fields(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a config as a dict; a strength may be an array of one number."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in fields}


def search_from_dict(values: dict[str, Any]) -> SearchConfig:
    """The `SearchConfig` that `to_dict` wrote, also after a way through JSON."""
    layers = tuple(LayerSchedule(**layer) for layer in values["layers"])
    return SearchConfig(**{**values, "layers": layers})


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The `RunConfig` that `to_dict` wrote, also after a way through JSON."""
    made: dict[str, Any] = {
        "shared": SharedConfig(**values.get("shared", {})),  # older configurations have none
        "sampler": SamplerConfig(**values.get("sampler", {})),
        "search": search_from_dict(values["search"]),
        "learn": LearnConfig(**values["learn"]),
        "sgd": LearnConfig(**values["sgd"]),
    }
    if "later_cycles" in values:
        made["later_cycles"] = [
            CycleConfig(**{**cycle, "search": search_from_dict(cycle["search"])})
            for cycle in values["later_cycles"]
        ]
    return RunConfig(**{**values, **made})
