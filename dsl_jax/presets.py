"""The presets: smoke (CI), laptop (2 cores, 20 minutes), paper (its values, an accelerator).

What was tried, and why these values: docs/choices.md.
"""

import dataclasses

import jax

from dsl_jax.config import (
    COMPUTE_DTYPES,
    PRESETS,
    CycleConfig,
    LayerSchedule,
    LearnConfig,
    RunConfig,
    SearchConfig,
)
from dsl_jax.data import catalogue
from dsl_jax.data.dataset import Dataset, split_sizes
from dsl_jax.values import one_of


def get_preset(name: str, dataset: str | Dataset) -> RunConfig:
    """The preset `name` ("smoke", "laptop" or "paper") for a dataset.

    Args:
      name: the preset's.
      dataset: a name, or data of one's own. These are taken as they are (`num_train` and
        `validation_size` are None), by as many blocks as their images are large enough for, and
        are trained on for at least as many steps as the preset usually takes, at a rate of at
        most 1.

    Raises:
      ValueError: either name is unknown; the message lists those that there are.
    """
    one_of("preset", name, PRESETS)
    make = {"smoke": _smoke, "laptop": _laptop, "paper": _paper}[name]
    if isinstance(dataset, Dataset):
        return _suited(make(dataset.name, dataset.image_shape[-1] == 1), dataset)
    facts = catalogue.facts(dataset)
    config = make(dataset, facts.is_grey)
    if config.num_train is None:
        return config
    return dataclasses.replace(config, num_train=min(config.num_train, facts.train_images))


def with_augmentation(config: RunConfig) -> RunConfig:
    """The preset with augmented training.

    Mirror images only where they are known to keep their class, which of one's own data they are
    not: set `flip` in both trainings.
    """
    facts = catalogue.CATALOGUE.get(config.dataset)
    flip = facts is not None and facts.may_mirror
    return dataclasses.replace(
        config,
        learn=dataclasses.replace(config.learn, augment=True, flip=flip),
        sgd=dataclasses.replace(config.sgd, augment=True, flip=flip),
    )


def with_compute_dtype(config: RunConfig, dtype: str = "auto") -> RunConfig:
    """The preset with its searches, and the learning of targets, in "float32" or "bfloat16".

    "auto": bfloat16 where JAX has an accelerator (docs/on_a_gpu.md: what it does to accuracy). SGD
    stays as it is.

    Raises:
      ValueError: the dtype is unknown.
    """
    one_of("compute_dtype", dtype, ("auto", *COMPUTE_DTYPES))
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"

    def search(config: SearchConfig) -> SearchConfig:
        return dataclasses.replace(config, compute_dtype=dtype)

    return dataclasses.replace(
        config,
        search=search(config.search),
        later_cycles=tuple(
            dataclasses.replace(cycle, search=search(cycle.search)) for cycle in config.later_cycles
        ),
        learn=dataclasses.replace(config.learn, compute_dtype=dtype),
    )


# --------------------------------------------------------------------------------------------
# Data of one's own
# --------------------------------------------------------------------------------------------

STEPS_AN_EPOCH = 4  # at least, where there are so many images
HIGHEST_RATE = 1.0  # for searched targets; measured: docs/your_own_data.md


def _suited(config: RunConfig, dataset: Dataset) -> RunConfig:
    """A preset for data of its name, as it suits them."""
    images = len(dataset.train.images)
    known = catalogue.facts("mnist" if dataset.image_shape[-1] == 1 else "cifar10").train_images
    taken, held_out = split_sizes(dataset.name, known, config.num_train, config.validation_size)
    later = [
        dataclasses.replace(cycle, search=_for_blocks(cycle.search, dataset))
        for cycle in config.later_cycles
    ]
    return dataclasses.replace(
        config,
        num_train=None,
        validation_size=None,
        widths=config.widths[: _num_blocks(dataset)],
        search=_for_blocks(config.search, dataset),
        later_cycles=tuple(later),
        learn=dataclasses.replace(
            _as_many_steps(config.learn, images, taken - held_out),
            learning_rate=min(config.learn.learning_rate, HIGHEST_RATE),
        ),
        sgd=_as_many_steps(config.sgd, images, taken - held_out),
    )


def _num_blocks(dataset: Dataset) -> int:
    """As many as halve the images, minus a row for the stem, to no less than 2x2; 1 to 3."""
    smaller_side = min(dataset.image_shape[:2]) - 1
    return max(1, min(3, smaller_side.bit_length() - 2))


def _for_blocks(search: SearchConfig, dataset: Dataset) -> SearchConfig:
    """The schedules of so many blocks, and the logits'."""
    *blocks, logits = search.layers
    return dataclasses.replace(search, layers=(*blocks[: _num_blocks(dataset)], logits))


def _as_many_steps(learn: LearnConfig, images: int, usual: int) -> LearnConfig:
    """Training on few images for as many steps as on the usual number, in more epochs."""
    batch_size = min(learn.batch_size, max(1, images // STEPS_AN_EPOCH))
    longer = max(1.0, (usual // learn.batch_size) / max(1, images // batch_size))
    return dataclasses.replace(
        learn,
        batch_size=batch_size,
        epochs=round(longer * learn.epochs),
        stem_bias_epochs=round(longer * learn.stem_bias_epochs),
        validate_every=round(longer * learn.validate_every),
    )


# --------------------------------------------------------------------------------------------
# The presets
# --------------------------------------------------------------------------------------------


def _layers(
    generations: tuple[int, ...],
    strengths: tuple[float, ...],
    boosts: tuple[float, ...] = (5.0, 3.0, 3.0, 1.0),
    passes: tuple[int, ...] = (5, 1, 1, 0),
) -> tuple[LayerSchedule, ...]:
    return tuple(map(LayerSchedule, generations, strengths, boosts, passes))


def _gentler(search: SearchConfig, generations: int | None = None) -> CycleConfig:
    """A later cycle: the same search at strength 0.1 and boost 2, from the clean image.

    A trained network may not bear the noise on the image that an untrained one does
    (docs/cycles_log.md). generations: of each block; None: the search's.
    """
    *blocks, logits = (
        dataclasses.replace(layer, mutation_strength=0.1, exploration_boost=boost)
        for layer, boost in zip(search.layers, (2.0, 2.0, 2.0, 1.0), strict=True)
    )
    if generations is not None:
        blocks = [dataclasses.replace(block, generations=generations) for block in blocks]
    layers = (*blocks, logits)
    return CycleConfig(dataclasses.replace(search, layers=layers, initial_noise=0.0))


def _small_search(
    generations: tuple[int, ...],
    num_parents: int,
    num_explorers: int,
    num_refiners: int,
    strengths: tuple[float, ...] = (0.3, 0.2, 0.1, 0.1),
) -> SearchConfig:
    return SearchConfig(
        layers=_layers(generations, strengths),
        num_parents=num_parents,
        num_explorers=num_explorers,
        num_refiners=num_refiners,
        smoothing="noise_rescaled",
        target="parent_mean",
    )


def _smoke(dataset: str, is_grey: bool) -> RunConfig:
    search = _small_search((10, 5, 5, 5), 8, 16, 24)
    return RunConfig(
        name="smoke",
        dataset=dataset,
        num_train=440,
        validation_size=40,
        widths=(16, 16, 16),
        normalize_blocks=True,
        learner_groups=1,
        sgd_groups=(1,),
        search=search,
        later_cycles=(_gentler(search),),
        learn=LearnConfig(epochs=10, batch_size=50, learning_rate=2.0, bias_rate_factor=16.0),
        sgd=LearnConfig(epochs=10, batch_size=50, learning_rate=0.05),
    )


def _laptop(dataset: str, is_grey: bool) -> RunConfig:
    # Measured for colour: docs/choices.md.
    if is_grey:
        strengths, rate, decay = (0.3, 0.2, 0.1, 0.1), 4.0, 0.0
    else:
        strengths, rate, decay = (0.6, 0.4, 0.2, 0.2), 2.0, 0.0001
    search = _small_search((20, 10, 10, 10), 12, 34, 42, strengths)
    return RunConfig(
        name="laptop",
        dataset=dataset,
        num_train=8000 if is_grey else 6000,
        widths=(32, 32, 32),
        normalize_blocks=True,
        learner_groups=2,
        search=search,
        later_cycles=(_gentler(search, 5),),  # measured: docs/cycles_log.md
        learn=LearnConfig(
            epochs=10,
            batch_size=100,
            learning_rate=rate,
            weight_decay=decay,
            bias_rate_factor=16.0,
        ),
        sgd=LearnConfig(epochs=10, batch_size=100, learning_rate=0.1),
    )


def _paper(dataset: str, is_grey: bool) -> RunConfig:
    strengths = (0.1, 0.1, 0.1, 0.1) if is_grey else (0.3, 0.2, 0.1, 0.1)
    # What the paper leaves open is airbench's: its decay of 0.0153 and its rate of 4.0, in units of
    # the mean loss 0.0153 / 4.0 and 1.0; SGD's biases 64 times as fast. Without normalised blocks
    # the learner's biases kill its units (docs/choices.md), so they stay at 0.
    # 8 devices share a batch; 46,000 and 55,200 images make the batches that they make without.
    learn = LearnConfig(
        epochs=1000 if is_grey else 90,
        batch_multiple=8,
        weight_decay=0.0038,
        bias_rate_factor=0.0,
    )
    search = SearchConfig(layers=_layers((300, 100, 100, 10), strengths))
    return RunConfig(
        name="paper",
        dataset=dataset,
        learner_groups=2 if is_grey else 3,
        search=search,
        later_cycles=(_gentler(search),),
        learn=learn,
        sgd=dataclasses.replace(learn, bias_rate_factor=64.0),
        num_seeds=3,
    )
