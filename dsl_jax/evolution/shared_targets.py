"""Targets that many images share: made of a batch as it comes, instead of kept for each image.

Letters: B images of a batch, C classes, K clusters of a class, L blocks.
"""

import jax
import jax.numpy as jnp
from flax import struct

from dsl_jax.devices import Array
from dsl_jax.evolution.clusters import cluster_rows
from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.image import in_dtype
from dsl_jax.evolution.operators import moved, normalize
from dsl_jax.reprs import short_repr


def natural_representations(stages: Stages, images: jax.Array) -> tuple[jax.Array, ...]:
    """What stages make of images [M, ...], normalised as targets are: a [M, ...] for each block."""
    found, h = [], images
    for stage in in_dtype(stages, images[0])[:-1]:
        h = stage(h)
        found.append(jax.vmap(normalize)(h))
    return tuple(found)


@struct.dataclass
class SharedTargets:
    """Targets that `learn` makes of a batch as it comes, also of augmented images; no store.

    A block's target is the image's natural representation n moved in its class's direction d:
    `moved(n, d, cosine)`. The logits' is that of the class. Where a class has K clusters, each of
    these has its own, and "class" is to be read so; K is 1 else.

    Attributes:
      stages: those of the searched network, which make the natural representations.
      directions: for each of L blocks float32 [C * K, ...], of any length, class after class.
      cosines: float32 [L], what a target has in common with its natural representation.
      logits: float32 [C * K, C], a class's target in each row.
      centres: float32 [C * K, F] of the clusters, see `clusters`; None: a class is one.
      propagates: whether a stage is given the target of the block before, as `search_shared` does
        it; else what the network makes of the image.
    """

    stages: tuple[jax.tree_util.Partial, ...]
    directions: tuple[Array, ...]
    cosines: Array
    logits: Array
    centres: Array | None = None
    propagates: bool = struct.field(pytree_node=False, default=False)

    def __repr__(self) -> str:
        return short_repr(
            self,
            directions=self.directions,
            cosines=self.cosines,
            logits=self.logits,
            centres=self.centres,
            propagates=self.propagates,
        )

    def of(self, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        """Targets of a batch, float32 [B, ...] each, the last the logits; pure.

        Args:
          images: normalised floats [B, ...].
          labels: integers [B].
        """
        found, h, rows = [], images, labels
        for index, stage in enumerate(in_dtype(self.stages, images[0])[:-1]):
            h = stage(h)
            if index == 0 and self.centres is not None:
                rows = cluster_rows(h, labels, self.centres, self.logits.shape[-1])
            target = jax.vmap(moved, (0, 0, None))(
                h, jnp.asarray(self.directions[index])[rows], self.cosines[index]
            )
            found.append(target)
            h = target if self.propagates else h
        return (*found, jnp.asarray(self.logits)[rows])
