"""A run with a sampler: the same as by hand, damaged, and its report."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import finish, scores, tiny_config, tiny_data, weights

import dsl_jax as dsl
from dsl_jax.keys import SAMPLER, SEARCH, TRAINING, purpose_key
from dsl_jax.runs.untrained import make_network, make_stages

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
CONFIG = dataclasses.replace(
    tiny_config(),
    searched="sampler",
    sampler=dsl.SamplerConfig(images=30, hidden=4, epochs=2, batch_size=8, held_out=0.2),
    target_controls=("class_part",),
    variants=("all_layers",),
)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("sampler") / "run"
    return folder, finish(CONFIG, folder, data)


def test_it_is_not_learned_before_all_are_searched(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="not all images have been searched: run phase"):
        dsl.run(CONFIG, tmp_path / "run", data, phase="learn", progress=False)


def test_it_learns_what_a_sampler_of_the_first_images_proposes(finished, data):
    folder, results = finished
    stages, first = make_stages(CONFIG, data, 0), slice(30)
    images = data.normalize(data.train.images[first])
    ids, labels = data.train.ids[first], data.train.labels[first]
    found = dsl.search(
        purpose_key(0, SEARCH), stages, images, labels, CONFIG.search, ids=ids, chunk_size=16
    )
    run = dsl.load_run(folder)
    store = run.targets["seed_0"]
    kept = store.read()
    np.testing.assert_array_equal(store.ids, ids)
    for ours, theirs in zip(kept.representations, found.representations, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)  # of 16 bits
    key = purpose_key(0, SAMPLER)
    targets = dsl.learn_sampler(key, stages, kept, images, labels, 10, CONFIG.sampler).targets
    for name, learned_from in (("all_layers", targets), ("all_layers_class_part", targets.shared)):
        network = make_network(CONFIG, data, 0, CONFIG.learner_groups)
        learned = dsl.learn(purpose_key(0, TRAINING), network, data, learned_from, CONFIG.learn)
        expected, ours = nnx.state(learned.network), nnx.state(run.networks[f"seed_0/{name}"])
        jax.tree.map(np.testing.assert_array_equal, ours, expected)
    assert results["all_layers_class_part"].role == "control"
    assert results["all_layers"].candidates == 30 * (3 * 13 + 3 * 10)


def test_a_damaged_sampler_is_named_and_learned_again_by_repair(finished, data, tmp_path):
    template, results = finished
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    assert dsl.verify_run(folder) == []
    path = folder / "seed_0/sampler.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (damage,) = dsl.verify_run(folder)
    assert "sampler.npz is damaged" in str(damage)
    assert scores(finish(CONFIG, folder, data, repair=True)) == scores(results)
    assert path.exists()  # though all that learns from it was finished
    assert dsl.verify_run(folder) == []
    jax.tree.map(np.testing.assert_array_equal, weights(folder), weights(template))


def test_the_report_says_what_the_sampler_predicts(finished):
    text = (finished[0] / "report.md").read_text()
    assert "of 30 images at most, from which a sampler has learned" in text
    assert "What the sampler predicts" in text and "natural and class part" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cycles": 2}, "cycles is 2: the search sampler has only one"),
        ({"target_controls": ("permuted",)}, "target control of the search sampler 'permuted'"),
    ],
)
def test_what_a_sampler_does_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
