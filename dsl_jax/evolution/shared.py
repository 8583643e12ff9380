"""Search once for many images: one direction a class, in which each image's own representation is
moved, instead of a search for each image (the paper's amortised search, 2.1, in its simplest form).

What happens to one class is in `_search_class`. Letters: N images, M of a class, B of a batch, C
classes, L blocks, that is the layers before the logits, n candidates.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dsl_jax.config import PAPERS_STRATEGY, SearchConfig, SharedConfig
from dsl_jax.devices import Array, num_cores
from dsl_jax.evolution.fitness import Stages, evaluate_candidates
from dsl_jax.evolution.image import (
    Rules,
    check_schedules,
    evolve_layer,
    in_float32,
    rules_of,
    with_copies,
)
from dsl_jax.evolution.images import as_pytrees, check_task, output_shapes
from dsl_jax.evolution.operators import kind_of, moved, normalize, smoothed_noise, standardize
from dsl_jax.files import replacing
from dsl_jax.inputs import as_array, check_images
from dsl_jax.keys import check_key, computed_once, philox_key
from dsl_jax.progress import progress_bar

FRESH = 2**32 - 2  # no generation's number: what draws images


@struct.dataclass
class SharedTargets:
    """Targets that `learn` makes of a batch as it comes, also of augmented images; no store.

    A block's target is the image's natural representation n moved in its class's direction d:
    `moved(n, d, cosine)`. The logits' is that of the class.

    Attributes:
      stages: those of the searched network, which make the natural representations.
      directions: for each of L blocks float32 [C, ...], of any size.
      cosines: float32 [L], what a target has in common with its natural representation.
      logits: float32 [C, C], a class's target in each row.
      propagates: whether a stage is given the target of the block before, as `search_shared` does
        it; else what the network makes of the image.
    """

    stages: tuple[jax.tree_util.Partial, ...]
    directions: tuple[Array, ...]
    cosines: Array
    logits: Array
    propagates: bool = struct.field(pytree_node=False, default=False)

    def of(self, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        """Targets of a batch, float32 [B, ...] each, the last the logits; pure.

        Args:
          images: normalised floats [B, ...].
          labels: integers [B].
        """
        found, h = [], images
        for index, stage in enumerate(in_float32(self.stages, images[0])[:-1]):
            h = stage(h)
            target = jax.vmap(moved, (0, 0, None))(
                h, jnp.asarray(self.directions[index])[labels], self.cosines[index]
            )
            found.append(target)
            h = target if self.propagates else h
        return (*found, jnp.asarray(self.logits)[labels])

    def with_directions(self, directions: Sequence[Array]) -> "SharedTargets":
        """The same with other directions, such as those of `controls.random_code`."""
        return dataclasses.replace(self, directions=tuple(directions))

    def save(self, path: str | Path) -> None:
        """Writes all but the stages to a NumPy archive (.npz), whole or not at all."""
        blocks = {f"direction_{index}": d for index, d in enumerate(self.directions)}
        with replacing(Path(path)) as file:
            np.savez(
                file,
                cosines=self.cosines,
                logits=self.logits,
                propagates=self.propagates,
                **jax.device_get(blocks),
            )

    @classmethod
    def load(cls, path: str | Path, stages: Stages) -> "SharedTargets":
        """What `save` wrote, for the stages of the same network."""
        with np.load(path) as saved:
            count = sum(name.startswith("direction_") for name in saved)
            directions = tuple(saved[f"direction_{index}"] for index in range(count))
            return cls(
                as_pytrees(stages),
                directions,
                saved["cosines"],
                saved["logits"],
                bool(saved["propagates"]),
            )


class SharedSearch(NamedTuple):
    """What `search_shared` found.

    Attributes:
      targets: a `SharedTargets`, which `learn` takes.
      fitness: for each layer float32 [C, generations + 1], the best mean log-likelihood of a
        class's images in every generation, the initial population's first.
      candidates: how many were tried, each on all images of its class.
    """

    targets: SharedTargets
    fitness: tuple[np.ndarray, ...]
    candidates: int


def search_shared(
    key: jax.Array,
    stages: Stages,
    images: Array,
    labels: Array,
    config: SearchConfig,
    shared: SharedConfig | None = None,
    *,
    progress: bool = False,
) -> SharedSearch:
    """Evolves for each class the directions that move its images best, layer after layer.

    A layer's candidates are directions. They start as smoothed noise, and are recombined, mutated
    and selected by the paper's operators, or the strategy that config names. Their fitness is the
    mean over the class's images, each of which is moved by the candidate and given to the rest of
    the network. The next layer sees the images as the best direction has moved them. The logits
    are evolved as in `search`, from the mean of the class's. A class has random numbers of its own:
    what is found for it does not depend on the other classes. On a CPU as many threads as there are
    cores search a class each.

    Args:
      key: a `jax.random` key.
      stages: L + 1 functions, see `image_search`.
      images: [N, ...], normalised float32.
      labels: integers [N]; as many classes as the last stage returns logits.
      config: a `SearchConfig` with L + 1 layers; `initial_noise` and `num_searches` have no effect
        here.
      shared: the cosines (not `choices`, which a run makes), and how many images of each class a
        fitness is of: fewer where the largest class has fewer; a class with fewer than that
        repeats its images. None: the defaults.
      progress: show a bar of classes.

    Raises:
      ValueError: what `search` refuses, a class without images, or cosines that do not fit.
    """
    searches = class_searches(key, stages, images, labels, config, shared)
    return join_classes(stages, run_searches(searches, progress), config, shared)


class FoundForClass(NamedTuple):
    """Of one class, or of C with a leading axis: a direction for each block, then the logits, and
    the best fitness of each generation."""

    representations: tuple[Array, ...]
    fitness: tuple[Array, ...]


def class_searches(
    key: jax.Array,
    stages: Stages,
    images: Array,
    labels: Array,
    config: SearchConfig,
    shared: SharedConfig | None = None,
) -> list[Callable[[], FoundForClass]]:
    """The parts of `search_shared`: for each class a function that searches it; all is checked."""
    shared = SharedConfig() if shared is None else shared
    check_schedules(stages, config)
    check_key(key)
    images = as_array("images", images)
    check_images(images, np.arange(len(images)))
    labels = check_task(stages, images.shape[1:], labels, len(images), config)
    kept = _cosines(shared, config)
    num_classes = output_shapes(stages, images.shape[1:])[-1][-1]
    counts = np.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise ValueError(f"no image of the classes {np.flatnonzero(counts == 0).tolist()}")
    size = min(shared.images_per_class, int(counts.max()))
    fresh = None if shared.fresh_images is None else min(shared.fresh_images, size)
    if fresh is not None and config.strategy != PAPERS_STRATEGY:
        raise ValueError(
            f"fresh_images is {fresh}: with the strategy {config.strategy!r}, which keeps the "
            "fitness of earlier generations, it must be None"
        )
    stages, rules, key = as_pytrees(stages), rules_of(config), philox_key(key)

    def search_class(label: int) -> FoundForClass:
        rows = np.resize(np.flatnonzero(labels == label), size)
        some = jnp.asarray(images[rows], jnp.float32)
        return jax.device_get(
            _search_class(key, stages, some, jnp.uint32(label), config, kept, rules, fresh)
        )

    return [partial(search_class, label) for label in range(num_classes)]


def run_searches(
    searches: Sequence[Callable[[], FoundForClass]], progress: bool = False
) -> list[FoundForClass]:
    """What each finds, in order; on a CPU as many at a time as there are cores."""
    cores = num_cores() if jax.default_backend() == "cpu" else 1
    pool = ThreadPoolExecutor(min(len(searches), cores))
    bar = progress_bar(len(searches), unit="class", description="search", show=progress)
    found = []
    with bar:
        try:
            for one in pool.map(lambda search: search(), searches):
                found.append(one)
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)
    return found


def join_classes(
    stages: Stages,
    found: Sequence[FoundForClass],
    config: SearchConfig,
    shared: SharedConfig | None = None,
) -> SharedSearch:
    """The search of all classes, from what was found for each, in order."""
    kept = _cosines(SharedConfig() if shared is None else shared, config)
    joined = jax.tree.map(lambda *classes: np.stack(classes), *found)
    *directions, logits = joined.representations
    targets = SharedTargets(as_pytrees(stages), tuple(directions), kept, logits, propagates=True)
    tried = candidates_per_class(config, shared)
    return SharedSearch(targets, joined.fitness, len(found) * tried)


def candidates_per_class(config: SearchConfig, shared: SharedConfig | None = None) -> int:
    """How many a search of one class evaluates, each on all images of a fitness."""
    *blocks, logits = (layer.generations for layer in config.layers)
    children = config.num_children * (sum(blocks) + logits)
    is_fresh = shared is not None and shared.fresh_images is not None
    again = config.num_parents * sum(blocks) if is_fresh else 0
    return children + again + config.population_size * len(config.layers)


@partial(jax.jit, static_argnames=("rules", "fresh"))
def _search_class(
    key: jax.Array,
    stages: tuple[jax.tree_util.Partial, ...],
    images: jax.Array,
    label: jax.Array,
    config: SearchConfig,
    cosines: jax.Array,
    rules: Rules,
    fresh: int | None,
) -> FoundForClass:
    """The search for the class `label`, of which these are images [M, ...].

    fresh: how many of them a generation evaluates; None: all.
    """
    key = computed_once(jax.random.fold_in(key, label))
    h, found, traces = images, [], []
    whole = in_float32(stages, images[0])
    for index, (stage, layer) in enumerate(zip(whole, config.layers, strict=True)):
        h, rest = stage(h), whole[index + 1 :]
        is_last = not rest
        kind = kind_of(h.shape[1:], last=is_last)
        layer_key = computed_once(jax.random.fold_in(key, index))
        start_key = computed_once(jax.random.fold_in(layer_key, 0))
        alone = partial(evaluate_candidates, rest, label, fitness=rules.fitness)
        renewed = None
        if is_last:
            evaluate = alone
            start = standardize(jnp.mean(h, axis=0), kind)[None]
            candidates = with_copies(start_key, start, evaluate, layer, config, kind)
        else:
            evaluate = partial(_mean_fitness, h, cosines[index], alone)
            if fresh is not None:
                renewed = partial(_fresh_fitness, layer_key, fresh, h, cosines[index], alone)
                evaluate = renewed(jnp.uint32(0))
            shape = (config.population_size, *h.shape[1:])
            passes, truncation = layer.smoothing_passes, config.noise_truncation
            noise = smoothed_noise(start_key, shape, passes, config.smoothing, truncation)
            candidates = jax.vmap(normalize)(noise)
        parents, trace = evolve_layer(
            layer_key, candidates, evaluate, layer, config, kind, rules, renewed
        )
        if config.target == "parent_mean" and layer.generations:
            best = standardize(jnp.mean(parents, axis=0), kind)
        else:
            best = parents[0]
        found.append(best)
        traces.append(trace)
        h = jax.vmap(moved, (0, None, None))(h, best, cosines[index]) if rest else h
    return FoundForClass(tuple(found), tuple(traces))


def _fresh_fitness(key, count, naturals, cosine, evaluate, generation):
    """`_mean_fitness` over so many of the images, drawn for the generation."""
    draw_key = jax.random.fold_in(jax.random.fold_in(key, FRESH), generation)
    rows = jax.random.permutation(draw_key, len(naturals))[:count]
    return partial(_mean_fitness, naturals[rows], cosine, evaluate)


def _mean_fitness(naturals, cosine, evaluate, directions):
    """Fitness [n] of directions [n, ...]: the mean over images [M, ...] of each one's, moved."""

    def of_an_image(natural):
        return evaluate(jax.vmap(moved, (None, 0, None))(natural, directions, cosine))

    # On a CPU one by one: the candidates of an image stay in the cache.
    each = jax.lax.platform_dependent(
        naturals,
        cpu=lambda naturals: jax.lax.map(of_an_image, naturals),
        default=jax.vmap(of_an_image),
    )
    return jnp.mean(each, axis=0)


def _cosines(shared: SharedConfig, config: SearchConfig) -> np.ndarray:
    """As float32 [L]. Raises ValueError for another number of them."""
    return np.asarray(shared.of_blocks(len(config.layers) - 1), np.float32)
