"""A tiny search, two epochs of training and their evaluation, as arrays; makes the golden file.

    python tests/golden/make.py

writes this machine's own file (see `own_file`) beside this script. Do so only when a change of
the bits is meant, and say why in its message. Where that machine is not at hand and learning has
changed, its file keeps the searches alone.
"""

import dataclasses
import hashlib
import json
import os
import platform
from pathlib import Path

# As tests/conftest.py has it: the devices of a process share its threads, which share out products.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
from flax import nnx

import dsl_jax as dsl

FOLDER = Path(__file__).parent
LAYERS = (
    dsl.LayerSchedule(4, 0.3, 5.0, 5),
    dsl.LayerSchedule(3, 0.2, 3.0, 1),
    dsl.LayerSchedule(3, 0.1, 3.0, 1),
    dsl.LayerSchedule(3, 0.1, 1.0, 0),
)
SEARCHES = {
    "noise": {"smoothing": "noise"},
    "child": {"smoothing": "child", "stop_probability": 0.9},
    "snes": {"smoothing": "noise_rescaled", "target": "parent_mean", "strategy": "SNES"},
}
LEARN = dsl.LearnConfig(
    epochs=2, batch_size=20, weight_decay=0.001, bias_rate_factor=4.0, augment=True
)
LEARNINGS = {"all_layers": {}, "sgd": {"learning_rate": 0.05}}
NUMBERS = ("train_loss", "learning_rate", "validation_accuracy", "validation_loss")


def kind() -> dict[str, str]:
    """What decides the bits: XLA's version, and what it compiles for and shares work among."""
    vector = sorted(
        flag
        for flag in (processor("flags") or processor("Features")).split()
        if flag.startswith(("avx", "amx", "fma", "sve", "asimd"))
    )
    cores = len(os.sched_getaffinity(0))
    versions = {"jaxlib": jax.lib.__version__, "machine": platform.machine(), "cores": str(cores)}
    return versions | {"vector instructions": " ".join(vector)}


def processor(field: str) -> str:
    """What Linux says of the first processor; empty where it says nothing."""
    with open("/proc/cpuinfo") as file:
        lines = (line.partition(":") for line in file)
        return next((text.strip() for name, _, text in lines if name.strip() == field), "")


def own_file() -> Path:
    """The file of this kind of machine and its model of processor, whose caches decide in which
    order a product's terms are added."""
    model = {"model": [processor(field) for field in ("vendor_id", "cpu family", "model")]}
    return FOLDER / f"{digest(kind() | model)}.npz"


def golden_file() -> Path:
    """The machine's own file; else that of its kind, from when no kind had shown two models."""
    of_kind = FOLDER / f"{digest(kind())}.npz"
    return of_kind if of_kind.exists() and not own_file().exists() else own_file()


def digest(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def compute() -> dict[str, np.ndarray]:
    """All arrays by name."""
    dataset = dsl.load_dataset("digits", num_train=80, validation_size=20)
    images = dataset.normalize(dataset.train.images)
    arrays = {}
    for name, changes in SEARCHES.items():
        config = dsl.SearchConfig(LAYERS, num_parents=3, num_explorers=6, num_refiners=5, **changes)
        stages = dsl.frozen_stages(network(dataset, 0, 1), images, config, key=jax.random.key(1))
        few = slice(None if name == "snes" else 3)
        split = jax.tree.map(lambda array, few=few: array[few], dataset.train)
        found = dsl.search(
            jax.random.key(2), stages, images[few], split.labels, config, ids=split.ids
        )
        for layer, (h, fitness) in enumerate(zip(*found, strict=True)):
            arrays[f"search.{name}.representation_{layer}"] = h[:3]
            arrays[f"search.{name}.fitness_{layer}"] = fitness[:3]
        if name == "snes":
            targets = found
    for name, changes in LEARNINGS.items():
        arrays |= learned(name, dataset, targets, dataclasses.replace(LEARN, **changes))
    return {name: np.asarray(array) for name, array in arrays.items()}


def network(dataset: dsl.Dataset, seed: int, groups: int) -> dsl.ConvNet:
    """An untrained, whitened network."""
    made = dsl.ConvNet(
        dataset.image_shape,
        dataset.num_classes,
        widths=(4, 4, 4),
        groups=groups,
        normalize_blocks=True,
        rngs=nnx.Rngs(seed),
    )
    made.whiten(dataset.normalize(dataset.train.images))
    return made


def learned(name, dataset, targets, config) -> dict[str, np.ndarray]:
    """History, parameters and evaluation of a training of two epochs."""
    learner = network(dataset, 1, 2)
    if name == "sgd":
        result = dsl.learn_sgd(jax.random.key(3), learner, dataset, config)
    else:
        result = dsl.learn(jax.random.key(3), learner, dataset, targets, config)
    arrays = {
        f"learn.{name}.{number}": np.array([epoch[number] for epoch in result.history])
        for number in NUMBERS
    }
    for path, weight in jax.tree_util.tree_leaves_with_path(nnx.state(result.network)):
        arrays[f"learn.{name}.weights{jax.tree_util.keystr(path)}"] = weight
    arrays[f"learn.{name}.test"] = np.array(dsl.evaluate(result.network, dataset, "test"))
    return arrays


if __name__ == "__main__":
    np.savez_compressed(own_file(), **compute())
    print(own_file(), kind())
