"""A training that diverges is a row that says so, and costs the others nothing."""

import importlib

import pytest
from sweep_results import rows_of
from tiny_search import TINY_RUN as TINY

from dsl_jax import pipeline

pytestmark = pytest.mark.usefixtures("one_device")
FAILURE = "the loss is nan at step 7 (epoch 2): try a lower learning_rate"


@pytest.fixture
def diverges(monkeypatch):
    """Makes the trainings of these names and seeds diverge."""
    train = pipeline.train

    def make(*broken):
        def diverging(run_folder, dataset, seed, step, *rest, **options):
            if (seed, step.name) in broken:
                raise FloatingPointError(FAILURE)
            return train(run_folder, dataset, seed, step, *rest, **options)

        monkeypatch.setattr(pipeline, "train", diverging)

    return make


def cells(text, beginning):
    """The cells of a table's row."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {beginning} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.long
@pytest.mark.slow
def test_a_control_that_diverges_costs_a_sweep_of_cycles_nothing_else(
    experiment, tmp_path, diverges
):
    diverges((1, "all_layers_first_targets_2"), (1, "sgd_g1"))
    folder = tmp_path / "cycles"
    flags = ("--num_seeds=2", "--config.controls=first_targets")
    assert experiment("cycles")(*TINY, *flags, f"--output_dir={folder}") == 0
    rows = {(row["seed"], row["training"]): row for row in rows_of(folder)}
    names = ("all_layers", "all_layers_cycle_2", "all_layers_first_targets_2", "sgd_g1")
    assert set(rows) == {(seed, name) for seed in (0, 1) for name in names}
    failed = {place for place, row in rows.items() if row["failure"]}
    assert failed == {(1, "all_layers_first_targets_2"), (1, "sgd_g1")}
    assert all(rows[place]["test_accuracy"] == "" for place in failed)
    assert all(0 <= row["test_accuracy"] <= 1 for p, row in rows.items() if p not in failed)
    report = (folder / "report.md").read_text()
    assert f"**seed_1, sgd_g1, seed 1 failed: {FAILURE}**" in report
    assert cells(report, "SGD, G = 1")[1].endswith("1 of 2 diverged at step 7")
    # Nothing is computed again, and no difference counts a seed that one of the two lacks.
    assert experiment("cycles")(*TINY, *flags, f"--output_dir={folder}") == 0
    assert " to " not in cells(report, "searched targets, all layers")[2]


@pytest.mark.slow
def test_what_goes_on_from_a_failure_fails_with_it_and_a_seed_does_not_take_others_along(
    experiment, tmp_path, diverges
):
    diverges((0, "all_layers"))
    folder = tmp_path / "tables"
    flags = ("--num_seeds=2", "--sweep.augment=False")
    assert experiment("tables")(*TINY, *flags, f"--output_dir={folder}") == 0
    rows = {(row["seed"], row["training"]): row for row in rows_of(folder)}
    assert {place for place, row in rows.items() if row["failure"]} == {(0, "all_layers")}
    assert len(rows) == 2 * 3 and rows[1, "all_layers"]["test_accuracy"] > 0
    assert {row["is_best_sgd"] for row in rows.values() if row["training"] == "sgd_g1"} == {"True"}


@pytest.mark.slow
def test_an_option_that_diverges_for_a_seed_keeps_the_others(experiment, tmp_path, diverges):
    diverges((1, "all_layers"))
    for name, more in (("choices", "preset"), ("learnable", "preset")):
        folder = tmp_path / name
        flags = ("--num_seeds=2", f"--sweep.options={more}")
        assert experiment(name)(*TINY, *flags, f"--output_dir={folder}") == 0
        rows = {row["seed"]: row for row in rows_of(folder)}
        assert rows[0]["validation_accuracy"] > 0 and rows[1]["failure"] == FAILURE
        assert ", 1 of 2 diverged at step 7 |" in (folder / "report.md").read_text()


@pytest.mark.long
@pytest.mark.slow
def test_representations_of_what_did_not_diverge_are_compared(experiment, tmp_path, diverges):
    diverges((1, "sgd_g1"))
    folder = tmp_path / "representations"
    flags = ("--num_seeds=2", "--config.variants=all_layers,sgd")
    assert experiment("representations")(*TINY, *flags, f"--output_dir={folder}") == 0
    assert cells((folder / "report.md").read_text(), "SGD, G = 1 | diverged at step 7")
    pairs = {row["pair"] for row in rows_of(folder) if row["linear_cka"] != ""}
    assert "searched targets, all layers and SGD, G = 1" in pairs


def row(seed, training, title, **columns):
    known = {"kind": "cycle", "variant": "all_layers", "groups": 1, "cycle": 1}
    costs = {"candidates": 1e6, "search_seconds": 60.0, "seconds": 120.0}
    there = {"dataset": "digits", "seed": seed, "training": training, "title": title}
    return there | known | (columns if "failure" in columns else costs | columns)


def test_a_training_without_any_result_is_drawn_as_diverged():
    cycles = importlib.import_module("cycles")
    sgd = {"kind": "sgd", "variant": "sgd"}
    rows = [row(s, "all_layers", "Ours", test_accuracy=0.5 + s / 10) for s in (0, 1)]
    rows += [row(s, "sgd_g1", "SGD", failure=FAILURE) | sgd for s in (0, 1)]
    text = cycles.table(rows)
    assert cells(text, "SGD") == ["SGD", "diverged at step 7", "", "", "", ""]
    assert cells(text, "Ours") == ["Ours", "55.00 ± 7.07", "", "1.0 M", "1.0", "2.0"]
    assert list(cycles.draw(rows[:2])) == ["cycles"]
