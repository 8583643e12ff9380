"""Which SGD is the best: validation decides."""

import dataclasses

import numpy as np
import pytest
from tiny_run import tiny_config, tiny_data

from dsl_jax.files import write_json
from dsl_jax.presets import get_preset
from dsl_jax.runs.comparison import compared, evaluate_probes
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.results import Trained

CONFIG = dataclasses.replace(
    get_preset("smoke", "digits"), variants=("sgd",), learner_groups=3, sgd_groups=(1, 2, 3)
)


def epoch(accuracy, loss, best_so_far=True):
    return {"validation_accuracy": accuracy, "validation_loss": loss, "best_so_far": best_so_far}


def trained_run(folder, scores, seed=0, config=CONFIG):
    run = RunFolder(folder / "run", config)
    for groups, score in scores.items():
        name = f"seed_{seed}/sgd_g{groups}"
        history = [epoch(0.1, 0.0), epoch(*score), epoch(1.0, 0.0, best_so_far=False)]
        trained = Trained("sgd", groups, 1, {}, 2, score[0], 0, 1.0, history)
        write_json(run.folder / name / "result.json", dataclasses.asdict(trained))
    return run


@pytest.mark.parametrize(
    ("scores", "best", "kept"),
    [
        ({1: (0.8, 0.3), 2: (0.9, 0.6), 3: (0.7, 0.1)}, "sgd_g2", ["sgd_g2", "sgd_g3"]),
        ({1: (0.9, 0.6), 2: (0.9, 0.3), 3: (0.9, 0.5)}, "sgd_g2", ["sgd_g2", "sgd_g3"]),
        ({1: (0.9, 0.6), 2: (0.8, 0.1), 3: (0.9, 0.5)}, "sgd_g3", ["sgd_g3"]),
    ],
)
def test_the_best_g_has_the_best_accuracy_or_of_equal_ones_the_lowest_loss(
    tmp_path, scores, best, kept
):
    chosen = compared(trained_run(tmp_path, scores))
    assert [training.name for training, _ in chosen] == kept
    assert [training.name for training, is_best in chosen if is_best] == [best]


def test_all_seeds_choose_the_best_g_together(tmp_path):
    config = dataclasses.replace(CONFIG, num_seeds=2)
    trained_run(tmp_path, {1: (0.9, 0.3), 2: (0.8, 0.3), 3: (0.7, 0.3)}, 0, config)
    run = trained_run(tmp_path, {1: (0.5, 0.3), 2: (0.8, 0.3), 3: (0.7, 0.3)}, 1, config)
    assert [training.name for training, is_best in compared(run) if is_best] == ["sgd_g2"]


def test_what_did_not_end_is_not_the_best(tmp_path):
    run, failed = trained_run(tmp_path, {1: (0.8, 0.3)}), {(0, "sgd_g2"), (0, "sgd_g3")}
    chosen = [(training.name, is_best) for training, is_best in compared(run, failed)]
    assert chosen == [("sgd_g1", True), ("sgd_g3", False)]
    none = failed | {(0, "sgd_g1")}
    assert [training.name for training, _ in compared(run, none)] == ["sgd_g3"]


def test_probes_of_images_of_one_class_are_left_out(caplog):
    """All else is trained by then: a run must not fail of it."""
    data = tiny_data()
    train = data.train._replace(labels=np.zeros_like(data.train.labels))
    found = evaluate_probes(tiny_config(), dataclasses.replace(data, train=train), None)
    assert found == {} and "training images are all of one class" in caplog.text
