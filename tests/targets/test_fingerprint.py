"""Hashes of stages: other stages have other hashes, the same ones the same in every process."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import PAPER_LAYERS, SearchConfig
from dsl_jax.targets import fingerprint
from dsl_jax.targets.fingerprint import hash_stages

CONFIG = SearchConfig(layers=PAPER_LAYERS)


def dense(weights, hidden):
    return jnp.tanh(hidden.reshape(len(hidden), -1) @ weights)


def head(weights, hidden):
    return hidden @ weights


GLOBAL = np.ones(3)


def hash_variants():
    """Stages that all differ."""

    def scaled(factor):
        return lambda hidden: hidden * factor

    def shifted(hidden, by=0.0):
        return hidden + by

    def more_shifted(hidden, by=0.0):
        return hidden + by

    more_shifted.__qualname__ = shifted.__qualname__
    more_shifted.__defaults__ = (1.0,)
    weights = np.ones((2, 2), np.float32)
    partial = functools.partial(jax.tree_util.Partial, head)
    return [
        (partial(weights),),
        (partial(weights), partial(weights)),
        (partial(-weights),),
        (partial(weights.astype(np.float16)),),
        (partial(weights.reshape(4)),),
        (jax.tree_util.Partial(dense, weights),),
        (partial(weights, hidden=weights),),
        (partial({"a": weights}),),
        (partial({"b": weights}),),
        (partial(CONFIG),),
        (partial(dataclasses.replace(CONFIG, num_parents=3)),),
        (scaled(weights),),
        (scaled(2 * weights),),
        (scaled(2.0),),
        (shifted,),
        (more_shifted,),
        (jax.nn.gelu, jnp.add, jnp.tanh),
    ]


def test_stages_that_differ_have_different_hashes(monkeypatch):
    hashes = [hash_stages(stages) for stages in hash_variants()]
    assert len(set(hashes)) == len(hashes)

    def uses_a_global(hidden):
        return hidden * GLOBAL

    before = hash_stages([uses_a_global])
    monkeypatch.setitem(globals(), "GLOBAL", 2 * GLOBAL)
    assert hash_stages([uses_a_global]) != before


def test_hashes_are_the_same_in_every_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_fingerprint as t\n"
        "print(*map(t.hash_stages, t.hash_variants()))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(fingerprint.__file__).parents[2]),
        "PYTHONHASHSEED": "7",
    }
    printed = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert printed == [hash_stages(stages) for stages in hash_variants()]
