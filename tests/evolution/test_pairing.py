"""Pairs of parents drawn for all generations of all layers at once."""

import dataclasses

import jax
import numpy as np

from dsl_jax.config import SearchConfig
from dsl_jax.evolution.pairing import pairings, pairings_of_layers
from dsl_jax.keys import keys_of_layers, philox_key

CONFIG = SearchConfig(num_parents=3, num_explorers=4, num_refiners=5)


def test_each_generation_has_the_pairs_of_its_own_key():
    key, generations = philox_key(jax.random.key(0)), (2, 0, 3, 1)
    layers = [dataclasses.replace(CONFIG.layers[0], generations=count) for count in generations]
    keys = keys_of_layers(key, len(layers))
    drawn = pairings_of_layers(keys, layers, CONFIG)
    assert len(drawn) == len(layers)
    for number, (count, of_layer) in enumerate(zip(generations, drawn, strict=True)):
        assert of_layer[0].pairs.shape == (count, 2, 4) and of_layer[1].pairs.shape == (count, 2, 5)
        for generation in range(count):
            own = jax.random.fold_in(jax.random.fold_in(key, number), generation + 1)
            for found, right in zip(of_layer, pairings(own, 3, 4, 5), strict=True):
                np.testing.assert_array_equal(found.pairs[generation], right.pairs)
                assert found.noise_key[generation] == right.noise_key


def test_refiners_have_explorers_as_parents_and_explorers_have_none():
    (drawn,) = pairings_of_layers(
        philox_key(jax.random.key(1))[None],
        (dataclasses.replace(CONFIG.layers[0], generations=40),),
        CONFIG,
    )
    explorers, refiners = (set(np.ravel(one.pairs).tolist()) for one in drawn)
    assert explorers == set(range(3)) and refiners == set(range(7))
