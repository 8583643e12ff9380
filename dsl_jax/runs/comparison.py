"""The test split, read once, when all is trained (SPEC section 5); and what it took to train."""

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.learning.evaluation import evaluate
from dsl_jax.learning.probes import linear_probe
from dsl_jax.progress import progress_bar
from dsl_jax.runs.folder import RunFolder, find_targets, search_seconds
from dsl_jax.runs.steps import Training, needed, searches, trainings
from dsl_jax.runs.untrained import search_network


def evaluate_all(
    record: RunFolder, dataset: Dataset, seeds: range, probes: bool, progress: bool
) -> dict[str, Any]:
    """Test accuracy of what is compared; which SGD that is, validation has decided.

    With `probes` that of linear classifiers as well.

    Raises:
      ValueError: something is not trained yet.
    """
    config = record.config
    chosen = compared(record, seeds)
    bar = progress_bar(
        len(chosen) * len(seeds) + (1 + len(seeds) if probes else 0),
        unit="network",
        description="evaluation",
        show=progress,
    )
    results = {}
    for training, is_best in chosen:
        rows = []
        for seed in seeds:
            validation = _finished(record, seed, training)["validation_accuracy"]
            network = record.network(f"seed_{seed}/{training.name}")
            statistics = training.config.evaluation_statistics
            test = evaluate(network, dataset, "test", statistics=statistics)
            rows.append((test.accuracy, test.loss, validation))
            bar.update()
        results[training.name] = {
            "kind": training.kind,
            "role": training.role,
            "variant": training.variant,
            "groups": training.groups,
            "cycle": training.cycle,
            "best_by_validation": is_best,
            **_columns(rows),
            **_cost(record, seeds, training),
        }
    if probes:
        results |= evaluate_probes(config, dataset, seeds, bar)
    bar.close()
    _log(record, seeds, results)
    return results


def compared(record: RunFolder, seeds: range) -> list[tuple[Training, bool]]:
    """What is evaluated on the test split, and whether it is the best SGD by validation.

    All but those SGDs that have neither the learner's G nor the G that is best by validation.
    """
    everything = trainings(record.config)
    chosen = [(training, False) for training in everything if training.role != "baseline"]
    baselines = [training for training in everything if training.role == "baseline"]
    if baselines:

        def validation(training):
            """As the best epoch is chosen: higher accuracy, between equals the lower loss."""
            done = [_finished(record, seed, training) for seed in seeds]
            best = [[e for e in one["history"] if e.get("best_so_far")][-1] for one in done]
            accuracy, loss = (
                float(np.mean([epoch[f"validation_{name}"] for epoch in best]))
                for name in ("accuracy", "loss")
            )
            return accuracy, -loss

        best = max((t for t in baselines if t.kind == "sgd"), key=validation)
        kept = [t for t in baselines if t == best or t.groups == record.config.learner_groups]
        chosen += [(training, training == best) for training in kept]
    return chosen


def evaluate_probes(config: RunConfig, dataset: Dataset, seeds: range, bar: Any) -> dict[str, Any]:
    """What a linear classifier does without a trained body: on pixels, on the untrained network."""
    bodies = [search_network(config, dataset, seed) for seed in seeds]
    results = {}
    for name, networks in (("linear_on_pixels", [None]), ("head_on_untrained_network", bodies)):
        rows, started = [], time.monotonic()
        for network in networks:
            rows.append(linear_probe(dataset, network))
            bar.update()
        seconds = time.monotonic() - started
        results[name] = {"groups": None, **_columns(rows), "seconds": seconds}
    return results


def _finished(record: RunFolder, seed: int, training: Training) -> dict[str, Any]:
    result = record.finished(f"seed_{seed}/{training.name}")
    if result is None:
        raise ValueError(
            f"{training.name} of seed {seed} is not trained yet in {record.folder}: "
            "run --stage=learn (or all) first"
        )
    return result


def _columns(rows: Sequence[tuple]) -> dict[str, Any]:
    accuracy, loss, validation = zip(*rows, strict=True)
    return {"test_accuracy": accuracy, "test_loss": loss, "validation_accuracy": validation}


def _cost(record: RunFolder, seeds: range, training: Training) -> dict[str, Any]:
    """What led to a network, all seeds together, with the searches and trainings that it needs."""
    candidates, search_time, training_time = 0, 0.0, 0.0
    for seed, step in itertools.product(seeds, needed(record.config, training)):
        if isinstance(step, Training):
            training_time += _finished(record, seed, step)["seconds"]
        elif store := find_targets(record.folder, seed, step.name):
            candidates += store.candidates
            search_time += search_seconds(record.folder, seed, step.name)
    return {"seconds": training_time, "candidates": candidates, "search_seconds": search_time}


def _log(record: RunFolder, seeds: range, results: dict[str, Any]) -> None:
    """Searches and results into the run's metrics."""
    for seed, search in itertools.product(seeds, searches(record.config)):
        if store := find_targets(record.folder, seed, search.name):
            record.log(
                {
                    "search": f"seed_{seed}",
                    "targets": search.name,
                    "seconds": search_seconds(record.folder, seed, search.name),
                    "fitness": [float(np.mean(layer[:, -1])) for layer in store.fitness()],
                }
            )
    for name, result in results.items():
        record.log({"result": name, **result})
