"""--help: what matters first, a line each; every setting that it lists can be set."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from common import command_line, help_text, sweeps
from common.overrides import override

from dsl_jax import presets

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("program", ["main", "tables"])
def test_a_line_each_the_main_flags_first(program):
    done = subprocess.run(
        [sys.executable, f"experiments/{program}.py", "--help", "--dataset=digits"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert flags[: len(command_line.SHARED)] == [f"--{name}" for name in command_line.SHARED]
    assert ("--cycles" in flags) == (program == "main")
    assert flags[-1] == "--helpfull" and "(default: mnist)" in done.stdout


@pytest.mark.parametrize("preset", ["smoke", "paper"])
def test_every_setting_listed_can_be_set(preset):
    config = presets.get_preset(preset, "cifar10")
    listed = dict(help_text.settings(config))
    assert listed["search.layers[0].generations"] == config.search.layers[0].generations
    assert override(config, {path: str(value) for path, value in listed.items()}) == config
    assert len(listed) > 60


SWEEPS = [p.stem for p in sorted(ROOT.glob("experiments/*.py")) if "SCALES = {" in p.read_text()]


@pytest.mark.parametrize("program", SWEEPS)
def test_a_sweeps_help_has_a_line_for_each_of_its_settings(program):
    script = importlib.import_module(program)
    own = [name for name in script.Settings.__annotations__ if not hasattr(sweeps.Settings, name)]
    listed = [line.split()[0] for line in script.__doc__.splitlines() if line.startswith("    ")]
    assert {*own} <= {*listed}
