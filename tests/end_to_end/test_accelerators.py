"""benchmarks/accelerators.py: what it reads from a compiler, and that our programs compile."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def chips(monkeypatch):
    """The module; JAX has no device yet that its settings could change."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("chips")


def test_kernels_are_counted_in_the_bodies_of_loops_alone(chips):
    text = """
%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %c = f32[4]{0} copy(%x)
  %f = f32[4]{0} fusion(%c), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %f)
}

%fused (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} add(%q, %q)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %m = f32[4]{0} multiply(%x, %x)
  %w = (s32[], f32[4]{0}) while(%m), condition=%cond, body=%inner
  ROOT %r = f32[4]{0} get-tuple-element(%w), index=1
}
"""
    assert chips.loop_kernels(text) == ((2, 1),)


def test_a_compiled_loop_has_kernels(chips):
    def loop(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sort(y * 2) @ y * y, x)

    text = jax.jit(loop).lower(jnp.ones(64)).compile().as_text()
    ((kernels, copies),) = chips.loop_kernels(text)
    assert 1 <= kernels < 12 and copies <= kernels


def test_what_devices_tell_each_other_is_counted(chips):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("images",))
    program = jax.jit(lambda x, scale: (x.sum(0, keepdims=True) * scale, x * scale))
    found = chips.compile_for(mesh, program, jnp.ones((16, 3)), jnp.ones((1, 3)), split=(0,))
    assert found.collectives == {"all-reduce": 1}
    assert chips.compile_for(mesh, program, jnp.ones((16, 3)), jnp.ones((1, 3))).collectives == {}


ON_ONE = ("search", "search, trained", "learning step", "evaluation")
ON_FOUR = ("search, all devices", "learning step, all devices")


@pytest.mark.aot
@pytest.mark.parametrize(
    ("chip", "programs"),
    [
        ("h100", (*ON_FOUR, "search, trained", "evaluation")),
        *(("v5e", (program,)) for program in ON_FOUR),
        *(pytest.param(chip, ON_ONE, marks=pytest.mark.long) for chip in ("h100", "v5e")),
    ],
)
def test_what_a_job_runs_compiles_and_fits(chip, programs, chips, tmp_path):
    if not chips.is_installed(chip):
        pytest.skip(f"{chips.CHIPS[chip].package} is not installed: see benchmarks/chips.py")
    kept = tmp_path / "accelerators.json"
    chosen = json.dumps(programs, separators=(",", ":"))[1:-1]
    few = ["--images=4"] if chip == "v5e" else []  # it compiles for minutes for a whole chunk
    subprocess.run(
        [sys.executable, "benchmarks/accelerators.py", f"--chips={chip}", "--presets=smoke",
         f"--programs={chosen}", f"--json={kept}", *few],
        cwd=ROOT, check=True,
    )  # fmt: skip
    rows = {row["program"]: row for row in json.loads(kept.read_text())["rows"]}
    assert set(rows) >= set(programs)
    for name, row in rows.items():
        assert 0 < row["peak, GB"] * chips.GB < chips.CHIPS[chip].memory
        told = r"\d+ all-reduce" if name == "learning step, all devices" else "none"
        assert re.fullmatch(told, row["collectives"]), name
