"""A fitness of one's own: representations that are right, but not more certain than 90 %.

    python experiments/gallery/fitness.py

The paper's fitness, the label's log-probability, drives every image to certainty. Here the fitness
is minus the cross-entropy to a softened label, so that a candidate that is too sure is worse. Any
function of logits and label will do; with a wrong label, for instance, search becomes an attack.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import dsl_jax as dsl

CONFIDENCE = 0.9


def softened(logits, label):
    """Minus the cross-entropy to 90 % for the label and the rest shared: [n, C] -> [n]."""
    num_classes = logits.shape[-1]
    wanted = jnp.full(num_classes, (1 - CONFIDENCE) / (num_classes - 1)).at[label].set(CONFIDENCE)
    return jax.nn.log_softmax(logits) @ wanted


def main():
    """Searches 32 digits by either fitness; how sure the searched logits are."""
    dataset = dsl.load_dataset("digits", num_train=200)
    images, labels = dataset.normalize(dataset.train.images), dataset.train.labels
    network = dsl.ConvNet(
        dataset.image_shape, 10, widths=(16, 16, 16), normalize_blocks=True, rngs=nnx.Rngs(0)
    )
    network.whiten(images)
    config = dsl.get_preset("smoke", "digits").search
    stages = dsl.frozen_stages(network, images, config, key=jax.random.key(0))
    for name, fitness in (("log-probability", config.fitness), ("softened", softened)):
        chosen = dataclasses.replace(config, fitness=fitness)
        found = dsl.search(jax.random.key(1), stages, images[:32], labels[:32], chosen)
        probabilities = np.asarray(jax.nn.softmax(found.representations[-1]))
        own = probabilities[np.arange(32), labels[:32]]
        print(f"{name:16s} probability of the label: {own.mean():.3f} +- {own.std():.3f}")


if __name__ == "__main__":
    main()
