"""What learned representations are like, epoch by epoch: figures 5, 6 and 7 of the paper.

    python experiments/representations.py --dataset=cifar10

Networks learn from searched targets and by SGD. Before the first and after every epoch, for each
layer: the cosine distance of the network's representations of the validation images to what a
search finds for these images (figure 5; logits as they are, though those searched have a mean of
zero), and their collision entropy within and between classes (figures 6 and 7). At the end: linear
CKA between the trained networks and the untrained one, of one seed and of different seeds. No test
image is read.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    num_train        of which validation_size are held out (2500)
    validation_size  (500)
    num_seeds        (2)

With --dataset=mnist the command took 22 minutes on 2 CPU cores, another job beside it: in layer 1
the cosine distance falls from 0.89 to 0.51, and rises to 0.93 with SGD (docs/reproduction.md).
"""

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, sweep_points, sweep_rows, sweeps

from dsl_jax import measures, pipeline
from dsl_jax.config import RunConfig
from dsl_jax.learning.evaluation import representations_of, with_training_statistics
from dsl_jax.runs import steps, untrained
from dsl_jax.runs.data import keep_identity
from dsl_jax.runs.folder import RunFolder

MOST_IMAGES = 1000  # measured at most, for the memory of the Gram matrices


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept: seeds."""


SCALES = {
    "smoke": Settings(num_seeds=2),
    "laptop": Settings(num_train=2500, validation_size=500, num_seeds=2),
    "paper": Settings(num_seeds=2),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point a seed, then one for the alignment of all their networks."""
    config = dataclasses.replace(config, sgd_groups=(config.learner_groups,))
    points = []
    for seed in config.seeds:
        one = dataclasses.replace(config, seed=seed, num_seeds=1)
        point = sweep_points.run_point(f"seed_{seed}", {"seed": seed}, one)
        points.append(sweep_points.with_validation_search(point, MOST_IMAGES))
    name = f"alignment-{config.seed}-{config.num_seeds}"  # more seeds come with another one
    after = tuple(point.name for point in points)
    points.append(sweeps.Point(name, {"seed": None}, config, seconds=10.0, after=after))

    def measure(point, dataset, folder):
        if point.columns["seed"] is None:
            return alignment_rows(point.config, dataset, folder.parent)
        return epoch_rows(point.config, dataset, folder)

    return sweeps.Sweep(points, measure, draw, table)


def epoch_rows(config: RunConfig, dataset, folder) -> sweep_rows.Rows:
    """Searches and trains; a row for every training, epoch and layer, or one with its failure."""
    run_folder, seed = RunFolder(folder, config), config.seed
    keep_identity(run_folder.folder, dataset)
    (search,) = steps.searches(config)
    pipeline.search_targets(run_folder, dataset, seed, search, repair=False, progress=True)
    split, searched = sweep_points.search_validation(config, dataset, seed, MOST_IMAGES)

    def measure_network(network):
        values = {}
        for layer, reps in enumerate(representations_of(network, dataset, split)):
            distance, within, between = measure_layer(
                reps, searched[layer], split.labels, dataset.num_classes
            )
            values[f"cosine_distance_{layer}"] = float(distance)
            values[f"within_class_entropy_{layer}"] = float(within)
            values[f"between_class_entropy_{layer}"] = float(between)
        return values

    rows = []
    start = measure_network(untrained_network(config, dataset, seed))  # that of all trainings
    for training in steps.trainings(config):
        try:
            pipeline.train(run_folder, dataset, seed, training, True, measure=measure_network)
        except FloatingPointError as error:
            rows.append({"training": training.name, "failure": str(error)})
            continue
        history = run_folder.finished(f"seed_{seed}/{training.name}").history
        for epoch in [{"epoch": 0, **start}, *history]:
            for layer in range(len(searched)):
                row = {"training": training.name, "epoch": epoch["epoch"], "layer": layer}
                row |= {name: epoch.get(f"{name}_{layer}") for name in QUANTITIES}
                rows.append(row)
    return rows


def untrained_network(config: RunConfig, dataset, seed):
    """The network with which a seed's trainings begin, its statistics measured."""
    network = untrained.make_network(config, dataset, seed, config.learner_groups)
    few = np.arange(min(len(dataset.train.images), config.learn.statistics_images))
    return with_training_statistics(network, dataset, few)


QUANTITIES = {
    "cosine_distance": "cosine distance to\nthe searched targets",
    "within_class_entropy": "collision entropy\nwithin a class, nats",
    "between_class_entropy": "collision entropy\nbetween classes, nats",
}


@partial(jax.jit, static_argnames="classes")
def measure_layer(reps, targets, labels, classes):
    """Mean cosine distance, entropy within and between classes of one layer [n, ...]."""
    return (
        measures.cosine_distance(reps, targets).mean(),
        measures.within_class_entropy(reps, labels, classes),
        measures.between_class_entropy(reps, labels, classes),
    )


def alignment_rows(config: RunConfig, dataset, points) -> sweep_rows.Rows:
    """Linear CKA of every two trained networks, a row a pair and layer."""
    split = sweep_points.first_rows(dataset.validation, MOST_IMAGES)
    outputs = {}
    for seed in config.seeds:
        start = untrained_network(config, dataset, seed)
        outputs["untrained", seed] = representations_of(start, dataset, split)
        run_folder = RunFolder(
            points / f"seed_{seed}", dataclasses.replace(config, seed=seed, num_seeds=1)
        )
        for training in steps.trainings(config):
            if run_folder.finished(f"seed_{seed}/{training.name}") is not None:  # not diverged
                network = run_folder.network(f"seed_{seed}/{training.name}")
                outputs[training.name, seed] = representations_of(network, dataset, split)
    rows = []
    for (first, second), layer in itertools.product(
        itertools.combinations(outputs, 2), range(len(config.search.layers))
    ):
        cka = measures.linear_cka(outputs[first][layer], outputs[second][layer])
        pair = sorted([first[0], second[0]])  # of two seeds, either may have either
        rows.append(
            {
                "pair": " and ".join(map(sweep_rows.training_name, pair)),
                "first_seed": first[1],
                "second_seed": second[1],
                "seeds": "one seed" if first[1] == second[1] else "two seeds",
                "layer": layer,
                "linear_cka": float(cka),
            }
        )
    return rows


def draw(rows: sweep_rows.Rows):
    """A figure a quantity, a panel a layer, a line a method."""
    figures = {}
    epochs = [row for row in rows if row["seed"] is not None]
    for quantity, label in QUANTITIES.items():
        panels = [
            curves.Panel(
                {
                    sweep_rows.training_name(training): sweep_rows.curve(
                        sweep_rows.select(epochs, training=training, layer=layer), "epoch", quantity
                    )
                    for training in sweep_rows.values_of(epochs, "training")
                },
                "epoch",
                label,
                sweep_rows.layer_name(layer),
            )
            for layer in sweep_rows.values_of(epochs, "layer")
        ]
        caption = (
            f"{label.replace(chr(10), ' ')}: validation images of {epochs[0]['dataset']}, "
            f"{sweep_rows.seeds_note(epochs)}."
        )
        figures[quantity] = (curves.plot_curves(panels), caption[0].upper() + caption[1:])
    return figures


def table(rows: sweep_rows.Rows) -> str:
    """The quantities before and after learning, and the alignment of networks."""
    epochs = [row for row in sweep_rows.ended(rows) if row["seed"] is not None]
    lines = []
    for training, layer in dict.fromkeys((row["training"], row["layer"]) for row in epochs):
        of_this = sweep_rows.select(epochs, training=training, layer=layer)
        for epoch in (0, max(row["epoch"] for row in of_this)):
            chosen = sweep_rows.select(of_this, epoch=epoch)
            means = [float(np.mean([row[name] for row in chosen])) for name in QUANTITIES]
            name = sweep_rows.training_name(training)
            lines.append([name, sweep_rows.layer_name(layer), epoch, *means])
    failed = [row for row in rows if row.get("failure")]
    for training in sweep_rows.values_of(failed, "training"):
        note = sweep_rows.failed_note(sweep_rows.select(failed, training=training))
        lines.append([sweep_rows.training_name(training), note, "", *[""] * len(QUANTITIES)])
    header = ["method", "layer", "epoch", *(q.replace("\n", " ") for q in QUANTITIES.values())]
    pairs = [row for row in sweep_rows.ended(rows) if row["seed"] is None]
    layers, alignment = sweep_rows.values_of(pairs, "layer"), []
    for pair, seeds in dict.fromkeys((row["pair"], row["seeds"]) for row in pairs):
        chosen = [sweep_rows.select(pairs, pair=pair, seeds=seeds, layer=layer) for layer in layers]
        means = [float(np.mean([row["linear_cka"] for row in group])) for group in chosen]
        alignment.append([pair, seeds, *means])
    return (
        sweep_rows.markdown(header, lines)
        + "\n\nLinear CKA of two networks' representations of the validation images (of the best "
        "epoch), by layer. It is not corrected for the few images, so it is high where there are "
        "many features; the untrained networks show how high before any learning.\n\n"
        + sweep_rows.markdown(["networks", "seeds", *map(sweep_rows.layer_name, layers)], alignment)
    )


def run_all() -> None:
    """The sweep, as the command line says."""
    sweeps.run(
        "representations", SCALES, define, fixed=("sgd_groups", "target_controls", "searched")
    )


if __name__ == "__main__":
    command_line.start(run_all)
