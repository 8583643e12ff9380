"""Linear classifiers on fixed features: what there is to gain before a body has learned."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from dsl_jax.batching import in_batches
from dsl_jax.data.dataset import Dataset
from dsl_jax.learning.evaluation import with_training_statistics
from dsl_jax.networks.convnet import ConvNet

INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the larger, the weaker
MOST_IMAGES = 10_000


class Probe(NamedTuple):
    """Accuracies are fractions, the loss is the mean cross-entropy in nats."""

    test_accuracy: float
    test_loss: float
    validation_accuracy: float


def linear_probe(dataset: Dataset, network: ConvNet | None = None) -> Probe:
    """Logistic regression on pixels, or on what the head of a network sees.

    Its penalty is chosen on the validation images; the test images are used once, after that.

    Args:
      dataset: a `Dataset`; the first 10,000 of its training images are fitted.
      network: a `ConvNet`; its BatchNorm statistics are measured on the training images. None: the
        normalised pixels themselves.

    Raises:
      ValueError: the training images are all of one class.
    """
    train = dataset.train.rows(slice(MOST_IMAGES))
    if not has_two_classes(dataset):
        raise ValueError("the training images are all of one class: there is nothing to classify")
    features = _features(dataset, network)
    inputs = features(train.images)
    scale = max(float(np.sqrt(np.mean(np.square(inputs)))), 1e-12)

    def score(model: Any, inputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        """Accuracy and mean cross-entropy; a class that was never seen has probability 1e-12."""
        probabilities = np.full((len(labels), dataset.num_classes), 1e-12)
        probabilities[:, model.classes_] = model.predict_proba(inputs)
        own = probabilities[np.arange(len(labels)), labels]
        right = probabilities.argmax(axis=1) == labels
        return float(right.mean()), float(-np.log(np.maximum(own, 1e-12)).mean())

    models = [_fitted(inverse, inputs / scale, train.labels) for inverse in INVERSE_PENALTIES]
    seen = features(dataset.validation.images) / scale
    accuracies = [score(model, seen, dataset.validation.labels)[0] for model in models]
    best = int(np.argmax(accuracies))
    unseen = features(dataset.test.images) / scale
    return Probe(*score(models[best], unseen, dataset.test.labels), accuracies[best])


def has_two_classes(dataset: Dataset) -> bool:
    """Whether the images that a probe is fitted to are of more than one class."""
    return len(np.unique(dataset.train.labels[:MOST_IMAGES])) > 1


def _fitted(inverse_penalty: float, inputs: np.ndarray, labels: np.ndarray) -> Any:
    """scikit-learn's model of one penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():  # a probe need not converge to the last digit
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=inverse_penalty, max_iter=200).fit(inputs, labels)


def _features(dataset: Dataset, network: ConvNet | None) -> Callable[[np.ndarray], np.ndarray]:
    """A function from uint8 images [N, H, W, C] to features [N, D], float32."""
    if network is None:
        return lambda images: np.asarray(dataset.normalize(images)).reshape(len(images), -1)
    rows = np.arange(len(dataset.train.images))
    graph, state = nnx.split(with_training_statistics(network, dataset, rows))

    @jax.jit
    def head_input(state: Any, images: jax.Array) -> jax.Array:
        network: Any = nnx.merge(graph, state)
        return network.head_input(network.representations(images)[-1])

    return lambda images: in_batches(
        lambda batch: head_input(state, dataset.normalize(batch)), images
    )
