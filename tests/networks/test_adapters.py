"""One's own networks: cut into stages, checked, learned, of any library."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dsl_jax as dsl
from dsl_jax.learning import optimizer
from dsl_jax.networks.interface import in_mode
from dsl_jax.targets.fingerprint import hash_stages

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
    with pytest.warns(UserWarning, match="give frozen_stages the images"):
        held = dsl.frozen_stages(network)
    linear = flat(np.asarray(IMAGES)) @ np.asarray(network.parts[0].layer_1_Linear.kernel[...])
    # Held: mean 0 and variance 1, as BatchNorm begins.
    np.testing.assert_allclose(
        held[0](IMAGES), np.maximum(linear / np.sqrt(1 + 1e-5), 0), 1e-5, 1e-5
    )
    measured = dsl.frozen_stages(network, IMAGES)
    expected = (linear - linear.mean(0)) / np.sqrt(np.maximum(linear.var(0), 1e-3) + 1e-5)
    for rows in (slice(None), slice(0, 1)):  # the same alone as among others
        ours = measured[0](IMAGES[rows])
        np.testing.assert_allclose(ours, np.maximum(expected[rows], 0), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(network.parts[0].layer_2_BatchNorm.mean[...], 0)  # not changed


def test_statistics_may_be_measured_on_candidates():
    network, config = dsl.StagedNetwork(make_layers(), ends=(4, 6)), tiny_config(3)
    natural = dsl.frozen_stages(network, IMAGES)
    mutated = dsl.frozen_stages(network, IMAGES, config, key=KEY)
    assert not np.allclose(natural[0](IMAGES), mutated[0](IMAGES))
    assert dsl.check_stages(mutated, IMAGES, config, num_classes=10) == ((12,), (8,), (10,))
    with pytest.raises(ValueError, match="the config has 4 layers"):
        dsl.frozen_stages(network, IMAGES, tiny_config(4), key=KEY)
    with pytest.raises(TypeError, match="stages is a StagedNetwork: search needs a tuple"):
        dsl.search(KEY, network, IMAGES, np.zeros(len(IMAGES), int), config)
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
        one.network.params["second"][0],
        other.network.parts[1].layer_3_Linear.kernel[...],
        1e-4,
        1e-5,
    )


def test_a_norm_in_the_head_is_evaluated_with_statistics_of_its_own():
    rngs = nnx.Rngs(0)
    layers = [
        flat,
        nnx.Linear(784, 12, rngs=rngs),
        jnp.tanh,
        lambda h: 30 * h + 50,
        nnx.BatchNorm(12, rngs=rngs),
        nnx.Linear(12, 10, rngs=rngs),
    ]
    network = dsl.StagedNetwork(layers, ends=(3,))
    config = dsl.LearnConfig(epochs=2, batch_size=10, learning_rate=0.1)
    learned = dsl.learn_sgd(KEY, network, DATASET, config).network
    h = 30 * np.asarray(learned.representations(IMAGES)[0]) + 50
    norm = learned.parts[1].layer_4_BatchNorm
    np.testing.assert_allclose(norm.mean[...], h.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(norm.var[...], h.var(axis=0), rtol=1e-2, atol=1e-3)


def test_the_optimiser_knows_the_biases_of_norms_and_what_is_no_weight():
    rngs = nnx.Rngs(0)
    attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    layers = [nnx.Linear(8, 8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs), attention]
    params = nnx.state(dsl.StagedNetwork(layers, ends=(2,)), nnx.Param)
    paths = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    fast, decays = (
        {name for name, chosen in zip(names, jax.tree.leaves(mask(params)), strict=True) if chosen}
        for mask in (optimizer._paths(r"norm[^.]*\.bias"), optimizer._weights)
    )
    assert fast == {"parts.0.layer_1_LayerNorm.bias.value"}
    assert decays == {name for name in names if "kernel" in name}


def test_parameters_that_cannot_be_trained_are_named():
    for leaf, found in ((np.arange(3), "int64"), (jnp.tanh, "PjitFunction"), (KEY, "key<fry>")):
        with pytest.raises(ValueError, match=f"the parameter first.w is {found}"):
            pair({"first": {"w": leaf}})
    network = dsl.PairNetwork(make_params(0), lambda params, x: x, lambda params, x: x)
    with pytest.raises(TypeError, match=r"representations returned a .*return a tuple"):
        network.representations(IMAGES)


def test_other_layers_are_other_stages_for_a_store():
    def hashed(activation, epsilon=1e-5):
        layers = [flat, nnx.Linear(784, 4, rngs=nnx.Rngs(0)), activation]
        layers += [nnx.BatchNorm(4, epsilon=epsilon, rngs=nnx.Rngs(0))]
        network = dsl.StagedNetwork([*layers, nnx.Linear(4, 10, rngs=nnx.Rngs(1))], ends=(4,))
        with pytest.warns(UserWarning, match="statistics"):  # those of images would differ as well
            return hash_stages(dsl.frozen_stages(network))

    assert hashed(nnx.relu) == hashed(nnx.relu)
    hashes = [hashed(f) for f in (nnx.relu, jnp.tanh, nnx.gelu, jnp.sin)] + [hashed(nnx.relu, 1e-3)]
    assert len(set(hashes)) == 5


@pytest.mark.parametrize("rate", ["attention", "layer"])
def test_dropout_is_refused_wherever_it_is(rate):
    rngs = nnx.Rngs(0)
    if rate == "attention":
        layer = nnx.MultiHeadAttention(2, 10, decode=False, dropout_rate=0.5, rngs=rngs)
    else:
        layer = nnx.Dropout(0.5, rngs=rngs)
    network = dsl.StagedNetwork([flat, nnx.Linear(784, 10, rngs=rngs), layer], ends=(2,))
    with pytest.raises(ValueError, match=r"parts\.1\.layer_2_\w+ drops out at random"):
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


def with_batch_norm():
    """A stage whose BatchNorm looks at its batch, as it does when it is made."""
    return nnx.Sequential(good, nnx.BatchNorm(6, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "there are no stages"),
        ((good, lambda h: h @ jnp.eye(7)), "stage 1 fails on a batch float32.* TypeError"),
        (
            (lambda x: good(x) if x.sum() < 1e9 else -good(x), logits),
            "stage 0 fails on a batch .*TracerBool",
        ),
        ((lambda x: (good(x),), logits), "stage 0 returns a tuple"),
        ((lambda x: good(x)[0], logits), r"stage 0 turns a batch \[8, 28, 28, 1\] into \[6\]"),
        ((good, lambda h: logits(h)[:, 0]), r"stage 1 is the last and returns \[8\]"),
        ((lambda x: x[..., None], logits), r"stage 0 returns \[8, 28, 28, 1, 1\]"),
        ((lambda x: jnp.sign(good(x)).astype(int), logits), "stage 0 returns int32"),
        (
            (lambda x: jnp.log(good(x) - 1), logits),
            "stage 0 returns 100% values that are not finite",
        ),
        ((with_batch_norm(), logits), "stage 0 changes its own state.*frozen_stages"),
        (
            (lambda x: x.reshape(8, -1)[:, 300:312], logits),
            r"stage 0 turns a batch \[1, 28, 28, 1\] into",
        ),
        ((lambda x: jnp.ones((len(x), 6)) * jnp.arange(6.0)[None], logits), "the same result"),
        ((by_calls(), logits), "stage 0 gives another result when called again"),
        ((lambda x: 0 * good(x), logits), "stage 0 gives all images the same result"),
        (
            (lambda x: flat(x) - flat(x).mean(0, keepdims=True), lambda h: h[:, :10]),
            "stage 0 gives an image another",
        ),
        ((good, lambda h: jnp.sqrt(1.1 - h) @ jnp.eye(6, 10)), "stage 1 returns values .* mutated"),
        ((good, lambda h: h[:, :5]), r"returns logits \[5\] an image, but there are 10 classes"),
    ],
)
def test_what_is_wrong_with_a_stage_is_said(stages, message):
    with pytest.raises(ValueError, match=message):
        dsl.check_stages(stages, IMAGES, num_classes=10)


def test_what_is_no_function_is_named():
    with pytest.raises(TypeError, match="stage 1 is a int: it cannot be called"):
        dsl.check_stages((good, 3), IMAGES)
    with pytest.raises(TypeError, match="stages is a function: search needs a tuple"):
        dsl.check_stages(good, IMAGES)


def test_what_an_image_gives_must_be_logits():
    labels = DATASET.train.labels[: len(IMAGES)]
    with pytest.raises(ValueError, match=r"the last stage returns \[\] of an image: need logits"):
        dsl.search(KEY, (good, lambda h: h.mean(axis=1)), IMAGES, labels, tiny_config(2))


def test_nothing_drops_out_while_statistics_are_of_the_batch():
    rngs = nnx.Rngs(0)
    network = nnx.Sequential(nnx.Dropout(0.5, rngs=rngs), nnx.BatchNorm(6, rngs=rngs))
    x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    out = in_mode(network, training=True)(x)
    np.testing.assert_allclose(out, (x - x.mean(0)) / x.std(0), atol=1e-3)


def test_good_stages_pass_and_the_config_must_fit():
    assert dsl.check_stages((good, logits), IMAGES, num_classes=10) == ((6,), (10,))
    with pytest.raises(ValueError, match="2 stages but 3 layer schedules"):
        dsl.check_stages((good, logits), IMAGES, tiny_config(3))
    with pytest.raises(ValueError, match="images are uint8: normalise them first"):
        dsl.check_stages((good, logits), DATASET.train.images)
    with pytest.raises(ValueError, match="images are uint8: normalise them first"):
        dsl.search(KEY, (good, logits), DATASET.train.images, DATASET.train.labels, tiny_config(2))
    # A layer that does not evolve is never mutated, so it need not live with mutations.
    fixed = dsl.SearchConfig((dsl.LayerSchedule(0, 0.2), dsl.LayerSchedule(2, 0.2)), 2, 2, 2)
    careful = (lambda x: 2 + good(x), lambda h: jnp.log(h - 0.9) @ jnp.eye(6, 10))
    assert dsl.check_stages(careful, IMAGES, fixed) == ((6,), (10,))
    with pytest.raises(ValueError, match=r"stage 1 .* not finite for \d+ of 64 mutated"):
        dsl.check_stages(careful, IMAGES)
    with pytest.raises(ValueError, match="1 images: give at least 2"):
        dsl.check_stages((good, logits), IMAGES[:1])


def test_a_stage_that_does_not_take_the_dtype_of_the_search_is_named():
    kernel = jnp.ones((3, 3, IMAGES.shape[-1], 2))

    def stage(x):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    stages = (stage, lambda h: h.mean(axis=(1, 2)) @ jnp.ones((2, 10)))
    config = dataclasses.replace(tiny_config(2), compute_dtype="bfloat16")
    with pytest.raises(ValueError, match="stage 0 does not take bfloat16, in which the search"):
        dsl.check_stages(stages, IMAGES, config)


def test_the_learner_is_checked_beside_the_stages():
    """A search of hours should not end in a network that cannot learn from it."""

    def network(width=6, rate=0.0):
        rngs = nnx.Rngs(0)
        first = nnx.Linear(IMAGES[0].size, width, rngs=rngs)
        layers = [flat, first, nnx.Dropout(rate, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)]
        return dsl.StagedNetwork(layers, ends=(3,))

    stages = dsl.frozen_stages(network())
    assert dsl.check_stages(stages, IMAGES, learner=network()) == ((6,), (10,))
    with pytest.raises(ValueError, match=r"\(\(6,\), \(10,\)\), the learner's \(\(7,\), \(10,\)\)"):
        dsl.check_stages(stages, IMAGES, learner=network(width=7))
    with pytest.raises(ValueError, match="drops out at random"):
        dsl.check_stages(stages, IMAGES, learner=network(rate=0.2))
    with pytest.raises(TypeError, match="a tuple is no network"):
        dsl.check_stages(stages, IMAGES, learner=stages)
