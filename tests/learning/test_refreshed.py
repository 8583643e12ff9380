"""Targets that are searched anew before each epoch, and their part along minus the gradient."""

import dataclasses
import gc
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from stripes import COUNT, DATASET, leaves, make, targets

from dsl_jax.config import LayerSchedule, LearnConfig, SearchConfig
from dsl_jax.evolution.fitness import unrelated
from dsl_jax.evolution.image import SearchResult
from dsl_jax.learning.evaluation import with_training_statistics
from dsl_jax.learning.refreshed import LABEL_LOGIT, along_gradient, refreshed
from dsl_jax.learning.train import learn
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.frozen import frozen_stages

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)
CONFIG = LearnConfig(epochs=2, batch_size=16, learning_rate=0.1, statistics_images=32)
SEARCH = SearchConfig(
    layers=(*[LayerSchedule(2, 0.2, 2.0)] * 2, LayerSchedule(0, 0.1), LayerSchedule(3, 0.1)),
    num_parents=3,
    num_explorers=6,
    num_refiners=8,
    initial_noise=5.0,  # not used
)
IMAGES, LABELS = DATASET.normalize(DATASET.train.images), DATASET.train.labels


@pytest.fixture(scope="module")
def network():
    """With the statistics of its images, and normalised blocks, as those that are searched."""
    network = ConvNet((12, 12, 1), 3, (4, 4, 4), normalize_blocks=True, rngs=nnx.Rngs(5))
    network.whiten(IMAGES)
    network.linear.kernel[...] *= 30  # so that what the logits lose to rounding is little
    return with_training_statistics(network, DATASET, np.arange(COUNT))


@pytest.fixture(scope="module")
def found(network):
    return refreshed(KEY, network, DATASET, SEARCH)


def natural(network):
    return [np.asarray(h) for h in network.representations(IMAGES)]


def standardized(h):
    return (h - h.mean()) / h.std()


def log_probabilities(network, block, h, images):
    """Of the images' labels, given representations of a block."""
    h = jnp.asarray(h, jnp.float32)
    for stage in frozen_stages(network)[block + 1 :]:
        h = stage(h)
    return np.asarray(jax.nn.log_softmax(h))[np.arange(len(h)), LABELS[images]]


def test_a_target_is_fitter_than_the_networks_own_and_near_it(network, found):
    own = natural(network)
    for block in (0, 1):
        before, after = (
            log_probabilities(network, block, h[block], np.arange(COUNT)) for h in (own, found[0])
        )
        assert (after >= before - 1e-4).all() and after.mean() > before.mean() + 0.02
        pairs = zip(own[block], found[0][block], strict=True)
        assert 0.8 < np.median([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]) < 0.999
    # The last block is not searched: it has the network's own, or what the target before becomes.
    moved = np.asarray(frozen_stages(network)[2](jnp.asarray(found[0][1])))
    is_own = np.isclose(found[0][2], own[2], atol=1e-4).all((1, 2, 3))
    is_moved = np.isclose(found[0][2], moved, atol=1e-4).all((1, 2, 3))
    assert (is_own | is_moved).all() and is_moved.any()
    logits = found[0][-1]
    np.testing.assert_array_equal(logits.argmax(1), LABELS)
    np.testing.assert_allclose(np.ptp(logits, 1), LABEL_LOGIT, rtol=1e-6)
    np.testing.assert_allclose(logits.mean(1), 0, atol=1e-6)


def test_the_cosine_is_that_to_finite_differences(network, found):
    """Of most images: where two pixels compete in a pool these fail."""
    cosines = along_gradient(network, DATASET, found)
    own, step = natural(network), 3e-3
    for block in (0, 1):
        errors, fitness = [], log_probabilities(network, block, own[block], np.arange(COUNT))
        for image in np.argsort(fitness)[:15]:  # the loss of others is rounded away
            h = standardized(own[block][image])
            moves = step * np.eye(h.size).reshape(-1, *h.shape)
            ups, downs = (
                log_probabilities(
                    network, block, [standardized(x) for x in h + sign * moves], image
                )
                for sign in (1, -1)
            )
            displacement = (found[0][block][image] - h).ravel()
            expected = np.corrcoef(displacement, ups - downs)[0, 1]
            errors.append(abs(cosines[block][image] - expected))
        assert np.median(errors) < 0.01


def test_a_search_by_an_unrelated_fitness_goes_nowhere(network, found):
    config = dataclasses.replace(SEARCH, fitness=unrelated)
    cosines = along_gradient(network, DATASET, refreshed(KEY, network, DATASET, config))
    ours = along_gradient(network, DATASET, found)
    for blind, seeing in zip(cosines[:2], ours, strict=False):
        assert abs(blind.mean()) < 4 * blind.std() / np.sqrt(COUNT) < seeing.mean()


def test_unrelated_fitness_is_spread_evenly_and_depends_on_nothing_but_its_row():
    logits = jax.random.normal(KEY, (4000, 3))
    values = np.asarray(unrelated(logits, jnp.int32(0)))
    np.testing.assert_array_equal(values, unrelated(logits, jnp.int32(2)))
    np.testing.assert_array_equal(values[::-1], unrelated(logits[::-1], jnp.int32(0)))
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 400).max() < 90
    assert len(np.unique(values)) > 3990
    for column in range(3):
        assert abs(np.corrcoef(values, logits[:, column])[0, 1]) < 0.05
    next_up = np.asarray(unrelated(jnp.nextafter(logits, jnp.inf), jnp.int32(0)))
    assert abs(np.corrcoef(values, next_up)[0, 1]) < 0.05
    assert np.isnan(unrelated(logits.at[3, 1].set(jnp.inf), jnp.int32(0))).tolist().count(True) == 1


def test_what_it_cannot_search_is_named(network, found):
    with pytest.raises(TypeError, match="config is a LearnConfig"):
        refreshed(KEY, network, DATASET, CONFIG)
    with pytest.raises(TypeError, match="dataset is a NoneType"):
        refreshed(KEY, network, None, SEARCH)
    more = jax.tree.map(lambda h: np.concatenate([h, h[:1]]), found)
    with pytest.raises(ValueError, match=f"{COUNT + 1} targets for {COUNT} training images"):
        along_gradient(network, DATASET, more)


def test_a_function_gives_each_epoch_its_targets():
    given, seen = [], []
    other = targets()._replace(representations=(*(-h for h in targets()[0][:-1]), targets()[0][-1]))

    def of_epoch(epoch, network):
        given.append(epoch)
        seen.append(np.asarray(network.representations(IMAGES)[-1]))
        return other if epoch == 1 else targets()

    config = dataclasses.replace(CONFIG, epochs=3)
    ours = learn(KEY, make(), DATASET, of_epoch, config)
    assert given == [0, 1, 2]
    assert not np.allclose(seen[0], seen[1]) and not np.allclose(seen[1], seen[2])
    # Those of the first epoch alone, the same as given before.
    same = learn(KEY, make(), DATASET, targets(), config)
    assert ours.history[0]["train_loss"] == same.history[0]["train_loss"]
    assert ours.history[1]["train_loss"] > same.history[1]["train_loss"]
    always = learn(KEY, make(), DATASET, lambda *_: targets(), config)
    for a, b in zip(leaves(always.network), leaves(same.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_last_epochs_targets_are_given_up_before_the_next_are_asked_for():
    """They would take memory from the search; no array of theirs is left by then."""
    last, alive = [], []

    def of_epoch(epoch, network):
        gc.collect()
        alive.extend(reference() is not None for reference in last)
        found = targets()._replace(representations=[jnp.array(h) for h in targets()[0]])
        last[:] = [weakref.ref(h) for h in found.representations]
        return found

    learn(KEY, make(), DATASET, of_epoch, dataclasses.replace(CONFIG, epochs=3))
    assert len(alive) == 2 * len(last) and not any(alive)


def test_of_several_devices_it_is_given_a_network_on_one():
    mesh, places = Mesh(np.array(jax.devices()[:2]), ("images",)), []

    def of_epoch(epoch, network):
        places.extend(leaf.devices() for leaf in jax.tree.leaves(nnx.state(network)))
        return targets()

    config = dataclasses.replace(CONFIG, epochs=1)
    learn(KEY, make(), DATASET, of_epoch, config, mesh=mesh)
    assert places and set(map(len, places)) == {1}


class Kept:
    """Checkpoints in memory."""

    def __init__(self):
        self.found = None

    def restore(self, like, identity):
        return self.found

    def save(self, epoch, state, history, identity, last):
        if epoch == 1:
            self.found = jax.tree.map(jnp.copy, state), list(history)


def test_a_training_that_goes_on_asks_for_the_epochs_that_are_left():
    kept, given, networks = Kept(), [], []

    def of_epoch(epoch, network):
        given.append(epoch)
        networks.append(network)
        return targets()

    first = learn(KEY, make(), DATASET, of_epoch, CONFIG, checkpoints=kept)
    again = learn(KEY, make(), DATASET, of_epoch, CONFIG, checkpoints=kept)
    assert given == [0, 1, 1]
    for a, b in zip(leaves(first.network), leaves(again.network), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(networks[0](IMAGES)).all()  # it is a copy, and lives on
    np.testing.assert_array_equal(networks[1](IMAGES), networks[2](IMAGES))


def test_the_network_that_it_is_given_is_the_one_that_is_validated():
    measured, given = [], []

    def measure(network):
        measured.append(np.asarray(network(IMAGES)))
        return {}

    def of_epoch(epoch, network):
        given.append(np.asarray(network(IMAGES)))
        return targets()

    learn(KEY, make(), DATASET, of_epoch, CONFIG, measure=measure)
    np.testing.assert_array_equal(given[1], measured[0])


def test_what_a_function_gives_is_checked():
    small = SearchResult(tuple(h[:-1] for h in targets()[0]), ())
    with pytest.raises(ValueError, match=re.escape(f"{COUNT - 1} targets for {COUNT} training")):
        learn(KEY, make(), DATASET, lambda *_: small, CONFIG)
    with pytest.raises(TypeError, match="the targets are a NoneType"):
        learn(KEY, make(), DATASET, lambda *_: None, CONFIG)


def test_a_network_whose_blocks_do_not_end_normalised_is_refused():
    network = ConvNet((12, 12, 1), 3, (4, 4, 4), rngs=nnx.Rngs(5))
    network.whiten(DATASET.normalize(DATASET.train.images))
    network = with_training_statistics(network, DATASET, np.arange(COUNT))
    message = r"block 0 of the network does not end normalised.* up to .* normalize_blocks=True"
    with pytest.raises(ValueError, match=message):
        refreshed(KEY, network, DATASET, SEARCH)
    with pytest.raises(ValueError, match=message):
        along_gradient(network, DATASET, targets())
