"""Datasets are told apart by all that a run makes of them, and by nothing else."""

import dataclasses
import json

import numpy as np
import pytest
from some_images import some_arrays

from dsl_jax.data.dataset import Dataset
from dsl_jax.data.identity import DataIdentity

DATA = Dataset.from_arrays("own", some_arrays(40), some_arrays(20, seed=1), validation_size=10)
KEPT = DataIdentity.of(DATA)


def changed(split, field, change):
    values = np.array(getattr(getattr(DATA, split), field))
    change(values)
    return dataclasses.replace(DATA, **{split: getattr(DATA, split)._replace(**{field: values})})


def test_it_is_the_same_after_a_way_through_json():
    assert DataIdentity.from_dict(json.loads(json.dumps(dataclasses.asdict(KEPT)))) == KEPT
    assert (KEPT.train, KEPT.validation, KEPT.test, KEPT.image_shape) == (30, 10, 20, (6, 5, 3))


@pytest.mark.parametrize("split", ("train", "validation", "test"))
@pytest.mark.parametrize("field", ("images", "labels", "ids"))
def test_one_value_of_any_split_makes_other_data(split, field):
    def add_one(values):
        values.flat[-1] ^= 1

    (line,) = KEPT.differences(changed(split, field, add_one))
    assert line.startswith("sha256: ")


def test_the_order_of_the_images_counts():
    rows = np.arange(30)[::-1]
    train = type(DATA.train)(*(array[rows] for array in DATA.train))
    assert KEPT.differences(dataclasses.replace(DATA, train=train))


@pytest.mark.parametrize(
    ("field", "value"), [("name", "other"), ("num_classes", 8), ("std", (1.0, 1.0, 1.0))]
)
def test_what_differs_is_named(field, value):
    lines = KEPT.differences(dataclasses.replace(DATA, **{field: value}))
    assert lines and all(line.startswith(field) for line in lines)


def test_sizes_and_shapes_are_named():
    fewer = Dataset.from_arrays("own", some_arrays(30), some_arrays(20, seed=1))
    assert {line.split(":")[0] for line in KEPT.differences(fewer)} >= {"train", "validation"}
    larger = Dataset.from_arrays("own", some_arrays(40, (7, 5, 3)), some_arrays(20, (7, 5, 3)))
    assert "image_shape[0]: 6 there, 7 here" in KEPT.differences(larger)


def test_title_integer_types_and_memory_order_do_not_count():
    train = DATA.train._replace(
        images=np.asfortranarray(DATA.train.images), labels=DATA.train.labels.astype(np.uint8)
    )
    assert KEPT.differences(dataclasses.replace(DATA, title="Mine", train=train)) == []
