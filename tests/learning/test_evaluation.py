"""Evaluation: every example counted once, by the statistics asked for."""

import dataclasses

import jax
import numpy as np
import pytest
from stripes import COUNT, DATASET, make

from dsl_jax.data.dataset import Split
from dsl_jax.learning.evaluation import (
    evaluate,
    evaluate_images,
    predict,
    with_training_statistics,
)
from dsl_jax.networks.interface import in_mode


def trained():
    return with_training_statistics(make(), DATASET, np.arange(COUNT), batch_size=32)


@pytest.mark.parametrize("batch_size", [1, 5, 37, 500])
def test_every_example_is_counted_once_whatever_the_batches(batch_size):
    network = trained()
    logits = network(DATASET.normalize(DATASET.test.images))
    losses = -np.asarray(jax.nn.log_softmax(logits))[np.arange(37), DATASET.test.labels]
    right = np.asarray(logits).argmax(axis=1) == DATASET.test.labels
    ours = evaluate(network, DATASET, batch_size=batch_size)
    assert ours.accuracy == pytest.approx(right.mean())
    assert ours.loss == pytest.approx(losses.mean(), rel=1e-4)


def test_a_prediction_does_not_depend_on_its_batch_mates():
    network = trained()
    one = DATASET.test._replace(
        **{k: getattr(DATASET.test, k)[:1] for k in ("images", "labels", "ids")}
    )
    alone = evaluate_images(network, DATASET, one).loss
    wild = DATASET.test.images[:20].copy()
    wild[1:] = 255
    mixed = network(DATASET.normalize(wild))[:1]
    expected = -float(jax.nn.log_softmax(mixed)[0, DATASET.test.labels[0]])
    assert alone == pytest.approx(expected, rel=1e-5)
    # With the batch's own statistics, the paper's way, it does.
    mates = DATASET.test._replace(images=wild, labels=DATASET.test.labels[:20])
    batch = evaluate_images(network, DATASET, mates, "batch").loss
    own = evaluate_images(network, DATASET, mates, "train").loss
    assert abs(batch - own) > 1e-3


def test_the_classes_of_a_split_are_those_of_the_largest_logits():
    network = trained()
    logits = np.asarray(network(DATASET.normalize(DATASET.validation.images)))
    found = predict(network, DATASET, "validation")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, logits.argmax(axis=1))
    nobody = Split(*(array[:0] for array in DATASET.validation))
    without = dataclasses.replace(DATASET, validation=nobody)
    with pytest.raises(ValueError, match=r"the split 'validation' of .* has no images"):
        predict(network, without, "validation")


def test_by_a_batchs_own_statistics_no_image_is_alone():
    network, test = trained(), DATASET.test
    by_batch = in_mode(network, training=True)
    halves = (test.images[:19], test.images[19:])  # not 36 and 1
    logits = [by_batch(DATASET.normalize(images)) for images in halves]
    losses = -np.asarray(jax.nn.log_softmax(np.concatenate(logits)))[np.arange(37), test.labels]
    ours = evaluate(network, DATASET, statistics="batch", batch_size=36)
    assert ours.loss == pytest.approx(losses.mean(), rel=1e-4)


def test_training_statistics_are_the_averages_over_batches():
    network = with_training_statistics(make(), DATASET, np.arange(COUNT), batch_size=32)
    group = make().blocks[0].groups[0]
    x = jax.nn.gelu(
        make().stem_responses(DATASET.normalize(DATASET.train.images)), approximate=False
    )
    x = group.conv_1(x)
    x = np.asarray(x)[:, :10, :10].reshape(COUNT, 5, 2, 5, 2, 4).max(axis=(2, 4))
    parts = np.split(x, 2)
    means = np.mean([p.mean(axis=(0, 1, 2)) for p in parts], axis=0)
    variances = np.mean([p.var(axis=(0, 1, 2)) for p in parts], axis=0)
    ours = network.blocks[0].groups[0].norm_1
    np.testing.assert_allclose(ours.mean[...], means, atol=1e-4)
    np.testing.assert_allclose(ours.var[...], variances, rtol=1e-3, atol=1e-5)


def test_wrong_splits_and_statistics_are_refused():
    with pytest.raises(ValueError, match="split 'dev' is unknown"):
        evaluate(trained(), DATASET, "dev")
    with pytest.raises(ValueError, match="statistics 'running' is unknown"):
        evaluate(trained(), DATASET, statistics="running")
