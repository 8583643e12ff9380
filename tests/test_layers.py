"""Imports go one way, and importing the package does nothing that costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import dsl_jax

FOLDER = Path(dsl_jax.__file__).parent
# A wing or module may import those of the lines above its own, and a wing's modules each other.
LEVELS = (
    {"values", "philox"},
    {
        "batching",
        "devices",
        "files",
        "inputs",
        "jobs",
        "keys",
        "measures",
        "names",
        "plain_data",
        "progress",
        "reprs",
    },
    {"config"},
    {"evolution", "data"},
    {"networks", "presets"},
    {"learning", "targets"},
    {"runs"},
    {"pipeline"},
    {"reports"},
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def imports(path):
    """Modules of dsl_jax that a file imports, those inside functions too, as "wing.module"."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            whole = [alias.name for alias in node.names if alias.name.startswith("dsl_jax.")]
            yield from (name.partition(".")[2] for name in whole)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dsl_jax"):
            inside = node.module.partition(".")[2]
            names = [alias.name for alias in node.names]
            if not inside or (FOLDER / inside.replace(".", "/")).is_dir():
                yield from (f"{inside}.{name}".strip(".") for name in names)
            else:
                yield inside


def modules():
    """(wing.module, its file) of all but the packages' own files."""
    for path in FOLDER.rglob("*.py"):
        if path.stem != "__init__":
            yield ".".join(path.relative_to(FOLDER).with_suffix("").parts), path


def test_imports_go_down_only():
    for name, path in modules():
        wing = name.partition(".")[0]
        for imported in imports(path):
            other = imported.partition(".")[0]
            inside = wing == other and "." in name
            assert inside or LEVEL[other] < LEVEL[wing], f"{name} -> {imported}"


def test_files_are_written_and_read_in_few_wings():
    allowed = {"data", "targets", "runs", "reports", "files"}
    opens = re.compile(r"\b(np|numpy|jnp)\.(save|load)|\.write_|(?<![.\w])open\(")
    for name, path in modules():
        if name.partition(".")[0] not in allowed:
            assert "files" not in set(imports(path)), name
            assert not opens.search(path.read_text()), name


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set(imports(path)) for name, path in modules()}
    while leaves := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert not graph


def test_no_module_hides_behind_a_public_name():
    names = {path.stem for path in FOLDER.glob("*.py")} | {p.name for p in FOLDER.glob("*/")}
    public = {name for name in dsl_jax.__all__ if callable(getattr(dsl_jax, name))}
    assert not names & public


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
