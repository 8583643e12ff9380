"""Configuration: frozen dataclasses, and the way to plain data and back.

Every class is a pytree, so that a config passes through `jit` and `vmap` as part of the program;
only the strengths of a search are its leaves, so that others do not compile again. Building one
checks its values; a bad one raises `ValueError` that names it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax

from dsl_jax.keys import check_seed
from dsl_jax.names import name_of
from dsl_jax.values import a_share, at_least, check_types, one_of

PAPERS_STRATEGY = "representation_ga"
PAPERS_FITNESS = "log_probability"
SMOOTHINGS = ("noise", "child", "noise_rescaled")
TARGETS = ("best", "parent_mean")
MATCHINGS = ("raw", "normalized")
REPRESENTATIONS = ("post_gelu", "pre_gelu")
EVALUATION_STATISTICS = ("train", "batch")
VARIANTS = ("all_layers", "skip_block_0", "sgd")
IMAGES_TO_SEARCH = ("all", "wrong", "unsure")
CONTROLS = ("first_targets", "natural_targets", "fresh_network", "long_sgd")
TARGET_CONTROLS = (
    "permuted",
    "class_means",
    "natural",
    "class_displacement",
    "channel_code",
    "element_code",
    "class_part",
    "shuffled_labels",
)
PRESETS = ("smoke", "laptop", "paper")


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
          a probability, and what comes in with it is left alone; 1: it never stops.
      num_searches: independent searches of an image, whose mean, layer by layer, is the target.
      noise_truncation: share of the smoothed noise's variance that may be left out, for speed.
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

    def __post_init__(self) -> None:
        for name in ("strategy", "fitness"):
            object.__setattr__(self, name, name_of(name, getattr(self, name)))
        check_types(self)
        if not self.layers:
            raise ValueError("layers is empty: give one LayerSchedule for each stage")
        at_least(0, self, "num_explorers", "num_refiners", "initial_noise", "noise_truncation")
        at_least(1, self, "num_parents", "num_children", "num_searches")
        if self.noise_truncation >= 1:
            raise ValueError(f"noise_truncation is {self.noise_truncation}: it must be below 1")
        a_share(self, "stop_probability")
        one_of("smoothing", self.smoothing, SMOOTHINGS)
        one_of("target", self.target, TARGETS)
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
        """Candidates that are evaluated for one image, over all layers."""
        first, *rest = (layer.generations for layer in self.layers)
        initial = self.population_size * (1 + sum(1 for g in rest if g))
        return self.num_searches * (initial + self.num_children * (first + sum(rest)))


@jax.tree_util.register_static
@dataclass(frozen=True)
class LearnConfig:
    """Training, for searched targets and for SGD alike (paper 4.2 and A.3).

    Attributes:
      batch_size: images of a batch, about: see `batches.exact_batch_size`.
      batch_multiple: a batch holds a multiple of so many images, so that as many devices share it
          equally.
      learning_rate: peak, for a loss that is a mean over the batch.
      weight_decay: times the weights (not the biases), added to their gradient.
      bias_rate_factor: BatchNorm biases learn this much faster.
      initial_rate_fraction, warmup_fraction, final_rate_fraction: the rate rises linearly from
          this share of its peak, over this share of the steps, then falls to this share.
      stem_bias_epochs: the stem's bias is trained for so many epochs.
      head_weight: lambda, the weight of the head's loss (searched targets only).
      variant: "all_layers", or "skip_block_0" (no target for block 0; searched targets only).
      matching: compare targets with "raw" activations, or with "normalized" ones.
      augment, flip, crop_padding: random crops after padding, mirror images where flip is True.
      evaluation_statistics: BatchNorm in evaluation: "train", re-estimated over the training
          images, or "batch", those of the evaluation batch (the paper's).
      statistics_images: number of training images that give the statistics during training.
      validate_every: epochs between two validations; the last epoch is always validated.
    """

    epochs: int = 90
    batch_size: int = 2000
    batch_multiple: int = 1
    learning_rate: float = 1.0
    momentum: float = 0.85
    weight_decay: float = 0.0
    bias_rate_factor: float = 1.0
    initial_rate_fraction: float = 0.2
    warmup_fraction: float = 0.23
    final_rate_fraction: float = 0.07
    stem_bias_epochs: int = 3
    head_weight: float = 0.03
    variant: str = "all_layers"
    matching: str = "raw"
    augment: bool = False
    flip: bool = False
    crop_padding: int = 2
    evaluation_statistics: str = "train"
    statistics_images: int = 2000
    validate_every: int = 1

    def __post_init__(self) -> None:
        check_types(self)
        at_least(1, self, "epochs", "batch_size", "batch_multiple")
        at_least(1, self, "statistics_images", "validate_every")
        at_least(0, self, "learning_rate", "momentum", "weight_decay", "bias_rate_factor")
        at_least(0, self, "initial_rate_fraction", "warmup_fraction", "final_rate_fraction")
        at_least(0, self, "stem_bias_epochs", "head_weight", "crop_padding")
        if self.warmup_fraction > 1 or self.final_rate_fraction > 1 or self.momentum >= 1:
            raise ValueError(
                f"warmup_fraction {self.warmup_fraction} and final_rate_fraction "
                f"{self.final_rate_fraction} must be at most 1, momentum {self.momentum} below 1"
            )
        one_of("variant", self.variant, VARIANTS[:2])
        one_of("matching", self.matching, MATCHINGS)
        one_of("evaluation_statistics", self.evaluation_statistics, EVALUATION_STATISTICS)


@jax.tree_util.register_static
@dataclass(frozen=True)
class CycleConfig:
    """A cycle after the first: the trained network is searched, and learns from what is found.

    Attributes:
      search: the search; gentler than the first, since the network's own representations are good.
      images: which images are searched: "all", those that the network gets "wrong", or those of
          which it is "unsure", giving the true class a probability below `confidence`. An image
          that is not searched keeps its last target.
      confidence: see `images`.
      share: of these images only so large a part, drawn at random, is searched.
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    images: str = "all"
    confidence: float = 0.9
    share: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        one_of("images", self.images, IMAGES_TO_SEARCH)
        a_share(self, "confidence", "share")


@jax.tree_util.register_static
@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is made of, from the data to the seeds.

    Attributes:
      name: the preset that it began with.
      dataset: the data's name: one of `data.catalogue`, or any for one's own.
      num_train: training images, before the validation images are taken from them; None: all.
      validation_size: images held out for validation; None: 8 % of the training images.
      widths, normalize_blocks, representation, norm_epsilon: the network (see `ConvNet`); the
          search network has one ConvGroup a block.
      learner_groups: ConvGroups a block in the network that learns, G.
      sgd_groups: the G with which the SGD baseline is run; the best by validation is reported
          beside the one at learner_groups.
      search, learn, sgd: the search, learning from its targets, and the baseline's training.
      variants: what is trained: "all_layers", "skip_block_0", "sgd".
      cycles: how many times is searched and learned; 1 is the paper's method.
      later_cycles: the second, third, ... cycle; the last of them also stands for all further ones.
      controls: what later cycles are compared with: as many epochs on the "first_targets"; the
          trained network's own representations as "natural_targets"; a "fresh_network" trained for
          as many epochs on the last targets; "long_sgd", SGD for as many epochs.
      target_controls: what is also learned in place of each cycle's targets, to tell what these
          carry: those of another image of the class ("permuted"); "class_means"; the "natural"
          representations; these moved, as far as the search did, by the class's mean displacement
          ("class_displacement"), by the class's mean of what targets have besides their natural
          part ("class_part"), by a random "channel_code" or "element_code" of the class; targets
          searched for "shuffled_labels" (see `targets.controls`).
      chunk_size: images searched in one call on a device; None: chosen from the memory.
    """

    name: str
    dataset: str
    num_train: int | None = None
    validation_size: int | None = None
    widths: tuple[int, ...] = (256, 256, 256)
    normalize_blocks: bool = False
    representation: str = "post_gelu"
    norm_epsilon: float = 1e-5
    learner_groups: int = 3
    sgd_groups: tuple[int, ...] = (1, 2, 3)
    search: SearchConfig = field(default_factory=SearchConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    sgd: LearnConfig = field(default_factory=LearnConfig)
    variants: tuple[str, ...] = VARIANTS
    cycles: int = 1
    later_cycles: tuple[CycleConfig, ...] = (CycleConfig(),)
    controls: tuple[str, ...] = CONTROLS
    target_controls: tuple[str, ...] = ()
    num_seeds: int = 1
    seed: int = 0
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        one_of("preset", self.name, PRESETS)
        if not self.widths or not self.variants:
            raise ValueError("widths and variants must not be empty")
        at_least(1, self, "learner_groups", "num_seeds", "num_train", "validation_size")
        at_least(1, self, "chunk_size", "widths", "sgd_groups", "cycles")
        at_least(0, self, "seed", "norm_epsilon")
        check_seed(self.seeds[-1])
        for variant in self.variants:
            one_of("variant", variant, VARIANTS)
        if "sgd" in self.variants and not self.sgd_groups:
            raise ValueError("sgd_groups is empty, but the variant sgd is asked for")
        one_of("representation", self.representation, REPRESENTATIONS)
        for control in self.controls:
            one_of("control", control, CONTROLS)
        for control in self.target_controls:
            one_of("target control", control, TARGET_CONTROLS)
        if self.target_controls:
            self._check_target_controls()
        if not self.later_cycles:
            raise ValueError("later_cycles is empty: give one CycleConfig, used if cycles > 1")
        searches = {"search": self.search}
        for number, cycle in enumerate(self.later_cycles if self.cycles > 1 else ()):
            searches[f"later_cycles[{number}].search"] = cycle.search
        for name, search in searches.items():
            if len(search.layers) != len(self.widths) + 1:
                raise ValueError(
                    f"{name}.layers has {len(search.layers)} schedules: {len(self.widths)} "
                    f"widths need {len(self.widths) + 1}, one a block and one for the logits"
                )

    def _check_target_controls(self) -> None:
        """Raises ValueError where there are no targets to control, or not of all images."""
        if self.variants == ("sgd",):
            raise ValueError("target_controls are set, but variants has no searched targets")
        for number, cycle in enumerate(self.later_cycles if self.cycles > 1 else ()):
            if cycle.images != "all" or cycle.share < 1:
                raise ValueError(
                    f"target_controls are set, but later_cycles[{number}] searches only some "
                    "images anew: controls of such targets are not defined"
                )

    @property
    def seeds(self) -> range:
        """The seeds that are run."""
        return range(self.seed, self.seed + self.num_seeds)


# --------------------------------------------------------------------------------------------
# Plain data
# --------------------------------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, lists, numbers and strings, for JSON."""
    return dataclasses.asdict(config, dict_factory=_plain_fields)


def _plain_fields(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of a config as a dict; a strength may be an array of one number."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in fields}


def search_from_dict(values: dict[str, Any]) -> SearchConfig:
    """The `SearchConfig` that `to_dict` wrote, also after a way through JSON."""
    layers = tuple(LayerSchedule(**layer) for layer in values["layers"])
    return SearchConfig(**{**values, "layers": layers})


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The `RunConfig` that `to_dict` wrote, also after a way through JSON."""
    lists = {k: tuple(v) for k, v in values.items() if isinstance(v, (list, tuple))}
    later = [
        {**cycle, "search": search_from_dict(cycle["search"])}
        for cycle in lists.get("later_cycles", ())
    ]
    if later:
        lists["later_cycles"] = tuple(CycleConfig(**cycle) for cycle in later)
    return RunConfig(
        **{
            **values,
            **lists,
            "search": search_from_dict(values["search"]),
            "learn": LearnConfig(**values["learn"]),
            "sgd": LearnConfig(**values["sgd"]),
        }
    )
