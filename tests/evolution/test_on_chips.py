"""What a TPU and a GPU are given in place of a CPU's operations: the same but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution import operators, rows
from dsl_jax.evolution.layer import evolve_layer
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key

KEY = philox_key(jax.random.key(0))
PARENTS = jax.random.normal(KEY, (5, 4, 4, 3)) + jnp.array([0, 1, 2]).reshape(1, 1, 1, 3)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


@pytest.fixture
def on(monkeypatch):
    """From the name of a platform and a function to what this returns there, computed here."""

    def run(platform, function):
        def chosen(*arguments, default=None, **ways):
            return ways.get(platform, default)(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(jax.lax, "platform_dependent", chosen)
            return jax.jit(lambda: function())()  # a new function, so that it is traced anew

    return run


@DTYPES
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_children_are_the_same(on, platform, dtype):
    def children():
        return operators.reproduce(KEY, PARENTS.astype(dtype), 30, 0.3, 2)

    expected, found = on("cpu", children), on(platform, children)
    assert found.dtype == expected.dtype == dtype
    atol = 2e-5 if dtype == "float32" else 0.02
    np.testing.assert_allclose(*(np.asarray(h, np.float64) for h in (found, expected)), atol=atol)


@pytest.mark.parametrize("children", [(6, 10), (0, 10), (6, 0)])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_layers_evolve_alike(on, platform, children):
    layer = LayerSchedule(4, 0.3, 2.0, 1)
    explorers, refiners = children
    config = SearchConfig((layer,), 5, num_explorers=explorers, num_refiners=refiners)

    def evolved():
        task = LayerTask(lambda h: h[:, 0, 0, 0] - h[:, 1, 1, 1], layer, config, "conv")
        return evolve_layer(KEY, PARENTS, task)

    (expected, _), (found, trace) = on("cpu", evolved), on(platform, evolved)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert trace[-1] > trace[0]


@DTYPES
def test_the_mean_of_two_parents_is_rounded_once(dtype):
    parents = PARENTS.astype(dtype)
    pairs = jnp.array([[0, 1, 4, 2], [3, 1, 0, 2]])
    exact = np.asarray(parents, np.float64)
    expected = np.stack([(exact[a] + exact[b]) / 2 for a, b in pairs.T]).astype(parents.dtype)
    groups = (parents[:2], parents[2:])
    for cross in (operators._cross_by_product, operators._cross_by_index, operators._cross_joined):
        found, sigmas = cross(groups, pairs)
        assert found.dtype == parents.dtype
        np.testing.assert_array_equal(found, expected)
        spreads = exact.std(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(sigmas, spreads[pairs].mean(axis=0), rtol=1e-4)


@DTYPES
def test_rows_are_the_same(dtype):
    groups = tuple(jax.random.normal(jax.random.key(m), (m, 3, 2)).astype(dtype) for m in (4, 5, 7))
    groups = (groups[0], groups[1].at[1, 2].set(jnp.nan).at[0].set(jnp.inf), groups[2])
    index = jnp.array([3, 15, 9, 6, 3])  # none of those that are not finite
    expected = np.concatenate([np.asarray(group, np.float32) for group in groups])[index]
    by_product = rows._rows_by_product(groups, index, jnp.zeros(5, bool))
    for found in (by_product, rows.rows_by_index(groups, index)):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.astype(jnp.float32), expected)
    # Row 5 has a NaN, row 4 is infinite; where all have failed, that is to be seen.
    failed = jnp.array([True, False, False])
    found = rows._rows_by_product(groups, jnp.array([5, 3, 4]), failed)
    assert np.isnan(np.asarray(found, np.float32)).all((1, 2)).tolist() == [True, False, False]
    np.testing.assert_array_equal(found[1], groups[0][3])


@pytest.mark.parametrize("offset", [0.0, -0.17, 30.0])
def test_variance_in_one_pass_is_never_negative(on, offset):
    """Of channels that do not vary rounding leaves little, of others the variance."""
    h = jnp.full((15, 15, 2), offset).at[..., 1].add(jax.random.normal(KEY, (15, 15)))
    still, varied = on("cuda", lambda: operators.spread(h)).ravel()
    assert 0 <= float(still) <= 1e-3 * abs(offset)
    assert float(varied) == pytest.approx(
        float(np.std(np.asarray(h[..., 1], np.float64))), rel=1e-3
    )
    for each in (jnp.full((9,), offset), h):
        found = on("cuda", lambda each=each: operators.normalize(each))
        exact = np.asarray(each, np.float64)
        expected = (exact - exact.mean()) / np.sqrt(exact.var() + operators.NORMALIZE_EPSILON)
        np.testing.assert_allclose(found, expected, atol=1e-3)
