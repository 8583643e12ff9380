"""What the documentation shows runs: code, programs and commands."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GALLERY = sorted((ROOT / "experiments" / "gallery").glob("*.py"))


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch, one_device):
    """JAX as it comes: arrays of other ranks may meet, and there is one device."""
    monkeypatch.setenv("XLA_FLAGS", "")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")


def blocks_of(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def blocks(page, language):
    return blocks_of(page.read_text(), language)


def run_blocks(*pages):
    """The names that the code of pages leaves, one going on where another ended, run as a module:
    what it defines is found by name."""
    name = f"page_{Path(pages[0]).stem}"  # experiments/cycles.py has the name without it
    module = sys.modules[name] = types.ModuleType(name)
    for page in pages:
        for block in blocks(ROOT / "docs" / page, "python"):
            exec(compile(block, page, "exec"), vars(module))
    return vars(module)


@pytest.mark.long
@pytest.mark.slow
def test_four_libraries_models_are_searched_and_learned(capsys):
    names = run_blocks("your_own_model.md")
    assert names["kept_accuracy"] == names["sgd_accuracy"]
    for library in ("mlp", "transformer", "linen", "equinox", "sgd"):
        assert names[f"{library}_accuracy"] > 0.7, library  # chance is 0.1


@pytest.mark.slow
def test_ones_own_data_and_fitness_are_searched(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks("your_own_data.md")
    assert names["results"]["all_layers"].test_accuracy[0] > 0.8  # chance is 0.5
    assert (tmp_path / "runs" / "darker" / "report.html").exists()
    assert names["dataset"].image_shape == (16, 16, 3)
    assert names["test"].accuracy > 0.8  # chance is 0.5
    margins = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])
    assert margins == sorted(margins) and margins[-1] > 1  # no log-probability is above 0


@pytest.mark.slow
@pytest.mark.parametrize("page", ("cycles.md", "strategies.md"))
def test_the_pages_on_cycles_and_strategies_show_what_runs(page, capsys):
    run_blocks(page)
    fitness = ast.literal_eval(capsys.readouterr().out)
    assert len(fitness) == 4 and all(0 <= value < 1 for value in fitness)


@pytest.mark.slow
def test_the_page_on_what_targets_carry_shows_what_runs(capsys):
    names = run_blocks("what_targets_carry.md")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[:3]] == ["block 0", "block 1", "block 2"]
    assert names["shares"].rest > 0.5 and names["shares"].natural < 0.5
    assert [line.split()[0] for line in printed[3:]] == ["searched", "permuted"]


@pytest.mark.slow
def test_the_pages_on_shared_and_single_searches_show_what_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_blocks("shared_search.md", "single_images.md")
    printed = capsys.readouterr().out.splitlines()
    for line in printed[:4]:
        before, after = re.findall(r"-?\d\.\d\d", line)
        assert float(before) < float(after)  # a search that finds something
    for block, array in enumerate(names["blocks_and_logits"][:-1]):
        assert array.shape[0] == 5 and abs(array.std() - 1) < 0.01, block
    assert names["learned"].best_epoch["validation_accuracy"] > 0.5  # chance is 0.1


def test_no_page_shows_python_that_no_test_runs():
    tested = {"README.md", "your_own_model.md", "your_own_data.md", "cycles.md", "strategies.md"}
    tested |= {"what_targets_carry.md", "shared_search.md", "single_images.md"}
    assert {page.name for page in PAGES if blocks(page, "python")} <= tested


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("program", GALLERY, ids=lambda path: path.stem)
def test_the_gallery_runs(program):
    assert len(program.read_text().splitlines()) <= 60
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=True, timeout=600
    )
    assert len(done.stdout.splitlines()) >= 2


def commands():
    """Every command in the pages that runs one of the experiments, once."""
    found = set()
    for page in PAGES:
        text = page.read_text().replace("\\\n", "")
        shown = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        shown += [line for block in blocks_of(text, "sh") for line in block.splitlines()]
        for line in shown:
            command = " ".join(line.split()).split(" #")[0].partition(" && ")
            for part in (command[0], command[2]):
                part = part.removesuffix('"') if part.count('"') % 2 else part  # of --command="..."
                words = shlex.split(part) if re.match(r"(\S+ )?python experiments/", part) else []
                if "python" in words and not any(c in part for c in "|>$") and "FOLDER" not in part:
                    found.add(tuple(w for w in words[words.index("python") + 1 :] if w != "&"))
    return sorted(found)


def test_every_command_shown_has_flags_that_exist_and_settings_that_fit():
    """All of an experiment's commands in one process, each as far as --dry_run would check it."""
    by_script = {}
    for script, *arguments in commands():
        if "gallery" not in script and "--help" not in arguments:
            by_script.setdefault(script, []).append(arguments)
    assert len(by_script) >= 8
    program = """
import json, runpy, sys
from common import command_line
command_line.start = lambda work: None
runpy.run_path(sys.argv[1], run_name="__main__")
for arguments in json.loads(sys.argv[2]):
    command_line.flags.FLAGS.unparse_flags()
    command_line.parse_flags(["x", *arguments])
    command_line.configure()
"""
    for script, arguments in by_script.items():
        done = subprocess.run(
            [sys.executable, "-c", program, script, json.dumps(arguments)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "experiments")},
        )
        assert done.returncode == 0, f"{script}: {done.stderr[-1500:]}"


@pytest.mark.slow
def test_the_tour_runs_from_its_first_cell_to_its_last(monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")  # it searches longer than it compiles
    notebook = nbformat.read(ROOT / "experiments" / "tour.ipynb", as_version=4)
    folder = {"metadata": {"path": str(ROOT / "experiments")}}
    nbclient.NotebookClient(notebook, timeout=900, resources=folder).execute()
    text = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    )
    accuracies = [float(x) for x in re.findall(r"test accuracy ([\d.]+)%", text)]
    assert len(accuracies) == 3 and min(accuracies) > 80
    pictures = [o for c in notebook.cells for o in c.get("outputs", ()) if "data" in o]
    assert len(pictures) == 5
