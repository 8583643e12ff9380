"""What a network must have to be learned and evaluated."""

from typing import Any, Protocol

import jax


class Network(Protocol):
    """An `nnx.Module` with these two methods (`ConvNet`, `StagedNetwork`, one's own)."""

    def representations(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """H(0), H(1), ... [B, ...] each, from normalised images [B, H, W, C]."""

    def head(self, last: jax.Array) -> jax.Array:
        """Logits [B, classes] from the last representation [B, ...]."""


Array = Any  # a `jax.Array` or an `np.ndarray`
