"""The frozen network: the same function with and without its identities, and in range."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution.images import search
from dsl_jax.networks import frozen as module
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.frozen import fold_norm, frozen_stages, is_identity, moments

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(60, 20, 20, 1)).astype(np.float32)
CONFIG = SearchConfig(
    layers=(
        LayerSchedule(3, 0.3, 5.0, 3),
        LayerSchedule(2, 0.2, 3.0, 1),
        LayerSchedule(2, 0.1, 3.0, 1),
        LayerSchedule(2, 0.1, 1.0, 0),
    ),
    num_parents=3,
    num_explorers=4,
    num_refiners=5,
)
KEY = jax.random.key(0)


def make(groups=1, **options):
    network = ConvNet((20, 20, 1), 4, (8, 8, 8), groups, rngs=nnx.Rngs(0), **options)
    network.whiten(IMAGES)
    return network


def through(stages, h):
    outputs = []
    for stage in stages:
        h = stage(h)
        outputs.append(h)
    return outputs


@pytest.mark.parametrize("representation", ["post_gelu", "pre_gelu"])
@pytest.mark.parametrize("normalize_blocks", [False, True])
def test_clean_statistics_give_the_network_in_training_mode(normalize_blocks, representation):
    network = make(2, normalize_blocks=normalize_blocks, representation=representation)
    expected = [*network.representations(IMAGES), network(IMAGES)]
    ours = through(frozen_stages(network, IMAGES, None), IMAGES)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-3)


@pytest.mark.parametrize("normalize_blocks", [False, True])
def test_a_network_given_alone_keeps_the_statistics_of_its_evaluation(normalize_blocks):
    network = make(2, normalize_blocks=normalize_blocks)
    for value in jax.tree.leaves(nnx.state(network, nnx.BatchStat)):
        assert value.shape == (8,)
    for path, module_ in nnx.iter_modules(network):
        if isinstance(module_, nnx.BatchNorm):
            rng = np.random.default_rng(len(path))
            module_.mean[...] = rng.normal(size=8).astype(np.float32)
            module_.var[...] = rng.uniform(0.5, 2, size=8).astype(np.float32)
    network.eval()
    expected = [*network.representations(IMAGES), network(IMAGES)]
    ours = through(frozen_stages(network), IMAGES)
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-4)
    with pytest.raises(ValueError, match="needs images"):
        frozen_stages(network, None, CONFIG, key=KEY)
    with pytest.raises(ValueError, match="a key needs a config"):
        frozen_stages(network, IMAGES, key=KEY)


def test_identities_are_left_out_and_change_nothing(monkeypatch):
    network = make()
    without = frozen_stages(network, IMAGES, CONFIG, key=KEY)
    monkeypatch.setattr(module, "is_identity", lambda kernel: False)
    with_them = frozen_stages(network, IMAGES, CONFIG, key=KEY)
    kernels = [x for x in jax.tree.leaves(without) if x.ndim == 4 and x.shape[0] == 3]
    assert len(kernels) == 0  # eight stem channels, eight everywhere: all identities
    assert len([x for x in jax.tree.leaves(with_them) if x.ndim == 4 and x.shape[0] == 3]) == 6
    for ours, theirs in zip(through(without, IMAGES), through(with_them, IMAGES), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_only_exact_identities_are_left_out():
    identity = jnp.zeros((3, 3, 2, 2)).at[1, 1].set(jnp.eye(2))
    assert is_identity(identity)
    assert not is_identity(identity.at[0, 0, 0, 0].set(1e-12))
    assert not is_identity(identity[..., :1])
    network = make()
    network.blocks[1].groups[0].conv_2.kernel[...] *= 1.0001
    stages = frozen_stages(network, IMAGES, CONFIG, key=KEY)
    assert len([x for x in jax.tree.leaves(stages[1]) if x.ndim == 4 and x.shape[0] == 3]) == 1


def test_an_image_does_not_influence_another():
    stages = frozen_stages(make(), IMAGES, CONFIG, key=KEY)
    whole = through(stages, IMAGES[:5])[-1]
    changed = IMAGES[:5].copy()
    changed[1:] *= 9
    np.testing.assert_array_equal(through(stages, changed)[-1][0], whole[0])


def test_the_variance_has_a_floor():
    dead = jnp.zeros((10, 3, 3, 2)).at[..., 1].set(GENERATOR.normal(size=(10, 3, 3)))
    scale, shift = fold_norm(*moments(dead), jnp.zeros(2), 1e-5)
    assert float(scale[0, 0, 0, 0]) == pytest.approx(1 / np.sqrt(1e-3 + 1e-5))
    assert float(scale[0, 0, 0, 1]) == pytest.approx(1 / float(dead[..., 1].std()), rel=1e-3)
    assert float(shift[0, 0, 0, 0]) == 0


def test_candidates_stay_in_range_where_clean_statistics_let_them_explode():
    # Most pixels are constant, as in MNIST: nearly dead channels.
    sparse = np.where(GENERATOR.random(IMAGES.shape) < 0.02, 5.0, -0.3).astype(np.float32)
    network = ConvNet((20, 20, 1), 4, (8, 8, 8), rngs=nnx.Rngs(0))
    network.whiten(sparse)
    labels = GENERATOR.integers(0, 4, 60)
    strong = dataclasses.replace(CONFIG, layers=(LayerSchedule(0, 0.3), *CONFIG.layers[1:]))
    stages = frozen_stages(network, sparse, CONFIG, key=KEY)
    fitness = search(KEY, stages, sparse[:8], labels[:8], strong, chunk_size=8).fitness
    assert min(float(f.min()) for f in fitness) > -20


def test_explorers_statistics_depend_on_the_key_and_the_strength():
    network = make()
    first = jax.tree.leaves(frozen_stages(network, IMAGES, CONFIG, key=KEY))
    same = jax.tree.leaves(frozen_stages(network, IMAGES, CONFIG, key=KEY))
    other = jax.tree.leaves(frozen_stages(network, IMAGES, CONFIG, key=jax.random.key(1)))
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    layers = tuple(dataclasses.replace(c, mutation_strength=0.6) for c in CONFIG.layers)
    stronger = dataclasses.replace(CONFIG, layers=layers)
    other = jax.tree.leaves(frozen_stages(network, IMAGES, stronger, key=KEY))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    with pytest.raises(ValueError, match="needs a key"):
        frozen_stages(network, IMAGES, CONFIG)


def test_another_network_of_the_same_shape_does_not_compile_again():
    traced = []

    @jax.jit
    def run(stages, images):
        traced.append(1)
        return through(stages, images)[-1]

    one = run(frozen_stages(make(), IMAGES, CONFIG, key=KEY), IMAGES)
    other = run(frozen_stages(make(), IMAGES, CONFIG, key=jax.random.key(5)), IMAGES)
    assert len(traced) == 1
    assert not np.array_equal(one, other)


def test_the_logits_schedule_is_judged_by_the_shape_of_logits():
    *blocks, logits = CONFIG.layers
    config = dataclasses.replace(
        CONFIG, layers=(*blocks, dataclasses.replace(logits, smoothing_passes=60))
    )
    assert len(frozen_stages(make(), IMAGES, config, key=KEY)) == 4  # logits have nothing to smooth
