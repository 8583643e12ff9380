"""The table and the picture of accuracy against the number of images."""

import numpy as np
from common import size_curves
from common.methods import Method

from dsl_jax.reports.intervals import in_percent, of_paired_seeds_and_images


def test_differences_are_of_pairs_from_the_code_and_the_best_sgd():
    random = np.random.default_rng(0)
    validation = {"sgd_g1": 0.5, "sgd_g2": 0.7, "class_part": 0.9, "channel_code": 0.9}
    rows, right = [], {}
    for name, share in validation.items():
        for seed in (0, 1, 2):
            right[name, seed] = random.random(300) < 0.6
            method = Method(name, "" if name.startswith("sgd") else "all_layers")
            rows.append(
                {
                    "size": 5000,
                    "seed": seed,
                    "method": name,
                    "variant": method.variant,
                    "title": method.title,
                    "validation_accuracy": share,
                    "test_accuracy": right[name, seed].mean(),
                    "right": right[name, seed],
                    "labels": np.zeros(300),
                }
            )

    def difference(ours, theirs):
        stacked = (np.stack([right[name, seed] for seed in (0, 1, 2)]) for name in (ours, theirs))
        return in_percent(of_paired_seeds_and_images(*stacked), sign=True)

    lines = [line.split(" | ") for line in size_curves.table(rows).splitlines() if "5000" in line]
    assert [line[1] for line in lines] == [
        "SGD, G = 1", "SGD, G = 2", "class part, all layers", "channel code, all layers",
    ]  # fmt: skip
    assert [line[4:] for line in lines] == [
        ["", f"{difference('sgd_g1', 'sgd_g2')} |"],
        ["", " |"],
        [difference("class_part", "channel_code"), f"{difference('class_part', 'sgd_g2')} |"],
        ["", f"{difference('channel_code', 'sgd_g2')} |"],
    ]
    # The first of a method's controls that was trained.
    renamed = {"class_part": "per_class"}
    rows = [row | {"method": renamed.get(row["method"], row["method"])} for row in rows]
    assert difference("class_part", "channel_code") in size_curves.table(rows)
    renamed = {"sgd_g1": "per_class_code"}
    rows = [row | {"method": renamed.get(row["method"], row["method"])} for row in rows]
    rows = [row | {"variant": "all_layers"} for row in rows if row["method"] != "sgd_g2"]
    assert difference("class_part", "sgd_g1") in size_curves.table(rows)


def test_the_best_sgd_is_one_that_ended_for_most_seeds():
    ended = {"sgd_g1": [0.5, 0.5, 0.5], "sgd_g2": [0.6, 0.6, 0.6], "sgd_g3": [0.9]}
    rows = [
        {"method": name, "seed": seed, "validation_accuracy": accuracy}
        for name, accuracies in ended.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    assert {row["method"] for row in size_curves.best_by_validation(rows)} == {"sgd_g2"}
    assert size_curves.best_by_validation([]) == []
