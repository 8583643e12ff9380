"""Linear classifiers on fixed features: what there is to gain before a body has learned."""

import warnings
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from dsl_jax.datasets import Dataset
from dsl_jax.evaluation import with_training_statistics

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C
BATCH_SIZE = 500


class Probe(NamedTuple):
    """Accuracies are fractions, the loss is the mean cross-entropy in nats."""

    test_accuracy: float
    test_loss: float
    validation_accuracy: float


def linear_probe(dataset: Dataset, network: nnx.Module | None = None) -> Probe:
    """Logistic regression on pixels, or on a network's last representation.

    Its penalty is chosen on the validation images; the test images are used once, after that.

    Args:
      dataset: a `Dataset`.
      network: an `nnx.Module` with `representations`; its BatchNorm statistics are measured on
        the training images. None: the normalised pixels themselves.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    features = _features(dataset, network)
    splits = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (features(split.images) for split in splits)
    scale = max(float(np.sqrt(np.mean(np.square(train)))), 1e-12)
    best = None
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=200)
        with warnings.catch_warnings():  # a probe need not converge to the last digit
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train / scale, dataset.train.labels)
        score = model.score(validation / scale, dataset.validation.labels)
        if best is None or score > best[0]:
            best = score, model
    validation_accuracy, model = best
    return Probe(
        float(model.score(test / scale, dataset.test.labels)),
        float(
            log_loss(dataset.test.labels, model.predict_proba(test / scale), labels=model.classes_)
        ),
        float(validation_accuracy),
    )


def _features(dataset: Dataset, network: nnx.Module | None):
    """A function from uint8 images [N, H, W, C] to features [N, D], float32."""
    if network is None:
        return lambda images: np.asarray(dataset.normalize(images)).reshape(len(images), -1)
    rows = np.arange(len(dataset.train.images))
    graph, state = nnx.split(with_training_statistics(network, dataset, rows))

    @jax.jit
    def last(state, images):
        h = nnx.merge(graph, state).representations(images)[-1]
        return h.reshape(h.shape[0], -1)

    def features(images):
        parts = np.array_split(images, max(1, -(-len(images) // BATCH_SIZE)))
        return np.concatenate([np.asarray(last(state, dataset.normalize(p))) for p in parts])

    return features
