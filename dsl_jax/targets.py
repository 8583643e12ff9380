"""Targets on disk: the searched representations of a whole split (paper 3.2 and 4.2).

A store is a folder, local or in a bucket, in Zarr v3 format:

    manifest.json   written first: the fingerprint of the search, and its provenance
    ids             int64 [N], the images' rows in their source
    layer_0 ..      H(l), [N, ...] each; float16, the last (the logits) float32
    fitness_0 ..    float32 [N, generations_l + 1], the best of every generation
    committed/      one marker for each chunk that is complete
    claims/         chunks that a process works on, see `sharing`; nothing once all are complete

All arrays but ids are cut into the same chunks of images, each with a checksum. A chunk's marker
is written when all its parts are on disk: a chunk without one counts as absent, so that a process
may be killed at any time and any number of processes may work on one store.
Letters: N images, L layers.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh

from dsl_jax import zarr_store
from dsl_jax.config import SearchConfig
from dsl_jax.fingerprint import check_same_search, config_of, make_manifest
from dsl_jax.image_search import SearchResult, Stages
from dsl_jax.search import check_ids, choose_chunk_size, search
from dsl_jax.sharing import Claims, search_missing
from dsl_jax.zarr_store import array_title

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
        self.config = config_of(manifest)
        self.num_images = fingerprint["num_images"]
        self.num_layers = len(fingerprint["layer_shapes"])
        self.chunk_size = fingerprint["chunk_size"]
        self.num_chunks = -(-self.num_images // self.chunk_size)
        self._kvstore = kvstore
        self._arrays = arrays
        # Chunks seen complete, so that reading need not list them each time.
        self._known: set[int] = set()

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
        kvstore = zarr_store.open_kvstore(path)
        manifest = zarr_store.read_manifest(kvstore, path)
        if manifest is None:
            raise FileNotFoundError(f"{path}: no targets there; search_to_store makes them")
        arrays = zarr_store.open_arrays(kvstore, path, manifest["fingerprint"], create=False)
        ids = zarr_store.read_ids(arrays["ids"], path, manifest["fingerprint"])
        return cls(path, mode, kvstore, manifest, arrays, ids)

    def missing_chunks(self) -> list[int]:
        """The chunks that are not complete, in order; looks at the disk."""
        self._known = zarr_store.committed_chunks(self._kvstore)
        return [chunk for chunk in range(self.num_chunks) if chunk not in self._known]

    @property
    def candidates(self) -> int:
        """How many candidates its search evaluates, over all images."""
        return self.num_images * self.config.candidates_per_image

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
                    f"{array_title(name)} is {list(value.shape)}: {self._describe(chunk)} "
                    f"needs {list(shape)}"
                )
            values[name] = self._convert(name, np.asarray(value), rows)
        if zarr_store.is_committed(self._kvstore, chunk):
            return False
        futures = [self._arrays[name][rows].write(value) for name, value in values.items()]
        for future in futures:
            future.result()  # on disk, not just accepted: the marker must not come first
        zarr_store.commit(self._kvstore, chunk, rows)
        return True

    def discard(self, chunk: int) -> None:
        """Marks a chunk as absent, so that it is searched again.

        Raises:
          ValueError: opened to read.
          IndexError: there is no such chunk.
        """
        self._check_writable()
        self.rows(chunk)
        zarr_store.withdraw(self._kvstore, chunk)
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
        wanted: Any = index
        if len(index) and (np.diff(index) == 1).all():
            wanted = slice(int(index[0]), int(index[-1]) + 1)  # read faster than single rows
        try:
            futures = [self._arrays[name][wanted].read() for name in names]
            return [future.result() for future in futures]
        except ValueError as error:
            faults = [line for _, line in self._faults(chunks, names)]
            if not faults:
                raise
            raise OSError(f"{self.path}: {'; '.join(faults)}; {zarr_store.REPAIR}") from error

    def _faults(self, chunks: Iterable[int], names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """(chunk, what is wrong with it), one for each array that cannot be read."""
        for chunk in sorted(chunks):
            for name in names:
                if what := zarr_store.fault(self._arrays[name], self.rows(chunk)):
                    yield chunk, f"{array_title(name)}, {self._describe(chunk)}: {what}"

    def _convert(self, name: str, values: np.ndarray, rows: slice) -> np.ndarray:
        """Values in the type in which they are stored."""
        dtype = self._arrays[name].dtype.numpy_dtype
        with np.errstate(over="ignore", invalid="ignore"):
            stored = values.astype(dtype)
        if name.startswith("layer") and not np.isfinite(stored).all():
            row, *_ = np.argwhere(~np.isfinite(stored))[0].tolist()
            worst = values[row].flat[np.argmin(np.isfinite(stored[row]))]
            raise ValueError(
                f"{array_title(name)}, row {rows.start + row} (id {self.ids[rows][row]}) has the "
                f"value {worst}, which {dtype} cannot hold: let the stages give finite values "
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
    progress: bool | str = False,
    repair: bool = False,
    on_chunk: Callable[[int], None] | None = None,
) -> TargetStore:
    """Searches a whole split into a store (paper 3.1 and 4.2); begins or resumes.

    Only absent chunks are searched, so a run that was interrupted goes on where it was, and
    several processes may work on one store: each returns when all of it is complete. The result
    is that of `search`, with activations rounded to float16. Memory does not grow with N as long
    as `images` is not in memory.

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
      progress: show a bar with rate and time left; a text: under this name.
      repair: read all that is there first, and search damaged chunks again.
      on_chunk: called with each chunk's number after it was written.

    Returns:
      The complete store, opened with mode "a".

    Raises:
      ValueError: the store is that of another search (the fields that differ are named), is
        damaged, or the folder holds something else; or arguments that do not fit each other.
      OSError: not enough free space on a local disk; it is checked before the search.
    """
    kvstore = zarr_store.open_kvstore(path)
    there = zarr_store.read_manifest(kvstore, path)
    labels = np.asarray(labels)
    if len(labels) != len(images) or not len(labels):
        raise ValueError(
            f"{len(images)} images and {len(labels)} labels: need one each, at least 1"
        )
    ids = check_ids(ids, len(labels))
    take = functools.partial(_take, images, preprocess)
    if chunk_size is None:
        if there is not None:
            chunk_size = there["fingerprint"]["chunk_size"]
        else:
            chunk_size = choose_chunk_size(stages, take(slice(0, 1)).shape[1:], config)
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be at least 1")
    ours = make_manifest(
        key, stages, take, labels, ids, config, dataset=dataset, chunk_size=chunk_size
    )
    if there is not None:
        check_same_search(ours, there, path)
    committed = zarr_store.committed_chunks(kvstore)
    zarr_store.check_disk_space(kvstore, ours["fingerprint"], committed)
    if there is None:
        zarr_store.write_manifest(kvstore, ours)
        # That of another process, if it was first.
        check_same_search(ours, zarr_store.read_manifest(kvstore, path) or ours, path)
    if there is None or repair or len(committed) * chunk_size < len(ids):
        zarr_store.create_arrays(kvstore, path, ours["fingerprint"], ids)

    store = TargetStore.open(path, "a")
    if repair and (damaged := store.discard_damaged()):
        logger.warning("%s: searching damaged chunks again: %s", path, damaged)
    search_missing(
        store,
        Claims(kvstore),
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
