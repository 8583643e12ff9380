"""One search per class, and the targets that are made of it."""

import dataclasses
from importlib import import_module

import jax
import numpy as np
import pytest
from drawn_keys import recording_key
from jax.sharding import Mesh
from threadpoolctl import threadpool_limits
from toy_search import CONFIG, KEY, STAGES, data, image_stage, logits_stage, vector_stage

from dsl_jax.config import SharedConfig
from dsl_jax.evolution import shared
from dsl_jax.evolution.clusters import find_centres
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.shared import search_shared
from dsl_jax.targets import controls

COSINES = (0.3, 0.6)
IMAGES, LABELS = data(40)  # five classes


def normal(x):
    """Of mean 0 and variance 1, but for the epsilon."""
    x = x - x.mean()
    return x / np.sqrt((x**2).mean() + 1e-5)


def moved(natural, direction, cosine):
    """In float64: what is orthogonal to the natural one, by projection of flat vectors."""
    n = normal(np.asarray(natural, np.float64)).ravel()
    d = np.asarray(direction, np.float64).ravel()
    d = d - d.mean()
    d -= n * (n @ d) / (n @ n)
    d *= np.sqrt(len(d)) / np.linalg.norm(d)
    return (cosine * n + np.sqrt(1 - cosine**2) * d).reshape(np.shape(natural))


def likelihood(logits, label):
    logits = np.asarray(logits, np.float64)
    return logits[:, label] - np.log(np.exp(logits).sum(axis=1))


def found(config=CONFIG, key=KEY, images=IMAGES, labels=LABELS, mesh=None, **options):
    options = {"cosines": COSINES, "images_per_class": 4} | options
    return search_shared(key, STAGES, images, labels, config, SharedConfig(**options), mesh=mesh)


@pytest.fixture(scope="module")
def result():
    return found()


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_a_fitness_is_the_mean_over_images_on_each_platform(platform, monkeypatch):
    """Also where an accelerator's last batch of them is a smaller one."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda h, **ways: ways[platform](h))
    monkeypatch.setattr(shared, "AT_ONCE", 2)
    naturals, directions = np.split(jax.random.normal(KEY, (8, 8)), [5])
    got = shared._mean_fitness(naturals, 0.3, lambda h: (h**3).sum(axis=1), directions)
    each = [[(moved(n, d, 0.3) ** 3).sum() for d in directions] for n in naturals]
    np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-4)


@pytest.mark.parametrize("strategy", ["representation_ga", "SNES"])
def test_fitness_rises_and_is_the_mean_over_the_images_as_the_direction_moves_them(
    strategy, result
):
    if strategy != CONFIG.strategy:
        result = found(dataclasses.replace(CONFIG, strategy=strategy))
        assert all((trace[:, -1] > trace[:, 0]).all() for trace in result.fitness[:2])
    assert [h.shape for h in result.targets.directions] == [(5, 4, 4, 3), (5, 7)]
    assert [f.shape for f in result.fitness] == [(5, 9), (5, 6), (5, 5)]
    for trace in result.fitness:
        assert (np.diff(trace, axis=1) >= 0).all()
    for label in range(5):
        h = IMAGES[label == LABELS][:4]
        for block, (stage, rest) in enumerate(
            zip(STAGES, ((vector_stage, logits_stage), (logits_stage,)), strict=False)
        ):
            direction = result.targets.directions[block][label]
            h = np.stack([moved(n, direction, COSINES[block]) for n in np.asarray(stage(h))])
            logits = h.astype(np.float32)
            for later in rest:
                logits = later(logits)
            expected = likelihood(logits, label).mean()
            np.testing.assert_allclose(result.fitness[block][label, -1], expected, atol=1e-5)
        last = likelihood(result.targets.logits[[label]], label)[0]
        np.testing.assert_allclose(result.fitness[-1][label, -1], last, atol=1e-5)


def test_the_next_layer_sees_the_images_as_the_kept_direction_has_moved_them():
    """With the parents' mean, the best of a first population alone, and the logits as they came."""
    layers = (CONFIG.layers[0], *(dataclasses.replace(x, generations=0) for x in CONFIG.layers[1:]))
    result = found(dataclasses.replace(CONFIG, target="parent_mean", layers=layers))
    for label in range(5):
        h = np.asarray(image_stage(IMAGES[label == LABELS][:4]))
        first, second = (directions[label] for directions in result.targets.directions)
        h = np.stack([moved(n, first, COSINES[0]) for n in h]).astype(np.float32)
        h = np.stack([moved(n, second, COSINES[1]) for n in np.asarray(vector_stage(h))])
        logits = np.asarray(logits_stage(h.astype(np.float32)))
        expected = likelihood(logits, label).mean()
        np.testing.assert_allclose(result.fitness[1][label], [expected], atol=1e-5)
        mean = logits.mean(axis=0)
        assert abs(np.corrcoef(result.targets.logits[label], mean)[0, 1] - 1) < 1e-5
    # 18 directions in each block's first population, 14 children in each of 8 generations.
    assert result.candidates == 5 * (2 * 18 + 8 * 14 + 1)


def test_a_class_has_its_own_random_numbers_and_no_neighbours(result):
    order = np.random.default_rng(0).permutation(40)
    order = order[np.argsort(LABELS[order] == 2, kind="stable")]  # class 2 comes last
    twos = np.flatnonzero(LABELS == 2)
    order[-len(twos) :] = twos  # and its own images in their order
    again = found(images=IMAGES[order], labels=LABELS[order])
    for ours, theirs in zip(
        (*again.targets.directions, again.targets.logits),
        (*result.targets.directions, result.targets.logits),
        strict=True,
    ):
        np.testing.assert_array_equal(ours[2], theirs[2])
    assert not np.array_equal(result.targets.directions[0][0], result.targets.directions[0][1])
    other = found(key=jax.random.key(8))
    assert not np.array_equal(other.targets.directions[0], result.targets.directions[0])


def test_devices_of_a_mesh_search_a_class_each_and_change_no_bit(result, monkeypatch):
    used, search_class = [], shared._search_class

    def watched(key, stages, images, *rest):
        used.append(next(iter(images.devices())))
        return search_class(key, stages, images, *rest)

    monkeypatch.setattr(shared, "_search_class", watched)
    mesh = Mesh(np.array(jax.devices()[:2]), ("images",))
    again = found(mesh=mesh)
    assert set(used) == set(jax.devices()[:2]) and len(used) == 5
    jax.tree.map(np.testing.assert_array_equal, again.targets.directions, result.targets.directions)
    np.testing.assert_array_equal(again.targets.logits, result.targets.logits)
    jax.tree.map(np.testing.assert_array_equal, again.fitness, result.fitness)


def test_candidates_are_counted_as_they_are_tried(result):
    # 18 in each layer's first population; 14 children in each of 8 + 5 + 4 generations.
    assert result.candidates == 5 * (3 * 18 + 17 * 14)


def test_targets_of_a_batch_have_the_cosine_and_are_what_the_control_makes(result):
    shared = dataclasses.replace(result.targets, propagates=False)
    made = shared.of(IMAGES, LABELS)
    naturals = controls.Naturals(STAGES, IMAGES)
    given = SearchResult((*made[:-1], result.targets.logits[LABELS]), ())
    expected = controls.natural_plus(shared.directions, COSINES, given, naturals, LABELS)
    for ours, theirs in zip(made, expected.representations, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for block, natural in enumerate(naturals.read(np.arange(40))):
        for image in (0, 7):
            pair = np.corrcoef(np.ravel(made[block][image]), np.ravel(natural[image]))
            np.testing.assert_allclose(pair[0, 1], COSINES[block], atol=1e-3)


def test_where_they_propagate_a_stage_is_given_the_target_before(result):
    first, second, logits = result.targets.of(IMAGES[:3], LABELS[:3])
    natural = np.asarray(vector_stage(first))
    for image in range(3):
        direction = result.targets.directions[1][LABELS[image]]
        expected = moved(natural[image], direction, COSINES[1])
        np.testing.assert_allclose(second[image], expected, atol=1e-4)
    np.testing.assert_array_equal(logits, result.targets.logits[LABELS[:3]])


def test_a_class_without_a_finite_fitness_is_named():
    images = IMAGES.copy()
    images[LABELS == 3] *= 1e30  # what comes of these overflows
    stages = (lambda h: h * h, *STAGES[1:])
    shared = SharedConfig(cosines=COSINES, images_per_class=4)
    with pytest.raises(FloatingPointError, match="nothing that was found for class 3"):
        search_shared(KEY, stages, images, LABELS, CONFIG, shared)


def test_fresh_images_of_all_are_the_same_images_in_another_order(result):
    fresh = found(fresh_images=4)
    for ours, theirs in zip(fresh.fitness, result.fitness, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # The parents, four of them here, are evaluated again in each generation of the two blocks.
    assert fresh.candidates - result.candidates == 5 * CONFIG.num_parents * (8 + 5)


def test_each_generation_is_judged_by_images_of_its_own():
    fresh = found(fresh_images=1)
    steps = np.concatenate([np.diff(trace, axis=1).ravel() for trace in fresh.fitness[:-1]])
    assert (steps < 0).any()  # the same parents, other images
    for label in range(5):
        naturals = np.asarray(STAGES[0](IMAGES[label == LABELS][:4]))
        h = [moved(n, fresh.targets.directions[0][label], COSINES[0]) for n in naturals]
        logits = logits_stage(vector_stage(np.asarray(h, np.float32)))
        each = likelihood(logits, label)
        assert np.isclose(each, fresh.fitness[0][label, -1], atol=1e-5).any()


def test_no_two_draws_have_the_same_key():
    found(key=recording_key(2, drawn := []), clusters=2, fresh_images=2)
    jax.effects_barrier()
    searches = 2 * 5  # of each two draws a generation, one for its images
    generations = sum(layer.generations for layer in CONFIG.layers)
    assert len(set(drawn)) == len(drawn) > 2 * searches * generations


def test_fresh_images_are_for_the_papers_strategy():
    for change, message in (
        ({"strategy": "SimulatedAnnealing"}, "fresh_images is 2: with the strategy"),
        ({"stop_probability": 0.9}, "fresh_images is 2: with a stop_probability below 1"),
    ):
        with pytest.raises(ValueError, match=message):
            found(dataclasses.replace(CONFIG, **change), fresh_images=2)


def test_each_cluster_of_a_class_has_a_direction_of_its_own_for_its_own_images():
    labels, is_high = np.arange(40) % 5, np.arange(40) % 10 < 5  # four of each kind of a class
    images = IMAGES + np.where(is_high, 1, -1)[:, None, None, None].astype(np.float32)
    both = found(images=images, labels=labels, clusters=2, images_per_class=8)
    assert both.targets.logits.shape == (10, 5) and both.candidates == 10 * (3 * 18 + 17 * 14)
    natural, first = np.asarray(STAGES[0](images)), np.asarray(both.targets.of(images, labels)[0])

    def is_moved(row, cluster):
        direction = both.targets.directions[0][2 * labels[row] + cluster]
        return np.allclose(first[row], moved(natural[row], direction, COSINES[0]), atol=1e-4)

    for label in range(5):
        clusters = set()
        for kind in (is_high, ~is_high):
            rows = np.flatnonzero((label == labels) & kind)
            (cluster,) = (c for c in (0, 1) if all(is_moved(row, c) for row in rows))
            clusters.add(cluster)
            expected = likelihood(logits_stage(vector_stage(first[rows])), label).mean()
            ours = both.fitness[0][2 * label + cluster, -1]
            np.testing.assert_allclose(ours, expected, atol=1e-5)
        assert clusters == {0, 1}


def test_centres_do_not_depend_on_the_number_of_threads():
    import_module("sklearn.cluster")  # limits are of what is loaded
    points = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)

    def centres(threads):
        with threadpool_limits(threads):
            return find_centres(points, np.zeros(1000, int), 4, np.array([1]))

    np.testing.assert_array_equal(centres(1), centres(2))


def test_a_class_needs_an_image_for_each_cluster():
    images, labels = np.repeat(IMAGES[:5], 8, axis=0), np.repeat(np.arange(5), 8)
    with pytest.raises(ValueError, match="class 0 has 1 different images for 2 clusters"):
        found(images=images, labels=labels, clusters=2)


def test_one_cosine_stands_for_all_blocks():
    np.testing.assert_array_equal(found(cosines=(0.25,)).targets.cosines, [0.25, 0.25])


def test_a_class_with_few_images_repeats_them():
    images, labels = IMAGES[:9], np.array([0, 1, 2, 3, 4, 4, 4, 4, 4])
    few = found(images=images, labels=labels)
    again_and_again = [*np.repeat([0, 1, 2, 3], 4), 4, 5, 6, 7]
    many = found(images=images[again_and_again], labels=labels[again_and_again])
    np.testing.assert_array_equal(few.targets.directions[0], many.targets.directions[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cosines": (0.1, 0.2, 0.3)}, "3 cosines for 2 blocks"),
        ({"cosines": ()}, "cosines is empty"),
        ({"fresh_images": 5}, "fresh_images is 5: it must be at most images_per_class by"),
        ({"clusters": 5}, "clusters is 5: it must be at most images_per_class, 4"),
        ({"cosines": (0.2,), "choices": (0.1, 0.2, 0.1)}, "give each cosine once"),
        ({"cosines": (0.2,), "choices": (0.1, (0.1,))}, "give each cosine once"),
        ({"choices": (0.1, 2.0)}, "the cosine 2.0 is none"),
        ({"choices": (0.1, (0.3, 2.0))}, "the cosine 2.0 is none"),
        ({"choices": (0.1, ())}, "a choice is empty"),
        ({"choices": (0.1, "a")}, "each of the type float or a tuple, each of the type float"),
        ({"cosines": (0.1, 1.5)}, "the cosine 1.5 is none"),
        ({"cosines": (0.1, float("nan"))}, "the cosine nan is none"),
        ({"choices": (0.3,)}, r"cosines are \(0.3, 0.6\) beside choices \(0.3,\)"),
        (
            {"cosines": (0.2,), "choices": (0.1, 0.2)},
            r"choices are \(0.1, 0.2\): a run chooses among them",
        ),
        ({"images_per_class": 0}, "images_per_class is 0: it must be at least 1"),
        ({"labels": np.minimum(LABELS, 2)}, r"no image of the classes \[3, 4\]"),
        ({"labels": LABELS + 1}, "5"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        found(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_searches": 2}, "num_searches is 2: a search per_class has only one"),
        ({"fitness_noise": 0.5}, "fitness_noise is 0.5: a search per_class is judged on several"),
        ({"least_cosine": 0.9}, "least_cosine is 0.9: a search per_class has SharedConfig.cos"),
    ],
)
def test_settings_of_single_images_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        found(dataclasses.replace(CONFIG, **changes))
