"""A run with controls of its targets: what each learned, put together again by hand."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import tiny_config, tiny_data

import dsl_jax as dsl
from dsl_jax import pipeline
from dsl_jax.config import TARGET_CONTROLS
from dsl_jax.evolution.operators import normalize
from dsl_jax.keys import CONTROL, SEARCH, TRAINING, purpose_key
from dsl_jax.runs.controlled import control_key
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.untrained import make_network, make_stages
from dsl_jax.targets import controls

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
KINDS = ("permuted", "class_displacement", "class_part", "shuffled_labels")
CONFIG = dataclasses.replace(tiny_config(), variants=("all_layers",), target_controls=KINDS)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("controls")
    with pytest.MonkeyPatch.context() as patch:  # as `one_device`, which is each test's
        patch.setattr(pipeline, "device_mesh", lambda *_: None)
        pipeline.run(CONFIG, folder, data, probes=False, progress=False)
    return folder


def trained_by_hand(data, blocks, logits):
    """The weights of the first cycle's learner, trained on these targets."""
    network = make_network(CONFIG, data, 0, CONFIG.learner_groups)
    targets = dsl.SearchResult((*blocks, logits), ())
    learned = dsl.learn(purpose_key(0, TRAINING), network, data, targets, CONFIG.learn)
    return jax.tree.leaves(nnx.state(learned.network))


def check(folder, name, expected, atol=0.0):
    for ours, theirs in zip(
        jax.tree.leaves(nnx.state(dsl.load_run(folder).networks[f"seed_0/{name}"])),
        expected,
        strict=True,
    ):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=atol)


def test_every_control_is_a_result_that_says_what_it_cost(folder):
    results = RunFolder(folder, CONFIG).results()
    for kind in KINDS:
        control = results[f"all_layers_{kind}"]
        assert (control.role, control.kind) == ("control", kind)
        searches = 2 if kind == "shuffled_labels" else 1
        assert control.candidates == searches * results["all_layers"].candidates
    networks = dsl.load_run(folder).networks
    heads = {str(np.asarray(network.linear.kernel[...])) for network in networks.values()}
    assert len(heads) == len(networks)  # no two learned the same


def test_permuted_is_learning_from_other_images_of_the_class(folder, data):
    *blocks, logits = dsl.TargetStore.open(folder / "seed_0/targets").read().representations
    others = controls.permuted_rows(control_key(0, "permuted", 1), data.train.labels)
    expected = trained_by_hand(data, [h[others] for h in blocks], logits[others])
    check(folder, "all_layers_permuted", expected)


def test_a_classs_displacement_and_part_are_those_of_its_own_class(folder, data):
    *targets, logits = dsl.TargetStore.open(folder / "seed_0/targets").read().representations
    h, blocks = data.normalize(data.train.images), {"class_displacement": [], "class_part": []}
    for stage, target in zip(make_stages(CONFIG, data, 0)[:-1], targets, strict=True):
        h = jax.jit(stage)(h)
        n = np.asarray(jax.vmap(normalize)(h))
        flat = [x.reshape(len(x), -1).astype(np.float64) for x in (n, target)]
        n_flat, t_flat = (x - x.mean(axis=1, keepdims=True) for x in flat)
        cosines = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            for a, b in zip(n_flat, t_flat, strict=True)
        ]
        c = np.mean(cosines)
        for kind, taken_away in (("class_displacement", 1.0), ("class_part", c)):
            made = np.empty_like(n_flat)
            for row, label in enumerate(data.train.labels):
                own = data.train.labels == label
                d = (flat[1] - taken_away * flat[0])[own].mean(axis=0)
                d = d - d.mean()
                d = d - (d @ n_flat[row]) / (n_flat[row] @ n_flat[row]) * n_flat[row]
                made[row] = c * n_flat[row] / n_flat[row].std()
                made[row] += np.sqrt(1 - c**2) * d / d.std()
            blocks[kind].append(made.reshape(target.shape).astype(np.float16))
    expected = {kind: trained_by_hand(data, found, logits) for kind, found in blocks.items()}
    for kind, weights in expected.items():
        check(folder, f"all_layers_{kind}", weights, atol=2e-2)
    apart = [np.abs(a - b).max() for a, b in zip(*expected.values(), strict=True)]
    assert max(apart) > 5e-2, "the two could be taken for one another"


def test_every_control_has_random_numbers_of_its_own():
    kinds, cycles = TARGET_CONTROLS, range(1, 9)
    keys = [control_key(0, kind, cycle) for kind in kinds for cycle in cycles]
    keys += [purpose_key(0, CONTROL, cycle) for cycle in cycles]
    assert len({str(jax.random.key_data(key)) for key in keys}) == len(keys)


def test_shuffled_labels_are_searched_for_by_the_same_key(folder, data):
    labels = controls.shuffled_labels(control_key(0, "shuffled_labels", 1), data.train.labels)
    found = dsl.search(
        purpose_key(0, SEARCH),
        make_stages(CONFIG, data, 0),
        data.normalize(data.train.images),
        labels,
        CONFIG.search,
        ids=data.train.ids,
    )
    store = dsl.TargetStore.open(folder / "seed_0/targets_shuffled_labels").read()
    for ours, theirs in zip(store.representations, found.representations, strict=True):
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype(ours.dtype))
