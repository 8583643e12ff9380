"""Several processes with one sweep: they share its points, and what several points need."""

import contextlib
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_run import tiny_data
from tiny_search import TINY_FITNESS

from dsl_jax import pipeline
from dsl_jax.config import SharedConfig
from dsl_jax.files import replacing
from dsl_jax.presets import get_preset
from dsl_jax.runs.lock import if_free

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.mark.slow
def test_processes_share_the_points_of_a_sweep(experiment, tmp_path, monkeypatch, capsys):
    from common import sweep_points

    folder, run = tmp_path / "sweep", experiment("fitness_scaling")
    arguments = [
        *TINY_FITNESS,
        "--sweep.populations=(12,24,36)",
        "--sweep.generations=1",
        "--sweep.layers=(2,)",
        f"--output_dir={folder}",
    ]
    search, sizes = sweep_points.search, []

    def recorded(*arguments, **options):
        sizes.append(arguments[4].population_size)
        return search(*arguments, **options)

    monkeypatch.setattr(sweep_points, "search", recorded)
    with if_free(folder / "points" / ".locks" / "noise-layer2-24"):
        (folder / "sweep.json").write_text('{"experiment": "fitness_scaling"}')
        assert run(*arguments) == 0
    assert "are computing noise-layer2-24; when they have ended" in capsys.readouterr().out
    assert len(sizes) == 2 and not (folder / "report.md").exists()
    assert run(*arguments) == 0
    assert len(set(sizes)) == len(sizes) == 3 and (folder / "report.md").exists()


def test_a_point_that_another_process_leaves_unfinished_is_computed(tmp_path, monkeypatch):
    from common import sweep_points, sweeps

    config = get_preset("smoke", "digits")
    points = [sweep_points.run_point(name, {}, config) for name in "abc"]
    theirs = contextlib.ExitStack()
    theirs.enter_context(if_free(tmp_path / "points" / ".locks" / "a"))
    theirs_to_the_end = if_free(tmp_path / "points" / ".locks" / "c")
    computed = []

    def measure(point, dataset, folder):
        computed.append(point.name)
        theirs.close()
        return [{}]

    monkeypatch.setattr(sweeps, "_load", lambda config: (tiny_data(), config, None))
    sweep = sweeps.Sweep(points, measure, None, None)
    with theirs_to_the_end:
        assert [point.name for point in sweeps.compute(sweep, tmp_path)] == ["c"]
    assert computed == ["b", "a"]


def test_processes_may_start_together_in_a_new_folder(tmp_path):
    from common import sweeps

    with replacing(tmp_path / "sweep.json"):  # another one, just now
        sweeps.prepare_folder(tmp_path, "choices")
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        sweeps.prepare_folder(tmp_path, "choices")


def test_few_images_are_searched_in_one_place_and_must_have_all_classes(tmp_path, monkeypatch):
    """Points of one search, and processes, meet in one store; another search has its own."""
    from common import few_searches

    places = []

    def recorded(path, key, stages, images, *_, **options):
        places.append((path.name, key, len(images), options["ids"]))

    monkeypatch.setattr(pipeline, "search_to_store", recorded)
    config, dataset = get_preset("smoke", "digits"), tiny_data()
    other = dataclasses.replace(config, seed=1)
    for one in (config, config, other):
        few_searches.search_few(one, dataset, (), tmp_path, 40)
    (first, key, count, ids), again, (elsewhere, other_key, *_) = places
    assert again[0] == first != elsewhere and count == 40
    assert again[1] == key != other_key
    np.testing.assert_array_equal(ids, dataset.train.ids[:40])
    with pytest.raises(ValueError, match=r"none of the 4 images .* set --sweep.searched_images"):
        few_searches.search_few(config, dataset, (), tmp_path, 4)
    assert len(places) == 3


def test_a_class_is_searched_with_the_cosines_of_the_few_or_with_those_that_are_given(
    tmp_path, monkeypatch
):
    """With given ones no image is searched for itself; the names of kept files stay as they are."""
    from common import few_searches, sweep_points

    searched, few = [], []
    part = SimpleNamespace(cosines=np.float32([0.25, 0.5]))
    monkeypatch.setattr(few_searches, "make_stages", lambda *_: ())
    monkeypatch.setattr(few_searches, "part_of_few", lambda *given: few.append(given) or part)
    monkeypatch.setattr(few_searches, "search_classes", lambda *given: searched.append(given[-2:]))
    config = get_preset("smoke", "digits")
    point = sweep_points.run_point("a", {"method": "per_class"}, config)
    fields = {"images_per_class": 4, "clusters": 2}
    few_searches.targets_of(point, tiny_data(), tmp_path, 40, fields | {"cosines": (0.2,)})
    assert not few
    few_searches.targets_of(point, tiny_data(), tmp_path, 40, fields)
    assert len(few) == 1
    assert searched == [
        (SharedConfig((0.2,), **fields), "cosines_0.2-images_per_class_4-clusters_2"),
        (SharedConfig((0.25, 0.5), **fields), "40-images_per_class_4-clusters_2"),
    ]
