"""Where a search begins: what is compared, and what a start saves."""

import functools
import importlib

import numpy as np
import pytest
from sweep_results import rows_of
from tiny_search import TINY_SEARCH

from dsl_jax.evolution.fitness import output_shapes
from dsl_jax.evolution.image import SearchResult

FLAGS = [
    *TINY_SEARCH,
    "--num_train=100",
    "--config.validation_size=20",
    "--config.search.layers[3].generations=1",
    "--config.sampler.epochs=2",
    "--sweep.searched_images=60",
    "--sweep.num_images=4",
]


@pytest.mark.usefixtures("one_device")
def test_other_images_are_searched_from_each_start(experiment, tmp_path, monkeypatch):
    from common import few_searches, sweep_points

    generator, searched = np.random.default_rng(0), []

    def instead(key, stages, dataset, split, config, progress, starts=None):
        searched.append((split.ids, starts))
        count, shapes = len(split.images), output_shapes(stages, dataset.image_shape)
        found = tuple(generator.normal(size=(count, *s)).astype(np.float32) for s in shapes)
        value = -float(len(searched))
        return SearchResult(found, tuple(np.full((count, n), value) for n in (3, 2, 1, 2)))

    @functools.cache
    def few_instead(config, count):
        _, stages, dataset = known[config]
        split = sweep_points.first_images(dataset, 0, count)
        return instead(None, stages, dataset, split, config, False)

    def search_few(config, dataset, stages, folder, count):
        known[config] = folder, stages, dataset
        return few_instead(config, count)

    known = {}
    monkeypatch.setattr(few_searches, "search_few", search_few)
    monkeypatch.setattr(sweep_points, "search_images", instead)
    folder = tmp_path / "sweep"
    assert experiment("starts")(*FLAGS, f"--output_dir={folder}") == 0
    (noisy, none), (few, without), (others, common), (again, proposed) = searched
    assert none is without is None and len(few) == 60
    assert not set(few) & set(others)
    assert list(noisy) == list(others) == list(again)
    assert [len(h) for h in common] == [4] * 4
    np.testing.assert_array_equal(common[-1], proposed[-1])  # the logits are the class's
    assert any((ours != theirs).any() for ours, theirs in zip(common, proposed, strict=True))
    rows = rows_of(folder)
    assert [row["cross_entropy"] for row in rows if row["layer"] == 2] == [1, 3, 4]
    assert len(rows) == 3 * (3 + 2 + 1 + 2)
    assert (folder / "starts.png").exists()


def test_what_is_saved_is_counted_in_generations_of_the_noisy_start():
    script = importlib.import_module("starts")
    noisy = np.array([2.0, 1.0, 0.5, 0.4])
    assert script.saved(np.array([0.3, 0.2, 0.1, 0.1]), noisy) == 3
    assert script.saved(np.array([1.5, 0.9, 0.4, 0.3]), noisy) == 1
    assert script.saved(np.array([1.5, 0.9, 0.8, 0.7]), noisy) == -1
    assert script.saved(np.array([1.5, 1.2, 1.1, 1.0]), noisy) == -2
