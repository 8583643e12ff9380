"""The notebook's first cell installs the project where it is missing, from its one variable."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Runs the first cell, with this address, where dsl_jax is missing; what pip was given."""
    notebook = json.loads((ROOT / "experiments" / "tour.ipynb").read_text())
    cell = "".join(next(c for c in notebook["cells"] if c["cell_type"] == "code")["source"])
    commands = []

    def run(command):
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.chdir(tmp_path)  # not beside the project
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", run)

    def installed(address):
        assert cell.count('SOURCE = ""') == 1
        exec(cell.replace('SOURCE = ""', f"SOURCE = {address!r}"), {})
        return commands

    return installed


def test_the_first_cell_installs_from_the_address_that_is_filled_in(install):
    address = f"dsl_jax @ file://{ROOT}"
    assert install(address) == [[sys.executable, "-m", "pip", "install", "-q", address]]


def test_the_first_cell_without_an_address_says_where_it_goes(install):
    with pytest.raises(RuntimeError, match="set SOURCE, above, to the project's address"):
        install("")
