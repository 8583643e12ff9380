"""Results: the same after a way through JSON, and best epochs that are found in one place."""

import json

import pytest

from dsl_jax.files import DamagedFile
from dsl_jax.runs.results import Result, Trained, from_json, read_trained, to_json

TRAINED = Result(
    (0.5, 0.75), (1.0, 0.5), (0.5, 0.5), 3.0, "cycle", "method", "all_layers", 2, 1, False, 40, 2.0
)
PROBE = Result((0.25,), (2.0,), (0.5,), 1.0)


def test_results_are_the_same_after_a_way_through_json():
    results = {"all_layers": TRAINED, "linear_on_pixels": PROBE}
    assert from_json(json.loads(json.dumps(to_json(results)))) == results
    assert (PROBE.role, PROBE.groups) == ("reference", None)


def test_results_of_a_run_that_was_begun_before_they_had_a_class_are_read():
    probe = {
        "groups": None,
        "test_accuracy": [0.25],
        "test_loss": [2.0],
        "validation_accuracy": [0.5],
        "seconds": 1.0,
    }
    training = {
        "kind": "cycle",
        "role": "method",
        "variant": "all_layers",
        "groups": 2,
        "cycle": 1,
        "best_by_validation": False,
        "test_accuracy": [0.5, 0.75],
        "test_loss": [1.0, 0.5],
        "validation_accuracy": [0.5, 0.5],
        "seconds": 3.0,
        "candidates": 40,
        "search_seconds": 2.0,
    }
    assert from_json({"a": training, "b": probe}) == {"a": TRAINED, "b": PROBE}
    assert to_json({"a": TRAINED})["a"].keys() == training.keys()


def test_a_trainings_result_is_read_back_with_its_best_epoch(tmp_path):
    assert read_trained(tmp_path) is None
    values = {
        "variant": "sgd",
        "groups": 1,
        "cycle": 1,
        "network": {"widths": [4, 4, 4]},
        "best_epoch": 2,
        "validation_accuracy": 0.9,
        "images_left_out": 0,
        "seconds": 3.0,
        "history": [
            {"epoch": 1, "validation_accuracy": 0.8, "best_so_far": True},
            {"epoch": 2, "validation_accuracy": 0.9, "best_so_far": True},
            {"epoch": 3},
            {"epoch": 4, "validation_accuracy": 0.7, "best_so_far": False},
        ],
    }
    (tmp_path / "result.json").write_text(json.dumps(values))
    trained = read_trained(tmp_path)
    assert trained == Trained(**values)
    assert trained.best["epoch"] == trained.best_epoch == 2


@pytest.mark.parametrize("content", ("", '{"variant": "sgd"', '{"variant": "sgd"}', "[]"))
def test_a_damaged_result_is_named_and_says_what_to_do(tmp_path, content):
    """Nothing is trained again unasked, since the file may have a copy."""
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result.json is damaged .* or delete it, and"):
        read_trained(tmp_path)


def test_a_result_of_a_later_version_is_no_damage(tmp_path):
    """--repair deletes what is damaged."""
    (tmp_path / "result.json").write_text('{"variant": "sgd", "colour": "red"}')
    with pytest.raises(
        ValueError, match="has colour, which this version of dsl_jax does"
    ) as raised:
        read_trained(tmp_path)
    assert not isinstance(raised.value, DamagedFile)
