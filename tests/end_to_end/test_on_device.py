"""benchmarks/on_device.py, small and on the CPU: every piece is measured and kept."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["", pytest.param("digits", marks=pytest.mark.long)])
def test_every_piece_is_measured_and_kept(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    kept = tmp_path / "on_device.json"
    flags = ["--small", "--rounds=1", f"--dataset={dataset}", f"--json={kept}"]
    subprocess.run([sys.executable, "benchmarks/on_device.py", *flags], cwd=ROOT, check=True)
    results = json.loads(kept.read_text())["results"]
    assert len(results) == 6 + bool(dataset)
    for row in results["the stages beside the CPU's"]:  # both are the CPU
        assert row["relative error"] == 0
    for row in results["a search beside the CPU's"]:
        assert row["largest difference"] == 0 and row["again the same bits"]
    assert [row["again the same bits"] for row in results["learning"]] == [True, True]
    assert all(row["candidates/s"] > 0 for row in results["generations, small"])
    if dataset:
        assert results["whole run"][0]["seconds"] > 1
