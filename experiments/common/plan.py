"""What a run will cost: candidates, time and disk, before anything is computed.

The time is an estimate: a model of the work, with factors measured once on a CPU,
scaled by how fast this machine does a short piece of the same kind of work now.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dsl_jax.config import RunConfig, SharedConfig
from dsl_jax.data import catalogue
from dsl_jax.data.dataset import split_sizes
from dsl_jax.data.load import foresee
from dsl_jax.devices import num_cores
from dsl_jax.evolution.shared import candidates_per_class
from dsl_jax.keys import philox_key
from dsl_jax.networks import convnet
from dsl_jax.runs.steps import Search, searches, trainings
from dsl_jax.targets.layout import estimated_bytes

# Seconds on the machine where the factors were measured, and what the probes took there.
SECONDS_PER_CANDIDATE = 1.5e-6
SECONDS_PER_CANDIDATE_ELEMENT = 3.1e-9
SECONDS_PER_FLOP = 1 / 44e9
NOISY_SHARE = 0.5  # of that, to evaluate a candidate once more with noise
COMPILE_SECONDS_PER_SEARCH = 20.0
COMPILE_SECONDS_PER_TRAINING = 12.0
NORMALS_PROBE_SECONDS = 3.5e-3
PRODUCT_PROBE_SECONDS = 25e-3


class Plan(NamedTuple):
    """images: those that are searched and trained on. disk_bytes: the targets of all seeds."""

    images: int
    validation_images: int
    candidates: int
    search_seconds: float
    learning_seconds: float
    disk_bytes: int


def image_counts(config: RunConfig) -> tuple[int, int]:
    """The images that a run trains on, and those for validation; nothing is read.

    Raises:
      ValueError: an unknown dataset, or numbers of images that do not fit it.
    """
    name, available = config.dataset, catalogue.facts(config.dataset).train_images
    taken, validation = split_sizes(name, available, config.num_train, config.validation_size)
    return taken - validation, validation


def for_dataset(config: RunConfig, name: str) -> RunConfig:
    """The settings on the data of a name, which may have taken others' place and be fewer."""
    if name == config.dataset:
        return config
    available = catalogue.facts(name).train_images
    size = min(config.num_train or available, available)
    return dataclasses.replace(config, dataset=name, num_train=size)


def make_plan(config: RunConfig, *, is_searched: bool = True) -> Plan:
    """The plan of a run, all seeds together; takes half a second for the probes.

    is_searched: whether its first search is its own; else another run's serves.

    Raises:
      ValueError: as `image_counts`.
    """
    images, validation = image_counts(config)
    seeds = config.num_seeds
    shapes = representation_shapes(config)

    candidates, search, disk = 0, 0.0, 0
    for step in searches(config):
        if step.network is None and not is_searched:
            continue
        searched = min(images, step.first or images)
        if step.shared is None:
            evaluated, seconds = search_cost(config, searched, step)
        else:
            evaluated, seconds = shared_search_cost(config, searched, step.shared)
        candidates, search = candidates + evaluated, search + seconds
        if step.shared is not None:
            continue
        generations = [layer.generations for layer in step.config.layers]
        disk += estimated_bytes(shapes, searched, generations)
    learning = learning_seconds(config, images, validation)
    return Plan(
        images,
        validation,
        seeds * candidates,
        seeds * search,
        seeds * learning,
        seeds * disk,
    )


def search_cost(config: RunConfig, images: int, step: Search | None = None) -> tuple[int, float]:
    """Candidates and seconds of a search of so many images, compilation included.

    step: None: the first, of the untrained network, which has no convolutions to compute. Of a
    later one as many as there can be: it may leave images out.
    """
    search = config.search if step is None else step.config
    speed, product_speed = _machine_speed()
    is_trained = step is not None and step.network is not None
    sizes = [math.prod(shape) for shape in representation_shapes(config)]
    # The untrained network's convolutions are identities.
    flops = stage_flops(config, config.learner_groups) if is_trained else [0.0] * len(sizes)
    per_image = products = 0.0
    for number, (layer, size) in enumerate(zip(search.layers, sizes, strict=True)):
        if number and not layer.generations:
            continue
        candidates = search.population_size + search.num_children * layer.generations
        each = SECONDS_PER_CANDIDATE + SECONDS_PER_CANDIDATE_ELEMENT * size
        per_image += candidates * each
        if search.fitness_noise and number < len(sizes) - 1:  # how often each is evaluated
            candidates *= search.noisy_evaluations
            per_image += candidates * each * NOISY_SHARE
        products += candidates * sum(flops[number + 1 :]) * SECONDS_PER_FLOP
    products += search.population_size * flops[0] * SECONDS_PER_FLOP
    if jax.default_backend() == "cpu":  # an image a core; the factors are of one core
        per_image /= num_cores()
    count = round(images * (step.chosen.share if step and step.chosen else 1))
    seconds = count * search.num_searches * (per_image / speed + products / product_speed)
    return count * search.candidates_per_image, COMPILE_SECONDS_PER_SEARCH + seconds


def shared_search_cost(config: RunConfig, images: int, shared: SharedConfig) -> tuple[int, float]:
    """`search_cost` of a search per class, whose candidates are tried on a few images each."""
    count = shared.clusters * catalogue.facts(config.dataset).num_classes
    searched = min(images, count * shared.images_of_a_fitness)
    return count * candidates_per_class(config.search, shared), search_cost(config, searched)[1]


def learning_seconds(config: RunConfig, images: int, validation: int) -> float:
    """Seconds of all trainings of a seed, compilation included."""
    total = 0.0
    for training in trainings(config):
        learn = training.config
        # Three forward passes' worth a step, and a forward pass for statistics and validation.
        passes = 3 * images + (min(learn.statistics_images, images) + validation)
        flops = sum(stage_flops(config, training.groups)) * passes * learn.epochs
        total += COMPILE_SECONDS_PER_TRAINING + flops * SECONDS_PER_FLOP / _machine_speed()[1]
    return total


def describe(plan: Plan, config: RunConfig, folder: str, data_dir: str | None = None) -> str:
    """The plan in a few lines."""
    cycles = "" if config.cycles == 1 else f", {config.cycles} cycles with their controls"
    search = "none"
    if plan.candidates:
        each = f"{config.search.candidates_per_image:,} an image{' at first' if cycles else ''}"
        if config.searched == "per_class":
            each = f"each on at most {config.shared.images_of_a_fitness:,} images of its class"
        elif config.searched == "sampler":
            each += f", of {min(plan.images, config.sampler.images):,} images"
        search = (
            f"{'at most ' if cycles else ''}{plan.candidates:,} candidates, {each}; "
            f"about {duration(plan.search_seconds)}"
        )
    controls = "".join(f", {name}" for name in config.target_controls)
    seeds = "" if config.num_seeds == 1 else f", {config.num_seeds} seeds"
    return "\n".join(
        [
            f"dataset     {config.dataset}: {plan.images:,} training images, "
            f"{plan.validation_images:,} for validation",
            f"data        {foresee(config.dataset, config.name, data_dir).text}",
            f"preset      {config.name}{seeds}, on {jax.devices()[0].device_kind} "
            f"({jax.default_backend()})",
            f"search      {search}",
            f"learning    {', '.join(config.variants)}{controls and ', with the controls'}"
            f"{controls.removeprefix(',')}{cycles}; "
            f"about {duration(plan.learning_seconds)}",
            f"disk        {plan.disk_bytes / 1e6:,.0f} MB of targets",
            f"folder      {folder}",
        ]
    )


def duration(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for unit, size in (("days", 86_400), ("hours", 3_600)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{max(1, round(seconds / 60))} min"


def representation_shapes(config: RunConfig) -> tuple[tuple[int, ...], ...]:
    """The shape of each searched representation of an image, the logits last."""
    facts = catalogue.facts(config.dataset)
    return convnet.representation_shapes(facts.image_shape, config.widths, facts.num_classes)


def stage_flops(config: RunConfig, groups: int) -> list[float]:
    """Floating-point operations of one image's way through each stage of the network."""
    facts = catalogue.facts(config.dataset)
    return convnet.stage_flops(facts.image_shape, config.widths, facts.num_classes, groups)


@functools.cache
def _machine_speed() -> tuple[float, float]:
    """How many times as fast as the reference normals and matrix products come here."""
    key = philox_key(jax.random.key(0))
    normals = jax.jit(lambda key: jax.random.normal(key, (2**20,)))
    product = jax.jit(lambda x: x @ x)
    square = jnp.ones((1024, 1024))
    return (
        NORMALS_PROBE_SECONDS / _shortest(lambda: normals(key)),
        PRODUCT_PROBE_SECONDS / _shortest(lambda: product(square)),
    )


def _shortest(work: Callable[[], Any], repeats: int = 5) -> float:
    jax.block_until_ready(work())  # compile
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - started)
    return min(times)
