"""A run that is killed again and again ends as one left alone: benchmarks/kills.py, small."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from children import XLA_FLAGS
from tiny_search import TINY_MAIN

from dsl_jax.files import read_json

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"
spec = importlib.util.spec_from_file_location("benchmarks_kills", PROGRAM)
kills = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kills)

ARGUMENTS = [*TINY_MAIN, "--variants=all_layers"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a run left alone and of one that was killed, and the kills."""
    folder = tmp_path_factory.mktemp("kills")
    cache = folder / "cache"  # one for both: restarts are then quick
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("XLA_FLAGS", XLA_FLAGS)
        seconds = kills.run_undisturbed(ARGUMENTS, folder / "undisturbed", cache)
        done = kills.run_killed(ARGUMENTS, folder / "killed", seconds, 6, seed=0, cache=cache)
    return folder / "undisturbed" / "run", folder / "killed" / "run", done


def test_a_killed_run_ends_the_same(runs):
    one, other, done = runs
    assert len(done) >= 5  # the last may come after the end
    assert kills.compare(one, other) == []
    assert len(kills.network_bytes(one)) > 10 and len(kills.target_files(one)) > 10
    assert (other / "report.md").exists() and (other / "report.html").exists()


def test_what_differs_is_named(runs, tmp_path):
    one = runs[0]
    other = Path(shutil.copytree(one, tmp_path / "other"))
    path = next(p for p in other.glob("seed_0/targets/layer_1/c/**/*") if p.is_file())
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    results = read_json(other / "results.json")
    results["all_layers"]["test_accuracy"][0] += 0.1
    (other / "results.json").write_text(json.dumps(results))
    (other / "seed_0/all_layers/result.json").unlink()
    lines = kills.compare(one, other)
    assert any(line.startswith(f"targets: {path.relative_to(other)}") for line in lines)
    assert any("damaged" in line for line in lines)
    assert any(line.startswith("all_layers test_accuracy") for line in lines)
    assert any(line.startswith("parameters: seed_0/all_layers") for line in lines)


def test_kills_are_spread_over_all_phases():
    assert [kills.plan(20).count(name) for name in kills.SHARES] == [2, 2, 6, 6, 2, 2]
    assert kills.plan(4) == ["compiling", "search", "learning", "evaluation"]
