"""Processes that share a search: who takes which chunk, and what becomes of claims."""

import shutil
import threading
import time

import jax
import pytest
import tensorstore as ts
from toy_targets import IDS, files, run

from dsl_jax.targets import fill, layout
from dsl_jax.targets.claims import CLAIMS, Claims
from dsl_jax.targets.fill import working_order
from dsl_jax.targets.store import TargetStore

FOREVER = 1e9


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A complete store, not to be changed."""
    path = tmp_path_factory.mktemp("sharing") / "undisturbed"
    run(path)
    return path


@pytest.fixture(params=["file", "memory"])
def kvstore(request, tmp_path):
    if request.param == "file":
        return layout.open_kvstore(tmp_path / "claims")
    return ts.KvStore.open({"driver": "memory"}).result()


def claimed(kvstore):
    return sorted(name.decode() for name in kvstore.list().result())


def test_a_chunk_is_claimed_by_one(kvstore):
    one, other = Claims(kvstore), Claims(kvstore)
    assert one.take([0, 1, 2, 3], 2, FOREVER) == [0, 1]
    assert other.take([0, 1, 2, 3], 3, FOREVER) == [2, 3]
    assert other.take([0, 1], 2, FOREVER) == []
    one.give_back([0])
    assert claimed(kvstore) == [f"{CLAIMS}{chunk:08d}" for chunk in (1, 2, 3)]
    assert other.take([0, 1], 2, FOREVER) == [0]
    one.clear()
    assert claimed(kvstore) == []


def test_of_several_that_claim_at_once_one_is_first(kvstore, monkeypatch):
    """All have looked before one of them claims."""
    workers, taken = [Claims(kvstore) for _ in range(4)], []
    barrier, look = threading.Barrier(4), Claims._look

    def look_together(self, chunks):
        look(self, chunks)
        barrier.wait(60)

    monkeypatch.setattr(Claims, "_look", look_together)
    threads = [
        threading.Thread(target=lambda c=claims: taken.extend(c.take([5, 6], 1, FOREVER)))
        for claims in workers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [5, 6]


def test_a_claim_is_taken_over_once_when_patience_ends(kvstore):
    dead, one, other = Claims(kvstore), Claims(kvstore), Claims(kvstore)
    assert dead.take([7], 1, FOREVER) == [7]
    assert one.take([7], 1, 0.2) == [] and other.take([7], 1, 0.2) == []
    time.sleep(0.21)
    assert one.take([7, 8], 1, 0.2) == [8]  # free ones first, however old a claim is
    one.give_back([8])
    assert one.take([7], 1, 0.2) == [7]
    assert other.take([7], 1, 0.2) == []  # a new claim, which it has just seen
    dead.give_back([7])  # it was alive after all, but the claim is no longer its own
    assert claimed(kvstore) == [f"{CLAIMS}00000007"]
    assert other.take([7], 1, 0.0) == [7]  # who took over may die as well


def test_the_oldest_claims_are_taken_over_first(kvstore):
    dead, one = Claims(kvstore), Claims(kvstore)
    dead.take([3], 1, FOREVER)
    one.take([3], 1, FOREVER)
    dead.take([1], 1, FOREVER)
    assert one.take([1, 3], 2, 0.0) == [3, 1]


def test_a_chunk_completed_since_we_looked_is_not_taken(kvstore, monkeypatch):
    claims, look = Claims(kvstore), Claims._look

    def then_completed(self, chunks):
        look(self, chunks)
        layout.commit(kvstore, 0, slice(0, 2))

    monkeypatch.setattr(Claims, "_look", then_completed)
    assert claims.take([0, 1], 1, FOREVER) == [1]
    assert f"{CLAIMS}00000000" not in claimed(kvstore)


def test_threads_make_one_store_and_search_nothing_twice(undisturbed, tmp_path, monkeypatch):
    path, errors, searched = tmp_path / "shared", [], []
    search, barrier, begun = fill.search, threading.Barrier(3), threading.local()

    def told(*arguments, ids, **options):
        searched.append(ids[0])
        if not hasattr(begun, "first"):  # each has a chunk before one of them goes on
            begun.first = ids[0]
            barrier.wait(60)
        return search(*arguments, ids=ids, **options)

    monkeypatch.setattr(fill, "search", told)
    monkeypatch.setattr(fill, "PATIENCE", FOREVER)

    def work():
        try:
            run(path)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(searched) == IDS[::2].tolist()
    assert files(path) == files(undisturbed)


def test_chunks_that_another_did_are_not_searched_again(undisturbed, tmp_path, monkeypatch):
    path, written = tmp_path / "overtaken", []
    search, theirs = fill.search, TargetStore.open(undisturbed)
    searched = []

    def overtaken(*arguments, ids, **options):
        if not searched:  # another process does the same chunk and the next, whatever is claimed
            other = TargetStore.open(path, "a")
            for chunk in (0, 1):
                assert other.write(chunk, theirs.read(other.rows(chunk)))
        searched.append(ids[0])
        return search(*arguments, ids=ids, **options)

    monkeypatch.setattr(fill, "search", overtaken)
    run(path, on_chunk=written.append)
    assert searched == IDS[[0, 4, 6, 8]].tolist()
    assert written == [2, 3, 4]
    assert files(path) == files(undisturbed)


def test_an_interrupted_search_gives_its_claims_back(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fill, "search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "store")
    assert not [name for name in files(tmp_path / "store") if name.startswith(CLAIMS)]


def test_claims_on_complete_chunks_are_removed(undisturbed, tmp_path):
    """Left by a process that was killed between a chunk's marker and giving its claim back."""
    path = tmp_path / "store"
    shutil.copytree(undisturbed, path)
    assert Claims(layout.open_kvstore(path)).take([3], 1, 0.0) == []  # it is complete
    (path / CLAIMS).mkdir(exist_ok=True)
    (path / CLAIMS / "00000003").touch()
    run(path)
    assert files(path) == files(undisturbed)


def test_a_store_that_begins_while_it_is_looked_for_is_found(undisturbed, tmp_path, monkeypatch):
    """Between looking for the manifest and listing the folder, another process makes a store."""
    path = tmp_path / "store"
    kvstore = layout.open_kvstore(path)

    class Overtaken:
        spec, read = kvstore.spec, kvstore.read

        def list(self):
            run(path)
            return kvstore.list()

    manifest = layout.read_manifest(Overtaken(), path)
    assert manifest == TargetStore.open(undisturbed).manifest


@pytest.mark.parametrize("kept", range(9))
def test_a_process_killed_while_it_makes_the_store_leaves_what_another_can_use(
    undisturbed, tmp_path, kept
):
    """Files are written whole and the manifest first; here only `kept` of the others are there."""
    path = tmp_path / "store"
    names = ["zarr.json", "ids/zarr.json", "ids/c/0"]
    names += [f"{kind}_{layer}/zarr.json" for layer in range(3) for kind in ("layer", "fitness")]
    for name in ["manifest.json", *names[:kept]]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes((undisturbed / name).read_bytes())
    (path / "manifest.json.__lock").touch()
    run(path)
    (path / "manifest.json.__lock").unlink()
    assert files(path) == files(undisturbed)


def test_a_lock_alone_is_no_store(undisturbed, tmp_path):
    """What is left when the process was killed while it wrote the manifest."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "manifest.json.__lock").write_text('{"format": 1, "fing')
    run(tmp_path / "store")
    assert files(tmp_path / "store") == files(undisturbed)


def test_processes_of_one_job_begin_with_their_own_range(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    assert working_order([0, 1, 3, 4, 5], 6) == [0, 1, 5, 4, 3]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert working_order([0, 1, 3, 4, 5], 6) == [3, 4, 5, 1, 0]


def test_files_that_others_leave_among_the_claims_are_passed_over(undisturbed, tmp_path):
    path = tmp_path / "store"
    shutil.copytree(undisturbed, path)
    TargetStore.open(path, "a").discard(2)
    for name in (".DS_Store", ".nfs000000000123", "00000002.tmp"):
        (path / CLAIMS).mkdir(exist_ok=True)
        (path / CLAIMS / name).write_text("theirs")
    assert run(path).is_complete
    for name in (".DS_Store", ".nfs000000000123", "00000002.tmp"):
        (path / CLAIMS / name).unlink()
    assert files(path) == files(undisturbed)
