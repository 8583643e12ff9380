"""A run's folder: bound to one configuration, and what it remembers."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax.files import DamagedFile, read_json, temporary_name
from dsl_jax.presets import get_preset
from dsl_jax.runs import folder, saved
from dsl_jax.runs.folder import RunFolder, finished_report, prepare_folder, search_seconds
from dsl_jax.runs.results import Result

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
    with open(run.folder / "metrics.jsonl", "ab") as file:
        file.write(b'7\n{"training": "\xe2", "epoch": 9}\n{"training": "a", "ep')  # cut short
    run.forget("a", after_epoch=1)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    kept = [(line["training"], line["epoch"]) for line in lines]
    assert kept == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]


def test_an_evaluation_that_is_made_again_is_told_once(tmp_path):
    """Killed after it was logged, and before its results were kept."""
    run = RunFolder(tmp_path / "run", CONFIG)
    for record in ({"training": "a", "epoch": 1}, {"search": "seed_0"}, {"result": "a"}):
        run.log(record)
    run.forget_evaluation()
    assert (run.folder / "metrics.jsonl").read_text() == '{"training": "a", "epoch": 1}\n'


TRAINING = {"settings": {"key": [0], "config": {"learning_rate": 1.0}}, "numbers": {}}


def test_checkpoints_give_back_the_last_state_that_was_written(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run", CONFIG)
    like = {"w": jnp.zeros(3), "inner": [jnp.zeros((), jnp.int32)]}
    assert run.checkpoints("t").restore(like, TRAINING) is None
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0)
    checkpoints = run.checkpoints("t")
    history = []
    for epoch in (1, 2):
        history.append({"epoch": epoch})
        state = {"w": jnp.full(3, epoch / 3), "inner": [jnp.int32(epoch)]}
        checkpoints.save(epoch, state, history, TRAINING, last=False)
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 1000)
    checkpoints.save(
        3, state, [*history, {"epoch": 3}], TRAINING, last=False
    )  # too soon to be written
    state, told = run.checkpoints("t").restore(like, TRAINING)
    assert told == history
    np.testing.assert_array_equal(state["w"], np.full(3, 2 / 3, np.float32))
    assert int(state["inner"][0]) == 2


def cut(path):
    """What a power cut, or a full disk, may leave of a file."""
    path.write_bytes(path.read_bytes()[:10])


DAMAGES = {
    "all files are cut": lambda step: [cut(p) for p in step.rglob("*") if p.is_file()],
    "the history is cut": lambda step: cut(step / "history" / "metadata"),
    "the data are gone": lambda step: [shutil.rmtree(p) for p in [*step.glob("state/**/d")][::-1]],
    "the state is gone": lambda step: shutil.rmtree(step / "state"),
    "all is gone": lambda step: [shutil.rmtree(p) for p in step.iterdir() if p.is_dir()],
}


@pytest.fixture
def two_checkpoints(tmp_path, monkeypatch):
    """A run with the checkpoints of two epochs, which it has logged, and the state's structure."""
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0)
    run, like = RunFolder(tmp_path / "run", CONFIG), {"w": jnp.zeros(300)}
    checkpoints, history = run.checkpoints("t"), []
    for epoch in (1, 2):
        history = [*history, {"epoch": epoch, "numbers": [1.0] * 9}]
        run.log({"training": "t", "epoch": epoch})
        checkpoints.save(epoch, {"w": jnp.full(300, float(epoch))}, history, TRAINING, last=False)
    return run, like


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_of_two_checkpoints_the_older_one_is_taken_if_the_newest_is_damaged(
    two_checkpoints, damage, caplog
):
    run, like = two_checkpoints
    damage(run.folder / "t" / "checkpoints" / "2")
    checkpoints = run.checkpoints("t")
    state, history = checkpoints.restore(like, TRAINING)
    assert state["w"][0] == 1 and [record["epoch"] for record in history] == [1]
    (told,) = [r.getMessage() for r in caplog.records if r.name == saved.__name__]
    assert "checkpoints/2 is damaged: training goes on from the checkpoint of epoch 1" in told
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]  # the second comes again
    checkpoints.save(2, {"w": jnp.full(300, 2.0)}, [*history, {"epoch": 2}], TRAINING, last=True)
    assert run.checkpoints("t").restore(like, TRAINING)[0]["w"][0] == 2


def test_another_trainings_checkpoints_are_not_gone_on_from(two_checkpoints):
    run, _ = two_checkpoints
    other = TRAINING | {"settings": {"key": [1], "config": {"learning_rate": 2.0}}}
    with pytest.raises(
        ValueError, match=r"(?s)another training.*config.learning_rate: 1.*key\[0\]"
    ):
        run.checkpoints("t").restore({"w": jnp.zeros(7)}, other)  # of another shape, too
    folder = run.folder / "t" / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


def test_checkpoints_of_before_they_knew_their_training_are_gone_on_from(two_checkpoints, caplog):
    run, like = two_checkpoints
    path = run.folder / "t" / "checkpoints" / "2" / "history" / "metadata"
    kept = json.loads(path.read_text())
    del kept["training"]
    path.write_text(json.dumps(kept))
    state, _ = run.checkpoints("t").restore(like, TRAINING)
    assert state["w"][0] == 2 and "is of an older version" in caplog.text


def test_without_a_checkpoint_that_can_be_read_it_is_said_what_to_do(two_checkpoints):
    run, like = two_checkpoints
    folder = run.folder / "t" / "checkpoints"
    for epoch in ("1", "2"):
        cut(folder / epoch / "history" / "metadata")
    with pytest.raises(ValueError, match=r"no checkpoint in .*t/checkpoints can be read: .*delete"):
        run.checkpoints("t").restore(like, TRAINING)
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


@pytest.mark.parametrize("name", ("seed_0", "seed_0/sgd_g1", "seed_0/sgd_g1/checkpoints"))
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, name):
    run = RunFolder(tmp_path / "run", CONFIG)
    (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (run.folder / name).touch()
    with pytest.raises(ValueError, match=f"{run.folder / name} is a file, where a folder"):
        RunFolder(run.folder, CONFIG).checkpoints("seed_0/sgd_g1")


def test_a_run_from_before_a_setting_existed_is_this_run_with_its_default(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    saved_config = read_json(run.folder / "config.json")
    for part, name in (("search", "num_searches"), ("sgd", "batch_multiple")):
        del saved_config["config"][part][name]
    del saved_config["config"]["chunk_size"]
    (run.folder / "config.json").write_text(json.dumps(saved_config))
    RunFolder(run.folder, CONFIG)
    (run.folder / "report.md").write_text("done")
    run.keep_results({"a": Result((0.5,), (1.0,), (0.5,), 1.0)})
    assert finished_report(run.folder, CONFIG) is not None
    other = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, num_searches=2))
    with pytest.raises(ValueError, match=r"config.search.num_searches: 1 there, 2 here"):
        RunFolder(run.folder, other)
    saved_config["config"]["search"]["of_the_future"] = 3
    (run.folder / "config.json").write_text(json.dumps(saved_config))
    with pytest.raises(ValueError, match="of_the_future: 3 there, None here"):
        RunFolder(run.folder, CONFIG)


def test_damaged_results_are_evaluated_again(tmp_path, caplog):
    run = RunFolder(tmp_path / "run", CONFIG)
    (run.folder / "report.md").write_text("done")
    (run.folder / "results.json").touch()
    assert run.results() is None
    assert "results.json is damaged (it is empty): evaluating again" in caplog.text
    assert finished_report(run.folder, CONFIG) is None


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


def test_of_two_runs_that_begin_at_once_the_one_that_came_second_is_refused(tmp_path, monkeypatch):
    """Both have seen an empty folder; the first to write its configuration keeps it."""
    write = folder.write_json

    def too_late(path, values, only_new):
        write(path, values | {"config": values["config"] | {"seed": 7}})
        write(path, values, only_new)

    monkeypatch.setattr(folder, "write_json", too_late)
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


def test_a_damaged_note_of_a_search_loses_its_seconds_alone(tmp_path, caplog):
    run = RunFolder(tmp_path / "run", CONFIG)
    run.note_search(0, "targets", "a", 1.0)
    (run.folder / "seed_0" / "search-targets-b.json").touch()
    assert search_seconds(run.folder, 0) == 1.0
    assert "search-targets-b.json is damaged (it is empty): its seconds are not" in caplog.text


class Planted:
    """What an attacker may put in a folder that others open: it runs when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_that_is_read_from_a_folder_is_executed(tmp_path):
    run = RunFolder(tmp_path / "run", CONFIG)
    path, executed = run.folder / "seed_0" / "sgd_g1" / folder.PREDICTIONS, tmp_path / "executed"
    run.keep_predictions("seed_0/sgd_g1", np.array([1, 2]))
    np.testing.assert_array_equal(folder.read_predictions(path.parent), [1, 2])
    with open(path, "wb") as file:
        np.savez(file, predictions=np.array([Planted(executed)], object))
    with pytest.raises(DamagedFile, match=f"{folder.PREDICTIONS} is damaged .*allow_pickle=False"):
        folder.read_predictions(path.parent)
    assert not executed.exists()
    with open(path, "rb") as file, np.load(file, allow_pickle=True) as arrays:
        arrays["predictions"]
    assert executed.exists()  # the plant works, where it is allowed to
    for source in Path(folder.__file__).parents[1].rglob("*.py"):
        assert "pickle" not in source.read_text().replace("allow_pickle=False", ""), source
