"""What a run does for each of its seeds, in order: searches, and trainings on what they found.

The first cycle is the paper's: one search of an untrained network, one training a variant. Each
later cycle searches the network that the cycle before has trained, and trains it further. Beside
the cycles stand their controls, which leave one thing out each.
"""

import dataclasses
from typing import NamedTuple

from dsl_jax.config import CycleConfig, LearnConfig, Preset, SearchConfig

FIRST_TARGETS = "targets"


class Search(NamedTuple):
    """A search, kept in the folder `name`.

    network: the training whose network is searched; None: the untrained one.
    chosen: which images; None: all.
    """

    name: str
    config: SearchConfig
    cycle: int = 1
    network: str | None = None
    chosen: CycleConfig | None = None


class Training(NamedTuple):
    """A network to train, kept in the folder `name`.

    variant, groups: how, and its ConvGroups a block.
    targets: the searches that it learns from; of an image's targets it takes those of the last.
    start: the training whose network it goes on from; None: a new network.
    role: "method", a "control", or a "baseline".
    """

    name: str
    variant: str
    groups: int
    config: LearnConfig
    targets: tuple[str, ...] = ()
    start: str | None = None
    cycle: int = 1
    role: str = "method"


def is_searched(config: Preset) -> bool:
    """Whether a run needs a search: not for SGD alone."""
    return any(variant != "sgd" for variant in config.variants)


def steps(config: Preset) -> list[Search | Training]:
    """All that is done for one seed; each needs only what comes before it."""
    searched = [variant for variant in config.variants if variant != "sgd"]
    found: list[Search | Training] = []
    if searched:
        found.append(Search(FIRST_TARGETS, config.search))
    found += [_learner(config, v, v, (FIRST_TARGETS,)) for v in searched]
    if "sgd" in config.variants:
        groups = sorted({config.learner_groups, *config.sgd_groups})
        found += [Training(f"sgd_g{g}", "sgd", g, config.sgd, role="baseline") for g in groups]
    if config.cycles > 1:
        for variant in searched:
            found += _later_cycles(config, variant)
        if "sgd" in config.variants and "long_sgd" in config.controls:
            g, long = config.learner_groups, _as_long(config, config.sgd)
            found.append(Training(f"sgd_g{g}_long", "sgd", g, long, role="baseline"))
    return found


def trainings(config: Preset) -> list[Training]:
    """All networks that a seed trains."""
    return [step for step in steps(config) if isinstance(step, Training)]


def searches(config: Preset) -> list[Search]:
    """All searches of a seed."""
    return [step for step in steps(config) if isinstance(step, Search)]


def needed(config: Preset, training: Training) -> list[Search | Training]:
    """All steps that a training needs, in order, itself the last."""
    wanted, found = {training.name}, []
    for step in reversed(steps(config)):
        if step.name in wanted:
            found.append(step)
            is_search = isinstance(step, Search)
            wanted |= {step.network} if is_search else {step.start, *step.targets}
    return found[::-1]


def later_cycle(config: Preset, cycle: int) -> CycleConfig:
    """How a cycle after the first searches."""
    return config.later_cycles[min(cycle - 2, len(config.later_cycles) - 1)]


def _learner(config: Preset, name: str, variant: str, targets: tuple[str, ...], **rest) -> Training:
    learn = dataclasses.replace(config.learn, variant=variant)
    return Training(name, variant, config.learner_groups, learn, targets, **rest)


def _later_cycles(config: Preset, variant: str) -> list[Search | Training]:
    """The cycles of a variant from the second on, then their controls."""
    found: list[Search | Training] = []
    targets: tuple[str, ...] = (FIRST_TARGETS,)
    network = variant
    for cycle in range(2, config.cycles + 1):
        name, later = f"{variant}_cycle_{cycle}", later_cycle(config, cycle)
        search = Search(f"targets_{name}", later.search, cycle, network, later)
        targets = (*targets, search.name)
        found += [search, _learner(config, name, variant, targets, start=network, cycle=cycle)]
        network = name

    if "first_targets" in config.controls:
        network = variant
        for cycle in range(2, config.cycles + 1):
            name = f"{variant}_first_targets_{cycle}"
            rest = {"start": network, "cycle": cycle, "role": "control"}
            found.append(_learner(config, name, variant, (FIRST_TARGETS,), **rest))
            network = name
    if "natural_targets" in config.controls:
        network, natural = variant, (FIRST_TARGETS,)
        for cycle in range(2, config.cycles + 1):
            name, later = f"{variant}_natural_targets_{cycle}", later_cycle(config, cycle)
            search = Search(f"targets_{name}", without_search(later.search), cycle, network, later)
            natural = (*natural, search.name)
            rest = {"start": network, "cycle": cycle, "role": "control"}
            found += [search, _learner(config, name, variant, natural, **rest)]
            network = name
    if "fresh_network" in config.controls:
        fresh = _learner(config, f"{variant}_fresh_network", variant, targets, role="control")
        found.append(fresh._replace(config=_as_long(config, fresh.config), cycle=config.cycles))
    return found


def without_search(config: SearchConfig) -> SearchConfig:
    """A search that leaves what the network makes of the clean image, and evolves the logits."""
    *hidden, logits = config.layers
    hidden = [dataclasses.replace(layer, generations=0) for layer in hidden]
    layers = (*hidden, logits)
    return dataclasses.replace(config, layers=layers, initial_noise=0.0, num_searches=1)


def _as_long(config: Preset, learn: LearnConfig) -> LearnConfig:
    """Training for as many epochs as all cycles together, in one schedule."""
    epochs, stem_epochs = (config.cycles * n for n in (learn.epochs, learn.stem_bias_epochs))
    return dataclasses.replace(learn, epochs=epochs, stem_bias_epochs=stem_epochs)
