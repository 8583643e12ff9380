"""What a report says of a run's search: fitness, a few targets, what they carry, its size."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dsl_jax.config import PAPERS_FITNESS, RunConfig
from dsl_jax.data.dataset import Dataset, rows_of
from dsl_jax.devices import Array
from dsl_jax.evolution.fitness import Stages
from dsl_jax.reports import pictures, plots
from dsl_jax.reports.carried import carried_table
from dsl_jax.reports.pages import Table
from dsl_jax.reports.titles import of_first_seed
from dsl_jax.runs.classes import targets_per_class
from dsl_jax.runs.controlled import naturals_of
from dsl_jax.runs.folder import find_targets
from dsl_jax.runs.sampled import unexplained
from dsl_jax.runs.steps import Training, searches, trainings
from dsl_jax.runs.untrained import make_stages
from dsl_jax.targets.decomposition import decompose

GALLERY_IMAGES = 3


class AboutSearch(NamedTuple):
    """Parts of a report: figures with their captions by name, tables, (label, value) pairs."""

    figures: dict[str, tuple[Any, str]]
    tables: tuple[Table, ...]
    summary: tuple[tuple[str, str], ...]


def about_search(
    config: RunConfig, folder: Path, dataset: Dataset, best: str | None
) -> AboutSearch:
    """Of the first seed's first search; the number of candidates is that of all.

    best: the training whose search it is, where there are several for several cosines.
    """
    methods = [step for step in trainings(config) if step.role == "method" and step.cycle == 1]
    step = next((step for step in methods if step.name == best), methods[0])
    stages = make_stages(config, dataset, config.seed)
    kept: Any = find_targets(folder, config.seed, step.targets[0])
    searched = slice(None) if step.shared else rows_of(dataset.train.ids, kept.ids)
    _, rows = np.unique(dataset.train.labels[searched], return_index=True)
    rows = np.arange(len(dataset.train.labels))[searched][np.sort(rows)[:GALLERY_IMAGES]]
    images = jnp.asarray(dataset.normalize(dataset.train.images[rows]))
    if step.shared is None:
        targets: Sequence[Array] = kept.read(
            rows_of(kept.ids, dataset.train.ids[rows])
        ).representations
        unit, note = "image", ""
    else:
        shared = targets_per_class(config, folder, stages, config.seed, step)
        targets = shared.of(images, jnp.asarray(dataset.train.labels[rows]))
        unit, note = "class", ", a class's mean over its images"
    measure = _fitness_of(config)
    if config.search.fitness == PAPERS_FITNESS:
        measure += " of the true label, nats"
    figures = {
        "fitness": (
            plots.plot_fitness(kept.fitness(), unit=unit, measure=measure),
            f"Search: the best candidate's fitness in each generation, layer after layer{note}"
            f"{of_first_seed(config)}.",
        ),
        "representations": (
            _gallery(stages, dataset, rows, images, targets),
            "Natural representations of the untrained network beside the searched ones; in the "
            "logits the true class is orange.",
        ),
    }
    tables: tuple[Table, ...] = ()
    if step.shared is None:
        naturals, labels = naturals_of(stages, dataset, kept)
        shares = decompose(kept, naturals, labels, dataset.num_classes)
        tables = (carried_table(shares),)
        figures["shares"] = (
            plots.plot_shares(shares),
            f"{tables[0].heading}, block by block{of_first_seed(config)}.",
        )
    if step.sampler is not None:
        tables = (*tables, *_sampler_table(folder, config.seed))
    return AboutSearch(figures, tables, _summary(config, folder, kept.fitness(), step))


def _sampler_table(folder: Path, seed: int) -> tuple[Table, ...]:
    """What a sampler leaves unexplained of the targets of images that it did not learn from."""
    lines = tuple(
        (f"block {block}", f"{shares[0]:.1%}", f"{min(shares):.1%}")
        for block, shares in enumerate(unexplained(folder, seed))
    )
    note = (
        "Share of the variance of held-out targets that is not predicted: from the natural "
        "representation and the class alone, and by the sampler in its best epoch on these images."
    )
    header = ("targets of", "class alone", "sampler")
    return (Table("What the sampler predicts", header, lines, note),) if lines else ()


def _fitness_of(config: RunConfig) -> str:
    """What the fitness is called."""
    fitness = config.search.fitness
    return "log-likelihood" if fitness == PAPERS_FITNESS else f"fitness {fitness}"


def _summary(
    config: RunConfig, folder: Path, fitness: Sequence[Array], step: Training
) -> tuple[tuple[str, str], ...]:
    """What was searched in all, and how fit the first search's targets are."""
    pairs = itertools.product(config.seeds, searches(config))
    stores = [find_targets(folder, seed, search.name) for seed, search in pairs]
    candidates = sum(store.candidates for store in stores if store is not None)
    final = ", ".join(f"{float(np.mean(f[:, -1])):.3f}" for f in fitness)
    shared: tuple[tuple[str, str], ...] = ()
    if step.sampler is not None:
        how = f"of {step.sampler.images:,} images at most, from which a sampler has learned"
        shared = (("search", how),)
    if step.shared is not None:
        how = f"per class, on {step.shared.images_per_class} images of each"
        if step.shared.clusters > 1:
            how += f" in {step.shared.clusters} clusters"
        if count := step.shared.fresh_images:
            how += f", {count} drawn anew in each generation"
        cosines = ", ".join(f"{c:g}" for c in step.shared.of_blocks(len(config.widths)))
        shared = (
            ("search", how),
            ("cosine of a block's targets and their natural representations", cosines),
        )
    return (
        *shared,
        ("candidates", f"{candidates:,}"),
        (f"{_fitness_of(config)} after each layer, first search", final),
    )


def _gallery(
    stages: Stages,
    dataset: Dataset,
    rows: np.ndarray,
    images: Array,
    targets: Sequence[Array],
) -> Any:
    """A few training images of different classes: their natural representations, and targets."""
    natural, h = [], images
    for stage in stages:
        h = stage(h)
        natural.append(np.asarray(h))
    return pictures.plot_representations(
        dataset.train.images[rows],
        natural,
        [np.asarray(r, np.float32) for r in targets],
        labels=dataset.train.labels[rows],
        class_names=dataset.class_titles,
    )
