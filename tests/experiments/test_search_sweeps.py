"""The sweeps that search and train nothing: of fitness, and of diversity."""

import importlib

import numpy as np
import pytest
from sweep_results import rows_of
from tiny_search import TINY_SEARCHES

from dsl_jax.presets import get_preset

pytestmark = pytest.mark.usefixtures("one_device")


# ---- fitness


def test_one_layer_alone_is_the_search_with_generations_there_only():
    from common.sizes import with_population
    from fitness_scaling import alone

    config = alone(get_preset("paper", "cifar10").search, 1, 7)
    assert [layer.generations for layer in config.layers] == [0, 7, 0, 0]
    assert config.layers[1].mutation_strength == 0.2
    config = with_population(config, 240)
    assert (config.num_parents, config.num_explorers, config.num_refiners) == (20, 100, 120)
    with pytest.raises(ValueError, match="multiple of 12"):
        with_population(config, 100)


# ---- diversity


def test_a_population_without_rows_leaves_its_cell_empty():
    script = importlib.import_module("fitness_scaling")
    same = {"smoothing": "noise", "images": 8, "standard_error": 0.1}
    rows = [
        same | {"layer": layer, "population": n, "generation": g, "cross_entropy": n + g}
        for layer, populations in ((0, (12, 24, 36)), (1, (24,)))
        for n in populations
        for g in (0, 6)
    ]
    *_, first, second = script.table(rows).strip().splitlines()
    assert first.split(" | ")[2:] == ["36", "18", "30", "42 |"]
    assert second.split(" | ")[2:] == ["", "", "30", " |"]


def test_diversity_counts_the_kept_candidates_of_the_first_runs():
    from diversity_scaling import measure_runs

    candidates = np.float32([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    fitness = np.log([0.9, 0.4, 0.6, 0.7, 0.51])
    rows = measure_runs(candidates, fitness)
    assert [(r["runs"], r["kept"]) for r in rows] == [(1, 1), (2, 1), (4, 3), (5, 4)]
    # Shares of 2/3 and 1/3; then 1/2, 1/4, 1/4.
    expected = [1, 1, 1.8, 1 / (1 / 4 + 1 / 16 + 1 / 16)]
    np.testing.assert_allclose([r["n_eff"] for r in rows], expected, rtol=1e-5)
    assert {row["n_eff"] for row in measure_runs(candidates, np.full(5, -1.0))} == {None}


@pytest.mark.slow
def test_runs_of_one_image_are_independent(experiment, tmp_path):
    folder = tmp_path / "diversity"
    options = ["--sweep.num_images=3", "--sweep.num_runs=3", "--sweep.images_a_point=2"]
    generous = [
        "--config.search.layers[0].generations=30",
        "--config.search.layers[2].generations=10",
    ]
    flags = [*TINY_SEARCHES, *options, *generous, f"--output_dir={folder}"]
    assert experiment("diversity_scaling")(*flags) == 0
    rows = rows_of(folder)
    assert len({row["image"] for row in rows}) == 3
    assert all(row["n_eff"] == "" for row in rows if row["kept"] == 0)
    rows = [row for row in rows if row["kept"]]
    several = [row for row in rows if row["kept"] == 3 and row["layer"] < 3]
    assert several and all(row["n_eff"] > 1.01 for row in several)
    assert all(1 <= row["n_eff"] <= row["vendi"] * 1.001 <= row["kept"] * 1.002 for row in rows)


def test_one_size_of_the_search_is_refused_before_it_is_searched(experiment, capsys):
    for flag in ("--sweep.populations=96", "--sweep.factors=0,1"):
        assert experiment("diversity_scaling")(flag, "--dry_run") == 2
        assert "one size of the search is no sweep" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_diversity_is_measured_for_every_size_of_the_search(experiment, tmp_path):
    folder = tmp_path / "sizes"
    tiny = [flag for flag in TINY_SEARCHES if "search.num_" not in flag]
    options = ["--sweep.num_images=2", "--sweep.num_runs=2", "--sweep.populations=(12,24)"]
    options += ["--sweep.population=24", "--sweep.factors=(0,2)"]
    assert experiment("diversity_scaling")(*tiny, *options, f"--output_dir={folder}") == 0
    rows = [row for row in rows_of(folder) if row["layer"] == 0 and row["runs"] == 2]
    sizes = [(row["population"], row["generations"], row["image"]) for row in rows]
    images = list(dict.fromkeys(image for _, _, image in sizes))
    assert len(images) == 2
    expected = [(12, "2-1-0-1"), (24, "2-1-0-1"), (24, "0-0-0-0"), (24, "4-2-0-2")]
    assert sizes == [(*size, image) for size in expected for image in images]
    assert "population" in (folder / "report.md").read_text()
    assert (folder / "diversity_size.png").stat().st_size > 10_000
