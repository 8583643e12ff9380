"""Targets of several searches as one: of an image's targets those of the last search that had it.

Letters: N images, M rows asked for.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from dsl_jax.data.dataset import rows_of
from dsl_jax.evolution.image import SearchResult
from dsl_jax.targets.reading import joined, rows_asked
from dsl_jax.targets.store import TargetStore


class Overlay:
    """Reads as a `TargetStore` does: an image that was not searched again keeps its last target.

    ids: int64 [N], those of the first store.

    Args:
      stores: the first has all images, each further one some of them.

    Raises:
      ValueError: no store, or one that has an image which the first has not.
    """

    def __init__(self, stores: Sequence[TargetStore]):
        if not stores:
            raise ValueError("an overlay needs at least one store")
        self.ids = stores[0].ids
        self._stores = tuple(stores)
        self._store = np.zeros(len(self.ids), np.int64)
        self._row = np.arange(len(self.ids))
        for index, store in enumerate(stores[1:], 1):
            rows = rows_of(self.ids, store.ids)
            if unknown := store.ids[rows < 0].tolist():
                raise ValueError(
                    f"{store.path} has ids that the first store lacks: {unknown[:5]} ..."
                )
            self._store[rows] = index
            self._row[rows] = np.arange(len(store.ids))

    def read(self, rows: np.ndarray | slice | None = None) -> SearchResult:
        """Targets of some images, in the order of `rows` [M] (None: all); see `TargetStore.read`.

        The fitness has no place here: searches of different lengths do not fit in one array.
        """
        rows = rows_asked(rows, len(self.ids))

        def parts() -> Iterator[tuple[np.ndarray, tuple[np.ndarray, ...]]]:
            for index, store in enumerate(self._stores):
                places = np.flatnonzero(self._store[rows] == index)
                if len(places) or not len(rows):  # of no rows the first store's shapes
                    yield places, store.read(self._row[rows[places]]).representations

        return SearchResult(joined(len(rows), parts()), ())
