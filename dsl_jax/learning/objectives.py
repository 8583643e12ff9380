"""What is minimised: the distance to searched representations, or the cross-entropy (paper 4.2).

Letters: B images of a batch, L searched layers before the logits.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from dsl_jax.config import MATCHINGS, RELATIONS, LearnConfig
from dsl_jax.config.learning import skipped_block
from dsl_jax.evolution.operators import normalize
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.networks.interface import Network
from dsl_jax.networks.sampler import Sampler
from dsl_jax.values import one_of


def regression_loss(
    representations: Sequence[jax.Array],
    targets: Sequence[jax.Array],
    supervised_layers: Sequence[int],
    *,
    matching: str = "raw",
) -> jax.Array:
    """(1/L) * sum over supervised layers of the mean squared distance (paper 4.2).

    Args:
      representations: the network's, L arrays [B, ...].
      targets: the searched ones, at least L arrays of the same shapes (logits may follow).
      supervised_layers: indices of the layers that have a term; the factor stays 1/L.
      matching: "raw", or "normalized": activations are first normalised as targets are.

    Returns:
      A float32 scalar; a squared distance is averaged over a tensor's elements.

    Raises:
      ValueError: `matching` is unknown, or shapes differ.
    """
    total = jnp.float32(0)
    for layer in supervised_layers:
        ours = as_compared(representations[layer], matching)
        _check_shapes(f"representation {layer}", ours, targets[layer])
        total += jnp.mean(jnp.square(ours - targets[layer].astype(jnp.float32)))
    return total / len(representations)


def relational_loss(
    representations: Sequence[jax.Array],
    targets: Sequence[jax.Array],
    supervised_layers: Sequence[int],
    *,
    matching: str = "raw",
    relations: str = "targets",
) -> jax.Array:
    """(1/L) * sum over supervised layers of how far images are from being as alike as they ought.

    How alike two images are is the cosine of their channels' means, `likeness`.

    Args:
      representations, targets, supervised_layers, matching: as for `regression_loss`; the targets'
        last are the logits.
      relations: "targets": they ought to be as alike as their targets; "labels": 1 where the
        targets' logits say the same class, else 0.

    Returns:
      A float32 scalar, for each layer the mean over all pairs of the batch of the squared
      difference.

    Raises:
      ValueError: `matching` or `relations` is unknown.
    """
    one_of("relations", relations, RELATIONS)
    labels = jnp.argmax(targets[-1], axis=-1)
    same = (labels[:, None] == labels[None, :]).astype(jnp.float32)
    total = jnp.float32(0)
    for layer in supervised_layers:
        ours = likeness(as_compared(representations[layer], matching))
        wanted = same if relations == "labels" else likeness(targets[layer])
        total += jnp.mean(jnp.square(ours - wanted))
    return total / len(representations)


def as_compared(h: jax.Array, matching: str) -> jax.Array:
    """A block's activations [B, ...] as targets are compared with them, float32.

    Raises:
      ValueError: `matching` is unknown.
    """
    one_of("matching", matching, MATCHINGS)
    h = h.astype(jnp.float32)
    return jax.vmap(normalize)(h) if matching == "normalized" else h


def likeness(h: jax.Array) -> jax.Array:
    """Cosines between the channels' means of each two of a batch's images: [B, ..., C] -> [B, B].

    0 for an image whose means are all 0.
    """
    means = jnp.mean(h.astype(jnp.float32), axis=tuple(range(1, h.ndim - 1)))
    means *= jax.lax.rsqrt(jnp.maximum(jnp.sum(means * means, axis=-1, keepdims=True), 1e-12))
    return jnp.matmul(means, means.T, precision="highest")


def head_loss(logits: jax.Array, target_logits: jax.Array) -> jax.Array:
    """Mean KL(softmax(target_logits) || softmax(logits)), both [B, classes] (paper 4.2).

    Raises:
      ValueError: shapes differ.
    """
    _check_shapes("logits", logits, target_logits)
    ours = jax.nn.log_softmax(logits.astype(jnp.float32))
    theirs = jax.nn.log_softmax(target_logits.astype(jnp.float32))
    return jnp.mean(optax.losses.kl_divergence_with_log_targets(ours, theirs))


def _check_shapes(name: str, ours: jax.Array, target: jax.Array) -> None:
    """Raises ValueError where a difference would be broadcast."""
    if ours.shape != target.shape:
        raise ValueError(
            f"{name} {list(ours.shape)} has a target {list(target.shape)}: need the same"
        )


def supervised_layers(variant: str, num_layers: int) -> tuple[int, ...]:
    """The layers that have a target: all, or all but one block (the paper's 4.2: block 0).

    Raises:
      ValueError: the variant is unknown, or of a block that is not there.
    """
    skipped = skipped_block(variant)
    if skipped is not None and skipped >= num_layers:
        raise ValueError(f"variant {variant}: there are {num_layers} blocks, numbered from 0")
    return tuple(layer for layer in range(num_layers) if layer != skipped)


def target_objective(
    network: Network, images: jax.Array, targets: Sequence[jax.Array], config: LearnConfig
) -> jax.Array:
    """The loss of learning from searched targets; the head's part never reaches the body."""
    representations = network.representations(images)
    logits = network.head(jax.lax.stop_gradient(representations[-1]))
    layers = supervised_layers(config.variant, len(representations))
    regression = regression_loss(representations, targets, layers, matching=config.matching)
    loss = regression + config.head_weight * head_loss(logits, targets[-1])
    if config.relational_weight:
        loss += config.relational_weight * relational_loss(
            representations,
            targets,
            layers,
            matching=config.matching,
            relations=config.relations,
        )
    return loss


def shared_objective(
    shared: SharedTargets | Sampler,
    network: Network,
    images: jax.Array,
    labels: jax.Array,
    config: LearnConfig,
) -> jax.Array:
    """`target_objective` with the targets that are made of these images."""
    return target_objective(network, images, shared.of(images, labels), config)


def sgd_objective(
    network: Network, images: jax.Array, labels: jax.Array, config: LearnConfig
) -> jax.Array:
    """Cross-entropy, end to end."""
    del config
    logits = network.head(network.representations(images)[-1]).astype(jnp.float32)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
