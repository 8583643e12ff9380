"""Targets on disk: a search that was interrupted or killed goes on where it was."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toy_targets import (
    CHUNK,
    CONFIG,
    IDS,
    IMAGES,
    LABELS,
    STAGES,
    WEIGHTS,
    block,
    dense,
    equal,
    files,
    head,
    run,
)

from dsl_jax.evolution.images import search
from dsl_jax.files import unsealed
from dsl_jax.targets import fill, layout, store
from dsl_jax.targets.store import TargetStore


def test_an_interrupted_run_goes_on_where_it_was(undisturbed, tmp_path, monkeypatch, searched):
    recorded = fill.search

    def interrupted(*arguments, **options):
        if len(searched) == 2:
            raise KeyboardInterrupt
        return recorded(*arguments, **options)

    path = tmp_path / "interrupted"
    monkeypatch.setattr(fill, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(path)
    store = TargetStore.open(path)
    assert store.missing_chunks() == [2, 3, 4] and not store.is_complete
    assert equal(store.read(slice(0, 4)), TargetStore.open(undisturbed).read(slice(0, 4)))
    with pytest.raises(ValueError, match=r"1 of 5 chunks .* chunk 2 \(rows 4 to 5\)"):
        store.read([0, 5])
    assert "chunk 4 (rows 8 to 8): not searched yet" in store.verify()

    monkeypatch.setattr(fill, "search", recorded)
    searched.clear()
    written = []
    assert run(path, on_chunk=written.append).is_complete
    assert searched == [IDS[4:6].tolist(), IDS[6:8].tolist(), IDS[8:].tolist()]
    assert written == [2, 3, 4]
    assert files(path) == files(undisturbed)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import toy_targets
from dsl_jax.targets import layout

def killed(kvstore, chunk, rows):
    if chunk == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    commit(kvstore, chunk, rows)

commit, layout.commit = layout.commit, killed
toy_targets.run(sys.argv[2])
"""


def test_a_process_killed_before_the_marker_leaves_the_chunk_absent(
    undisturbed, tmp_path, searched
):
    path = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1] / "support"), str(path)]
    root = str(Path(store.__file__).parents[2])
    finished = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True
    )
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert (path / "layer_0/c/2/0/0/0").exists()  # its arrays are there, its marker is not
    assert TargetStore.open(path).missing_chunks() == [2, 3, 4]
    run(path)
    # The chunk that was being searched comes last: another process might be at it.
    assert [ids[0] for ids in searched] == IDS[[6, 8, 4]].tolist()
    assert files(path) == files(undisturbed)


def test_a_complete_store_is_left_alone(folder, searched):
    def times():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = times()
    assert run(folder).is_complete
    assert searched == [] and times() == before


def test_a_run_killed_after_the_manifest_can_go_on(undisturbed, folder):
    for path in folder.iterdir():
        if path.name != layout.MANIFEST:
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


def test_of_two_searches_that_begin_at_once_one_is_refused(tmp_path, monkeypatch):
    path, check = tmp_path / "raced", layout.check_disk_space

    def other_process_is_first(*arguments):
        monkeypatch.setattr(layout, "check_disk_space", check)
        run(path, dataset="other")
        check(*arguments)

    monkeypatch.setattr(layout, "check_disk_space", other_process_is_first)
    with pytest.raises(ValueError, match="dataset: 'other' there, 'toy' here"):
        run(path)
    assert TargetStore.open(path).manifest["fingerprint"]["dataset"] == "other"


def test_of_two_that_begin_at_once_on_unlike_machines_both_take_the_chunks_of_the_first(
    undisturbed, tmp_path, monkeypatch
):
    path, check = tmp_path / "raced", layout.check_disk_space

    def other_process_is_first(*arguments):
        monkeypatch.setattr(layout, "check_disk_space", check)
        run(path, chunk_size=3)
        check(*arguments)

    monkeypatch.setattr(layout, "check_disk_space", other_process_is_first)
    monkeypatch.setattr(fill, "choose_chunk_size", lambda *arguments: 5)
    store = run(path, chunk_size=None)
    assert store.manifest["fingerprint"]["chunk_size"] == 3
    assert equal(store.read(), TargetStore.open(undisturbed).read())


def natural(images, labels):
    """Each layer's own output, the logits raised where the label says."""
    found = [block(WEIGHTS[0], images)]
    found.append(dense(WEIGHTS[1], found[-1]))
    logits = head(WEIGHTS[2], found[-1])
    return (*found, logits + jax.nn.one_hot(labels, 3))


def natural_of_one(images, labels):
    assert len(images) == len(labels) == 1  # or it might be rounded by its neighbours
    return natural(images, labels)


def test_where_a_search_begins_is_made_of_its_image_and_told_from_another(undisturbed, tmp_path):
    store = run(tmp_path / "begun", starts=natural_of_one)
    begun = natural(IMAGES, LABELS)
    for folder, starts in ((tmp_path / "begun", begun), (undisturbed, None)):
        found = search(jax.random.key(0), STAGES, IMAGES, LABELS, CONFIG, ids=IDS, starts=starts)
        ours = TargetStore.open(folder).read()
        for a, b in zip(ours.representations, found.representations, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)
    store.discard(3)
    assert equal(run(tmp_path / "begun", starts=natural_of_one).read(), store.read())
    with pytest.raises(ValueError, match="starts_sha256"):
        run(tmp_path / "begun")
    with pytest.raises(ValueError, match="starts_sha256"):
        run(tmp_path / "begun", starts=natural)
    with pytest.raises(ValueError, match="starts_sha256"):
        run(undisturbed, starts=natural)


def test_a_store_from_before_a_setting_existed_is_that_of_its_default(folder, searched):
    manifest = unsealed(json.loads((folder / "manifest.json").read_text()))
    del manifest["fingerprint"]["config"]["num_searches"]
    del manifest["fingerprint"]["config"]["layers"][0]["smoothing_passes"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run(folder).is_complete and searched == []
    with pytest.raises(ValueError, match=r"config.num_searches: 1 there, 2 here"):
        run(folder, config=dataclasses.replace(CONFIG, num_searches=2))
    manifest["fingerprint"]["config"]["of_the_future"] = 3
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="of_the_future: 3 there, None here"):
        run(folder)


def test_what_a_stage_raises_goes_through_with_the_images_and_nothing_is_lost(
    undisturbed, tmp_path, monkeypatch
):
    recorded = fill.search

    def fails_for_one(*arguments, ids, **options):
        if 7 in ids:
            raise RuntimeError("this image breaks my network")
        return recorded(*arguments, ids=ids, **options)

    monkeypatch.setattr(fill, "search", fails_for_one)
    with pytest.raises(RuntimeError, match="breaks my network") as raised:
        run(tmp_path / "store")
    (note,) = raised.value.__notes__
    assert "images with the ids [4, 7]" in note
    assert TargetStore.open(tmp_path / "store").missing_chunks() == [1, 2, 3, 4]
    monkeypatch.undo()
    run(tmp_path / "store")
    assert files(tmp_path / "store") == files(undisturbed)


def test_too_little_memory_says_what_to_change(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5.74GiB")

    monkeypatch.setattr(fill, "search", fails)
    with pytest.raises(RuntimeError, match="Out of memory") as raised:
        run(tmp_path / "store")
    size = TargetStore.open(tmp_path / "store").chunk_size
    assert (
        f"for {size} images at once: give a smaller chunk_size, such as {size // 2}"
        in (raised.value.__notes__[1])
    )
