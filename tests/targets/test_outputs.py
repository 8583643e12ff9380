"""A store knows its network by what its stages compute, not only by what they hold."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from toy_targets import CONFIG, IDS, IMAGES, LABELS, STAGES, WEIGHTS, equal, run

from dsl_jax.files import unsealed
from dsl_jax.names import source_hash
from dsl_jax.targets import layout
from dsl_jax.targets.fingerprint import check_same_search, make_manifest
from dsl_jax.targets.outputs import TOLERANCE, different_outputs, summarize_outputs

LIST, TABLE, NUMBER = [2.0], {"scale": 2.0}, 2.0
MODULE = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
LINEN = linen.Dense(3)
ARRAY = np.full(6, 2.0, np.float32)
SETTINGS = types.SimpleNamespace(scale=2.0)


def helper(hidden):
    return hidden * ARRAY[None]


GLOBALS = {
    "a list": ("LIST", [3.0], lambda h: h[:, :3] * LIST[0]),
    "a dict": ("TABLE", {"scale": 3.0}, lambda h: h[:, :3] * TABLE["scale"]),
    "a number": ("NUMBER", 2.02, lambda h: h[:, :3] * NUMBER),
    "an object": (
        "SETTINGS",
        types.SimpleNamespace(scale=3.0),
        lambda h: h[:, 3:] * SETTINGS.scale,
    ),
    "an nnx module": ("MODULE", nnx.Linear(6, 3, rngs=nnx.Rngs(1)), lambda h: MODULE(h)),
    "an array in a helper": ("ARRAY", np.full(6, 3.0, np.float32), lambda h: helper(h)[:, :3]),
    "a Linen model": (
        "LINEN",
        linen.Dense(3, use_bias=False, dot_general=lambda *a, **k: -jax.lax.dot_general(*a, **k)),
        jax.tree_util.Partial(
            lambda params, h: LINEN.apply(params, h), LINEN.init(jax.random.key(0), np.ones((1, 6)))
        ),
    ),
}


def manifest_of(stages, config=CONFIG):
    """What a store of these would be known by."""
    return make_manifest(
        jax.random.key(0),
        stages,
        IMAGES.__getitem__,
        LABELS,
        IDS,
        config,
        dataset="toy",
        chunk_size=2,
    )


def refused(ours, theirs):
    """Why one may not go on with the other."""
    with pytest.raises(ValueError, match="the targets of another search") as error:
        check_same_search(ours, theirs, "there")
    return str(error.value)


@pytest.mark.parametrize("what", GLOBALS)
def test_a_function_with_another_global_is_another_network(what, monkeypatch):
    name, other, head = GLOBALS[what]
    stages = (*STAGES[:2], head)
    before = manifest_of(stages)
    check_same_search(manifest_of(stages), before, "there")
    monkeypatch.setitem(globals(), name, other)
    assert "what stage 2 computes" in refused(manifest_of(stages), before)


def test_a_changed_body_is_another_network():
    program = "import jax.numpy as jnp\ndef head(h):\n    return {}\n"

    def head(body):
        module = types.ModuleType("a_notebook")
        exec(program.format(body), module.__dict__)
        return (*STAGES[:2], module.head)

    before = manifest_of(head("h[:, :3]"))
    check_same_search(manifest_of(head("h[:, 0:3] * 1")), before, "there")  # the same in others
    assert "stage 2 computes" in refused(manifest_of(head("jnp.tanh(h[:, :3])")), before)


def test_the_stage_that_changed_is_named_not_those_after_it(tmp_path):
    stages = [functools.partial(stage.func, *stage.args) for stage in STAGES]
    images = IMAGES[:5]
    before = summarize_outputs(stages, images)
    assert list(before) == ["stage 0", "stage 1", "stage 2"]
    stages[1] = functools.partial(STAGES[1].func, WEIGHTS[1] * 1.01)
    (line,) = different_outputs(summarize_outputs(stages, images), before, TOLERANCE)
    assert "stage 1" in line
    stages[1] = lambda hidden: jnp.full((len(hidden), 6), jnp.nan)
    (line,) = different_outputs(summarize_outputs(stages, images), before, TOLERANCE)
    assert "stage 1" in line and "not finite in one of the two" in line
    assert json.loads(json.dumps(summarize_outputs(stages, images)))["stage 1"] is None


def test_rounding_is_no_difference():
    """As on other devices: a thousandth of the tolerance, in every number."""
    noise = np.random.default_rng(1)

    def rounded(stage):
        def otherwise(hidden):
            outputs = stage(hidden)
            return outputs * (1 + 1e-5 * noise.standard_normal(outputs.shape))

        return otherwise

    ours = summarize_outputs(STAGES, IMAGES)
    theirs = summarize_outputs(tuple(map(rounded, STAGES)), IMAGES)
    assert different_outputs(ours, theirs, TOLERANCE) == []


def test_a_new_store_is_searched_by_what_the_stages_compute_now(tmp_path, monkeypatch):
    """Not by what `jit` remembers of the same functions; their old store is refused."""
    stages = (*STAGES[:2], GLOBALS["a list"][2])
    first = run(tmp_path / "first", stages=stages).read()
    monkeypatch.setitem(globals(), "LIST", [-2.0])
    with pytest.raises(ValueError, match="what stage 2 computes"):
        run(tmp_path / "first", stages=stages)
    second = run(tmp_path / "second", stages=stages).read()
    np.testing.assert_allclose(  # no generation changes the logits of this search
        second.representations[2], LIST[0] * second.representations[1][:, :3], atol=1e-2
    )
    assert not equal(first, second)


def test_a_store_without_these_numbers_is_used_and_it_is_told(folder, caplog):
    manifest = unsealed(json.loads((folder / layout.MANIFEST).read_text()))
    assert set(manifest.pop("outputs")) == {"stage 0", "stage 1", "stage 2"}
    (folder / layout.MANIFEST).write_text(json.dumps(manifest))
    assert run(folder).is_complete
    assert "older version; not compared: the outputs of its stages" in caplog.text


# ---- one's own fitness and strategy

FITNESS = """
import jax

SCALE = 1.0

def ours(logits, label):
    return SCALE * jax.nn.log_softmax(logits)[:, label]
"""


def test_another_text_of_ones_own_fitness_is_another_search(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    config = dataclasses.replace(CONFIG, fitness="own_module:ours")

    def written(text):
        (tmp_path / "own_module.py").write_text(text)
        sys.modules.pop("own_module", None)
        importlib.invalidate_caches()
        return manifest_of(STAGES, config)

    before = written(FITNESS)
    check_same_search(written(FITNESS), before, "there")
    assert "fitness_sha256" in refused(written(FITNESS.replace("SCALE *", "2 * SCALE *")), before)
    beside = written(FITNESS.replace("1.0", "-1.0"))
    assert "what fitness computes" in refused(beside, before)
    del before["fingerprint"]["fitness_sha256"], before["outputs"]["fitness"]
    check_same_search(written(FITNESS), before, "there")
    assert "older version; not compared: fitness_sha256" in caplog.text


def test_the_text_of_ones_own_strategy_is_kept_and_none_of_evosaxs(monkeypatch):
    def manifest(strategy):
        return manifest_of(STAGES, dataclasses.replace(CONFIG, strategy=strategy))

    before = manifest("own_strategy:Walk")
    assert "strategy_sha256" not in manifest("SNES")["fingerprint"]
    text = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda value: text(value).replace("0.5", "0.6"))
    assert "strategy_sha256" in refused(manifest("own_strategy:Walk"), before)


def test_the_text_of_what_has_none_of_its_own_is_its_methods_or_its_modules(monkeypatch):
    class Walk:
        def step(self):
            return 1

    def no_class(value, text=inspect.getsource):  # as for one that is defined in a notebook
        if isinstance(value, type):
            raise TypeError("is a built-in class")
        return text(value)

    monkeypatch.setattr(inspect, "getsource", no_class)
    assert source_hash(Walk) == hashlib.sha256(no_class(Walk.step).encode()).hexdigest()
    module = sys.modules[__name__]
    monkeypatch.setitem(sys.modules, "some_module", module)
    partial = functools.partial(helper)
    partial.__module__ = "some_module"
    assert source_hash(partial) == hashlib.sha256(no_class(module).encode()).hexdigest()
    assert source_hash(len) is None
