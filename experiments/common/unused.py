"""Settings that are given, and that nothing of what is run has: refused, not passed over."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from common.overrides import is_of
from dsl_jax.config import RunConfig
from dsl_jax.runs.steps import is_searched


class Need(NamedTuple):
    """Fields of a configuration, whether one has a use for them, and what it takes."""

    fields: tuple[str, ...]
    is_there: Callable[[RunConfig], bool]
    text: str


def has_cycles(number: int, *fields: str) -> Need:
    """For fields of that cycle, or of later ones."""
    return Need(fields, lambda c: c.cycles >= number, f"--config.cycles={number} or more")


NEEDS = (
    Need(("shared",), lambda c: c.searched == "per_class", "--config.searched=per_class"),
    Need(("sampler",), lambda c: c.searched == "sampler", "--config.searched=sampler"),
    has_cycles(2, "later_cycles", "controls"),
    Need(
        ("search.noisy_evaluations",),
        lambda c: bool(c.search.fitness_noise),
        "--config.search.fitness_noise",
    ),
    Need(
        ("learn.relations",),
        lambda c: bool(c.learn.relational_weight),
        "--config.learn.relational_weight",
    ),
    Need(
        ("learn.flip", "learn.crop_padding"),
        lambda c: c.learn.augment,
        "--config.learn.augment=True",
    ),
    Need(("sgd.flip", "sgd.crop_padding"), lambda c: c.sgd.augment, "--config.sgd.augment=True"),
)
# Of a single training; a run or a sweep of a part of what there is may keep the flags of the whole.
NEEDS_OF_ONE = (
    *NEEDS,
    Need(("search", "learn"), is_searched, "a variant that learns targets"),
    Need(("sgd",), lambda c: "sgd" in c.variants, "the variant sgd"),
)


def check_used(
    given: Iterable[str],
    configs: Sequence[RunConfig],
    needs: Iterable[Need] = NEEDS,
    where: str = "config.",
) -> None:
    """Raises ValueError for a field that none of the configurations has a use for.

    given: paths, as of --config. where: what stands before a path in errors.
    """
    for path in given:
        later = re.match(r"later_cycles\[(\d+)\]", path)
        of_cycle = [has_cycles(int(later[1]) + 2, later[0])] if later else []
        for fields, is_there, text in (*needs, *of_cycle):
            if is_of(path, fields) and not any(map(is_there, configs)):
                raise ValueError(
                    f"{where}{path} has no effect here: it needs {text}, or to be left out"
                )
