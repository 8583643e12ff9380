"""Configuration of a whole run, and of its later cycles."""

from dataclasses import dataclass, field

import jax

from dsl_jax.config.learning import VARIANTS, LearnConfig, skipped_block
from dsl_jax.config.search import SamplerConfig, SearchConfig, SharedConfig, check_per_class
from dsl_jax.keys import check_seed
from dsl_jax.values import a_share, at_least, check_types, one_of

REPRESENTATIONS = ("post_gelu", "pre_gelu")
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
SEARCHES = ("per_image", "per_class", "sampler")
# What a search can be compared with, where it is not per image.
CONTROLS_OF = {
    "per_class": ("channel_code", "element_code"),
    "sampler": ("class_part", "channel_code", "element_code"),
}
PRESETS = ("smoke", "laptop", "paper")


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
      searched: a search "per_image", the paper's method; one "per_class" (`evolution.shared`); or
          that of some images, from which a "sampler" learns (`targets.sampling`).
      shared: how a search per class is shared.
      sampler: how a sampler learns.
      variants: what is trained: "all_layers", "skip_block_0" (or another block), "sgd".
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
    searched: str = "per_image"
    shared: SharedConfig = field(default_factory=SharedConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
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
            if variant != "sgd" and (skipped_block(variant) or 0) >= len(self.widths):
                raise ValueError(
                    f"the variant {variant} is of a block that is not there: there are "
                    f"{len(self.widths)}, numbered from 0"
                )
        for what in ("variants", "target_controls", "controls"):
            if len({*(given := getattr(self, what))}) < len(given):
                raise ValueError(f"{what} are {given}: give each once")
        if self.learn.variant != "all_layers":
            raise ValueError(
                f"learn.variant is {self.learn.variant!r}, which a run does not use: set "
                "--variants, in Python variants, instead"
            )
        if self.sgd.variant != "all_layers":
            raise ValueError(f"sgd.variant is {self.sgd.variant!r}: SGD learns from no targets")
        if "sgd" in self.variants and not self.sgd_groups:
            raise ValueError("sgd_groups is empty, but the variant sgd is asked for")
        one_of("representation", self.representation, REPRESENTATIONS)
        for control in self.controls:
            one_of("control", control, CONTROLS)
        for control in self.target_controls:
            one_of("target control", control, TARGET_CONTROLS)
        one_of("search", self.searched, SEARCHES)
        if self.searched != "per_image":
            self._check_once_for_many()
        elif self.target_controls:
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

    def _check_once_for_many(self) -> None:
        """Raises ValueError for what a search per class, or a sampler, does not have."""
        if self.cycles > 1:
            raise ValueError(f"cycles is {self.cycles}: the search {self.searched} has only one")
        for control in self.target_controls:
            what = f"target control of the search {self.searched}"
            one_of(what, control, CONTROLS_OF[self.searched])
        self._check_has_targets()
        if self.searched == "per_class":
            for shared in (self.shared, *self.shared.ways.values()):
                shared.of_blocks(len(self.widths))
            check_per_class(self.search, self.shared)

    def _check_has_targets(self) -> None:
        if self.target_controls and self.variants == ("sgd",):
            raise ValueError("target_controls are set, but variants has no searched targets")

    def _check_target_controls(self) -> None:
        """Raises ValueError where there are no targets to control, or not of all images."""
        self._check_has_targets()
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
