"""A mutation of one's own: steps with heavy tails, mostly small and now and then very large.

    python experiments/gallery/mutation.py

An algorithm is a class with evosax's interface, named to the search as "module:Class". It moves in
the space of a layer's smooth mutations: 0 is the representation that the layer begins with,
standard normal numbers are the paper's mutations of it. Populations and evaluations are counted as
in the paper's algorithm, so that they can be compared.
"""

import dataclasses

import jax
import jax.numpy as jnp
from evosax.algorithms.distribution_based import base
from flax import nnx

import dsl_jax as dsl


class HeavyTails(base.DistributionBasedAlgorithm):
    """Children of the best so far, by steps of Student's t distribution with 2 degrees."""

    @property
    def _default_params(self):
        return base.Params()

    def _init(self, key, params):
        nowhere = jnp.zeros(self.num_dims)
        return base.State(nowhere, jnp.inf, 0, mean=nowhere)

    def _ask(self, key, state, params):
        steps = jax.random.t(key, 2.0, (self.population_size, self.num_dims))
        return state.mean + 0.3 * steps, state

    def _tell(self, key, population, fitness, state, params):
        return state.replace(mean=state.best_solution)


def main():
    """Searches 32 digits by either; the mean log-likelihood after each layer."""
    dataset = dsl.load_dataset("digits", num_train=200)
    images, labels = dataset.normalize(dataset.train.images), dataset.train.labels
    network = dsl.ConvNet(
        dataset.image_shape, 10, widths=(16, 16, 16), normalize_blocks=True, rngs=nnx.Rngs(0)
    )
    network.whiten(images)
    config = dsl.get_preset("smoke", "digits").search
    stages = dsl.frozen_stages(network, images, config, key=jax.random.key(0))
    for strategy in ("representation_ga", "mutation:HeavyTails"):
        chosen = dataclasses.replace(config, strategy=strategy)
        found = dsl.search(jax.random.key(1), stages, images[:32], labels[:32], chosen)
        print(strategy, [round(float(trace[:, -1].mean()), 3) for trace in found.fitness])


if __name__ == "__main__":
    main()
