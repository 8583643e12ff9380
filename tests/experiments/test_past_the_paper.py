"""Experiments past the paper: cycles, and what makes a target learnable."""

import importlib
import json

import numpy as np
import pytest
from sweep_results import rows_of
from tiny_search import TINY_RUN as TINY

import dsl_jax
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.presets import get_preset
from dsl_jax.runs.untrained import make_stages

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.long
@pytest.mark.slow
def test_cycles_are_compared_with_sgd_seed_by_seed(experiment, tmp_path):
    folder = tmp_path / "cycles"
    flags = ["--num_seeds=2", "--config.cycles=2", "--config.controls=('first_targets',)"]
    flags += ["--config.sgd_groups=(1,2)", f"--output_dir={folder}"]
    assert experiment("cycles")(*TINY, *flags) == 0
    rows = rows_of(folder)
    names = ["all_layers", "all_layers_cycle_2", "all_layers_first_targets_2", "sgd_g1", "best_sgd"]
    assert [(r["seed"], r["training"]) for r in rows] == [(s, n) for s in (0, 1) for n in names]
    for seed in (0, 1):
        trained = folder / f"points/seed_{seed}/seed_{seed}"
        results = [json.loads((trained / f"sgd_g{g}/result.json").read_text()) for g in (1, 2)]
        (row,) = [r for r in rows if r["training"] == "best_sgd" and r["seed"] == seed]
        assert row["validation_accuracy"] == max(r["validation_accuracy"] for r in results)
    by_name = {n: [r["test_accuracy"] for r in rows if r["training"] == n] for n in names}
    mean = 100 * np.mean(np.subtract(by_name["all_layers_cycle_2"], by_name["sgd_g1"]))
    page = (folder / "report.md").read_text()
    (line,) = [line for line in page.splitlines() if "all layers, cycle 2 |" in line]
    assert f"| {mean:+.2f} (" in line
    (line,) = [line for line in page.splitlines() if "| searched targets, all layers |" in line]
    gained = 100 * np.mean(np.subtract(by_name["all_layers_cycle_2"], by_name["all_layers"]))
    assert line.split(" | ")[4].startswith(f"{gained:+.2f} (")
    candidates = {r["training"]: r["candidates"] for r in rows}
    assert candidates["all_layers_cycle_2"] > candidates["all_layers"] > candidates["sgd_g1"] == 0
    assert (folder / "cycles_all_layers.png").exists()


def test_one_cycle_is_compared_with_sgd_by_dots():
    cycles = importlib.import_module("cycles")
    rows = [
        {"dataset": "digits", "seed": seed, "title": title, "cycle": 1, "test_accuracy": 0.5}
        for seed in (0, 1)
        for title in ("searched targets", "SGD, G = 2")
    ]
    ((figure, caption),) = cycles.draw(rows).values()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()].count("SGD, G = 2") == 1
    assert "digits, 2 seeds" in caption


@pytest.mark.long
@pytest.mark.slow
def test_what_can_be_learned_is_measured_on_images_that_were_not_trained_on(
    experiment, tmp_path, no_test_image
):
    folder, options = tmp_path / "learnable", ("preset", "not_normalized_matching")
    flags = [f"--sweep.options={','.join(options)}", f"--output_dir={folder}"]
    assert experiment("learnable")(*TINY, *flags) == 0
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    split, key = dataset.validation, purpose_key(0, SEARCH)
    images = dataset.normalize(split.images)
    for option, row in zip(options, rows_of(folder), strict=True):
        loaded = dsl_jax.load_run(folder / "points" / f"{option}-0")
        stages = make_stages(loaded.config, dataset, 0)
        search = loaded.config.search
        found = dsl_jax.search(key, stages, images, split.labels, search, ids=split.ids)
        ours = loaded.networks["seed_0/all_layers"].representations(images)
        for layer in range(3):
            theirs = np.asarray(found.representations[layer])
            mine = np.asarray(ours[layer])
            if option == "not_normalized_matching":  # like its target but for these two
                mean = mine.mean(axis=(1, 2, 3), keepdims=True)
                mine = (mine - mean) / mine.std(axis=(1, 2, 3), keepdims=True)
            error = np.mean((mine - theirs) ** 2)
            share = 1 - error / np.mean((theirs - theirs.mean(axis=0)) ** 2)
            assert row[f"learnable_{layer}"] == pytest.approx(share, abs=1e-2)


@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_every_option_changes_the_preset(preset):
    learnable = importlib.import_module("learnable")
    config = get_preset(preset, "cifar10")
    points = learnable.define(config, learnable.Settings()).points
    assert len({str(point.config) for point in points}) == len(points)
    generations = {
        point.name: [layer.generations for layer in point.config.search.layers] for point in points
    }
    first = generations["preset-0"][0]
    assert generations["half_the_generations-0"][0] == first / 2
    assert generations["twice_the_generations-0"][0] == first * 2
