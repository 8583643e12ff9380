"""A sampler: learned from searched targets, it proposes those of other images."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from drawn_keys import recording_key
from toy_search import CONFIG, KEY, STAGES, data, image_stage, vector_stage

from dsl_jax.config import SamplerConfig
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.images import search
from dsl_jax.networks.sampler import Sampler, propose
from dsl_jax.targets.sampling import learn_sampler, split_rows

IMAGES, _ = data(120)
LABELS = np.arange(120) % 5
SAMPLER = SamplerConfig(hidden=16, epochs=40, batch_size=20, learning_rate=0.01, held_out=0.2)


def normal(h):
    """Each row of mean 0 and variance 1, in float64."""
    flat = np.asarray(h, np.float64).reshape(len(h), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return (flat / flat.std(axis=1, keepdims=True)).reshape(np.shape(h))


def made_targets(images, labels):
    """Of which a part is the image's, one the class's, and one a function of both."""
    generator, found = np.random.default_rng(5), []
    first = np.asarray(image_stage(images))
    for h in (first, np.asarray(vector_stage(first))):
        code = generator.normal(size=(5, *h.shape[1:]))[labels]
        sign = np.sign(generator.normal(size=(5, *[1] * (h.ndim - 2), h.shape[-1])))[labels]
        bent = np.maximum(normal(h) * sign, 0)
        found.append(normal(0.2 * normal(h) + 0.5 * code + 2 * bent).astype(np.float32))
    logits = np.eye(5, dtype=np.float32)[labels] * 4
    return SearchResult((*found, logits), ())


@pytest.fixture(scope="module")
def learned():
    return learn_sampler(KEY, STAGES, made_targets(IMAGES, LABELS), IMAGES, LABELS, 5, SAMPLER)


def test_it_learns_what_depends_on_image_and_class_and_is_nearer_to_what_it_has_not_seen(learned):
    for shares in learned.unexplained:
        assert shares.shape == (41,)
        assert shares.min() < 0.6 * shares[0]
    fresh, _ = data(300)
    fresh, labels = fresh[200:], np.arange(100) % 5
    wanted = made_targets(fresh, labels).representations
    ours, common = (made.of(fresh, labels) for made in (learned.targets, learned.targets.shared))
    for block in (0, 1):
        near, far = (np.mean(normal(wanted[block]) * np.asarray(t[block])) for t in (ours, common))
        assert near > far + 0.02
    np.testing.assert_allclose(ours[-1], wanted[-1], atol=1e-5)


def test_what_is_held_out_is_measured_on_images_that_it_did_not_learn_from():
    random = np.random.default_rng(0).normal(size=(120, 4, 4, 3)).astype(np.float32)
    noise = made_targets(IMAGES, LABELS)
    noise = SearchResult((normal(random).astype(np.float32), *noise.representations[1:]), ())
    config = dataclasses.replace(SAMPLER, epochs=60, hidden=64)
    found = learn_sampler(KEY, STAGES, noise, IMAGES, LABELS, 5, config)
    shares = found.unexplained[0]
    assert 0.9 < shares.min() < shares[-1]  # noise is learned by heart, and not predicted
    # The weights are those of the best epoch.
    _, held_out = split_rows(KEY, LABELS, 5, config)
    targets, labels = noise.representations[0][held_out], LABELS[held_out]
    natural = normal(image_stage(IMAGES[held_out])).astype(np.float32)
    shared = found.targets.shared
    predicted = shared.cosines[0] * natural + shared.directions[0][labels]
    predicted += propose(found.targets.weights[0], natural, labels)
    left = np.sum((targets - predicted) ** 2) / np.sum(targets**2)
    assert left == pytest.approx(shares.min(), rel=1e-3)


def test_no_two_draws_have_the_same_key():
    key, config = recording_key(4, drawn := [], "words"), dataclasses.replace(SAMPLER, epochs=3)
    learn_sampler(key, STAGES, made_targets(IMAGES, LABELS), IMAGES, LABELS, 5, config)
    jax.effects_barrier()
    assert len(set(drawn)) == len(drawn) > 2 * config.epochs  # of two blocks


def test_targets_have_the_cosine_of_the_search_and_without_weights_are_the_classs(learned):
    first = image_stage(IMAGES)
    made = learned.targets.of(IMAGES, LABELS)
    shared = learned.targets.shared
    for block, h in enumerate((first, vector_stage(first))):
        cosines = (normal(h) * np.asarray(made[block])).reshape(120, -1).mean(axis=1)
        np.testing.assert_allclose(cosines, shared.cosines[block], atol=1e-3)
    # Without epochs' weights there is nothing but the class.
    nothing = tuple(jax.tree.map(np.zeros_like, w) for w in learned.targets.weights)
    for ours, theirs in zip(
        Sampler(shared, nothing).of(IMAGES, LABELS), shared.of(IMAGES, LABELS), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 7), (6, 2, 7)])
def test_a_proposal_is_two_layers_with_the_label_between(shape):
    generator = np.random.default_rng(1)
    x, first, last = (generator.normal(size=s) for s in (shape, (7, 3), (3, 7)))
    between, labels = generator.normal(size=(5, 3)), np.array([0, 1, 2, 3, 4, 0])
    hidden = x @ first + between[labels].reshape(6, *[1] * (x.ndim - 2), 3)
    hidden *= 0.5 * (1 + np.vectorize(math.erf)(hidden / 2**0.5))
    weights = {"first": first, "labels": between, "last": last}
    np.testing.assert_allclose(propose(weights, x, labels), hidden @ last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(120, int)}, r"none is left of the classes \[1, 2, 3, 4\]"),
        ({"images": IMAGES[:50]}, "120 images have targets, but there are 50"),
        ({"config": SamplerConfig(held_out=0.001)}, "held_out is 0.001 of 120 images"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"images": IMAGES, "labels": LABELS, "config": SAMPLER} | change
    targets = made_targets(IMAGES, LABELS)
    with pytest.raises(ValueError, match=message):
        learn_sampler(KEY, STAGES, targets, num_classes=5, **given)


# --------------------------------------------------------------------------------------------
# The start of a search
# --------------------------------------------------------------------------------------------


def test_a_search_begins_with_what_is_proposed_if_that_is_fitter():
    images, labels = data(6)
    found = search(KEY, STAGES, images, labels, CONFIG)
    starts = jax.device_get(found.representations)
    again = search(KEY, STAGES, images, labels, CONFIG, starts=starts)
    for before, after in zip(found.fitness, again.fitness, strict=True):
        assert (after[:, 0] >= before[:, -1] - 1e-5).all()
    bad = tuple(-h for h in starts[1:])  # of later layers: what comes in is fitter
    kept = search(KEY, STAGES, images, labels, CONFIG, starts=(starts[0], *bad))
    assert (kept.fitness[1][:, 0] >= kept.fitness[0][:, -1] - 1e-5).all()


def test_what_an_image_begins_with_changes_no_other_image():
    images, labels = data(3)
    starts = jax.device_get(search(KEY, STAGES, images, labels, CONFIG).representations)
    whole = search(KEY, STAGES, images, labels, CONFIG, starts=starts)
    one = search(
        KEY, STAGES, images[2:], labels[2:], CONFIG, ids=[2], starts=tuple(h[2:] for h in starts)
    )
    for ours, theirs in zip(one.representations, whole.representations, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[2])


def test_starts_that_do_not_fit_are_refused():
    images, labels = data(3)
    starts = tuple(np.zeros((3, *s), np.float32) for s in ((4, 4, 3), (7,), (5,)))
    with pytest.raises(ValueError, match=r"starts have the shapes .* the stages need"):
        search(KEY, STAGES, images, labels, CONFIG, starts=starts[:2])
    starts[1][0, 0] = np.nan
    with pytest.raises(ValueError, match="starts are not all finite"):
        search(KEY, STAGES, images, labels, CONFIG, starts=starts)
