"""Objectives: who gets which gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from stripes import DATASET, make, targets

from dsl_jax import get_preset
from dsl_jax.config import LearnConfig
from dsl_jax.learning import objectives
from dsl_jax.learning.objectives import head_loss, regression_loss, relational_loss
from dsl_jax.networks.convnet import ConvNet

KEY = jax.random.key(0)
GENERATOR = np.random.default_rng(0)
CONFIG = LearnConfig(epochs=3, batch_size=16, learning_rate=0.1, statistics_images=32)


def test_regression_is_a_third_of_the_sum_of_mean_squares():
    ours = [GENERATOR.normal(size=(6, *s)) for s in ((4, 4, 2), (2, 2, 3), (5,))]
    theirs = [GENERATOR.normal(size=h.shape) for h in ours]
    terms = [
        np.mean([np.mean((a - b) ** 2) for a, b in zip(x, y, strict=True)])
        for x, y in zip(ours, theirs, strict=True)
    ]
    as_jax = [jnp.asarray(h, jnp.float32) for h in ours]
    whole = regression_loss(as_jax, [jnp.asarray(h, jnp.float16) for h in theirs], (0, 1, 2))
    assert float(whole) == pytest.approx(sum(terms) / 3, rel=1e-2)
    skipped = regression_loss(as_jax, [jnp.asarray(h, jnp.float32) for h in theirs], (1, 2))
    assert float(skipped) == pytest.approx((terms[1] + terms[2]) / 3, rel=1e-5)


def test_a_target_of_another_shape_is_not_broadcast():
    with pytest.raises(ValueError, match=r"representation 0 \[4, 3, 3, 2\] has a target \[4, 1"):
        regression_loss([jnp.ones((4, 3, 3, 2))], [jnp.ones((4, 1, 1, 2))], (0,))
    with pytest.raises(ValueError, match=r"logits \[4, 5\] has a target \[1, 5\]"):
        head_loss(jnp.ones((4, 5)), jnp.ones((1, 5)))


def test_normalized_matching_normalises_each_sample():
    h = jnp.asarray(GENERATOR.normal(3, 5, size=(4, 3, 3, 2)), jnp.float32)
    normal = (h - h.mean((1, 2, 3), keepdims=True)) / h.std((1, 2, 3), keepdims=True)
    assert float(regression_loss([h], [normal], (0,), matching="normalized")) < 1e-6
    assert float(regression_loss([h], [normal], (0,))) > 1


@pytest.mark.parametrize("relations", ["targets", "labels"])
def test_images_are_to_be_as_alike_as_their_targets_or_labels(relations):
    random = np.random.default_rng(1)
    ours = [random.normal(size=(6, *s)) for s in ((4, 4, 5), (2, 2, 3), (7,))]
    theirs = [random.normal(size=h.shape) for h in ours]
    logits = random.normal(size=(6, 3))
    labels = logits.argmax(axis=1)
    assert len({*labels}) == 3

    def cosine(a, b):
        a, b = (h.reshape(-1, h.shape[-1]).mean(axis=0) for h in (a, b))
        return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))

    terms = []
    for x, y in zip(ours, theirs, strict=True):
        wanted = {
            "targets": lambda i, j, y=y: cosine(y[i], y[j]),
            "labels": lambda i, j: float(labels[i] == labels[j]),
        }[relations]
        pairs = [(i, j) for i in range(6) for j in range(6)]
        terms.append(np.mean([(cosine(x[i], x[j]) - wanted(i, j)) ** 2 for i, j in pairs]))
    as_jax = [jnp.asarray(h, jnp.float32) for h in (*theirs, logits)]
    ours = [jnp.asarray(h, jnp.float32) for h in ours]
    found = relational_loss(ours, as_jax, (0, 2), relations=relations)
    assert float(found) == pytest.approx((terms[0] + terms[2]) / 3, rel=1e-5)
    # Also where an image's means are 0.
    slope = jax.grad(lambda h: relational_loss([h], as_jax, (0,), relations=relations))
    assert np.isfinite(slope(jnp.zeros_like(ours[0]))).all()


def test_the_heads_loss_is_a_divergence_from_the_target():
    ours, theirs = GENERATOR.normal(size=(2, 5, 3))
    p = np.exp(theirs) / np.exp(theirs).sum(axis=1, keepdims=True)
    q = np.exp(ours) / np.exp(ours).sum(axis=1, keepdims=True)
    expected = np.mean(np.sum(p * np.log(p / q), axis=1))
    assert float(head_loss(jnp.asarray(ours), jnp.asarray(theirs))) == pytest.approx(expected, 1e-4)
    assert float(head_loss(jnp.asarray(theirs), jnp.asarray(theirs))) == pytest.approx(0, abs=1e-6)


def gradient(config, objective=objectives.target_objective, answers=None):
    graph, params, rest = nnx.split(make(), nnx.Param, ...)
    batch = jax.tree.map(lambda x: x[:16], targets().representations)
    images = DATASET.normalize(DATASET.train.images[:16])

    def loss(params):
        network = nnx.merge(graph, params, rest, copy=True)
        return objective(network, images, batch if answers is None else answers, config)

    flat = jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params))
    return {jax.tree_util.keystr(path, simple=True, separator="."): g for path, g in flat}


def of(gradients, word):
    return [np.asarray(g) for name, g in gradients.items() if word in name]


@pytest.mark.slow
def test_the_heads_loss_never_reaches_the_body_nor_the_regression_the_head():
    without = gradient(dataclasses.replace(CONFIG, head_weight=0.0))
    with_head = gradient(dataclasses.replace(CONFIG, head_weight=5.0))
    assert all((g == 0).all() for g in of(without, "linear"))
    assert all((g != 0).any() for g in of(with_head, "linear"))
    for word in ("blocks", "stem"):
        for a, b in zip(of(without, word), of(with_head, word), strict=True):
            np.testing.assert_array_equal(a, b)
        assert any((g != 0).any() for g in of(without, word))


def test_lambda_scales_the_heads_gradient_alone():
    one = gradient(dataclasses.replace(CONFIG, head_weight=1.0))
    three = gradient(dataclasses.replace(CONFIG, head_weight=3.0))
    np.testing.assert_allclose(of(three, "linear")[0], 3 * of(one, "linear")[0], rtol=1e-5)


def test_skip_block_0_teaches_block_0_through_the_later_blocks_only(monkeypatch):
    skip = dataclasses.replace(CONFIG, variant="skip_block_0")
    gradients = gradient(skip)
    assert any((g != 0).any() for g in of(gradients, "blocks.0"))
    # Cut the way between the blocks: nothing may be left for block 0.
    plain = ConvNet.representations

    def cut(self, images):
        first, *_ = plain(self, images)
        h, later = jax.lax.stop_gradient(first), []
        for block in list(self.blocks)[1:]:
            h = block(h)
            later.append(h)
        return (first, *later)

    monkeypatch.setattr(ConvNet, "representations", cut)
    assert all((g == 0).all() for g in of(gradient(skip), "blocks.0"))
    assert any((g != 0).any() for g in of(gradient(CONFIG), "blocks.0"))


def test_any_block_can_be_left_without_a_target_if_it_is_there():
    assert objectives.supervised_layers("all_layers", 3) == (0, 1, 2)
    assert [objectives.supervised_layers(f"skip_block_{n}", 3) for n in range(3)] == [
        (1, 2), (0, 2), (0, 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="skip_block_3: there are 3 blocks"):
        objectives.supervised_layers("skip_block_3", 3)
    for name in ("skip_block_", "skip_block_-1", "skip_block_01", "all", "sgd"):
        with pytest.raises(ValueError, match=f"variant '{name}' is unknown"):
            dataclasses.replace(CONFIG, variant=name)
    config = get_preset("smoke", "digits")
    dataclasses.replace(config, variants=("skip_block_2", "sgd"))
    with pytest.raises(ValueError, match="skip_block_3 is of a block that is not there"):
        dataclasses.replace(config, variants=("skip_block_3",))


def test_sgd_sends_the_cross_entropy_everywhere():
    labels = DATASET.train.labels[:16]
    gradients = gradient(CONFIG, objectives.sgd_objective, labels)
    assert all((g != 0).any() for g in gradients.values())


@pytest.mark.slow
def test_the_relational_loss_is_added_with_its_weight_and_never_reaches_the_head():
    settings = ({}, {"relational_weight": 1.0}, {"relational_weight": 3.0})
    settings += ({"relational_weight": 1.0, "relations": "labels"},)
    without, one, three, labels = (
        gradient(dataclasses.replace(CONFIG, **fields)) for fields in settings
    )
    for a, b in zip(of(without, "linear"), of(three, "linear"), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b, c, d in zip(*(of(g, "blocks") for g in (without, one, three, labels)), strict=True):
        np.testing.assert_allclose(c - a, 3 * (b - a), atol=1e-5)
        assert (a != b).any() and (b != d).any()


def test_activations_are_compared_with_normalised_targets_normalised():
    h = jnp.asarray(GENERATOR.normal(2, 5, size=(4, 3, 3, 2)), jnp.float32)
    targets = [(h - h.mean((1, 2, 3), keepdims=True)) / h.std((1, 2, 3), keepdims=True), h[:, 0, 0]]
    assert float(relational_loss([h], targets, (0,), matching="normalized")) < 1e-9
    assert float(relational_loss([h], targets, (0,))) > 1e-3
