"""Files: whole, on the disk before they have their name, and named when they are damaged."""

import os

import pytest

from dsl_jax.files import DamagedFile, make_folder, read_json, write_json


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
    write_json(tmp_path / "values.json", [1, 2])
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
    write_json(tmp_path / "values.json", 3)
    assert read_json(tmp_path / "values.json") == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (b'{"a": [', "Expecting"), (b"\xff\xfe", "decode")],
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
