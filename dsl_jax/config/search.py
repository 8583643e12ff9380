"""Configuration of the search: of one image, and of one for many images."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from dsl_jax.names import name_of
from dsl_jax.values import a_share, at_least, check_cosines, check_types, one_of

PAPERS_STRATEGY = "representation_ga"
PAPERS_FITNESS = "log_probability"
SMOOTHINGS = ("noise", "child", "noise_rescaled")
TARGETS = ("best", "parent_mean")
COMPUTE_DTYPES = ("float32", "bfloat16")


def _with_leaves(*leaves: str) -> Callable[[type], type]:
    """Registers a dataclass as a pytree with these fields for leaves; the others are static.

    `jax.tree_util.register_dataclass` would check what JAX puts in the leaves' place as if it
    were a user's.
    """

    def register(cls: type) -> type:
        static = [f.name for f in dataclasses.fields(cls) if f.name not in leaves]

        def flatten(config: Any) -> tuple[list, tuple]:
            return [getattr(config, n) for n in leaves], tuple(getattr(config, n) for n in static)

        def unflatten(fixed: tuple, values: Any) -> Any:
            config: Any = object.__new__(cls)
            config.__dict__.update(zip(static, fixed, strict=True))
            config.__dict__.update(zip(leaves, values, strict=True))
            return config

        jax.tree_util.register_pytree_node(cls, flatten, unflatten)
        return cls

    return register


@_with_leaves("mutation_strength", "exploration_boost")
@dataclass(frozen=True)
class LayerSchedule:
    """How one layer is evolved (paper A.2).

    Attributes:
      generations: number of generations; 0 keeps what came from the layer before.
      mutation_strength: alpha, noise in units of a channel's standard deviation.
      exploration_boost: explorers mutate with alpha times this.
      smoothing_passes: B, passes of 3x3 average pooling.
    """

    generations: int
    mutation_strength: float
    exploration_boost: float = 1.0
    smoothing_passes: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        at_least(0, self, *(f.name for f in dataclasses.fields(self)))


PAPER_LAYERS = (
    LayerSchedule(300, 0.3, 5.0, 5),
    LayerSchedule(100, 0.2, 3.0, 1),
    LayerSchedule(100, 0.1, 3.0, 1),
    LayerSchedule(10, 0.1, 1.0, 0),
)


@_with_leaves("layers")
@dataclass(frozen=True)
class SearchConfig:
    """The search of one image (paper 3.1 and A.2; defaults are the paper's).

    Attributes:
      layers: one schedule for each stage of the network, in order; the last is the logits.
      num_parents, num_explorers, num_refiners: k, C_exp, C_ref of a generation.
      initial_noise: noise on the image, in units of its per-channel standard deviation.
      smoothing: what the smoothing acts on: "noise", "child", or "noise_rescaled" (the noise,
          brought back to its strength before smoothing).
      target: what is kept of a layer: "best" candidate, or "parent_mean", the mean of its parents.
      strategy: "representation_ga", the name of an evosax algorithm, or for one's own the class or
          its "module:Class" (see `evolution.strategies`).
      fitness: "log_probability" of the true class, or for one's own the function or its
          "module:function": (logits [n, classes], label) -> [n], higher is better, each from its
          own row alone; not with a `stop_probability`.
      stop_probability: a layer stops changing once its best candidate gives the true class so large
          a probability, and what comes in with it is left alone (but `parent_mean` standardises it
          as a target); 1: it never stops.
      num_searches: independent searches of an image, whose mean, layer by layer, is the target.
      noise_truncation: share of the smoothed noise's variance that may be left out, for speed.
      least_cosine: of a block's candidate to the image's natural representation, what the network
          makes of the clean image; a candidate that is farther is brought back to it. None: it may
          go anywhere.
      fitness_noise: what a network learns is near its target, not at it: a block's candidates are
          judged with noise of so many of their standard deviations added (as smooth as mutations
          of full strength), by the mean fitness over `noisy_evaluations` such noises, the same for
          all candidates and drawn anew in each generation; parents are judged again. 0: as they
          are.
      noisy_evaluations: see `fitness_noise`.
      compute_dtype: "float32", or "bfloat16": in which candidates, noise and the products of a
          `ConvNet` are kept; statistics, normalisation, logits and fitness are float32. Of a
          search per class the products alone.
    """

    layers: tuple[LayerSchedule, ...] = PAPER_LAYERS
    num_parents: int = 20
    num_explorers: int = 100
    num_refiners: int = 120
    initial_noise: float = 0.1
    smoothing: str = "noise"
    target: str = "best"
    strategy: str = PAPERS_STRATEGY
    fitness: str = PAPERS_FITNESS
    stop_probability: float = 1.0
    num_searches: int = 1
    noise_truncation: float = 1e-3
    least_cosine: float | None = None
    fitness_noise: float = 0.0
    noisy_evaluations: int = 4
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("strategy", "fitness"):
            object.__setattr__(self, name, name_of(name, getattr(self, name)))
        check_types(self)
        if not self.layers:
            raise ValueError("layers is empty: give one LayerSchedule for each stage")
        at_least(0, self, "num_explorers", "num_refiners", "initial_noise", "noise_truncation")
        at_least(0, self, "fitness_noise")
        at_least(1, self, "num_parents", "num_children", "num_searches", "noisy_evaluations")
        if self.noise_truncation >= 1:
            raise ValueError(f"noise_truncation is {self.noise_truncation}: it must be below 1")
        a_share(self, "stop_probability")
        if self.least_cosine is not None and not 0 <= self.least_cosine < 1:
            raise ValueError(
                f"least_cosine is {self.least_cosine}: it must be at least 0 and below 1, or None"
            )
        if self.fitness_noise and (self.strategy != PAPERS_STRATEGY or self.stop_probability < 1):
            raise ValueError(
                f"fitness_noise is {self.fitness_noise}: with another strategy than "
                f"{PAPERS_STRATEGY}, or a stop_probability below 1, it must be 0"
            )
        one_of("smoothing", self.smoothing, SMOOTHINGS)
        one_of("target", self.target, TARGETS)
        one_of("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        if self.fitness != PAPERS_FITNESS and self.stop_probability < 1:
            raise ValueError(
                f"stop_probability is {self.stop_probability}: with a fitness of your own, which "
                "need not be a probability, it must be 1"
            )

    @property
    def num_children(self) -> int:
        """New candidates in a generation, all of which are evaluated."""
        return self.num_explorers + self.num_refiners

    @property
    def population_size(self) -> int:
        """Parents, explorers and refiners together: n."""
        return self.num_parents + self.num_children

    @property
    def candidates_per_image(self) -> int:
        """Candidates that are tried for one image, over all layers; each counts once, also where
        it is judged several times (`fitness_noise`)."""
        first, *rest = (layer.generations for layer in self.layers)
        initial = self.population_size * (1 + sum(1 for g in rest if g))
        return self.num_searches * (initial + self.num_children * (first + sum(rest)))


@jax.tree_util.register_static
@dataclass(frozen=True)
class SamplerConfig:
    """A small network that proposes targets, learned from a few searches (docs/single_images.md).

    Attributes:
      images: how many are searched, for a run: the first ones.
      hidden: channels, or features, between its two layers.
      epochs, batch_size, learning_rate: Adam's, with a rate that falls to 0 as half a cosine.
      held_out: share of the searched images that choose the epoch.
    """

    images: int = 1000
    hidden: int = 32
    epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 3e-3
    held_out: float = 0.1

    def __post_init__(self) -> None:
        check_types(self)
        at_least(1, self, "images", "hidden", "epochs", "batch_size")
        a_share(self, "learning_rate", "held_out")
        if self.held_out == 1:
            raise ValueError(
                "held_out is 1.0: it must be below 1, or nothing is left to learn from"
            )


@jax.tree_util.register_static
@dataclass(frozen=True)
class SharedConfig:
    """One search for all images of a class, in place of one for each (docs/shared_search.md).

    Attributes:
      cosines: for each block what a target keeps of its image's natural representation; the only
          one of a tuple stands for all blocks.
      choices: what to choose from on the validation images, in place of `cosines`, by a run: each a
          cosine for all blocks, or one for each; what a control learns is chosen likewise.
      images_per_class: M, images whose mean likelihood is a candidate's fitness: the first of each
          class.
      fresh_images: so many of these, drawn anew in each generation, parents evaluated again; None:
          all of them. With the paper's strategy only.
      clusters: K, of each class's images, by k-means in what the network's first block makes of
          them; each is searched as a class, on M / K images; 1: the class is one.
    """

    cosines: tuple[float, ...] = (0.2,)
    choices: tuple[float | tuple[float, ...], ...] = ()
    images_per_class: int = 32
    fresh_images: int | None = None
    clusters: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        at_least(1, self, "images_per_class", "fresh_images", "clusters")
        if self.clusters > self.images_per_class:
            raise ValueError(
                f"clusters is {self.clusters}: it must be at most images_per_class, "
                f"{self.images_per_class}"
            )
        fitting = self.images_per_class // self.clusters
        if self.fresh_images is not None and self.fresh_images > fitting:
            raise ValueError(
                f"fresh_images is {self.fresh_images}: it must be at most images_per_class by "
                f"clusters, {fitting}"
            )
        if not self.cosines:
            raise ValueError("cosines is empty: give one for each block, or one for all")
        all_ways = [self.cosines, *map(_of_choice, self.choices)]
        if not all(all_ways):
            raise ValueError("a choice is empty: give a cosine for each block, or one for all")
        check_cosines(every := [cosine for way in all_ways for cosine in way])
        if still := [c for c in every if abs(c) == 1]:
            raise ValueError(
                f"the cosine {still[0]} leaves nothing to search: it must lie between -1 and 1"
            )
        if self.choices and self.cosines != (default := type(self).cosines):
            raise ValueError(
                f"cosines are {self.cosines} beside choices {self.choices}, which take their "
                f"place: leave cosines at {default}, or choices empty"
            )
        if len(self.ways) < len(self.choices):
            raise ValueError(f"choices are {self.choices}: give each cosine once")

    @property
    def images_of_a_fitness(self) -> int:
        """How many images a candidate is tried on, where a class has enough."""
        return self.fresh_images or self.images_per_class // self.clusters

    @property
    def ways(self) -> dict[str, "SharedConfig"]:
        """With one choice in place of all, by its cosines in text, as in "0.2" or "0.2_0.4"."""
        return {
            "_".join(f"{c:g}" for c in cosines): dataclasses.replace(
                self, cosines=cosines, choices=()
            )
            for cosines in map(_of_choice, self.choices)
        }

    def of_blocks(self, count: int) -> tuple[float, ...]:
        """A cosine for each of so many blocks. Raises ValueError for another number of them."""
        found = self.cosines * count if len(self.cosines) == 1 else self.cosines
        if len(found) != count:
            raise ValueError(f"{len(found)} cosines for {count} blocks: give one a block")
        return found


def _of_choice(choice: float | tuple[float, ...]) -> tuple[float, ...]:
    return choice if isinstance(choice, tuple) else (choice,)


def check_per_class(search: SearchConfig, shared: SharedConfig) -> None:
    """Raises ValueError for what a search per class does not have."""
    instead = {
        "num_searches": (1, "has only one of each class"),
        "fitness_noise": (0.0, "is judged on several images instead"),
        "least_cosine": (None, "has SharedConfig.cosines instead"),
    }
    for name, (neutral, reason) in instead.items():
        if (value := getattr(search, name)) != neutral:
            raise ValueError(f"{name} is {value}: a search per_class {reason}; set it to {neutral}")
    if shared.fresh_images is None:
        return
    if search.strategy != PAPERS_STRATEGY:
        raise ValueError(
            f"fresh_images is {shared.fresh_images}: with the strategy {search.strategy!r}, which "
            "keeps the fitness of earlier generations, it must be None"
        )
    if search.stop_probability < 1:
        raise ValueError(
            f"fresh_images is {shared.fresh_images}: with a stop_probability below 1, for which "
            "other images may have been good enough, it must be None"
        )
