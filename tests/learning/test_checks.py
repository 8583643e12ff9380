"""What learning refuses is said so that one knows what to do."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from flax import nnx

import dsl_jax as dsl
from dsl_jax.learning.checks import check_finite


def test_a_network_without_the_two_methods_is_refused():
    dataset = dsl.load_dataset("digits", num_train=60)
    linear = nnx.Linear(784, 10, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"a Linear is no network.*StagedNetwork.*PairNetwork"):
        dsl.learn(jax.random.key(0), linear, dataset, None, dsl.LearnConfig(epochs=1))


def test_a_loss_that_is_not_finite_from_the_first_step_is_not_blamed_on_the_rate():
    check_finite(np.ones(4), 0, 4)
    with pytest.raises(FloatingPointError, match=r"nan at step 0 \(epoch 1\): nothing was learned"):
        check_finite(np.array([np.nan, np.nan]), 0, 2)
    with pytest.raises(FloatingPointError, match=r"inf at step 9 \(epoch 3\): try a lower"):
        check_finite(np.array([1.0, np.inf, np.nan, 1.0]), 2, 4)


KEY, ONE_EPOCH = jax.random.key(0), dsl.LearnConfig(epochs=1, batch_size=20)


@pytest.fixture(scope="module")
def dataset():
    return dsl.load_dataset("digits", num_train=60, validation_size=20)


def network_for(dataset, num_classes=10, image_shape=None):
    network = dsl.ConvNet(image_shape or dataset.image_shape, num_classes, (4,), rngs=nnx.Rngs(0))
    network.whiten(dataset.normalize(dataset.train.images))
    return network


def targets_for(dataset, num_classes=10):
    count = len(dataset.train.images)
    shapes = ((13, 13, 4), (num_classes,))
    arrays = (np.zeros((count, *shape), np.float32) for shape in shapes)
    return dsl.SearchResult(tuple(arrays), ())


def everything(dataset, network, targets):
    """What takes a network and a dataset."""
    yield lambda: dsl.learn(KEY, network, dataset, targets, ONE_EPOCH)
    yield lambda: dsl.learn_sgd(KEY, network, dataset, ONE_EPOCH)
    yield lambda: dsl.evaluate(network, dataset)


def test_another_number_of_classes_is_named_first_and_alike(dataset):
    message = r"returns logits \[7\] an image, but there are 10 classes: make it return \[10\]"
    for call in everything(dataset, network_for(dataset, 7), targets_for(dataset, 7)):
        with pytest.raises(ValueError, match=message):
            call()
    stages = (lambda images: images, lambda h: 0 * h.reshape(len(h), -1)[:, :7])
    images = dataset.normalize(dataset.train.images)
    with pytest.raises(ValueError, match=message):
        dsl.check_stages(stages, images, num_classes=10)


def test_images_of_another_shape_are_named(dataset):
    network = network_for(dataset, image_shape=(20, 20, 1))
    for call in everything(dataset, network, targets_for(dataset)):
        with pytest.raises(ValueError, match=r"the network fails on images \[28, 28, 1\]: "):
            call()


def test_a_network_that_was_not_whitened_is_refused(dataset):
    network = dsl.ConvNet(dataset.image_shape, 10, (4,), rngs=nnx.Rngs(0))
    images = dataset.normalize(dataset.train.images)
    calls = [
        *everything(dataset, network, targets_for(dataset)),
        lambda: dsl.frozen_stages(network, images),
        lambda: dsl.frozen_stages(network),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"not whitened.*call network.whiten\(images\)"):
            call()
    with pytest.raises(ValueError, match=r"not finite in 1 of 40, ids \[2\]"):
        network.whiten(np.where(np.arange(40)[:, None, None, None] == 2, np.nan, images))


def test_labels_that_the_network_cannot_give_are_refused(dataset):
    def with_labels(split, change):
        labels = change(getattr(dataset, split).labels)
        return dataclasses.replace(
            dataset, **{split: getattr(dataset, split)._replace(labels=labels)}
        )

    network = network_for(dataset)
    wrong = with_labels("train", lambda y: y + 0.7)
    with pytest.raises(ValueError, match="training labels are float64: they must be integers"):
        dsl.learn_sgd(KEY, network, wrong, ONE_EPOCH)
    wrong = with_labels("validation", lambda y: y + 1)
    with pytest.raises(ValueError, match=r"validation labels go from .* between 0 and 9"):
        dsl.learn(KEY, network, wrong, targets_for(dataset), ONE_EPOCH)
    with pytest.raises(ValueError, match=r"labels go from .* between 0 and 9"):
        dsl.evaluate(network, with_labels("test", lambda y: y + 1))


def test_targets_that_are_not_finite_are_named_by_their_ids(dataset):
    targets = targets_for(dataset)
    targets.representations[0][[3, 5], 0, 0, 0] = np.nan, np.inf
    names = str(dataset.train.ids[[3, 5]].tolist())[1:-1]
    with pytest.raises(ValueError, match=rf"layer 0 are not finite for 2 of 40.*\[{names}\]"):
        dsl.learn(KEY, network_for(dataset), dataset, targets, ONE_EPOCH)


def test_ids_of_which_two_are_alike_give_no_image_anothers_targets(dataset):
    class Store:
        ids = dataset.train.ids

        def read(self, rows):
            return jax.tree.map(lambda x: x[rows], targets_for(dataset))

    def learn_from(store, data):
        dsl.learn(KEY, network_for(dataset), data, store, ONE_EPOCH)

    twice = dataset.train.ids.copy()
    twice[1] = twice[0]
    joined = dataclasses.replace(dataset, train=dataset.train._replace(ids=twice))
    with pytest.raises(ValueError, match="the training split has 1 ids more than once"):
        learn_from(Store(), joined)
    Store.ids = twice
    with pytest.raises(ValueError, match="a set of targets has 1 ids more than once"):
        learn_from(Store(), dataset)


def test_a_batch_larger_than_the_training_set_is_told(dataset, caplog):
    config = dataclasses.replace(ONE_EPOCH, batch_size=2000)
    with caplog.at_level(logging.WARNING):
        dsl.learn_sgd(KEY, network_for(dataset), dataset, config)
    assert "batch_size is 2000, but there are 40 training images: a batch holds" in caplog.text


def test_a_measure_that_returns_no_dict_and_what_is_no_mesh_or_key_are_named(dataset):
    def learn(key=KEY, **options):
        dsl.learn_sgd(key, network_for(dataset), dataset, ONE_EPOCH, **options)

    with pytest.raises(TypeError, match="measure returned a float: return a dict"):
        learn(measure=lambda network: 0.5)
    with pytest.raises(TypeError, match="mesh is a list: give"):
        learn(mesh=jax.devices())
    with pytest.raises(TypeError, match=r"the key is 0 \(int\): give one key"):
        learn(key=0)


class Read:
    """What a store is to `learn`: ids, and targets by row."""

    def __init__(self, ids, targets):
        self.ids, self._targets = np.asarray(ids), targets

    def read(self, rows):
        return jax.tree.map(lambda array: array[rows], self._targets)


def test_targets_that_were_searched_without_ids_are_told_so(dataset):
    network, targets = network_for(dataset), targets_for(dataset)
    count = len(dataset.train.images)
    without_ids = Read(np.arange(count), targets)
    with pytest.raises(ValueError, match=r"targets are of ids 0, 1, 2 .*ids=dataset.train.ids"):
        dsl.learn(KEY, network, dataset, without_ids, ONE_EPOCH)
    of_others = Read(np.arange(count) + 10**6, targets)
    with pytest.raises(ValueError, match=r"targets lack 40 of 40 .*search the same training split"):
        dsl.learn(KEY, network, dataset, of_others, ONE_EPOCH)


def test_what_holds_targets_but_is_none_is_told_what_to_give(dataset, tmp_path):
    network = network_for(dataset)
    shared = dsl.SharedTargets((), (), np.zeros(0), np.zeros((10, 10)))
    searched = dsl.SharedSearch(shared, (), 0)
    for given, message in (
        (searched, "are a SharedSearch: give its .targets"),
        (str(tmp_path), "are a str: give TargetStore.open of it"),
        (tmp_path, "Path: give TargetStore.open of it"),
        (shared.logits, "are a ndarray: give what search returns, a TargetStore"),
    ):
        with pytest.raises(TypeError, match=message):
            dsl.learn(KEY, network, dataset, given, ONE_EPOCH)


@pytest.mark.parametrize(("progress", "shown"), [(True, "learn:"), ("mine", "mine:"), (False, "")])
def test_a_bar_is_shown_if_asked_for(dataset, progress, shown, capsys):
    network, targets = network_for(dataset), targets_for(dataset)
    dsl.learn(KEY, network, dataset, targets, ONE_EPOCH, progress=progress)
    error = capsys.readouterr().err
    assert shown in error and bool(error) == bool(shown)


def test_targets_of_other_images_are_warned_of(dataset, caplog):
    network, labels = network_for(dataset), dataset.train.labels
    blocks = targets_for(dataset).representations[:-1]

    def learn_from(logits):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            targets = dsl.SearchResult((*blocks, np.float32(logits)), ())
            dsl.learn(KEY, network, dataset, targets, ONE_EPOCH)
        return "targets of these images" in caplog.text

    assert not learn_from(np.eye(10)[labels])
    assert learn_from(np.eye(10)[np.roll(labels, 1)])


def test_settings_without_effect_are_told(dataset, caplog):
    config = dataclasses.replace(ONE_EPOCH, flip=True, relations="labels")
    with caplog.at_level(logging.WARNING):
        dsl.learn_sgd(KEY, network_for(dataset), dataset, config)
    assert "flip is True, but augment is False: no image is mirrored" in caplog.text
    assert "relations is 'labels', but relational_weight is 0" in caplog.text


def test_pixels_that_are_not_normalised_are_refused_by_the_network_and_its_stages(dataset):
    network = network_for(dataset)
    stages = dsl.frozen_stages(network, dataset.normalize(dataset.train.images))
    for function in (network, stages[0]):
        with pytest.raises(ValueError, match="images are uint8: normalise them first"):
            function(dataset.test.images[:2])


def test_what_training_returns_is_no_network(dataset):
    result = dsl.learn_sgd(KEY, network_for(dataset), dataset, ONE_EPOCH)
    assert len(repr(result)) < 80
    with pytest.raises(TypeError, match=r"a LearnResult is no network: give its \.network"):
        dsl.evaluate(result, dataset)
