"""Targets on disk: round trip, refusal of other searches, writing."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_targets import (
    CHUNK,
    CONFIG,
    IDS,
    IMAGES,
    LABELS,
    NUM_IMAGES,
    SHAPES,
    STAGES,
    WEIGHTS,
    equal,
    files,
    run,
    stages_of,
)

from dsl_jax.config import LayerSchedule
from dsl_jax.evolution.image import SearchResult
from dsl_jax.evolution.images import search
from dsl_jax.files import unsealed
from dsl_jax.targets import fill, fingerprint, layout, store
from dsl_jax.targets.store import TargetStore


@pytest.fixture(scope="session")
def expected():
    """What `search` itself gives."""
    result = search(jax.random.key(0), STAGES, IMAGES, LABELS, CONFIG, ids=IDS, chunk_size=CHUNK)
    return jax.tree.map(np.asarray, result)


# --------------------------------------------------------------------------------------------
# Round trip
# --------------------------------------------------------------------------------------------


def test_the_store_holds_what_search_returns(undisturbed, expected):
    result = TargetStore.open(undisturbed).read()
    assert isinstance(result, SearchResult)
    assert [x.dtype for x in result.representations] == [np.float16, np.float16, np.float32]
    assert [x.shape for x in result.representations] == [(NUM_IMAGES, *s) for s in SHAPES]
    assert [x.dtype for x in result.fitness] == [np.float32] * 3
    assert [x.shape for x in result.fitness] == [(NUM_IMAGES, g + 1) for g in (2, 0, 0)]
    *hidden, logits = expected.representations
    assert equal(result.representations[:-1], tuple(x.astype(np.float16) for x in hidden))
    np.testing.assert_array_equal(result.representations[-1], logits)
    assert equal(result.fitness, expected.fitness)


def test_a_store_describes_itself(undisturbed):
    store = TargetStore.open(undisturbed)
    assert (store.num_images, store.num_chunks, store.num_layers) == (NUM_IMAGES, 5, 3)
    assert store.path == undisturbed
    assert store.config == CONFIG and hash(store.config) == hash(CONFIG)
    assert store.ids.dtype == np.int64
    np.testing.assert_array_equal(store.ids, IDS)
    assert store.is_complete and store.missing_chunks() == [] and store.verify() == []


@pytest.mark.parametrize(
    "rows",
    [
        slice(3, 7),
        slice(None, None, -2),
        slice(5, 2),
        slice(-2, None),
        np.array([8, 0, 0, -3]),
        [1],
        np.array([], int),
    ],
    ids=str,
)
def test_rows_are_picked_as_numpy_picks_them(undisturbed, rows):
    store = TargetStore.open(undisturbed)
    assert equal(store.read(rows), jax.tree.map(lambda x: x[rows], store.read()))
    assert equal(store.fitness(rows), store.read(rows).fitness)


def test_rows_that_are_not_there_raise(undisturbed):
    store = TargetStore.open(undisturbed)
    with pytest.raises(IndexError, match="9 is out of bounds"):
        store.read([NUM_IMAGES])
    with pytest.raises(ValueError, match="rows 3: give a slice"):
        store.read(3)


def test_devices_share_the_chunks_and_change_no_bit(undisturbed, tmp_path, searched):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    run(tmp_path / "two", mesh=mesh)
    assert [len(ids) for ids in searched] == [4, 4, 1]
    assert files(tmp_path / "two") == files(undisturbed)


def test_the_same_code_serves_stores_that_are_not_folders(undisturbed):
    store = run("memory://round_trip")
    assert equal(store.read(), TargetStore.open(undisturbed).read())
    again = TargetStore.open({"driver": "memory", "path": "round_trip/"}, "a")
    again.discard(1)
    assert TargetStore.open("memory://round_trip/").missing_chunks() == [1]


class OnlySlices:
    """Images that are never in memory as a whole."""

    def __init__(self, images):
        self.images, self.largest = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        taken = self.images[rows]
        self.largest = max(self.largest, len(taken))
        return taken


def test_images_are_taken_and_prepared_a_part_at_a_time(undisturbed, tmp_path, monkeypatch):
    parts = functools.partial(fingerprint.hash_rows, block=3)
    monkeypatch.setattr(fingerprint, "hash_rows", parts)
    monkeypatch.setattr(  # two chunks a call, as for two devices
        fill, "search", lambda *arguments, mesh, **options: search(*arguments, **options)
    )
    images = OnlySlices(IMAGES.astype(np.float64) * 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    path = tmp_path / "parts"
    store = run(path, images=images, preprocess=lambda x: x / 2, mesh=mesh)
    assert files(path) == files(undisturbed)
    store.discard(0)
    store.discard(3)  # chunks that are not neighbours go into one call
    run(path, images=images, preprocess=lambda x: jnp.asarray(x / 2), mesh=mesh)
    assert files(path) == files(undisturbed)
    assert images.largest == 4


def test_raw_pixels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images are uint8: give normalised floats"):
        run(tmp_path / "raw", images=IMAGES.astype(np.uint8))
    assert not (tmp_path / "raw").exists()


def test_progress_starts_at_what_is_done(folder, capsys):
    TargetStore.open(folder, "a").discard(0)
    run(folder, progress=True)
    bar = capsys.readouterr().err
    assert "7/9" in bar and "9/9" in bar and "image/s" in bar


# --------------------------------------------------------------------------------------------
# Another search
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"key": jax.random.key(1)}, ["key[1][1]: 0 there, 1 here"]),
        ({"dataset": "other"}, ["dataset: 'toy' there, 'other' here"]),
        ({"chunk_size": 3}, ["chunk_size: 2 there, 3 here"]),
        ({"ids": None}, ["ids_sha256"]),
        ({"labels": 2 - LABELS}, ["labels_sha256"]),
        ({"images": -IMAGES}, ["images_sha256"]),
        ({"stages": stages_of(*WEIGHTS[:2], -WEIGHTS[2])}, ["stages_sha256"]),
        (
            {"images": IMAGES[:4], "labels": LABELS[:4], "ids": IDS[:4]},
            ["num_images: 9 there, 4 here", "ids_sha256", "images_sha256", "labels_sha256"],
        ),
        (
            {
                "config": dataclasses.replace(
                    CONFIG, num_parents=3, layers=(LayerSchedule(2, 0.5), *CONFIG.layers[1:])
                )
            },
            [
                "config.layers[0].mutation_strength: 0.3 there, 0.5 here",
                "config.num_parents: 2 there, 3 here",
            ],
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_another_search_is_refused_and_the_fields_are_named(undisturbed, changes, fields):
    before = files(undisturbed)
    with pytest.raises(ValueError, match="holds the targets of another search") as error:
        run(undisturbed, **changes)
    lines = [line for line in str(error.value).splitlines() if line.startswith("  ")]
    assert len(lines) == len(fields)
    assert all(field in str(error.value) for field in fields)
    assert files(undisturbed) == before


def test_other_conditions_are_warned_of(folder, caplog):
    """Where statistics may be rounded otherwise; not where a stage computes something else."""
    manifest = unsealed(json.loads((folder / layout.MANIFEST).read_text()))
    assert manifest["provenance"]["versions"]["jax"] == jax.__version__
    rounded = stages_of(*WEIGHTS[:2], np.nextafter(WEIGHTS[2], np.float32(9)))
    with pytest.raises(ValueError, match="stages_sha256"):
        run(folder, stages=rounded)
    manifest["provenance"] |= {"backend": "abacus", "processor": "slide rule"}
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    assert run(folder, stages=rounded).is_complete
    assert "backend: 'abacus' there, 'cpu' here" in caplog.text
    assert "processor: 'slide rule' there, " in caplog.text
    with pytest.raises(ValueError, match="what stage 2 computes"):
        run(folder, stages=stages_of(*WEIGHTS[:2], -WEIGHTS[2]))


def test_what_an_older_store_does_not_say_of_its_machine_is_no_other_condition(folder, caplog):
    manifest = unsealed(json.loads((folder / layout.MANIFEST).read_text()))
    del manifest["provenance"]["processor"]
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    assert run(folder).is_complete
    assert "other conditions" not in caplog.text


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"labels are \(8,\): 9 images need one each"):
        run(tmp_path / "none", labels=LABELS[:8])
    with pytest.raises(ValueError, match="2 stages but 3 layer schedules"):
        run(tmp_path / "none", stages=STAGES[:2])
    with pytest.raises(ValueError, match="chunk_size is 0"):
        run(tmp_path / "none", chunk_size=0)
    assert not (tmp_path / "none").exists()


# --------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------


def test_zeros_are_stored_like_other_values(folder):
    store = TargetStore.open(folder, "a")
    zeros = jax.tree.map(np.zeros_like, store.read(store.rows(1)))
    store.discard(1)
    assert store.write(1, zeros)
    assert equal(store.read(store.rows(1)), zeros)


def test_writing_is_checked(folder):
    reader, store = TargetStore.open(folder), TargetStore.open(folder, "a")
    part = store.read(store.rows(1))
    with pytest.raises(ValueError, match="opened to read: open it with mode='a'"):
        reader.write(1, part)
    with pytest.raises(ValueError, match="opened to read"):
        reader.discard(1)
    with pytest.raises(IndexError, match=r"chunk 5: .* has chunks 0 to 4"):
        store.write(5, part)
    with pytest.raises(IndexError, match="chunk -1"):
        store.discard(-1)
    with pytest.raises(ValueError, match=r"layer 0 is \[2, 2, 2, 3\]: chunk 4 .* \[1, 2, 2, 3\]"):
        store.write(4, part)
    assert not store.write(1, jax.tree.map(np.zeros_like, part))  # is there: stays as it is
    assert equal(store.read(store.rows(1)), part)


@pytest.mark.parametrize("value", [1e5, np.nan])
def test_values_that_float16_cannot_hold_are_named(folder, value):
    store = TargetStore.open(folder, "a")
    part = jax.tree.map(lambda x: x.astype(np.float32), store.read(store.rows(1)))
    store.discard(1)
    part.representations[1][1, 2] = value
    with pytest.raises(ValueError, match=rf"layer 1, row 3 \(id 7\) has the value {value}"):
        store.write(1, part)
    assert store.missing_chunks() == [1]


def test_importing_starts_no_backend():
    code = (
        "import sys, dsl_jax.targets, jax._src.xla_bridge as b\n"
        "assert not b._backends\n"
        "assert not {'evosax', 'matplotlib', 'tensorflow_datasets'} & set(sys.modules)"
    )
    root = str(Path(store.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=True)
