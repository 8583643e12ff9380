"""A function of a batch, over more images than one batch holds."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def in_batches(function: Callable, images: np.ndarray, batch_size: int = 500) -> Any:
    """What a function makes of many images, which it is given in batches of one shape.

    Args:
      function: from [B, ...] to a pytree of arrays [B, ...].
      images: [N, ...], at least one.
      batch_size: B, or N if that is fewer; the last batch is filled up with its last image.

    Returns:
      The pytree with arrays [N, ...], on the host.
    """
    count = len(images)
    batch_size = min(batch_size, count)
    parts = []
    for start in range(0, count, batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        parts.append(jax.tree.map(lambda x: np.asarray(x)[: count - start], function(images[rows])))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
