"""Learning: the same loop for both methods, and nothing by chance."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn_keys import recording_key
from flax import nnx
from stripes import DATASET, leaves, make, targets

from dsl_jax.config import LearnConfig
from dsl_jax.devices import take
from dsl_jax.evolution.image import SearchResult
from dsl_jax.learning import steps, train
from dsl_jax.learning.batches import plan_batches
from dsl_jax.learning.evaluation import (
    Evaluation,
    evaluate,
    evaluate_images,
    representations_of,
    with_training_statistics,
)
from dsl_jax.learning.identity import check_same_training
from dsl_jax.learning.optimizer import learning_rate, make_optimizer, rates_of, timing_of
from dsl_jax.learning.resident import has_room_for
from dsl_jax.learning.train import learn, learn_sgd

KEY = jax.random.key(0)
CONFIG = LearnConfig(epochs=3, batch_size=16, learning_rate=0.1, statistics_images=32)


# ---- batches and optimiser


@pytest.mark.parametrize(
    ("number", "size"), [(4600, 100), (1037, 64), (10, 100), (7, 1), (3000, 2000), (130, 100)]
)
def test_batches_hold_each_row_at_most_once_and_leave_few_out(number, size):
    batches = plan_batches(KEY, number, size)
    rows = batches.ravel()
    assert len(set(rows)) == len(rows) and rows.min() >= 0 and rows.max() < number
    assert number - len(rows) <= number * 0.01
    assert abs(batches.shape[1] - size) <= 0.1 * size or number < 2 * size
    assert number < 2 * size or batches.shape[1] >= 0.9 * size


def test_the_optimizer_is_nesterov_momentum_with_the_rates_of_the_biases():
    config = LearnConfig(
        epochs=4, learning_rate=0.5, momentum=0.8, weight_decay=0.1, bias_rate_factor=3.0,
        stem_bias_epochs=1, warmup_fraction=0.5, initial_rate_fraction=0.2, final_rate_fraction=0.1,
    )  # fmt: skip
    two = jnp.float32(2)
    params = {"conv": {"w": two[None, None]}, "norm_1": {"bias": two}, "stem_bias": two}
    given = rates_of(config), timing_of(config, steps_per_epoch=5)
    optimizer, rate = make_optimizer(*given), learning_rate(*given)
    state = optimizer.init(params)
    expected, velocity = (jax.tree.map(lambda x, s=s: s * x.item(), params) for s in (1, 0))
    generator = np.random.default_rng(2)
    for step in range(20):
        gradients = jax.tree.map(lambda x: jnp.full(x.shape, generator.normal()), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        lr = np.interp(step, [0, 10, 20], [0.1, 0.5, 0.05])
        assert float(rate(step)) == pytest.approx(lr, rel=1e-5)
        for name in ("conv", "norm_1", "stem_bias"):
            g = jax.tree.leaves(gradients[name])[0].item()
            w = float(jax.tree.leaves(expected[name])[0])
            v = float(jax.tree.leaves(velocity[name])[0])
            g += 0.1 * w if name == "conv" else 0.0
            v = 0.8 * v + g
            factor = {"conv": 1.0, "norm_1": 3.0, "stem_bias": float(step < 5)}[name]
            w -= lr * factor * (g + 0.8 * v)
            expected[name] = jax.tree.map(lambda _, w=w: w, expected[name])
            velocity[name] = jax.tree.map(lambda _, v=v: v, velocity[name])
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert ours.item() == pytest.approx(theirs, rel=1e-4)


# ---- the loop


def test_sgd_learns_and_the_network_passed_in_stays_as_it_was():
    network = make()
    before = leaves(network)
    config = dataclasses.replace(CONFIG, epochs=8)
    result = learn_sgd(KEY, network, DATASET, config)
    for old, new in zip(before, leaves(network), strict=True):
        np.testing.assert_array_equal(old, new)
    assert evaluate(result.network, DATASET).accuracy > 0.8
    assert len(result.history) == 8
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_learning_fits_the_targets_and_the_same_seed_gives_the_same_bits():
    first = learn(KEY, make(), DATASET, targets(), CONFIG)
    again = learn(KEY, make(), DATASET, targets(), CONFIG)
    other = learn(jax.random.key(1), make(), DATASET, targets(), CONFIG)
    for a, b in zip(leaves(first.network), leaves(again.network), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        (a != b).any() for a, b in zip(leaves(first.network), leaves(other.network), strict=True)
    )
    losses = [epoch["train_loss"] for epoch in first.history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "epochs",
    [
        [(0.5, 1.0), (0.9, 1.0), (0.7, 1.0)],
        [(0.9, 2.0), (0.9, 1.0), (0.9, 3.0)],  # of equal accuracies the lower loss wins
        [(0.5, 0.5), (0.9, 1.0), (0.7, 0.7)],
    ],
)
def test_the_network_kept_is_the_best_epochs_by_validation(epochs, monkeypatch):
    scores = iter(epochs)
    seen = []

    def scripted(network, *_):
        seen.append(leaves(network, nnx.Param))
        return Evaluation(*next(scores))

    monkeypatch.setattr(train, "evaluate_images", scripted)
    result = learn_sgd(KEY, make(), DATASET, CONFIG)
    assert result.best_epoch == result.history[1]
    for kept, best in zip(leaves(result.network, nnx.Param), seen[1], strict=True):
        np.testing.assert_array_equal(kept, best)


def test_batches_keep_their_images_and_come_in_another_order_each_epoch(monkeypatch):
    taken = []

    def recorded(array, rows, mesh):
        if array is DATASET.train.images:
            taken.append(tuple(rows.tolist()))
        return take(array, rows, mesh)

    monkeypatch.setattr(train, "take", recorded)
    learn_sgd(KEY, make(), DATASET, CONFIG)
    epochs = np.split(np.array(taken), CONFIG.epochs)
    first = set(map(tuple, epochs[0].tolist()))
    assert len(first) == 4 and all(set(map(tuple, rows.tolist())) == first for rows in epochs)
    assert len({rows.tobytes() for rows in epochs}) > 1


@pytest.mark.parametrize(
    ("statistics", "looks", "sizes"),
    [("train", None, [32, 32, 32, 64]), ("batch", dict, [32, 32, 32, 64]), ("batch", None, [64])],
)
def test_statistics_are_of_some_images_in_training_if_needed_and_of_all_trained_on_at_its_end(
    statistics, looks, sizes, monkeypatch
):
    measured, scored = [], []

    def measure(network, dataset, rows):
        measured.append(set(rows.tolist()))
        return with_training_statistics(network, dataset, rows)

    def score(network, dataset, split, statistics):
        scored.append(statistics)
        return evaluate_images(network, dataset, split, statistics)

    monkeypatch.setattr(train, "with_training_statistics", measure)
    monkeypatch.setattr(train, "evaluate_images", score)
    config = dataclasses.replace(CONFIG, evaluation_statistics=statistics)
    learn_sgd(KEY, make(), DATASET, config, measure=looks and (lambda network: {}))
    assert [len(rows) for rows in measured] == sizes
    assert len(DATASET.train.images) == 64 and scored == [statistics] * CONFIG.epochs


def test_a_measure_sees_each_validated_epochs_network_and_joins_its_record():
    split, seen = DATASET.validation, []

    def measure(network):
        reps = representations_of(network, DATASET, split, batch_size=10)
        seen.append(reps)
        return {"accuracy_again": float(np.mean(reps[-1].argmax(axis=1) == split.labels))}

    config = dataclasses.replace(CONFIG, validate_every=2)
    plain = learn(KEY, make(), DATASET, targets(), config)
    measured = learn(KEY, make(), DATASET, targets(), config, measure=measure)
    for a, b in zip(leaves(plain.network), leaves(measured.network), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ["accuracy_again" in record for record in measured.history] == [False, True, True]
    for record in measured.history[1:]:
        assert record["accuracy_again"] == record["validation_accuracy"]
    assert [h.shape for h in seen[0]] == [(16, 5, 5, 4), (16, 2, 2, 4), (16, 1, 1, 4), (16, 3)]
    assert np.abs(seen[0][0] - seen[1][0]).max() > 0


def test_each_epochs_record_is_given_once_in_plain_numbers():
    records = []
    options = {"measure": lambda network: {"m": jnp.float32(2), "n": np.ones(2)}}
    result = learn_sgd(KEY, make(), DATASET, CONFIG, on_epoch=records.append, **options)
    assert records == result.history and [r["epoch"] for r in records] == [1, 2, 3]
    assert records[-1]["m"] == 2 and records[-1]["n"] == [1, 1]
    assert json.loads(json.dumps(records)) == records


class Memory:
    """Checkpoints in memory; stops the training by an error after some epoch."""

    def __init__(self, stop_after=None):
        self.saved, self.stop_after = None, stop_after

    def restore(self, like, identity):
        if self.saved is not None:
            check_same_training(identity, self.identity)
        return self.saved

    def save(self, epoch, state, history, identity, last):
        self.saved, self.identity = (jax.tree.map(jnp.copy, state), list(history)), identity
        if epoch == self.stop_after:
            self.stop_after = None
            raise KeyboardInterrupt


@pytest.mark.parametrize("augment", [False, True])
def test_an_interrupted_training_ends_with_the_same_bits(augment):
    config = dataclasses.replace(CONFIG, augment=augment)
    whole = learn_sgd(KEY, make(), DATASET, config)
    checkpoints = Memory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        learn_sgd(KEY, make(), DATASET, config, checkpoints=checkpoints)
    resumed = learn_sgd(KEY, make(), DATASET, config, checkpoints=checkpoints)
    assert [e["epoch"] for e in resumed.history] == [1, 2, 3]
    for a, b in zip(leaves(whole.network), leaves(resumed.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_training_does_not_go_on_from_another():
    checkpoints = Memory(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        learn(KEY, make(), DATASET, targets(), CONFIG, checkpoints=checkpoints)
    longer = dataclasses.replace(CONFIG, epochs=4)
    with pytest.raises(
        ValueError, match=r"of another training.*\n.*config.epochs: 3 there, 4 here"
    ):
        learn(KEY, make(), DATASET, targets(), longer, checkpoints=checkpoints)
    with pytest.raises(ValueError, match=r"(?s)of another training.*objective.*of targets"):
        learn_sgd(KEY, make(), DATASET, CONFIG, checkpoints=checkpoints)
    result = learn(KEY, make(), DATASET, targets(), CONFIG, checkpoints=checkpoints)
    assert len(result.history) == CONFIG.epochs


def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint():
    broken = make()
    broken.linear.kernel[...] *= jnp.nan
    checkpoints = Memory()
    with pytest.raises(FloatingPointError, match=r"at step 0 \(epoch 1\): nothing was learned"):
        learn(KEY, broken, DATASET, targets(), CONFIG, checkpoints=checkpoints)
    assert checkpoints.saved is None


def test_no_two_draws_have_the_same_key():
    key = recording_key(3, drawn := [], name="it tells")
    config = dataclasses.replace(CONFIG, epochs=2, augment=True)
    result = learn_sgd(key, make(), DATASET, config)
    jax.effects_barrier()
    assert len(set(drawn)) == len(drawn) >= len(result.history)


def test_steps_in_one_program_are_those_taken_one_by_one(monkeypatch):
    config = dataclasses.replace(CONFIG, epochs=2, augment=True, crop_padding=2)
    one_by_one, programs = learn(KEY, make(), DATASET, targets(), config), []
    monkeypatch.setattr(train, "has_room_for", lambda arrays, place: True)
    monkeypatch.setattr(train, "STEPS_AT_ONCE", 2)  # of 4

    def recorded(*arguments):
        programs.append(len(arguments[-3][0]))
        return steps.take_steps(*arguments)

    monkeypatch.setattr(train, "take_steps", recorded)
    at_once = learn(KEY, make(), DATASET, targets(), config)
    assert programs == [2, 2, 2, 2]
    for ours, theirs in zip(one_by_one.history, at_once.history, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
    for ours, theirs in zip(leaves(one_by_one.network), leaves(at_once.network), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "stats", "fits"),
    [
        ("gpu", {"bytes_limit": 1000, "bytes_in_use": 200}, True),
        ("gpu", {"bytes_limit": 1000, "bytes_in_use": 201}, False),
        ("gpu", None, False),
        ("cpu", {"bytes_limit": 10**12}, False),
    ],
)
def test_data_stay_on_the_device_where_they_take_a_quarter_of_what_is_free(platform, stats, fits):
    device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    full = SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": 799})
    arrays = (np.zeros(100, np.uint8), (np.zeros(25, np.float32),))  # 200 bytes
    assert has_room_for(arrays, SimpleNamespace(addressable_devices=[device])) == fits
    assert not has_room_for(arrays, SimpleNamespace(addressable_devices=[device, full]))


RATES = ("learning_rate", "initial_rate_fraction", "final_rate_fraction")
RATES += ("momentum", "weight_decay", "bias_rate_factor")


def test_it_compiles_once_for_all_epochs_and_rates_and_heeds_each_rate():
    steps.take_step.clear_cache()
    changes = [{}, *({name: 0.4 * getattr(CONFIG, name) + 0.03} for name in RATES)]
    configs = [dataclasses.replace(CONFIG, **change) for change in changes]
    plain, *others = (leaves(learn_sgd(KEY, make(), DATASET, config).network) for config in configs)
    assert steps.take_step._cache_size() == 1
    for name, other in zip(RATES, others, strict=True):
        assert any((a != b).any() for a, b in zip(plain, other, strict=True)), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: SearchResult(t.representations[1:], ()), "the network's representations"),
        (lambda t: jax.tree.map(lambda x: x[:-1], t), "63 targets for 64 training images"),
    ],
)
def test_targets_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        learn(KEY, make(), DATASET, change(targets()), CONFIG)


def test_targets_are_matched_by_id():
    class Store:
        ids = DATASET.train.ids[::-1].copy()

        def read(self, rows):
            return jax.tree.map(lambda x: x[::-1][rows], targets())

    by_rows = learn(KEY, make(), DATASET, targets(), CONFIG)
    by_ids = learn(KEY, make(), DATASET, Store(), CONFIG)
    for a, b in zip(leaves(by_rows.network), leaves(by_ids.network), strict=True):
        np.testing.assert_array_equal(a, b)
    Store.ids = DATASET.train.ids[1:]
    with pytest.raises(ValueError, match="lack 1 of 64 training images"):
        learn(KEY, make(), DATASET, Store(), CONFIG)
