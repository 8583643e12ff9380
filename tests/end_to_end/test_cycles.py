"""Cycles: which images are searched again, and a whole run of two cycles with its controls."""

import dataclasses
import itertools
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import empty_pictures
from tiny_search import TINY_RUN

import dsl_jax
from dsl_jax import keys, pipeline
from dsl_jax.config import CycleConfig
from dsl_jax.files import read_json
from dsl_jax.learning.evaluation import representations_of

KEY = jax.random.key(0)
TINY = [*TINY_RUN, "--variants=all_layers,sgd"]


# ---- which images are searched


@pytest.fixture(scope="module")
def dataset():
    return dsl_jax.load_dataset("digits", num_train=60, validation_size=20)


@pytest.fixture(scope="module")
def network(dataset):
    network = dsl_jax.ConvNet(dataset.image_shape, 10, (4, 4, 4), rngs=nnx.Rngs(0))
    network.whiten(dataset.normalize(dataset.train.images))
    return network


@pytest.fixture(scope="module")
def probabilities(network, dataset):
    logits = representations_of(network, dataset, dataset.train)[-1].astype(np.float64)
    unnormalised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return unnormalised / unnormalised.sum(axis=1, keepdims=True)


def test_all_wrong_or_unsure_images_are_chosen(network, dataset, probabilities):
    labels = dataset.train.labels
    own = probabilities[np.arange(len(labels)), labels]
    median = float(np.median(own))
    expected = {
        CycleConfig(): np.arange(len(labels)),
        CycleConfig(images="wrong"): np.flatnonzero(probabilities.argmax(axis=1) != labels),
        CycleConfig(images="unsure", confidence=median): np.flatnonzero(own < median),
    }
    for cycle, rows in expected.items():
        ours = pipeline.choose_images(KEY, network, dataset, cycle)
        np.testing.assert_array_equal(ours, rows)
    assert 0 < len(expected[CycleConfig(images="wrong")]) < len(labels)


def test_a_share_of_them_is_drawn_at_random(network, dataset):
    half = CycleConfig(share=0.5)
    first, same = (pipeline.choose_images(KEY, network, dataset, half) for _ in range(2))
    other = pipeline.choose_images(jax.random.key(1), network, dataset, half)
    np.testing.assert_array_equal(first, same)
    assert len(first) == len(np.unique(first)) == len(other) == 20
    assert not np.array_equal(first, other)
    none = dataclasses.replace(half, share=0.001)
    assert len(pipeline.choose_images(KEY, network, dataset, none)) == 0


def test_every_purpose_of_every_cycle_has_a_key_of_its_own():
    names = ("SEARCH_NETWORK", "STATISTICS", "SEARCH", "LEARNER")
    names += ("TRAINING", "CHOICE", "CONTROL", "SAMPLER")
    purposes = [getattr(keys, name) for name in names]
    different = {
        tuple(jax.random.key_data(keys.purpose_key(*which)).tolist())
        for which in itertools.product((0, 1), purposes, (1, 2, 3))
    }
    assert len(different) == 2 * 8 * 3


# ---- a whole run


@pytest.fixture(scope="module", autouse=True)
def quick():
    """On one device, as each of eight would compile every search, and without pictures."""
    with pytest.MonkeyPatch.context() as patch, empty_pictures():
        patch.setattr(pipeline, "device_mesh", lambda *_: None)
        yield


CYCLES = ["--cycles=3", "--config.later_cycles[0].share=0.5"]
NEVER_UNSURE = [
    "--config.later_cycles[1].images=unsure",
    "--config.later_cycles[1].confidence=1e-9",
]


@pytest.fixture(scope="module")
def run(experiment):
    return experiment("main")


@pytest.fixture(scope="module")
def consumed():
    """For each training on targets, in order: the parameters and the targets that it began with."""
    return []


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory, consumed):
    folder = tmp_path_factory.mktemp("runs") / "cycles"

    def learn(key, network, dataset, targets, *arguments, **options):
        consumed.append((parameters(network), targets.read().representations))
        return dsl_jax.learn(key, network, dataset, targets, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "learn", learn)
        assert run(*TINY, *CYCLES, *NEVER_UNSURE, f"--output_dir={folder}") == 0
    return folder


def parameters(network):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(network, nnx.Param)))


def results_of(folder):
    return read_json(folder / "results.json")


@pytest.mark.slow
def test_the_first_cycle_is_the_run_without_cycles(run, finished, tmp_path):
    assert run(*TINY, f"--output_dir={tmp_path / 'one'}") == 0
    ours, alone = results_of(finished), results_of(tmp_path / "one")
    for name, result in alone.items():
        for field in ("test_accuracy", "test_loss", "validation_accuracy", "groups"):
            assert ours[name][field] == result[field], (name, field)


@pytest.mark.slow
def test_a_later_cycle_searches_the_trained_network(finished, dataset):
    loaded = dsl_jax.load_run(finished)
    (row,) = np.flatnonzero(
        loaded.targets["seed_0/targets_all_layers_cycle_2"].ids[3] == dataset.train.ids
    )
    store = loaded.targets["seed_0/targets_all_layers_cycle_2"]
    assert len(store.ids) == 20
    stages = dsl_jax.frozen_stages(loaded.networks["seed_0/all_layers"])
    key = pipeline.purpose_key(0, pipeline.SEARCH, cycle=2)
    found = dsl_jax.search(
        key,
        stages,
        dataset.normalize(dataset.train.images[row : row + 1]),
        dataset.train.labels[row : row + 1],
        loaded.config.later_cycles[0].search,
        ids=dataset.train.ids[row : row + 1],
        chunk_size=store.chunk_size,
    )
    for mine, theirs in zip(found.representations, store.read([3]).representations, strict=True):
        np.testing.assert_array_equal(np.asarray(mine).astype(theirs.dtype), theirs)


@pytest.mark.slow
def test_stage_search_does_every_search_whose_network_is_trained(run, finished, tmp_path):
    """So that other processes can help with a later cycle's search."""
    folder = tmp_path / "helped"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    store, control, network = (
        folder / "seed_0" / name
        for name in ("targets_all_layers_cycle_2", "all_layers_natural_targets_2", "all_layers")
    )
    shutil.rmtree(store)
    shutil.rmtree(control)
    command = [*TINY, *CYCLES, *NEVER_UNSURE, "--phase=search", f"--output_dir={folder}"]
    network.rename(tmp_path / "not_trained_yet")
    assert run(*command) == 0
    assert not store.exists()
    (tmp_path / "not_trained_yet").rename(network)
    assert run(*command) == 0
    before = finished / "seed_0" / store.name
    ours, theirs = (dsl_jax.TargetStore.open(path).read() for path in (store, before))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert not control.exists()  # nothing is trained


@pytest.mark.slow
def test_images_that_are_not_searched_again_keep_their_targets(finished):
    folder = finished / "seed_0"
    assert not (folder / "targets_all_layers_cycle_3").exists()  # no image was unsure
    stores = [
        dsl_jax.TargetStore.open(folder / name)
        for name in ("targets", "targets_all_layers_cycle_2")
    ]
    run_folder = pipeline.RunFolder(finished, dsl_jax.load_run(finished).config)
    names = ("targets", "targets_all_layers_cycle_2", "targets_all_layers_cycle_3")
    targets = pipeline.open_targets(run_folder, 0, names)
    ours, first, second = (t.read().representations for t in (targets, *stores))
    again = np.isin(stores[0].ids, stores[1].ids)
    for layer, values in enumerate(ours):
        np.testing.assert_array_equal(values[again], second[layer])
        np.testing.assert_array_equal(values[~again], first[layer][~again])


@pytest.mark.slow
def test_each_training_goes_on_from_its_network_and_learns_its_targets(finished, consumed):
    loaded = dsl_jax.load_run(finished)
    first, second, natural = (
        dsl_jax.TargetStore.open(finished / "seed_0" / f"targets{name}")
        for name in ("", "_all_layers_cycle_2", "_all_layers_natural_targets_2")
    )
    expected = {  # where it starts, and which search lies over the first
        "all_layers": (None, None),
        "all_layers_cycle_2": ("all_layers", second),
        "all_layers_cycle_3": ("all_layers_cycle_2", second),  # no image was unsure
        "all_layers_first_targets_2": ("all_layers", None),
        "all_layers_first_targets_3": ("all_layers_first_targets_2", None),
        "all_layers_natural_targets_2": ("all_layers", natural),
        "all_layers_natural_targets_3": ("all_layers_natural_targets_2", natural),
        "all_layers_fresh_network": (None, second),
    }
    untrained = consumed[0][0]
    for (name, (start, over)), (begun, targets) in zip(expected.items(), consumed, strict=True):
        network = loaded.networks[f"seed_0/{start}"] if start else None
        wanted = untrained if network is None else parameters(network)
        jax.tree.map(np.testing.assert_array_equal, begun, wanted)
        again = np.isin(first.ids, over.ids if over else [])
        for layer, ours in enumerate(targets):
            old = first.read().representations[layer]
            np.testing.assert_array_equal(ours[~again], old[~again], err_msg=name)
            if over:
                np.testing.assert_array_equal(ours[again], over.read().representations[layer])
    trained = parameters(loaded.networks["seed_0/all_layers"])
    kernels = [jax.tree.leaves(tree)[-1] for tree in (trained, untrained)]
    assert not np.array_equal(*kernels)  # else this test shows nothing


@pytest.mark.slow
def test_an_interrupted_later_search_goes_on_with_the_images_it_began_with(
    run, finished, tmp_path, monkeypatch
):
    folder = tmp_path / "interrupted"
    shutil.copytree(finished, folder)
    (folder / "results.json").unlink()
    path = "seed_0/targets_all_layers_cycle_2"
    store = dsl_jax.TargetStore.open(folder / path, "a")
    store.discard(store.num_chunks - 1)
    monkeypatch.setattr(pipeline, "choose_images", lambda *_: np.arange(5))  # rounded otherwise
    flags = [*CYCLES, *NEVER_UNSURE, "--phase=search"]
    assert run(*TINY, *flags, f"--output_dir={folder}") == 0
    ours, theirs = (dsl_jax.TargetStore.open(root / path) for root in (folder, finished))
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    jax.tree.map(np.testing.assert_array_equal, ours.read(), theirs.read())


@pytest.mark.slow
def test_natural_targets_are_the_networks_own_representations(finished, dataset):
    loaded = dsl_jax.load_run(finished)
    store = loaded.targets["seed_0/targets_all_layers_natural_targets_2"]
    network = loaded.networks["seed_0/all_layers"]
    chosen = np.isin(dataset.train.ids, store.ids)
    assert chosen.sum() == 20  # the control searches as many images as the cycle
    own = [h[chosen] for h in representations_of(network, dataset, dataset.train)]
    found = store.read().representations
    for mine, theirs in zip(found[:-1], own[:-1], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=5e-3)
    assert not np.allclose(found[-1], own[-1], atol=5e-3)  # the logits are evolved


@pytest.mark.slow
def test_the_report_has_the_controls_and_what_each_row_cost(finished):
    results = results_of(finished)
    assert {
        "all_layers_cycle_2",
        "all_layers_cycle_3",
        "all_layers_first_targets_3",
        "all_layers_natural_targets_3",
        "all_layers_fresh_network",
        "sgd_g1_long",
    } <= set(results)
    config = dsl_jax.load_run(finished).config
    first = 40 * config.search.candidates_per_image
    second = 20 * config.later_cycles[0].search.candidates_per_image
    assert results["all_layers_first_targets_3"]["candidates"] == first
    assert results["all_layers_cycle_3"]["candidates"] == first + second
    assert results["sgd_g1_long"]["candidates"] == 0
    page = (finished / "report.md").read_text()
    assert "searched targets, all layers, cycle 3" in page and f"{first + second:,}" in page
    assert "no search of blocks, cycle 2 (reference)" in page
