"""One's own networks: cut into stages, checked, learned, of any library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dsl_jax as dsl

DATASET = dsl.load_dataset("digits", num_train=60, validation_size=20)
IMAGES = DATASET.normalize(DATASET.train.images)
KEY = jax.random.key(0)


def flat(images):
    return images.reshape(len(images), -1)


def make_layers(seed=0):
    rngs = nnx.Rngs(seed)
    return [
        flat,
        nnx.Linear(784, 12, rngs=rngs),
        nnx.BatchNorm(12, rngs=rngs),
        nnx.relu,
        nnx.Linear(12, 8, rngs=rngs),
        jnp.tanh,
        nnx.Linear(8, 10, rngs=rngs),
    ]


def tiny_config(num_layers):
    layers = (dsl.LayerSchedule(2, 0.2, 2.0),) * num_layers
    return dsl.SearchConfig(layers, num_parents=2, num_explorers=2, num_refiners=2)


def test_a_staged_network_is_its_layers_one_after_another():
    layers = make_layers()
    for given in (layers, nnx.Sequential(*layers)):
        network = dsl.StagedNetwork(given, ends=(4, 6))
        x, expected = IMAGES[:5], []
        for number, layer in enumerate(layers):
            x = layer(x)
            if number in (3, 5):
                expected.append(x)
        representations = network.representations(IMAGES[:5])
        assert [h.shape for h in representations] == [(5, 12), (5, 8)]
        for ours, theirs in zip(representations, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(network(IMAGES[:5]), x)


@pytest.mark.parametrize("ends", [(), (0, 4), (4, 4), (4, 2), (4, 7)])
def test_ends_that_do_not_cut_are_refused(ends):
    with pytest.raises(ValueError, match="of 7 layers: give increasing numbers from 1 to 6"):
        dsl.StagedNetwork(make_layers(), ends)


def test_stages_freeze_the_statistics_of_the_images_or_those_held():
    network = dsl.StagedNetwork(make_layers(), ends=(4, 6))
    held = dsl.frozen_stages(network)
    linear = flat(np.asarray(IMAGES)) @ np.asarray(network.parts[0].layers[1].kernel[...])
    # Held: mean 0 and variance 1, as BatchNorm begins.
    np.testing.assert_allclose(
        held[0](IMAGES), np.maximum(linear / np.sqrt(1 + 1e-5), 0), 1e-5, 1e-5
    )
    measured = dsl.frozen_stages(network, IMAGES)
    expected = (linear - linear.mean(0)) / np.sqrt(np.maximum(linear.var(0), 1e-3) + 1e-5)
    for rows in (slice(None), slice(0, 1)):  # the same alone as among others
        ours = measured[0](IMAGES[rows])
        np.testing.assert_allclose(ours, np.maximum(expected[rows], 0), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(network.parts[0].layers[2].mean[...], 0)  # not changed


def test_statistics_may_be_measured_on_candidates():
    network, config = dsl.StagedNetwork(make_layers(), ends=(4, 6)), tiny_config(3)
    natural = dsl.frozen_stages(network, IMAGES)
    mutated = dsl.frozen_stages(network, IMAGES, config, key=KEY)
    assert not np.allclose(natural[0](IMAGES), mutated[0](IMAGES))
    assert dsl.check_stages(mutated, IMAGES, config, num_classes=10) == ((12,), (8,), (10,))
    with pytest.raises(ValueError, match="the config has 4 layers"):
        dsl.frozen_stages(network, IMAGES, tiny_config(4), key=KEY)
    with pytest.raises(TypeError, match="cannot cut a Linear"):
        dsl.frozen_stages(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))


def test_variances_have_a_floor():
    layers = make_layers()
    layers[1].kernel[...] = layers[1].kernel[...].at[:, 0].multiply(1e-4)
    stages = dsl.frozen_stages(dsl.StagedNetwork(layers, ends=(4, 6)), IMAGES)
    assert 0 < np.asarray(stages[0](IMAGES))[:, 0].std() < 0.3  # without the floor about 0.6


def pair(params):
    """The layers of `make_layers`, without BatchNorm, as a pair of functions."""

    def representations(params, images):
        h = nnx.relu(flat(images) @ params["first"]["w"])
        return h, jnp.tanh(h @ params["second"][0])

    return dsl.PairNetwork(params, representations, lambda params, last: last @ params["last"])


def make_params(seed):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = (784, 12), (12, 8), (8, 10)
    a, b, c = (jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(keys, shapes, strict=True))
    return {"first": {"w": a}, "second": [b], "last": c}


def test_a_pair_keeps_the_structure_of_its_parameters():
    params = make_params(0)
    network = pair(params)
    assert jax.tree.structure(network.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, network.params, params)
    expected = np.tanh(np.maximum(flat(IMAGES) @ params["first"]["w"], 0) @ params["second"][0])
    np.testing.assert_allclose(network.representations(IMAGES)[1], expected, 1e-4, 1e-4)


def test_a_pair_and_a_staged_network_learn_alike():
    """The same weights, targets and key: the same step, whatever holds the parameters."""
    params = make_params(1)
    layers = [flat, None, nnx.relu, None, jnp.tanh, None]
    for number, weights in (
        (1, params["first"]["w"]),
        (3, params["second"][0]),
        (5, params["last"]),
    ):
        layers[number] = nnx.Linear(*weights.shape, use_bias=False, rngs=nnx.Rngs(0))
        layers[number].kernel[...] = weights
    staged = dsl.StagedNetwork(layers, ends=(3, 5))
    targets = tuple(
        np.random.default_rng(0).normal(size=(len(IMAGES), n)).astype(np.float32)
        for n in (12, 8, 10)
    )
    learning = dsl.LearnConfig(epochs=2, batch_size=10, learning_rate=0.5, weight_decay=0.1)
    one, other = (
        dsl.learn(KEY, network, DATASET, dsl.SearchResult(targets, ()), learning)
        for network in (pair(params), staged)
    )
    assert one.history[-1]["train_loss"] == pytest.approx(other.history[-1]["train_loss"], rel=1e-5)
    assert not np.allclose(one.network.params["last"], params["last"])
    np.testing.assert_allclose(
        one.network.params["second"][0], other.network.parts[1].layers[0].kernel[...], 1e-4, 1e-5
    )


def test_dropout_is_refused():
    layers = [*make_layers(), nnx.Dropout(0.5, rngs=nnx.Rngs(0))]
    network = dsl.StagedNetwork(layers, ends=(4, 6))
    with pytest.raises(ValueError, match=r"parts\.2\.layers\.1 drops out at random"):
        dsl.learn_sgd(KEY, network, DATASET, dsl.LearnConfig(epochs=1))


# --------------------------------------------------------------------------------------------
# What check_stages finds
# --------------------------------------------------------------------------------------------


def good(images):
    return jnp.tanh(flat(images)[:, :6])


def logits(h):
    return h @ jnp.eye(6, 10)


def by_calls():
    """A stage that gives something else in every call."""
    calls = iter(range(100))
    return lambda images: good(images) + next(calls)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "there are no stages"),
        ((good, 3), "stage 1 is a int: it cannot be called"),
        ((good, lambda h: h @ jnp.eye(7)), "stage 1 fails on a batch float32.* TypeError"),
        ((lambda x: good(x) if x.sum() < 1e9 else -good(x), logits), "stage 0 fails under jax.jit"),
        ((lambda x: (good(x),), logits), "stage 0 returns a tuple"),
        ((lambda x: good(x)[0], logits), r"stage 0 turns a batch \[8, 28, 28, 1\] into \[6\]"),
        ((good, lambda h: logits(h)[:, 0]), r"stage 1 is the last and returns \[8\]"),
        ((lambda x: x[..., None], logits), r"stage 0 returns \[8, 28, 28, 1, 1\]"),
        ((lambda x: jnp.sign(good(x)).astype(int), logits), "stage 0 returns int32"),
        (
            (lambda x: jnp.log(good(x) - 1), logits),
            "stage 0 returns 100% values that are not finite",
        ),
        ((by_calls(), logits), "stage 0 gives another result when called again"),
        ((lambda x: 0 * good(x), logits), "stage 0 returns .* everywhere"),
        (
            (lambda x: flat(x) - flat(x).mean(0, keepdims=True), lambda h: h[:, :10]),
            "stage 0 gives an image another",
        ),
        ((good, lambda h: jnp.sqrt(1.1 - h) @ jnp.eye(6, 10)), "stage 1 returns values .* mutated"),
        ((good, lambda h: h[:, :5]), "returns 5 logits, but there are 10 classes"),
    ],
)
def test_what_is_wrong_with_a_stage_is_said(stages, message):
    with pytest.raises(ValueError, match=message):
        dsl.check_stages(stages, IMAGES, num_classes=10)


def test_good_stages_pass_and_the_config_must_fit():
    assert dsl.check_stages((good, logits), IMAGES, num_classes=10) == ((6,), (10,))
    with pytest.raises(ValueError, match="2 stages but 3 layer schedules"):
        dsl.check_stages((good, logits), IMAGES, tiny_config(3))
    with pytest.raises(ValueError, match="1 images: give at least 2"):
        dsl.check_stages((good, logits), IMAGES[:1])
