"""Search of one image: its representations, evolved layer by layer (paper 3.1, A.2, A.4).

Search knows nothing of networks. It sees `stages`: a tuple of functions, stage l maps a batch of
H(l-1) to a batch of H(l); stage 0 takes images, the last returns logits. Letters: N images, L
stages, n candidates of a population, k parents.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.devices import Array, largest_divisor
from dsl_jax.evolution import strategies
from dsl_jax.evolution.operators import kind_of, perturb_image, reproduce, standardize
from dsl_jax.keys import philox_key

Stages = Sequence[Callable[[jax.Array], jax.Array]]
Fitness = Callable[[jax.Array, jax.Array], jax.Array]


def log_probability(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The paper's fitness: the label's log-probability, [n, classes] and a scalar -> [n] (3.1)."""
    return jax.nn.log_softmax(logits.astype(jnp.float32))[:, label]


class SearchResult(NamedTuple):
    """What a search found, for N images (no leading axis for one image).

    Attributes:
      representations: H(0) .. H(L-1), float32 [N, ...] each; the last are the logits [N, classes].
      fitness: the best in every generation, the initial population's first: float32
        [N, generations_l + 1] for each layer (with `num_searches` their mean).
    """

    representations: tuple[Array, ...]
    fitness: tuple[Array, ...]


def search_image(
    key: jax.Array,
    stages: Stages,
    image: jax.Array,
    label: jax.Array,
    config: SearchConfig,
    fitness: Fitness = log_probability,
) -> SearchResult:
    """Evolves an image's representations, layer after layer (paper 3.1). Pure; jit it, vmap it.

    Layer 0 starts from noisy copies of the image, each later layer from the best of the one
    before, propagated one stage forward, and mutated copies of it.

    Args:
      key: a `jax.random` key; one that is not philox4x32 has one derived from it.
      stages: L functions, see the module.
      image: [H, W, C] (or any shape that stage 0 takes), normalised, float32.
      label: the true class, integer scalar.
      config: a `SearchConfig` with L layers.
      fitness: one's own in the place of `log_probability`: (logits [n, classes], label) -> [n],
        higher is better, each from its own row alone; not with a `stop_probability`.

    Returns:
      A `SearchResult` without the leading axis.

    Raises:
      ValueError: the numbers of stages and of layer schedules differ.
    """
    schedules = [(layer.mutation_strength, layer.exploration_boost) for layer in config.layers]
    return search_with_schedules(key, stages, image, label, config, schedules, fitness)


def search_with_schedules(
    key, stages, image, label, config, schedules, fitness=log_probability
) -> SearchResult:
    """`search_image` with strength and boost of every layer apart, as they may be traced."""
    check_schedules(stages, config, fitness)
    key = philox_key(key)
    if config.num_searches == 1:
        return _search_once(key, stages, image, label, config, schedules, fitness)
    keys = jax.random.split(jax.random.fold_in(key, len(stages) + 1), config.num_searches)
    found = jax.lax.map(
        lambda run_key: _search_once(run_key, stages, image, label, config, schedules, fitness),
        keys,
    )
    means = jax.tree.map(lambda runs: jnp.mean(runs, axis=0), found)
    targets = [
        standardize(h, kind_of(h.shape, last=index == len(stages) - 1))
        for index, h in enumerate(means.representations)
    ]
    return SearchResult(tuple(targets), means.fitness)


def _search_once(key, stages, image, label, config, schedules, fitness) -> SearchResult:
    """One search of an image, by a philox key."""
    n = config.population_size
    image_keys = jax.random.split(jax.random.fold_in(key, len(stages)), n)
    noisy = jax.vmap(perturb_image, (0, None, None))(image_keys, image, config.initial_noise)
    population = _in_parts(stages[0], noisy)

    targets, traces = [], []
    for index, (layer, (strength, boost)) in enumerate(zip(config.layers, schedules, strict=True)):
        kind = kind_of(population.shape[1:], last=index == len(stages) - 1)
        layer_key = jax.random.fold_in(key, index)
        evaluate = partial(evaluate_candidates, stages[index + 1 :], label, fitness=fitness)
        if index > 0 and layer.generations:
            copies = reproduce(
                jax.random.fold_in(layer_key, 0),
                population,
                n - 1,
                strength,
                layer.smoothing_passes,
                smoothing=config.smoothing,
                kind=kind,
                truncation=config.noise_truncation,
            )
            if config.stop_probability < 1:  # what comes in right with the margin is left alone
                is_enough = evaluate(population)[0] >= math.log(config.stop_probability)
                copies = jnp.where(is_enough, population, copies)
            population = jnp.concatenate([population, copies])
        parents, trace = _evolve(
            layer_key, population, evaluate, layer, strength, boost, config, kind
        )
        if config.target == "parent_mean" and layer.generations:
            targets.append(standardize(jnp.mean(parents, axis=0), kind))
        else:
            targets.append(parents[0])
        traces.append(trace)
        if index + 1 < len(stages):
            population = stages[index + 1](parents[:1])
    return SearchResult(tuple(targets), tuple(traces))


def _in_parts(stage: Callable, batch: jax.Array, most: int = 32) -> jax.Array:
    """stage(batch), a part at a time: what a network has inside is larger than what it returns."""
    size = largest_divisor(len(batch), most)
    parts = jax.lax.map(stage, batch.reshape(-1, size, *batch.shape[1:]))
    return parts.reshape(len(batch), *parts.shape[2:])


def evaluate_candidates(
    stages: Stages, label: jax.Array, candidates: jax.Array, fitness: Fitness = log_probability
) -> jax.Array:
    """Fitness after the remaining stages (paper 3.1).

    Args:
      stages: the stages after the candidates' layer; none for logits.
      label: integer scalar.
      candidates: [n, ...].
      fitness: see `search_image`.

    Returns:
      [n] float32, higher is better.
    """
    for stage in stages:
        candidates = stage(candidates)
    values = fitness(candidates, label)
    if values.shape != candidates.shape[:1] or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"fitness returns {values.dtype}{list(values.shape)} for logits "
            f"{list(candidates.shape)}: need one floating number a candidate"
        )
    return values


def _evolve(
    key: jax.Array,
    population: jax.Array,
    evaluate: Callable[[jax.Array], jax.Array],
    layer: LayerSchedule,
    strength: jax.Array,
    boost: jax.Array,
    config: SearchConfig,
    kind: str,
) -> tuple[jax.Array, jax.Array]:
    """Parents [k, ...] after the last generation, best first, and the best fitness of each."""
    fitness = evaluate(population)
    if not layer.generations:
        best = jnp.argmax(jnp.nan_to_num(fitness, nan=-jnp.inf))
        return population[best][None], fitness[best][None]

    if config.strategy != strategies.PAPERS:
        return strategies.evolve(
            key, population, fitness, evaluate, layer, strength, boost, config, kind
        )

    with jax.ensure_compile_time_eval():  # evosax makes arrays; none may belong to this trace
        from dsl_jax.evolution.generation import Params, RepresentationGA

        algorithm = RepresentationGA(
            config.num_parents,
            config.num_explorers,
            config.num_refiners,
            jnp.zeros(population.shape[1:], population.dtype),
            smoothing_passes=layer.smoothing_passes,
            smoothing=config.smoothing,
            kind=kind,
            truncation=config.noise_truncation,
        )
    params = Params(mutation_strength=strength, exploration_boost=boost)
    # evosax minimises: fitness is negated here and nowhere else.
    state = algorithm.init(key, population, -fitness, params)

    def generation(state, number):
        generation_key = jax.random.fold_in(key, number)
        children, state = algorithm.ask(generation_key, state, params)
        # Explorers and refiners apart, here as in `tell`, so that XLA need not join them.
        parts = jnp.split(children, [config.num_explorers])
        fitness = jnp.concatenate([evaluate(part) for part in parts if len(part)])
        new, _ = algorithm.tell(generation_key, children, -fitness, state, params)
        if config.stop_probability < 1:
            is_enough = state.fitness[0] <= -math.log(config.stop_probability)
            new = jax.tree.map(lambda old, new: jnp.where(is_enough, old, new), state, new)
        return new, new.fitness[0]

    first = state.fitness[0]
    state, rest = jax.lax.scan(generation, state, jnp.arange(1, layer.generations + 1))
    return algorithm.get_population(state), -jnp.concatenate([first[None], rest])


def check_schedules(
    stages: Stages, config: SearchConfig, fitness: Fitness = log_probability
) -> None:
    """Raises TypeError for stages that are no functions, ValueError for what does not fit."""
    if not (isinstance(stages, (tuple, list)) and all(map(callable, stages))):
        raise TypeError(
            f"stages is a {type(stages).__name__}: search needs a tuple of functions, such as "
            "dsl_jax.frozen_stages(network) returns"
        )
    strategies.check(config)
    if fitness is not log_probability and config.stop_probability < 1:
        raise ValueError(
            f"stop_probability is {config.stop_probability}: with a fitness of your own, which "
            "need not be a probability, it must be 1"
        )
    if len(stages) != len(config.layers):
        raise ValueError(
            f"{len(stages)} stages but {len(config.layers)} layer schedules: "
            "config.layers needs one for each stage, the last being the logits"
        )
