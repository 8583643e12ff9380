"""Search: representations of an image, evolved layer by layer (paper 3.1, A.2, A.4).

Search knows nothing of networks. It sees `stages`: a tuple of functions, stage l maps a batch of
H(l-1) to a batch of H(l); stage 0 takes images, the last returns logits. Letters: N images, L
stages, n candidates of a population, k parents.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dsl_jax import strategies
from dsl_jax.batches import largest_divisor
from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.devices import join, num_cores
from dsl_jax.evolution import kind_of, perturb_image, philox_key, reproduce, standardize
from dsl_jax.progress import progress_bar

Stages = Sequence[Callable[[jax.Array], jax.Array]]


class SearchResult(NamedTuple):
    """What a search found, for N images (no leading axis for one image).

    representations: H(0) .. H(L-1), a float32 [N, ...] each; the last are the logits [N, classes].
    fitness: the best log-likelihood in every generation, the initial population's first: a float32
      [N, generations_l + 1] for each layer (with `num_searches` their mean).
    """

    representations: tuple[jax.Array, ...]
    fitness: tuple[jax.Array, ...]


# --------------------------------------------------------------------------------------------
# One image
# --------------------------------------------------------------------------------------------


def search_image(
    key: jax.Array, stages: Stages, image: jax.Array, label: jax.Array, config: SearchConfig
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

    Returns:
      A `SearchResult` without the leading axis.

    Raises:
      ValueError: the numbers of stages and of layer schedules differ.
    """
    schedules = [(layer.mutation_strength, layer.exploration_boost) for layer in config.layers]
    return _search_image(key, stages, image, label, config, schedules)


def _search_image(key, stages, image, label, config, schedules) -> SearchResult:
    """`search_image` with strength and boost of every layer apart, as they may be traced."""
    check_stages(stages, config)
    key = philox_key(key)
    if config.num_searches == 1:
        return _search_once(key, stages, image, label, config, schedules)
    keys = jax.random.split(jax.random.fold_in(key, len(stages) + 1), config.num_searches)
    found = jax.lax.map(
        lambda run_key: _search_once(run_key, stages, image, label, config, schedules), keys
    )
    means = jax.tree.map(lambda runs: jnp.mean(runs, axis=0), found)
    targets = [
        standardize(h, kind_of(h.shape, last=index == len(stages) - 1))
        for index, h in enumerate(means.representations)
    ]
    return SearchResult(tuple(targets), means.fitness)


def _search_once(key, stages, image, label, config, schedules) -> SearchResult:
    """One search of an image, by a philox key."""
    n = config.population_size
    image_keys = jax.random.split(jax.random.fold_in(key, len(stages)), n)
    noisy = jax.vmap(perturb_image, (0, None, None))(image_keys, image, config.initial_noise)
    population = _in_parts(stages[0], noisy)

    targets, traces = [], []
    for index, (layer, (strength, boost)) in enumerate(zip(config.layers, schedules, strict=True)):
        kind = kind_of(population.shape[1:], last=index == len(stages) - 1)
        layer_key = jax.random.fold_in(key, index)
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
            population = jnp.concatenate([population, copies])
        evaluate = partial(log_likelihood, stages[index + 1 :], label)
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


def log_likelihood(stages: Stages, label: jax.Array, candidates: jax.Array) -> jax.Array:
    """Fitness: log-probability of the label after the remaining stages (paper 3.1).

    Args:
      stages: the stages after the candidates' layer; none for logits.
      label: integer scalar.
      candidates: [n, ...].

    Returns:
      [n] float32, higher is better.
    """
    for stage in stages:
        candidates = stage(candidates)
    return jax.nn.log_softmax(candidates.astype(jnp.float32))[:, label]


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
        from dsl_jax.representation_ga import Params, RepresentationGA

        algorithm = RepresentationGA(
            config.num_parents,
            config.num_explorers,
            config.num_refiners,
            np.zeros(population.shape[1:], population.dtype),
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


def check_stages(stages: Stages, config: SearchConfig) -> None:
    """Raises ValueError unless there is a layer schedule for each stage, and a known strategy."""
    strategies.check(config)
    if len(stages) != len(config.layers):
        raise ValueError(
            f"{len(stages)} stages but {len(config.layers)} layer schedules: "
            "config.layers needs one for each stage, the last being the logits"
        )


# --------------------------------------------------------------------------------------------
# Many images
# --------------------------------------------------------------------------------------------


def search(
    key: jax.Array,
    stages: Stages,
    images: jax.Array,
    labels: jax.Array,
    config: SearchConfig,
    *,
    ids: Any = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> SearchResult:
    """Searches many images, each for itself (paper 3.1).

    Image i uses the random numbers of `fold_in(key, ids[i])` alone, and every chunk is padded to
    one shape: a result does not depend on the order of the images, their neighbours, their number
    or the number of devices, bit for bit. On a CPU as many threads as there are cores search an
    image each; they see JAX's global configuration, not that of a context such as
    `with jax.default_matmul_precision(...)`.

    Args:
      key: a `jax.random` key.
      stages: L functions, see the module; with weights: `jax.tree_util.Partial`.
      images: [N, H, W, C] normalised float32.
      labels: [N] integers.
      config: a `SearchConfig` with L layers.
      ids: [N] integers from 0 to 2**32 - 1, the images' rows in their source; None: 0 .. N-1.
      chunk_size: images in one call, on each device; None: `choose_chunk_size`, or N if fewer.
      mesh: a mesh with the one axis "images": its devices share each chunk, and the result stays
        where it was found, its first axis over the mesh; it may span the processes of
        `jax.distributed`, each of which calls this with the same arguments. None: one device.
      progress: show a bar with rate and time left.

    Returns:
      A `SearchResult` of N images.

    Raises:
      ValueError: sizes that do not fit, no images, labels or ids out of range.
    """
    check_stages(stages, config)
    ids = check_ids(ids, len(images))
    images = images if isinstance(images, jax.Array) else np.asarray(images)
    labels = np.asarray(labels)
    if labels.shape != images.shape[:1] or not labels.size:
        raise ValueError(
            f"{len(images)} images and {labels.size} labels: need one each, at least 1"
        )
    classes = output_shapes(stages, images.shape[1:])[-1][-1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}, but the last stage returns "
            f"{classes} logits: need 0 to {classes - 1}"
        )
    if chunk_size is None:
        chunk_size = min(choose_chunk_size(stages, images.shape[1:], config), len(images))
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be at least 1")

    per_call = chunk_size * (1 if mesh is None else mesh.size)
    static, schedules = _split_schedules(config)
    shared = (philox_key(key), as_pytrees(stages), schedules)
    each = (images, labels.astype(np.int32), ids.astype(np.uint32))
    results = []
    bar = progress_bar(len(images), unit="image", description="search", show=progress)
    with bar:
        for start in range(0, len(images), per_call):
            size = min(per_call, len(images) - start)
            # Rows past the end repeat the last image, so that every call has one shape; on a CPU
            # that is the shape of one image.
            padded = size if mesh is None and jax.default_backend() == "cpu" else per_call
            rows = np.minimum(np.arange(start, start + padded), len(images) - 1)
            chunk = jax.block_until_ready(_search_chunk(shared, each, rows, static, mesh))
            results.append(chunk if size == len(rows) else jax.tree.map(lambda x: x[:size], chunk))
            bar.update(size)
    if len(results) == 1:
        return results[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _search_chunk(shared, each, rows, config, mesh):
    """The rows of a chunk, chunk size times devices; on a mesh, each device keeps its part."""
    if mesh is None:
        return _search_parts([(shared, tuple(array[rows] for array in each))], config)[0]
    # A call for each device, which run side by side: jax 0.10 cannot lower philox keys in a
    # program for several devices (neither jit with shardings, nor shard_map, nor pmap).
    parts = [
        jax.device_put((shared, tuple(array[part] for array in each)), device)
        for device, part in zip(mesh.devices.flat, np.split(rows, mesh.size), strict=True)
        if device.process_index == jax.process_index()
    ]
    return join(_search_parts(parts, config), mesh)


def _search_parts(parts, config):
    """What each device finds, by the same program whatever their number.

    parts: for each device key, stages and schedules, and the images, labels and ids of its part.
    """
    if jax.default_backend() != "cpu":
        return [_search_together(shared, *each, config) for shared, each in parts]

    # On a CPU an image stays in a core's cache, which XLA's own threads would share out in pieces
    # too small to gain by it; and its bits cannot depend on its neighbours, or on the cores.
    def search_one(task):
        # A thread's next program would wait for this one; another thread's need not.
        return jax.block_until_ready(_search_one(*task, config))

    tasks = [(shared, *one) for shared, each in parts for one in zip(*each, strict=True)]
    pool = ThreadPoolExecutor(min(len(tasks), num_cores()))
    try:
        found = list(pool.map(search_one, tasks))
    finally:
        pool.shutdown(cancel_futures=True)
    size = len(tasks) // len(parts)
    return [
        jax.tree.map(lambda *images: jnp.stack(images), *found[start : start + size])
        for start in range(0, len(tasks), size)
    ]


@partial(jax.jit, static_argnames="config")
def _search_one(shared, image, label, number, config):
    """The search of the image with this id."""
    key, stages, schedules = shared
    image_key = jax.random.fold_in(key, number)
    return _search_image(image_key, stages, image, label, config, schedules)


@partial(jax.jit, static_argnames="config")
def _search_together(shared, images, labels, ids, config):
    """`_search_one` of several images at once."""
    one = partial(_search_one, shared, config=config)
    return jax.vmap(one)(images, labels, ids)


def _split_schedules(config: SearchConfig):
    """The config without strengths and boosts, which become arrays: others do not compile again."""
    schedules = [
        (jnp.float32(layer.mutation_strength), jnp.float32(layer.exploration_boost))
        for layer in config.layers
    ]
    layers = tuple(
        dataclasses.replace(layer, mutation_strength=0.0, exploration_boost=0.0)
        for layer in config.layers
    )
    return dataclasses.replace(config, layers=layers), schedules


def as_pytrees(stages: Stages) -> tuple[jax.tree_util.Partial, ...]:
    """Stages that pass through jit: a `Partial` stays as it is, other callables become one.

    What a callable that is not a Partial holds is baked into the compiled program.
    """
    return tuple(
        stage if isinstance(stage, jax.tree_util.Partial) else jax.tree_util.Partial(stage)
        for stage in stages
    )


def check_ids(ids: Any, num_images: int) -> np.ndarray:
    """ids as int64 [N], or 0 .. N-1 for None.

    Raises:
      ValueError: another number than N, not integers, below 0, or from 2**32 on, where
        `fold_in` would give two images the same random numbers.
    """
    if ids is None:
        return np.arange(num_images)
    ids = np.asarray(ids)
    if ids.shape != (num_images,) or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids {ids.dtype}{list(ids.shape)}: need {num_images} integers")
    if ids.size and (ids.min() < 0 or ids.max() >= 2**32):
        raise ValueError(f"ids go from {ids.min()} to {ids.max()}: need 0 to {2**32 - 1}")
    return ids.astype(np.int64)


def choose_chunk_size(stages: Stages, image_shape: Sequence[int], config: SearchConfig) -> int:
    """Images a call and device: 32 on a CPU, elsewhere what fills half the free memory, to 256."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 32
    largest = max(math.prod(shape) for shape in output_shapes(stages, image_shape))
    # A population, and about five arrays of its size while the children are made.
    bytes_per_image = 6 * 4 * config.population_size * largest
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 8 * 2**30) - stats.get("bytes_in_use", 0)
    return int(min(256, max(1, free // 2 // bytes_per_image)))


def output_shapes(stages: Stages, image_shape: Sequence[int]) -> list[tuple[int, ...]]:
    """The shapes of one image's representations, without computing them."""
    h = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = []
    for stage in stages:
        h = jax.eval_shape(stage, h)
        shapes.append(h.shape[1:])
    return shapes
