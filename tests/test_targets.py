"""Targets on disk: round trip, resuming, refusal of other searches, damage."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax import targets
from dsl_jax.config import LayerSchedule, SearchConfig
from dsl_jax.search import SearchResult, search
from dsl_jax.targets import TargetStore, estimated_bytes, hash_stages, search_to_store

NUM_IMAGES, CHUNK = 9, 2  # five chunks, the last one with one image
CONFIG = SearchConfig(
    layers=(LayerSchedule(2, 0.3), LayerSchedule(0, 0.2), LayerSchedule(0, 0.1)),
    num_parents=2,
    num_explorers=2,
    num_refiners=2,
)
RANDOM = np.random.default_rng(0)
WEIGHTS = tuple(
    RANDOM.normal(size=shape).astype(np.float32) for shape in ((16, 12), (12, 6), (6, 3))
)
IMAGES = RANDOM.normal(size=(NUM_IMAGES, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(NUM_IMAGES) % 3
IDS = np.array([0, 3, 4, 7, 11, 12, 40, 41, 2**32 - 1])


def block(weights, images):
    return jnp.tanh(images.reshape(len(images), -1) @ weights).reshape(-1, 2, 2, 3)


def dense(weights, hidden):
    return jnp.tanh(hidden.reshape(len(hidden), -1) @ weights)


def head(weights, hidden):
    return hidden @ weights


def stages_of(*weights):
    return tuple(map(jax.tree_util.Partial, (block, dense, head), weights))


STAGES = stages_of(*WEIGHTS)
SHAPES = [(2, 2, 3), (6,), (3,)]


def run(path, **changes):
    arguments = {
        "key": jax.random.key(0),
        "stages": STAGES,
        "images": IMAGES,
        "labels": LABELS,
        "config": CONFIG,
        "dataset": "toy",
        "ids": IDS,
        "chunk_size": CHUNK,
    }
    return search_to_store(path, **{**arguments, **changes})


def files(folder):
    """Name -> bytes of everything in a store; a killed process may leave its locks behind."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.endswith(".__lock")
    }


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def equal(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """A complete store, not to be changed."""
    path = tmp_path_factory.mktemp("targets") / "undisturbed"
    run(path)
    return path


@pytest.fixture
def folder(undisturbed, tmp_path):
    """A copy of the complete store."""
    return Path(shutil.copytree(undisturbed, tmp_path / "copy"))


@pytest.fixture
def searched(monkeypatch):
    """The ids that each call of `search` was given."""
    calls = []

    def recorded(*arguments, ids, **options):
        calls.append(ids.tolist())
        return search(*arguments, ids=ids, **options)

    monkeypatch.setattr(targets, "search", recorded)
    return calls


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
    monkeypatch.setattr(targets, "_hash_rows", functools.partial(targets._hash_rows, block=3))
    monkeypatch.setattr(  # two chunks a call, as for two devices
        targets, "search", lambda *arguments, mesh, **options: search(*arguments, **options)
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


def test_bytes_are_estimated(undisturbed):
    result = TargetStore.open(undisturbed).read()
    size = sum(x.nbytes for x in jax.tree.leaves(result)) + IDS.nbytes
    assert estimated_bytes(SHAPES, NUM_IMAGES, [2, 0, 0]) == size


def test_progress_starts_at_what_is_done(folder, capsys):
    TargetStore.open(folder, "a").discard(0)
    run(folder, progress=True)
    bar = capsys.readouterr().err
    assert "7/9" in bar and "9/9" in bar and "image/s" in bar


# --------------------------------------------------------------------------------------------
# Resuming
# --------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_was(undisturbed, tmp_path, monkeypatch, searched):
    recorded = targets.search

    def interrupted(*arguments, **options):
        if len(searched) == 2:
            raise KeyboardInterrupt
        return recorded(*arguments, **options)

    path = tmp_path / "interrupted"
    monkeypatch.setattr(targets, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(path)
    store = TargetStore.open(path)
    assert store.missing_chunks() == [2, 3, 4] and not store.is_complete
    assert equal(store.read(slice(0, 4)), TargetStore.open(undisturbed).read(slice(0, 4)))
    with pytest.raises(ValueError, match=r"1 of 5 chunks .* chunk 2 \(rows 4 to 5\)"):
        store.read([0, 5])
    assert "chunk 4 (rows 8 to 8): not searched yet" in store.verify()

    monkeypatch.setattr(targets, "search", recorded)
    searched.clear()
    written = []
    assert run(path, on_chunk=written.append).is_complete
    assert searched == [IDS[4:6].tolist(), IDS[6:8].tolist(), IDS[8:].tolist()]
    assert written == [2, 3, 4]
    assert files(path) == files(undisturbed)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_targets
from dsl_jax.targets import TargetStore

def killed(self, chunk):
    if chunk == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(self, chunk)

commit, TargetStore._commit = TargetStore._commit, killed
test_targets.run(sys.argv[2])
"""


def test_a_process_killed_before_the_marker_leaves_the_chunk_absent(
    undisturbed, tmp_path, searched
):
    path = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(path)]
    root = str(Path(targets.__file__).parents[1])
    finished = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert (path / "layer_0/c/2/0/0/0").exists()  # its arrays are there, its marker is not
    assert TargetStore.open(path).missing_chunks() == [2, 3, 4]
    run(path)
    assert [ids[0] for ids in searched] == IDS[[4, 6, 8]].tolist()
    assert files(path) == files(undisturbed)


def test_a_complete_store_is_left_alone(folder, searched):
    def times():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = times()
    assert run(folder).is_complete
    assert searched == [] and times() == before


def test_a_run_killed_after_the_manifest_can_go_on(undisturbed, folder):
    for path in folder.iterdir():
        if path.name != targets.MANIFEST:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=r"array ids \(ids/zarr.json\) is absent"):
        TargetStore.open(folder)
    run(folder)
    assert files(folder) == files(undisturbed)


def test_the_chunk_size_of_the_store_is_taken_over(folder, searched):
    TargetStore.open(folder, "a").discard(4)
    assert run(folder, chunk_size=None).chunk_size == CHUNK
    assert searched == [IDS[8:].tolist()]


def test_the_chunk_size_may_exceed_the_images(undisturbed, tmp_path):
    store = run(tmp_path / "one", images=IMAGES[:1], labels=LABELS[:1], ids=IDS[:1])
    assert store.num_chunks == 1
    assert equal(store.read(), TargetStore.open(undisturbed).read([0]))


def test_two_processes_make_one_store(undisturbed, tmp_path):
    path, errors = tmp_path / "shared", []

    def work():
        try:
            run(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files(path) == files(undisturbed)


def test_of_two_searches_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    path, check = tmp_path / "raced", targets._check_disk_space

    def other_process_is_first(*arguments):
        monkeypatch.setattr(targets, "_check_disk_space", check)
        run(path, dataset="other")
        check(*arguments)

    monkeypatch.setattr(targets, "_check_disk_space", other_process_is_first)
    with pytest.raises(ValueError, match="dataset: 'other' there, 'toy' here"):
        run(path)
    assert TargetStore.open(path).manifest["fingerprint"]["dataset"] == "other"


def test_a_process_that_was_overtaken_begins_at_the_other_end(
    undisturbed, tmp_path, monkeypatch, searched
):
    path = tmp_path / "overtaken"
    recorded, theirs = targets.search, TargetStore.open(undisturbed)

    def overtaken(*arguments, **options):
        if not searched:  # another process is faster with chunk 0, and does chunk 1 as well
            other = TargetStore.open(path, "a")
            for chunk in (0, 1):
                assert other.write(chunk, theirs.read(other.rows(chunk)))
        return recorded(*arguments, **options)

    monkeypatch.setattr(targets, "search", overtaken)
    written = []
    run(path, on_chunk=written.append)
    assert written == [4, 3, 2]
    assert [ids[0] for ids in searched] == IDS[[0, 8, 6, 4]].tolist()


def test_processes_of_one_job_begin_with_their_own_range(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    assert targets._working_order([0, 1, 3, 4, 5], 6) == [0, 1, 5, 4, 3]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert targets._working_order([0, 1, 3, 4, 5], 6) == [3, 4, 5, 1, 0]


def test_too_little_disk_space_is_told_before_the_search(tmp_path, monkeypatch, searched):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 1234))
    needed = estimated_bytes(SHAPES, NUM_IMAGES, [2, 0, 0]) + 5 * 7 * 4096
    with pytest.raises(OSError, match=f"need {needed} bytes .* 1234 free"):
        run(tmp_path / "full")
    assert searched == [] and not (tmp_path / "full").exists()


def test_disk_space_is_needed_for_absent_chunks_only(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 0))
    assert run(folder).is_complete
    TargetStore.open(folder, "a").discard(4)
    needed = estimated_bytes(SHAPES, 1, [2, 0, 0]) + 7 * 4096
    with pytest.raises(OSError, match=f"need {needed} bytes"):
        run(folder)


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
    manifest = json.loads((folder / targets.MANIFEST).read_text())
    assert manifest["provenance"]["versions"]["jax"] == jax.__version__
    manifest["provenance"]["backend"] = "abacus"
    (folder / targets.MANIFEST).write_text(json.dumps(manifest))
    assert run(folder).is_complete
    assert "backend: 'abacus' there, 'cpu' here" in caplog.text


GLOBAL = np.ones(3)


def hash_variants():
    """Stages that all differ."""

    def scaled(factor):
        return lambda hidden: hidden * factor

    def shifted(hidden, by=0.0):
        return hidden + by

    def more_shifted(hidden, by=0.0):
        return hidden + by

    more_shifted.__qualname__ = shifted.__qualname__
    more_shifted.__defaults__ = (1.0,)
    weights = np.ones((2, 2), np.float32)
    partial = functools.partial(jax.tree_util.Partial, head)
    return [
        (partial(weights),),
        (partial(weights), partial(weights)),
        (partial(-weights),),
        (partial(weights.astype(np.float16)),),
        (partial(weights.reshape(4)),),
        (jax.tree_util.Partial(dense, weights),),
        (partial(weights, hidden=weights),),
        (partial({"a": weights}),),
        (partial({"b": weights}),),
        (partial(CONFIG),),
        (partial(dataclasses.replace(CONFIG, num_parents=3)),),
        (scaled(weights),),
        (scaled(2 * weights),),
        (scaled(2.0),),
        (shifted,),
        (more_shifted,),
        (jax.nn.gelu, jnp.add, jnp.tanh),
    ]


def test_stages_that_differ_have_different_hashes(monkeypatch):
    hashes = [hash_stages(stages) for stages in hash_variants()]
    assert len(set(hashes)) == len(hashes)

    def uses_a_global(hidden):
        return hidden * GLOBAL

    before = hash_stages([uses_a_global])
    monkeypatch.setitem(globals(), "GLOBAL", 2 * GLOBAL)
    assert hash_stages([uses_a_global]) != before


def test_hashes_are_the_same_in_every_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_targets as t\n"
        "print(*map(t.hash_stages, t.hash_variants()))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(targets.__file__).parents[1]),
        "PYTHONHASHSEED": "7",
    }
    printed = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert printed == [hash_stages(stages) for stages in hash_variants()]


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="9 images and 8 labels"):
        run(tmp_path / "none", labels=LABELS[:8])
    with pytest.raises(ValueError, match="2 stages but 3 layer schedules"):
        run(tmp_path / "none", stages=STAGES[:2])
    with pytest.raises(ValueError, match="chunk_size is 0"):
        run(tmp_path / "none", chunk_size=0)
    assert not (tmp_path / "none").exists()


# --------------------------------------------------------------------------------------------
# Opening, damage, repair
# --------------------------------------------------------------------------------------------


def test_opening_what_is_no_store_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no targets there"):
        TargetStore.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not a target store: .* note.txt"):
        TargetStore.open(tmp_path)
    with pytest.raises(ValueError, match="not a target store"):
        run(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        TargetStore.open(tmp_path / "note.txt")
    with pytest.raises(ValueError, match="mode 'w' is unknown"):
        TargetStore.open(tmp_path, "w")


@pytest.mark.parametrize("content", ['{"format": 1, "finger', "[]", '{"format": 1}', "{}"])
def test_an_incomplete_manifest_is_told(folder, content):
    (folder / targets.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is incomplete or damaged"):
        TargetStore.open(folder)


def test_a_format_of_the_future_is_refused(folder):
    manifest = json.loads((folder / targets.MANIFEST).read_text())
    (folder / targets.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(ValueError, match="format 2; this version of dsl_jax reads 1"):
        TargetStore.open(folder)


def test_a_damaged_chunk_is_named_and_mended(undisturbed, folder, searched, caplog):
    flip_byte(folder / "layer_1/c/2/0")
    (folder / "layer_0/c/4/0/0/0").unlink()
    flip_byte(folder / "fitness_0/c/3/0")
    store = TargetStore.open(folder)
    with pytest.raises(OSError, match=r"layer 1, chunk 2 \(rows 4 to 5\): damaged .* repair=True"):
        store.read(slice(5, 6))
    with pytest.raises(OSError, match=r"layer 0, chunk 4 \(rows 8 to 8\): absent"):
        store.read([8])
    with pytest.raises(OSError, match="fitness of layer 0, chunk 3"):
        store.fitness()
    store.read(slice(0, 4))  # the others can be read
    assert [line.split(" (rows")[0] for line in store.verify()] == [
        "layer 1, chunk 2",
        "fitness of layer 0, chunk 3",
        "layer 0, chunk 4",
    ]
    run(folder)
    assert searched == []  # without repair nothing is read
    assert run(folder, repair=True).verify() == []
    assert [ids[0] for ids in searched] == IDS[[4, 6, 8]].tolist()
    assert "again: [2, 3, 4]" in caplog.text
    assert files(folder) == files(undisturbed)


@pytest.mark.parametrize("layer", range(3))
def test_damage_in_any_layer_is_detected(folder, layer):
    path = next((folder / f"layer_{layer}/c/1").rglob("0"))
    flip_byte(next(p for p in [path, *path.rglob("0")] if p.is_file()))
    assert len(TargetStore.open(folder).verify()) == 1


def test_damaged_ids_are_told_and_mended(undisturbed, folder):
    flip_byte(folder / "ids/c/0")
    with pytest.raises(ValueError, match=r"ids cannot be read .* repair=True"):
        TargetStore.open(folder)
    run(folder, repair=True)
    assert files(folder) == files(undisturbed)
    other = run(folder.parent / "other", ids=IDS[::-1])
    shutil.copy(Path(other.path) / "ids/c/0", folder / "ids/c/0")
    with pytest.raises(ValueError, match=r"ids are not those of manifest.json"):
        TargetStore.open(folder)


def test_a_chunk_without_its_marker_is_absent(folder):
    (folder / "committed/00000003").unlink()
    store = TargetStore.open(folder)
    assert store.missing_chunks() == [3] and not store.is_complete
    with pytest.raises(ValueError, match="not been searched yet"):
        store.read(slice(6, 7))


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
    root = str(Path(targets.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=True)
