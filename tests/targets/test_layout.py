"""What is in a store's folder: what is no store is refused, damage is told and mended."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import jax
import pytest
from toy_targets import IDS, NUM_IMAGES, SHAPES, files, run

from dsl_jax.files import unsealed
from dsl_jax.targets import layout
from dsl_jax.targets.layout import estimated_bytes
from dsl_jax.targets.store import TargetStore


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


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
    (folder / layout.MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json is incomplete or damaged"):
        TargetStore.open(folder)


def test_a_format_of_the_future_is_refused(folder):
    manifest = unsealed(json.loads((folder / layout.MANIFEST).read_text()))
    (folder / layout.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(ValueError, match="format 2; this version of dsl_jax reads 1"):
        TargetStore.open(folder)


def test_of_two_manifests_written_at_once_the_first_stays(tmp_path, monkeypatch):
    kvstore, dumps = layout.open_kvstore(tmp_path), json.dumps

    def other_process_is_first(manifest, **options):
        monkeypatch.setattr(json, "dumps", dumps)
        layout.write_manifest(kvstore, {"dataset": "first"})
        return dumps(manifest, **options)

    monkeypatch.setattr(json, "dumps", other_process_is_first)
    layout.write_manifest(kvstore, {"dataset": "second"})
    assert unsealed(json.loads((tmp_path / layout.MANIFEST).read_text())) == {"dataset": "first"}


def test_a_damaged_chunk_is_named_and_mended(undisturbed, folder, caplog):
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
    written = []
    run(folder, on_chunk=written.append)
    assert written == []  # without repair nothing is read
    assert run(folder, repair=True, on_chunk=written.append).verify() == []
    assert written == [2, 3, 4]
    assert "again: [2, 3, 4]" in caplog.text
    assert files(folder) == files(undisturbed)


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


def test_bytes_are_estimated(undisturbed):
    result = TargetStore.open(undisturbed).read()
    size = sum(x.nbytes for x in jax.tree.leaves(result)) + IDS.nbytes
    assert estimated_bytes(SHAPES, NUM_IMAGES, [2, 0, 0]) == size


def test_too_little_disk_space_is_told_before_the_search(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 1234))
    needed = estimated_bytes(SHAPES, NUM_IMAGES, [2, 0, 0]) + 5 * 7 * 4096
    with pytest.raises(OSError, match=f"need {needed} bytes .* 1234 free"):
        run(tmp_path / "full")
    assert not (tmp_path / "full").exists()


def test_disk_space_is_needed_for_absent_chunks_only(folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 0, 0))
    assert run(folder).is_complete
    TargetStore.open(folder, "a").discard(4)
    needed = estimated_bytes(SHAPES, 1, [2, 0, 0]) + 7 * 4096
    with pytest.raises(OSError, match=f"need {needed} bytes"):
        run(folder)


LEFT = (".DS_Store", ".nfs000000000123", "._00000001", "00000001.tmp", "Thumbs.db", "1")


def test_files_that_others_leave_among_the_markers_are_passed_over(undisturbed, folder):
    for name in LEFT:
        (folder / layout.MARKERS / name).write_text("theirs")
    store = TargetStore.open(folder, "a")
    assert store.is_complete and store.verify() == []
    store.discard(1)
    assert store.missing_chunks() == [1]
    assert run(folder).is_complete
    for name in LEFT:
        (folder / layout.MARKERS / name).unlink()
    assert files(folder) == files(undisturbed)


def test_a_file_in_the_place_of_a_folder_above_is_named(tmp_path):
    (tmp_path / "seed_0").touch()
    for begin in (TargetStore.open, run):
        with pytest.raises(ValueError, match="seed_0 is a file, where a folder should be"):
            begin(tmp_path / "seed_0" / "targets")
