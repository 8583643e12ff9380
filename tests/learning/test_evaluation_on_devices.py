"""Evaluation, and the statistics for it, on several devices: as on one, but for rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from on_devices import DATASET, Network, assert_close, mesh_of, sharded

from dsl_jax import devices
from dsl_jax.data.dataset import Split
from dsl_jax.devices import replicate
from dsl_jax.learning import evaluation
from dsl_jax.learning.evaluation import evaluate, evaluate_images, with_training_statistics


@pytest.mark.parametrize("statistics", ["train", "batch"])
def test_evaluation_follows_the_network_and_the_images(statistics):
    network = with_training_statistics(Network(), DATASET, np.arange(80))
    graph, state = nnx.split(network)
    many = nnx.merge(graph, replicate(state, mesh_of(8)))
    one = nnx.merge(graph, jax.device_put(state, jax.devices()[0]))
    test = DATASET.test
    expected = evaluate(network, DATASET, statistics=statistics, batch_size=12)
    for network, images in (
        (many, test.images),
        (one, sharded(test.images, 2)),
        (many, sharded(test.images, 2)),
    ):
        split = Split(images, test.labels, test.ids)
        ours = evaluate_images(network, DATASET, split, statistics, 12)
        assert ours == pytest.approx(expected, abs=1e-5)


def test_training_statistics_are_measured_where_the_network_is():
    graph, state = nnx.split(Network())
    many = nnx.merge(graph, replicate(state, mesh_of(8)))
    for size in (40, 30, 7):  # 8 devices share 40 equally; 3 batches of 26 not, nor 12 of 6
        ours = with_training_statistics(many, DATASET, np.arange(80), size)
        assert_close(ours, with_training_statistics(Network(), DATASET, np.arange(80), size))


def test_statistics_are_dealt_out_of_networks_with_loops():
    class Loop(Network):
        def representations(self, images):
            (h,) = super().representations(images)
            total, _ = jax.lax.scan(lambda sum, row: (sum + row, None), jnp.zeros(5), h.sum((0, 3)))
            return (h + total.sum(),)

    graph, state = nnx.split(Loop())
    many = nnx.merge(graph, replicate(state, mesh_of(8)))
    ours = with_training_statistics(many, DATASET, np.arange(80), 7)
    assert_close(ours, with_training_statistics(Loop(), DATASET, np.arange(80), 7))


def test_no_device_measures_the_statistics_of_batches_that_others_measure(monkeypatch):
    parts = []

    def take(*arguments):
        array = devices.take(*arguments)
        parts.append({shard.data.shape[0] for shard in array.addressable_shards})
        return array

    monkeypatch.setattr(evaluation, "take", take)
    graph, state = nnx.split(Network())
    many = nnx.merge(graph, replicate(state, mesh_of(8)))
    with_training_statistics(many, DATASET, np.arange(80), 7)
    assert parts == [{6}, {1}] * 2  # of twelve batches of 6 images eight at a time; their weights
    with_training_statistics(many, DATASET, np.arange(80), 40)
    assert parts[4:] == [{5}, {5}]
