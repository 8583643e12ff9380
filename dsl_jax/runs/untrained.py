"""The networks of a run, each from its seed's key."""

from typing import Any

import jax
from flax import nnx
from jax.tree_util import Partial

from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.keys import LEARNER, SEARCH_NETWORK, STATISTICS, purpose_key
from dsl_jax.networks.convnet import WHITENING_IMAGES, ConvNet
from dsl_jax.networks.frozen import STATISTICS_IMAGES, frozen_stages


def make_network(
    config: RunConfig, dataset: Dataset, seed: int, groups: int, purpose: int = LEARNER
) -> ConvNet:
    """An untrained, whitened network with `groups` ConvGroups a block."""
    key = jax.random.fold_in(purpose_key(seed, purpose), groups)
    network = ConvNet(**network_arguments(config, dataset, groups), rngs=nnx.Rngs(params=key))
    network.whiten(dataset.normalize(dataset.train.images[:WHITENING_IMAGES]))
    return network


def search_network(config: RunConfig, dataset: Dataset, seed: int) -> ConvNet:
    """The untrained network that is searched: one ConvGroup a block (paper 3.1)."""
    return make_network(config, dataset, seed, 1, SEARCH_NETWORK)


def network_arguments(config: RunConfig, dataset: Dataset, groups: int) -> dict[str, Any]:
    """What `ConvNet` is built with, but for the random numbers; plain data."""
    return {
        "image_shape": dataset.image_shape,
        "num_classes": dataset.num_classes,
        "widths": config.widths,
        "groups": groups,
        "normalize_blocks": config.normalize_blocks,
        "representation": config.representation,
        "norm_epsilon": config.norm_epsilon,
    }


def make_stages(config: RunConfig, dataset: Dataset, seed: int) -> tuple[Partial, ...]:
    """The untrained network as stages, its statistics measured on candidates."""
    network = search_network(config, dataset, seed)
    images = dataset.normalize(dataset.train.images[:STATISTICS_IMAGES])
    return frozen_stages(network, images, config.search, key=purpose_key(seed, STATISTICS))
