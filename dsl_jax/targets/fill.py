"""Fills a store: searches what is absent, in any number of processes (paper 3.1 and 4.2).

Letters: N images, M rows asked for.
"""

import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dsl_jax.config import SearchConfig
from dsl_jax.devices import check_own_mesh
from dsl_jax.evolution.image import SearchResult, Stages
from dsl_jax.evolution.images import checked_labels, choose_chunk_size, search
from dsl_jax.evolution.rules import check_schedules
from dsl_jax.files import writing
from dsl_jax.inputs import check_distinct, check_ids, check_images
from dsl_jax.keys import check_key
from dsl_jax.progress import progress_bar
from dsl_jax.targets import layout
from dsl_jax.targets.claims import Claims
from dsl_jax.targets.fingerprint import check_same_search, make_manifest
from dsl_jax.targets.store import TargetStore
from dsl_jax.values import whole_number

logger = logging.getLogger(__name__)


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
    starts: Callable[[jax.Array, jax.Array], Sequence[jax.Array]] | None = None,
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
      key, stages, config: as in `search`.
      mesh: as in `search`, of this process's devices.
      images: [N, H, W, C], normalised float32, or what `preprocess` takes; anything that has a
        length and can be sliced, such as a `numpy.memmap`.
      labels: [N] integers.
      dataset: its name, kept with the targets.
      ids: [N] integers below 2**32, the images' rows in their source; None: 0 .. N-1.
      starts: makes of images [B, ...] and labels [B] what `search` takes as `starts`, such as the
        `of` of a `Sampler`; of each image by itself, so that it does not depend on the others.
      chunk_size: images in one chunk and one call, on each device; None: as in the store that is
        there, or `choose_chunk_size`.
      preprocess: applied to some images [M, H, W, C] at a time, such as `Dataset.normalize`.
      progress: show a bar with rate and time left; a text: under this name.
      repair: read all that is there first, and search damaged chunks again.
      on_chunk: called with each chunk's number after it was written.

    Returns:
      The complete store, opened with mode "a".

    Raises:
      ValueError: the store is that of another search (what differs is named, also a stage that
        computes something else than then), is damaged, or the folder holds something else; two
        ids are alike; or, as `search` has it, an image is not finite (all are read before the
        first is searched), or arguments do not fit.
      OSError: not enough free space on a local disk; it is checked before the search.
      FloatingPointError: no image of the first chunks has a finite fitness.
    """
    check_schedules(stages, config)
    check_key(key)
    check_own_mesh(mesh)
    kvstore = layout.open_kvstore(path)
    there = layout.read_manifest(kvstore, path)
    ids = check_ids(ids, len(images))
    check_distinct(ids, "the argument ids")
    take = functools.partial(_take, images, ids, preprocess)
    image_shape = take(slice(0, 1)).shape[1:]
    labels = checked_labels(stages, image_shape, labels, len(images), config)
    begins, is_free = there is None, chunk_size is None
    if chunk_size is None:
        if there is not None:
            chunk_size = there["fingerprint"]["chunk_size"]
        else:
            chunk_size = choose_chunk_size(stages, image_shape, config)
    if (chunk_size := whole_number("chunk_size", chunk_size)) < 1:
        raise ValueError(f"chunk_size is {chunk_size}: it must be at least 1")
    ours = make_manifest(
        key,
        stages,
        take,
        labels,
        ids,
        config,
        dataset=dataset,
        chunk_size=chunk_size,
        starts=starts,
    )
    if there is not None:
        check_same_search(ours, there, path)
    committed = layout.committed_chunks(kvstore)
    layout.check_disk_space(kvstore, ours["fingerprint"], committed)
    with writing(path):
        if begins:
            layout.write_manifest(kvstore, ours)
            # That of another process, if it was first.
            there = layout.read_manifest(kvstore, path) or ours
            if is_free:
                chunk_size = there["fingerprint"]["chunk_size"]
                ours["fingerprint"]["chunk_size"] = chunk_size
            check_same_search(ours, there, path)
        if begins or repair or len(committed) * chunk_size < len(ids):
            layout.create_arrays(kvstore, path, ours["fingerprint"], ids, repair)

    store = TargetStore.open(path, "a")
    if repair and (damaged := store.discard_damaged()):
        logger.warning("%s: searching damaged chunks again: %s", path, damaged)
    fresh = tuple(map(_compiled_anew, stages))
    begin = None if starts is None else _one_by_one(starts)

    def search_rows(rows: np.ndarray) -> SearchResult:
        some = take(rows)
        return search(
            key,
            fresh,
            some,
            labels[rows],
            config,
            ids=ids[rows],
            starts=None if begin is None else begin(some, labels[rows]),
            chunk_size=chunk_size,
            mesh=mesh,
            check_finite=not layout.committed_chunks(kvstore),  # of a later chunk it may be so
        )

    search_missing(
        store,
        Claims(kvstore),
        search_rows,
        chunks_per_call=1 if mesh is None else mesh.size,
        progress=progress,
        on_chunk=on_chunk,
    )
    return store


def _take(
    images: Any,
    ids: np.ndarray,
    preprocess: Callable[[np.ndarray], Any] | None,
    rows: slice | np.ndarray,
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
    taken = taken.astype(np.float32, copy=False)
    check_images(taken, ids[rows])
    return taken


def _compiled_anew(stage: Callable) -> Callable:
    """A function as it computes now: `jit` would go on with what the same one took from around it.

    A `Partial` is given what it takes, and stays, so that another network is only other data.
    """
    if isinstance(stage, jax.tree_util.Partial):
        return stage
    return lambda hidden: stage(hidden)


def _one_by_one(starts: Callable) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]:
    """`starts`, of each image by itself: convolutions of a batch may round otherwise."""

    def of_one(one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        return tuple(h[0] for h in starts(*(array[None] for array in one)))

    mapped = jax.jit(lambda *arrays: jax.lax.map(of_one, arrays))
    return lambda *arrays: jax.device_get(mapped(*arrays))


PATIENCE = 2.0  # times our slowest chunk


def search_missing(
    store: Any,
    claims: Claims,
    search_rows: Callable[[np.ndarray], Any],
    *,
    chunks_per_call: int,
    progress: bool | str,
    on_chunk: Callable[[int], None] | None,
) -> None:
    """Searches and writes absent chunks until there are none, whoever does them.

    Args:
      store: a `TargetStore` opened with mode "a".
      claims: those on its chunks.
      search_rows: gives the `SearchResult` of some rows, integers [M].
      chunks_per_call: chunks whose rows it is given at a time.
      progress: show a bar, a text: under this name; it counts what other processes do, too.
      on_chunk: called with the number of each chunk that this process has written.
    """
    rows = [store.rows(chunk) for chunk in range(store.num_chunks)]

    def images(chunks: Sequence[int]) -> int:
        return sum(rows[chunk].stop - rows[chunk].start for chunk in chunks)

    missing = store.missing_chunks()
    absent, slowest = images(missing), 0.0
    bar = progress_bar(
        store.num_images,
        unit="image",
        description=progress if isinstance(progress, str) else "search",
        show=bool(progress),
        done=store.num_images - absent,
    )
    with bar:
        while missing:
            started = time.monotonic()
            order = working_order(missing, store.num_chunks)
            chunks = claims.take(order, chunks_per_call, PATIENCE * slowest)
            if chunks:
                try:
                    _search_chunks(store, chunks, search_rows, on_chunk)
                finally:
                    claims.give_back(chunks)
                slowest = max(slowest, time.monotonic() - started)
            else:
                time.sleep(min(5.0, max(0.05, slowest / 10)))
            missing = store.missing_chunks()
            before, absent = absent, images(missing)
            bar.update(before - absent)
    claims.clear()


def _search_chunks(
    store: Any,
    chunks: Sequence[int],
    search_rows: Callable[[np.ndarray], Any],
    on_chunk: Callable[[int], None] | None,
) -> None:
    """Searches some chunks together, writes one after the other."""
    slices = [store.rows(chunk) for chunk in chunks]
    searched = np.concatenate([np.arange(rows.start, rows.stop) for rows in slices])
    try:
        result = search_rows(searched)
    except Exception as error:
        error.add_note(
            f"raised by the search of the images with the ids {store.ids[searched].tolist()}; what "
            "was searched before is kept"
        )
        if "RESOURCE_EXHAUSTED" in str(error):
            size = store.chunk_size
            error.add_note(
                f"the device has too little memory left for {size} images at once: give a smaller "
                f"chunk_size, such as {size // 2}, and begin another store (by --config.chunk_size "
                "and another --output_dir; to which a sweep's finished points/*.json and *.npz may "
                "be copied)"
                if size > 1
                else "the device has too little memory left for one image"
            )
        raise
    result, start = jax.tree.map(np.asarray, result), 0
    for chunk, rows in zip(chunks, slices, strict=True):
        stop = start + rows.stop - rows.start
        part = jax.tree.map(lambda x: x[start:stop], result)
        start = stop
        if store.write(chunk, part) and on_chunk is not None:
            on_chunk(chunk)


def working_order(missing: Sequence[int], num_chunks: int) -> list[int]:
    """A process of `jax.distributed` does its own range first, then the others' from the end."""
    process, count = jax.process_index(), jax.process_count()
    own = range(process * num_chunks // count, (process + 1) * num_chunks // count)
    return [c for c in missing if c in own] + [c for c in reversed(missing) if c not in own]
