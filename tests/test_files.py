"""Files: whole, on the disk before they have their name, and named when they are damaged."""

import contextlib
import errno
import os

import numpy as np
import pytest

from dsl_jax import files
from dsl_jax.files import DamagedFile, make_folder, read_arrays, read_as, read_json, write_json


def test_what_is_written_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """A power cut between the two would leave an empty file under the name."""
    calls, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        calls.append(("sync", os.path.realpath(f"/proc/self/fd/{descriptor}"), size(descriptor)))
        fsync(descriptor)

    def size(descriptor):
        return os.fstat(descriptor).st_size

    def renamed(source, target):
        calls.append(("rename", str(source), None))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "values.json", {"a": [1, 2]})
    (first, temporary, length), (second, source, _), (third, folder, _) = calls
    assert (first, second, third) == ("sync", "rename", "sync")
    assert temporary == source and length == (tmp_path / "values.json").stat().st_size
    assert folder == str(tmp_path)


def test_a_folder_that_cannot_be_synced_is_no_fault(tmp_path, monkeypatch):
    fsync = os.fsync

    def refused(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    write_json(tmp_path / "values.json", {"a": 3})
    assert read_json(tmp_path / "values.json") == {"a": 3}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b'{"a": [', "Expecting"),
        (b"\xff\xfe", "decode"),
        (b'{"a": 1, "checksum": "015abd7f5cc57a2d"}', "its checksum differs"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, reason):
    path = tmp_path / "values.json"
    assert read_json(path) is None
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"values.json is damaged \(.*{reason}.*: delete it"):
        read_json(path, "delete it")


def test_a_file_in_a_folders_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "inner" / "folder"):
        with pytest.raises(ValueError, match=f"{tmp_path}/file is a file, where a folder"):
            make_folder(path)
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_every_changed_bit_of_a_json_file_is_noticed_or_harmless(tmp_path):
    path, values = tmp_path / "values.json", {"rate": 0.25, "names": ["a", "b"], "none": None}
    write_json(path, values)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        try:
            found = read_json(path)
        except DamagedFile:
            continue
        # Only the checksum's own name can change so that none is found.
        assert {name: found[name] for name in values} == values and bit >= 8 * content.index(
            b"chec"
        )


def test_a_changed_bit_of_an_archive_is_damage_and_too_little_memory_is_not(tmp_path, monkeypatch):
    path = tmp_path / "values.npz"
    np.savez(path, a=np.arange(3.0))
    content = path.read_bytes()
    for bit in range(8 * (len(content) - 22), 8 * len(content)):  # the end, which says where all is
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        with contextlib.suppress(DamagedFile):
            np.testing.assert_array_equal(read_arrays(path, "delete it")["a"], np.arange(3.0))
    path.write_bytes(content)

    def too_large(*_, **__):
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr(np, "load", too_large)
    with pytest.raises(MemoryError):
        read_arrays(path, "delete it")


def test_the_first_of_two_that_write_a_new_file_keeps_it(tmp_path, monkeypatch):
    path = tmp_path / "values.json"
    write_json(path, {"a": 1}, only_new=True)
    write_json(path, {"a": 2}, only_new=True)
    assert read_json(path) == {"a": 1}

    def without_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", without_links)
    write_json(path, {"a": 2}, only_new=True)
    assert read_json(path) == {"a": 1}
    path.unlink()
    write_json(path, {"a": 2}, only_new=True)
    assert read_json(path) == {"a": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["values.json"]


def test_an_array_that_a_file_does_not_have_is_damage_with_a_remedy(tmp_path):
    """Not a KeyError, which tells neither the file nor what to do."""
    np.savez(tmp_path / "kept.npz", first=np.arange(3))
    arrays = read_arrays(tmp_path / "kept.npz", "delete it")
    assert arrays["first"].tolist() == [0, 1, 2] and arrays.get("second") is None
    with pytest.raises(DamagedFile, match=r"kept.npz is damaged \(it has no 'second'\): delete it"):
        arrays["second"]


@pytest.mark.parametrize("content", (b"", b"PK", b"PK\x03\x04" + bytes(40)))
def test_an_archive_that_is_none_is_damaged(tmp_path, content):
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"arrays.npz is damaged .*: do so"):
        read_arrays(path, "do so")


def test_what_the_system_does_not_let_be_read_is_not_damaged(tmp_path, monkeypatch):
    """It may be whole, and what is damaged is deleted by --repair."""
    np.savez(tmp_path / "arrays.npz", a=[1])

    def refused(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files, "open", refused, raising=False)
    with pytest.raises(OSError, match="Input/output error"):
        read_arrays(tmp_path / "arrays.npz", "do so")
    monkeypatch.undo()
    with pytest.raises(DamagedFile, match="No such file"):
        read_arrays(tmp_path / "others.npz", "do so")


@pytest.mark.parametrize("content", ("[]", "{}", '{"a": "x"}'))
def test_what_is_not_made_of_a_files_contents_is_damage(tmp_path, content):
    path = tmp_path / "values.json"
    assert read_as(path, lambda values: int(values["a"]), "do so") is None
    path.write_text(content)
    with pytest.raises(DamagedFile, match=r"values.json is damaged .*: do so"):
        read_as(path, lambda values: int(values["a"]), "do so")
    path.write_text('{"a": 3}')
    assert read_as(path, lambda values: int(values["a"]), "do so") == 3
