"""What the pages say was measured is what the kept results give, by the command that they show."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from common import sweep_rows, sweeps

from dsl_jax.reports.pages import mean_and_deviation

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# The rows of the table in docs/cycles.md: what kept training each is, and the SGDs it is set
# against, at the same depth, at its best depth, and for twice the epochs.
MNIST_5K = (
    ("cycles-mnist_5k", "sgd_g2"),
    ("cycles-mnist_5k_sgd", "sgd_g1"),
    ("cycles-mnist_5k", "sgd_g2_long"),
)
MNIST = (
    ("cycles-mnist_10k_2", "sgd_g2"),
    ("cycles-mnist_10k_sgd", "best_sgd"),
    ("cycles-mnist_10k_2", "sgd_g2_long"),
)
CIFAR10 = tuple(("cycles-cifar10_clean", name) for name in ("sgd_g2", "best_sgd", "sgd_g2_long"))
RESULTS = (
    (("cycles-mnist_5k", "skip_block_0"), MNIST_5K),
    (("cycles-mnist_5k", "skip_block_0_cycle_2"), MNIST_5K),
    (("cycles-mnist_10k", "all_layers"), MNIST),
    (("cycles-mnist_10k", "skip_block_0"), MNIST),
    (("cycles-mnist_10k_2", "skip_block_0_cycle_2"), MNIST),
    (("cycles-cifar10", "all_layers"), CIFAR10),
    (("cycles-cifar10", "all_layers_cycle_2"), CIFAR10),
    (("cycles-cifar10_clean", "all_layers_cycle_2"), CIFAR10),
)


def never(*_):
    raise AssertionError("all points are kept: nothing is to be computed")


def number_of_lines(sweep, rows):
    """Of all tables that an experiment draws of its rows, without their heads."""
    if sweep["experiment"] == "starts":
        return len({(r["layer"], r["start"]) for r in rows})
    if sweep["experiment"] == "refresh":  # a line a method, and one for each block that is searched
        blocks = {(r["method"], name) for r in rows for name in r if name.startswith("along_")}
        return len({r["method"] for r in rows} | blocks)
    if sweep["experiment"] != "what_targets_carry":  # an option's training, or a title and size
        return len({(r.get("option"), r.get("size"), r.get("title", r["training"])) for r in rows})
    best = any(r["search"] == "SGD at its best" for r in rows)
    ours = [r for r in rows if r["variant"] != "sgd"]
    sgd = {(r["search"], r["kind"] == "long_sgd") for r in rows if r["variant"] == "sgd"}
    ladders = {(r["search"], r["variant"], r["cycle"]) for r in ours}
    trained = {(r["search"], r["training"]) for r in ours}
    blocks = 3 * len({(r["search"], r["cycle"]) for r in ours})
    beside = sum(best + ((search, cycle > 1) in sgd) for search, _, cycle in ladders)
    return len(trained) + beside + blocks


@pytest.mark.parametrize("kept", sorted((ROOT / "results").glob("*/")), ids=lambda f: f.name)
def test_the_command_shown_draws_the_table_shown(kept, experiment, tmp_path, monkeypatch, capsys):
    ((page, command),) = [
        (page, line)
        for page in (path.read_text() for path in PAGES)
        for line in page.replace("\\\n", "").splitlines()
        if line.endswith(f" --output_dir=results/{kept.name}")
    ]
    _, script, *flags, _ = shlex.split(command)
    folder = shutil.copytree(kept, tmp_path / kept.name)
    monkeypatch.setattr(sweeps, "compute", never)
    assert experiment(Path(script).stem)(*flags, f"--output_dir={folder}") == 0
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    heads = 2 * sum(line.startswith("| --- |") for line in drawn)
    rows = [row for p in kept.glob("points/*.json") for row in json.loads(p.read_text())["rows"]]
    assert len(drawn) - heads == number_of_lines(
        json.loads((kept / "sweep.json").read_text()), rows
    )
    assert [line for line in drawn if line not in page.splitlines()] == []


LADDERS = [
    (page.name, line)
    for page in PAGES
    for line in page.read_text().replace("\\\n", "").splitlines()
    if line.startswith("python experiments/ladders.py")
]
# By the number of the command: lines of all its tables, and different ones that the README has too.
COUNTS = {0: (2 * (2 + 9), 1 + 6), 1: (2 + 8, 0), len(LADDERS) - 1: (2 + 3, 1)}


@pytest.mark.parametrize(("number", "page", "command"), [(n, *x) for n, x in enumerate(LADDERS)])
def test_ladders_shown_side_by_side_are_those_of_the_kept_rows(
    number, page, command, experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    flags = [flag for flag in shlex.split(command)[2:] if not flag.startswith("--output_dir")]
    assert experiment("ladders")(*flags, f"--output_dir={tmp_path}") == 0
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(drawn) > 2 and set(drawn) <= {*(ROOT / "docs" / page).read_text().splitlines()}
    readme = {*(ROOT / "README.md").read_text().splitlines()}
    if number in COUNTS:
        assert (len(drawn), len({*drawn} & readme)) == COUNTS[number]


COMPARED = [
    (path, line)
    for path in PAGES
    for line in path.read_text().replace("\\\n", "").splitlines()
    if line.startswith("python experiments/compare.py")
]


@pytest.mark.parametrize(("page", "command"), COMPARED, ids=lambda x: getattr(x, "name", ""))
def test_comparisons_are_those_of_the_kept_rows(page, command, experiment, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert experiment("compare")(*shlex.split(command)[2:]) == 0
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(drawn) > 2 and set(drawn) <= {*page.read_text().splitlines()}


def accuracies(folder, training):
    """A kept training's test accuracies, a seed each, in order."""
    points = (ROOT / "results" / folder / "points").glob("*.json")
    rows = [row for path in points for row in json.loads(path.read_text())["rows"]]
    of_seed = {r["seed"]: r["test_accuracy"] for r in rows if r["training"] == training}
    return [of_seed[seed] for seed in range(5)]


def test_the_table_of_results_is_that_of_the_kept_rows():
    page = (ROOT / "docs" / "cycles.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| ") and " ± " in line]
    shown = [line.strip("| ").split(" | ")[2:] for line in table]
    computed = []
    for ours, baselines in RESULTS:
        mine = accuracies(*ours)
        differences = [sweep_rows.difference(mine, accuracies(*theirs)) for theirs in baselines]
        computed.append([mean_and_deviation([100 * x for x in mine], 2), *differences])
    assert shown == computed


def test_no_page_is_half_written():
    for path in PAGES:
        assert "{{" not in path.read_text(), path.name
