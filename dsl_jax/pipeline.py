"""The whole method: search representations, learn them, compare with SGD (paper 3 and 4)."""

import dataclasses
import os
import platform
import time
import uuid
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.tree_util import Partial

from dsl_jax.batches import exact_batch_size
from dsl_jax.config import LearnConfig, Preset, one_of
from dsl_jax.datasets import Dataset, load_dataset
from dsl_jax.devices import device_mesh
from dsl_jax.evaluation import evaluate
from dsl_jax.learning import Measure, learn, learn_sgd
from dsl_jax.network import WHITENING_IMAGES, ConvNet
from dsl_jax.probes import linear_probe
from dsl_jax.progress import progress_bar
from dsl_jax.runs import Run, load_network, search_seconds
from dsl_jax.stages import STATISTICS_IMAGES, frozen_stages
from dsl_jax.targets import TargetStore, search_to_store

STAGES = ("all", "search", "learn", "report")

# What a key is for: folded into the seed's key, so that no two purposes share random numbers.
SEARCH_NETWORK, STATISTICS, SEARCH, LEARNER, TRAINING = range(5)


def run(
    config: Preset,
    folder: str | os.PathLike,
    dataset: Dataset | None = None,
    *,
    requested: str | None = None,
    stage: str = "all",
    repair: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs the method and keeps everything in `folder`; goes on where it was interrupted.

    For each seed: an untrained network becomes stages; every training image's representations are
    searched; learners are trained on them, and the same network by SGD. The test split is read
    once, when all are trained. Where this process has several devices, they share the work.

    Args:
      config: what to run.
      folder: the run's folder.
      dataset: the data; None: loaded as the configuration says.
      requested: the dataset that was asked for, where this one took its place.
      stage: "search" or "learn": only that; "report": evaluate what is trained; "all".
      repair: search damaged chunks of the targets again.
      progress: show bars.

    Returns:
      The results by name of training (empty after "search" and "learn"): groups, and a
      test_accuracy, test_loss and validation_accuracy a seed.

    Raises:
      ValueError: the folder holds another run, or what a stage needs is not there.
    """
    one_of("stage", stage, STAGES)
    record = Run(folder, config, requested)
    if (results := record.read("results")) is not None:
        return results
    if dataset is None:
        sizes = {"num_train": config.num_train, "validation_size": config.validation_size}
        dataset = load_dataset(config.dataset, **sizes)
    seeds = range(config.seed, config.seed + config.num_seeds)
    for seed in seeds:
        if stage in ("all", "search") and is_searched(config):
            stages = make_stages(config, dataset, seed)
            search_targets(record, dataset, seed, stages, repair, progress)
        if stage in ("all", "learn"):
            targets = open_targets(record, seed)
            for training in trainings(config):
                train(record, dataset, seed, training, targets, progress)
    if stage in ("search", "learn"):
        return {}
    results = evaluate_all(record, dataset, seeds, progress)
    record.write("results", results)
    return results


# --------------------------------------------------------------------------------------------
# Search
# --------------------------------------------------------------------------------------------


def is_searched(config: Preset) -> bool:
    """Whether a run needs a search: not for SGD alone."""
    return any(variant != "sgd" for variant in config.variants)


def open_targets(record: Run, seed: int) -> TargetStore | None:
    """The targets of a seed, None in a run of SGD alone."""
    if not is_searched(record.config):
        return None
    return TargetStore.open(record.folder / f"seed_{seed}" / "targets")


def purpose_key(seed: int, purpose: int) -> jax.Array:
    """The key of a seed for one purpose."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def make_network(
    config: Preset, dataset: Dataset, seed: int, groups: int, purpose: int = LEARNER
) -> ConvNet:
    """An untrained, whitened network with `groups` ConvGroups a block."""
    key = jax.random.fold_in(purpose_key(seed, purpose), groups)
    network = ConvNet(**network_arguments(config, dataset, groups), rngs=nnx.Rngs(params=key))
    network.whiten(dataset.normalize(dataset.train.images[:WHITENING_IMAGES]))
    return network


def search_network(config: Preset, dataset: Dataset, seed: int) -> ConvNet:
    """The untrained network that is searched: one ConvGroup a block (paper 3.1)."""
    return make_network(config, dataset, seed, 1, SEARCH_NETWORK)


def network_arguments(config: Preset, dataset: Dataset, groups: int) -> dict[str, Any]:
    """What `ConvNet` is built with, but for the random numbers; plain data."""
    return {
        "image_shape": dataset.image_shape,
        "num_classes": dataset.num_classes,
        "widths": config.widths,
        "groups": groups,
        "normalize_blocks": config.normalize_blocks,
        "representation": config.representation,
        "norm_epsilon": config.norm_epsilon,
    }


def make_stages(config: Preset, dataset: Dataset, seed: int) -> tuple[Partial, ...]:
    """The untrained network as stages, its statistics measured on candidates (SPEC section 2)."""
    network = search_network(config, dataset, seed)
    images = dataset.normalize(dataset.train.images[:STATISTICS_IMAGES])
    return frozen_stages(network, images, config.search, key=purpose_key(seed, STATISTICS))


def search_targets(
    record: Run, dataset: Dataset, seed: int, stages: Any, repair: bool, progress: bool
) -> TargetStore:
    """Searches the training images that are not yet in the seed's store."""
    process, started = f"{platform.node()}-{uuid.uuid4().hex[:8]}", time.monotonic()

    def note_seconds(_):
        record.note_search(seed, process, time.monotonic() - started)

    return search_to_store(
        record.folder / f"seed_{seed}" / "targets",
        purpose_key(seed, SEARCH),
        stages,
        dataset.train.images,
        dataset.train.labels,
        record.config.search,
        dataset=dataset.name,
        ids=dataset.train.ids,
        chunk_size=record.config.chunk_size,
        mesh=device_mesh(),
        preprocess=dataset.normalize,
        progress=progress,
        repair=repair,
        on_chunk=note_seconds,
    )


# --------------------------------------------------------------------------------------------
# Learning
# --------------------------------------------------------------------------------------------


class Training(NamedTuple):
    """One network to train: how, and its number of ConvGroups a block."""

    variant: str
    groups: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"sgd_g{self.groups}" if self.variant == "sgd" else self.variant

    def config(self, preset: Preset) -> LearnConfig:
        """How the preset trains it."""
        if self.variant == "sgd":
            return preset.sgd
        return dataclasses.replace(preset.learn, variant=self.variant)


def trainings(config: Preset) -> list[Training]:
    """All that a seed trains: the variants, and SGD with each number of groups."""
    found = [Training(v, config.learner_groups) for v in config.variants if v != "sgd"]
    if "sgd" in config.variants:
        found += [Training("sgd", g) for g in sorted({config.learner_groups, *config.sgd_groups})]
    return found


def train(
    record: Run,
    dataset: Dataset,
    seed: int,
    training: Training,
    targets: TargetStore | None,
    progress: bool,
    measure: Measure | None = None,
) -> None:
    """Trains one network, unless it is trained, and keeps it with its history."""
    config, name = record.config, f"seed_{seed}/{training.name}"
    if record.finished(name) is not None:
        return
    key = purpose_key(seed, TRAINING)
    network = make_network(config, dataset, seed, training.groups)
    learn_config = training.config(config)
    batch_size, multiple = learn_config.batch_size, learn_config.batch_multiple
    options = {
        "mesh": device_mesh(exact_batch_size(len(dataset.train.images), batch_size, multiple)),
        "checkpoints": record.checkpoints(name),
        "measure": measure,
        "progress": f"{training.name} (G={training.groups})" if progress else None,
    }
    if training.variant == "sgd":
        learned = learn_sgd(key, network, dataset, learn_config, **options)
    else:
        learned = learn(key, network, dataset, targets, learn_config, **options)
    best = [epoch for epoch in learned.history if epoch.get("best_so_far")][-1]
    result = {
        **training._asdict(),
        "network": network_arguments(config, dataset, training.groups),
        "best_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "images_left_out": len(dataset.train.images) - best["images"],
        "seconds": sum(epoch["seconds"] for epoch in learned.history),
        "history": learned.history,
    }
    record.finish(name, learned.network, result)


# --------------------------------------------------------------------------------------------
# Evaluation, once, at the end
# --------------------------------------------------------------------------------------------


def evaluate_all(record: Run, dataset: Dataset, seeds: range, progress: bool) -> dict[str, Any]:
    """Test accuracy of what is compared; which SGD that is, validation has decided.

    Raises:
      ValueError: something is not trained yet.
    """
    config = record.config
    chosen = compared(record, seeds)
    bar = progress_bar(
        len(chosen) * len(seeds) + 1 + len(seeds),
        unit="network",
        description="evaluation",
        show=progress,
    )
    results = {}
    for training, is_best in chosen:
        statistics = training.config(config).evaluation_statistics
        rows = []
        for seed in seeds:
            result = _finished(record, seed, training)
            network = load_network(
                record.folder / f"seed_{seed}" / training.name, result["network"]
            )
            test = evaluate(network, dataset, "test", statistics=statistics)
            rows.append(
                (test.accuracy, test.loss, result["validation_accuracy"], result["seconds"])
            )
            bar.update()
        results[training.name] = _columns(training.groups, rows)
        results[training.name]["best_by_validation"] = is_best
    results |= evaluate_probes(config, dataset, seeds, bar)
    bar.close()
    for seed in seeds if is_searched(config) else ():
        fitness = open_targets(record, seed).fitness()
        final = [float(np.mean(layer[:, -1])) for layer in fitness]
        record.log(
            {
                "search": f"seed_{seed}",
                "seconds": search_seconds(record.folder, seed),
                "fitness": final,
            }
        )
    for name, result in results.items():
        record.log({"result": name, **result})
    return results


def compared(record: Run, seeds: range) -> list[tuple[Training, bool]]:
    """What is evaluated on the test split, and whether it is the best SGD by validation.

    The searched variants, SGD at the same G, and SGD at the G that is best by validation.
    """
    everything = trainings(record.config)
    chosen = [(training, False) for training in everything if training.variant != "sgd"]
    baselines = [training for training in everything if training.variant == "sgd"]
    if baselines:

        def validation(training):
            scores = [_finished(record, seed, training)["validation_accuracy"] for seed in seeds]
            return float(np.mean(scores))

        paired = Training("sgd", record.config.learner_groups)
        best = max(baselines, key=validation)
        chosen += [(training, training == best) for training in dict.fromkeys((paired, best))]
    return chosen


def evaluate_probes(config: Preset, dataset: Dataset, seeds: range, bar: Any) -> dict[str, Any]:
    """What a linear classifier does without a trained body: on pixels, on the untrained network."""
    bodies = [search_network(config, dataset, seed) for seed in seeds]
    results = {}
    for name, networks in (("linear_on_pixels", [None]), ("head_on_untrained_network", bodies)):
        rows = []
        for network in networks:
            started = time.monotonic()
            score = linear_probe(dataset, network)
            rows.append((*score, time.monotonic() - started))
            bar.update()
        results[name] = _columns(None, rows)
    return results


def _finished(record: Run, seed: int, training: Training) -> dict[str, Any]:
    result = record.finished(f"seed_{seed}/{training.name}")
    if result is None:
        raise ValueError(
            f"{training.name} of seed {seed} is not trained yet in {record.folder}: "
            "run --stage=learn (or all) first"
        )
    return result


def _columns(groups: int | None, rows: list[tuple]) -> dict[str, Any]:
    accuracy, loss, validation, seconds = zip(*rows, strict=True)
    return {
        "groups": groups,
        "test_accuracy": accuracy,
        "test_loss": loss,
        "validation_accuracy": validation,
        "seconds": sum(seconds),
    }
