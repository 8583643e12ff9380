"""Loggers: the same records, wherever they go."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dsl_jax.runs import loggers

EPOCHS = [
    {"training": "seed_0/sgd_g1", "epoch": 1, "train_loss": 2.0, "best_so_far": True},
    {"training": "seed_0/sgd_g1", "epoch": 2, "train_loss": 1.5, "best_so_far": False},
]
RESULT = {"result": "sgd_g1", "variant": "sgd", "test_accuracy": [0.5, 0.75]}


def log_all(logger):
    for record in (*EPOCHS, RESULT):
        logger.log(record)
    logger.close()


def test_the_console_gets_a_line_a_record():
    stream = io.StringIO()
    log_all(loggers.ConsoleLogger(stream))
    assert stream.getvalue().splitlines() == [
        "seed_0/sgd_g1 1: train_loss 2, best_so_far 1",
        "seed_0/sgd_g1 2: train_loss 1.5, best_so_far 0",
        "sgd_g1: test_accuracy_0 0.5, test_accuracy_1 0.75",
    ]


def test_jsonl_keeps_the_records_as_they_are(tmp_path):
    log_all(loggers.JsonlLogger(tmp_path / "log.jsonl"))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*EPOCHS, RESULT]


def events(folder):
    """(tag, step): value of the event files in a folder, and the steps that they purge from."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found, purged = {}, []
    for path in sorted(folder.glob("events*")):
        data, place = path.read_bytes(), 0
        while place < len(data):  # length, its checksum, the event, its checksum
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            if event.session_log.status == SessionLog.START:
                purged.append(event.step)
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
            place += length + 16
    return found, purged


def test_tensorboard_gets_scalars_by_epoch(tmp_path):
    pytest.importorskip("tensorboardX")
    log_all(loggers.TensorBoardLogger(tmp_path))
    found, purged = events(tmp_path / "seed_0" / "sgd_g1")
    assert found["train_loss", 1] == 2.0 and found["train_loss", 2] == 1.5
    assert events(tmp_path / "sgd_g1")[0]["test_accuracy_1", 0] == 0.75
    # Another process goes on from the second epoch: what was logged from there on is void.
    again = loggers.TensorBoardLogger(tmp_path)
    again.log(EPOCHS[1])
    again.close()
    assert sorted(events(tmp_path / "seed_0" / "sgd_g1")[1]) == [*purged, 2] == [1, 2]


def test_numbers_of_any_library_are_logged(tmp_path):
    record = {"training": "t", "epoch": 1, "a": np.float32(1.5), "b": jnp.float32(2.5)}
    record |= {"c": np.arange(2), "word": "x", "nothing": None, "nested": {"d": 1}}
    stream = io.StringIO()
    loggers.ConsoleLogger(stream).log(record)
    assert stream.getvalue() == "t 1: a 1.5, b 2.5, c_0 0, c_1 1\n"
    loggers.JsonlLogger(tmp_path / "log").log(record)
    assert json.loads((tmp_path / "log").read_text())["c"] == [0, 1]


def test_wandb_logs_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = loggers.WandbLogger(tmp_path / "run", name="test")
    assert not (tmp_path / "run").exists()  # a run's folder is made by the run
    log_all(logger)
    first = (tmp_path / "run" / "wandb-id").read_text()
    assert loggers.WandbLogger(tmp_path / "run")._begin().id == first  # goes on with the same
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "wandb-id").touch()  # as a power cut leaves it
    loggers.WandbLogger(tmp_path / "cut")._begin()
    assert len((tmp_path / "cut" / "wandb-id").read_text()) == 12
    tmp_path /= "run"
    files = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    data = b"".join(path.read_bytes() for path in files)
    for name in (b"seed_0/sgd_g1/train_loss", b"seed_0/sgd_g1/epoch", b"sgd_g1/test_accuracy_1"):
        assert name in data


def test_an_unknown_logger_or_a_missing_package_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="logger 'tensorbord' is unknown: choose one of console"):
        loggers.make_loggers(["console", "tensorbord"], tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"pip install tensorboardX"):
        loggers.make_loggers(["tensorboard"], tmp_path)
