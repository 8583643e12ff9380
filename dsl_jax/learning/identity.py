"""What tells one training from another: kept with its state, so that none goes on as another.

Arrays that a machine may round otherwise, such as a network's first parameters, are compared by
sizes with a tolerance. Letters: N training images, M of them.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from dsl_jax.config import LearnConfig
from dsl_jax.config.plain import to_dict
from dsl_jax.data.dataset import Dataset

ROWS = 64  # images that are looked at; of the targets of all, a store would be read once more
TOLERANCE = 1e-3

Identity = dict[str, np.ndarray]


def identity_of(
    key: jax.Array,
    params: Any,
    dataset: Dataset,
    answers: Any,
    objective: Partial,
    config: LearnConfig,
) -> Identity:
    """A few numbers for each part of what a training depends on.

    Args:
      key: a threefry key.
      params: the network's first parameters.
      dataset: of which the training images count.
      answers: what the network should give, a pytree of arrays [N, ...]; None: not known yet.
      objective: with the arrays that it needs besides.
      config: the `LearnConfig`.
    """
    train = dataset.train
    rows = np.unique(np.linspace(0, len(train.images) - 1, ROWS).astype(int))
    rule = [getattr(objective.func, "__name__", ""), to_dict(config)]
    found = {
        "key": np.asarray(jax.random.key_data(key)),
        "configuration": _digest(json.dumps(rule, sort_keys=True).encode()),
        "network": _sizes(params),
        "labels": _digest(np.asarray(train.labels, np.int64).tobytes()),
        "images": _sizes([train.images[row] for row in rows]),
    }
    if jax.tree.leaves(objective):
        found["shared targets"] = _sizes(objective)
    if answers is not None:
        found["targets"] = _sizes(
            [array[row] for array in jax.tree.leaves(answers) for row in rows]
        )
    return found


def check_same_training(ours: Identity, kept: Identity) -> None:
    """Raises ValueError where two identities differ; names in what."""
    differ = [
        name
        for name in ours
        if ours[name].shape != kept[name].shape
        or not np.allclose(ours[name], kept[name], rtol=_tolerance(ours[name]), atol=0)
    ]
    if differ:
        raise ValueError(
            f"the checkpoints are of another training, with another {', '.join(differ)}: give an "
            "empty folder, or the same arguments as then"
        )


def _tolerance(values: np.ndarray) -> float:
    return TOLERANCE if np.issubdtype(values.dtype, np.floating) else 0.0


def _digest(content: bytes) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint32)


def _sizes(tree: Any) -> np.ndarray:
    """The mean size of each array's numbers: float32 [leaves]."""
    leaves = [np.abs(np.asarray(leaf, np.float32)) for leaf in jax.tree.leaves(tree)]
    return np.array([leaf.mean() if leaf.size else 0 for leaf in leaves], np.float32)
