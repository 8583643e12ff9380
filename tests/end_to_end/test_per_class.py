"""A run with one search per class: the same as by hand, resumed, damaged, and its report."""

import contextlib
import dataclasses
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx
from tiny_run import finish, scores, tiny_config, tiny_data, weights

import dsl_jax as dsl
from dsl_jax.evolution import shared
from dsl_jax.files import DamagedFile
from dsl_jax.keys import SEARCH, TRAINING, purpose_key
from dsl_jax.runs import classes
from dsl_jax.runs.class_files import class_file, load_class
from dsl_jax.runs.controlled import control_key
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.lock import LOCK, if_free
from dsl_jax.runs.steps import searches, trainings
from dsl_jax.runs.untrained import make_network, make_stages
from dsl_jax.targets import controls

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
CONFIG = dataclasses.replace(
    tiny_config(),
    searched="per_class",
    shared=dsl.SharedConfig((0.3, 0.2, 0.1), images_per_class=2),
    target_controls=("channel_code",),
)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("per_class") / "run"
    return folder, finish(CONFIG, folder, data)


def test_it_learns_what_search_shared_finds_and_its_control_a_code_in_its_place(finished, data):
    folder, _ = finished
    stages = make_stages(CONFIG, data, 0)
    images = data.normalize(data.train.images)
    key = purpose_key(0, SEARCH)
    found = dsl.search_shared(
        key, stages, images, data.train.labels, CONFIG.search, CONFIG.shared
    ).targets
    shapes = [direction.shape[1:] for direction in found.directions]
    code = controls.random_code(control_key(0, "channel_code", 1), shapes, 10, "channel")
    networks = dsl.load_run(folder).networks
    for name, targets in (
        ("all_layers", found),
        ("all_layers_channel_code", dataclasses.replace(found, directions=tuple(code))),
    ):
        network = make_network(CONFIG, data, 0, CONFIG.learner_groups)
        learned = dsl.learn(purpose_key(0, TRAINING), network, data, targets, CONFIG.learn)
        expected, ours = nnx.state(learned.network), nnx.state(networks[f"seed_0/{name}"])
        jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_what_it_cost_is_counted_once_a_class(finished):
    _, results = finished
    # A population of 13 in each of four layers, 10 children in each of three generations.
    assert results["all_layers"].candidates == 10 * (4 * 13 + 3 * 10)
    assert results["all_layers"].search_seconds > 0
    assert results["all_layers_channel_code"].role == "control"
    assert results["sgd_g1"].candidates == 0


def test_only_classes_that_are_lacking_are_searched_again(finished, data, tmp_path, monkeypatch):
    template, results = finished
    folder = tmp_path / "run"
    kept = folder / "seed_0/targets_per_class"
    shutil.copytree(template / "seed_0/targets_per_class", kept)
    shutil.copy(template / "config.json", folder)
    for label in (3, 8):
        (kept / f"class_{label}.npz").unlink()
    searched = []

    def watched(*arguments):
        found = shared.class_searches(*arguments)

        def noted(number, one, device):
            searched.append(number)
            return one(device)

        return [partial(noted, number, one) for number, one in enumerate(found)]

    monkeypatch.setattr(classes, "class_searches", watched)
    assert scores(finish(CONFIG, folder, data)) == scores(results)
    assert sorted(searched) == [3, 8]
    jax.tree.map(np.testing.assert_array_equal, weights(folder), weights(template))


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize(
    ("what", "message"), [("data", "images_sha256"), ("settings", "shared.cosines"), ("older", "")]
)
def test_classes_of_another_search_are_refused(
    what, message, is_complete, finished, data, tmp_path, monkeypatch, caplog
):
    """As a sweep's runs share a folder. What an older version has left is not compared."""
    config = CONFIG
    if what == "data":
        data = dataclasses.replace(data, mean=tuple(mean + 1 for mean in data.mean))
    elif what == "settings":
        other = dataclasses.replace(CONFIG.shared, cosines=(0.5,))
        config = dataclasses.replace(CONFIG, shared=other)
    run_folder, kept = (
        RunFolder(tmp_path / "run", config),
        tmp_path / "run/seed_0/targets_per_class",
    )
    shutil.copytree(finished[0] / "seed_0/targets_per_class", kept)
    if not is_complete:
        (kept / "class_3.npz").unlink()
    if what == "older":
        (kept / "manifest.json").unlink()
    monkeypatch.setattr(classes, "class_searches", lambda *_: [None] * 10)
    monkeypatch.setattr(classes, "run_searches", lambda *_: None)
    (step,) = searches(config)

    def search():
        classes.search_per_class(run_folder, data, 0, step, False, pytest.fail)

    if what == "older":
        search()
        assert "of an older version: its search is not compared" in caplog.text
    else:
        with pytest.raises(ValueError, match=message):
            search()


def test_classes_that_others_search_are_left_to_the_end(finished, data, tmp_path, monkeypatch):
    kept, folder = (f / "seed_0/targets_per_class" for f in (finished[0], tmp_path / "run"))
    theirs, searched = contextlib.ExitStack(), []

    def known(*_):
        def one(label, device):
            searched.append(label)
            return load_class(class_file(kept, label))[0]

        return [partial(one, label) for label in range(10)]

    def on_class():
        if len(searched) == 8:
            theirs.close()  # they leave theirs unfinished

    monkeypatch.setattr(classes, "class_searches", known)
    run_folder, (step,) = RunFolder(tmp_path / "run", CONFIG), searches(CONFIG)
    for label in (0, 1):
        theirs.enter_context(if_free(folder / "locks" / f"class_{label}" / LOCK))
    classes.search_per_class(run_folder, data, 0, step, False, on_class)
    assert sorted(searched[:8]) == list(range(2, 10)) and sorted(searched[8:]) == [0, 1]


def test_an_interrupted_search_is_not_learned_from(finished, data, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    # Of two clusters a class, as many files look like the whole search of one.
    config = dataclasses.replace(CONFIG, shared=dataclasses.replace(CONFIG.shared, clusters=2))
    step = next(step for step in trainings(config) if step.kind == "cycle")
    with pytest.raises(FileNotFoundError, match="has 10 of 20 classes and clusters"):
        classes.targets_per_class(config, folder, make_stages(config, data, 0), 0, step)
    kept = folder / "seed_0" / "targets_per_class"
    assert dsl.load_run(folder).targets
    for label in (9, 0):  # what an interruption usually leaves, and what it may
        (kept / f"class_{label}.npz").unlink()
        assert not dsl.load_run(folder).targets  # as far as it has come


def test_a_damaged_class_is_named_and_searched_again_by_repair(finished, data, tmp_path):
    template, results = finished
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    assert dsl.verify_run(folder) == []
    path = folder / "seed_0/targets_per_class/class_4.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (damage,) = dsl.verify_run(folder)
    assert "class_4.npz is damaged" in str(damage)
    with pytest.raises(DamagedFile, match="class_4"):
        dsl.load_run(folder)
    assert scores(finish(CONFIG, folder, data, repair=True)) == scores(results)
    assert dsl.verify_run(folder) == []


def test_a_class_without_images_is_refused_before_anything_is_searched(data, tmp_path):
    rows = data.train.labels != 7
    train = jax.tree.map(lambda array: array[rows], data.train)
    with pytest.raises(ValueError, match=r"no image of the classes \[7\]"):
        finish(CONFIG, tmp_path / "run", dataclasses.replace(data, train=train))


def test_of_several_cosines_validation_chooses_for_the_method_and_for_its_control(data, tmp_path):
    shared = dsl.SharedConfig(choices=(0.1, (0.6, 0.5, 0.4)), images_per_class=2, clusters=2)
    config = dataclasses.replace(CONFIG, shared=shared)
    results = finish(config, tmp_path / "run", data)
    found = dsl.load_run(tmp_path / "run")
    text = (tmp_path / "run/report.md").read_text()
    for kind in ("all_layers", "all_layers_channel_code"):
        names = [f"{kind}_cosine_{c}" for c in ("0.1", "0.6_0.5_0.4")]
        (chosen,) = set(names) & set(results)
        (other,) = set(names) - {chosen}
        ours, theirs = (
            max((r["validation_accuracy"], -r["validation_loss"]) for r in records)
            for records in (found.history[f"seed_0/{name}"] for name in (chosen, other))
        )
        assert ours >= theirs
        assert results[chosen].candidates == 2 * 10 * (4 * 13 + 3 * 10)
    assert ", cosine 0.1" in text and ", cosine 0.6, 0.5, 0.4" in text
    assert text.count("its test images were not looked at") == 2
    searched = [
        found.targets[f"seed_0/targets_per_class_cosine_{name.split('cosine_')[1]}"]
        for name in names
    ]
    first = [kept.classes[0].representations[0] for kept in searched]
    assert not np.array_equal(*first)  # searched at its own cosine


def test_the_report_says_how_it_searched(finished):
    text = (finished[0] / "report.md").read_text()
    assert "per class, on 2 images of each" in text and "0.3, 0.2, 0.1" in text
    assert "natural and channel code" in text and (finished[0] / "representations.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cycles": 2}, "cycles is 2: the search per_class has only one"),
        ({"target_controls": ("permuted",)}, "choose one of channel_code, element_code"),
        ({"shared": dsl.SharedConfig((0.1, 0.2))}, "2 cosines for 3 blocks"),
        ({"shared": dsl.SharedConfig(choices=(0.1, (0.1, 0.2)))}, "2 cosines for 3 blocks"),
        ({"variants": ("sgd",)}, "no searched targets"),
        ({"searched": "per_pixel"}, "choose one of per_image, per_class"),
        (
            {"search": dataclasses.replace(CONFIG.search, num_searches=2)},
            "num_searches is 2: a search per_class has only one",
        ),
        (
            {"search": dataclasses.replace(CONFIG.search, fitness_noise=0.5)},
            "fitness_noise is 0.5: a search per_class is judged on several images",
        ),
    ],
)
def test_what_it_does_not_have_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
