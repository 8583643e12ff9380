"""Imports go one way, and importing the package does nothing that costs."""

import ast
import subprocess
import sys
from pathlib import Path

import dsl_jax

FOLDER = Path(dsl_jax.__file__).parent
LEVELS = (
    {"files", "progress", "preparing", "batches", "interfaces", "trees"},
    {"config", "convolution", "devices", "evolution", "measures", "representation_ga", "sources"},
    {"datasets", "presets", "overrides", "steps", "network", "plots", "report", "loggers"},
    {"curves", "evaluation", "models", "optimizer", "objectives", "strategies"},
    {"stages", "learning_checks"},
    {"image_search"},
    {"search"},
    {"learning", "probes", "fingerprint", "stage_checks"},
    {"zarr_store"},
    {"sharing"},
    {"targets"},
    {"runs", "overlay", "networks"},
    {"comparison", "plan"},
    {"pipeline"},
    {"summary"},
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def imports(path):
    """Modules of dsl_jax that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsl_jax"):
            inside = node.module.partition(".")[2]
            yield from [inside] if inside else [alias.name for alias in node.names]


def test_imports_go_down_only():
    for path in FOLDER.glob("*.py"):
        if path.stem != "__init__":
            assert path.stem in LEVEL, f"{path.name}: give it a level in this test"
            for name in imports(path):
                together = {path.stem, name} in (
                    {"evolution", "representation_ga"},
                    {"config", "evolution"},
                    {"sources", "config"},
                )
                assert LEVEL[name] < LEVEL[path.stem] or together, f"{path.stem} -> {name}"


def test_search_and_evolution_know_no_network_and_no_data():
    for name in ("image_search", "search", "evolution", "representation_ga"):
        assert not {"network", "datasets", "stages"} & set(imports(FOLDER / f"{name}.py"))


def test_importing_starts_no_backend_and_loads_nothing_heavy():
    program = """
import sys, dsl_jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "mlxtend", "evosax"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
