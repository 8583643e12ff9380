"""Targets that images share come back as they were written, and others are not taken for them."""

import logging

import jax
import numpy as np
import pytest
from toy_search import KEY, STAGES, data, image_stage, logits_stage, vector_stage

from dsl_jax.evolution.shared import SharedSearch
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.files import DamagedFile
from dsl_jax.networks.sampler import Sampler, first_weights
from dsl_jax.targets.shared_files import load_targets, save_targets

IMAGES, LABELS = data(10)


def shared(clusters=1, **others):
    generator = np.random.default_rng(0)
    h, shapes = IMAGES, []
    for stage in STAGES:
        h = stage(h)
        shapes.append(h.shape[1:])
    classes = shapes[-1][0]
    *directions, logits = (
        generator.normal(size=(clusters * classes, *shape)).astype(np.float32) for shape in shapes
    )
    if clusters > 1:
        size = int(np.prod(shapes[0][-1:]))
        others["centres"] = generator.normal(size=(clusters * classes, size)).astype(np.float32)
    cosines = np.float32([0.2, 0.3])
    return SharedTargets(
        tuple(map(jax.tree_util.Partial, STAGES)), tuple(directions), cosines, logits, **others
    )


def sampler():
    targets = shared()
    weights = tuple(
        {"last": np.ones(3, np.float32)} | first_weights(KEY, d.shape[1:], len(d), 4)
        for d in targets.directions
    )
    return Sampler(targets, weights)


@pytest.mark.parametrize("make", [shared, lambda: shared(propagates=True), sampler])
def test_they_come_back_whole(make, tmp_path, caplog):
    targets = make()
    save_targets(tmp_path / "targets.npz", targets)
    again = load_targets(tmp_path / "targets.npz", STAGES)
    assert jax.tree.structure(again) == jax.tree.structure(targets)
    jax.tree.map(np.testing.assert_array_equal, again, targets)
    for ours, theirs in zip(again.of(IMAGES, LABELS), targets.of(IMAGES, LABELS), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not caplog.records


def test_clusters_come_back_with_them(tmp_path):
    targets = shared(clusters=2)
    save_targets(tmp_path / "targets.npz", targets)
    again = load_targets(tmp_path / "targets.npz", STAGES)
    jax.tree.map(np.testing.assert_array_equal, again, targets)


def test_what_is_no_such_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz is not there: save_targets writes"):
        load_targets(tmp_path / "nothing.npz", STAGES)
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    with pytest.raises(DamagedFile, match="it has no 'cosines'"):
        load_targets(tmp_path / "other.npz", STAGES)
    save_targets(tmp_path / "cut.npz", shared())
    content = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFile, match=r"cut\.npz is damaged"):
        load_targets(tmp_path / "cut.npz", STAGES)


def test_stages_of_another_network_are_told(tmp_path, caplog):
    save_targets(tmp_path / "targets.npz", shared())
    with pytest.raises(ValueError, match="targets for 3 stages, but there are 2: give those"):
        load_targets(tmp_path / "targets.npz", STAGES[1:])

    def doubled(h):
        return 2 * vector_stage(h)

    with caplog.at_level(logging.WARNING):
        load_targets(tmp_path / "targets.npz", (image_stage, doubled, logits_stage))
    assert "another network's" in caplog.text


def test_what_is_no_shared_targets_is_not_written(tmp_path):
    search = SharedSearch(shared(), (), 0)
    with pytest.raises(TypeError, match=r"the targets are a SharedSearch: give its \.targets"):
        save_targets(tmp_path / "targets.npz", search)
    with pytest.raises(TypeError, match=r"are a list: give SharedTargets .* search_to_store keeps"):
        save_targets(tmp_path / "targets.npz", [])
    assert not [*tmp_path.iterdir()]


def test_they_may_be_kept_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_targets("~/targets.npz", shared())
    assert (tmp_path / "targets.npz").exists()
    assert load_targets("~/targets.npz", STAGES).logits.shape == shared().logits.shape


@pytest.mark.parametrize("make", [shared, sampler, lambda: SharedSearch(shared(), (), 0)])
def test_in_a_notebook_they_take_few_lines(make):
    assert "float32[" in repr(make())
    assert len(repr(make())) < 600
