"""The plan's sizes and operations, against the network itself and XLA's own count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dsl_jax.networks.convnet import ConvNet
from dsl_jax.presets import get_preset
from dsl_jax.runs import plan, steps


@pytest.mark.parametrize("dataset", ["mnist", "cifar100"])
@pytest.mark.parametrize("groups", [1, 3])
def test_sizes_and_operations_are_the_networks(dataset, groups):
    config = dataclasses.replace(get_preset("laptop", dataset), widths=(16, 12, 8))
    shape = plan.IMAGE_SHAPES.get(dataset, (28, 28, 1))
    classes = plan.NUM_CLASSES.get(dataset, 10)
    network = ConvNet(shape, classes, config.widths, groups, rngs=nnx.Rngs(0))
    network.eval()
    graph, state = nnx.split(network)

    def forward(state, images):
        network = nnx.merge(graph, state)
        representations = network.representations(images)
        return (*representations, network.head(representations[-1]))

    images = jnp.zeros((4, *shape))
    outputs = jax.eval_shape(forward, state, images)
    assert [int(np.prod(h.shape[1:])) for h in outputs] == plan.representation_sizes(config)
    counted = jax.jit(forward).lower(state, images).compile().cost_analysis()["flops"] / 4
    # XLA also counts BatchNorm and GELU, and not the products with padding.
    assert sum(plan.stage_flops(config, groups)) == pytest.approx(counted, rel=0.2)


def test_the_plan_counts_what_the_paper_needs():
    cost = plan.make_plan(get_preset("paper", "cifar10"))
    assert cost.images == 46_000 and cost.validation_images == 4_000
    assert cost.candidates == 3 * 46_000 * 113_160
    # 72,448 numbers an image, 145 KB in 16 bits.
    assert cost.disk_bytes == pytest.approx(3 * 46_000 * 145e3, rel=0.03)
    assert cost.search_seconds > 0 and cost.learning_seconds > 0


def test_a_plan_grows_with_what_it_plans():
    config = get_preset("laptop", "mnist")
    small, large = (
        plan.make_plan(dataclasses.replace(config, num_train=n)) for n in (1000, 10_000)
    )
    assert large.candidates == 10 * small.candidates
    assert large.disk_bytes > 9 * small.disk_bytes
    text = plan.describe(large, config, "somewhere")
    assert "somewhere" in text and f"{large.candidates:,}" in text


def test_every_cycle_adds_its_search_and_its_trainings():
    config = dataclasses.replace(get_preset("laptop", "mnist"), variants=("all_layers",))
    one, two, three = (plan.make_plan(dataclasses.replace(config, cycles=n)) for n in (1, 2, 3))
    per_image = config.later_cycles[0].search.candidates_per_image
    natural = steps.without_search(config.later_cycles[0].search).candidates_per_image
    assert two.candidates - one.candidates == one.images * (per_image + natural)
    assert three.candidates - two.candidates == two.candidates - one.candidates
    assert three.learning_seconds > two.learning_seconds > 3 * one.learning_seconds
    # A trained network has convolutions to compute, which the untrained one has not.
    assert two.search_seconds > 2 * one.search_seconds
