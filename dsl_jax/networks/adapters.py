"""One's own networks, in the form that learning takes (paper 4.2).

Learning takes any `nnx.Module` with `representations(images) -> tuple of [B, ...]` and
`head(last) -> logits [B, classes]`. The two here make one of what a user has: a list of layers, or
parameters with a pair of functions. Letters: B images of a batch, L representations.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dsl_jax.networks.interface import named_leaves


class Part(nnx.Module):
    """Layers, one after another, each under its number in the whole and its class's name.

    By these names the optimiser knows the biases of normalisations.
    """

    def __init__(self, layers: Sequence[Callable], first: int):
        self.names = tuple(
            f"layer_{number}_{type(layer).__name__}" for number, layer in enumerate(layers, first)
        )
        for name, layer in zip(self.names, layers, strict=True):
            setattr(self, name, layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        """What the layers make of a batch."""
        for name in self.names:
            x = getattr(self, name)(x)
        return x


class StagedNetwork(nnx.Module):
    """Layers, one after another, cut where representations are to be searched and learned.

    Args:
      layers: an `nnx.Sequential`, or callables that map a batch to a batch: modules (whose
        parameters are shared, not copied) or plain functions. The last returns logits.
      ends: L numbers of layers, increasing: H(l) is what the first `ends[l]` layers make of images,
        and the layers after the last end are the head. For example `ends=(2, 4)` of five layers.

    Raises:
      ValueError: ends that do not increase, or leave no layer to a part or to the head.
      TypeError: a layer that cannot be called.
    """

    def __init__(self, layers: nnx.Sequential | Sequence[Callable], ends: Sequence[int]):
        layers = list(layers.layers if isinstance(layers, nnx.Sequential) else layers)
        for number, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"layer {number} is a {type(layer).__name__}: it cannot be called")
        cuts = [0, *ends, len(layers)]
        if len(cuts) < 3 or any(a >= b for a, b in pairwise(cuts)):
            raise ValueError(
                f"ends {tuple(ends)} of {len(layers)} layers: give increasing numbers from 1 to "
                f"{len(layers) - 1}, each the number of layers up to the end of a representation"
            )
        self.parts = nnx.List(Part(layers[a:b], a) for a, b in pairwise(cuts))

    def representations(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """H(0), H(1), ... of normalised images [B, H, W, C]: L arrays [B, ...]."""
        outputs, x = [], images
        for part in list(self.parts)[:-1]:
            x = part(x)
            outputs.append(x)
        return tuple(outputs)

    def head(self, last: jax.Array) -> jax.Array:
        """Logits [B, classes] from the last representation."""
        return self.parts[-1](last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes]."""
        return self.head(self.representations(images)[-1])


class PairNetwork(nnx.Module):
    """Parameters of any library and a pair of pure functions of them.

    Args:
      params: a pytree of arrays, all of which are trained.
      representations: (params, images [B, H, W, C]) -> tuple of L arrays [B, ...].
      head: (params, last representation [B, ...]) -> logits [B, classes].

    The trained parameters, in the structure that was given: `network.params`. The functions must
    not hold arrays of their own that are to be trained.

    Raises:
      ValueError: a leaf of the parameters that is not an array of floating numbers; named.
    """

    def __init__(
        self,
        params: Any,
        representations: Callable[[Any, jax.Array], tuple[jax.Array, ...]],
        head: Callable[[Any, jax.Array], jax.Array],
    ):
        names, leaves, self._structure = named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            dtype = getattr(leaf, "dtype", None)
            if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
                raise ValueError(
                    f"the parameter {name} is {dtype or type(leaf).__name__}, which cannot be "
                    "trained: give a pytree of floating arrays (of an Equinox module: "
                    "eqx.partition(module, eqx.is_inexact_array))"
                )
        self._names = tuple(f"{number}.{name}" for number, name in enumerate(names))
        self._weights = nnx.Dict(
            {name: nnx.Param(leaf) for name, leaf in zip(self._names, leaves, strict=True)}
        )
        self._representations, self._head = representations, head

    @property
    def params(self) -> Any:
        """The parameters as they are now."""
        leaves = [self._weights[name][...] for name in self._names]
        return jax.tree.unflatten(self._structure, leaves)

    def representations(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """H(0), H(1), ... of normalised images [B, H, W, C]: L arrays [B, ...]."""
        outputs = self._representations(self.params, images)
        if not isinstance(outputs, tuple | list):
            raise TypeError(
                f"representations returned a {type(outputs).__name__}: return a tuple of arrays, "
                "one a layer"
            )
        return tuple(outputs)

    def head(self, last: jax.Array) -> jax.Array:
        """Logits [B, classes] from the last representation."""
        return self._head(self.params, last)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes]."""
        return self.head(self.representations(images)[-1])
