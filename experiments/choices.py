"""Tries the options that the method leaves open, each against the same base, on validation.

    python experiments/choices.py --dataset=mnist --num_train=1500 --options=base,smoothing_child

Searches are shared between options that differ in learning alone. Prints a table and writes
choices.json into --output_dir; rows that are there already are not run again.
"""

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from dsl_jax import config as configs
from dsl_jax.config import DATASETS, PRESETS, override
from dsl_jax.datasets import load_dataset
from dsl_jax.learning import learn, learn_sgd
from dsl_jax.pipeline import SEARCH, TRAINING, make_network, make_stages, purpose_key
from dsl_jax.presets import get_preset
from dsl_jax.search import search

OPTIONS = {
    "base": {},
    # Learning alone: these share the search of base.
    "skip_block_0": {"learn.variant": "skip_block_0"},
    "groups_1": {"learner_groups": "1"},
    "groups_3": {"learner_groups": "3"},
    "head_weight_0.3": {"learn.head_weight": "0.3"},
    # Search and representation.
    "parent_mean": {"search.target": "parent_mean"},
    "smoothing_child": {"search.smoothing": "child"},
    "child_parent_mean": {"search.smoothing": "child", "search.target": "parent_mean"},
    "smoothing_rescaled": {"search.smoothing": "noise_rescaled"},
    "not_normalized": {"normalize_blocks": "False"},
    "matching_normalized": {"normalize_blocks": "False", "learn.matching": "normalized"},
    "pre_gelu": {"representation": "pre_gelu"},
    "pre_gelu_not_normalized": {"representation": "pre_gelu", "normalize_blocks": "False"},
    "twice_the_generations": {
        "search.layers[0].generations": "40",
        "search.layers[1].generations": "20",
        "search.layers[2].generations": "20",
    },
    "strength_0.1": {
        "search.layers[0].mutation_strength": "0.1",
        "search.layers[1].mutation_strength": "0.1",
    },
}

_DATASET = flags.DEFINE_enum("dataset", "mnist", DATASETS, "Dataset.")
_PRESET = flags.DEFINE_enum("preset", "laptop", PRESETS, "Preset that the options change.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of prepared tensorflow-datasets.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "runs/choices", "Where choices.json goes.")
_NUM_TRAIN = flags.DEFINE_integer("num_train", None, "Training images, with validation.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed.")
_OPTION = flags.DEFINE_list("options", list(OPTIONS), "Names of options, see the source.")
_SET = flags.DEFINE_multi_string(
    "set", [], "field=value for all; or name:field=value;... as one more option."
)
_SGD = flags.DEFINE_bool("sgd", False, "Train by SGD instead.")


def main(_):
    """Runs the options that are not in choices.json yet."""
    folder = Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "choices.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    options = {name: OPTIONS[name] for name in _OPTION.value if name}
    base = get_preset(_PRESET.value, _DATASET.value)
    if _NUM_TRAIN.value:
        base = dataclasses.replace(base, num_train=_NUM_TRAIN.value)
    for text in _SET.value:
        name, colon, rest = text.partition(":")
        if colon:
            options[name] = dict(pair.split("=", 1) for pair in rest.split(";"))
        else:
            base = override(base, dict([text.split("=", 1)]))
    dataset = load_dataset(
        base.dataset,
        data_dir=_DATA_DIR.value,
        num_train=base.num_train,
        validation_size=base.validation_size,
    )
    searches = {}
    for name, assignments in options.items():
        config = override(base, assignments)
        everything = json.dumps([configs.to_dict(config), _SGD.value], sort_keys=True)
        digest = hashlib.sha256(everything.encode()).hexdigest()[:6]
        row_name = f"{'sgd ' if _SGD.value else ''}{name} seed {_SEED.value} ({digest})"
        if row_name not in rows:
            rows[row_name] = try_option(config, dataset, _SEED.value, searches, _SGD.value)
            path.write_text(json.dumps(rows, indent=1))
        print(f"{row_name:40s}", json.dumps(rows[row_name]), flush=True)


def try_option(config, dataset, seed, searches, sgd):
    """Final fitness of each layer, validation accuracy, seconds of search and of learning."""
    row = {}
    learner = make_network(config, dataset, seed, config.learner_groups)
    key = purpose_key(seed, TRAINING)
    started = time.monotonic()
    if sgd:
        result = learn_sgd(key, learner, dataset, config.sgd)
    else:
        found_by = (config.search, config.widths, config.normalize_blocks, config.representation)
        if found_by not in searches:
            stages = make_stages(config, dataset, seed)
            images = dataset.normalize(dataset.train.images)
            searches.clear()
            searches[found_by] = jax.tree.map(
                np.asarray,
                search(
                    purpose_key(seed, SEARCH),
                    stages,
                    images,
                    dataset.train.labels,
                    config.search,
                    ids=dataset.train.ids,
                ),
            )
        targets = searches[found_by]
        row["fitness"] = [round(float(f[:, -1].mean()), 4) for f in targets.fitness]
        row["search_seconds"] = round(time.monotonic() - started, 1)
        started = time.monotonic()
        result = learn(key, learner, dataset, targets, config.learn)
    best = max(r.get("validation_accuracy", 0) for r in result.history)
    row["validation_accuracy"] = round(best, 4)
    row["last_epochs"] = [round(r.get("validation_accuracy", 0), 4) for r in result.history[-3:]]
    row["train_loss"] = round(result.history[-1]["train_loss"], 5)
    row["learn_seconds"] = round(time.monotonic() - started, 1)
    return row


if __name__ == "__main__":
    app.run(main)
