"""Whether functions can be searched as stages: tried on a few images, before hours are spent.

Letters: N images, C classes; H(l) is what stage l returns.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import errors, nnx

from dsl_jax.config import SearchConfig
from dsl_jax.evolution.dead import check_layers_change
from dsl_jax.evolution.image import Stages
from dsl_jax.evolution.rules import check_functions, check_schedules
from dsl_jax.inputs import as_array, check_images, check_num_classes
from dsl_jax.networks.interface import check_learner, check_logits, in_mode, learner_shapes
from dsl_jax.networks.movement import check_movement

IMAGES = 8
TOLERANCE = 1e-3
FREEZE = (
    "freeze statistics and randomness by dsl_jax.frozen_stages, or "
    "nnx.view(module, use_running_average=True, deterministic=True)"
)


def check_stages(
    stages: Stages,
    images: Any,
    config: SearchConfig | None = None,
    *,
    num_classes: int | None = None,
    learner: nnx.Module | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Runs the stages on the first 8 images and says what a search would trip over.

    Each stage must give for a batch [N, ...] a floating [N, ...] of rank 1 to 3 an image, finite,
    the same in every call, and for an image the same (to 0.1 % of its spread) whatever the others
    are; the last gives logits [N, C]. Mutated representations must come out finite, differ from
    what they were made of, and reach the logits (see `movement`).

    Args:
      stages: L functions: stage 0 takes images, the last returns logits.
      images: [N, H, W, C] normalised float32 (any shape that stage 0 takes), at least 2.
      config: the search's configuration; None: its number of layers is not looked at, and mutated
        representations have strength 1.
      num_classes: C; None: not looked at.
      learner: the network that will learn what is searched: its representations must have the
        stages' shapes, and it must be one that `learn` takes; None: not looked at.

    Returns:
      The shapes of H(0) .. H(L-1) of one image.

    Raises:
      ValueError: names the stage and what is wrong with it, or what the learner lacks.
      TypeError: stages or a learner that are none.

    Warns:
      UserWarning: a layer cannot change for many images, or in many channels.
    """
    images = as_array("images", images)
    if len(images) < 2:
        raise ValueError(f"{len(images)} images: give at least 2, to see that they stay apart")
    check_functions(stages)
    if num_classes is not None:
        num_classes = check_num_classes(num_classes)
    if not stages:
        raise ValueError("there are no stages: give one function for each layer")
    if config is not None:
        check_schedules(stages, config)
    outputs = [jnp.asarray(images[:IMAGES])]
    check_images(outputs[0])
    jitted = tuple(map(jax.jit, stages))  # compiled once a shape, not operation by operation
    for number, stage in enumerate(stages):
        is_last = number == len(stages) - 1
        classes = num_classes if is_last else None
        out = _check_stage(
            number, stage, jitted[number], outputs[-1], is_last=is_last, classes=classes
        )
        outputs.append(out)
    images, *outputs = outputs
    shapes = tuple(x.shape[1:] for x in outputs)
    if config is not None:
        _check_takes(stages, (images, *outputs), config.compute_dtype)
        check_layers_change(shapes, config)
    check_movement(jitted, outputs, config)
    if learner is not None:
        _check_beside(learner, images, shapes)
    return shapes


def _check_beside(
    learner: nnx.Module, images: jax.Array, shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Raises ValueError or TypeError unless the learner could learn what the stages give."""
    check_learner(learner)
    if (theirs := tuple(learner_shapes(learner, images.shape[1:]))) != shapes:
        raise ValueError(
            f"the stages' representations and logits have shapes {shapes}, the learner's "
            f"{theirs}: they must be the same"
        )
    still: Any = in_mode(learner, training=False)
    for number, h in enumerate(still.representations(images)):
        if not np.asarray(h, np.float32).std(axis=0).any():
            raise ValueError(
                f"representation {number} of the learner is the same for all images: it is dead, "
                "and cannot learn what differs between them"
            )


def _check_stage(
    number: int, stage: Any, jitted: Any, h: jax.Array, *, is_last: bool, classes: int | None
) -> jax.Array:
    """What the stage makes of a batch, or a ValueError. classes: C, where logits are to have it."""
    name = f"stage {number}"
    out = _call(name, jitted, h)  # first: a stage that changes itself is found unchanged
    _check_form(name, out, h, is_last)
    if classes is not None:
        check_logits("the last stage", out.shape[1:], classes)
    values = np.asarray(out, np.float32)
    if not np.isfinite(values).all():
        share = np.mean(~np.isfinite(values))
        raise ValueError(f"{name} returns {share:.0%} values that are not finite, for real images")
    if not np.array_equal(np.asarray(stage(h), np.float32), np.asarray(stage(h), np.float32)):
        raise ValueError(f"{name} gives another result when called again: turn randomness off")
    if not values.std(axis=0).any():
        raise ValueError(f"{name} gives all images the same result: no image is left in it")
    _check_apart(name, jitted, h, values)
    return out


def _check_takes(stages: Stages, inputs: Any, dtype: str) -> None:
    """Raises ValueError for a stage but the last that does not take what a search hands it."""
    for number, (stage, h) in enumerate(zip(stages[:-1], inputs, strict=False)):
        try:
            jax.eval_shape(stage, jax.ShapeDtypeStruct(h.shape, dtype))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"stage {number} does not take {dtype}, in which the search computes: let it, or "
                f'set SearchConfig.compute_dtype to "float32" ({str(error).splitlines()[0]})'
            ) from error


def _check_form(name: str, out: Any, h: jax.Array, is_last: bool) -> None:
    """Raises ValueError for what a stage makes of a batch h, unless it has a form for search."""
    if not isinstance(out, jax.Array):
        raise ValueError(f"{name} returns a {type(out).__name__}: it should return one array")
    if out.ndim < 1 or len(out) != len(h):
        raise ValueError(
            f"{name} turns a batch {list(h.shape)} into {list(out.shape)}: the first axis should "
            f"stay {len(h)}, one row an image"
        )
    if is_last and out.ndim != 2:
        raise ValueError(f"{name} is the last and returns {list(out.shape)}: need logits [N, C]")
    if not 2 <= out.ndim <= 4:
        raise ValueError(
            f"{name} returns {list(out.shape)}: an image's representation should be [features], "
            "[tokens, features] or [height, width, channels]"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"{name} returns {out.dtype}: it should return floating numbers")


def _check_apart(name: str, stage: Any, h: jax.Array, values: np.ndarray) -> None:
    """Raises ValueError unless images alone, and in other company, give what they give in h."""
    scale, mixed = float(values.std()), np.r_[np.zeros(len(h) - 1, int), 1]
    for rows in (mixed, mixed[:1], mixed[-1:]):
        apart = np.asarray(_call(name, stage, h[rows]), np.float32)
        if apart.shape != values[rows].shape:
            raise ValueError(
                f"{name} turns a batch {list(h[rows].shape)} into {list(apart.shape)}, and one "
                f"{list(h.shape)} into {list(values.shape)}: it should treat each image alike"
            )
        if (worst := float(np.abs(apart - values[rows]).max())) > TOLERANCE * scale:
            raise ValueError(
                f"{name} gives an image another result beside other images (by {worst / scale:.2g} "
                f"of its spread): images must not see each other; {FREEZE}"
            )


def _call(name: str, stage: Any, h: jax.Array) -> Any:
    """stage(h), or a ValueError that says what failed."""
    try:
        return stage(h)
    except errors.TraceContextError as error:
        raise ValueError(
            f"{name} changes its own state, as BatchNorm in training and dropout do: {FREEZE}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{name} fails on a batch {h.dtype}{list(h.shape)} (if it takes one image: "
            f"jax.vmap it): {type(error).__name__}: {error}"
        ) from error
