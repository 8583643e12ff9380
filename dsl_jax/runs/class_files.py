"""The files of a search per class: one a class, and what the search is."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsl_jax.devices import Array
from dsl_jax.evolution.shared import FoundForClass
from dsl_jax.files import read_arrays, replacing

MANIFEST = "manifest.json"  # what tells the search from another
MANIFEST_REMEDY = "restore it from a copy, or delete it, and its search is not compared"


class KeptClasses(NamedTuple):
    """What a search per class found, read back.

    Attributes:
      classes: what was found for each, in order.
      candidates: how many were tried for all of them.
    """

    classes: tuple[FoundForClass, ...]
    candidates: int

    def missing(self, clusters: int) -> int:
        """How many are not there, the last ones, of all classes in so many clusters each."""
        *_, logits = self.classes[0].representations
        return clusters * len(logits) - len(self.classes)

    def fitness(self) -> list[Array]:
        """For each layer the best of every generation, float32 [C, generations + 1]."""
        traces = zip(*(found.fitness for found in self.classes), strict=True)
        return [np.stack(layer) for layer in traces]


def open_classes(folder: Path) -> KeptClasses:
    """What is kept in a folder, classes in order.

    Raises:
      FileNotFoundError: a class is not there, but a later one is, or none is.
      DamagedFile: a file of one.
    """
    paths = sorted(class_files(folder), key=_label)
    if [_label(path) for path in paths] != list(range(len(paths))) or not paths:
        raise FileNotFoundError(f"{folder} lacks classes: its search has not ended; go on with it")
    loaded = [load_class(path) for path in paths]
    return KeptClasses(tuple(found for found, _ in loaded), sum(tried for _, tried in loaded))


def class_files(folder: Path) -> list[Path]:
    """The files of the classes that are there."""
    return list(folder.glob("class_*.npz"))


def class_file(folder: Path, label: int) -> Path:
    """Where what is found for a class is kept."""
    return folder / f"class_{label}.npz"


def _label(path: Path) -> int:
    return int(path.stem.removeprefix("class_"))


def save_class(path: Path, found: FoundForClass, candidates: int) -> None:
    """Writes what so many candidates led to, whole or not at all."""
    arrays = {f"layer_{i}": h for i, h in enumerate(found.representations)}
    arrays |= {f"fitness_{i}": trace for i, trace in enumerate(found.fitness)}
    arrays |= {} if found.centre is None else {"centre": found.centre}
    with replacing(path) as file:
        np.savez(file, candidates=np.int64(candidates), **arrays)


def load_class(path: Path) -> tuple[FoundForClass, int]:
    """What was given to `save_class`. Raises DamagedFile."""
    saved = read_arrays(path, "--repair deletes it, and its class is searched again")
    numbers = range(sum(name.startswith("layer_") for name in saved))
    found = FoundForClass(
        tuple(saved[f"layer_{i}"] for i in numbers),
        tuple(saved[f"fitness_{i}"] for i in numbers),
        saved.get("centre"),
    )
    return found, int(saved["candidates"])
