"""Accuracy against the number of images: what each method learns, and what is kept and compared."""

import dataclasses
import importlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from no_training import record_trainings
from sweep_results import rows_of
from tiny_search import TINY_SEARCH

import dsl_jax
from dsl_jax import pipeline
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.learning.evaluation import with_training_statistics
from dsl_jax.learning.result import LearnResult
from dsl_jax.networks.interface import in_mode
from dsl_jax.targets.fill import search_to_store

METHODS = (
    "sgd_g2", "searched", "permuted", "class_part", "per_class", "channel_code", "sampler",
    "started", "started_permuted",
)  # fmt: skip
FLAGS = [
    *TINY_SEARCH,
    "--config.search.layers[3].generations=1",
    "--sweep.sizes=(60,)",
    "--sweep.validation_size=20",
    "--sweep.searched_images=50",
    "--sweep.images_per_class=2",
    f"--sweep.methods={','.join(METHODS)}",
    "--config.variants=('skip_block_0','sgd')",
]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_each_method_learns_its_own_targets_and_each_prediction_is_kept(
    experiment, tmp_path, monkeypatch
):
    learned = []

    def recorded(network, dataset, targets, config):
        learned.append((targets, dataset, config.variant))
        record = {"best_so_far": True, "epoch": 1, "seconds": 0.0, "train_loss": 0.0}
        return LearnResult(network, [record | {"validation_accuracy": 0.5}])

    record_trainings(monkeypatch, recorded)
    folder = tmp_path / "sweep"
    assert experiment("full_data")(*FLAGS, f"--output_dir={folder}") == 0

    rows = rows_of(folder)
    assert [row["method"] for row in rows] == list(METHODS)
    (
        _,
        (found, dataset, variant),
        (permuted, *_),
        (part, *_),
        (per_class, *_),
        (code, *_),
        (sampler, *_),
        (started, *_),
        (started_permuted, *_),
    ) = learned
    labels = dataset.train.labels
    assert len(labels) == 60 and variant == "skip_block_0"
    for ours, theirs in ((found, permuted), (started, started_permuted)):
        own, others = ours.read().representations[1], theirs.read().representations[1]
        for image, target in enumerate(others):
            (source,) = np.flatnonzero([(target == mine).all() for mine in own])
            assert labels[source] == labels[image]
            assert source != image or (labels == labels[image]).sum() == 1
    own = found.read().representations

    # Of the first 50 images alone: their logits' means, and their mean cosine.
    for label in range(10):
        mean = own[-1][:50][labels[:50] == label].mean(axis=0)
        np.testing.assert_allclose(part.logits[label], mean, atol=1e-5)
    natural = np.asarray(part.stages[0](dataset.normalize(dataset.train.images[:50])))
    cosines = [
        np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]
        for a, b in zip(natural, own[0][:50], strict=True)
    ]
    np.testing.assert_allclose(part.cosines[0], np.mean(cosines), atol=1e-3)
    assert not part.propagates and not code.propagates and per_class.propagates
    for other in (code, per_class):
        np.testing.assert_array_equal(other.cosines, part.cosines)
    np.testing.assert_array_equal(code.logits, part.logits)
    direction = np.asarray(code.directions[0])
    np.testing.assert_array_equal(direction, np.broadcast_to(direction[:, :1, :1], direction.shape))

    # A sampler learns from those of the 50 that it does not hold out.
    np.testing.assert_allclose(sampler.shared.cosines, part.cosines, atol=0.05)
    assert (sampler.shared.cosines != part.cosines).all()

    # The first candidates of a search that begins with its proposals are those, and noise on them.
    stages, images = sampler.shared.stages, dataset.normalize(dataset.train.images)
    proposed, traces = sampler.of(images, labels), started.read().fitness
    for layer, (start, trace) in enumerate(zip(proposed, traces, strict=True)):
        for stage in stages[layer + 1 :]:
            start = stage(start)
        begun = jax.nn.log_softmax(start)[np.arange(len(labels)), labels]
        assert (trace[:, 0] > begun - 1e-3).all(), layer

    with np.load(folder / rows[1]["predictions"]) as kept:
        np.testing.assert_array_equal(kept["labels"], dataset.test.labels)
        assert rows[1]["test_accuracy"] == pytest.approx(
            (kept["searched"] == kept["labels"]).mean()
        )
    assert (folder / "full_data.png").exists()
    # What is computed is not computed again.
    assert experiment("full_data")(*FLAGS, f"--output_dir={folder}") == 0
    assert len(learned) == len(METHODS)


def test_sizes_are_training_images_and_a_wrong_method_is_named():
    script = importlib.import_module("full_data")
    config = dsl_jax.get_preset("laptop", "cifar10")
    settings = script.Settings(sizes=(1000,), methods=("sgd_g3", "per_class"))
    points = script.define(config, settings).points
    assert [point.name for point in points] == [
        "1000-sgd_g3-seed_0",
        "1000-per_class-all_layers-seed_0",
        "1000-per_class-skip_block_0-seed_0",
    ]
    assert points[0].config.learner_groups == 3
    for point in points:
        assert point.config.num_train - point.config.validation_size == 1000
    with pytest.raises(ValueError, match="unknown: choose one of sgd_g1"):
        script.define(config, script.Settings(methods=("best",)))
    with pytest.raises(ValueError, match=r"searched_images is 1000, but the smallest .* has 500"):
        script.define(config, dataclasses.replace(settings, sizes=(500, 2000)))
    both = dataclasses.replace(settings, methods=("searched", "permuted", "per_class"))
    costs = {p.name: (p.candidates, p.disk_bytes) for p in script.define(config, both).points}
    each = config.search.candidates_per_image
    counted = {name: candidates // each for name, (candidates, _) in costs.items() if candidates}
    # The images of one search; the few of which the class's search takes its cosines, and that
    # of ten classes, whose last parents need no more evaluations than an image's.
    assert counted == {
        "1000-searched-all_layers-seed_0": 1000,
        "1000-per_class-all_layers-seed_0": 1010,
    }
    (stored,) = [name for name, (_, size) in costs.items() if size]
    assert stored == "1000-searched-all_layers-seed_0"
    shared = dsl_jax.SharedConfig(fresh_images=8)
    with pytest.raises(ValueError, match=r"config.shared has no effect here: set --sweep"):
        script.define(dataclasses.replace(config, shared=shared), settings)


def test_data_with_fewer_images_than_a_size_are_refused(tmp_path):
    """mnist_5k may stand in for MNIST; a row would call its images as many as were asked for."""
    script = importlib.import_module("full_data")
    config, settings = dsl_jax.get_preset("smoke", "digits"), script.Settings(sizes=(61,))
    (point,) = script.define(config, dataclasses.replace(settings, methods=("sgd_g1",))).points
    dataset = dsl_jax.load_dataset("digits", num_train=80, validation_size=20)
    with pytest.raises(ValueError, match="digits has 60 training images, not 61: set --sweep"):
        script.measure_training(point, dataset, tmp_path, settings)


def test_data_in_anothers_place_that_are_too_few_are_refused_before_all(
    experiment, tmp_path, monkeypatch, capsys
):
    script = importlib.import_module("full_data")
    monkeypatch.setattr(script, "foresee", lambda *_: SimpleNamespace(name="mnist_5k"))
    for flag in ("--dry_run", "--nodry_run"):
        flags = ["--dataset=mnist", flag, f"--output_dir={tmp_path / 'new'}"]
        assert experiment("full_data")(*flags) == 2
        said = "sweep.sizes has 5000, but mnist_5k has 3000 training images beside the 1000 for v"
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_settings_of_a_size_and_method_win_over_those_of_either():
    script = importlib.import_module("full_data")
    config = dsl_jax.get_preset("laptop", "cifar10")
    settings = script.Settings(
        sizes=(1000, 2000),
        methods=("sgd_g1", "permuted"),
        changes="1000-sgd_g1:sgd.learning_rate=3.0|sgd_g1:sgd.learning_rate=2.0|"
        "1000:sgd.learning_rate=1.0;learn.learning_rate=9.0",
    )
    rates = {p.name: p.config for p in script.define(config, settings).points}
    assert rates["1000-sgd_g1-seed_0"].sgd.learning_rate == 3
    assert rates["2000-sgd_g1-seed_0"].sgd.learning_rate == 2
    for size, learn, sgd in ((1000, 9, 1), (2000, config.learn.learning_rate, 0.1)):
        permuted = rates[f"{size}-permuted-all_layers-seed_0"]
        assert (permuted.learn.learning_rate, permuted.sgd.learning_rate) == (learn, sgd)
    with pytest.raises(ValueError, match="'seed' is unknown: choose one of learn, sgd, search"):
        script.define(config, dataclasses.replace(settings, changes="1000:seed=3"))
    for change in (
        "sgd_g1:learn.learning_rate=1",
        "1000-sgd_g1:search.num_parents=3",
        "1000-permuted:sgd.learning_rate=1",
        "1000:learn.variant=all_layers",
    ):
        with pytest.raises(ValueError, match="has no effect on " + change.partition(":")[0]):
            script.define(config, dataclasses.replace(settings, changes=change))
    for change, message in (
        ("1000:learn.learning_rate=2|1000:learn.weight_decay=0.1", "1000 is there twice"),
        ("1000:learn.learning_rate=2;learn.learning_rate=3", "has a field twice"),
        ("permuted:learn.flip=True", "learn.flip has no effect here: it needs --config.learn.augm"),
    ):
        with pytest.raises(ValueError, match=message):
            script.define(config, dataclasses.replace(settings, changes=change))
    for name in ("3000", "searched", "3000-sgd_g1"):
        wrong = dataclasses.replace(settings, changes=f"{name}:sgd.momentum=0.5")
        with pytest.raises(ValueError, match=f"{name}.*choose one of 1000, sgd_g1, 1000-sgd_g1"):
            script.define(config, wrong)


@pytest.mark.usefixtures("one_device")
def test_probes_measure_the_training_images_and_a_new_head(experiment, tmp_path, monkeypatch):
    trained = []

    def recorded(network, dataset, targets, config):
        trained.append((network, dataset))
        record = {"best_so_far": True, "epoch": 1, "seconds": 0.0, "train_loss": 0.0}
        return LearnResult(network, [record | {"validation_accuracy": 0.5}])

    record_trainings(monkeypatch, recorded)
    folder = tmp_path / "sweep"
    flags = [f for f in FLAGS if "methods" not in f]
    assert (
        experiment("full_data")(
            *flags, "--sweep.methods=sgd_g1", "--sweep.probes=True", f"--output_dir={folder}"
        )
        == 0
    )
    ((network, dataset),) = trained
    (row,) = rows_of(folder)
    network = in_mode(network, training=False)
    h = network.representations(dataset.normalize(dataset.train.images))[-1]
    said = np.argmax(network.head(h), axis=-1)
    assert row["train_accuracy"] == pytest.approx(np.mean(said == dataset.train.labels))
    # 60 images of 10 classes are fitted all but perfectly, and beat an untrained head on others.
    assert row["new_head_accuracy"] > max(0.3, row["test_accuracy"])
    page = (folder / "report.md").read_text()
    assert "| minus SGD | training images | new head |" in page
    assert f"{100 * row['new_head_accuracy']:.2f} |" in page


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_second_search_is_in_networks_that_have_learned_from_the_image_or_have_not(
    experiment, tmp_path, monkeypatch
):
    trained, searched = [], []

    def recorded(network, dataset, targets, config):
        network = with_training_statistics(network, dataset, np.arange(len(dataset.train.images)))
        kernel = network.linear.kernel
        mark = dataset.train.ids.mean()
        kernel.set_value(jax.numpy.full_like(kernel[...], mark))
        trained.append((dataset, targets, mark * len(kernel)))
        record = {"best_so_far": True, "epoch": 1, "seconds": 0.0, "train_loss": 0.0}
        return LearnResult(network, [record | {"validation_accuracy": 0.5, "images": 1}])

    def search(path, key, stages, images, labels, config, **rest):
        found = search_to_store(path, key, stages, images, labels, config, **rest)
        if config.layers[0].mutation_strength == 0.25:
            searched.append((key, stages, found, labels))
        return found

    record_trainings(monkeypatch, recorded)
    monkeypatch.setattr(pipeline, "learn", lambda key, *arguments, **options: recorded(*arguments))
    monkeypatch.setattr(pipeline, "search_to_store", search)
    flags = [flag for flag in FLAGS if "methods" not in flag]
    methods = "--sweep.methods=again,cross_fitted_permuted,cross_fitted,again_natural"
    strength = "--config.later_cycles[0].search.layers[0].mutation_strength=0.25"
    flags += [methods, strength, "--sweep.folds=3", f"--output_dir={tmp_path / 'sweep'}"]
    assert experiment("full_data")(*flags) == 0

    # A network that is searched, one that learns; three and one; and two, of the same searches.
    assert len(trained) == 8 and len(searched) == 1 + 3 + 3 + 1
    again, others, own = (trained[number][1] for number in (1, 5, 6))
    dataset = trained[1][0]
    labels, places = dataset.train.labels, {n: i for i, n in enumerate(dataset.train.ids)}
    assert {*trained[0][0].train.ids} == {*searched[0][2].ids} == {*places}
    last = jax.numpy.ones((1, *own.read([0]).representations[-2].shape[1:]))
    for number, (key, stages, found, of_them) in enumerate([*searched[:1], *searched[4:7]]):
        learned, _, logit = trained[[0, 2, 3, 4][number]]
        assert key == purpose_key(0, SEARCH, 2)
        np.testing.assert_allclose(stages[-1](last), [[logit] * 10], rtol=1e-5)
        rows = np.array([places[n] for n in found.ids])
        np.testing.assert_array_equal(of_them, labels[rows])
        if number:
            seen = {*learned.train.ids}
            assert not seen & {*found.ids} and seen | {*found.ids} == {*places} and len(rows) == 20
        targets = (own if number else again).read(rows).representations[1]
        np.testing.assert_array_equal(targets, found.read().representations[1])
    own, others = (targets.read().representations[1] for targets in (own, others))
    assert not np.array_equal(own, again.read().representations[1])
    for image, target in enumerate(others):
        (source,) = np.flatnonzero([(target == mine).all() for mine in own])
        assert labels[source] == labels[image]
        assert source != image or (labels == labels[image]).sum() == 1

    *natural, logits = trained[7][1].read().representations
    made = dataset.normalize(dataset.train.images)
    for stage, ours in zip(searched[0][1][:-1], natural, strict=True):
        made = stage(made)
        np.testing.assert_allclose(ours, made, rtol=1e-3, atol=1e-3)  # kept in float16
    np.testing.assert_array_equal(logits, again.read().representations[-1])

    assert [row["networks"] for row in rows_of(tmp_path / "sweep")] == [1, 3, 3, 1]


def test_a_second_search_is_of_all_images_and_counted_once():
    script = importlib.import_module("full_data")
    config = dsl_jax.get_preset("laptop", "cifar10")
    methods = ("searched", "again", "again_natural", "cross_fitted", "cross_fitted_permuted")
    settings = script.Settings(sizes=(1000,), methods=methods)
    points = {p.columns["method"]: p for p in script.define(config, settings).points}
    each = config.later_cycles[0].search.candidates_per_image
    counted = {name: p.candidates // each for name, p in points.items() if name in methods[1:]}
    of_the_same_searches = {"again_natural": 0, "cross_fitted_permuted": 0}
    assert counted == {"again": 1000, "cross_fitted": 1000} | of_the_same_searches
    assert points["cross_fitted"].disk_bytes and not points["cross_fitted_permuted"].disk_bytes
    assert points["searched"].config.cycles == 1 and points["again"].config.cycles == 2
    for folds in (1, 1001):
        with pytest.raises(ValueError, match=f"folds is {folds}: it must be at least 2, and at"):
            script.define(config, dataclasses.replace(settings, folds=folds))
    for wrong, message in (
        ({"sizes": ()}, "must not be empty"),
        ({"searched_images": 0}, "searched_images is 0"),
        ({"images_per_class": 0}, "images_per_class is 0"),
        ({"clusters": -3}, "clusters is -3"),
    ):
        with pytest.raises(ValueError, match=message):
            script.define(config, dataclasses.replace(settings, **wrong))
    per_class = dataclasses.replace(settings, methods=("per_class",), fresh_images=8)
    given = dataclasses.replace(per_class, cosines=(0.2,), fresh_images=0)
    point, other = script.define(config, given).points  # two variants of one search
    assert other.candidates == 0
    assert point.candidates == 10 * config.search.candidates_per_image  # and none of a few images
    assert point.columns["cosines"] == (0.2,) and "searched_images" not in point.columns
    for wrong, message in (
        ({"cosines": (0.1, 0.2)}, "2 cosines for 3 blocks"),
        (
            {"methods": ("class_part",)},
            "sweep.cosines has no effect without a method among per_c",
        ),
        ({"folds": 3}, "sweep.folds has no effect without a method among cross_fitted"),
    ):
        with pytest.raises(ValueError, match=message):
            script.define(config, dataclasses.replace(given, **wrong))
    strategy = "per_class:search.strategy=SNES"
    for changes, message in (
        ("per_class:search.num_searches=2", "a search per_class has only one of each class"),
        (strategy, "fresh_images is 8: with the strategy 'SNES'"),
    ):
        with pytest.raises(ValueError, match=message):
            script.define(config, dataclasses.replace(per_class, changes=changes))
    script.define(config, dataclasses.replace(per_class, fresh_images=0, changes=strategy))
    unfair = dataclasses.replace(settings, changes="again:learn.learning_rate=1")
    with pytest.raises(ValueError, match="its control would be searched in others"):
        script.define(config, unfair)
    later = config.later_cycles[0]
    changed = [(dataclasses.replace(later, images="wrong"),), (later, later)]
    for cycles in changed:
        with pytest.raises(ValueError, match="give one cycle, and leave its images"):
            script.define(dataclasses.replace(config, later_cycles=cycles), settings)
    plain = dataclasses.replace(settings, methods=("searched",))
    sampler = dataclasses.replace(config.sampler, hidden=3)
    for changes, message in (
        ({"later_cycles": changed[0]}, "later_cycles has no effect.* again, again_permuted"),
        ({"sampler": sampler}, "sampler has no effect.* sampler, started, started_permuted"),
    ):
        with pytest.raises(ValueError, match=message):
            script.define(dataclasses.replace(config, **changes), plain)
