"""The ladder of controls: its rows, what it keeps of each test image, and its differences."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from common.predictions import with_predictions
from sweep_results import rows_of
from tiny_search import TINY_RUN as TINY

import dsl_jax
from dsl_jax.learning.evaluation import logits_of
from dsl_jax.presets import get_preset
from dsl_jax.reports.intervals import in_percent, of_paired_seeds_and_images


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_ladder_keeps_each_prediction_and_compares_pair_by_pair(experiment, tmp_path):
    folder = tmp_path / "ladder"
    flags = ["--seed=3", "--num_seeds=2", "--config.learn.epochs=1", "--config.sgd.epochs=1"]
    flags += ["--sweep.controls=permuted,channel_code", f"--output_dir={folder}"]
    flags += ["--config.variants=('all_layers','sgd')", "--config.cycles=2", "--config.controls=()"]
    flags += ["--sweep.best_sgd=learner_groups=2;sgd.learning_rate=0.3"]
    assert experiment("what_targets_carry")(*TINY, *flags) == 0

    rows = rows_of(folder)
    methods = ("all_layers", "all_layers_cycle_2")
    names = [f"{m}{c}" for m in methods for c in ("", "_permuted", "_channel_code")]
    expected = [*names, "sgd_g1", "sgd_g2"]
    assert [(r["seed"], r["training"]) for r in rows] == [(s, n) for s in (3, 4) for n in expected]
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    right = {}
    for seed in (3, 4):
        with np.load(folder / f"points/preset-g1-seed_{seed}.npz") as kept:
            np.testing.assert_array_equal(kept["labels"], dataset.test.labels)
            networks = dsl_jax.load_run(folder / f"points/preset-g1-seed_{seed}").networks
            for name in ("all_layers", "all_layers_permuted"):
                network = networks[f"seed_{seed}/{name}"]
                classes = logits_of(network, dataset, dataset.test).argmax(axis=1)
                np.testing.assert_array_equal(kept[name], classes)
                right[name, seed] = classes == dataset.test.labels
    assert rows[3]["natural_0"] != rows[0]["natural_0"]  # a trained network's
    (found,) = [r for r in rows if (r["seed"], r["training"]) == (3, "all_layers")]
    assert found["test_accuracy"] == pytest.approx(right["all_layers", 3].mean())
    assert found["natural_0"] + found["class_displacement_0"] + found["rest_0"] == pytest.approx(
        1, abs=1e-4
    )
    best = dsl_jax.load_run(folder / "points/best_sgd-seed_3").config
    assert (best.learner_groups, best.sgd.learning_rate) == (2, 0.3)

    ours, theirs = (
        np.stack([right[name, seed] for seed in (3, 4)])
        for name in ("all_layers", "all_layers_permuted")
    )
    value, low, high = (100 * x for x in of_paired_seeds_and_images(theirs, ours))
    page = (folder / "report.md").read_text()
    (line,) = [x for x in page.splitlines() if x.startswith("| permuted targets, all layers |")]
    assert f"{value:+.2f} ({low:+.2f} to {high:+.2f})" in line
    assert (folder / "ladder_0.png").exists()


def test_further_searches_and_depths_are_points_beside_the_presets():
    ladder = importlib.import_module("what_targets_carry")
    settings = ladder.Settings(groups=(1, 2), more="weak:search.layers[0].mutation_strength=0.01")
    config = dataclasses.replace(get_preset("laptop", "cifar10"), num_seeds=2, seed=5)
    points = ladder.define(config, settings).points
    assert [point.name for point in points] == [
        f"{search}-g{groups}-seed_{seed}"
        for seed in (5, 6)
        for search in ("preset", "weak")
        for groups in (1, 2)
    ]
    # A search is made once, for both depths.
    assert [point.candidates > 0 for point in points] == [True, False] * 4
    weak = points[2].config
    assert weak.search.layers[0].mutation_strength == 0.01 and weak.sgd_groups == (1,)
    assert weak.target_controls == ladder.CONTROLS
    with pytest.raises(ValueError, match=r"sweep\.best_sgd: 'fast' should read FIELD=VALUE"):
        ladder.define(config, dataclasses.replace(settings, best_sgd="fast"))
    with pytest.raises(ValueError, match=r"sweep\.more: preset is the preset's own search"):
        ladder.define(config, dataclasses.replace(settings, more="preset:cycles=2"))


def test_the_targets_of_a_training_that_diverged_are_not_asked_for():
    """Of a second cycle there are none where the first training diverged."""
    ladder = importlib.import_module("what_targets_carry")
    config = dataclasses.replace(get_preset("smoke", "digits"), cycles=2)
    nothing = SimpleNamespace(config=config)
    assert ladder.shares_of(nothing, None, 0, {"sgd_g1"}) == {}


def test_differences_are_of_pairs_and_sgd_at_its_best_stands_beside_all(tmp_path):
    ladder, random = importlib.import_module("what_targets_carry"), np.random.default_rng(0)
    labels, rows, right = np.zeros(200, np.uint8), [], {}
    (tmp_path / "points").mkdir()
    kinds = {"all_layers": "cycle", "all_layers_permuted": "permuted"}
    chances = {"all_layers": 0.5, "all_layers_permuted": 0.6, "sgd_g1": 0.7, "sgd_g3": 0.8}
    for seed in (1, 2):
        kept = {name: (random.random(200) > p).astype(np.uint8) for name, p in chances.items()}
        np.savez(tmp_path / f"points/{seed}.npz", labels=labels, **kept)
        for name, predictions in kept.items():
            right[name, seed] = predictions == 0
            rows.append(
                {
                    "dataset": "digits",
                    "search": ladder.BEST_SGD if name == "sgd_g3" else ladder.PRESETS_OWN,
                    "learner_groups": 1,
                    "seed": seed,
                    "training": name,
                    "title": name,
                    "kind": kinds.get(name, "sgd"),
                    "variant": "sgd" if "sgd" in name else "all_layers",
                    "cycle": 1,
                    "test_accuracy": right[name, seed].mean(),
                    "validation_accuracy": 0.5,
                    "predictions": f"points/{seed}.npz",
                }
            )
    rows = with_predictions(rows, tmp_path)
    lines = [line.split(" | ") for line in ladder.table(rows).splitlines() if " | " in line]
    by_title = {line[0].removeprefix("| "): line[1:] for line in lines}

    def difference(ours, theirs):
        pair = (np.stack([right[name, seed] for seed in (1, 2)]) for name in (ours, theirs))
        return in_percent(of_paired_seeds_and_images(*pair), sign=True)

    permuted, sgd, best = (by_title[x] for x in ("all_layers_permuted", "sgd_g1", ladder.BEST_SGD))
    assert permuted[2] == difference("all_layers_permuted", "all_layers")
    assert permuted[3] == difference("all_layers_permuted", "sgd_g1")
    assert permuted[4].removesuffix(" |") == difference("all_layers_permuted", "sgd_g3")
    assert best[2] == difference("sgd_g3", "all_layers") and sgd[3] == ""
    ((figure, _),) = ladder.draw(rows).values()
    assert [x.get_text() for x in figure.axes[0].get_yticklabels()] == [
        "all_layers_permuted",
        "sgd_g1",
        ladder.BEST_SGD,
    ]


def test_where_the_searched_targets_diverged_there_is_no_ladder():
    """None of the controls may take their place."""
    module = importlib.import_module("what_targets_carry")
    folder = Path(__file__).parents[2] / "results" / "carry-cifar10_map"
    points = [json.loads(path.read_text()) for path in sorted(folder.glob("points/*.json"))]
    rows = with_predictions([row for point in points for row in point["rows"]], folder)
    assert all(ladder.searched for ladder in module.ladders(rows))
    assert not list(module.ladders([row for row in rows if row["kind"] != "cycle"]))
