"""An algorithm of one's own, as a user would write it: a random walk that keeps its best."""

import jax
import jax.numpy as jnp
from evosax.algorithms.distribution_based import base


class Walk(base.DistributionBasedAlgorithm):
    @property
    def _default_params(self):
        return base.Params()

    def _init(self, key, params):
        unknown = jnp.full(self.num_dims, jnp.nan)
        return base.State(unknown, jnp.inf, 0, mean=unknown)

    def _ask(self, key, state, params):
        steps = jax.random.normal(key, (self.population_size, self.num_dims))
        return state.mean + 0.5 * steps, state

    def _tell(self, key, population, fitness, state, params):
        return state.replace(mean=state.best_solution)
