"""Targets that are searched anew before each epoch: what each method learns, and what is kept."""

import importlib

import numpy as np
import pytest
from no_training import record_trainings
from sweep_results import rows_of
from tiny_search import TINY_SEARCH

import dsl_jax
from dsl_jax.learning.evaluation import with_training_statistics
from dsl_jax.learning.result import LearnResult

FLAGS = [
    *[flag for flag in TINY_SEARCH if "layers" not in flag],
    "--sweep.num_train=60",
    "--sweep.validation_size=20",
    "--config.learn.epochs=2",
    "--sweep.num_seeds=1",
]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_each_method_learns_its_own_targets_of_every_epoch(experiment, tmp_path, monkeypatch):
    script, learned, networks = importlib.import_module("refresh"), {}, []

    def recorded(network, dataset, targets, config):
        network = with_training_statistics(network, dataset, np.arange(len(dataset.train.images)))
        networks.append((network, dataset))
        if targets is not None:
            learned[targets.method] = [targets(epoch, network) for epoch in (0, 1)]
        record = {"validation_accuracy": 0.5, "seconds": 0.0, "train_loss": 0.1}
        history = [record | {"epoch": n, "best_so_far": n == 1} for n in (1, 2)]
        return LearnResult(network, history)

    record_trainings(monkeypatch, recorded)
    folder = tmp_path / "sweep"
    assert experiment("refresh")(*FLAGS, f"--output_dir={folder}") == 0

    network, dataset = networks[0]
    labels = dataset.train.labels
    own, others, steps, blind = (
        [found.representations for found in learned[method]] for method in script.METHODS[:-1]
    )
    assert not np.allclose(own[0][0], own[1][0]) and not np.allclose(own[0][0], blind[0][0])
    natural = dsl_jax.learning.refreshed.own_representations(network, dataset)
    sources = []
    for image, target in enumerate(others[0][1]):
        (source,) = np.flatnonzero([(target == mine).all() for mine in own[0][1]])
        assert labels[source] == labels[image] and source != image
        sources.append(source)
    moved = natural[1] + (own[0][1] - natural[1])[sources]
    moved -= moved.mean((1, 2, 3), keepdims=True)
    moved /= moved.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(steps[0][1], moved, atol=1e-3)

    # As far from the network's own representation as the first 200 images, here all of them.
    for far, ours, theirs in zip(natural, own[1], blind[1], strict=False):
        mean = [np.mean(far * h, axis=(1, 2, 3)) for h in (ours, theirs)]
        np.testing.assert_allclose(mean[1], mean[0].mean(), atol=2e-3)

    rows = rows_of(folder)
    assert [(row["method"], row["epoch"]) for row in rows] == [
        (method, epoch) for method in script.METHODS for epoch in (0, 1, 2)
    ]
    cosines = dsl_jax.along_gradient(network, dataset, learned["own"][1])
    assert rows[2]["along_gradient_0"] == pytest.approx(cosines[0].mean(), abs=1e-4)
    assert rows[2]["along_gradient_0"] > 0.02 > abs(rows[11]["along_gradient_0"])
    text = (folder / "report.md").read_text()
    assert (
        "| searched anew | block 0 | " in text and "minus permuted steps | minus unrelated" in text
    )
    assert (folder / "refresh.png").exists()


def test_a_search_is_short_and_the_cost_is_that_of_all_epochs():
    script = importlib.import_module("refresh")
    config = dsl_jax.get_preset("laptop", "cifar10")
    settings = script.Settings(methods=("own", "sgd"), generations=4, strength=0.2)
    with pytest.raises(ValueError, match=r"give one, as \('all_layers','sgd'\)"):
        script.define(config, settings)
    config = dsl_jax.get_preset("laptop", "cifar10")
    config = script.dataclasses.replace(config, variants=("skip_block_0", "sgd"))
    own, sgd = script.define(config, settings).points
    *blocks, logits = own.config.search.layers
    assert [layer.generations for layer in blocks] == [4, 4, 4] and not logits.generations
    assert {float(layer.mutation_strength) for layer in blocks} == {0.2}
    assert own.config.variants == ("skip_block_0",) and sgd.config.variants == ("sgd",)
    images = config.num_train - script.plan.image_counts(config)[1]
    assert own.candidates == config.learn.epochs * images * own.config.search.candidates_per_image
    assert own.seconds > sgd.seconds and not sgd.candidates
    with pytest.raises(ValueError, match=r"normalize_blocks is False: .* set it to True"):
        script.define(script.dataclasses.replace(config, normalize_blocks=False), settings)
    with pytest.raises(ValueError, match="unknown: choose one of own"):
        script.define(config, script.Settings(methods=("best",)))
