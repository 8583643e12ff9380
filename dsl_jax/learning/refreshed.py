"""Targets that are searched anew while a network learns, from what it makes of the images by then.

With few generations such a target is a small step away from the network's own representation, and
what it has in common with a step against the gradient of the loss can be measured. All this is of
normalised representations, as candidates are, and so for networks whose blocks end so; others are
refused. Letters: N training images, L blocks.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dsl_jax.batching import in_batches
from dsl_jax.config import SearchConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.devices import check_own_mesh
from dsl_jax.evolution.fitness import Stages, log_probability
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.images import search
from dsl_jax.evolution.operators import normalize
from dsl_jax.evolution.shared_targets import natural_representations
from dsl_jax.learning.checks import checked_targets
from dsl_jax.networks.adapters import StagedNetwork
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.frozen import frozen_stages
from dsl_jax.values import instance_of

LABEL_LOGIT = 10.0  # of ten classes, a probability of 0.9996
IMAGES_TO_CHECK = 4
NEARLY = 0.1  # of numbers of unit variance; what 16 bits round is below that


def refreshed(
    key: jax.Array,
    network: ConvNet | StagedNetwork,
    dataset: Dataset,
    config: SearchConfig,
    *,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> SearchResult:
    """Searches the training images from the network's own representations.

        dsl.learn(key, network, dataset, lambda epoch, network: dsl.refreshed(
            jax.random.fold_in(search_key, epoch), network, dataset, search_config), config)

    A block's search begins with the network's representation, and a later block's with that or with
    what the target of the block before becomes, whichever is fitter. The logits are not searched:
    their target is the label, as almost all that a search finds for them.

    Args:
      key: a `jax.random` key; each image has its own random numbers, as in `search`.
      network: in evaluation mode, with the statistics to search with, as `learn` hands it over. Its
        blocks must end normalised, as those of a `ConvNet` with `normalize_blocks` do.
      dataset: its training images are searched.
      config: a `SearchConfig` for the network's stages; a few generations and little noise. Its
        `initial_noise` and the generations of the logits are not used.
      chunk_size, progress: as in `search`. On an accelerator give a chunk size; else it follows the
        memory that is free before each epoch.
      mesh: as in `search`, of this process's devices.

    Returns:
      A `SearchResult` of N images, on the host.

    Raises:
      ValueError: a block does not end normalised; else as `search` and `frozen_stages`.
      TypeError: as these.
    """
    instance_of(SearchConfig, "config", config)
    instance_of(Dataset, "dataset", dataset)
    check_own_mesh(mesh)
    stages = _stages(network, dataset)
    *blocks, logits = config.layers
    layers = (*blocks, dataclasses.replace(logits, generations=0))
    split = dataset.train
    labels = LABEL_LOGIT * np.eye(dataset.num_classes, dtype=np.float32)
    labels -= labels.mean(axis=1, keepdims=True)
    own = (*_own(stages, dataset), labels[split.labels])
    found = search(
        key,
        stages,
        dataset.normalize(split.images),
        split.labels,
        dataclasses.replace(config, layers=layers),
        ids=split.ids,
        starts=own,
        chunk_size=chunk_size,
        mesh=mesh,
        progress=progress,
    )
    searched = jax.device_get(found)
    return searched._replace(representations=(*searched.representations[:-1], own[-1]))


def _stages(network: ConvNet | StagedNetwork, dataset: Dataset) -> Stages:
    """The network's stages. Raises ValueError where a block does not end normalised."""
    stages = frozen_stages(network)
    h: Any = dataset.normalize(dataset.train.images[:IMAGES_TO_CHECK])
    for number, stage in enumerate(stages[:-1]):
        h = stage(h)
        whole = h.astype(jnp.float32)
        far = float(jnp.max(jnp.abs(jax.vmap(normalize)(whole) - whole)))
        if not far <= NEARLY:
            raise ValueError(
                f"block {number} of the network does not end normalised, as candidates are: its "
                f"numbers are up to {far:.2g} from that. Build a ConvNet with normalize_blocks="
                "True, or end the block of another network by zero mean and unit variance"
            )
    return stages


def own_representations(
    network: ConvNet | StagedNetwork, dataset: Dataset
) -> tuple[np.ndarray, ...]:
    """What a network makes of the training images, normalised: float32 [N, ...] for each block."""
    return _own(frozen_stages(network), dataset)


def _own(stages: Stages, dataset: Dataset) -> tuple[np.ndarray, ...]:
    naturals = partial(_naturals, stages)
    return in_batches(lambda images: naturals(dataset.normalize(images)), dataset.train.images)


_naturals = jax.jit(natural_representations)


def along_gradient(
    network: ConvNet | StagedNetwork, dataset: Dataset, targets: Any
) -> tuple[np.ndarray, ...]:
    """How far targets lie where the gradient of the loss says.

    Args:
      network: that in which they were searched, see `refreshed`.
      dataset: its training images have the targets, in order.
      targets: of all of them, a `SearchResult` or what else `learn` takes for the targets of each
        image.

    Returns:
      For each of L blocks the cosine, float32 [N], between what the target has more than the
      network's own representation and minus the gradient of the cross-entropy there. Both are
      taken of normalised representations; 0 where one of them is 0.

    Raises:
      ValueError: a block does not end normalised; else as `learn` for targets.
      TypeError: as there.
    """
    instance_of(Dataset, "dataset", dataset)
    stages = _stages(network, dataset)
    *blocks, _ = checked_targets(network, dataset, targets)

    def of_rows(rows: np.ndarray) -> tuple[jax.Array, ...]:
        images = dataset.normalize(dataset.train.images[rows])
        return _cosines(stages, images, dataset.train.labels[rows], [h[rows] for h in blocks])

    return in_batches(of_rows, np.arange(len(dataset.train.images)))


@jax.jit
def _cosines(
    stages: Stages, images: jax.Array, labels: jax.Array, targets: list[jax.Array]
) -> tuple[jax.Array, ...]:
    """`along_gradient` of some images."""

    def fitness(h: jax.Array, label: jax.Array, index: int) -> jax.Array:
        h = normalize(h)[None]
        for stage in stages[index + 1 :]:
            h = stage(h)
        return log_probability(h, label)[0]

    found = []
    for index, own in enumerate(natural_representations(stages, images)):
        uphill = jax.vmap(partial(jax.grad(fitness), index=index))(own, labels)
        found.append(jax.vmap(_cosine)(targets[index] - own, uphill))
    return tuple(found)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    size = jnp.sqrt(jnp.sum(a * a) * jnp.sum(b * b))
    return jnp.where(size > 0, jnp.sum(a * b) / jnp.where(size > 0, size, 1), 0)
