"""What a run does for each of its seeds, in order: searches, and trainings on what they found.

The first cycle is the paper's: one search of an untrained network, one training a variant. Each
later cycle searches the network that the cycle before has trained, and trains it further. Beside
the cycles stand their controls: two leave one thing of each cycle out, two train a network anew for
as long as all cycles together, in one schedule; and those of the targets, which learn something
else in their place (see `targets.controls`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from dsl_jax.config import (
    CycleConfig,
    LearnConfig,
    RunConfig,
    SamplerConfig,
    SearchConfig,
    SharedConfig,
)

FIRST_TARGETS = "targets"
PER_CLASS = "targets_per_class"
COSINE = "_cosine_"  # in names, before one that is chosen from several


class Search(NamedTuple):
    """A search, kept in the folder `name`.

    network: the training whose network is searched; None: the untrained one.
    chosen: which images; None: all.
    shuffled: whether it is for labels that are dealt out anew among the images.
    shared: how it is shared by the images of a class; None: it is one for each image.
    first: so many of the images alone, the first ones; None: all.
    """

    name: str
    config: SearchConfig
    cycle: int = 1
    network: str | None = None
    chosen: CycleConfig | None = None
    shuffled: bool = False
    shared: SharedConfig | None = None
    first: int | None = None


class Training(NamedTuple):
    """A network to train, kept in the folder `name`.

    kind: "cycle" (the method), one of `config.CONTROLS` or `config.TARGET_CONTROLS`, or "sgd".
    variant, groups: how, and its ConvGroups a block.
    targets: the searches that it learns from; of an image's targets it takes those of the last.
    shuffled: the search for shuffled labels that gives it the blocks' targets, if one does.
    start: the training whose network it goes on from; None: a new network.
    shared: that of its search.
    sampler: how a sampler learns from its search, which makes the targets; None: there is none.
    """

    name: str
    kind: str
    variant: str
    groups: int
    config: LearnConfig
    targets: tuple[str, ...] = ()
    start: str | None = None
    cycle: int = 1
    shuffled: str | None = None
    shared: SharedConfig | None = None
    sampler: SamplerConfig | None = None

    @property
    def role(self) -> str:
        """Whether it is the "method", a "control" of it or a "baseline"."""
        if self.variant == "sgd":
            return "baseline"
        return "method" if self.kind == "cycle" else "control"


def is_searched(config: RunConfig) -> bool:
    """Whether a run needs a search: not for SGD alone."""
    return any(variant != "sgd" for variant in config.variants)


def is_per_class(targets: str) -> bool:
    """Whether a search of this name is one per class."""
    return targets.startswith(PER_CLASS)


def steps(config: RunConfig) -> list[Search | Training]:
    """All that is done for one seed; each needs only what comes before it."""
    searched = [variant for variant in config.variants if variant != "sgd"]
    found: list[Search | Training] = []
    for search, end in _first_searches(config) if searched else ():
        found += [search, *_shuffled(config, search)]
        for variant in searched:
            sampler = config.sampler if config.searched == "sampler" else None
            made = {"shared": search.shared, "sampler": sampler}
            method = _learner(config, variant, "cycle", variant, (search.name,), **made)
            learners = [method, *_target_controls(config, method)]
            found += [learner._replace(name=learner.name + end) for learner in learners]
    if "sgd" in config.variants:
        groups = sorted({config.learner_groups, *config.sgd_groups})
        found += [Training(f"sgd_g{g}", "sgd", "sgd", g, config.sgd) for g in groups]
    if config.cycles > 1:
        for variant in searched:
            found += _later_cycles(config, variant)
        if "sgd" in config.variants and "long_sgd" in config.controls:
            g, long = config.learner_groups, _as_long(config, config.sgd)
            found.append(Training(f"sgd_g{g}_long", "long_sgd", "sgd", g, long))
    return found


def trainings(config: RunConfig) -> list[Training]:
    """All networks that a seed trains."""
    return [step for step in steps(config) if isinstance(step, Training)]


def searches(config: RunConfig) -> list[Search]:
    """All searches of a seed."""
    return [step for step in steps(config) if isinstance(step, Search)]


def needed(config: RunConfig, training: Training) -> list[Search | Training]:
    """All steps that a training needs, in order, itself the last."""
    wanted = {training.name}
    found: list[Search | Training] = []
    for step in reversed(steps(config)):
        if step.name in wanted:
            found.append(step)
            wanted |= needs_of(step)
    return found[::-1]


def needs_of(step: Search | Training) -> set[str]:
    """The names of the steps whose results a step uses."""
    if isinstance(step, Search):
        names: tuple[str | None, ...] = (step.network,)
    else:
        names = (step.start, step.shuffled, *step.targets)
    return {name for name in names if name is not None}


def later_cycle(config: RunConfig, cycle: int) -> CycleConfig:
    """How a cycle after the first searches."""
    return config.later_cycles[min(cycle - 2, len(config.later_cycles) - 1)]


def _learner(
    config: RunConfig, name: str, kind: str, variant: str, targets: tuple[str, ...], **rest: Any
) -> Training:
    learn = dataclasses.replace(config.learn, variant=variant)
    return Training(name, kind, variant, config.learner_groups, learn, targets, **rest)


def _first_searches(config: RunConfig) -> list[tuple[Search, str]]:
    """The search of the untrained network, or one for each cosine to choose from; and how the names
    of the trainings on it end."""
    if config.searched == "per_image":
        return [(Search(FIRST_TARGETS, config.search), "")]
    if config.searched == "sampler":
        return [(Search(FIRST_TARGETS, config.search, first=config.sampler.images), "")]
    ways = {f"{COSINE}{cosines}": shared for cosines, shared in config.shared.ways.items()}
    ways = ways or {"": config.shared}
    return [
        (Search(PER_CLASS + end, config.search, shared=shared), end) for end, shared in ways.items()
    ]


def _shuffled(config: RunConfig, search: Search) -> list[Search]:
    """The same search for shuffled labels, if a control needs it."""
    if "shuffled_labels" not in config.target_controls:
        return []
    return [search._replace(name=f"{search.name}_shuffled_labels", shuffled=True)]


def _target_controls(config: RunConfig, method: Training) -> list[Training]:
    """The same training on what each control makes of its targets."""
    found = [
        method._replace(name=f"{method.name}_{kind}", kind=kind) for kind in config.target_controls
    ]
    shuffled = f"{method.targets[-1]}_shuffled_labels"
    return [t._replace(shuffled=shuffled) if t.kind == "shuffled_labels" else t for t in found]


def _later_cycles(config: RunConfig, variant: str) -> list[Search | Training]:
    """The cycles of a variant from the second on, then their controls."""
    found = _chain(config, variant, "cycle", lambda search: search)
    targets = next(step.targets for step in reversed(found) if isinstance(step, Training))
    if "first_targets" in config.controls:
        found += _chain(config, variant, "first_targets", None)
    if "natural_targets" in config.controls:
        found += _chain(config, variant, "natural_targets", without_search)
    if "fresh_network" in config.controls:
        fresh = _learner(config, f"{variant}_fresh_network", "fresh_network", variant, targets)
        found.append(fresh._replace(config=_as_long(config, fresh.config), cycle=config.cycles))
    return found


def _chain(
    config: RunConfig,
    variant: str,
    kind: str,
    change: Callable[[SearchConfig], SearchConfig] | None,
) -> list[Search | Training]:
    """A training a cycle, each going on from the one before.

    change: what becomes of each cycle's search, of the network before; None: there is none, and
    the first targets are learned again.
    """
    found: list[Search | Training] = []
    targets: tuple[str, ...] = (FIRST_TARGETS,)
    network = variant
    for cycle in range(2, config.cycles + 1):
        name, later = f"{variant}_{kind}_{cycle}", later_cycle(config, cycle)
        if change is not None:
            search = Search(f"targets_{name}", change(later.search), cycle, network, later)
            found.append(search)
            found += _shuffled(config, search) if kind == "cycle" else []
            targets = (*targets, search.name)
        learner = _learner(config, name, kind, variant, targets, start=network, cycle=cycle)
        found.append(learner)
        found += _target_controls(config, learner) if kind == "cycle" else []
        network = name
    return found


def without_search(config: SearchConfig) -> SearchConfig:
    """A search that leaves what the network makes of the clean image, and evolves the logits."""
    *hidden, logits = config.layers
    hidden = [dataclasses.replace(layer, generations=0) for layer in hidden]
    layers = (*hidden, logits)
    return dataclasses.replace(config, layers=layers, initial_noise=0.0, num_searches=1)


def _as_long(config: RunConfig, learn: LearnConfig) -> LearnConfig:
    """Training for as many epochs as all cycles together, in one schedule."""
    epochs, stem_epochs = (config.cycles * n for n in (learn.epochs, learn.stem_bias_epochs))
    return dataclasses.replace(learn, epochs=epochs, stem_bias_epochs=stem_epochs)
