"""Targets on disk: the searched representations of a whole split (paper 3.2 and 4.2).

A store is a folder, local or in a bucket, in Zarr v3 format:

    manifest.json   written first: the fingerprint of the search, and its provenance
    ids             int64 [N], the images' rows in their source
    layer_0 ..      H(l), [N, ...] each; float16, the last (the logits) float32
    fitness_0 ..    float32 [N, generations_l + 1], the best of every generation
    committed/      one marker for each chunk that is complete
    claims/         chunks that a process works on, see `claims`; nothing once all are complete

All arrays but ids are cut into the same chunks of images, each with a checksum. A chunk's marker
is written when all its parts are on disk: a chunk without one counts as absent, so that a process
may be killed at any time and any number of processes may work on one store.
Letters: N images, L layers.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from dsl_jax.evolution.image import SearchResult
from dsl_jax.files import writing
from dsl_jax.targets import layout
from dsl_jax.targets.fingerprint import config_of
from dsl_jax.targets.layout import array_title
from dsl_jax.targets.reading import rows_asked

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

    def __repr__(self) -> str:
        return (
            f"TargetStore({str(self.path)!r}: {self.num_images} images, {self.num_layers} layers)"
        )

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
        kvstore = layout.open_kvstore(path)
        manifest = layout.read_manifest(kvstore, path)
        if manifest is None:
            raise FileNotFoundError(f"{path}: no targets there; search_to_store makes them")
        arrays = layout.open_arrays(kvstore, path, manifest["fingerprint"], create=False)
        ids = layout.read_ids(arrays["ids"], path, manifest["fingerprint"])
        return cls(path, mode, kvstore, manifest, arrays, ids)

    def missing_chunks(self) -> list[int]:
        """The chunks that are not complete, in order; looks at the disk."""
        self._known = layout.committed_chunks(self._kvstore)
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
        lines = [f"{self._describe(chunk)}: not searched yet" for chunk in self.missing_chunks()]
        return lines + [line for _, line in self.faults()]

    def faults(self, on_chunk: Callable[[], Any] = lambda: None) -> Iterator[tuple[int, str]]:
        """Reads every chunk that is there: (its number, what is wrong) of those damaged.

        on_chunk: called after each of the store's chunks.
        """
        self.missing_chunks()
        for chunk in range(self.num_chunks):
            if chunk in self._known:
                yield from self._faults([chunk], self._names())
            on_chunk()

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
        if layout.is_committed(self._kvstore, chunk):
            return False
        with writing(self.path):
            futures = [self._arrays[name][rows].write(value) for name, value in values.items()]
            for future in futures:
                future.result()  # on disk, not just accepted: the marker must not come first
            layout.commit(self._kvstore, chunk, rows)
        return True

    def discard(self, chunk: int) -> None:
        """Marks a chunk as absent, so that it is searched again.

        Raises:
          ValueError: opened to read.
          IndexError: there is no such chunk.
        """
        self._check_writable()
        self.rows(chunk)
        layout.withdraw(self._kvstore, chunk)
        self._known.discard(chunk)

    def discard_damaged(self) -> list[int]:
        """Marks every damaged chunk as absent; returns their numbers. Raises as `discard`."""
        damaged = sorted({chunk for chunk, _ in self.faults()})
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
        index = rows_asked(rows, self.num_images)
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
            raise OSError(f"{self.path}: {'; '.join(faults)}; {layout.REPAIR}") from error

    def _faults(self, chunks: Iterable[int], names: Sequence[str]) -> Iterator[tuple[int, str]]:
        """(chunk, what is wrong with it), one for each array that cannot be read."""
        for chunk in sorted(chunks):
            for name in names:
                if what := layout.fault(self._arrays[name], self.rows(chunk)):
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
