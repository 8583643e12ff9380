"""Where a search begins: what is compared, and what a start saves."""

import importlib

import numpy as np
import pytest
from sweep_results import rows_of
from tiny_search import TINY_SEARCH

FLAGS = [
    *TINY_SEARCH,
    "--num_train=100",
    "--config.validation_size=20",
    "--config.search.layers[3].generations=1",
    "--config.sampler.epochs=2",
    "--sweep.searched_images=60",
    "--sweep.num_images=4",
]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_other_images_are_searched_from_each_start(experiment, tmp_path):
    folder = tmp_path / "sweep"
    assert experiment("starts")(*FLAGS, f"--output_dir={folder}") == 0
    rows = rows_of(folder)
    first = {
        row["start"]: row["cross_entropy"]
        for row in rows
        if (row["layer"], row["generation"]) == (1, 0)
    }
    assert list(first) == ["noisy", "class", "sampler"]
    assert len(set(first.values())) == 3
    # Layer 0 has 2 generations, 1 has 1, 2 none, and the logits 1.
    assert len(rows) == 3 * (3 + 2 + 1 + 2)
    assert (folder / "starts.png").exists()


def test_what_is_saved_is_counted_in_generations_of_the_noisy_start():
    script = importlib.import_module("starts")
    noisy = np.array([2.0, 1.0, 0.5, 0.4])
    assert script.saved(np.array([0.3, 0.2, 0.1, 0.1]), noisy) == 3
    assert script.saved(np.array([1.5, 0.9, 0.4, 0.3]), noisy) == 1
    assert script.saved(np.array([1.5, 0.9, 0.8, 0.7]), noisy) == -1
    assert script.saved(np.array([1.5, 1.2, 1.1, 1.0]), noisy) == -2
