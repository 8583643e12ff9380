"""The report's first sentences say what came out, and no more than is known."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from dsl_jax.presets import get_preset
from dsl_jax.reports.finding import best_method, finding
from dsl_jax.reports.intervals import in_percent, of_paired_seeds_and_images
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.results import Result

CONFIG = dataclasses.replace(get_preset("smoke", "digits"), learner_groups=1)
LABELS = np.arange(1000) % 10
DATASET = SimpleNamespace(test=SimpleNamespace(images=LABELS, labels=LABELS))


def result(accuracies, role, validation=0.9, **fields):
    seeds = len(accuracies)
    fields = {"groups": 1, "kind": "cycle" if role == "method" else "sgd", **fields}
    return Result(accuracies, (0.1,) * seeds, (validation,) * seeds, 1.0, role=role, **fields)


def results_of(ours, theirs):
    return {
        "all_layers": result(ours, "method", variant="all_layers"),
        "skip_block_0": result(ours, "method", validation=0.8, variant="skip_block_0"),
        "sgd_g1": result(theirs, "baseline", variant="sgd"),
    }


def keep(folder, name, wrong, seed=0):
    run = RunFolder(folder, CONFIG)
    predictions = np.where(np.isin(np.arange(1000), wrong), (LABELS + 1) % 10, LABELS)
    run.training(f"seed_{seed}/{name}")
    run.keep_predictions(f"seed_{seed}/{name}", predictions)


def test_the_method_is_chosen_by_validation():
    assert best_method(results_of((0.5,), (0.6,))) == "all_layers"
    assert best_method({"sgd_g1": result((0.6,), "baseline", variant="sgd")}) is None


def test_one_seed_is_compared_image_by_image_and_said_to_be_one(tmp_path):
    folder = tmp_path / "run"
    keep(folder, "all_layers", range(50))
    keep(folder, "sgd_g1", range(40))  # all of them wrong in both: the difference is sure
    text = finding(CONFIG, folder, DATASET, results_of((0.95,), (0.96,)))
    assert "Searched targets, all layers: 95.00 % of 1,000 test images right" in text
    assert "SGD with the same network: 96.00 %" in text
    assert "-1.00 (-1.62 to -0.38) points" in text and "differs significantly" in text
    assert "This is one seed" in text


def test_without_kept_predictions_there_is_no_verdict(tmp_path):
    text = finding(CONFIG, tmp_path, DATASET, results_of((0.95,), (0.96,)))
    assert "difference" not in text and "significantly" not in text


def test_several_seeds_are_compared_as_pairs(tmp_path):
    config = dataclasses.replace(CONFIG, num_seeds=3)
    results = results_of((0.95, 0.96, 0.97), (0.95, 0.97, 0.96))
    text = finding(config, tmp_path, DATASET, results)
    assert "over 3 seeds), is not distinguishable from 0" in text
    assert "one seed" not in text
    for seed, (ours, theirs) in enumerate(((50, 50), (40, 30), (30, 40))):
        keep(tmp_path / "run", "all_layers", range(ours), seed)
        keep(tmp_path / "run", "sgd_g1", range(500, 500 + theirs), seed)
    text = finding(config, tmp_path / "run", DATASET, results)
    assert "over 3 seeds and the test images), is not distinguishable from 0" in text
    right = {}
    for name, first in (("all_layers", 0), ("sgd_g1", 500)):
        counts = {"all_layers": (50, 40, 30), "sgd_g1": (50, 30, 40)}[name]
        wrong = [np.isin(np.arange(1000), range(first, first + count)) for count in counts]
        right[name] = ~np.array(wrong)
    exact = of_paired_seeds_and_images(right["all_layers"], right["sgd_g1"])
    assert f"difference, {in_percent(exact, sign=True)} points" in text


def test_as_many_epochs_are_said_of_the_last_cycle_alone(tmp_path):
    config = dataclasses.replace(CONFIG, cycles=3)
    results = results_of((0.95,), (0.96,))
    results["sgd_g1_long"] = result((0.97,), "baseline", variant="sgd", kind="long_sgd")
    for cycle, told in ((2, "the epochs of 3 cycles"), (3, "as many epochs")):
        later = result((0.95,), "method", validation=0.99, variant="all_layers", cycle=cycle)
        text = finding(config, tmp_path, DATASET, results | {f"all_layers_cycle_{cycle}": later})
        assert f"SGD with the same network and {told}: 97.00 %" in text
    del results["sgd_g1_long"]  # as with --config.controls
    text = finding(config, tmp_path, DATASET, results | {"all_layers_cycle_3": later})
    assert "SGD with the same network and the epochs of one cycle: 96.00 %" in text
