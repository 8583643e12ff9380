"""Targets that many images share, on disk: all but the stages, in a NumPy archive of kilobytes."""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.images import as_pytrees
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.files import read_arrays, replacing
from dsl_jax.networks.sampler import Sampler
from dsl_jax.targets.fingerprint import hash_stages

REMEDY = "delete it, and make the targets again"
WEIGHTS = ("first", "labels", "last")  # of a block, see `networks.sampler.propose`

logger = logging.getLogger(__name__)


def save_targets(path: str | Path, targets: SharedTargets | Sampler) -> None:
    """Writes `SharedTargets` or a `Sampler`, whole or not at all; of the stages but a hash.

    Raises:
      TypeError: they are something else.
    """
    if not isinstance(targets, SharedTargets | Sampler):
        remedy = "SharedTargets or a Sampler; search_to_store keeps those of single images"
        if isinstance(getattr(targets, "targets", None), SharedTargets | Sampler):
            remedy = "its .targets"
        raise TypeError(f"the targets are a {type(targets).__name__}: give {remedy}")
    shared = targets.shared if isinstance(targets, Sampler) else targets
    arrays: dict[str, Any] = {f"direction_{i}": d for i, d in enumerate(shared.directions)}
    arrays |= {} if shared.centres is None else {"centres": shared.centres}
    arrays |= {"cosines": shared.cosines, "logits": shared.logits, "propagates": shared.propagates}
    arrays["stages_sha256"] = hash_stages(shared.stages)
    if isinstance(targets, Sampler):
        for index, weights in enumerate(targets.weights):
            arrays |= {f"sampler_{index}_{name}": array for name, array in weights.items()}
    with replacing(Path(path).expanduser()) as file:
        np.savez(file, **jax.device_get(arrays))


def load_targets(path: str | Path, stages: Stages) -> SharedTargets | Sampler:
    """What `save_targets` wrote.

    Args:
      path: as there.
      stages: those that the targets had. Where they are not the same bit for bit, a warning is
        logged: on another machine they may be rounded otherwise, but those of another network
        would make targets without meaning.

    Raises:
      FileNotFoundError: there is no such file.
      DamagedFile: it is not whole, or something else.
      ValueError: the targets are for another number of stages.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: save_targets writes it")
    targets, kept_hash = read_targets(path, stages)
    shared = targets.shared if isinstance(targets, Sampler) else targets
    if len(stages) != len(shared.directions) + 1:
        raise ValueError(
            f"{path} holds targets for {len(shared.directions) + 1} stages, but there are "
            f"{len(stages)}: give those of the network that was searched"
        )
    if kept_hash and kept_hash != hash_stages(shared.stages):
        logger.warning(
            "%s: the stages are not bit for bit those that the targets were saved with; on another "
            "machine that may be rounding, else they are another network's",
            path,
        )
    return targets


def read_targets(path: str | Path, stages: Stages = ()) -> tuple[SharedTargets | Sampler, str]:
    """`load_targets` without a look at the stages; and the hash of theirs, "" in an old file."""
    saved = read_arrays(Path(path), REMEDY)
    shared = SharedTargets(
        as_pytrees(stages),
        tuple(saved[f"direction_{index}"] for index in range(_count(saved, "direction_"))),
        saved["cosines"],
        saved["logits"],
        saved.get("centres"),
        bool(saved["propagates"]),
    )
    kept_hash = str(saved.get("stages_sha256", ""))
    if not _count(saved, "sampler_"):
        return shared, kept_hash
    weights = tuple(
        {name: saved[f"sampler_{index}_{name}"] for name in WEIGHTS}
        for index in range(len(shared.directions))
    )
    return Sampler(shared, weights), kept_hash


def _count(saved: dict[str, np.ndarray], prefix: str) -> int:
    return sum(name.startswith(prefix) for name in saved)
