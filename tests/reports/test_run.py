"""From data of one's own to a report, in one call; and that no other data take their place."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import dsl_jax
from dsl_jax import pipeline
from dsl_jax.data.load import load_dataset
from dsl_jax.data.prepare import DatasetUnavailable
from dsl_jax.files import read_json
from dsl_jax.reports import summary
from dsl_jax.runs import data


def darker(name="darker", seed=0):
    """Two classes of small images, of which one is darker above."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 120)
    images = generator.integers(0, 256, (120, 10, 10, 1)).astype(np.uint8)
    images[labels == 1, :5] //= 4
    train, test = (images[:80], labels[:80]), (images[80:], labels[80:])
    dataset = dsl_jax.Dataset.from_arrays(name, train, test, validation_size=20)
    return dataclasses.replace(dataset, title="Darker & lighter")


MINE = darker()


CONFIG = dataclasses.replace(
    dsl_jax.get_preset("smoke", MINE), widths=(8, 8), variants=("all_layers",)
)


@pytest.fixture(scope="module", autouse=True)
def on_one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "device_mesh", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    results = dsl_jax.run(CONFIG, folder, MINE, notice="A trial", probes=False, progress=False)
    assert results["all_layers"].test_accuracy[0] > 0.8  # chance is 0.5
    return folder


def test_one_call_leaves_a_report_of_the_data(finished):
    page = (finished / "report.html").read_text()
    assert "Darker &amp; lighter: searched representations" in page and "A trial" in page
    assert "Darker" in (finished / "report.md").read_text()
    kept = json.loads((finished / "data.json").read_text())
    assert (kept["name"], kept["title"], kept["train"]) == ("darker", "Darker & lighter", 60)


def test_the_data_of_a_run_are_handed_over(finished):
    loaded = dsl_jax.load_run(finished)
    assert loaded.data.name == "darker" and "smoke on darker" in repr(loaded)
    with pytest.raises(ValueError, match="of one's own, called 'darker': hand them over"):
        loaded.dataset()
    with pytest.raises(ValueError, match=r"other data than these: .*sha256"):
        loaded.dataset(darker(seed=1))
    score = dsl_jax.evaluate(loaded.networks["seed_0/all_layers"], loaded.dataset(MINE))
    results = read_json(finished / "results.json")
    assert score.accuracy == pytest.approx(results["all_layers"]["test_accuracy"][0])


@pytest.mark.parametrize("phase", ("all", "learn", "report"))
@pytest.mark.parametrize("is_finished", (True, False))
def test_other_data_are_refused_whatever_is_done(finished, tmp_path, phase, is_finished):
    folder = shutil.copytree(finished, tmp_path / "run")
    if not is_finished:
        (folder / "results.json").unlink()
    for run in (pipeline.run, dsl_jax.run):
        with pytest.raises(ValueError, match=r"a run on other data: .*name: 'darker' there"):
            run(CONFIG, folder, darker("other"), phase=phase, progress=False)
    assert (folder / "report.md").read_bytes() == (finished / "report.md").read_bytes()


def test_no_report_is_made_of_other_data(finished):
    results = pipeline.run(CONFIG, finished)
    with pytest.raises(ValueError, match="a run on other data"):
        summary.summarize(CONFIG, finished, darker(seed=1), results)


def test_data_under_the_name_of_others_are_not_taken_for_them(tmp_path):
    """`get_preset("smoke", "digits")` with one's own data: they are not scikit-learn's digits."""
    config = dataclasses.replace(dsl_jax.get_preset("smoke", "digits"), variants=("sgd",))
    folder = tmp_path / "run"
    pipeline.run(config, folder, MINE, phase="search", progress=False)  # there is none to do
    with pytest.raises(ValueError, match="called 'darker'"):
        dsl_jax.load_run(folder).dataset()
    with pytest.raises(ValueError, match="called 'darker'"):
        dsl_jax.run(config, folder, phase="report", progress=False)
    digits = load_dataset("digits", num_train=440, validation_size=40)
    with pytest.raises(ValueError, match="name: 'darker' there, 'digits' here"):
        dsl_jax.run(config, folder, digits, phase="report", progress=False)


def test_data_with_a_name_are_loaded_again(tmp_path):
    digits = load_dataset("digits", num_train=60, validation_size=20)
    config = dataclasses.replace(dsl_jax.get_preset("smoke", digits), variants=("sgd",))
    pipeline.run(config, tmp_path / "run", digits, phase="search", progress=False)
    again = dsl_jax.load_run(tmp_path / "run").dataset()
    jax.tree.map(np.testing.assert_array_equal, again.train, digits.train)


def test_no_data_are_sought_for_a_name_of_ones_own(tmp_path, monkeypatch):
    def unavailable(*_, **__):
        raise DatasetUnavailable("nothing", "no connection")

    monkeypatch.setattr(data, "load_dataset", unavailable)
    with pytest.raises(ValueError, match=r"'darker' is unknown: .* hand data of your own over"):
        dsl_jax.run(CONFIG, tmp_path / "run")
    assert not (tmp_path / "run").exists()
