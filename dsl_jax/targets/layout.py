"""How targets lie on a disk or in a bucket: Zarr v3 arrays, a manifest, and markers.

Arrays but ids are cut into the same chunks of images, each with a checksum. What is absent or
damaged is told, never read as zeros. The layout of the folder is described in `targets.store`.
Letters: N images, L layers.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from dsl_jax.files import refuse_file, sealed, unsealed
from dsl_jax.targets.fingerprint import FORMAT, hash_rows

MANIFEST = "manifest.json"
MARKERS = "committed/"
REPAIR = "run search_to_store again with repair=True"

_CONTEXT = ts.Context()  # one for all stores, so that memory:// means one place in a process
_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "OUT_OF_RANGE")


def open_kvstore(path: str | os.PathLike | dict) -> ts.KvStore:
    """The place of a store; local folders and buckets are alike from here on."""
    spec = path
    if not isinstance(path, dict) and "://" not in os.fspath(path):
        spec = {"driver": "file", "path": str(Path(path).expanduser().absolute())}
    kvstore = ts.KvStore.open(spec, context=_CONTEXT).result()
    return kvstore + "/" if kvstore.path and not kvstore.path.endswith("/") else kvstore


def read_manifest(kvstore: ts.KvStore, path: Any) -> dict | None:
    """The manifest; None when there is nothing at all.

    Raises:
      ValueError: there is something else, or it is damaged, or of another format.
    """
    folder = _local_folder(kvstore)
    if folder is not None:
        refuse_file(folder)
    read = kvstore.read(MANIFEST).result()
    if read.state == "missing":
        if not (names := kvstore.list().result()):
            return None
        # Another process may have begun a store in between; its manifest is there first.
        read = kvstore.read(MANIFEST).result()
    if read.state == "missing":
        raise ValueError(
            f"{path} is not a target store: there is no {MANIFEST}, but {len(names)} other "
            f"files such as {sorted(names)[0].decode()}; give another path, or restore that file"
        )
    try:
        manifest = unsealed(json.loads(read.value))
        number = manifest["format"]
        if number == FORMAT and not {"fingerprint", "provenance"} <= manifest.keys():
            raise KeyError("fingerprint or provenance is missing")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: {MANIFEST} is incomplete or damaged, so it cannot be told what the targets "
            "are: copy it again from where they came from, or delete the folder and search again"
        ) from error
    if number != FORMAT:
        raise ValueError(f"{path}: format {number!r}; this version of dsl_jax reads {FORMAT}")
    return manifest


def write_manifest(kvstore: ts.KvStore, manifest: dict) -> None:
    """Writes the manifest unless there is one: of two that begin at once, one is first."""
    read = kvstore.read(MANIFEST).result()
    if read.state == "missing":
        content = json.dumps(sealed(manifest), indent=1)
        kvstore.write(MANIFEST, content, if_equal=read.stamp.generation).result()


def _array_specs(fingerprint: dict) -> dict[str, dict]:
    """Name -> Zarr metadata of every array in a store."""
    num_images = fingerprint["num_images"]
    rows = min(fingerprint["chunk_size"], num_images)
    shapes = fingerprint["layer_shapes"]

    def spec(shape: Sequence[int], dtype: str, rows: int) -> dict:
        return {
            "shape": [num_images, *shape],
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, *shape]}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ],
            "fill_value": 0,
        }

    specs = {"ids": spec((), "int64", num_images)}
    for index, (shape, layer) in enumerate(
        zip(shapes, fingerprint["config"]["layers"], strict=True)
    ):
        last = index == len(shapes) - 1
        specs[f"layer_{index}"] = spec(shape, "float32" if last else fingerprint["dtype"], rows)
        specs[f"fitness_{index}"] = spec((layer["generations"] + 1,), "float32", rows)
    return specs


def open_arrays(
    kvstore: ts.KvStore, path: Any, fingerprint: dict, create: bool
) -> dict[str, ts.TensorStore]:
    """Name -> array. With `create`, those that are not there are made.

    Raises:
      ValueError: an array is not there, or is not that of the fingerprint.
    """
    futures = {
        name: ts.open(
            {
                "driver": "zarr3",
                "metadata": metadata,
                # Zeros are written, too, and what is absent is an error instead of zeros.
                "store_data_equal_to_fill_value": True,
                "fill_missing_data_reads": False,
            },
            kvstore=kvstore / f"{name}/",
            context=_CONTEXT,
            open=True,
            create=create,
        )
        for name, metadata in _array_specs(fingerprint).items()
    }
    arrays = {}
    for name, future in futures.items():
        try:
            arrays[name] = future.result()
        except ValueError as error:
            raise ValueError(
                f"{path}: the description of array {name} ({name}/zarr.json) is absent, "
                f"damaged, or that of another search; {REPAIR}"
            ) from error
    return arrays


def create_arrays(
    kvstore: ts.KvStore, path: Any, fingerprint: dict, ids: np.ndarray, repair: bool = False
) -> None:
    """Makes what is not there of the arrays, writes ids. Twice is the same as once.

    repair: their descriptions, which may be damaged, are written again.
    """
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    kvstore.write("zarr.json", json.dumps(group)).result()
    for name in _array_specs(fingerprint) if repair else ():
        kvstore.write(f"{name}/zarr.json", None).result()
    arrays = open_arrays(kvstore, path, fingerprint, create=True)
    arrays["ids"].write(ids).result()


def read_ids(array: ts.TensorStore, path: Any, fingerprint: dict) -> np.ndarray:
    """int64 [N]. Raises ValueError when they are damaged, or are not those of the fingerprint."""
    try:
        ids = array.read().result()
    except ValueError as error:
        raise ValueError(f"{path}: ids cannot be read ({error}); {REPAIR}") from error
    if hash_rows(ids.__getitem__, len(ids)) != fingerprint["ids_sha256"]:
        raise ValueError(f"{path}: ids are not those of {MANIFEST}; {REPAIR}")
    return ids


def fault(array: ts.TensorStore, rows: slice) -> str | None:
    """Reads some rows of an array; what is wrong with them, or None."""
    try:
        array[rows].read().result()
    except ValueError as error:
        kind, _, detail = str(error).partition(": ")
        if kind == "NOT_FOUND":
            return "absent"
        if kind in _DAMAGE:
            return f"damaged ({detail})"
        raise
    return None


def array_title(name: str) -> str:
    """The name of an array for people: layer_0 is "layer 0"."""
    kind, index = name.split("_")
    return f"layer {index}" if kind == "layer" else f"fitness of layer {index}"


# --------------------------------------------------------------------------------------------
# Markers of complete chunks
# --------------------------------------------------------------------------------------------


def commit(kvstore: ts.KvStore, chunk: int, rows: slice) -> None:
    """Marks a chunk as complete."""
    content = json.dumps({"rows": [rows.start, rows.stop]})
    kvstore.write(_marker(chunk), content).result()


def withdraw(kvstore: ts.KvStore, chunk: int) -> None:
    """Marks a chunk as absent."""
    kvstore.write(_marker(chunk), None).result()


def is_committed(kvstore: ts.KvStore, chunk: int) -> bool:
    """Whether a chunk is complete."""
    return kvstore.read(_marker(chunk)).result().state == "value"


def committed_chunks(kvstore: ts.KvStore) -> set[int]:
    """All chunks that are complete."""
    markers = ts.KvStore.KeyRange(MARKERS, MARKERS[:-1] + "0")  # "0" comes after "/"
    return chunks_named(MARKERS, kvstore.list(markers).result())


def chunks_named(folder: str, names: Iterable[bytes]) -> set[int]:
    """The chunks that keys in `folder` are named after; file managers and disks leave others."""
    numbers = (name.removeprefix(folder.encode()) for name in names)
    return {int(number) for number in numbers if re.fullmatch(rb"\d{8,}", number)}


def _marker(chunk: int) -> str:
    return f"{MARKERS}{chunk:08d}"


# --------------------------------------------------------------------------------------------
# Space
# --------------------------------------------------------------------------------------------


def estimated_bytes(
    shapes: Sequence[Sequence[int]], num_images: int, generations: Sequence[int]
) -> int:
    """Bytes that the targets of `num_images` take: float16 activations, float32 logits, fitness.

    Args:
      shapes: the shape of H(l) for one image, l = 0 .. L-1, the logits' last.
      num_images: N.
      generations: of each layer.
    """
    *hidden, logits = (math.prod(shape) for shape in shapes)
    fitness = sum(number + 1 for number in generations)
    return num_images * (2 * sum(hidden) + 4 * (logits + fitness) + 8)


def check_disk_space(kvstore: ts.KvStore, fingerprint: dict, committed: set[int]) -> None:
    """Raises OSError when a local disk has too little space for what is absent."""
    folder = _local_folder(kvstore)
    if folder is None:
        return
    num_images, rows = fingerprint["num_images"], fingerprint["chunk_size"]
    starts = [s for s in range(0, num_images, rows) if s // rows not in committed]
    images = sum(min(rows, num_images - start) for start in starts)
    generations = [layer["generations"] for layer in fingerprint["config"]["layers"]]
    needed = estimated_bytes(fingerprint["layer_shapes"], images, generations)
    # A file takes whole blocks of the disk.
    needed += len(starts) * (2 * len(generations) + 1) * 4096
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the targets need {needed} bytes ({needed / 1e9:.1f} GB), but {existing} has "
            f"{free} free ({free / 1e9:.1f} GB): free some, give another path, or take fewer "
            "images (num_train)",
        )


def _local_folder(kvstore: ts.KvStore) -> Path | None:
    spec = kvstore.spec().to_json()
    return Path(spec["path"]) if spec["driver"] == "file" else None
