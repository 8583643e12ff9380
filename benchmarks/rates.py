"""Which learning rate suits data of one's own: the default of `get_preset(name, dataset)`.

    pip install -e '.[prepare]' && python benchmarks/rates.py --json=results/rates.json

Known images are made smaller and handed over as one's own. Each set is searched once, and learned
at every rate; what is told is the accuracy on its validation images. No test image is read.
"""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

import dsl_jax as dsl
from dsl_jax.data.dataset import Dataset
from dsl_jax.runs.untrained import make_network, make_stages

_JSON = flags.DEFINE_string("json", None, "Where the results go.")
_PRESET = flags.DEFINE_string("preset", "laptop", "The preset.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", 2500, "Training images, validation among them.")

RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
SGD_RATES = (0.025, 0.05, 0.1, 0.2)
VALIDATION_SIZE = 500
SETS = {  # the catalogue's name, and by how much the images' sides are divided
    "digits, 28x28": ("digits", 1),
    "MNIST, 14x14": ("mnist", 2),
    "CIFAR-10, 16x16": ("cifar10", 2),
}


def own_data(title: str) -> Dataset:
    """A known set's first images, smaller by means over squares; the test images are a stand-in."""
    name, factor = SETS[title]
    train = dsl.load_dataset(name, num_train=None, validation_size=1).train
    count = min(_NUM_TRAIN.value, len(train.images))
    images = train.images[:count]
    _, height, width, channels = images.shape
    squares = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    small = squares.mean((2, 4)).round().astype(np.uint8)
    pairs = small, train.labels[:count]
    unread = small[:1], train.labels[:1]
    held_out = min(VALIDATION_SIZE, count // 3)
    return Dataset.from_arrays(title, pairs, unread, num_classes=10, validation_size=held_out)


def measure(title: str) -> dict[str, dict[str, float]]:
    """Validation accuracy at each rate, of searched targets and of SGD."""
    dataset, key = own_data(title), jax.random.key(0)
    config = dsl.get_preset(_PRESET.value, dataset)
    split, stages = dataset.train, make_stages(config, dataset, 0)
    inputs = dataset.normalize(split.images)
    targets = dsl.search(key, stages, inputs, split.labels, config.search)
    network = make_network(config, dataset, 0, config.learner_groups)
    found: dict[str, dict[str, float]] = {"searched": {}, "sgd": {}}
    for rate in RATES:
        learning = dataclasses.replace(config.learn, learning_rate=rate)
        learned = dsl.learn(key, network, dataset, targets, learning)
        found["searched"][str(rate)] = learned.best_epoch["validation_accuracy"]
    for rate in SGD_RATES:
        learning = dataclasses.replace(config.sgd, learning_rate=rate)
        learned = dsl.learn_sgd(key, network, dataset, learning)
        found["sgd"][str(rate)] = learned.best_epoch["validation_accuracy"]
    return found


def main(_) -> None:
    """Prints a row a set; the file holds those that are done, and only the others are measured."""
    file = Path(_JSON.value) if _JSON.value else None
    rows = json.loads(file.read_text()) if file and file.exists() else {}
    for title in SETS:
        if title not in rows:
            rows[title] = measure(title)
            if file:
                file.write_text(json.dumps(rows, indent=1) + "\n")
        for method, accuracies in rows[title].items():
            cells = ", ".join(f"{rate}: {value:.1%}" for rate, value in accuracies.items())
            print(f"{title}, {method}: {cells}", flush=True)


if __name__ == "__main__":
    app.run(main)
