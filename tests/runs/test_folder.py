"""A run's folder: bound to one configuration, and what it remembers."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax.files import temporary_name
from dsl_jax.presets import get_preset
from dsl_jax.runs import folder, saved
from dsl_jax.runs.folder import RunFolder, finished_report, prepare_folder, search_seconds

CONFIG = get_preset("smoke", "digits")


def test_a_run_that_took_another_dataset_is_not_the_run_with_the_real_one(tmp_path):
    real = get_preset("smoke", "mnist")
    substitute = dataclasses.replace(real, dataset="mnist_5k")
    run = RunFolder(tmp_path / "run", substitute, requested="mnist")
    (run.folder / "report.md").write_text("done")
    run.keep_results({})
    assert finished_report(run.folder, real) is None
    assert finished_report(run.folder, substitute) is None  # asked for by its own name
    assert finished_report(run.folder, substitute, "mnist") == run.folder / "report.md"
    with pytest.raises(ValueError, match="dataset: 'mnist_5k' there, 'mnist' here"):
        RunFolder(run.folder, real)


def test_what_is_not_a_run_or_is_damaged_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="holds no run"):
        prepare_folder(tmp_path)
    run = RunFolder(tmp_path / "run", CONFIG)
    (run.folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        RunFolder(run.folder, CONFIG)


def test_epochs_that_are_trained_again_are_forgotten_and_no_other_line(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    for epoch in (1, 2, 3):
        run.log({"training": "a", "epoch": epoch})
        run.log({"training": "b", "epoch": epoch})
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"training": "a", "ep')  # cut short
    run.forget("a", after_epoch=1)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    kept = [(line["training"], line["epoch"]) for line in lines]
    assert kept == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]


def test_checkpoints_give_back_the_last_state_that_was_written(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run", CONFIG)
    like = {"w": jnp.zeros(3), "inner": [jnp.zeros((), jnp.int32)]}
    assert run.checkpoints("t").last_epoch == 0 and run.checkpoints("t").restore(like) is None
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0)
    checkpoints = run.checkpoints("t")
    history = []
    for epoch in (1, 2):
        history.append({"epoch": epoch})
        state = {"w": jnp.full(3, epoch / 3), "inner": [jnp.int32(epoch)]}
        checkpoints.save(epoch, state, history, last=False)
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 1000)
    checkpoints.save(3, state, [*history, {"epoch": 3}], last=False)  # too soon to be written
    assert run.checkpoints("t").last_epoch == 2
    state, told = run.checkpoints("t").restore(like)
    assert told == history
    np.testing.assert_array_equal(state["w"], np.full(3, 2 / 3, np.float32))
    assert int(state["inner"][0]) == 2


def test_what_a_killed_process_was_writing_is_in_nobodys_way(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    temporary_name(folder / "config.json").write_text('{"conf')
    RunFolder(folder, CONFIG)
    (folder / "config.json").unlink()
    (folder / ".hidden").touch()
    with pytest.raises(ValueError, match="holds no run"):
        prepare_folder(folder)


def test_a_run_that_another_process_just_begins_is_not_refused(tmp_path, monkeypatch):
    exists = Path.exists

    def then_begun(self, **options):
        there = exists(self, **options)
        if self.name == "config.json" and not there:
            monkeypatch.undo()
            RunFolder(tmp_path / "run", CONFIG)
        return there

    monkeypatch.setattr(Path, "exists", then_begun)
    prepare_folder(tmp_path / "run")
    RunFolder(tmp_path / "run", CONFIG)


def test_of_two_runs_that_begin_at_once_the_one_that_came_first_is_refused(tmp_path, monkeypatch):
    """Both have seen an empty folder; the second to write its configuration keeps it."""
    write = folder.write_json

    def then_overwritten(path, values):
        write(path, values)
        write(path, values | {"config": values["config"] | {"seed": 7}})

    monkeypatch.setattr(folder, "write_json", then_overwritten)
    with pytest.raises(ValueError, match="seed: 7 there, 0 here"):
        RunFolder(tmp_path / "run", CONFIG)


def test_seconds_of_all_processes_count(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    assert search_seconds(run.folder, 0) == 0
    for process, seconds in (("a", 1.0), ("b", 2.0), ("a", 4.0)):
        run.note_search(0, "targets", process, seconds)
    run.note_search(0, "targets_2", "a", 10.0)
    run.note_search(1, "targets", "a", 100.0)
    assert search_seconds(run.folder, 0, "targets") == 6.0
    assert search_seconds(run.folder, 0) == 16.0
