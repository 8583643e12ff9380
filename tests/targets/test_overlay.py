"""Targets of several searches as one."""

import numpy as np
import pytest
from toy_targets import IDS, IMAGES, LABELS, run

from dsl_jax.targets.overlay import Overlay
from dsl_jax.targets.reading import Control
from dsl_jax.targets.store import TargetStore

AGAIN = [5, 1, 8]  # rows that a second search has, in its own order
ONCE_MORE = [1]


@pytest.fixture(scope="module")
def stores(undisturbed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlay")
    later = []
    for name, rows in (("second", AGAIN), ("third", ONCE_MORE)):
        path = folder / name
        run(path, images=-IMAGES[rows], labels=LABELS[rows], ids=IDS[rows])
        later.append(TargetStore.open(path))
    return [TargetStore.open(undisturbed), *later]


def test_an_image_has_the_targets_of_the_last_search_that_had_it(stores):
    first, second, third = (store.read().representations for store in stores)
    overlay = Overlay(stores)
    np.testing.assert_array_equal(overlay.ids, IDS)
    rows = np.array([8, 0, 1, 5, 3, 1])
    ours = overlay.read(rows).representations
    for layer, values in enumerate(ours):
        expected = [
            second[layer][AGAIN.index(8)],
            first[layer][0],
            third[layer][0],
            second[layer][AGAIN.index(5)],
            first[layer][3],
            third[layer][0],
        ]
        np.testing.assert_array_equal(values, np.stack(expected))
        assert not np.array_equal(values[0], first[layer][8])
    assert [h.shape[0] for h in overlay.read().representations] == [len(IDS)] * len(ours)


def test_one_store_alone_reads_as_it_is(stores):
    ours = Overlay(stores[:1]).read(np.array([4, 2])).representations
    for mine, theirs in zip(ours, stores[0].read([4, 2]).representations, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_no_rows_are_read_as_a_store_reads_them(stores):
    none = np.array([], int)
    ours, theirs = (x.read(none).representations for x in (Overlay(stores), stores[0]))
    assert [(h.shape, h.dtype) for h in ours] == [(h.shape, h.dtype) for h in theirs]


def test_stores_that_do_not_fit_are_refused(stores):
    with pytest.raises(ValueError, match="at least one store"):
        Overlay([])
    with pytest.raises(ValueError, match=r"ids that the first store lacks: \["):
        Overlay([stores[1], stores[0]])


def test_a_single_number_is_no_rows(stores):
    for targets in (Overlay(stores), Control(IDS, lambda rows: (IMAGES[rows],))):
        with pytest.raises(ValueError, match="rows 3: give a slice"):
            targets.read(3)
