"""Search on plain Python functions as stages: it knows nothing of Flax."""

import dataclasses
import itertools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_keys import recording_key
from flax import nnx
from toy_search import (
    CONFIG,
    KEY,
    STAGES,
    assert_same,
    data,
    image_stage,
    logits_stage,
    vector_stage,
)

from dsl_jax import devices
from dsl_jax.config import LayerSchedule
from dsl_jax.evolution.image import search_image
from dsl_jax.evolution.images import _search_one, as_pytrees, search
from dsl_jax.evolution.layer import with_copies
from dsl_jax.evolution.operators import standardize
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key
from dsl_jax.targets.fill import search_to_store

MODULE = sys.modules[search.__module__]  # the package has a function of this name


def test_fitness_rises_and_shapes_are_as_said():
    images, labels = data(6)
    result = search(KEY, STAGES, images, labels, CONFIG, chunk_size=4)
    assert [h.shape for h in result.representations] == [(6, 4, 4, 3), (6, 7), (6, 5)]
    assert [f.shape for f in result.fitness] == [(6, 9), (6, 6), (6, 5)]
    kinds = "float32[6, 4, 4, 3], float32[6, 7], float32[6, 5]; fitness: float32[6, 9], "
    assert repr(result).startswith(f"SearchResult(representations: {kinds}")
    for trace in result.fitness:
        assert (np.diff(trace, axis=1) >= 0).all()
    assert (result.fitness[-1][:, -1] > 0.1 * result.fitness[0][:, 0]).all()


def test_final_fitness_is_that_of_the_stored_logits():
    images, labels = data(6)
    result = search(KEY, STAGES, images, labels, CONFIG, chunk_size=4)
    logits = np.asarray(result.representations[-1], np.float64)
    likelihood = logits[np.arange(6), labels] - np.log(np.exp(logits).sum(axis=1))
    np.testing.assert_allclose(result.fitness[-1][:, -1], likelihood, atol=1e-5)
    # And each layer's is that of its own representation, sent through the stages after it.
    through = logits_stage(vector_stage(result.representations[0]))
    through = np.asarray(jax.nn.log_softmax(through))[np.arange(6), labels]
    np.testing.assert_allclose(result.fitness[0][:, -1], through, atol=1e-5)


def test_the_next_layer_starts_no_worse_than_the_one_before_ended():
    images, labels = data(6)
    for target in ("best", "parent_mean"):
        config = dataclasses.replace(CONFIG, target=target)
        fitness = search(KEY, STAGES, images, labels, config, chunk_size=4).fitness
        for before, after in itertools.pairwise(fitness):
            assert (after[:, 0] >= before[:, -1] - 1e-5).all()


def test_a_result_depends_on_key_and_id_alone():
    images, labels = data(7)
    ids = np.array([5, 4_000_000_000, 7, 100, 2, 9, 11])
    whole = search(KEY, STAGES, images, labels, CONFIG, ids=ids, chunk_size=4)
    order = np.array([6, 2, 0, 5, 1, 4, 3])
    shuffled = search(
        KEY, STAGES, images[order], labels[order], CONFIG, ids=ids[order], chunk_size=4
    )
    assert_same(jax.tree.map(lambda x: x[order], whole), shuffled)
    alone = search(KEY, STAGES, images[3:4], labels[3:4], CONFIG, ids=ids[3:4], chunk_size=4)
    assert_same(jax.tree.map(lambda x: x[3:4], whole), alone)
    image_key = jax.random.fold_in(philox_key(KEY), np.uint32(ids[1]))
    by_hand = jax.jit(search_image, static_argnums=4)(
        image_key, as_pytrees(STAGES), images[1], labels[1], CONFIG
    )
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], whole), by_hand, atol=1e-4)
    other = search(KEY, STAGES, images[:1], labels[:1], CONFIG, ids=[6], chunk_size=4)
    assert not np.array_equal(other.representations[0], whole.representations[0][:1])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["representation_ga", "DifferentialEvolution", "SNES"])
def test_a_long_run_begins_like_a_short_one(strategy):
    images, labels = data(3)
    more = dataclasses.replace(CONFIG.layers[0], generations=12)
    config = dataclasses.replace(CONFIG, strategy=strategy)
    longer = dataclasses.replace(config, layers=(more, *CONFIG.layers[1:]))
    short = search(KEY, STAGES, images, labels, config, chunk_size=4).fitness[0]
    long = search(KEY, STAGES, images, labels, longer, chunk_size=4).fitness[0]
    np.testing.assert_allclose(long[:, :9], short, atol=1e-5)


def test_no_generations_keep_the_propagated_tensor():
    images, labels = data(3)
    layers = (
        dataclasses.replace(CONFIG.layers[0], generations=0),
        dataclasses.replace(CONFIG.layers[1], generations=0),
        CONFIG.layers[2],
    )
    config = dataclasses.replace(CONFIG, layers=layers, target="parent_mean")
    result = search(KEY, STAGES, images, labels, config, chunk_size=4)
    first, second, _ = result.representations
    np.testing.assert_allclose(second, vector_stage(first), atol=1e-5)
    assert result.fitness[0].shape == result.fitness[1].shape == (3, 1)
    # The best of the noisy images: near the clean one's representation, not equal to it.
    clean = image_stage(images)
    assert 0 < float(jnp.abs(first - clean).max()) < 1.5


def test_the_mean_of_searches_without_generations_is_the_propagated_tensor():
    images, labels = data(2)
    layers = tuple(dataclasses.replace(layer, generations=0) for layer in CONFIG.layers)
    once = dataclasses.replace(CONFIG, layers=layers, initial_noise=0)
    twice = dataclasses.replace(once, num_searches=2)
    ours, theirs = (search(KEY, STAGES, images, labels, c) for c in (twice, once))
    for mean, only in zip(ours.representations, theirs.representations, strict=True):
        np.testing.assert_allclose(mean, only, rtol=1e-6)


@pytest.mark.parametrize("label", [5, -1])
def test_one_image_needs_the_label_of_a_class(label):
    images, _ = data(1)
    with pytest.raises(ValueError, match=f"label go from {label}"):
        search_image(KEY, STAGES, images[0], label, CONFIG)


def test_one_image_must_be_normalised():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="images are uint8: normalise them first"):
        search_image(KEY, STAGES, image, 0, CONFIG)


def test_one_image_needs_stages_that_end_with_logits():
    images, labels = data(1)
    stages = (*STAGES[:-1], lambda h: h.sum(axis=1))
    with pytest.raises(ValueError, match=r"returns \[\] of an image: need logits"):
        search_image(KEY, stages, images[0], int(labels[0]), CONFIG)


def test_a_layers_first_candidates_are_as_near_as_refiners():
    """Of strength alpha (SPEC 3): without the boost that explorers have."""
    layer = LayerSchedule(1, 1e-4, exploration_boost=1e3)
    best = standardize(jax.random.normal(KEY, (6, 6, 2)), "conv")[None]
    task = LayerTask(lambda h: h[:, 0, 0, 0], layer, CONFIG, "conv")
    copies = with_copies(philox_key(KEY), best, task)
    assert copies.shape == (CONFIG.population_size, 6, 6, 2)
    distances = jnp.abs(copies[1:] - best).max(axis=(1, 2, 3))
    assert float(distances.min()) > 0 and float(distances.max()) < 1e-2


def test_the_mean_of_the_parents_is_normalised_again_and_the_search_is_the_same():
    images, labels = data(4)
    best = search(KEY, STAGES, images, labels, CONFIG, chunk_size=4)
    config = dataclasses.replace(CONFIG, target="parent_mean")
    mean = search(KEY, STAGES, images, labels, config, chunk_size=4)
    assert_same(best.fitness, mean.fitness)
    for h in mean.representations[:2]:
        flat = np.asarray(h).reshape(4, -1)
        np.testing.assert_allclose(flat.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(flat.std(axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(np.asarray(mean.representations[-1]).mean(axis=1), 0, atol=1e-5)


@pytest.mark.slow
def test_a_stage_that_fails_for_some_candidates_does_no_harm():
    def brittle(h):
        h = logits_stage(h)
        return jnp.where(jnp.sin(40 * h[:, :1]) > 0.2, jnp.nan, h)

    images, labels = data(6)
    result = search(KEY, (*STAGES[:2], brittle), images, labels, CONFIG, chunk_size=4)
    for trace in result.fitness:
        finite = np.isfinite(trace)
        assert finite[:, -1].all()
        assert (np.diff(np.where(finite, trace, -np.inf)[:, -3:], axis=1) >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["representation_ga", "SNES"])
def test_stages_that_make_every_fitness_nan_are_told(strategy):
    images = jax.random.normal(KEY, (3, 4, 4, 3))
    stages = (image_stage, lambda h: vector_stage(h) * jnp.nan, lambda h: h[:, :5])
    config = dataclasses.replace(CONFIG, strategy=strategy)
    with pytest.raises(FloatingPointError, match="none of the first 3 images has"):
        search(KEY, stages, images, np.zeros(3, int), config)


@pytest.mark.slow
def test_the_reading_of_the_smoothing_reaches_the_children():
    images, labels = data(3)
    base = search(KEY, STAGES, images, labels, CONFIG, chunk_size=4)
    for change in ({"smoothing": "child"}, {"smoothing": "noise_rescaled"}):
        other = dataclasses.replace(CONFIG, **change)
        found = search(KEY, STAGES, images, labels, other, chunk_size=4)
        assert not np.allclose(found.representations[0], base.representations[0])


def test_it_compiles_once_whatever_the_key_number_strength_and_weights():
    images, labels = data(9)

    def scaled(weight, h):
        return logits_stage(h) * weight

    def stages(weight):
        return (*STAGES[:2], jax.tree_util.Partial(scaled, jnp.float32(weight)))

    search(KEY, stages(1.0), images, labels, CONFIG, chunk_size=4)  # the last chunk is shorter
    compiled = _search_one._cache_size()
    stronger = tuple(dataclasses.replace(layer, mutation_strength=0.9) for layer in CONFIG.layers)
    stronger = (*stronger[:2], dataclasses.replace(stronger[2], exploration_boost=7.0))
    strong = dataclasses.replace(CONFIG, layers=stronger)
    search(jax.random.key(1), stages(0.5), images[:5], labels[:5], strong, chunk_size=4)
    assert _search_one._cache_size() == compiled


def test_the_default_chunk_changes_no_bit_however_few_the_images():
    images, labels = data(5)
    five = search(KEY, STAGES, images, labels, CONFIG)
    two = search(KEY, STAGES, images[:2], labels[:2], CONFIG)
    assert_same(jax.tree.map(lambda x: x[:2], five), two)


def test_cores_change_no_bit_and_share_one_compilation(monkeypatch):
    images, labels = data(7)
    found = []
    for cores in (5, 1):
        monkeypatch.setattr(devices, "num_cores", lambda cores=cores: cores)
        chex.clear_trace_counter()
        traced = chex.assert_max_traces(_search_one.__wrapped__, n=1)
        monkeypatch.setattr(MODULE, "_search_one", jax.jit(traced, static_argnames="rules"))
        found.append(search(KEY, STAGES, images, labels, CONFIG, chunk_size=4))
    assert_same(*found)


def test_a_failure_in_a_thread_is_told(monkeypatch):
    def fails(method, one, *, rules):
        raise FloatingPointError(f"image {one.images[0, 0, 0]:.0f}")

    monkeypatch.setattr(MODULE, "_search_one", fails)
    images, labels = data(3)
    with pytest.raises(FloatingPointError, match="image 3"):
        search(KEY, STAGES, images * 0 + 3, labels, CONFIG, chunk_size=2)


def test_a_search_leaves_nothing_of_its_trace_behind():
    program = """
import jax, jax.numpy as jnp, dsl_jax as dsl
config = dsl.SearchConfig((dsl.LayerSchedule(1, 0.1),), 1, 1, 1)
dsl.search(jax.random.key(0), (lambda x: x,), jnp.ones((1, 3)), [0], config)
from evosax.algorithms.distribution_based import cma_anchored_les
print(cma_anchored_les.SUCCESS_RATES + 1)
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_no_two_draws_have_the_same_key():
    """JAX's own check of reused keys does not see those that `fold_in` makes."""
    images, labels = data(2)
    key = recording_key(1, drawn := [])
    config = dataclasses.replace(CONFIG, num_searches=2, fitness_noise=0.5)
    search(key, STAGES, images, labels, config)
    jax.effects_barrier()
    assert len(set(drawn)) == len(drawn) > 2 * sum(layer.generations for layer in CONFIG.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": STAGES[:2]}, "2 stages but 3 layer schedules"),
        ({"stages": STAGES[::-1]}, r"stage 0 fails on images \[1, 4, 4, 3\]: "),
        ({"stages": (*STAGES[:2], STAGES[1])}, r"stage 2 fails on what stage 1 returns, \[1, "),
        ({"labels": np.zeros(2, int)}, r"labels are \(2,\): 3 images need one each"),
        ({"labels": np.array([0, 0.7, 1])}, "labels are float64: they must be integers"),
        ({"labels": np.array([0, np.nan, 1])}, "labels are float64: they must be integers"),
        ({"labels": np.array([0, 1, 2**63 + 1], np.uint64)}, f"labels go from 0 to {2**63 + 1}"),
        ({"images": np.zeros((0, 4, 4, 3)), "labels": np.zeros(0, int)}, "0 images"),
        ({"ids": [0, 1, 2**32]}, "ids go from 0 to 4294967296"),
        ({"ids": [0, 1, -1]}, "ids go from -1"),
        ({"ids": [0, 1]}, "need 3 integers"),
        ({"ids": [0.5, 1.5, 2.5]}, "need 3 integers"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"labels": np.array([0, 5, 1])}, r"from 0 to 5: .*0 and 4 \(the last stage returns 5"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    images, labels = data(3)
    arguments = {"stages": STAGES, "images": images, "labels": labels, "config": CONFIG}
    with pytest.raises(ValueError, match=message):
        search(KEY, **(arguments | change))


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_images_that_are_not_finite_are_named_by_their_ids(as_array, tmp_path):
    images, labels = data(4)
    images[1, 0, 0, 0], images[3] = np.inf, np.nan
    message = r"not finite in 2 of 4, ids \[7, 9\]: mend them"
    options = {"ids": [6, 7, 8, 9]}
    with pytest.raises(ValueError, match=message):
        search(KEY, STAGES, as_array(images), labels, CONFIG, **options)
    with pytest.raises(ValueError, match=message):
        search_to_store(tmp_path / "store", KEY, STAGES, images, labels, CONFIG, **options)


def test_a_store_takes_an_id_and_a_label_once_and_right(tmp_path):
    images, labels = data(4)
    with pytest.raises(ValueError, match=r"ids has 2 ids more than once, \[0, 1\]: an id is one"):
        search_to_store(tmp_path, KEY, STAGES, images, labels, CONFIG, ids=[0, 1, 0, 1])
    for wrong in (labels + 0.7, labels + np.nan):
        with pytest.raises(ValueError, match="labels are float64: they must be integers"):
            search_to_store(tmp_path, KEY, STAGES, images, wrong, CONFIG)
    with pytest.raises(ValueError, match=r"labels go from .*the last stage returns 5 logits"):
        search_to_store(tmp_path, KEY, STAGES, images, labels + 5, CONFIG)
    with pytest.raises(ValueError, match=r"labels are \(3,\): 4 images need one each"):
        search_to_store(tmp_path, KEY, STAGES, images, labels[:3], CONFIG)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key", [0, nnx.Rngs(0), np.int32(0), jnp.zeros(3), jax.random.split(KEY)], ids=str
)
def test_what_is_no_key_is_named(key, tmp_path):
    images, labels = data(2)
    with pytest.raises(TypeError, match=r"the key is .*give one key, such as jax.random.key"):
        search(key, STAGES, images, labels, CONFIG)
    with pytest.raises(TypeError, match=r"the key is .*give one key, such as jax.random.key"):
        search_to_store(tmp_path / "store", key, STAGES, images, labels, CONFIG)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_stages_may_compute_in_fewer_bits(dtype):
    def as_given(h):  # a stage is given the type that the one before returned
        assert h.dtype == dtype
        return logits_stage(h.astype(jnp.float32)).astype(dtype)

    images, labels = data(2)
    stages = (
        lambda images: image_stage(images).astype(dtype),
        lambda h: vector_stage(h).astype(dtype),
        as_given,
    )
    for strategy in ("representation_ga", "SNES"):
        config = dataclasses.replace(CONFIG, strategy=strategy)
        found = search(KEY, stages, images, labels, config)
        assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
        assert (found.fitness[-1][:, -1] > found.fitness[0][:, 0]).all()
