"""Whether a search can move: children that differ from their parent, and a fitness that notices.

Letters: N images, n children of each, C classes; H(l) is what stage l returns.
"""

import warnings
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.evolution.fitness import Stages
from dsl_jax.evolution.operators import kind_of, reproduce, spread, standardize
from dsl_jax.evolution.task import largest_strength, mutation_options

CHILDREN = 8  # of each image
SAME = 1e-5  # a difference, in units of the spread, that is rounding
STILL = 1e-5  # a difference of log-probabilities that decides no selection
UNCONFIGURED = LayerSchedule(1, 1.0)


def check_movement(
    stages: Stages, outputs: Sequence[jax.Array], config: SearchConfig | None
) -> None:
    """Mutates what stages made of images, layer by layer, and follows the children to the logits.

    Args:
      stages: L functions.
      outputs: H(0) .. H(L-1) [N, ...] each.
      config: the search's; None: every layer is mutated with strength 1.

    Raises:
      ValueError: children of a layer are their parents, or come out of a later stage alike, for
        every image, or not finite for one; names the layer, the stage, and what to do.

    Warns:
      UserWarning: that is so for at least half of the images, or of a layer's channels.
    """
    for number, h in enumerate(outputs):
        layer = UNCONFIGURED if config is None else config.layers[number]
        if not layer.generations:
            continue
        kind = kind_of(h.shape[1:], last=number == len(outputs) - 1)
        _warn_of_still_channels(number, h, kind)
        children = _children(h, layer, config or SearchConfig(), kind)
        natural = _standardized(h, kind)
        moving = _judge(
            jnp.concatenate([natural[:, None], children], axis=1),
            SAME,
            f"children of stage {number}'s representations are their parents: their spread over "
            "space (of a vector: over its features) is 0",
            f"let stage {number} return what varies over space, or set its generations to 0",
        )
        _follow(number, stages, outputs, children[moving])


@partial(jax.jit, static_argnames=("layer", "config", "kind"))
def _children(h: jax.Array, layer: LayerSchedule, config: SearchConfig, kind: str) -> jax.Array:
    """Children [N, n, ...] of each image's H [N, ...] alone, as those that move most; float32."""
    strength = largest_strength(layer, config)
    options = mutation_options(layer, config, kind)

    def of_one(key: jax.Array, one: jax.Array) -> jax.Array:
        return reproduce(key, one[None], CHILDREN, strength, **options)

    keys = jax.random.split(jax.random.key(0, impl="philox4x32"), len(h))
    return jax.vmap(of_one)(keys, h.astype(jnp.float32))


@partial(jax.jit, static_argnames="kind")
def _standardized(h: jax.Array, kind: str) -> jax.Array:
    """Each image's of H [N, ...] as a child ends, float32."""
    return jax.vmap(partial(standardize, kind=kind))(h.astype(jnp.float32))


def _follow(number: int, stages: Stages, outputs: Sequence[jax.Array], children: jax.Array) -> None:
    """Raises ValueError where children [N, n, ...] of stage `number` come out of a stage alike, or
    not finite."""
    advice = "it saturates or ignores its input: scale what goes into it, or normalise it"
    for later in range(number + 1, len(stages)):
        flat = children.reshape(-1, *children.shape[2:]).astype(outputs[later - 1].dtype)
        out = stages[later](flat).astype(jnp.float32)
        spoilt = ~np.isfinite(np.asarray(out)).reshape(len(out), -1).all(axis=1)
        if spoilt.any():
            raise ValueError(
                f"stage {later} returns values that are not finite for {spoilt.sum()} of "
                f"{len(out)} mutated outputs of stage {number}; these have zero mean and unit "
                "variance, which a stage should live with"
            )
        children = out.reshape(-1, CHILDREN, *out.shape[1:])
        same = SAME * float(jnp.std(outputs[later].astype(jnp.float32)))
        what = f"stage {later} returns the same for all mutated outputs of stage {number}"
        children = children[_judge(children, same, what, advice)]
    _judge(
        jax.nn.log_softmax(children),
        STILL,
        f"the log-probabilities of all mutated outputs of stage {number} are the same, so that no "
        "selection can find a better one",
        "the logits are too small for it to tell candidates apart, or do not depend on them",
    )


def _judge(candidates: jax.Array, same: float, what: str, advice: str) -> np.ndarray:
    """Of candidates [N, n, ...] the images in which they differ by more than `same`: [N] bool.

    An error where they do in none, a warning where they do not in half of them or more.
    """
    differences = jnp.ptp(candidates, axis=1).reshape(len(candidates), -1)
    still = np.asarray(jnp.max(differences, axis=1) <= same)
    if still.all():
        raise ValueError(f"{what}; {advice}")
    if still.mean() >= 0.5:
        warnings.warn(f"{what}, for {still.sum()} of {len(still)} images; {advice}", stacklevel=4)
    return ~still


def _warn_of_still_channels(number: int, h: jax.Array, kind: str) -> None:
    """A warning where half of the channels or more of H [N, ...] are constant in every image."""
    if kind != "conv":
        return
    sigmas = np.asarray(jax.vmap(spread)(h.astype(jnp.float32))).reshape(-1, h.shape[-1])
    still = np.all(sigmas <= SAME, axis=0)
    if still.mean() >= 0.5 and not still.all():
        warnings.warn(
            f"{still.sum()} of {still.size} channels of stage {number} do not vary over space in "
            "any image, so that they are never mutated: are they dead?",
            stacklevel=4,
        )
