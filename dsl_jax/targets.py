"""Targets on disk: the searched representations of a whole split (paper 3.2 and 4.2).

A store is a folder, local or in a bucket, in Zarr v3 format:

    manifest.json   written first: the fingerprint of the search, and its provenance
    ids             int64 [N], the images' rows in their source
    layer_0 ..      H(l), [N, ...] each; float16, the last (the logits) float32
    fitness_0 ..    float32 [N, generations_l + 1], the best of every generation
    committed/      one marker for each chunk that is complete

All arrays but ids are cut into the same chunks of images, each with a checksum. A chunk's marker
is written when all its parts are on disk: a chunk without one counts as absent, so that a process
may be killed at any time and any number of processes may work on one store.
Letters: N images, L layers.
"""

import dis
import errno
import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh

from dsl_jax.config import LayerSchedule, SearchConfig, differences, to_dict
from dsl_jax.progress import progress_bar
from dsl_jax.search import SearchResult, Stages, check_ids, choose_chunk_size, search

FORMAT = 1
MANIFEST = "manifest.json"
MARKERS = "committed/"
ACTIVATION_DTYPE = "float16"
PACKAGES = ("dsl_jax", "jax", "jaxlib", "numpy")

_CONTEXT = ts.Context()  # one for all stores, so that memory:// means one place in a process
_DAMAGE = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "OUT_OF_RANGE")
_REPAIR = "run search_to_store again with repair=True"

logger = logging.getLogger(__name__)


class TargetStore:
    """The searched representations of N images on disk. Made by `search_to_store`.

    path: where it is, as given.
    ids: int64 [N], the images' rows in their source.
    config: the `SearchConfig` of the search.
    num_images, num_chunks, num_layers, chunk_size: sizes; the last chunk may be shorter.
    manifest: fingerprint and provenance, plain data.
    """

    def __init__(
        self,
        path: Any,
        mode: str,
        kvstore: ts.KvStore,
        manifest: dict[str, Any],
        arrays: dict[str, ts.TensorStore],
        ids: np.ndarray,
    ):
        """Use `TargetStore.open`."""
        fingerprint = manifest["fingerprint"]
        self.path = path
        self.mode = mode
        self.manifest = manifest
        self.ids = ids
        self.config = _config_from_dict(fingerprint["config"])
        self.num_images = fingerprint["num_images"]
        self.num_layers = len(fingerprint["layer_shapes"])
        self.chunk_size = fingerprint["chunk_size"]
        self.num_chunks = -(-self.num_images // self.chunk_size)
        self._kvstore = kvstore
        self._arrays = arrays
        self._known = set()  # chunks seen complete, so that reading need not list them each time

    @classmethod
    def open(cls, path: str | os.PathLike | dict, mode: str = "r") -> "TargetStore":
        """Opens a store that is there.

        Args:
          path: a local folder, a URL such as gs://bucket/folder or s3://bucket/folder, or a
            tensorstore kvstore spec.
          mode: "r" to read, "a" to also write and discard chunks.

        Raises:
          FileNotFoundError: there is nothing.
          ValueError: there is something else than a store, or parts of it are damaged or absent.
        """
        if mode not in ("r", "a"):
            raise ValueError(f"mode {mode!r} is unknown: choose 'r' to read or 'a' to write")
        kvstore = _open_kvstore(path)
        manifest = _read_manifest(kvstore, path)
        if manifest is None:
            raise FileNotFoundError(f"{path}: no targets there; search_to_store makes them")
        arrays = _open_arrays(kvstore, path, manifest["fingerprint"], create=False)
        ids = _read_ids(arrays["ids"], path, manifest["fingerprint"])
        return cls(path, mode, kvstore, manifest, arrays, ids)

    def missing_chunks(self) -> list[int]:
        """The chunks that are not complete, in order; looks at the disk."""
        self._known = _committed_chunks(self._kvstore)
        return [chunk for chunk in range(self.num_chunks) if chunk not in self._known]

    @property
    def is_complete(self) -> bool:
        """Whether every image has been searched; looks at the disk."""
        return not self.missing_chunks()

    def rows(self, chunk: int) -> slice:
        """The rows of a chunk. Raises IndexError when there is no such chunk."""
        if not 0 <= chunk < self.num_chunks:
            raise IndexError(f"chunk {chunk}: {self.path} has chunks 0 to {self.num_chunks - 1}")
        start = chunk * self.chunk_size
        return slice(start, min(start + self.chunk_size, self.num_images))

    def read(self, rows: slice | np.ndarray | None = None) -> SearchResult:
        """Targets of some images, in the order of `rows`.

        Args:
          rows: slice, or integers [M] (not ids: see `ids`); None: all.

        Returns:
          A `SearchResult` of NumPy arrays [M, ...]: representations float16, the logits and the
          fitness float32.

        Raises:
          ValueError: some of these images have not been searched yet.
          OSError: a chunk is damaged; layer, chunk and rows are named.
          IndexError: rows that are not there.
        """
        layers, fitness = self._names("layer"), self._names("fitness")
        values = self._read([*layers, *fitness], rows)
        return SearchResult(tuple(values[: len(layers)]), tuple(values[len(layers) :]))

    def fitness(self, rows: slice | np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """The best fitness alone, float32 [M, generations_l + 1] a layer; else as `read`."""
        return tuple(self._read(self._names("fitness"), rows))

    def verify(self) -> list[str]:
        """Reads every chunk; returns a line for each one damaged or absent, [] if all is well."""
        missing = self.missing_chunks()
        lines = [f"{self._describe(chunk)}: not searched yet" for chunk in missing]
        return lines + [line for _, line in self._faults(self._known, self._names())]

    def write(self, chunk: int, result: SearchResult) -> bool:
        """Writes a chunk, then its marker. Nothing is done if the chunk is there already.

        Args:
          chunk: its number.
          result: the search of `rows(chunk)`, float32 arrays with that many rows.

        Returns:
          Whether it was written.

        Raises:
          ValueError: other shapes; values that float16 cannot hold; opened to read.
        """
        self._check_writable()
        rows = self.rows(chunk)
        values = dict(zip(self._names(), [*result.representations, *result.fitness], strict=True))
        for name, value in values.items():
            shape = (rows.stop - rows.start, *self._arrays[name].shape[1:])
            if value.shape != shape:
                raise ValueError(
                    f"{_title(name)} is {list(value.shape)}: {self._describe(chunk)} "
                    f"needs {list(shape)}"
                )
            values[name] = self._convert(name, np.asarray(value), rows)
        if self._kvstore.read(_marker(chunk)).result().state == "value":
            return False
        futures = [self._arrays[name][rows].write(value) for name, value in values.items()]
        for future in futures:
            future.result()  # on disk, not just accepted: the marker must not come first
        self._commit(chunk)
        return True

    def discard(self, chunk: int) -> None:
        """Marks a chunk as absent, so that it is searched again.

        Raises:
          ValueError: opened to read.
          IndexError: there is no such chunk.
        """
        self._check_writable()
        self.rows(chunk)
        self._kvstore.write(_marker(chunk), None).result()
        self._known.discard(chunk)

    def discard_damaged(self) -> list[int]:
        """Marks every damaged chunk as absent; returns their numbers. Raises as `discard`."""
        self.missing_chunks()
        damaged = sorted({chunk for chunk, _ in self._faults(self._known, self._names())})
        for chunk in damaged:
            self.discard(chunk)
        return damaged

    # ----------------------------------------------------------------------------------------

    def _names(self, *kinds: str) -> list[str]:
        kinds = kinds or ("layer", "fitness")
        return [f"{kind}_{index}" for kind in kinds for index in range(self.num_layers)]

    def _describe(self, chunk: int) -> str:
        rows = self.rows(chunk)
        return f"chunk {chunk} (rows {rows.start} to {rows.stop - 1})"

    def _commit(self, chunk: int) -> None:
        rows = self.rows(chunk)
        content = json.dumps({"rows": [rows.start, rows.stop]})
        self._kvstore.write(_marker(chunk), content).result()

    def _check_writable(self) -> None:
        if self.mode != "a":
            raise ValueError(f"{self.path} was opened to read: open it with mode='a'")

    def _read(self, names: Sequence[str], rows: Any) -> list[np.ndarray]:
        index = np.arange(self.num_images)[slice(None) if rows is None else rows]
        if index.ndim != 1:
            raise ValueError(f"rows {rows!r}: give a slice or a sequence of integers")
        chunks = np.unique(index // self.chunk_size).tolist()
        if not self._known.issuperset(chunks):
            missing = set(self.missing_chunks()).intersection(chunks)
            if missing:
                raise ValueError(
                    f"{self.path}: {len(missing)} of {self.num_chunks} chunks wanted here have "
                    f"not been searched yet, the first is {self._describe(min(missing))}; run "
                    "search_to_store again to complete it"
                )
        if isinstance(rows, slice) and rows.step in (None, 1):
            index = slice(*rows.indices(self.num_images))
            index = slice(index.start, max(index.start, index.stop))
        elif rows is None:
            index = slice(0, self.num_images)
        try:
            futures = [self._arrays[name][index].read() for name in names]
            return [future.result() for future in futures]
        except ValueError as error:
            faults = [line for _, line in self._faults(chunks, names)]
            if not faults:
                raise
            raise OSError(f"{self.path}: {'; '.join(faults)}; {_REPAIR}") from error

    def _faults(self, chunks: Iterable[int], names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """(chunk, what is wrong with it), one for each array that cannot be read."""
        for chunk in sorted(chunks):
            for name in names:
                try:
                    self._arrays[name][self.rows(chunk)].read().result()
                except ValueError as error:
                    kind, _, detail = str(error).partition(": ")
                    if kind == "NOT_FOUND":
                        fault = "absent"
                    elif kind in _DAMAGE:
                        fault = f"damaged ({detail})"
                    else:
                        raise
                    yield chunk, f"{_title(name)}, {self._describe(chunk)}: {fault}"

    def _convert(self, name: str, values: np.ndarray, rows: slice) -> np.ndarray:
        """Values in the type in which they are stored."""
        dtype = self._arrays[name].dtype.numpy_dtype
        with np.errstate(over="ignore", invalid="ignore"):
            stored = values.astype(dtype)
        if name.startswith("layer") and not np.isfinite(stored).all():
            row, *_ = np.argwhere(~np.isfinite(stored))[0].tolist()
            worst = values[row].flat[np.argmin(np.isfinite(stored[row]))]
            raise ValueError(
                f"{_title(name)}, row {rows.start + row} (id {self.ids[rows.start + row]}) has "
                f"the value {worst}, which {dtype} cannot hold: let the stages give finite values "
                f"within {np.finfo(dtype).max}, e.g. ConvNet(normalize_blocks=True)"
            )
        return stored


def search_to_store(
    path: str | os.PathLike | dict,
    key: jax.Array,
    stages: Stages,
    images: Any,
    labels: Any,
    config: SearchConfig,
    *,
    dataset: str = "",
    ids: Any = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    preprocess: Callable[[np.ndarray], Any] | None = None,
    progress: bool = False,
    repair: bool = False,
    on_chunk: Callable[[int], None] | None = None,
) -> TargetStore:
    """Searches a whole split into a store (paper 3.1 and 4.2); begins or resumes.

    Only absent chunks are searched, so a run that was interrupted goes on where it was, and
    several processes may work on one store. The result is that of `search`, with activations
    rounded to float16. Memory does not grow with N as long as `images` is not in memory.

    Args:
      path: a local folder, a bucket URL, or a tensorstore kvstore spec; see `TargetStore.open`.
      key, stages, config, mesh: as in `search`.
      images: [N, H, W, C], normalised float32, or what `preprocess` takes; anything that has a
        length and can be sliced, such as a `numpy.memmap`.
      labels: [N] integers.
      dataset: its name, kept with the targets.
      ids: [N] integers below 2**32, the images' rows in their source; None: 0 .. N-1.
      chunk_size: images in one chunk and one call, on each device; None: as in the store that is
        there, or `choose_chunk_size`.
      preprocess: applied to some images [M, H, W, C] at a time, such as `Dataset.normalize`.
      progress: show a bar with rate and time left.
      repair: read all that is there first, and search damaged chunks again.
      on_chunk: called with each chunk's number after it was written.

    Returns:
      The complete store, opened with mode "a".

    Raises:
      ValueError: the store is that of another search (the fields that differ are named), is
        damaged, or the folder holds something else; or arguments that do not fit each other.
      OSError: not enough free space on a local disk; it is checked before the search.
    """
    kvstore = _open_kvstore(path)
    there = _read_manifest(kvstore, path)
    labels = np.asarray(labels)
    if len(labels) != len(images) or not len(labels):
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels: need one each, at least 1"
        )
    ids = check_ids(ids, len(labels))
    take = functools.partial(_take, images, preprocess)
    image_shape = take(slice(0, 1)).shape[1:]
    if chunk_size is None:
        if there is not None:
            chunk_size = there["fingerprint"]["chunk_size"]
        else:
            chunk_size = choose_chunk_size(stages, image_shape, config)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be at least 1")
    ours = {
        "format": FORMAT,
        "fingerprint": {
            "dataset": dataset,
            "num_images": len(ids),
            "ids_sha256": _hash_rows(ids.__getitem__, len(ids)),
            "images_sha256": _hash_rows(take, len(ids)),
            "labels_sha256": _hash_rows(labels.astype(np.int64).__getitem__, len(ids)),
            "stages_sha256": hash_stages(stages),
            "config": to_dict(config),
            "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
            "dtype": ACTIVATION_DTYPE,
            "chunk_size": int(chunk_size),
            "layer_shapes": layer_shapes(stages, image_shape, config),
        },
        "provenance": _provenance(),
    }
    if there is not None:
        _check_same_search(ours, there, path)
    committed = _committed_chunks(kvstore)
    _check_disk_space(kvstore, ours["fingerprint"], committed)
    if there is None:
        # Written only while none is there: of two processes that begin at once, one is first.
        read = kvstore.read(MANIFEST).result()
        if read.state == "missing":
            content = json.dumps(ours, indent=1)
            kvstore.write(MANIFEST, content, if_equal=read.stamp.generation).result()
        _check_same_search(ours, _read_manifest(kvstore, path), path)
    if there is None or repair or len(committed) * chunk_size < len(ids):
        _create_arrays(kvstore, path, ours["fingerprint"], ids)

    store = TargetStore.open(path, "a")
    if repair and (damaged := store.discard_damaged()):
        logger.warning("%s: searching damaged chunks again: %s", path, damaged)
    _search_missing(
        store,
        lambda rows: search(
            key,
            stages,
            take(rows),
            labels[rows],
            config,
            ids=ids[rows],
            chunk_size=chunk_size,
            mesh=mesh,
        ),
        chunks_per_call=1 if mesh is None else mesh.size,
        progress=progress,
        on_chunk=on_chunk,
    )
    return store


def _search_missing(
    store: TargetStore,
    search_rows: Callable[[np.ndarray], SearchResult],
    chunks_per_call: int,
    progress: bool,
    on_chunk: Callable[[int], None] | None,
) -> None:
    """Searches and writes absent chunks until there are none."""
    missing = store.missing_chunks()
    sizes = [rows.stop - rows.start for rows in map(store.rows, range(store.num_chunks))]
    done = store.num_images - sum(sizes[chunk] for chunk in missing)
    pending = deque(_working_order(missing, store.num_chunks))
    bar = progress_bar(
        store.num_images, unit="image", description="search", show=progress, done=done
    )
    with bar:
        while pending:
            chunks = [pending.popleft() for _ in range(min(chunks_per_call, len(pending)))]
            # Another process may have done some of them since.
            absent = set(store.missing_chunks())
            wanted = [chunk for chunk in chunks if chunk in absent]
            bar.update(sum(sizes[chunk] for chunk in chunks if chunk not in absent))
            if not wanted:
                continue
            rows = np.concatenate([np.arange(r.start, r.stop) for r in map(store.rows, wanted)])
            result = jax.tree.map(np.asarray, search_rows(rows))
            overtaken, start = False, 0
            for chunk in wanted:
                stop = start + sizes[chunk]
                part = jax.tree.map(lambda x: x[start:stop], result)
                written = store.write(chunk, part)
                overtaken, start = overtaken or not written, stop
                bar.update(sizes[chunk])
                if written and on_chunk is not None:
                    on_chunk(chunk)
            if overtaken:  # another process does the same chunks: begin at the other end
                pending.reverse()


def _working_order(missing: Sequence[int], num_chunks: int) -> list[int]:
    """A process of `jax.distributed` does its own range first, then the others' from the end."""
    process, count = jax.process_index(), jax.process_count()
    own = range(process * num_chunks // count, (process + 1) * num_chunks // count)
    return [c for c in missing if c in own] + [c for c in reversed(missing) if c not in own]


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


def layer_shapes(
    stages: Stages, image_shape: Sequence[int], config: SearchConfig
) -> list[list[int]]:
    """The shapes of H(0) .. H(L-1) for one image of `image_shape`; nothing is computed.

    Raises:
      ValueError: the numbers of stages and of layer schedules differ.
    """
    if len(stages) != len(config.layers):
        raise ValueError(
            f"{len(stages)} stages but {len(config.layers)} layer schedules: "
            "config.layers needs one for each stage, the last being the logits"
        )
    shapes = []
    value = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    for stage in stages:
        value = jax.eval_shape(lambda batch: stage(batch), value)
        shapes.append(list(value.shape[1:]))
    return shapes


# --------------------------------------------------------------------------------------------
# Fingerprint and provenance
# --------------------------------------------------------------------------------------------


def hash_stages(stages: Stages) -> str:
    """A hash of the stages' weights, structure and function names, the same in every process.

    Arrays are found in `Partial`s, pytrees, closures, defaults and global variables that a
    function uses. A function whose body changes under the same name is not told apart.
    """
    digest = hashlib.sha256()
    _feed(digest, tuple(stages), set())
    return digest.hexdigest()


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    """Adds to `digest` what tells `value` apart; `seen` ends functions that refer to themselves."""

    def feed(*parts: Any) -> None:
        for part in parts:
            _feed(digest, part, seen)

    def note(text: str) -> None:
        digest.update(f"{text};".encode())

    value = getattr(value, "__wrapped__", value)  # what is inside jit
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        note(repr(value))
    elif isinstance(value, np.ndarray) and value.dtype == object:
        feed(value.tolist())
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            note(str(jax.random.key_impl(value)))
            value = jax.random.key_data(value)
        value = np.asarray(value)
        note(f"{value.dtype}{value.shape}")
        digest.update(value.tobytes())
    elif isinstance(value, tuple | list):
        note(f"sequence {len(value)}")
        feed(*value)
    elif isinstance(value, dict):
        note(f"dict {len(value)}")
        feed(*sorted(value.items(), key=lambda item: str(item[0])))
    elif isinstance(value, functools.partial):
        note("partial")
        feed(value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        note("method")
        feed(value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        note(f"function {value.__qualname__}")
        if id(value) not in seen:
            seen.add(id(value))
            feed(value.__defaults__, value.__kwdefaults__, _captured(value))
    else:
        note(f"{type(value).__qualname__} {getattr(value, '__qualname__', '')}")
        leaves = jax.tree_util.tree_leaves_with_path(value)
        if leaves and leaves[0][0]:  # a pytree, such as a Flax module
            feed([(jax.tree_util.keystr(path), leaf) for path, leaf in leaves])
        elif isinstance(value, type) or id(value) in seen:
            return
        elif is_dataclass(value) or callable(value):
            seen.add(id(value))
            feed(getattr(value, "__dict__", None))


def _captured(function: FunctionType) -> dict[str, Any]:
    """What a function takes from around it: closed-over variables, and global arrays."""
    code = function.__code__
    captured = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        captured[name] = cell.cell_contents
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, jax.Array | np.ndarray):
            captured[name] = value
    return captured


def _hash_rows(take: Callable[[slice], np.ndarray], num_rows: int, block: int = 1024) -> str:
    """SHA-256 of an array's type, shape and bytes, of which only a block is in memory."""
    digest = hashlib.sha256()
    for start in range(0, num_rows, block):
        rows = take(slice(start, min(start + block, num_rows)))
        if start == 0:
            digest.update(f"{rows.dtype}{rows.shape[1:]}".encode())
        digest.update(rows.tobytes())
    return digest.hexdigest()


def _take(
    images: Any, preprocess: Callable[[np.ndarray], Any] | None, rows: slice | np.ndarray
) -> np.ndarray:
    """Some images as search wants them, float32. Integers in `rows` are runs of chunks."""
    if isinstance(rows, slice):
        taken = np.asarray(images[rows])
    else:  # by slices, which is all that `images` need know
        runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
        taken = np.concatenate([np.asarray(images[run[0] : run[-1] + 1]) for run in runs])
    if preprocess is not None:
        taken = np.asarray(preprocess(taken))
    if not np.issubdtype(taken.dtype, np.floating):
        raise ValueError(
            f"images are {taken.dtype}: give normalised floats, or preprocess=dataset.normalize"
        )
    return taken.astype(np.float32, copy=False)


def _provenance() -> dict[str, Any]:
    """What may change a result by rounding, and is told of but not refused."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # used from a checkout
            versions[package] = "not installed"
    return {
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
        "versions": versions,
    }


def _check_same_search(ours: dict, theirs: dict, path: Any) -> None:
    lines = differences(ours["fingerprint"], theirs["fingerprint"])
    if lines:
        raise ValueError(
            f"{path} holds the targets of another search. These differ:\n  "
            + "\n  ".join(lines)
            + "\nGive another path, or the same arguments as then."
        )
    if lines := differences(ours["provenance"], theirs["provenance"]):
        logger.warning(
            "%s was begun under other conditions; the rest may differ by rounding: %s",
            path,
            "; ".join(lines),
        )


def _config_from_dict(values: dict[str, Any]) -> SearchConfig:
    layers = tuple(LayerSchedule(**layer) for layer in values["layers"])
    return SearchConfig(**{**values, "layers": layers})


# --------------------------------------------------------------------------------------------
# Storage
# --------------------------------------------------------------------------------------------


def _open_kvstore(path: str | os.PathLike | dict) -> ts.KvStore:
    """The place of a store; local folders and buckets are alike from here on."""
    spec = path
    if not isinstance(path, dict) and "://" not in os.fspath(path):
        spec = {"driver": "file", "path": str(Path(path).absolute())}
    kvstore = ts.KvStore.open(spec, context=_CONTEXT).result()
    return kvstore + "/" if kvstore.path and not kvstore.path.endswith("/") else kvstore


def _local_folder(kvstore: ts.KvStore) -> Path | None:
    spec = kvstore.spec().to_json()
    return Path(spec["path"]) if spec["driver"] == "file" else None


def _read_manifest(kvstore: ts.KvStore, path: Any) -> dict | None:
    """The manifest; None when there is nothing at all."""
    folder = _local_folder(kvstore)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise ValueError(f"{path} is a file, not a folder of targets: give another path")
    read = kvstore.read(MANIFEST).result()
    if read.state == "missing":
        if names := kvstore.list().result():
            raise ValueError(
                f"{path} is not a target store: there is no {MANIFEST}, but {len(names)} other "
                f"files such as {sorted(names)[0].decode()}; give another path"
            )
        return None
    try:
        manifest = json.loads(read.value)
        number = manifest["format"]
        complete = {"fingerprint", "provenance"} <= manifest.keys()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(_broken_manifest(path)) from error
    if number != FORMAT:
        raise ValueError(f"{path}: format {number!r}; this version of dsl_jax reads {FORMAT}")
    if not complete:
        raise ValueError(_broken_manifest(path))
    return manifest


def _broken_manifest(path: Any) -> str:
    return (
        f"{path}: {MANIFEST} is incomplete or damaged, so it cannot be told what the targets "
        "are: copy it again from where they came from, or delete the folder and search again"
    )


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


def _open_arrays(kvstore: ts.KvStore, path: Any, fingerprint: dict, create: bool) -> dict:
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
                f"{path}: the description of array {name} ({name}/zarr.json) is absent or "
                "damaged: delete that one file if it is there, and run search_to_store again"
            ) from error
    return arrays


def _create_arrays(kvstore: ts.KvStore, path: Any, fingerprint: dict, ids: np.ndarray) -> None:
    """Makes what is not there of the arrays, writes ids. Twice is the same as once."""
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    kvstore.write("zarr.json", json.dumps(group)).result()
    arrays = _open_arrays(kvstore, path, fingerprint, create=True)
    arrays["ids"].write(ids).result()


def _read_ids(array: ts.TensorStore, path: Any, fingerprint: dict) -> np.ndarray:
    try:
        ids = array.read().result()
    except ValueError as error:
        raise ValueError(f"{path}: ids cannot be read ({error}); {_REPAIR}") from error
    if _hash_rows(ids.__getitem__, len(ids)) != fingerprint["ids_sha256"]:
        raise ValueError(f"{path}: ids are not those of {MANIFEST}; {_REPAIR}")
    return ids


def _marker(chunk: int) -> str:
    return f"{MARKERS}{chunk:08d}"


def _committed_chunks(kvstore: ts.KvStore) -> set[int]:
    markers = ts.KvStore.KeyRange(MARKERS, MARKERS[:-1] + "0")  # "0" comes after "/"
    return {int(name.removeprefix(MARKERS.encode())) for name in kvstore.list(markers).result()}


def _title(name: str) -> str:
    kind, index = name.split("_")
    return f"layer {index}" if kind == "layer" else f"fitness of layer {index}"


def _check_disk_space(kvstore: ts.KvStore, fingerprint: dict, committed: set[int]) -> None:
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
