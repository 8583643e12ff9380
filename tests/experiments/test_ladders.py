"""Several kept ladders side by side: tables, pictures, and what is refused."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from common.alike import check_alike

from dsl_jax.config import to_dict
from dsl_jax.presets import get_preset
from dsl_jax.reports.intervals import Interval


def test_ladders_stand_side_by_side(experiment, tmp_path, capsys):
    results = Path(__file__).parents[2] / "results"
    given = [f"--ladder={results / name}" for name in ("carry-cifar10_map", "carry-mnist_5k")]
    folder = tmp_path / "ladders"
    assert experiment("ladders")(*given, f"--output_dir={folder}") == 0
    tables = capsys.readouterr().out.split("\n\n")
    first, second = ([x.strip("| ").split(" | ") for x in t.splitlines()] for t in tables[:2])
    # One has both variants; the other has other searches too, which are left out.
    assert first[0] == ["all layers", "cifar10, 5,000", "mnist_5k, 3,680"]
    assert second[0] == ["skip block 0", "mnist_5k, 3,680"]
    rows = json.loads((results / "carry-cifar10_map/points/preset-g2-seed_1.json").read_text())
    by_name = {row["training"]: 100 * row["test_accuracy"] for row in rows["rows"]}
    cells = {line[0]: line[1] for line in first[2:]}
    assert cells["class means"] == "" and {len(line) for line in first} == {3}
    assert cells["searched targets"] == f"{by_name['all_layers']:.2f}"
    minus = by_name["all_layers_permuted"] - by_name["all_layers"]
    assert cells["permuted targets"].startswith(f"{minus:+.2f} (")
    assert cells["SGD, same depth"].startswith(
        f"{by_name['sgd_g2'] - by_name['all_layers']:+.2f} ("
    )
    assert (folder / "ladders.png").stat().st_size > 10_000


def test_a_line_a_ladder_and_cycle(experiment, tmp_path, monkeypatch, capsys):
    """Named as asked, with what was asked for, in that order; the numbers of the other layout."""
    monkeypatch.chdir(Path(__file__).parents[2])
    ladders = ("twice=results/carry-cifar10_second", "laptop, seeds 1 to 3=results/carry-cifar10")
    compared = ["SGD, same depth", "class means", "permuted targets"]
    given = [f"--ladder={ladder}" for ladder in ladders] + [f"--compared={x}" for x in compared]
    given += ["--variant=all_layers", f"--output_dir={tmp_path / 'ladders'}"]
    tables = []
    for lines in ("ladders", "targets"):
        assert experiment("ladders")(*given, f"--lines={lines}") == 0
        table = capsys.readouterr().out.split("\n\n")[0].splitlines()
        assert table[-1].startswith("The picture: ")  # so there is one table, of one variant
        tables.append([x.strip("|").split("|") for x in table[:1] + table[2:-1]])
    cells = [[cell.strip() for cell in line] for line in tables[0]]
    assert cells[0][2:] == ["searched targets", *compared]
    assert [x[0] for x in cells[1:]] == ["twice", "twice, cycle 2", "laptop, seeds 1 to 3"]
    assert [x[1] for x in cells[1:]] == ["4,152", "6,404", "4,152"]  # both cycles' in the second
    assert [x[4] == "" for x in cells[1:]] == [True, True, False]  # there are no class means
    without_price = [line[:1] + line[2:] for line in tables[0]]
    assert [*zip(*without_price, strict=True)] == [tuple(line) for line in tables[1]]


def test_all_else_is_set_against_what_is_asked_for(experiment, tmp_path, monkeypatch, capsys):
    """Where both have the same seeds, a difference of two differences."""
    monkeypatch.chdir(Path(__file__).parents[2])
    given = ["--ladder=results/carry-cifar10_long", f"--output_dir={tmp_path / 'ladders'}"]
    tables = []
    for minus in ([], ["--minus=natural and channel code"]):
        assert experiment("ladders")(*given, *minus) == 0
        table = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:-1]
        tables.append(dict(line.strip("| ").split(" | ") for line in table))
    searched, code = tables
    assert [next(iter(x)) for x in tables] == ["searched targets", "natural and channel code"]

    def points(cell):
        return float(cell.split(" (")[0])

    for name in ("permuted targets", "natural and class part", "SGD, same depth"):
        minus = points(searched[name]) - points(searched["natural and channel code"])
        assert points(code[name]) == pytest.approx(minus, abs=0.011)
    assert points(code["searched targets"]) == -points(searched["natural and channel code"])


def test_seeds_of_two_folders_are_one_ladder(experiment, tmp_path, monkeypatch, capsys):
    """Of what only one of them has learned there are its differences; searched targets have all."""
    monkeypatch.chdir(Path(__file__).parents[2])
    names = ("results/carry-cifar10", "results/carry-cifar10_part")
    cells = []
    for folders in (*names, "+".join(names)):
        given = [f"--ladder={folders}", "--variant=all_layers"]
        assert experiment("ladders")(*given, f"--output_dir={tmp_path / 'ladders'}") == 0
        table = capsys.readouterr().out.split("\n\n")[0].splitlines()[2:-1]
        cells.append(dict(line.strip("| ").split(" | ") for line in table))
    first, second, joined = cells
    assert joined["permuted targets"] == first["permuted targets"]
    assert joined["natural and class part"] == second["natural and class part"]
    accuracies = [
        row["test_accuracy"]
        for name in names
        for path in sorted(Path(name).glob("points/preset-*.json"))
        for row in json.loads(path.read_text())["rows"]
        if row["training"] == "all_layers"
    ]
    assert len(accuracies) == 6
    assert joined["searched targets"].startswith(f"{100 * np.mean(accuracies):.2f} ± ")


def test_a_panel_for_each_of_what_is_compared_where_a_line_is_a_ladder():
    module = importlib.import_module("ladders")
    one, two = Interval(0.01, 0.0, 0.02), Interval(0.03, 0.02, 0.04)
    columns = [
        module.Column("first", 1, {}, {"all layers": {"b": one}}),
        module.Column("second", 1, {}, {"all layers": {"a": one, "b": two}}),
    ]
    panels = module.draw(columns, ["a", "b"], "ladders").axes
    assert [axes.get_title() for axes in panels] == ["a", "b"]
    assert [x.get_text() for x in panels[0].get_yticklabels()] == ["first", "second"]
    panels = module.draw(columns, ["a", "b"], "targets").axes
    assert [axes.get_title() for axes in panels] == ["first", "second"]
    assert [x.get_text() for x in panels[0].get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize(
    ("ladders", "flag", "message"),
    [
        ("", "", "ladder is empty: give the folders"),
        ("{}/nothing", "", "nothing holds no what_targets_carry"),
        ("results/cycles-cifar10", "", "cycles-cifar10 holds no what_targets_carry"),
        (
            "results/carry-cifar10,results/carry-cifar10_map",
            "",
            "two ladders are called cifar10, 5,000: ",
        ),
        (
            "results/carry-cifar10+results/carry-cifar10",
            "",
            "seed 1 of search SGD at its best twice",
        ),
        ("results/carry-cifar10+results/carry-cifar10_long", "", "are no seeds of one: "),
        (
            "results/carry-cifar10+results/carry-cifar10_depth_1",
            "",
            "ladders of other G, which are not joined: 2 in results/carry-cifar10, 1 in ",
        ),
        ("results/carry-cifar10", "--compared=permuted", "'permuted', which none of the ladders"),
        (
            "results/carry-cifar10_part",
            "--minus=SGD, same depth",
            "minus has 'SGD, same depth', which cifar10, 5,000 has not: choose from searched",
        ),
        (
            "results/carry-cifar10_part",
            "--variant=skip_block_0",
            "no variant skip_block_0, but all",
        ),
    ],
)
def test_what_is_no_ladder_is_named(
    ladders, flag, message, experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(Path(__file__).parents[2])
    given = [f"--ladder={x.format(tmp_path)}" for x in ladders.split(",") if x]
    given += [flag] if flag else []
    assert experiment("ladders")(*given, f"--output_dir={tmp_path / 'out'}") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ("sweep.json", "config.json"))
def test_a_folder_with_a_report_of_its_own_is_left_alone(name, experiment, tmp_path, capsys):
    (tmp_path / name).write_text("{}")
    ladder = Path(__file__).parents[2] / "results" / "carry-cifar10_part"
    assert experiment("ladders")(f"--ladder={ladder}", f"--output_dir={tmp_path}") == 2
    assert "with a report of its own: choose --output_dir" in capsys.readouterr().err


@pytest.fixture
def copy(tmp_path):
    """A copy of a kept ladder, and what changes one of its points."""
    folder = tmp_path / "sweep"
    shutil.copytree(Path(__file__).parents[2] / "results" / "carry-mnist_5k", folder)

    def change(name, change, new=None):
        path = folder / "points" / f"{name}.json"
        point = json.loads(path.read_text())
        change(point)
        path.with_stem(new or name).write_text(json.dumps(point))

    return folder, change


def test_points_of_other_settings_are_no_seeds_of_a_ladder(copy, experiment, tmp_path, capsys):
    folder, change = copy
    change("preset-g2-seed_2", lambda x: x["identity"]["config"]["learn"].update(learning_rate=99))
    assert experiment("ladders")(f"--ladder={folder}", f"--output_dir={tmp_path / 'out'}") == 2
    assert "no seeds of one: learn.learning_rate: 2.0" in capsys.readouterr().err


def test_later_cycles_are_alike_also_where_the_first_seed_has_none():
    seeds = [to_dict(get_preset("smoke", "digits")) for _ in range(3)]
    for seed, generations in ((1, 3), (2, 4)):
        seeds[seed]["cycles"] = 2
        seeds[seed]["later_cycles"][0]["search"]["layers"][0]["generations"] = generations
    points = [{"identity": {"columns": {}, "config": config}} for config in seeds]
    check_alike(points[:2], "here")
    with pytest.raises(ValueError, match=r"later_cycles\[0\].search.layers\[0\].generations: 3"):
        check_alike(points, "here")


def table(experiment, folder, tmp_path, capsys):
    given = [f"--ladder={folder}", "--lines=ladders", f"--output_dir={tmp_path / 'out'}"]
    assert experiment("ladders")(*given) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def test_other_searches_say_nothing_of_the_presets_own(copy, experiment, tmp_path, capsys):
    """Not with fewer images, and first in order of name."""
    folder, change = copy
    before = table(experiment, folder, tmp_path, capsys)

    def few(point):
        point["identity"]["config"]["num_train"] = 2000
        for columns in (point["identity"]["columns"], *point["rows"]):
            columns["search"] = "few"

    change("preset-g2-seed_1", few, "few-g2-seed_1")
    assert table(experiment, folder, tmp_path, capsys) == before


def test_a_seed_that_diverged_is_told_of_and_left_out(copy, experiment, tmp_path, capsys):
    folder, change = copy
    before = table(experiment, folder, tmp_path, capsys)

    def diverge(point):
        (number,) = [i for i, x in enumerate(point["rows"]) if x["training"] == "all_layers"]
        kept = ("training", "title", "kind", "variant", "cycle", "search", "learner_groups", "seed")
        row = {name: point["rows"][number][name] for name in kept}
        point["rows"][number] = row | {"failure": "diverged at step 5"}

    change("preset-g2-seed_1", diverge)
    after = table(experiment, folder, tmp_path, capsys)
    assert after[2][:2] == before[2][:2]  # the title, candidates
    assert after[2][2].endswith(", 1 of 3 diverged at step 5")
