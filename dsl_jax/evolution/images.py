"""Search of many images, each for itself: in chunks, on a CPU's cores or on several devices.

What happens to one image is in the module `image`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dsl_jax.config import SearchConfig
from dsl_jax.devices import Array, check_mesh, join, num_cores, on_cores, replicate, sharding, take
from dsl_jax.evolution.dead import check_layers_change
from dsl_jax.evolution.fitness import Stages, num_logits, output_shapes
from dsl_jax.evolution.image import SearchResult, search_image
from dsl_jax.evolution.rules import Rules, check_schedules, rules_of
from dsl_jax.inputs import as_array, check_ids, check_images, check_labels
from dsl_jax.keys import check_key, computed_once, key_for_several_devices, philox_key
from dsl_jax.progress import progress_bar
from dsl_jax.values import whole_number


class Method(NamedTuple):
    """What all images are searched with; key: on a mesh of accelerators the words of a key."""

    key: jax.Array
    stages: Stages
    config: SearchConfig


class Images(NamedTuple):
    """What is searched: arrays [N, ...], or without that axis of one image."""

    images: Any
    labels: Any
    ids: Any
    starts: tuple[Any, ...] | None = None

    def rows(self, rows: Any) -> "Images":
        """Those rows of all arrays."""
        return jax.tree.map(lambda array: array[rows], self)


def search(
    key: jax.Array,
    stages: Stages,
    images: Array,
    labels: Array,
    config: SearchConfig,
    *,
    ids: Any = None,
    starts: Sequence[Any] | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    check_finite: bool = True,
) -> SearchResult:
    """Searches many images, each for itself (paper 3.1).

    Image i uses the random numbers of `fold_in(key, ids[i])` alone, and every chunk is padded to
    one shape: a result does not depend on the order of the images, their neighbours, their number
    or the number of devices, bit for bit (of one `chunk_size`: give it on an accelerator, where the
    default depends on the memory). On a CPU as many threads as there are cores search an
    image each; they see JAX's global configuration, not that of a context such as
    `with jax.default_matmul_precision(...)`.

    Args:
      key: a `jax.random` key.
      stages: L functions, see `search_image`; with weights: `jax.tree_util.Partial`. What another
        function takes from around it is compiled into the search: if that changes, make a new one.
      images: [N, H, W, C] normalised float32.
      labels: [N] integers.
      config: a `SearchConfig` with L layers.
      ids: [N] integers from 0 to 2**32 - 1, the images' rows in their source; None: 0 .. N-1.
        Images of one id have the same random numbers.
      starts: for each layer [N, ...], where the search of an image begins, see `search_image`; such
        as `jax.device_get(sampler.of(images, labels))`. None: as in the paper.
      chunk_size: images in one call, on each device; None: `choose_chunk_size`, or N if fewer.
      mesh: a mesh with the one axis "images": its devices share each chunk, and the result stays
        where it was found, its first axis over the mesh; it may span the processes of
        `jax.distributed`, each of which calls this with the same arguments. None: one device.
      progress: show a bar with rate and time left.
      check_finite: see FloatingPointError.

    Returns:
      A `SearchResult` of N images.

    Raises:
      TypeError: stages that are no functions, or a key or mesh that is none.
      ValueError: sizes that do not fit, no images, or images that are not floating or not finite,
        labels or ids out of range, or a layer that could not change (see `dead`).
      FloatingPointError: no image of the first chunk has a finite fitness, if `check_finite`.
    """
    check_schedules(stages, config)
    check_key(key)
    check_mesh(mesh)
    images = as_array("images", images)
    ids = check_ids(ids, len(images))
    check_images(images, ids)
    images = images.astype(np.float32, copy=False)
    labels = checked_labels(stages, images.shape[1:], labels, len(images), config)
    if chunk_size is None:
        chunk_size = min(choose_chunk_size(stages, images.shape[1:], config), len(images))
    if (chunk_size := whole_number("chunk_size", chunk_size)) < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be at least 1")

    per_call = chunk_size * (1 if mesh is None else mesh.size)
    method = Method(philox_key(key), as_pytrees(stages), config)
    if mesh is not None and not _is_cpu():
        method = replicate(method._replace(key=jax.random.key_data(method.key)), mesh)
    rules = rules_of(config)
    proposals = None if starts is None else _check_starts(starts, stages, images)
    every = Images(images, labels, ids.astype(np.uint32), proposals)
    results: list[SearchResult] = []
    bar = progress_bar(len(images), unit="image", description="search", show=progress)
    with bar:
        for start in range(0, len(images), per_call):
            size = min(per_call, len(images) - start)
            # Rows past the end repeat the last image, so that every call has one shape; on a CPU
            # that is the shape of one image.
            padded = size if mesh is None and _is_cpu() else per_call
            rows = np.minimum(np.arange(start, start + padded), len(images) - 1)
            chunk = jax.block_until_ready(_search_chunk(method, every, rows, rules, mesh))
            if check_finite and not results:
                _check_any_finite(chunk.fitness)
            results.append(chunk if size == len(rows) else jax.tree.map(lambda x: x[:size], chunk))
            bar.update(size)
    if len(results) == 1:
        return results[0]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def _check_starts(
    starts: Sequence[Any], stages: Stages, images: np.ndarray
) -> tuple[np.ndarray, ...]:
    """As float32. Raises ValueError unless there is one for each layer and image, all finite."""
    found = tuple(np.asarray(start, np.float32) for start in starts)
    wanted = [(len(images), *shape) for shape in output_shapes(stages, images.shape[1:])]
    if [start.shape for start in found] != wanted:
        raise ValueError(
            f"starts have the shapes {[start.shape for start in found]}: the stages need {wanted}"
        )
    if not all(np.isfinite(start).all() for start in found):
        raise ValueError("starts are not all finite")
    return found


def _check_any_finite(fitness: Sequence[jax.Array]) -> None:
    """Raises FloatingPointError where no image ends with a number, as broken stages make it."""
    parts = [np.asarray(part.data)[:, -1] for part in fitness[-1].addressable_shards]
    if parts and not np.isfinite(np.concatenate(parts)).any():
        raise FloatingPointError(
            f"none of the first {sum(map(len, parts))} images has a fitness that is finite: see "
            "the images, the fitness function, and dsl_jax.check_stages for the stages"
        )


def _search_chunk(
    method: Method, every: Images, rows: np.ndarray, rules: Rules, mesh: Mesh | None
) -> SearchResult:
    """The rows of a chunk, chunk size times devices; on a mesh, each device keeps its part."""
    if mesh is None:
        return _search_parts([(method, every.rows(rows))], rules)[0]
    if not _is_cpu():
        part = jax.tree.map(lambda array: take(array, rows, mesh), every)
        return _search_on_mesh(method, part, rules=rules, mesh=sharding(mesh).mesh)
    parts = [
        jax.device_put((method, every.rows(part)), device)
        for device, part in zip(mesh.devices.flat, np.split(rows, mesh.size), strict=True)
        if device.process_index == jax.process_index()
    ]
    return join(_search_parts(parts, rules), mesh)


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _search_parts(parts: Sequence[tuple[Method, Images]], rules: Rules) -> list[SearchResult]:
    """What each device finds of its images, by the same program whatever their number."""
    if not _is_cpu():
        return [_search_together(method, images, rules=rules) for method, images in parts]

    # On a CPU an image stays in a core's cache, which XLA's own threads would share out in pieces
    # too small to gain by it; and its bits cannot depend on its neighbours, or on the cores.
    def search_one(task: tuple[Method, Images]) -> SearchResult:
        # A thread's next program would wait for this one; another thread's need not.
        return jax.block_until_ready(_search_one(*task, rules=rules))

    tasks = [
        (method, images.rows(row)) for method, images in parts for row in range(len(images.ids))
    ]
    found = list(on_cores(search_one, tasks))
    size = len(tasks) // len(parts)
    return [
        jax.tree.map(lambda *images: jnp.stack(images), *found[start : start + size])
        for start in range(0, len(tasks), size)
    ]


@partial(jax.jit, static_argnames="rules")
def _search_one(method: Method, one: Images, *, rules: Rules) -> SearchResult:
    """The search of one image."""
    key, stages, config = method
    key = computed_once(jax.random.fold_in(key, one.ids))
    return search_image(key, stages, one.images, one.labels, config, rules, one.starts)


@partial(jax.jit, static_argnames="rules")
def _search_together(method: Method, images: Images, *, rules: Rules) -> SearchResult:
    """`_search_one` of several images at once."""
    return jax.vmap(partial(_search_one, method, rules=rules))(images)


@partial(jax.jit, static_argnames=("rules", "mesh"))
def _search_on_mesh(method: Method, images: Images, *, rules: Rules, mesh: Mesh) -> SearchResult:
    """`_search_together` of each device's images, in one program for all devices."""

    def search_part(method: Method, images: Images) -> SearchResult:
        method = method._replace(key=key_for_several_devices(method.key))
        return _search_together(method, images, rules=rules)

    whole, part = PartitionSpec(), PartitionSpec(*mesh.axis_names)
    return jax.shard_map(
        search_part, mesh=mesh, in_specs=(whole, part), out_specs=part, check_vma=False
    )(method, images)


def as_pytrees(stages: Stages) -> tuple[jax.tree_util.Partial, ...]:
    """Stages that pass through jit: a `Partial` stays as it is, other callables become one.

    What a callable that is not a Partial holds is baked into the compiled program.

    Raises:
      TypeError: no sequence of functions, such as a network.
    """
    if not isinstance(stages, Sequence):
        raise TypeError(
            f"the stages are a {type(stages).__name__}: give a tuple of functions, such as "
            "dsl_jax.frozen_stages(network) returns"
        )
    return tuple(
        stage if isinstance(stage, jax.tree_util.Partial) else jax.tree_util.Partial(stage)
        for stage in stages
    )


def checked_labels(
    stages: Stages, image_shape: Sequence[int], labels: Any, num_images: int, config: SearchConfig
) -> np.ndarray:
    """Labels as int32 [N], where stages, labels and schedules fit each other.

    Raises:
      ValueError: labels that the logits do not have, or a layer that could not change.
    """
    shapes = output_shapes(stages, image_shape)
    classes = num_logits(shapes)
    reason = f"the last stage returns {classes} logits"
    labels = check_labels(labels, num_images, classes, reason=reason)
    check_layers_change(shapes, config)
    return labels


def choose_chunk_size(stages: Stages, image_shape: Sequence[int], config: SearchConfig) -> int:
    """Images a call and device: on a CPU 32, or a few more that the cores share equally; elsewhere
    what fills half the free memory, to 256."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return 32 + -32 % num_cores()
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 8 * 2**30) - stats.get("bytes_in_use", 0)
    return chunk_size_for(free, stages, image_shape, config)


def chunk_size_for(
    free: float, stages: Stages, image_shape: Sequence[int], config: SearchConfig
) -> int:
    """Images that fill half of so many bytes, at least one and at most 256."""
    largest = max(math.prod(shape) for shape in output_shapes(stages, image_shape))
    # A population, and about five arrays of its size while the children are made.
    bytes_per_image = 6 * 4 * config.population_size * largest
    return int(min(256, max(1, free // 2 // bytes_per_image)))
