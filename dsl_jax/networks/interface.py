"""What a network must have to be learned and evaluated."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from dsl_jax.networks.convnet import ConvNet


class Network(Protocol):
    """An `nnx.Module` with these two methods (`ConvNet`, `StagedNetwork`, one's own)."""

    def representations(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """H(0), H(1), ... [B, ...] each, from normalised images [B, H, W, C]."""

    def head(self, last: jax.Array) -> jax.Array:
        """Logits [B, classes] from the last representation [B, ...]."""


def check_learner(network: nnx.Module) -> None:
    """Raises TypeError for what is no network, ValueError for one that draws random numbers."""
    check_network(network)
    for path, module in nnx.iter_modules(network):
        name = "rate" if isinstance(module, nnx.Dropout) else "dropout_rate"
        if (getattr(module, name, 0) or 0) > 0:
            where = ".".join(map(str, path))
            raise ValueError(f"{where} drops out at random, which learning does not do: {name}=0")


def learner_shapes(network: nnx.Module, image_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of an image's representations in a network, and of its logits; nothing is computed.

    Raises:
      ValueError: the network fails on images of this shape.
    """
    still: Any = in_mode(network, training=False)

    def all_of(images: jax.Array) -> tuple[jax.Array, ...]:
        representations = still.representations(images)
        return (*representations, still.head(representations[-1]))

    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        return [h.shape[1:] for h in jax.eval_shape(all_of, image)]
    except Exception as error:
        raise ValueError(
            f"the network fails on images {list(image_shape)}: {type(error).__name__}: {error}"
        ) from error


def check_logits(what: str, shape: Sequence[int], num_classes: int) -> None:
    """Raises ValueError unless an image's logits have one number for each class."""
    if tuple(shape) != (num_classes,):
        raise ValueError(
            f"{what} returns logits {list(shape)} an image, but there are {num_classes} classes: "
            f"make it return [{num_classes}]"
        )


def check_fits(network: nnx.Module, image_shape: Sequence[int], num_classes: int) -> None:
    """Raises ValueError unless a network makes of such images logits of so many classes."""
    check_logits("the network", learner_shapes(network, image_shape)[-1], num_classes)


def check_network(network: nnx.Module) -> None:
    """Raises TypeError for what is no network (see `Network`), ValueError for one not whitened."""
    if not (hasattr(network, "representations") and hasattr(network, "head")):
        remedy = (
            "it needs the methods representations(images) and head(last); dsl_jax.StagedNetwork "
            "gives them to a list of layers, dsl_jax.PairNetwork to parameters and two functions"
        )
        if hasattr(network, "network"):  # what training returned
            remedy = "give its .network"
        raise TypeError(f"a {type(network).__name__} is no network: {remedy}")
    check_whitened(network)


def check_whitened(network: nnx.Module) -> None:
    """Raises ValueError for a `ConvNet` that sees nothing yet."""
    if isinstance(network, ConvNet) and not network.stem_kernel[...].any():
        raise ValueError(
            "the ConvNet is not whitened, so that it sees nothing: call network.whiten(images) "
            "with normalised training images first"
        )


def batch_norms(network: nnx.Module) -> list[nnx.BatchNorm]:
    """All that a network has, however deep inside."""
    modules = (module for _, module in nnx.iter_modules(network))
    return [module for module in modules if isinstance(module, nnx.BatchNorm)]


def multiplying_in(network: nnx.Module, dtype: str) -> nnx.Module:
    """A copy, with the same arrays, whose `nnx.Conv`s take and return this dtype.

    Those that have a dtype of their own keep it. "float32": the network itself.

    Raises:
      ValueError: the network has none to change.
    """
    if dtype == "float32":
        return network
    copy, changed = nnx.merge(*nnx.split(network)), 0
    for _, module in nnx.iter_modules(copy):
        if isinstance(module, nnx.Conv) and module.dtype is None:
            module.dtype = jnp.dtype(dtype)
            changed += 1
    if not changed:
        raise ValueError(
            f"compute_dtype is {dtype}, but the network has no nnx.Conv without a dtype of its "
            "own, so that it would change nothing: leave it at float32"
        )
    return copy


def in_mode(network: nnx.Module, *, training: bool) -> nnx.Module:
    """A view of the network with BatchNorm on batch statistics (training), or on those it holds;
    nothing drops out."""
    options = {"use_running_average": not training, "deterministic": True}
    return nnx.view(network, raise_if_not_found=False, **options)


def path_name(path: Any) -> str:
    """A leaf's path as text, its parts separated by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Names of the leaves by their paths, the leaves, and the structure."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [path_name(path) for path, _ in flat], [leaf for _, leaf in flat], structure
