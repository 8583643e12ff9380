"""Search on the devices of a mesh: what it finds, and where that lies."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_search import (
    CONFIG,
    KEY,
    STAGES,
    assert_same,
    data,
    image_stage,
    logits_stage,
    vector_stage,
)

from dsl_jax.evolution.images import Images, Method, as_pytrees, search
from dsl_jax.evolution.rules import rules_of
from dsl_jax.keys import philox_key
from dsl_jax.measures import effective_solutions
from dsl_jax.targets.fill import search_to_store

MODULE = sys.modules[search.__module__]  # the package has a function of this name


@pytest.mark.slow
def test_devices_change_no_bit_and_keep_what_they_found():
    images, labels = data(6)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:3]), ("images",))  # each compiles the search
    one = search(KEY, STAGES, images, labels, CONFIG, chunk_size=2)
    some = search(KEY, STAGES, images[:5], labels[:5], CONFIG, chunk_size=2, mesh=mesh)
    assert_same(jax.tree.map(lambda x: x[:5], one), some)
    whole = search(KEY, STAGES, jnp.asarray(images), labels, CONFIG, chunk_size=2, mesh=mesh)
    assert_same(one, whole)
    for array in jax.tree.leaves(whole):
        for shard, device in zip(array.addressable_shards, mesh.devices.flat, strict=True):
            assert shard.device == device
            assert shard.data.shape[0] == 2
    # What follows takes it as it lies.
    first, *_ = whole.representations
    assert effective_solutions(first) == pytest.approx(
        float(effective_solutions(np.asarray(first))), rel=1e-5
    )
    np.testing.assert_allclose(vector_stage(first), vector_stage(np.asarray(first)), atol=1e-5)


@pytest.mark.slow
def test_one_program_for_many_devices_finds_what_it_finds_on_one(monkeypatch):
    """As on accelerators; the mesh's axes may be of either type."""
    monkeypatch.setattr(MODULE, "_is_cpu", lambda: False)
    images, labels = data(16)
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("images",))
    expected = search(KEY, STAGES, images, labels, CONFIG, chunk_size=2, mesh=one)
    many = jax.make_mesh((8,), ("images",))
    found = search(KEY, STAGES, images[:11], labels[:11], CONFIG, chunk_size=2, mesh=many)
    assert_same(jax.tree.map(lambda x: x[:11], expected), found)
    whole = search(KEY, STAGES, images, labels, CONFIG, chunk_size=2, mesh=many)
    assert_same(expected, whole)
    for array in jax.tree.leaves(whole):
        assert [shard.data.shape[0] for shard in array.addressable_shards] == [2] * 8


def test_many_devices_search_without_a_word_to_each_other():
    stages = as_pytrees((lambda x: logits_stage(vector_stage(image_stage(x))),))
    config = dataclasses.replace(CONFIG, layers=CONFIG.layers[-1:])
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("images",))
    method = Method(jax.random.key_data(philox_key(KEY)), stages, config)
    images = Images(*data(4), np.arange(4, dtype=np.uint32))
    program = MODULE._search_on_mesh
    text = program.lower(method, images, rules=rules_of(config), mesh=mesh).compile().as_text()
    assert "num_partitions=2" in text
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter", text)


def test_what_is_no_mesh_of_one_axis_is_named(tmp_path):
    images, labels = data(2)
    two_axes = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    for mesh, error, message in (
        (two_axes, ValueError, r"mesh has the axes \('a', 'b'\): it must have one"),
        (jax.devices(), TypeError, r"mesh is a list: give jax.make_mesh"),
    ):
        with pytest.raises(error, match=message):
            search(KEY, STAGES, images, labels, CONFIG, mesh=mesh)
        with pytest.raises(error, match=message):
            search_to_store(tmp_path / "s", KEY, STAGES, images, labels, CONFIG, mesh=mesh)
