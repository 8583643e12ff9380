"""What is damaged in a run's folder; the damage itself is tested in end_to_end/test_damage.py."""

import dataclasses
import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsl_jax import files
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.presets import get_preset
from dsl_jax.runs import saved
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.results import Result, Trained
from dsl_jax.runs.verify import repair_run, verify_run
from dsl_jax.targets.fill import search_to_store

ARGUMENTS = {"image_shape": (12, 12, 1), "num_classes": 3, "widths": (4, 4, 4), "groups": 1}
CONFIG = get_preset("smoke", "digits")
HISTORY = [
    {"epoch": 1, "validation_accuracy": 0.5, "validation_loss": 1.0},
    {"epoch": 2, "validation_accuracy": 0.25, "validation_loss": 2.0},
]
TRAINED = Trained("sgd", 1, 1, ARGUMENTS, 1, 0.5, 0, 3.0, HISTORY)
RESULT = Result((0.5,), (1.0,), (0.5,), 3.0)


@pytest.fixture
def run(tmp_path):
    """A run of which one training, without targets, and its evaluation are done."""
    run = RunFolder(tmp_path / "run", CONFIG)
    run.finish("seed_0/sgd_g1", ConvNet(**ARGUMENTS, rngs=nnx.Rngs(0)), TRAINED)
    for epoch in HISTORY:
        run.log({"training": "seed_0/sgd_g1", **epoch})
    run.log({"search": "seed_0", "seconds": 1.0})
    run.log({"result": "sgd_g1", **dataclasses.asdict(RESULT)})
    run.keep_results({"sgd_g1": RESULT})
    (run.folder / "data.json").write_text(json.dumps(IDENTITY))
    return run


IDENTITY = {
    "name": "digits",
    "title": "digits",
    "image_shape": [28, 28, 1],
    "num_classes": 10,
    "mean": [0.0],
    "std": [1.0],
    "train": 2,
    "validation": 1,
    "test": 1,
    "sha256": "0",
}


def test_a_whole_run_is_whole_and_nothing_is_changed(run):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    assert verify_run(run.folder) == []
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run: give the folder of one"):
        verify_run(tmp_path)


def test_a_log_that_says_something_else_than_was_trained_is_written_again(run):
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    wrong = lines[1].replace("0.25", "0.26")
    path.write_text("".join([lines[0], wrong, lines[2], "{", "\n", lines[3], lines[0]]))
    (damage,) = verify_run(run.folder)
    assert "metrics.jsonl: 3 of 6 lines are damaged or double, and 1 are missing" in str(damage)
    repair_run(run.folder)
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)
    assert verify_run(run.folder) == []


def test_targets_of_another_search_are_named(run):
    """They are whole, and yet not this run's."""
    images = jax.random.normal(jax.random.key(0), (2, 4))
    stages = [lambda x: x] * 4
    path = run.folder / "seed_0" / "targets"
    layers = tuple(dataclasses.replace(layer, generations=0) for layer in CONFIG.search.layers[:3])
    search = dataclasses.replace(
        CONFIG.search, layers=(*layers, CONFIG.search.layers[3]), initial_noise=0.0
    )
    key = purpose_key(0, SEARCH)
    search_to_store(path, key, stages, images, jnp.array([0, 1]), search)
    (damage,) = verify_run(run.folder)
    assert "holds the targets of another search: " in str(damage)
    assert damage.mend is None


def test_what_the_system_does_not_let_be_read_stays(run, monkeypatch):
    def refused(*_):
        raise OSError(errno.EIO, "Input/output error")

    network = run.folder / "seed_0/sgd_g1"
    run.keep_predictions("seed_0/sgd_g1", np.zeros(3, int))
    before = sorted(network.rglob("*"))
    monkeypatch.setattr(files, "open", refused, raising=False)
    monkeypatch.setattr(saved, "_checkpointer", refused)
    said = [str(damage) for damage in repair_run(run.folder)]
    assert len(said) == 2 and all("whether it is damaged is not known" in line for line in said)
    assert sorted(network.rglob("*")) == before
