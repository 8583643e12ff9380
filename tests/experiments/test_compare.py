"""Trainings of kept sweeps compared: which rows are chosen, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from dsl_jax.config import to_dict
from dsl_jax.presets import get_preset
from dsl_jax.reports.intervals import in_percent, of_paired_seeds_and_images

ROOT = Path(__file__).parents[2]
FOLDER = "--folder=results/full-cifar10_5k_codes"
OURS, THEIRS = "--ours=method=per_class", "--theirs=method=class_part"


def keep(folder, name, rows, said, columns=None, **changes):
    """A point of a sweep with these rows, predictions and columns; changes: of its
    configuration."""
    config = to_dict(get_preset("smoke", "digits")) | changes
    points = folder / "points"
    points.mkdir(parents=True, exist_ok=True)
    rows = [{"dataset": "digits", "predictions": f"points/{name}.npz"} | row for row in rows]
    point = {"identity": {"columns": columns or {}, "config": config}, "rows": rows}
    (points / f"{name}.json").write_text(json.dumps(point))
    np.savez(points / f"{name}.npz", **said)


def keep_seeds(folder, training, right):
    """A point for each seed of a training; right: whether each test image is, by seed."""
    for seed, each in right.items():
        row = {"seed": seed, "training": training, "test_accuracy": np.mean(each)}
        said = {"labels": np.zeros(len(each), int), training: 1 - np.array(each)}
        keep(folder, f"{training}_{seed}", [row], said)


@pytest.fixture
def compare(experiment, monkeypatch, capsys):
    """Runs it at the root; exit code, what it prints, what it says of faults."""
    monkeypatch.chdir(ROOT)

    def run(*flags):
        code = experiment("compare")(*flags)
        return code, *capsys.readouterr()

    return run


def test_a_difference_is_that_of_the_kept_predictions(compare):
    """Seed by seed, with the title that was given."""
    code, printed, _ = compare(FOLDER, "--ours=ours:method=per_class", THEIRS)
    said = {"per_class": [], "class_part": []}
    for method, right in said.items():
        for seed in range(30, 35):
            name = f"results/full-cifar10_5k_codes/points/5000-{method}-all_layers-seed_{seed}.npz"
            kept = np.load(ROOT / name)
            (training,) = set(kept.files) - {"labels"}
            right.append(kept[training] == kept["labels"])
    ours, theirs = map(np.stack, said.values())
    accuracies = 100 * ours.mean(axis=1)
    minus = in_percent(of_paired_seeds_and_images(ours, theirs), sign=True)
    assert code == 0
    assert printed.splitlines() == [
        "| training | test accuracy | minus class_part |",
        "| --- | --- | --- |",
        f"| ours | {accuracies.mean():.2f} ± {accuracies.std(ddof=1):.2f} | {minus} |",
    ]


def test_several_places_are_columns_with_the_same_numbers(compare):
    folder, ours = "--folder=results/full-cifar10", "--ours=method=per_class"
    theirs = "--theirs=method=permuted"
    places = ["size=20000,variant=all_layers", "46,000:size=46000,variant=all_layers"]
    _, both, _ = compare(folder, ours, theirs, *(f"--where={place}" for place in places))
    cells = [line.strip("| ").split(" | ") for line in both.splitlines()]
    assert cells[0] == ["test accuracy", "20000, all_layers", "46,000"]
    assert [line[0] for line in cells[2:]] == ["per_class", "per_class minus permuted"]
    for number, place in enumerate(places, 1):
        _, one, _ = compare(folder, ours, theirs, f"--where={place}")
        alone = one.splitlines()[2].strip("| ").split(" | ")
        assert alone[1:] == [line[number] for line in cells[2:]]


def test_a_change_is_of_the_same_seeds_and_images_in_both_places(compare, tmp_path):
    """A seed that one place lacks is left out; a folder's name chooses its rows."""
    right = {  # place, training: the test images that are right, for each seed
        ("plain", "a"): {1: [1, 1, 1, 0], 2: [1, 1, 1, 1], 3: [0, 0, 0, 0]},
        ("plain", "b"): {1: [1, 0, 0, 0], 2: [1, 1, 0, 0], 3: [1, 1, 1, 1]},
        ("crops", "a"): {1: [1, 1, 0, 0], 2: [1, 0, 1, 0]},
        ("crops", "b"): {1: [1, 1, 1, 0], 2: [1, 1, 0, 0]},
    }
    for (place, training), seeds in right.items():
        keep_seeds(tmp_path / place, training, seeds)
    _, printed, _ = compare(
        *(f"--folder={tmp_path / place}" for place in ("plain", "crops")),
        *("--ours=training=a", "--theirs=training=b", "--change"),
        *(f"--where={place}:folder={place}" for place in ("plain", "crops")),
    )
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    assert cells[0] == ["test accuracy", "plain", "crops", "plain minus crops"]
    assert cells[2][-1].startswith("+37.50 (")  # of 3/4 and 1, minus twice 1/2
    change = np.array([[0, 1, 2, 0], [0, 1, 0, 1]]) / 2  # (a - b) there, minus (a - b) here, halved
    expected = of_paired_seeds_and_images(change, -change)
    assert cells[3][-1] == in_percent(expected, sign=True)


def test_minus_the_mean_of_two_is_the_mean_of_what_it_is_minus_each(compare, tmp_path):
    """Of the seeds that all three have."""
    right = {
        "a": {1: [1, 1, 1, 0], 2: [1, 1, 1, 1], 3: [0, 0, 0, 0]},
        "b": {1: [1, 0, 0, 0], 2: [1, 1, 0, 0], 3: [1, 1, 1, 1]},
        "c": {2: [0, 0, 1, 1], 1: [0, 0, 0, 0]},
    }
    for training, seeds in right.items():
        keep_seeds(tmp_path, training, seeds)
    _, printed, _ = compare(
        f"--folder={tmp_path}", "--ours=training=a", "--theirs=half way:training=b|training=c"
    )
    cells = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    assert cells[0][-1] == "minus half way"
    a, b, c = (np.array([seeds[1], seeds[2]]) for seeds in right.values())
    each = np.stack([a - b, a - c]).mean(axis=0)
    expected = of_paired_seeds_and_images(each, np.zeros((2, 4)))
    assert cells[2][-1] == in_percent(expected, sign=True)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ("later", "no seed is in both that are compared: 71, 72, 73 and 74, 75, 76"),
        ("first|later", "no seed has all trainings whose mean is meant: 71, 72, 73 and 74, 75, 76"),
    ],
)
def test_trainings_without_a_seed_in_common_are_refused(theirs, message, compare):
    names = {"first": "full-cifar10_20k_given", "later": "full-cifar10_20k_given_more"}
    for name, folder in names.items():
        theirs = theirs.replace(name, f"folder={folder},method=per_class")
    folders = [f"--folder=results/{folder}" for folder in names.values()]
    ours = f"--ours=folder={names['first']},method=per_class"
    code, _, said = compare(*folders, ours, f"--theirs={theirs}")
    assert code == 2 and message in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([FOLDER, OURS, THEIRS, "--change"], "change is from one place to another: where has 1, n"),
        ([OURS, THEIRS], "folder is empty: --help has an example"),
        ([FOLDER, THEIRS], "ours is empty"),
        ([FOLDER, OURS, THEIRS, "--seed=3"], "--seed has no effect: kept sweeps are read"),
        (["--folder=results/kills", OURS, THEIRS], "kills has no finished point of a sweep"),
        ([FOLDER, "--ours=per_class", THEIRS], "ours has 'per_class': write COLUMN=VALUE"),
        ([FOLDER, OURS + ",seed=30,seed=31", THEIRS], "ours has seed twice"),
        ([FOLDER, OURS, "--theirs=metho=x"], "theirs: there is no column 'metho' among dataset, "),
        ([FOLDER, OURS, "--theirs=method=x"], "theirs: no method is 'x', but channel_code, class"),
        ([FOLDER, "--ours=size=5000", THEIRS], "ours chooses two trainings of seed 30: add one of"),
        ([FOLDER, OURS, THEIRS, "--where=size=4"], "where: no size is '4', but 5000"),
        ([FOLDER, OURS, THEIRS, "--where=size=4|size=5"], "where tells which rows: a | between"),
    ],
)
def test_what_chooses_no_rows_is_named(flags, message, compare):
    code, _, said = compare(*flags)
    assert code == 2 and message in said


def test_what_differs_between_two_of_a_seed_is_named(compare):
    _, _, said = compare(FOLDER, "--ours=size=5000", THEIRS)
    assert "method: channel_code, class_part" in said and "right" not in said


def test_a_training_that_failed_is_left_out(compare, tmp_path):
    labels = np.arange(10)
    said = {"labels": labels, "a": labels, "b": np.where(labels, labels, 1)}
    for seed, failure in ((1, None), (2, "diverged at step 5")):
        rows = [{"seed": seed, "training": name, "test_accuracy": 0.5} for name in "ab"]
        if failure:
            rows[0] = {"seed": seed, "training": "a", "failure": failure, "predictions": None}
        keep(tmp_path, seed, rows, said)
    _, printed, _ = compare(f"--folder={tmp_path}", "--ours=training=a", "--theirs=training=b")
    (line,) = printed.splitlines()[2:]
    assert "1 of 2 diverged at step 5" in line and "+10.00 (" in line


@pytest.mark.parametrize(
    ("labels", "changes", "message"),
    [
        ([0, 1, 0], {}, "points/2.npz of digits and points/1.npz of digits are of other test imag"),
        ([0, 1], {}, "are of other test images, and cannot be compared"),
        (
            [0, 1, 1],
            {"num_train": 210},
            "other settings, which are no seeds of one: num_train: 440",
        ),
        (
            [0, 1, 1],
            {"columns": {"images_per_class": 4, "seed": 2}},
            "other settings, which are no seeds of one: images_per_class: None there, 4 here",
        ),
    ],
)
def test_what_does_not_belong_together_is_refused(labels, changes, message, compare, tmp_path):
    """Other test images, as many or not, in another seed; other settings."""
    for number, (truth, changed) in enumerate([([0, 1, 1], {}), (labels, changes)], 1):
        rows = [{"seed": number, "training": name, "test_accuracy": 0.5} for name in "ab"]
        said = np.zeros(len(truth), int)
        keep(tmp_path, number, rows, {"labels": truth, "a": said, "b": said}, **changed)
    code, _, said = compare(f"--folder={tmp_path}", "--ours=training=a", "--theirs=training=b")
    assert code == 2 and message in said


def test_a_sweep_without_predictions_is_refused(compare, tmp_path):
    """Also one whose rows are of no training and no seed."""
    (tmp_path / "points").mkdir()
    point = {"identity": {"columns": {}}, "rows": [{"dataset": "digits", "layer": 0}]}
    (tmp_path / "points" / "one.json").write_text(json.dumps(point))
    for folder, columns in (
        ("results/cycles-mnist_5k", "training=sgd_g2"),
        (str(tmp_path), "layer=0"),
    ):
        flags = f"--ours={columns}", f"--theirs={columns}"
        code, _, said = compare(f"--folder={folder}", *flags)
        assert code == 2 and f"{Path(folder).name}, which has kept no predictions" in said
