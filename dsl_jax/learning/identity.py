"""What tells one training from another: kept with its state, so that none goes on as another.

Settings and data are compared as they are. Of the network's arrays and of targets a few numbers
are, within what rounding on another machine does. What a network is besides its arrays, such as its
activation function, is not compared.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from dsl_jax.config import LearnConfig
from dsl_jax.config.plain import to_dict
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.identity import checksum
from dsl_jax.plain_data import differences, plain

ROWS, NUMBERS = 32, 16  # images' targets, and numbers of each array, that are looked at
TOLERANCE = 1e-3  # of the largest of an array's numbers
FLOOR = 1e-6  # of the largest of all, for an array of numbers that all but cancel

Identity = dict[str, Any]


def identity_of(
    key: jax.Array,
    network: Any,
    dataset: Dataset,
    answers: Any,
    objective: Partial,
    config: LearnConfig,
) -> Identity:
    """What a training depends on, as JSON holds it.

    Args:
      key: a threefry key.
      network: the arrays of the network as it is at first, a pytree.
      dataset: of which the training and validation images count.
      answers: what the network should give, a pytree of arrays [N, ...]; None: not known yet.
      objective: with the arrays that it needs besides.
      config: the `LearnConfig`.
    """
    groups = {
        "network": jax.tree.leaves(network),
        "shared targets": jax.tree.leaves(objective),
        "targets": [
            array[row] for array in jax.tree.leaves(answers) for row in _spread(len(array), ROWS)
        ],
    }
    arrays = {name: [_on_host(array) for array in group] for name, group in groups.items()}
    settings = {
        "key": np.asarray(jax.random.key_data(key)),
        "objective": getattr(objective.func, "__name__", ""),
        "config": to_dict(config),
        "mean": dataset.mean,
        "std": dataset.std,
        "data": checksum(dataset.train, dataset.validation),
        **{f"shapes of {name}": [a.shape for a in group] for name, group in arrays.items()},
    }
    numbers = {name: [_some_numbers(a) for a in group] for name, group in arrays.items()}
    return plain({"settings": settings, "numbers": numbers})


class OtherTraining(ValueError):
    """Checkpoints are of another training."""


def check_same_training(ours: Identity, kept: Identity) -> None:
    """Raises OtherTraining where two identities differ; names in what."""
    older = to_dict(LearnConfig()) | kept["settings"]["config"]  # it may lack newer fields
    config = {name: older[name] for name in ours["settings"]["config"]}
    lines = differences(ours["settings"], kept["settings"] | {"config": config})
    lines += [
        f"the numbers in its {name}"
        for name, numbers in ours["numbers"].items()
        if not _are_alike(numbers, kept["numbers"].get(name, []))
    ]
    if lines:
        raise OtherTraining(
            "the checkpoints are of another training. These differ:\n  "
            + "\n  ".join(lines)
            + "\nGive another folder, or the same arguments as then."
        )


def _are_alike(ours: list[list[float]], kept: list[list[float]]) -> bool:
    """Whether arrays have the same numbers; a group may hold small ones beside large ones."""
    sizes = [max(map(abs, numbers), default=0.0) for numbers in kept]
    floor = FLOOR * max(sizes, default=0.0)
    return list(map(len, ours)) == list(map(len, kept)) and all(
        np.allclose(a, b, rtol=0, atol=max(TOLERANCE * size, floor), equal_nan=True)
        for a, b, size in zip(ours, kept, sizes, strict=True)
    )


def _on_host(array: Any) -> np.ndarray:
    is_key = isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


def _some_numbers(array: np.ndarray) -> list[float]:
    """Some numbers of an array, rounded to what is compared."""
    flat = array.reshape(-1)
    chosen = np.asarray(flat[_spread(len(flat), NUMBERS)], np.float64)
    return [float(f"{number:.6g}") for number in chosen]


def _spread(count: int, most: int) -> np.ndarray:
    """Some of the rows 0 .. count - 1, from the first to the last."""
    return np.unique(np.linspace(0, max(count - 1, 0), most).astype(int)) if count else np.arange(0)
