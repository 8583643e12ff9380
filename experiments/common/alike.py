"""Whether kept points are seeds of one setting, so that their rows may be averaged."""

from collections.abc import Iterable
from typing import Any

from common.sweeps import what_counts
from dsl_jax import plain_data

BESIDE = {"seed", "target_controls", "variants", "cycles"}  # a first cycle is as without a second


def check_alike(points: Iterable[dict[str, Any]], where: str) -> None:
    """Raises ValueError unless points differ in their seed, in what is learned beside, and in the
    number of cycles alone. where: how they were asked for."""
    known: dict[str, Any] = {}
    first: dict[str, Any] | None = None
    for point in points:
        columns = {k: x for k, x in point["identity"]["columns"].items() if k != "seed"}
        first = columns if first is None else first
        config = what_counts(point["identity"])["config"]
        unlike = BESIDE if "sgd" in config["variants"] else {*BESIDE, "sgd"}
        config = {name: value for name, value in config.items() if name not in unlike}
        shared = config.keys() & known.keys()
        changed = plain_data.differences(columns, first)
        changed += plain_data.differences(*({k: c[k] for k in shared} for c in (config, known)))
        if changed:
            raise ValueError(
                f"{where} has trainings of other settings, which are no seeds of one: "
                f"{'; '.join(changed)}"
            )
        known |= config
