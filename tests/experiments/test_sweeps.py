"""The experiments beside the main job: each once at the smallest scale, and what they share."""

import importlib
import json
import re
from types import SimpleNamespace

import jax
import pytest
from sweep_results import rows_of
from tiny_search import TINY_FITNESS
from tiny_search import TINY_RUN as TINY

import dsl_jax
from dsl_jax import measures
from dsl_jax.files import read_json
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.presets import get_preset
from dsl_jax.runs.lock import if_free
from dsl_jax.runs.untrained import make_stages

SCRIPTS = (
    "fitness_scaling",
    "diversity_scaling",
    "accuracy_scaling",
    "representations",
    "tables",
    "choices",
    "cycles",
    "learnable",
    "starts",
    "what_targets_carry",
    "full_data",
)


pytestmark = pytest.mark.usefixtures("one_device")


# ---- what they share


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_dry_run_tells_the_papers_plan_and_computes_nothing(
    name, experiment, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("dsl_jax.data.prepare.has_tensorflow", lambda: True)
    folder = tmp_path / "folder"
    arguments = ["--preset=paper", "--dataset=cifar10", "--dry_run", f"--output_dir={folder}"]
    assert experiment(name)(*arguments) == 0
    printed = capsys.readouterr().out
    assert "in all" in printed and "candidates" in printed
    assert not folder.exists()


@pytest.mark.slow
def test_a_sweep_is_resumed_and_drawn_again_without_data(experiment, tmp_path, monkeypatch, capsys):
    from common import sweep_points, sweeps

    folder, run = tmp_path / "sweep", experiment("fitness_scaling")
    arguments = [
        *TINY_FITNESS,
        "--sweep.populations=(12,24)",
        "--sweep.generations=3",
        "--sweep.layers=(0,2)",
        f"--output_dir={folder}",
    ]
    search, calls = sweep_points.search, []

    def stop_at_third(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return search(*arguments, **options)

    monkeypatch.setattr(sweep_points, "search", stop_at_third)
    assert run(*arguments) == 130
    capsys.readouterr()
    assert run(*arguments, "--dry_run") == 0
    text = capsys.readouterr().out
    assert text.count("candidates, about") == 2 + 1 and text.count("computed already") == 2
    left = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) candidates, about", text)]
    assert left[2] == left[0] + left[1] and "left  " in text
    assert run(*arguments) == 0
    assert len(calls) == 5  # four points, one of them begun twice

    rows = rows_of(folder)
    assert {(r["layer"], r["population"]) for r in rows} == {(0, 12), (0, 24), (2, 12), (2, 24)}
    for layer in (0, 2):
        line = [r for r in rows if (r["layer"], r["population"]) == (layer, 24)]
        values = [r["cross_entropy"] for r in line]
        assert [r["generation"] for r in line] == [0, 1, 2, 3]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]

    def never(*_, **__):
        raise AssertionError("all is computed")

    sweeps._load_once.cache_clear()
    monkeypatch.setattr(sweeps, "load_or_substitute", never)
    (folder / "fitness_noise.png").unlink()
    capsys.readouterr()
    assert run(*arguments) == 0
    assert (folder / "fitness_noise.png").exists()
    assert "| noise | layer 2 |" in capsys.readouterr().out
    assert run(*arguments, "--config.chunk_size=5") == 0  # how many at once changes no result
    for flag, message in {
        "--sweep.generations=4": "noise-layer0-12 of another sweep: config.search.layers[0].gener",
        "--sweep.generation=4": "did you mean generations?",
        "--sweep.num_images=0": "num_images is 0",
        "--sweep.layers=(4,)": "4 is not among 0 to 3",
        "--sweep.populations=(100,)": "multiple of 12",
        "--config.search.num_parents=3": "config.search.num_parents has no effect here",
        "--num_seeds=2": "num_seeds is 2",
    }.items():
        assert run(*arguments, flag) == 2
        assert message in capsys.readouterr().err


def test_a_dry_run_of_a_sweep_refuses_what_the_sweep_would(experiment, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for flags, message in (
        ([f"--output_dir={tmp_path / 'file'}"], "cannot write the folder"),
        ([f"--output_dir={tmp_path}"], "is not empty and holds no sweep"),
        (["--dataset=mnist", "--data_dir=/nowhere"], "has no prepared mnist"),
        (["--sweep.num_images=900", "--num_train=900"], "images 0 to 899 are asked for"),
    ):
        tiny = ["--dataset=digits", "--preset=smoke", f"--output_dir={tmp_path / 'new'}"]
        assert experiment("fitness_scaling")(*tiny, *flags, "--dry_run") == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_needs_other_points_waits_for_those_of_other_processes(tmp_path, monkeypatch):
    from common import sweeps

    config, data = get_preset("smoke", "digits"), SimpleNamespace(name="digits")
    monkeypatch.setattr(sweeps, "_load", lambda config: (data, config, None))
    points = [sweeps.Point(name, {}, config) for name in ("one", "other")]
    points.append(sweeps.Point("both", {}, config, after=("one", "other")))
    sweep = sweeps.Sweep(points, lambda point, *_: [{"found": point.name}], None, None)
    with if_free(tmp_path / "points/.locks/one") as theirs:
        assert theirs
        assert [point.name for point in sweeps.compute(sweep, tmp_path)] == ["one", "both"]
    assert sweeps.compute(sweep, tmp_path) == []


# ---- accuracy, choices


@pytest.mark.long
@pytest.mark.slow
def test_accuracy_is_of_validation_and_searches_are_shared(
    experiment, tmp_path, searched, no_test_image
):
    folder = tmp_path / "choices"
    options = "--sweep.options=preset,lambda_0.3,sgd,target_parent_mean"  # the last is the preset's
    more = "--sweep.more=diverges:learn.learning_rate=1e30"
    assert experiment("choices")(*TINY, options, more, f"--output_dir={folder}") == 0
    assert len(searched) == 2  # chunks of 32 of 40 images, once for all options
    rows = {row["option"]: row for row in rows_of(folder)}
    assert set(rows) == {"preset", "lambda_0.3", "sgd", "diverges"}
    assert rows["diverges"]["failure"].startswith("the loss is")
    assert "diverged at step" in (folder / "report.md").read_text()
    assert rows["preset"]["cross_entropy_0"] == rows["lambda_0.3"]["cross_entropy_0"]
    path = folder / "points" / "preset" / "seed_0" / "all_layers" / "result.json"
    result = json.loads(path.read_text())
    assert rows["preset"]["validation_accuracy"] == result["validation_accuracy"]


@pytest.mark.long
@pytest.mark.slow
def test_more_generations_are_searched_further(experiment, tmp_path, no_test_image):
    folder = tmp_path / "accuracy"
    tiny = [flag for flag in TINY if "search.num_" not in flag]
    options = ["--sweep.populations=(12,)", "--sweep.population=12", "--sweep.factors=(0,2)"]
    assert experiment("accuracy_scaling")(*tiny, *options, f"--output_dir={folder}") == 0
    rows = {row["factor"]: row for row in rows_of(folder)}
    assert [rows[f]["generations"] for f in (0, 1, 2)] == ["0-0-0-0", "2-1-0-1", "4-2-0-2"]
    entropies = [rows[f]["cross_entropy_3"] for f in (0, 1, 2)]
    assert entropies == sorted(entropies, reverse=True)


def test_the_trainings_of_an_option_are_told_apart():
    choices = importlib.import_module("choices")
    accuracies = {
        ("preset", "all_layers"): (0.5, 0.6),
        ("preset", "all_layers_cycle_2"): (0.7, 0.7),
        ("sgd", "sgd_g1"): (0.9, 0.4),
    }
    rows = [
        {"dataset": "digits", "option": option, "training": training, "changes": "", "seed": seed}
        | {"validation_accuracy": accuracy, "last_accuracy": accuracy}
        for (option, training), values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    text = choices.table(rows)
    assert "| preset, all_layers |  | none | 50.0%, 60.0% |  | 50.0%, 60.0% |" in text
    assert "| preset, all_layers_cycle_2 |  | none | 70.0%, 70.0% | +15.0 |" in text
    assert "| sgd |  | none | 90.0%, 40.0% | +10.0 |" in text
    ((figure, _),) = choices.draw(rows).values()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"preset, all_layers", "preset, all_layers_cycle_2", "sgd"} <= set(labels)


def test_an_option_like_the_preset_is_left_out_only_beside_the_preset():
    choices = importlib.import_module("choices")
    config = get_preset("smoke", "digits")
    same = f"same:learn.learning_rate={config.learn.learning_rate}"

    def points(*options):
        settings = choices.Settings(options=options, more=same)
        return [point.name for point in choices.define(config, settings).points]

    assert points("preset", "sgd") == ["preset", "sgd"]
    assert points("sgd") == ["sgd", "same"]


# ---- tables


def test_every_dataset_has_its_own_presets_schedule(experiment, monkeypatch):
    import tables
    from common.command_line import parse_flags

    experiment("tables")
    flags = ["--preset=paper", "--config.learn.head_weight=0.1"]
    parse_flags(["tables.py", *flags, "--config.search.target=parent_mean", "--num_train=2000"])
    settings = tables.Settings(datasets=("mnist", "cifar10"), augment=(False,))
    points = tables.define(tables.sweeps.configure(settings), settings).points
    mnist, cifar10 = (point.config for point in points)
    assert (mnist.dataset, cifar10.dataset) == ("mnist", "cifar10")
    assert [c.search.layers[0].mutation_strength for c in (mnist, cifar10)] == [0.1, 0.3]
    assert [c.learn.epochs for c in (mnist, cifar10)] == [1000, 90]
    assert {c.learn.head_weight for c in (mnist, cifar10)} == {0.1}
    assert {c.search.target for c in (mnist, cifar10)} == {"parent_mean"}


def test_what_is_set_by_name_is_not_undone_by_a_sweep(experiment, tmp_path, capsys):
    import cycles
    import tables
    from common import command_line, sweeps

    experiment("tables")
    flags = ["--dataset=cifar10", "--num_train=500", "--sweep.num_train=600"]
    command_line.parse_flags(["x", *flags, "--config.learn.flip=False", "--config.cycles=4"])
    settings = tables.Settings(num_train=600)
    points = tables.define(sweeps.configure(settings), settings).points
    assert [(p.config.learn.augment, p.config.learn.flip) for p in points] == [
        (False, False),
        (True, False),
    ]
    assert all(point.config.sgd.flip == point.columns["augment"] for point in points)
    assert {point.config.num_train for point in points} == {600}
    assert sweeps.configure(settings, change=cycles.with_cycles).cycles == 4
    command_line.parse_flags(["x"])
    for name, *flags in (
        ("tables", "--config.dataset=mnist"),
        ("tables", "--config.learn.augment=True"),
        ("diversity_scaling", "--sweep.factors=1,2", "--config.search.num_parents=3"),
    ):
        assert experiment(name)(*flags, "--dry_run") == 2
        assert f"{flags[-1][2:].split('=')[0]} has no effect here" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_tables_learn_from_one_search_with_and_without_augmentation(experiment, tmp_path, searched):
    folder = tmp_path / "tables"
    assert experiment("tables")(*TINY, "--num_seeds=2", f"--output_dir={folder}") == 0
    assert len(searched) == 2 * 2  # two chunks a seed
    rows = rows_of(folder)
    assert len(rows) == 2 * 2 * 3  # plain and augmented, seeds, methods
    assert {row["is_best_sgd"] for row in rows if row["training"] == "sgd_g1"} == {"True"}
    results = read_json(folder / "points" / "digits-plain" / "results.json")
    plain = [r for r in rows if r["training"] == "all_layers" and r["augment"] == "False"]
    assert [r["test_accuracy"] for r in plain] == results["all_layers"]["test_accuracy"]
    assert "±" in (folder / "report.md").read_text()


# ---- representations


@pytest.mark.long
@pytest.mark.slow
def test_representations_are_measured_before_and_after_every_epoch(
    experiment, tmp_path, no_test_image
):
    folder = tmp_path / "representations"
    assert experiment("representations")(*TINY, "--num_seeds=2", f"--output_dir={folder}") == 0
    rows = rows_of(folder)
    epochs = [row for row in rows if row["epoch"] != ""]
    assert {(r["training"], r["epoch"]) for r in epochs} == {
        (name, epoch) for name in ("all_layers", "skip_block_0", "sgd_g1") for epoch in (0, 1, 2)
    }
    # The last epoch, once more from the network that the run kept, if it was the best.
    dataset = dsl_jax.load_dataset("digits", num_train=60, validation_size=20)
    loaded = dsl_jax.load_run(folder / "points" / "seed_0")
    best = max(loaded.history["seed_0/all_layers"], key=lambda r: (r["best_so_far"], r["epoch"]))
    stages = make_stages(loaded.config, dataset, 0)
    split = dataset.validation
    key = purpose_key(0, SEARCH)
    images = dataset.normalize(split.images)
    found = dsl_jax.search(key, stages, images, split.labels, loaded.config.search, ids=split.ids)
    network = loaded.networks["seed_0/all_layers"]
    reps = jax.jit(lambda x: network.representations(x))(images)[0]
    distance = float(measures.cosine_distance(reps, found.representations[0]).mean())
    assert best["cosine_distance_0"] == pytest.approx(distance, abs=2e-2)

    pairs = [row for row in rows if row["linear_cka"] != ""]
    assert len(pairs) == 28 * 4  # of six trained and two untrained networks, by layer
    assert {row["pair"] for row in pairs} >= {"untrained and untrained"}
    assert all(0 <= row["linear_cka"] <= 1 for row in pairs)
    assert {row["seeds"] for row in pairs} == {"one seed", "two seeds"}
