"""Search once for many images: one direction a class, in which each image's own representation is
moved, instead of a search for each image (the paper's amortised search, 2.1, in its simplest form).

What happens to one class is in `_search_class`. With several clusters a class, each of them is
searched as a class. Letters: N images, M of a class, C classes, K clusters of a class, L blocks,
that is the layers before the logits, n candidates.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dsl_jax.batching import in_batches
from dsl_jax.config import SearchConfig, SharedConfig
from dsl_jax.config.search import check_per_class
from dsl_jax.devices import Array, check_own_mesh, on_cores, on_devices
from dsl_jax.evolution.clusters import cluster_rows, features, find_centres
from dsl_jax.evolution.fitness import Stages, evaluate_candidates, output_shapes
from dsl_jax.evolution.image import in_dtype
from dsl_jax.evolution.images import as_pytrees, checked_labels
from dsl_jax.evolution.layer import drawn_for_layers, evolve_layer, target_of, with_copies
from dsl_jax.evolution.noise import smoothed_noise
from dsl_jax.evolution.operators import kind_of, moved, normalize, standardize
from dsl_jax.evolution.rules import Rules, check_schedules, rules_of
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.evolution.task import LayerTask
from dsl_jax.inputs import as_array, check_images
from dsl_jax.keys import (
    CLUSTERS,
    FRESH_IMAGES,
    check_key,
    computed_once,
    keys_of_layers,
    philox_key,
)
from dsl_jax.progress import progress_bar
from dsl_jax.reprs import short_repr
from dsl_jax.values import instance_of

AT_ONCE = 32  # images of a fitness that an accelerator evaluates together


class SharedSearch(NamedTuple):
    """What `search_shared` found.

    Attributes:
      targets: a `SharedTargets`, which `learn` takes.
      fitness: for each layer float32 [C * K, generations + 1], the best mean fitness of a class's
        images in every generation, the initial population's first.
      candidates: how many were tried, each on the images of a fitness.
    """

    targets: SharedTargets
    fitness: tuple[np.ndarray, ...]
    candidates: int

    def __repr__(self) -> str:
        return short_repr(self, **self._asdict())


def search_shared(
    key: jax.Array,
    stages: Stages,
    images: Array,
    labels: Array,
    config: SearchConfig,
    shared: SharedConfig | None = None,
    *,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> SharedSearch:
    """Evolves for each class the directions that move its images best, layer after layer.

    A layer's candidates are directions. They start as smoothed noise, and are recombined, mutated
    and selected by the paper's operators, or the strategy that config names. Their fitness is the
    mean over the class's images, each of which is moved by the candidate and given to the rest of
    the network. A block of 0 generations takes the best of the first ones. The next layer sees the
    images as the direction that is kept has moved them: the best, or with the target "parent_mean"
    the mean of the parents. The logits are evolved as in `search`, from the mean of the class's. A
    class has random numbers of its own, so what is found for it does not depend on what the other
    classes hold; but if even the largest has fewer images than a fitness is of, all are of so many.
    Each device of a mesh, or each core of a CPU, searches a class at a time.

    Args:
      key: a `jax.random` key.
      stages: L + 1 functions, see `search_image`.
      images: [N, ...], normalised float32.
      labels: integers [N]; as many classes as the last stage returns logits.
      config: a `SearchConfig` with L + 1 layers; `initial_noise` has no effect here, and
        `num_searches`, `fitness_noise` and `least_cosine` must be left as they are by default.
      shared: the cosines, and how many images of each class a fitness is of: fewer where the
        largest class has fewer; a class with fewer than that repeats its images. None: the
        defaults.
      mesh: a mesh with the one axis "images", of this process's devices. None: one device.
      progress: show a bar of classes.

    Raises:
      TypeError, ValueError: what `search` refuses, a class without images, cosines that do not fit,
        choices, or devices of other processes.
      FloatingPointError: what was found for a class has no finite fitness.
    """
    shared = SharedConfig() if shared is None else shared
    instance_of(SharedConfig, "shared config", shared)
    if shared.choices:
        raise ValueError(f"choices are {shared.choices}: a run chooses among them; give cosines")
    check_own_mesh(mesh)
    searches = class_searches(key, stages, images, labels, config, shared)
    return join_classes(stages, run_searches(searches, mesh, progress), config, shared)


class FoundForClass(NamedTuple):
    """Of one class, or of several with a leading axis: a direction for each block, then the logits;
    the best fitness of each generation; the centre [F] where it is a cluster of a class."""

    representations: tuple[Array, ...]
    fitness: tuple[Array, ...]
    centre: Array | None = None


OneClass = Callable[[jax.Device | None], FoundForClass]  # searches one, on a device


def class_searches(
    key: jax.Array,
    stages: Stages,
    images: Array,
    labels: Array,
    config: SearchConfig,
    shared: SharedConfig,
) -> list[OneClass]:
    """The parts of `search_shared`: for each class, or each of its clusters, a function that
    searches it on a device, None: JAX's default; all is checked."""
    check_schedules(stages, config)
    check_per_class(config, shared)
    check_key(key)
    images = as_array("images", images)
    check_images(images, np.arange(len(images)))
    labels = checked_labels(stages, images.shape[1:], labels, len(images), config)
    cosines = _cosines(shared, config)
    num_classes = output_shapes(stages, images.shape[1:])[-1][-1]
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise ValueError(f"no image of the classes {np.flatnonzero(counts == 0).tolist()}")
    size = max(1, min(shared.images_per_class, int(counts.max())) // shared.clusters)
    fresh = None if shared.fresh_images is None else min(shared.fresh_images, size)
    stages, rules, key = as_pytrees(stages), rules_of(config), philox_key(key)
    centres, rows = None, labels
    if shared.clusters > 1:
        centres, rows = _clusters(key, stages, images, labels, num_classes, shared)
        if len(empty := np.setdiff1d(np.arange(num_classes * shared.clusters), rows)):
            raise ValueError(
                f"clusters is {shared.clusters}: in class {empty[0] // shared.clusters} one has no "
                "image; set fewer, or more images_per_class"
            )

    def search_class(row: int, device: jax.Device | None) -> FoundForClass:
        label, cluster = divmod(row, shared.clusters)
        some = np.asarray(images[np.resize(np.flatnonzero(rows == row), size)], np.float32)
        number = np.uint32(cluster * num_classes + label)
        arrays = key, stages, some, np.int32(label), number
        if device is not None:
            arrays = jax.device_put(arrays, device)
        found = jax.device_get(_search_class(*arrays, config, cosines, rules, fresh))
        if not np.isfinite(found.fitness[-1][-1]):
            raise FloatingPointError(
                f"nothing that was found for class {row // shared.clusters} has a fitness that is "
                "finite: see its images, the fitness function, and dsl_jax.check_stages for the "
                "stages"
            )
        return found._replace(centre=None if centres is None else centres[row])

    return [partial(search_class, row) for row in range(num_classes * shared.clusters)]


def _clusters(key, stages, images, labels, num_classes, shared):
    """Centres [C * K, F], and of each image the row of its own, or -1 where it has no part."""
    most = shared.images_per_class
    chosen = np.concatenate([np.flatnonzero(labels == c)[:most] for c in range(num_classes)])
    stage = jax.jit(in_dtype(stages, images[0])[0])
    h = in_batches(lambda part: stage(jnp.asarray(part, jnp.float32)), images[chosen], 64)
    key = jax.random.fold_in(key, CLUSTERS)
    seeds = np.asarray(jax.random.randint(key, (num_classes,), 0, 2**31 - 1))
    points = np.asarray(features(jnp.asarray(h)))
    centres = find_centres(points, labels[chosen], shared.clusters, seeds)
    rows = np.full(len(labels), -1)
    rows[chosen] = cluster_rows(jnp.asarray(h), jnp.asarray(labels[chosen]), centres, num_classes)
    return centres, rows


def run_searches(
    searches: Sequence[Callable[[jax.Device | None], Any]],
    mesh: Mesh | None = None,
    progress: bool = False,
) -> list[Any]:
    """What each finds, in order: as many at a time as the mesh has devices, or a CPU has cores."""
    if mesh is not None:
        each = on_devices(lambda search, device: search(device), searches, list(mesh.devices.flat))
    elif jax.default_backend() == "cpu":
        each = on_cores(lambda search: search(None), searches)
    else:
        each = (search(None) for search in searches)
    found = []
    with progress_bar(len(searches), unit="class", description="search", show=progress) as bar:
        for one in each:
            found.append(one)
            bar.update()
    return found


def join_classes(
    stages: Stages,
    found: Sequence[FoundForClass],
    config: SearchConfig,
    shared: SharedConfig,
) -> SharedSearch:
    """The search of all classes, from what was found for each, in order."""
    cosines = _cosines(shared, config)
    joined = jax.tree.map(lambda *classes: np.stack(classes), *found)
    *directions, logits = joined.representations
    targets = SharedTargets(
        as_pytrees(stages), tuple(directions), cosines, logits, joined.centre, propagates=True
    )
    tried = candidates_per_class(config, shared)
    return SharedSearch(targets, joined.fitness, len(found) * tried)


def candidates_per_class(config: SearchConfig, shared: SharedConfig) -> int:
    """How many a search of one class evaluates, each on all images of a fitness."""
    *blocks, logits = (layer.generations for layer in config.layers)
    children = config.num_children * (sum(blocks) + logits)
    again = config.num_parents * sum(blocks) if shared.fresh_images else 0
    first = config.population_size * len(blocks) + (config.population_size if logits else 1)
    return first + children + again


@partial(jax.jit, static_argnames=("rules", "fresh"))
def _search_class(
    key: jax.Array,
    stages: tuple[jax.tree_util.Partial, ...],
    images: jax.Array,
    label: jax.Array,
    number: jax.Array,
    config: SearchConfig,
    cosines: jax.Array,
    rules: Rules,
    fresh: int | None,
) -> FoundForClass:
    """The search for the class `label`, of which these are images [M, ...].

    number: what its random numbers are of.
    fresh: how many of them a generation evaluates; None: all.
    """
    key = computed_once(jax.random.fold_in(key, number))
    *blocks, head = in_dtype(stages, images[0], config.compute_dtype, between=jnp.float32)
    h, found, traces = images, [], []
    layer_keys = keys_of_layers(key, len(stages))
    drawn = drawn_for_layers(layer_keys, config)
    for index, stage in enumerate(blocks):
        h, cosine, layer_key = stage(h), cosines[index], layer_keys[index]
        after = (*blocks[index + 1 :], head)
        of_moved = partial(evaluate_candidates, after, label, fitness=rules.fitness)
        renewed = None
        if fresh is not None:
            renewed = partial(_fresh_fitness, layer_key, fresh, h, cosine, of_moved)
        task = LayerTask(
            partial(_mean_fitness, h, cosine, of_moved),
            config.layers[index],
            config,
            kind_of(h.shape[1:], last=False),
            rules.strategy,
            renewed,
        )
        first = _first_directions(layer_key, h.shape[1:], task)
        parents, trace = evolve_layer(layer_key, first, task, drawn[index])
        best = target_of(parents, task)
        h = jax.vmap(moved, (0, None, None))(h, best, cosine)
        found.append(best)
        traces.append(trace)
    h, layer_key = head(h), layer_keys[-1]
    evaluate = partial(evaluate_candidates, (), label, fitness=rules.fitness)
    kind = kind_of(h.shape[1:], last=True)
    task = LayerTask(evaluate, config.layers[-1], config, kind, rules.strategy)
    parents, trace = evolve_layer(layer_key, _first_logits(layer_key, h, task), task, drawn[-1])
    return FoundForClass((*found, target_of(parents, task)), (*traces, trace))


def _first_directions(key, shape, task):
    """A block's first candidates [n, ...]: smoothed noise, normalised."""
    config, start_key = task.config, computed_once(jax.random.fold_in(key, 0))
    shape = (config.population_size, *shape)
    passes = task.layer.smoothing_passes
    noise = smoothed_noise(start_key, shape, passes, config.smoothing, config.noise_truncation)
    return jax.vmap(normalize)(noise)


def _first_logits(key, logits, task):
    """The first candidates [n, classes]: the mean of the images', and mutated copies of it."""
    mean = standardize(jnp.mean(logits, axis=0), task.kind)[None]
    if not task.layer.generations:
        return mean
    return with_copies(computed_once(jax.random.fold_in(key, 0)), mean, task)


def _fresh_fitness(key, count, naturals, cosine, evaluate, generation):
    """`_mean_fitness` over so many of the images, drawn for the generation."""
    draw_key = jax.random.fold_in(jax.random.fold_in(key, FRESH_IMAGES), generation)
    rows = jax.random.permutation(draw_key, len(naturals))[:count]
    return partial(_mean_fitness, naturals[rows], cosine, evaluate)


def _mean_fitness(naturals, cosine, evaluate, directions):
    """Fitness [n] of directions [n, ...]: the mean over images [M, ...] of each one's, moved."""

    def of_an_image(natural):
        return evaluate(jax.vmap(moved, (None, 0, None))(natural, directions, cosine))

    # On a CPU one by one: the candidates of an image stay in the cache. Else as many as there are
    # by default: their moved representations have to fit the memory.
    each = jax.lax.platform_dependent(
        naturals,
        cpu=lambda naturals: jax.lax.map(of_an_image, naturals),
        default=lambda naturals: jax.lax.map(of_an_image, naturals, batch_size=AT_ONCE),
    )
    return jnp.mean(each, axis=0)


def _cosines(shared: SharedConfig, config: SearchConfig) -> np.ndarray:
    """As float32 [L]. Raises ValueError for another number of them."""
    return np.asarray(shared.of_blocks(len(config.layers) - 1), np.float32)
