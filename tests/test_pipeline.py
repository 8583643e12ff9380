"""The pipeline and those who are told of it."""

import dataclasses
import json

import pytest
from tiny_run import tiny_config, tiny_data

import dsl_jax
from dsl_jax import files, pipeline
from dsl_jax.presets import get_preset
from dsl_jax.runs import saved
from dsl_jax.targets import layout

pytestmark = pytest.mark.usefixtures("one_device")


class Memory:
    """A logger that keeps its records, and stops the run at an epoch, once."""

    def __init__(self, stop_at=None):
        self.records, self.stop_at = [], stop_at

    def log(self, record):
        self.records.append(record)
        if record.get("epoch") == self.stop_at:
            raise KeyboardInterrupt

    def close(self):
        pass


def epochs(records):
    return [(record["training"], record["epoch"]) for record in records if "epoch" in record]


def test_every_epoch_is_told_and_in_the_end_stands_in_the_metrics_once(tmp_path, monkeypatch):
    """Killed after epoch 3 is told of and before its state is kept."""
    preset = get_preset("smoke", "digits")
    config = dataclasses.replace(
        preset,
        widths=(4, 4, 4),
        variants=("sgd",),
        sgd_groups=(1,),
        learner_groups=1,
        sgd=dataclasses.replace(preset.sgd, epochs=4),
    )
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    monkeypatch.setattr(saved, "CHECKPOINT_SECONDS", 0)
    killed, again = Memory(stop_at=3), Memory()
    options = {"phase": "learn", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, tmp_path / "run", dataset, loggers=[killed], **options)
    assert pipeline.run(config, tmp_path / "run", dataset, loggers=[again], **options) == {}
    name = "seed_0/sgd_g1"
    assert epochs(killed.records) == [(name, 1), (name, 2), (name, 3)]
    assert epochs(again.records) == [(name, 3), (name, 4)]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert epochs(map(json.loads, lines)) == [(name, epoch) for epoch in (1, 2, 3, 4)]
    history = pipeline.RunFolder(tmp_path / "run", config).finished(name).history
    assert [{"training": name, **record} for record in history] == [*map(json.loads, lines)]


def test_without_validation_images_nothing_is_searched(tmp_path):
    """What could not be learned from is refused before the search of days."""
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    without = dataclasses.replace(
        dataset, validation=dsl_jax.Split(*(array[:0] for array in dataset.validation))
    )
    config = get_preset("smoke", without)
    with pytest.raises(ValueError, match="digits has no validation images, which choose the epoch"):
        pipeline.run(config, tmp_path / "run", without, progress=False)
    assert not (tmp_path / "run").exists()  # nor is it in the way of the right call


def test_settings_that_are_not_those_of_the_data_are_told(caplog):
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    config = get_preset("smoke", dataset)
    pipeline.check_data(config, dataset)
    pipeline.check_data(dataclasses.replace(config, num_train=60, validation_size=20), dataset)
    assert not caplog.records
    others = {"dataset": "mnist", "num_train": 440, "validation_size": 40}
    pipeline.check_data(dataclasses.replace(config, **others), dataset)
    for told in ("dataset is 'mnist'", "num_train is 440", "validation_size is 40"):
        assert f"config.{told}, but that of the data that were handed over is" in caplog.text


def test_images_too_small_for_the_blocks_leave_no_folder(tmp_path):
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    small = {
        name: split._replace(images=split.images[:, :9, :9])
        for name in ("train", "validation", "test")
        for split in (getattr(dataset, name),)
    }
    config = dataclasses.replace(get_preset("smoke", "digits"), num_train=60, validation_size=20)
    with pytest.raises(ValueError, match=r"stage 2 returns \[1, 1, 16\] an image"):
        dsl_jax.run(config, tmp_path / "run", dataclasses.replace(dataset, **small))
    assert not (tmp_path / "run").exists()


def test_a_crop_that_leaves_nothing_is_refused_before_the_search(tmp_path):
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    config = get_preset("smoke", dataset)
    learn = dataclasses.replace(config.learn, augment=True, crop_padding=28)
    config = dataclasses.replace(config, learn=learn)
    with pytest.raises(ValueError, match="crop_padding is 28: it must be below"):
        pipeline.run(config, tmp_path / "run", dataset, progress=False)
    assert not (tmp_path / "run" / "seed_0").exists()


def test_folders_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    monkeypatch.delenv("DSL_JAX_CACHE")
    run_folder = pipeline.RunFolder("~/run", get_preset("smoke", "digits"))
    assert run_folder.folder == tmp_path / "run"
    assert files.cache_dir() == tmp_path / "cache" / "dsl_jax"
    assert layout.open_kvstore("~/store").path == f"{tmp_path}/store/"


def test_a_batch_that_cannot_be_shared_is_refused_before_the_search(tmp_path, monkeypatch):
    def refuse(batch_size):
        raise ValueError(f"a batch has {batch_size} images")

    monkeypatch.setattr(pipeline, "device_mesh", refuse)
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    config = get_preset("smoke", "digits")
    with pytest.raises(ValueError, match="a batch has 40 images"):
        pipeline.run(config, tmp_path / "run", dataset, progress=False)
    assert not (tmp_path / "run" / "seed_0").exists()


def test_settings_of_a_later_cycle_are_refused_before_the_first(tmp_path):
    config = tiny_config()
    later = config.later_cycles[0]
    search = dataclasses.replace(config.search, strategy="SNESS")
    config = dataclasses.replace(
        config, cycles=2, later_cycles=(dataclasses.replace(later, search=search),)
    )
    with pytest.raises(ValueError, match="strategy 'SNESS' is unknown"):
        pipeline.run(config, tmp_path / "run", tiny_data(), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_sampler_of_any_seed_is_checked_before_the_first_is_searched(tmp_path, monkeypatch):
    checked = []

    def check(dataset, seed, *_):
        checked.append(seed)
        if seed == 2:
            raise ValueError("a class would be empty")

    monkeypatch.setattr(pipeline, "check_sampler", check)
    monkeypatch.setattr(pipeline, "search_targets", pytest.fail)
    config = dataclasses.replace(tiny_config(), searched="sampler", num_seeds=3)
    with pytest.raises(ValueError, match="a class would be empty"):
        pipeline.run(config, tmp_path / "run", tiny_data(), progress=False)
    assert checked == [0, 1, 2]
