"""Learning from targets that are made of each batch."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from stripes import DATASET, make

from dsl_jax.config import LearnConfig
from dsl_jax.data.augmentation import augment
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.learning import train
from dsl_jax.learning.objectives import target_objective
from dsl_jax.learning.train import learn
from dsl_jax.networks.frozen import frozen_stages
from dsl_jax.networks.sampler import Sampler, first_weights

KEY = jax.random.key(0)
CONFIG = LearnConfig(epochs=2, batch_size=16, learning_rate=0.1, statistics_images=32)
IMAGES, LABELS = DATASET.normalize(DATASET.train.images), DATASET.train.labels
STAGES = frozen_stages(make(seed=1), IMAGES)
GENERATOR = np.random.default_rng(4)
SHARED = SharedTargets(
    STAGES,
    tuple(
        GENERATOR.normal(size=(3, *shape)).astype(np.float32)
        for shape in [(5, 5, 4), (2, 2, 4), (1, 1, 4)]
    ),
    np.float32([0.3, 0.5, 0.7]),
    4 * np.eye(3, dtype=np.float32),
    propagates=True,
)
SAMPLER = Sampler(
    SHARED.replace(propagates=False),
    tuple(
        first_weights(KEY, (size, size, 4), 3, hidden=5)
        | {"last": GENERATOR.normal(size=(3, 3, 5, 4)).astype(np.float32)}
        for size in (5, 2, 1)
    ),
)


def leaves(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(result.network))]


@pytest.mark.parametrize(("targets", "devices"), [(SHARED, None), (SHARED, 2), (SAMPLER, 2)])
def test_it_is_learning_from_the_same_targets_made_before(targets, devices):
    mesh = devices and Mesh(np.array(jax.devices()[:devices]), ("images",))
    ours = learn(KEY, make(), DATASET, targets, CONFIG, mesh=mesh)
    made = SearchResult(tuple(map(np.asarray, targets.of(IMAGES, LABELS))), ())
    theirs = learn(KEY, make(), DATASET, made, CONFIG)
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert ours.history[-1]["train_loss"] < ours.history[0]["train_loss"]


def test_an_augmented_image_has_the_targets_of_itself(monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=1, augment=True, flip=True, crop_padding=3)
    step, seen = train.take_step, []

    def recorded(key, params, optimizer, rest, objective, images, labels, rates, program):
        # By hand, before the step gives its state's memory away.
        changed = DATASET.normalize(
            np.asarray(augment(key, images, padding=config.crop_padding, flip=config.flip))
        )
        network = nnx.merge(program.graph, params, rest, copy=True)
        expected = target_objective(network, changed, SHARED.of(changed, labels), config)
        found = step(key, params, optimizer, rest, objective, images, labels, rates, program)
        seen.append((float(found[2]), float(expected)))
        return found

    monkeypatch.setattr(train, "take_step", recorded)
    learn(KEY, make(), DATASET, SHARED, config)
    assert len(seen) == 4
    for loss, expected in seen:
        assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": SHARED.directions[::-1]}, r"have shapes \[\(1, 1, 4\), .* same widths"),
        ({"directions": SHARED.directions[1:]}, r"have shapes \[\(2, 2, 4\), .* same widths"),
        ({"logits": np.eye(4, 3, dtype=np.float32)}, "for 4 classes, but there are 3"),
        ({"stages": STAGES[:-1]}, "but their stages return"),
        ({"logits": np.full((3, 3), np.nan, np.float32)}, "not finite: search them again"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(changes, message):
    targets = SHARED.replace(**changes)
    with pytest.raises(ValueError, match=message):
        learn(KEY, make(), DATASET, targets, CONFIG)


def test_a_sampler_takes_no_targets_of_clusters_or_of_moved_images():
    sampler = Sampler(SHARED, SAMPLER.weights)  # SHARED propagates
    with pytest.raises(ValueError, match="give it what class_part_targets returns"):
        learn(KEY, make(), DATASET, sampler, CONFIG)
