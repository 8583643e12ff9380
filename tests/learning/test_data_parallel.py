"""Learning on several devices: as on one, but for rounding."""

import dataclasses
import logging
import os
import re
import subprocess
import sys

import jax
import numpy as np
import on_devices
import pytest
from flax import nnx
from free_port import free_port
from on_devices import (
    CONFIG,
    DATASET,
    KEY,
    Network,
    assert_close,
    assert_same,
    leaves,
    make_targets,
    mesh_of,
    sharded,
)

from dsl_jax import devices
from dsl_jax.devices import device_mesh, on_one_device, replicate
from dsl_jax.learning import evaluation, steps
from dsl_jax.learning import train as training
from dsl_jax.learning.batches import exact_batch_size, plan_batches
from dsl_jax.learning.evaluation import evaluate
from dsl_jax.learning.objectives import sgd_objective
from dsl_jax.learning.train import learn, learn_sgd
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.presets import get_preset
from dsl_jax.runs import saved


def train(how, number, config=CONFIG, key=KEY, **options):
    """`learn` or `learn_sgd` on a number of devices; None: without a mesh."""
    network, options = Network(), options | {"mesh": mesh_of(number)}
    if how == "learn":
        return learn(key, network, DATASET, make_targets(), config, **options)
    return learn_sgd(key, network, DATASET, config, **options)


# ---- the same on any number of devices


@pytest.mark.parametrize("how", ["learn", "learn_sgd"])
def test_ten_steps_are_the_same_on_any_number_of_devices(how, monkeypatch):
    step, steps = training.take_step, []

    def recorded(*arguments):
        params, optimizer, loss = step(*arguments)
        steps[-1].append((float(loss), leaves(params)))
        return params, optimizer, loss

    monkeypatch.setattr(training, "take_step", recorded)
    # The images of a batch are compared with each other, also with those of other devices.
    config = dataclasses.replace(CONFIG, relational_weight=1.0 if how == "learn" else 0.0)
    results = []
    for number in (None, 1, 2, 4, 8):
        steps.append([])
        results.append(train(how, number, config))
        assert len(steps[-1]) == 10
    for ours in steps[1:]:
        for (loss, params), (expected_loss, expected) in zip(ours, steps[0], strict=True):
            assert loss == pytest.approx(expected_loss, abs=1e-5)
            for a, b in zip(params, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for ours in results[1:]:
        assert_close(ours.network, results[0].network)
        for a, b in zip(ours.history, results[0].history, strict=True):
            assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, abs=1e-5)


def test_devices_that_hold_the_data_take_the_same_steps(monkeypatch):
    """Each takes its part of a batch from its own copy: nothing but sums goes between them."""
    expected, programs = train("learn", 8), []
    monkeypatch.setattr(training, "has_room_for", lambda arrays, place: True)

    def recorded(*arguments):
        programs.append(steps.take_steps.lower(*arguments).compile().as_text())
        return steps.take_steps(*arguments)

    monkeypatch.setattr(training, "take_steps", recorded)
    for number in (2, 8):
        ours = train("learn", number)
        assert_close(ours.network, expected.network)
        for a, b in zip(ours.history, expected.history, strict=True):
            assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, abs=1e-5)
    assert len(programs) == 4
    for text in programs:
        assert "all-reduce" in text
        assert not re.search(r"all-gather|all-to-all|collective-permute|reduce-scatter", text)


@pytest.mark.parametrize("number", [2, 8])
def test_as_many_devices_give_the_same_bits(number):
    first, *others = (train("learn_sgd", number) for _ in range(3))
    for again in others:
        assert_same(again.network, first.network)


def test_the_papers_network_is_the_same_on_eight_devices():
    network = ConvNet((9, 9, 1), 3, (4,), rngs=nnx.Rngs(0))
    network.whiten(DATASET.normalize(DATASET.train.images))
    config = dataclasses.replace(CONFIG, augment=False)
    expected = learn_sgd(KEY, network, DATASET, config)
    assert_close(
        learn_sgd(KEY, network, DATASET, config, mesh=mesh_of(8)).network, expected.network
    )


def test_batchnorm_sees_the_whole_batch():
    # It catches statistics of each device's part, as under pmap or shard_map without axis_name.
    graph, params, rest = nnx.split(Network(), nnx.Param, ...)
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=80, augment=False)
    rows = plan_batches(jax.random.fold_in(KEY, 0), 80, 80)[0]

    @jax.jit
    def loss_of(images, labels):
        return sgd_objective(nnx.merge(graph, params, rest, copy=True), images, labels, config)

    def loss(rows):
        images = DATASET.normalize(DATASET.train.images[rows])
        return float(loss_of(images, DATASET.train.labels[rows]))

    whole, parts = loss(rows), np.mean([loss(part) for part in np.split(rows, 8)])
    assert abs(whole - parts) > 1e-3  # so the two can be told apart
    ours = train("learn_sgd", 8, config).history[0]["train_loss"]
    assert ours == pytest.approx(whole, abs=1e-5)


def test_a_mesh_of_any_axis_type_and_a_second_training_compile_nothing_new():
    sizes = []
    for mesh in (
        mesh_of(4),
        mesh_of(4),
        jax.make_mesh((4,), ("images",), devices=jax.devices()[:4]),
    ):
        learn_sgd(KEY, Network(), DATASET, CONFIG, mesh=mesh)
        jitted = (training.take_step, evaluation._score, evaluation._batch_statistics)
        sizes.append([function._cache_size() for function in jitted])
    assert sizes[0] == sizes[1] == sizes[2]


def test_the_network_passed_in_stays_and_the_one_returned_is_on_one_device():
    network = Network()
    before = leaves(network)
    result = learn_sgd(KEY, network, DATASET, CONFIG, mesh=mesh_of(4))
    for a, b in zip(before, leaves(network), strict=True):
        np.testing.assert_array_equal(a, b)
    for leaf in jax.tree.leaves(nnx.state(result.network)):
        assert leaf.devices() == {jax.devices()[0]}
    assert evaluate(result.network, DATASET).accuracy > 0.5


def test_a_philox_key_works_and_gives_the_same():
    key = jax.random.key(5, impl="philox4x32")
    assert_close(train("learn_sgd", 4, key=key).network, train("learn_sgd", None, key=key).network)


# ---- batches that devices share equally


def test_devices_that_do_not_divide_a_batch_are_refused_before_anything_is_read():
    class Unread:
        def __getattr__(self, name):
            raise AssertionError("targets were read")

    for train in (
        lambda **options: learn(KEY, Network(), DATASET, Unread(), CONFIG, **options),
        lambda **options: learn_sgd(KEY, Network(), DATASET, CONFIG, **options),
    ):
        with pytest.raises(ValueError, match=r"16 images, which 3 devices .* batch_multiple=3"):
            train(mesh=mesh_of(3))


@pytest.mark.parametrize(
    ("images", "batch_size", "multiple", "expected"),
    [
        (46_000, 2000, 1, 2000),
        (46_000, 2000, 8, 2000),
        (55_200, 2000, 1, 1840),
        (55_200, 2000, 8, 1840),
        (80, 15, 8, 16),  # in the window
        (400, 10, 8, 8),  # none in the window: the nearest
        (400, 14, 8, 16),
        (30, 29, 20, 20),  # 40 are not there
        (30, 3, 20, 20),
        (30, 100, 8, 24),  # fewer images than batch_size
        (999, 2, 1, 2),  # of many small batches one more or less is no reason for another size
        (105, 37, 1, 35),  # three equal parts
    ],
)
def test_a_batch_holds_a_multiple(images, batch_size, multiple, expected):
    assert exact_batch_size(images, batch_size, multiple) == expected
    assert plan_batches(KEY, images, batch_size, multiple).shape == (images // expected, expected)


def test_batch_multiple_is_respected_by_training_and_refused_when_too_large():
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=11, batch_multiple=4)
    assert train("learn_sgd", 4, config).history[0]["images"] == 72
    with pytest.raises(ValueError, match="batch_multiple is 81, but there are 80 training images"):
        learn_sgd(KEY, Network(), DATASET, dataclasses.replace(CONFIG, batch_multiple=81))
    assert get_preset("paper", "mnist").learn.batch_multiple == 8


def test_the_most_devices_that_divide_a_batch_are_used_and_fewer_are_told_of_once(caplog):
    devices._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert device_mesh().size == device_mesh(400).size == 8
        assert not caplog.records
        assert device_mesh(100).size == device_mesh(100).size == 5
        assert device_mesh(13) is None
    assert [record.args or record.message[:32] for record in caplog.records] == [
        "learning uses 5 of 8 devices: th",
        "learning uses 1 of 8 devices: th",
    ]


# ---- checkpoints


@pytest.mark.parametrize(("first", "then"), [(8, 8), (8, None), (None, 8)])
def test_a_training_goes_on_with_another_number_of_devices(first, then, tmp_path, monkeypatch):
    whole = train("learn_sgd", first)
    save = saved.Checkpoints.save

    def stop_after_first(self, epoch, *rest):
        save(self, epoch, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saved, "CHECKPOINT_SECONDS", 0)
        patch.setattr(saved.Checkpoints, "save", stop_after_first)
        with pytest.raises(KeyboardInterrupt):
            train("learn_sgd", first, checkpoints=saved.Checkpoints(tmp_path / "t"))
    resumed = train("learn_sgd", then, checkpoints=saved.Checkpoints(tmp_path / "t"))
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2]
    (assert_same if first == then else assert_close)(resumed.network, whole.network)


# ---- what networks and data may hold, and where


def test_a_network_may_hold_an_array_of_numpys():
    class Scaled(Network):
        def __init__(self):
            super().__init__()
            self.scale = nnx.Variable(np.array(2, np.float32))

        def representations(self, images):
            return super().representations(images * self.scale[...])

    result = learn_sgd(KEY, Scaled(), DATASET, CONFIG)
    assert result.network.scale[...] == 2


def test_a_network_may_hold_random_keys():
    state = nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    there = on_one_device(replicate(state, mesh_of(4)))
    assert jax.tree.structure(there) == jax.tree.structure(state)
    assert {x.sharding.num_devices for x in jax.tree.leaves(there)} == {1}


def test_targets_and_images_may_be_sharded():
    expected = learn(KEY, Network(), DATASET, make_targets(), CONFIG, mesh=mesh_of(4))
    targets = jax.tree.map(lambda x: sharded(x, 8), make_targets())
    train_split = DATASET.train._replace(images=sharded(DATASET.train.images, 4))
    dataset = dataclasses.replace(DATASET, train=train_split)
    ours = learn(KEY, Network(), dataset, targets, CONFIG, mesh=mesh_of(4))
    assert_same(ours.network, expected.network)


# ---- several processes


PROCESS = """
import sys, jax
address, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 4 // count)
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, index)
import numpy as np
from on_devices import CONFIG, DATASET, KEY, leaves, Network, make_targets
from dsl_jax import learn
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("images",))
assert mesh.size == 4 and len(jax.local_devices()) == 4 // count
result = learn(KEY, Network(), DATASET, make_targets(), CONFIG, mesh=mesh)
np.savez(sys.argv[4], *leaves(result.network), [epoch["train_loss"] for epoch in result.history])
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    address = f"localhost:{free_port()}"
    support = os.path.dirname(on_devices.__file__)
    path = os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    commands = [(address, 2, 0, "first"), (address, 2, 1, "second"), ("", 1, 0, "alone")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, command[:3]), tmp_path / f"{command[3]}.npz"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors
    finally:  # where one has failed, the other would wait for it
        for process in started:
            process.kill()
            process.communicate()
    first, second, alone = (np.load(tmp_path / f"{command[3]}.npz") for command in commands)
    for name in alone.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], alone[name], rtol=1e-5, atol=1e-5)
