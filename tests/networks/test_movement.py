"""`check_stages` mutates, and says which layer is dead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import dsl_jax as dsl
from dsl_jax.evolution.operators import reproduce
from dsl_jax.networks import movement

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(size=(8, 6, 6, 2)).astype(np.float32)
WEIGHTS = GENERATOR.normal(size=(72, 5)).astype(np.float32)


def same(images):
    return images


def head(h):
    return h.reshape(len(h), -1) @ WEIGHTS


def over_space(images):
    """Each channel's mean, wherever one looks."""
    return jnp.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)


def test_a_layer_without_spread_is_named():
    with pytest.raises(ValueError, match="children of stage 1's representations are their parents"):
        dsl.check_stages((same, over_space, head), IMAGES)


@pytest.mark.parametrize(
    ("boost", "explorers", "refiners", "strength"),
    [(5.0, 4, 4, 0.5), (5.0, 0, 4, 0.1), (0.5, 4, 4, 0.1), (0.5, 4, 0, 0.05)],
)
def test_children_are_mutated_as_those_that_move_most(
    boost, explorers, refiners, strength, monkeypatch
):
    strengths = []

    def recorded(key, parents, count, strength, **options):
        strengths.append(strength)
        return reproduce(key, parents, count, strength, **options)

    monkeypatch.setattr(movement, "reproduce", recorded)
    schedules = (dsl.LayerSchedule(1, 0.1, boost), dsl.LayerSchedule(0, 0.1))
    config = dsl.SearchConfig(schedules, num_explorers=explorers, num_refiners=refiners)
    dsl.check_stages((same, head), IMAGES, config)
    assert strengths == [pytest.approx(strength)]


def test_a_layer_without_spread_in_most_images_is_told():
    mostly_flat = IMAGES.copy()
    mostly_flat[:6] = over_space(mostly_flat[:6])
    with pytest.warns(UserWarning, match=r"children of stage 0.*, for 6 of 8 images"):
        dsl.check_stages((same, head), mostly_flat)


def test_channels_without_spread_are_told():
    def half(images):
        return jnp.concatenate([images[..., :1], over_space(images)[..., 1:]], axis=-1)

    with pytest.warns(UserWarning, match="1 of 2 channels of stage 0 do not vary over space"):
        dsl.check_stages((half, head), IMAGES)


def test_a_stage_that_saturates_for_what_is_mutated_is_named():
    def first(images):
        return 40 + images

    def saturated(h):  # takes what is about 40, and is given what is about 0
        return nnx.relu(h - 20)

    with pytest.raises(ValueError, match=r"stage 1 returns the same for all mutated .* of stage 0"):
        dsl.check_stages((first, saturated, head), IMAGES)


def test_logits_that_hardly_differ_are_named():
    with pytest.raises(ValueError, match="log-probabilities of all mutated outputs of stage 0 are"):
        dsl.check_stages((same, lambda h: 1e-8 * head(h)), IMAGES)
    dsl.check_stages((same, lambda h: 1e-3 * head(h)), IMAGES)


def test_layers_that_do_not_evolve_may_be_dead():
    layers = (dsl.LayerSchedule(2, 0.2), dsl.LayerSchedule(0, 0.2), dsl.LayerSchedule(2, 0.2))
    config = dsl.SearchConfig(layers, 2, 2, 2)
    dsl.check_stages((same, over_space, head), IMAGES, config)


@pytest.mark.slow
def test_a_block_of_one_position_is_refused_when_it_is_frozen():
    def freeze(side, blocks):
        images = GENERATOR.normal(size=(20, side, side, 1)).astype(np.float32)
        network = dsl.ConvNet(
            (side, side, 1), 3, (4,) * blocks, normalize_blocks=True, rngs=nnx.Rngs(0)
        )
        network.whiten(images)
        layers = (dsl.LayerSchedule(2, 0.2, 2.0, 1),) * (blocks + 1)
        config = dsl.SearchConfig(layers, num_parents=2, num_explorers=2, num_refiners=2)
        stages = dsl.frozen_stages(network, images, config, key=jax.random.key(0))
        return dsl.check_stages(stages, images, config, num_classes=3)

    with pytest.raises(ValueError, match=r"stage 1 returns \[1, 1, 4\]"):
        freeze(8, 2)
    assert freeze(9, 2)[1] == (2, 2, 4)


def test_a_learner_that_is_dead_is_told():
    class Dead(nnx.Module):
        def representations(self, images):
            return (0 * images,)

        def head(self, last):
            return head(last)

    with pytest.raises(ValueError, match="representation 0 of the learner is the same for all"):
        dsl.check_stages((same, head), IMAGES, learner=Dead())
