"""A sampler: a small network that proposes an image's targets (the paper's amortised search, 2.1).

Letters: B images of a batch, C classes, F features or channels, H hidden ones, L blocks.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dsl_jax.devices import Array
from dsl_jax.evolution.operators import moved
from dsl_jax.evolution.shared_targets import SharedTargets, natural_representations
from dsl_jax.keys import normal_numbers
from dsl_jax.networks.convnet import gelu
from dsl_jax.networks.convolution import convolve_same
from dsl_jax.reprs import short_repr

KERNEL = 3
Weights = dict[str, Array]


@struct.dataclass
class Sampler:
    """Targets that are proposed for a batch as it comes, also for augmented images; no store.

    A block's target is the image's natural representation n moved, to the block's cosine, in the
    direction that is common to its class plus what `propose` makes of n and the label. So two
    images of a class have different directions, unlike in `SharedTargets`. `learn` takes it.

    Attributes:
      shared: stages, what is common to a class, cosines and the classes' logits.
      weights: for each of L blocks those of `propose`.
    """

    shared: SharedTargets
    weights: tuple[Weights, ...]

    def __repr__(self) -> str:
        return short_repr(self, shared=self.shared, weights=[[*w.values()] for w in self.weights])

    def of(self, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        """Targets of a batch, float32 [B, ...] each, the last the logits; pure.

        Args:
          images: normalised floats [B, ...].
          labels: integers [B].
        """
        found, shared = [], self.shared
        naturals = natural_representations(shared.stages, images)
        for index, (natural, weights) in enumerate(zip(naturals, self.weights, strict=True)):
            direction = jnp.asarray(shared.directions[index])[labels]
            direction += propose(weights, natural, labels)
            cosine = shared.cosines[index]
            found.append(jax.vmap(moved, (0, 0, None))(natural, direction, cosine))
        return (*found, jnp.asarray(shared.logits)[labels])


def propose(weights: Weights, natural: Any, labels: Any) -> jax.Array:
    """What of a direction depends on the image: two layers, the label added between them.

    Args:
      weights: first [3, 3, F, H], labels [C, H] and last [3, 3, H, F]; where a representation is no
        image, [F, H], [C, H] and [H, F].
      natural: [B, h, w, F], [B, tokens, F] or [B, F].
      labels: integers [B].

    Returns:
      As `natural`.
    """
    is_image = natural.ndim == 4
    mixed = convolve_same if is_image else jnp.matmul
    term = jnp.asarray(weights["labels"])[labels]
    term = term.reshape(len(term), *[1] * (natural.ndim - 2), term.shape[-1])
    hidden = gelu(mixed(natural, jnp.asarray(weights["first"])) + term)
    return mixed(hidden, jnp.asarray(weights["last"]))


def first_weights(key: jax.Array, shape: tuple[int, ...], num_classes: int, hidden: int) -> Weights:
    """Weights with which nothing is proposed yet: the last layer is 0.

    Args:
      key: a `jax.random` key.
      shape: that of an image's representation.
      num_classes: C.
      hidden: H.
    """
    window = (KERNEL, KERNEL) if len(shape) == 3 else ()
    first_key, label_key = jax.random.split(key)
    features = shape[-1]
    scale = (features * KERNEL ** len(window)) ** -0.5
    return {
        "first": scale * normal_numbers(first_key, (*window, features, hidden)),
        "labels": normal_numbers(label_key, (num_classes, hidden)),
        "last": jnp.zeros((*window, hidden, features)),
    }
