"""Search in bfloat16: what is kept in it, what is not, and how near it stays."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from toy_search import CONFIG, KEY, STAGES, data

import dsl_jax as dsl
from dsl_jax.evolution.image import search_image
from dsl_jax.evolution.images import as_pytrees, search
from dsl_jax.evolution.noise import noise_basis, smoothed_noise
from dsl_jax.evolution.operators import reproduce
from dsl_jax.evolution.rules import rules_of

NARROW = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
WIDE, BRAIN = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)


def program_of(config):
    """The search of an image, as JAX has it."""
    images, labels = data(1)
    found = jax.make_jaxpr(search_image, static_argnums=(4, 5))(
        KEY, as_pytrees(STAGES), images[0], labels[0], config, rules_of(config)
    )
    return str(found)


def test_candidates_and_noise_are_bfloat16_logits_and_fitness_are_not():
    children = CONFIG.num_explorers, CONFIG.num_refiners
    narrow, wide = program_of(NARROW), program_of(CONFIG)
    assert "bf16" not in wide
    # What a generation hands to the next, layer by layer: parents [k, ...].
    for shape, dtype in (("4,4,3", "bf16"), ("7", "bf16"), ("5", "f32")):
        assert f"{dtype}[{CONFIG.num_parents},{shape}]" in narrow
    few = noise_basis((4, 4), CONFIG.layers[0].smoothing_passes, truncation=1e-3).shape[1]
    for count in children:
        assert f"bf16[{few},{3 * count}]" in narrow  # what smoothing turns into noise
        assert f"bf16[{count},5]" not in narrow  # logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{"target": "parent_mean", "num_searches": 2, "least_cosine": 0.1}, {"strategy": "SNES"}],
)
def test_a_search_in_bfloat16_is_as_good(change):
    images, labels = data(6)
    wide, narrow = (
        search(KEY, STAGES, images, labels, dataclasses.replace(config, **change))
        for config in (CONFIG, NARROW)
    )
    assert {array.dtype for array in jax.tree.leaves(narrow)} == {WIDE}
    # Layer 0 begins with the same noisy images; where selection goes from there may differ.
    np.testing.assert_allclose(narrow.fitness[0][:, 0], wide.fitness[0][:, 0], rtol=0.05)
    final = [float(found.fitness[-1][:, -1].mean()) for found in (wide, narrow)]
    assert final[1] == pytest.approx(final[0], rel=0.15)
    if change.get("target") == "parent_mean":  # standardised in float32
        for h in narrow.representations[:-1]:
            flat = np.asarray(h).reshape(len(h), -1)
            np.testing.assert_allclose(flat.std(1), 1, atol=1e-4)
            np.testing.assert_allclose(flat.mean(1), 0, atol=1e-5)


def test_noise_and_children_have_the_spread_of_float32():
    shape = (64, 8, 8, 5)
    wide = smoothed_noise(KEY, shape, 3, "noise_rescaled")
    narrow = smoothed_noise(KEY, shape, 3, "noise_rescaled", dtype=jnp.bfloat16)
    assert narrow.dtype == BRAIN
    np.testing.assert_allclose(narrow.astype(WIDE), wide, atol=0.05)
    parents = jax.random.normal(jax.random.key(3), (4, 6, 6, 5))
    children = reproduce(KEY, parents.astype(BRAIN), 30, 0.3, 2)
    assert children.dtype == BRAIN
    np.testing.assert_allclose(children.astype(WIDE), reproduce(KEY, parents, 30, 0.3, 2), atol=0.1)


def network_of(dataset):
    network = dsl.ConvNet(dataset.image_shape, 10, (8, 8), 2, rngs=nnx.Rngs(0))
    network.whiten(dataset.normalize(dataset.train.images))
    return network


def test_the_products_of_a_convnets_stages_are_bfloat16():
    dataset = dsl.load_dataset("digits", num_train=60, validation_size=20)
    network = network_of(dataset)
    for _, kernel in nnx.iter_graph(network):
        if isinstance(kernel, nnx.Param) and kernel[...].ndim == 4:
            kernel[...] = kernel[...] + 0.01  # no identity, which would be left out
    stages = dsl.frozen_stages(network, dataset.normalize(dataset.train.images))
    h = {
        dtype: dataset.normalize(dataset.test.images[:50]).astype(dtype) for dtype in (WIDE, BRAIN)
    }
    for stage in stages[:-1]:
        text = str(jax.make_jaxpr(stage)(h[BRAIN]))
        products = re.findall(r":(\w+)\[[\d,]+\] = conv_general_dilated", text)
        assert products and set(products) == {"bf16"}
        h = {dtype: stage(array).astype(dtype) for dtype, array in h.items()}
        error = np.asarray(h[BRAIN].astype(WIDE)) - np.asarray(h[WIDE])
        assert np.sqrt(np.mean(error**2)) < 0.06 * float(jnp.std(h[WIDE]))


def test_another_dtype_is_refused():
    with pytest.raises(
        ValueError, match="compute_dtype 'float16' is unknown: choose one of float32"
    ):
        dsl.SearchConfig(compute_dtype="float16")
