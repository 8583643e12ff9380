"""The targets of an epoch, searched anew, and their controls; see experiments/refresh.py."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from common import sweep_points, sweeps
from dsl_jax.batching import in_batches
from dsl_jax.config import PAPERS_FITNESS, SearchConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.devices import search_mesh
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.operators import moved, normalize
from dsl_jax.files import read_json, write_text
from dsl_jax.keys import CONTROL, SEARCH, purpose_key
from dsl_jax.learning.refreshed import along_gradient, own_representations, refreshed
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.targets.controls import permuted, permuted_rows

IMAGES_OF_COSINE = 200


class Targets:
    """An epoch's targets, for `learn`; their mean cosines to the gradient are kept in a file."""

    def __init__(self, point: sweeps.Point, dataset: Dataset, path: Path):
        self.method, self.dataset, self.path = point.columns["method"], dataset, path
        self.key = purpose_key(point.config.seed, SEARCH, cycle=2)
        self.control_key = purpose_key(point.config.seed, CONTROL, cycle=2)
        self.config, self.chunk_size = point.config.search, point.config.chunk_size

    def __call__(self, epoch: int, network: ConvNet) -> SearchResult:
        found = self.search(epoch, network, self.dataset, self.config)
        if self.method == "unrelated":
            found = self.as_far(epoch, network, found)
        key, labels = jax.random.fold_in(self.control_key, epoch), self.dataset.train.labels
        if self.method == "permuted":
            found = permuted(key, found, labels)
        elif self.method == "permuted_steps":
            found = with_steps_of_others(key, found, network, self.dataset)
        means = [float(x.mean()) for x in along_gradient(network, self.dataset, found)]
        write_text(self.path, json.dumps(self.cosines() | {str(epoch + 1): means}))
        return found

    def cosines(self) -> dict[str, list[float]]:
        """By epoch, counted from 1, one a block."""
        return read_json(self.path) or {}

    def search(
        self, epoch: int, network: ConvNet, dataset: Dataset, config: SearchConfig
    ) -> SearchResult:
        """The images of a dataset, each with the random numbers that it has in all methods."""
        key, mesh = jax.random.fold_in(self.key, epoch), search_mesh()
        return refreshed(
            key, network, dataset, config, chunk_size=self.chunk_size, mesh=mesh, progress=True
        )

    def as_far(self, epoch: int, network: ConvNet, found: SearchResult) -> SearchResult:
        """Targets with the mean cosine that some images have, searched by log-probability."""
        few = dataclasses.replace(
            self.dataset, train=sweep_points.first_rows(self.dataset.train, IMAGES_OF_COSINE)
        )
        config = dataclasses.replace(self.config, fitness=PAPERS_FITNESS)
        theirs = self.search(epoch, network, few, config).representations
        own = own_representations(network, self.dataset)
        *blocks, logits = found.representations
        as_far = []
        for n, t, other in zip(own, blocks, theirs[:-1], strict=True):
            shared = np.mean(other * n[: len(other)], axis=tuple(range(1, n.ndim)))
            as_far.append(all_moved(n, t, np.float32(shared.mean())))
        return found._replace(representations=(*as_far, logits))


def with_steps_of_others(
    key: jax.Array, found: SearchResult, network: ConvNet, dataset: Dataset
) -> SearchResult:
    """Each image's representation, moved as that of another image of its class was."""
    others = permuted_rows(key, dataset.train.labels)
    own = own_representations(network, dataset)
    *blocks, logits = found.representations
    blocks = [n + (t - n)[others] for n, t in zip(own, blocks, strict=True)]
    blocks = [in_batches(all_normalized, h) for h in blocks]
    return found._replace(representations=(*blocks, logits))


all_normalized = jax.jit(jax.vmap(normalize))


def all_moved(own: np.ndarray, targets: np.ndarray, cosine: np.ndarray) -> np.ndarray:
    """Each target [N, ...] with this cosine to its image's own representation."""
    return in_batches(
        lambda rows: some_moved(own[rows], targets[rows], cosine), np.arange(len(own))
    )


some_moved = jax.jit(jax.vmap(moved, (0, 0, None)))
