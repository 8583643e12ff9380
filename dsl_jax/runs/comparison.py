"""The test split, read once, when all is trained; and what it took to train."""

import itertools
import logging
import time
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.learning.evaluation import evaluation_and_predictions
from dsl_jax.learning.probes import MOST_IMAGES, has_two_classes, linear_probe
from dsl_jax.progress import progress_bar
from dsl_jax.runs.folder import RunFolder, find_targets, search_seconds
from dsl_jax.runs.results import Result, Trained, to_json
from dsl_jax.runs.steps import Training, needed, searches, trainings
from dsl_jax.runs.untrained import search_network

logger = logging.getLogger(__name__)


def evaluate_all(
    run_folder: RunFolder, dataset: Dataset, probes: bool, progress: bool
) -> dict[str, Result]:
    """Test accuracy of what is compared; which SGD that is, validation has decided.

    With `probes` that of linear classifiers as well.

    Raises:
      ValueError: something is not trained yet.
    """
    chosen, seeds = compared(run_folder), run_folder.config.seeds
    bar = progress_bar(
        len(chosen) * len(seeds) + (1 + len(seeds) if probes else 0),
        unit="network",
        description="evaluation",
        show=progress,
    )
    with bar:
        results = {
            training.name: evaluate_training(run_folder, dataset, training, is_best, bar)
            for training, is_best in chosen
        }
        if probes:
            results |= evaluate_probes(run_folder.config, dataset, bar)
    _log(run_folder, results)
    return results


def compared(
    run_folder: RunFolder, failed: Collection[tuple[int, str]] = ()
) -> list[tuple[Training, bool]]:
    """What is evaluated on the test split, and whether it is the best SGD by validation.

    All but those SGDs that have neither the learner's G nor the G that is best by validation, and
    of what was trained for several cosines all but the best by validation.

    failed: seeds and names of trainings that did not end. What ended for more seeds is better.
    """
    config = run_folder.config
    validation = partial(_validation, run_folder, failed)
    alike: dict[Any, list[Training]] = {}  # but for the cosine
    baselines = []
    for step in trainings(config):
        if step.role == "baseline":
            baselines.append(step)
        else:
            subject = step.name if step.shared is None else (step.variant, step.kind)
            alike.setdefault(subject, []).append(step)
    chosen = [(max(steps, key=validation), False) for steps in alike.values()]
    ended = (step for step in baselines if step.kind == "sgd" and validation(step).seeds)
    best = max(ended, key=validation, default=None)
    kept = [step for step in baselines if step == best or step.groups == config.learner_groups]
    return chosen + [(step, step == best) for step in kept]


class _Validation(NamedTuple):
    """How good a training is on validation images; of two the larger tuple is better. More seeds
    count first, then, as for the best epoch, higher accuracy and, between equals, lower loss."""

    seeds: int
    accuracy: float = 0.0
    less_loss: float = 0.0


def _validation(
    run_folder: RunFolder, failed: Collection[tuple[int, str]], training: Training
) -> _Validation:
    """Means over the seeds for which a training ended."""
    seeds = [seed for seed in run_folder.config.seeds if (seed, training.name) not in failed]
    if not seeds:
        return _Validation(0)
    best = [_finished(run_folder, seed, training).best for seed in seeds]
    accuracy, loss = (
        float(np.mean([epoch[f"validation_{name}"] for epoch in best]))
        for name in ("accuracy", "loss")
    )
    return _Validation(len(seeds), accuracy, -loss)


def evaluate_training(
    run_folder: RunFolder, dataset: Dataset, training: Training, is_best: bool, bar: Any
) -> Result:
    """The networks of all seeds on the test split, and what led to them."""
    scores = []
    for seed in run_folder.config.seeds:
        trained = _finished(run_folder, seed, training)
        network = run_folder.network(f"seed_{seed}/{training.name}")
        statistics = training.config.evaluation_statistics
        test, predictions = evaluation_and_predictions(network, dataset, dataset.test, statistics)
        scores.append((test.accuracy, test.loss, trained.validation_accuracy))
        run_folder.keep_predictions(f"seed_{seed}/{training.name}", predictions)
        bar.update()
    accuracy, loss, validation = zip(*scores, strict=True)
    seconds, candidates, searched = _cost(run_folder, training)
    return Result(
        accuracy,
        loss,
        validation,
        seconds,
        kind=training.kind,
        role=training.role,
        variant=training.variant,
        groups=training.groups,
        cycle=training.cycle,
        best_by_validation=is_best,
        candidates=candidates,
        search_seconds=searched,
    )


def evaluate_probes(config: RunConfig, dataset: Dataset, bar: Any) -> dict[str, Result]:
    """What a linear classifier does without a trained body: on pixels, on the untrained network.

    Nothing of data that it cannot learn from: no reason to lose what is trained.
    """
    if not has_two_classes(dataset):
        logger.warning(
            "linear probes are left out: the first %d training images are all of one class",
            MOST_IMAGES,
        )
        return {}
    untrained = [search_network(config, dataset, seed) for seed in config.seeds]
    results = {}
    for name, bodies in (("linear_on_pixels", [None]), ("head_on_untrained_network", untrained)):
        scores, started = [], time.monotonic()
        for body in bodies:
            scores.append(linear_probe(dataset, body))
            bar.update()
        accuracy, loss, validation = zip(*scores, strict=True)
        results[name] = Result(accuracy, loss, validation, time.monotonic() - started)
    return results


def _finished(run_folder: RunFolder, seed: int, training: Training) -> Trained:
    trained = run_folder.finished(f"seed_{seed}/{training.name}")
    if trained is None:
        raise ValueError(
            f"{training.name} of seed {seed} is not trained yet in {run_folder.folder}: "
            "run phase 'learn' first"
        )
    return trained


def _cost(run_folder: RunFolder, training: Training) -> tuple[float, int, float]:
    """Seconds of training, candidates and seconds of search of all that led to a network."""
    config, folder = run_folder.config, run_folder.folder
    candidates, search_time, training_time = 0, 0.0, 0.0
    for seed, step in itertools.product(config.seeds, needed(config, training)):
        if isinstance(step, Training):
            training_time += _finished(run_folder, seed, step).seconds
        elif store := find_targets(folder, seed, step.name):
            candidates += store.candidates
            search_time += search_seconds(folder, seed, step.name)
    return training_time, candidates, search_time


def _log(run_folder: RunFolder, results: dict[str, Result]) -> None:
    """Searches and results into the run's metrics."""
    config, folder = run_folder.config, run_folder.folder
    run_folder.forget_evaluation()  # of an interrupted one
    for seed, search in itertools.product(config.seeds, searches(config)):
        if store := find_targets(folder, seed, search.name):
            run_folder.log(
                {
                    "search": f"seed_{seed}",
                    "targets": search.name,
                    "seconds": search_seconds(folder, seed, search.name),
                    "fitness": [float(np.mean(layer[:, -1])) for layer in store.fitness()],
                }
            )
    for name, result in to_json(results).items():
        run_folder.log({"result": name, **result})
