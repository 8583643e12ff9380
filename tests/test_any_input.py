"""Generated configurations and inputs: a result, or an error of ours that names what is wrong.

DSL_JAX_EXAMPLES sets how many are tried of each kind; 10,000 in all were, see docs/reliability.md.
"""

import dataclasses
import os
import traceback
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common.overrides import override
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stripes import COUNT, DATASET, make

import dsl_jax as dsl
from dsl_jax.config import CycleConfig, LayerSchedule, LearnConfig, RunConfig, SearchConfig
from dsl_jax.evolution.image import SearchResult
from dsl_jax.presets import get_preset

EXAMPLES = int(os.environ.get("DSL_JAX_EXAMPLES", 20))
many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
FOLDER = Path(dsl.__file__).parent

numbers = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**30, -(10**30)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([np.float32(0.5), np.int8(3), np.array(2), np.uint64(2**63), np.nan, True]),
)
junk = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.just(()),
    st.just([]),
    st.just({}),
    st.just(object()),
    st.just(lambda x: x),
    st.just(np.zeros((2, 2))),
    st.complex_numbers(),
)
anything = st.one_of(numbers, junk, st.lists(st.one_of(numbers, junk), max_size=3).map(tuple))


def outcome(function, arguments, names):
    """What a call gives; None, if it was refused as it should be: by us, by name or value."""
    try:
        return function(**arguments)
    except (ValueError, TypeError, IndexError, FloatingPointError) as error:
        last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert FOLDER in last.parents, "".join(traceback.format_exception(error))
        text = str(error)
        assert any(name in text for name in names), f"{text!r} names none of {names}"
        return None


# ---- configurations


CLASSES = {
    LayerSchedule: {"generations": 2, "mutation_strength": 0.1},
    SearchConfig: {},
    LearnConfig: {},
    CycleConfig: {},
    RunConfig: {"name": "smoke", "dataset": "digits"},
}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@many
def test_any_value_of_a_field_is_taken_or_named(cls, data):
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(cls)]))
    value = data.draw(anything)
    found = outcome(cls, CLASSES[cls] | {name: value}, [name, name.removesuffix("s"), "preset"])
    if found is not None:
        assert hash(found) is not None
        plain = dsl.config.to_dict(found)
        assert not isinstance(plain[name], np.generic)


@given(name=st.one_of(st.sampled_from(["smoke", "laptop", "paper"]), anything), dataset=anything)
@many
def test_any_preset_is_there_or_named(name, dataset):
    outcome(get_preset, {"name": name, "dataset": dataset}, ["preset", "dataset"])


# ---- arrays


def identity(x):
    return x


def to_classes(x):
    return x.reshape(len(x), -1)[:, :3]


STAGES = (identity, to_classes)
LAYERS = (LayerSchedule(1, 0.1), LayerSchedule(1, 0.1))
CONFIG = SearchConfig(layers=LAYERS, num_parents=2, num_explorers=2, num_refiners=2)
IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 1)).astype(np.float32)
LABELS = np.array([0, 1])
KEY = jax.random.key(0)

shapes = st.lists(st.integers(0, 3), max_size=5).map(tuple)
dtypes = st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool", "U3", "O"])


@st.composite
def arrays(draw):
    """Arrays of any shape and type, some with what is not finite or very large."""
    shape = draw(st.one_of(shapes, st.sampled_from([(2, 4, 4, 1), (2, 1, 4, 4), (2,), (3,)])))
    array = np.random.default_rng(0).normal(size=shape) * 2
    extreme = draw(st.sampled_from([None, np.nan, np.inf, -np.inf, -7.0, 1e30]))
    if extreme is not None and array.size:
        array.flat[0] = extreme
    dtype = draw(dtypes)
    with np.errstate(invalid="ignore", over="ignore"):
        return array.astype(dtype)


REPLACED = {
    "key": ["key"],
    "stages": ["stage", "layer"],
    "images": ["image", "labels"],
    "labels": ["label", "logits", "class"],
    "config": ["config"],
    "ids": ["ids"],
    "chunk_size": ["chunk_size"],
    "mesh": ["mesh"],
}


@pytest.mark.parametrize("name", REPLACED)
@given(data=st.data())
@many
def test_any_argument_of_search_is_taken_or_named(name, data):
    arguments = {"key": KEY, "stages": STAGES, "images": IMAGES, "labels": LABELS, "config": CONFIG}
    value = data.draw(st.one_of(anything, arrays()))
    found = outcome(dsl.search, arguments | {name: value}, REPLACED[name])
    if found is not None:
        assert all(np.isfinite(layer).all() for layer in found.representations)
        assert found.representations[0].dtype == jnp.float32


@pytest.mark.parametrize("name", ("train", "test", "validation_size", "name"))
@given(data=st.data())
@many
def test_any_argument_of_a_dataset_is_taken_or_named(name, data):
    images = np.arange(6 * 12, dtype=np.uint8).reshape(6, 4, 3, 1)
    labels = np.arange(6) % 2
    arguments = {"name": "mine", "train": (images, labels), "test": (images, labels)}
    parts = st.one_of(anything, arrays())
    value = data.draw(st.one_of(parts, st.tuples(parts, parts)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = outcome(
            dsl.Dataset.from_arrays,
            {"validation_size": 2} | arguments | {name: value},
            ["image", "label", "class", name],
        )
    if found is not None:
        assert np.isfinite(np.asarray(found.normalize(found.train.images))).all()


# ---- a network and its data


NETWORK = make()
LAYER_SHAPES = ((5, 5, 4), (2, 2, 4), (1, 1, 4), (3,))
ANSWERS = SearchResult(tuple(np.zeros((COUNT, *shape), np.float32) for shape in LAYER_SHAPES), ())
CALLS = {
    "evaluate": (
        dsl.evaluate,
        {"network": NETWORK, "dataset": DATASET, "split": "validation", "statistics": "train"},
        {"batch_size": 8},
    ),
    "learn_sgd": (
        dsl.learn_sgd,
        {"key": KEY, "network": NETWORK, "dataset": DATASET, "config": LearnConfig(epochs=1)},
        {"mesh": None},
    ),
    "learn": (
        dsl.learn,
        {"key": KEY, "network": NETWORK, "dataset": DATASET, "targets": ANSWERS},
        {"config": LearnConfig(epochs=1)},
    ),
    "check_stages": (
        dsl.check_stages,
        {"stages": STAGES, "images": IMAGES, "config": CONFIG},
        {"num_classes": 3, "learner": None},
    ),
    "frozen_stages": (
        dsl.frozen_stages,
        {"network": NETWORK, "images": IMAGES, "config": None},
        {"key": None},
    ),
}


@pytest.mark.parametrize("call", CALLS)
@given(data=st.data())
@many
def test_any_argument_of_a_public_function_is_taken_or_named(call, data):
    function, positional, options = CALLS[call]
    arguments = positional | options
    name = data.draw(st.sampled_from(list(arguments)))
    value = data.draw(st.one_of(anything, arrays()))
    named = [name, name.removesuffix("s"), "images", "network", "representations", "layer", "stage"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome(function, arguments | {name: value}, named)


# ---- the command line


paths = st.sampled_from(
    [
        "search.num_parents",
        "search.layers[0].generations",
        "search.layers[9].generations",
        "search.strategy",
        "search.fitness",
        "learn.learning_rate",
        "learn.flip",
        "widths",
        "variants",
        "num_train",
        "later_cycles[0].share",
        "nothing",
        "search",
        "search.layers",
        "",
        "[0]",
        "widths.x",
    ]
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["nan", "inf", "-1", "1e400", "9" * 30, "None", "[]", "()", "{}", "(1,'a')"]),
    st.sampled_from(["__import__('os').system('false')", "lambda: 0", "1 +", "'", "a:b", ":"]),
)


@given(path=paths, text=texts)
@many
def test_any_setting_on_the_command_line_is_taken_or_named(path, text):
    """A refusal names the setting as it was typed."""
    preset = get_preset("smoke", "digits")
    try:
        override(preset, {path: text})
    except ValueError as error:
        last = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert last.parent.name == "common" or FOLDER in last.parents, str(last)
        name = path.split(".")[-1].partition("[")[0]
        assert name.removesuffix("s") in str(error) or path in str(error)
