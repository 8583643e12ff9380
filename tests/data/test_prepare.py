"""Preparing: it fails soon and says why, is not killed while it works, and gets no accelerator."""

import importlib.util
import subprocess
import time

import pytest

from dsl_jax.data import prepare as module
from dsl_jax.data.prepare import DatasetUnavailable, prepare

URL = "https://example.org"


@pytest.fixture(autouse=True)
def pretend_tensorflow(monkeypatch):
    pretend_spec(monkeypatch, importlib.util.find_spec("json"))


def pretend_spec(monkeypatch, spec):
    find_spec = importlib.util.find_spec

    def pretend(name, package=None):
        return spec if name == "tensorflow" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", pretend)


def test_without_tensorflow_it_fails_at_once_and_says_what_to_do(monkeypatch, tmp_path):
    pretend_spec(monkeypatch, None)
    monkeypatch.setattr(subprocess, "run", None)
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DatasetUnavailable) as error:
        prepare("cifar10", tmp_path, URL)
    message = str(error.value)
    for part in (
        "'cifar10'",
        str(tmp_path),
        "TensorFlow",
        "pip install tensorflow-cpu",
        "internet",
        "data_dir=FOLDER",
        "mnist_5k and digits need no download",
    ):
        assert part in message
    assert "\n" not in message


def test_a_dead_network_is_noticed_before_anything_is_started(monkeypatch, tmp_path):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(module, "_run_while_progressing", None)
    with pytest.raises(DatasetUnavailable, match=f"{URL}, .*no internet"):
        prepare("mnist", tmp_path, URL)


def test_a_network_that_never_answers_costs_no_more_than_the_limit(monkeypatch, tmp_path):
    assert module._PROBE_SECONDS + module._DOWNLOAD_SECONDS <= 45
    monkeypatch.setattr(module, "_PROBE", "import time; time.sleep(60)")
    monkeypatch.setattr(module, "_PROBE_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(DatasetUnavailable, match="cannot be reached"):
        prepare("mnist", tmp_path, URL)
    assert time.monotonic() - start < 10


def prepare_by(monkeypatch, folder, script):
    monkeypatch.setattr(module, "_is_reachable", lambda url: True)
    monkeypatch.setattr(module, "_PREPARE", script)
    prepare("mnist", folder, URL)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('dsl_jax: imported', flush=True); import time; time.sleep(60)", "no progress"),
        ("raise OSError('checksum mismatch')", "OSError: checksum mismatch"),
        ("import sys; sys.exit(3)", "exit 3"),
    ],
)
def test_preparing_that_stalls_or_fails_is_reported(monkeypatch, tmp_path, capfd, script, reason):
    monkeypatch.setattr(module, "_DOWNLOAD_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(DatasetUnavailable, match=reason):
        prepare_by(monkeypatch, tmp_path, script)
    assert time.monotonic() - start < 30  # it was killed, not waited for


def test_it_is_not_killed_while_it_generates_and_its_output_is_shown(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(module, "_DOWNLOAD_SECONDS", 0.5)
    script = """
import time
print("dsl_jax: imported", flush=True)
time.sleep(0.1)
print("Generating", flush=True)
time.sleep(1)
"""
    prepare_by(monkeypatch, tmp_path, script)
    assert "Generating" in capfd.readouterr().err


def test_it_sees_no_accelerator(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    script = """
import os, sys
assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and os.environ["TPU_VISIBLE_CHIPS"] == ""
name, folder = sys.argv[1:]
open(folder + "/" + name, "w").close()
"""
    prepare_by(monkeypatch, tmp_path, script)
    assert (tmp_path / "mnist").exists()
