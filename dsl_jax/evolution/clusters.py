"""Clusters of a class's images, by what the searched network's first block makes of them.

Letters: N images, B of a batch, C classes, K clusters of a class, F features.
"""

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from dsl_jax.devices import Array

GRID = 4  # features are an image's smoothed values at so many rows and columns


def features(h: jax.Array) -> jax.Array:
    """What images are told apart by: a block's representations [B, ...] -> float32 [B, F]."""
    if h.ndim == 4:
        size = [min(GRID, side) for side in h.shape[1:3]]
        h = jax.image.resize(h, (len(h), *size, h.shape[-1]), "linear")
    return h.reshape(len(h), -1).astype(jnp.float32)


def find_centres(
    points: np.ndarray, labels: np.ndarray, count: int, seeds: np.ndarray
) -> np.ndarray:
    """k-means within each class.

    Args:
      points: features float32 [N, F].
      labels: integers [N].
      count: K.
      seeds: integers [C], what each class's k-means begins with.

    Returns:
      float32 [C * K, F], class after class.

    Raises:
      ValueError: a class has fewer different images than clusters.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    centres = []
    for label, seed in enumerate(seeds):
        own = points[labels == label]
        if (different := len(np.unique(own, axis=0))) < count:
            raise ValueError(f"class {label} has {different} different images for {count} clusters")
        means = KMeans(count, n_init=4, random_state=int(seed))
        with threadpool_limits(1):  # several add up in another order each time
            centres.append(means.fit(own).cluster_centers_)
    return np.concatenate(centres).astype(np.float32)


def cluster_rows(h: jax.Array, labels: jax.Array, centres: Array, num_classes: int) -> jax.Array:
    """The nearest cluster of its class for each image, as a row of `centres`: integers [B].

    Args:
      h: the first block's natural representations [B, ...].
      labels: integers [B].
      centres: [C * K, F].
      num_classes: C.
    """
    count = len(centres) // num_classes
    own = jnp.asarray(centres).reshape(num_classes, count, -1)[labels]
    distances = jnp.sum(jnp.square(features(h)[:, None] - own), axis=-1)
    return labels * count + jnp.argmin(distances, axis=-1)
