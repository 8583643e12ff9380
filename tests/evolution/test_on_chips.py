"""What a TPU and a GPU are given in place of a CPU's operations: the same but for rounding."""

import re

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


def task_of(explorers, refiners, kind="conv", near=None):
    layer = LayerSchedule(4, 0.3, 2.0, 1)
    config = SearchConfig((layer,), 5, num_explorers=explorers, num_refiners=refiners)

    def fitness(h):
        return jnp.sin(h.reshape(len(h), -1)) @ jnp.array([3.0, -1, 0, 2], h.dtype)

    return LayerTask(
        lambda h: fitness(h.reshape(len(h), -1)[:, :4]), layer, config, kind, near=near
    )


@pytest.mark.parametrize(
    ("explorers", "refiners", "shape", "kind"),
    [
        (6, 10, (4, 4, 3), "conv"),
        (0, 10, (4, 4, 3), "conv"),
        (6, 0, (4, 4, 3), "conv"),
        (6, 10, (6, 4), "conv"),
        (6, 10, (9,), "vector"),
        (6, 10, (9,), "logits"),
    ],
)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_layers_of_several_images_evolve_alike(on, platform, explorers, refiners, shape, kind):
    starts = 1 + jax.random.normal(KEY, (2, 5, *shape))

    def evolved():
        def of_an_image(key, start):
            def near(h):
                return operators.brought_near(h, start[0], 0.5)

            task = task_of(explorers, refiners, kind, near if kind == "conv" else None)
            return evolve_layer(key, start, task)

        return jax.vmap(of_an_image)(jax.random.split(KEY, 2), starts)

    (expected, _), (found, trace) = on("cpu", evolved), on(platform, evolved)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert trace[:, -1].sum() > trace[:, 0].sum()


def test_each_platform_is_given_what_is_made_for_it():
    """A GPU evaluates children together, in a layout of their own; a TPU takes no rows by index."""
    traced = jax.jit(lambda: evolve_layer(KEY, PARENTS, task_of(6, 10))).trace()
    text = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    assert ["LayoutConstraint" in text[p] for p in text] == [False, True, False]
    assert [text[p].count("stablehlo.sine") for p in text] == [3, 2, 3]
    rows = "tensor<5x4x4x3xf32>"
    gathers = [re.findall(rf"stablehlo.gather.*\({rows}", text[p]) for p in text]
    assert gathers[0] and gathers[1] and not gathers[2]


def test_devices_that_share_a_program_have_the_same_children(on):
    keys = jax.random.split(jax.random.key(0), 4)  # philox keys have no program for several
    mesh = jax.sharding.Mesh(jax.devices()[:2], "images")

    def children(keys):
        return jax.vmap(lambda key: operators.reproduce(key, PARENTS, 8, 0.3))(keys)

    def shared():
        places = jax.sharding.PartitionSpec("images")
        return jax.shard_map(children, mesh=mesh, in_specs=places, out_specs=places)(keys)

    np.testing.assert_array_equal(on("cuda", shared), on("cuda", lambda: children(keys)))


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


@DTYPES
@pytest.mark.parametrize("offset", [0.0, -0.17, 30.0])
def test_one_pass_tells_what_does_not_vary_from_what_does(on, offset, dtype):
    h = jnp.full((6, 7, 2), offset).at[..., 1].add(jax.random.normal(KEY, (6, 7))).astype(dtype)
    still, varied = on("cuda", lambda: operators.spread(h)).ravel()
    exact = np.asarray(h, np.float64)
    assert still == 0 and still.dtype == dtype
    assert float(varied) == pytest.approx(
        exact[..., 1].std(), rel=1e-3 + float(jnp.finfo(dtype).eps)
    )
    for each in (h[..., 0], h):
        found = on("cuda", lambda each=each: operators.normalize(each))
        exact = np.asarray(each, np.float64)
        expected = (exact - exact.mean()) / np.sqrt(exact.var() + operators.NORMALIZE_EPSILON)
        atol = 1e-3 if dtype == "float32" else 0.05
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=atol)


def test_its_gradient_is_that_of_a_cpus_passes(on):
    h = 1 + jax.random.normal(KEY, (4, 4, 3))
    weights = jnp.cos(jnp.arange(48.0)).reshape(4, 4, 3)
    slope = jax.grad(lambda h: jnp.sum(weights * operators.normalize(h)))
    expected = on("cpu", lambda: slope(h))
    np.testing.assert_allclose(on("cuda", lambda: slope(h)), expected, atol=1e-5)
    assert jnp.abs(expected).max() > 0.1
