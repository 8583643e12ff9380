"""Search of one image: its representations, evolved layer by layer (paper 3.1, A.2, A.4).

Search knows nothing of networks. It sees `stages`: a tuple of functions, stage l maps a batch of
H(l-1) to a batch of H(l); stage 0 takes images, the last returns logits. Letters: N images, L
stages, n candidates of a population, k parents.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.devices import Array, largest_divisor
from dsl_jax.evolution.fitness import (
    Stages,
    evaluate_candidates,
    num_logits,
    output_shapes,
    ranked,
)
from dsl_jax.evolution.layer import drawn_for_layers, evolve_layer, target_of, with_copies
from dsl_jax.evolution.noise import smoothed_noise
from dsl_jax.evolution.operators import (
    Near,
    brought_near,
    kind_of,
    normalize,
    perturb_image,
    standardize,
)
from dsl_jax.evolution.rules import Rules, check_schedules, rules_of
from dsl_jax.evolution.task import Evaluate, LayerTask
from dsl_jax.inputs import check_floating, check_labels
from dsl_jax.keys import NOISE, computed_once, keys_of_layers, philox_key
from dsl_jax.reprs import short_repr

IMAGES_AT_ONCE = 32  # of the noisy copies of an image, in the first stage


class SearchResult(NamedTuple):
    """What a search found, for N images (no leading axis for one image).

    Attributes:
      representations: H(0) .. H(L-1), float32 [N, ...] each; the last are the logits [N, classes].
      fitness: the best in every generation, the initial population's first: float32
        [N, generations_l + 1] for each layer (with `num_searches` their mean).
    """

    representations: tuple[Array, ...]
    fitness: tuple[Array, ...]

    def __repr__(self) -> str:
        return short_repr(self, **self._asdict())


def search_image(
    key: jax.Array,
    stages: Stages,
    image: jax.Array,
    label: jax.Array,
    config: SearchConfig,
    rules: Rules | None = None,
    start: tuple[jax.Array, ...] | None = None,
) -> SearchResult:
    """Evolves an image's representations, layer after layer (paper 3.1). Pure; jit it, vmap it.

    Layer 0 starts from noisy copies of the image, each later layer from the best of the one
    before, propagated one stage forward, and mutated copies of it.

    Args:
      key: a `jax.random` key; one that is not philox4x32 has one derived from it.
      stages: L functions, see the module; in bfloat16 or float16 they compute in that, and what
        lies between them is evolved in the config's `compute_dtype`.
      image: [H, W, C] (or any shape that stage 0 takes), normalised, float32.
      label: the true class, integer scalar.
      config: a `SearchConfig` with L layers.
      rules: None: `rules_of` the config. Under `jit` give them as a static argument where one's
        own fitness or strategy may be defined anew, as in a notebook.
      start: proposals for the layers, such as a `Sampler` makes: the first layer begins with its
        own in place of noisy images, a later one with the fitter of what came in and its own. It
        takes two evaluations more a later layer, which `candidates_per_image` does not count.

    Returns:
      A `SearchResult` without the leading axis.

    Raises:
      ValueError: the numbers of stages and of layer schedules differ, the label is of no class
        (looked at unless JAX traces it), or what the config names is not there.
      TypeError: stages that are no functions, or no `SearchConfig`.
    """
    check_schedules(stages, config)
    rules = rules_of(config) if rules is None else rules
    key, stages = philox_key(key), in_dtype(stages, image, config.compute_dtype)
    if not isinstance(label, jax.core.Tracer):
        num_classes = num_logits(output_shapes(stages, image.shape))
        check_labels(np.reshape(label, 1), 1, num_classes, what="label")
    if config.num_searches == 1:
        return _search_once(key, stages, image, label, config, rules, start)
    keys = jax.random.split(jax.random.fold_in(key, len(stages) + 1), config.num_searches)
    found = jax.lax.map(
        lambda run_key: _search_once(run_key, stages, image, label, config, rules, start), keys
    )
    means = jax.tree.map(lambda runs: jnp.mean(runs, axis=0), found)
    targets = [
        standardize(h, kind_of(h.shape, last=index == len(stages) - 1)) if layer.generations else h
        for index, (h, layer) in enumerate(zip(means.representations, config.layers, strict=True))
    ]
    return SearchResult(tuple(targets), means.fitness)


def in_dtype(
    stages: Stages, image: jax.Array, compute_dtype: str = "float32", between: Any = None
) -> Stages:
    """The stages, with casts at their borders. Raises ValueError for an image that is not floating.

    Args:
      image: one [H, W, C], of which the shape and the dtype count.
      compute_dtype: "float32": a stage takes the dtype that the one before it returns by itself;
        another: that, but the last stage float32.
      between: the dtype that is handed on from stage to stage; None: `compute_dtype`. Logits are
        float32.
    """
    check_floating(image)
    inputs, h = [], jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    for stage in stages:
        inputs.append(h.dtype)
        h = jax.eval_shape(stage, h)
    if compute_dtype != "float32":
        inputs = [jnp.dtype(compute_dtype)] * (len(stages) - 1) + [jnp.dtype(jnp.float32)]
    elif {*inputs, h.dtype} == {jnp.dtype(jnp.float32)}:
        return stages
    outputs = [between or compute_dtype] * (len(stages) - 1) + ["float32"]

    def at_the_border(stage: Callable, dtype: jnp.dtype, result: Any) -> Callable:
        return lambda h: stage(h.astype(dtype)).astype(result)

    return tuple(map(at_the_border, stages, inputs, outputs))


def _search_once(
    key: jax.Array,
    stages: Stages,
    image: jax.Array,
    label: jax.Array,
    config: SearchConfig,
    rules: Rules,
    start: tuple[jax.Array, ...] | None,
) -> SearchResult:
    """One search of an image, by a philox key."""
    candidates = _first_candidates(key, stages, image, config, start)
    targets, traces, natural = [], [], image[None]
    layer_keys = keys_of_layers(key, len(stages))
    drawn = drawn_for_layers(layer_keys, config)
    for index, layer in enumerate(config.layers):
        layer_key = layer_keys[index]
        if config.least_cosine is not None:
            natural = stages[index](natural)
        evaluate = partial(evaluate_candidates, stages[index + 1 :], label, fitness=rules.fitness)
        shape, is_last = candidates.shape[1:], index == len(stages) - 1
        task = _task(layer_key, evaluate, layer, config, rules, shape, natural[0], is_last)
        candidates = _begin_with(candidates, start[index] if start and index else None, task)
        if len(candidates) == 1 and layer.generations:
            copies_key = computed_once(jax.random.fold_in(layer_key, 0))
            candidates = with_copies(copies_key, candidates, task)
        parents, trace = evolve_layer(layer_key, candidates, task, drawn[index])
        targets.append(target_of(parents, task))
        traces.append(trace)
        if not is_last:
            candidates = stages[index + 1](parents[:1])
    return SearchResult(tuple(targets), tuple(traces))


def _first_candidates(
    key: jax.Array,
    stages: Stages,
    image: jax.Array,
    config: SearchConfig,
    start: tuple[jax.Array, ...] | None,
) -> jax.Array:
    """Layer 0's [n, ...]: what it makes of noisy copies of the image; [1, ...]: its proposal."""
    if start is not None:
        return start[0][None].astype(config.compute_dtype if len(stages) > 1 else "float32")
    image_keys = jax.random.split(jax.random.fold_in(key, len(stages)), config.population_size)
    noisy = jax.vmap(perturb_image, (0, None, None))(image_keys, image, config.initial_noise)
    return _in_parts(stages[0], noisy)


def _begin_with(incoming: jax.Array, proposal: jax.Array | None, task: LayerTask) -> jax.Array:
    """What a layer begins with: what came in, or the fitter of that [1, ...] and a proposal."""
    candidates = incoming
    if proposal is not None:
        candidates = jnp.concatenate([incoming, proposal[None].astype(incoming.dtype)])
    if task.near is not None:
        candidates = jax.vmap(task.near)(candidates)
    if proposal is None:
        return candidates
    fitter = jnp.argmax(ranked(task.evaluate(candidates)))
    return candidates[fitter][None]


def _task(
    key: jax.Array,
    evaluate: Evaluate,
    layer: LayerSchedule,
    config: SearchConfig,
    rules: Rules,
    shape: tuple[int, ...],
    natural: jax.Array,
    is_last: bool,
) -> LayerTask:
    """What is to be evolved in a layer. Neither noise nor nearness is of logits."""
    renewed, near = None, None
    if config.fitness_noise and not is_last:
        noise_key = computed_once(jax.random.fold_in(key, NOISE))
        renewed = partial(_under_noise, noise_key, evaluate, layer, config, shape)
    if config.least_cosine is not None and not is_last:
        near = _near(natural, config.least_cosine)
    kind = kind_of(shape, last=is_last)
    return LayerTask(evaluate, layer, config, kind, rules.strategy, renewed, near)


def _near(natural: jax.Array, least_cosine: float) -> Near:
    def near(h: jax.Array) -> jax.Array:
        found = brought_near(h.astype(jnp.float32), natural.astype(jnp.float32), least_cosine)
        return found.astype(h.dtype)

    return near


def _under_noise(
    key: jax.Array,
    evaluate: Evaluate,
    layer: LayerSchedule,
    config: SearchConfig,
    shape: tuple[int, ...],
    number: jax.Array,
) -> Evaluate:
    """How a generation of this number evaluates candidates of a shape: see `fitness_noise`."""
    noises = smoothed_noise(
        jax.random.fold_in(key, number),
        (config.noisy_evaluations, *shape),
        layer.smoothing_passes,
        "noise_rescaled",
        config.noise_truncation,
    )

    def mean_fitness(candidates: jax.Array) -> jax.Array:
        def disturbed_one(h: jax.Array, noise: jax.Array) -> jax.Array:
            whole = h.astype(jnp.float32)  # what comes from a stage is not normalised
            moved = normalize(normalize(whole) + config.fitness_noise * noise)
            return (jnp.mean(whole) + jnp.std(whole) * moved).astype(h.dtype)

        def disturbed(noise: jax.Array) -> jax.Array:
            return evaluate(jax.vmap(disturbed_one, (0, None))(candidates, noise))

        return jnp.mean(jax.lax.map(disturbed, noises), axis=0)

    return mean_fitness


def _in_parts(stage: Callable, batch: jax.Array) -> jax.Array:
    """stage(batch), a part at a time: what a network has inside is larger than what it returns."""
    size = largest_divisor(len(batch), IMAGES_AT_ONCE)
    parts = jax.lax.map(stage, batch.reshape(-1, size, *batch.shape[1:]))
    return parts.reshape(len(batch), *parts.shape[2:])
