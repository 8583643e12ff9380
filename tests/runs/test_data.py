"""A run keeps what its data are; no others take their place."""

import dataclasses

import pytest
from some_images import some_arrays

from dsl_jax.data.dataset import Dataset
from dsl_jax.data.identity import DataIdentity
from dsl_jax.data.load import load_dataset
from dsl_jax.presets import get_preset
from dsl_jax.runs import data
from dsl_jax.runs.data import check_identity, keep_identity, load_data, load_run_data, read_identity
from dsl_jax.runs.folder import RunFolder
from dsl_jax.runs.load import load_run

CONFIG = dataclasses.replace(get_preset("smoke", "digits"), num_train=60, validation_size=20)
MINE = Dataset.from_arrays("mine", some_arrays(40), some_arrays(20, seed=1), validation_size=10)
OTHERS = dataclasses.replace(MINE, test=MINE.train)


def test_a_run_is_bound_to_the_data_that_it_begins_with(tmp_path):
    keep_identity(tmp_path, MINE)
    assert read_identity(tmp_path) == DataIdentity.of(MINE)
    keep_identity(tmp_path, MINE)
    for refuse in (keep_identity, check_identity):
        with pytest.raises(ValueError, match=r"a run on other data: sha256: .* test: 20 there"):
            refuse(tmp_path, OTHERS)
    assert read_identity(tmp_path) == DataIdentity.of(MINE)


@pytest.mark.parametrize("name", ("metrics.jsonl", "seed_0/search-targets-a.json"))
def test_nothing_is_claimed_of_a_run_that_was_begun_before(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text('{"seconds": 1}')
    keep_identity(tmp_path, MINE)
    check_identity(tmp_path, OTHERS)
    assert read_identity(tmp_path) is None


def test_of_two_that_begin_at_once_on_other_data_the_one_that_came_second_is_refused(
    tmp_path, monkeypatch
):
    write = data.write_json

    def too_late(path, values, only_new):
        write(path, dataclasses.asdict(DataIdentity.of(OTHERS)))
        write(path, values, only_new)

    monkeypatch.setattr(data, "write_json", too_late)
    with pytest.raises(ValueError, match="test: 30 there, 20 here"):
        keep_identity(tmp_path, MINE)


@pytest.mark.parametrize("content", ("", "[]", '{"name": "mine"}'))
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "data.json").write_text(content)
    with pytest.raises(ValueError, match=r"data.json is damaged .* or delete it"):
        check_identity(tmp_path, MINE)


def test_data_are_loaded_by_name_as_the_run_had_them(tmp_path):
    """Their sizes are those that were there, whatever the configuration says."""
    kept = load_dataset("digits", num_train=70, validation_size=30)
    assert DataIdentity.of(load_data(CONFIG, DataIdentity.of(kept))) == DataIdentity.of(kept)
    assert len(load_run_data(tmp_path, CONFIG).train.images) == 40


def test_data_of_ones_own_are_not_loaded(monkeypatch):
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: pytest.fail("nothing to load"))
    with pytest.raises(ValueError, match="of one's own, called 'mine': hand them over"):
        load_data(CONFIG, DataIdentity.of(MINE))
    called_so = dataclasses.replace(MINE, name="mnist")
    with pytest.raises(ValueError, match="of one's own, called 'mnist'"):
        load_data(CONFIG, DataIdentity.of(called_so))
    with pytest.raises(ValueError, match=r"'mine' is unknown: choose one of mnist, .* your own"):
        load_data(get_preset("smoke", MINE), None)


def test_what_is_loaded_by_name_must_be_what_the_run_had():
    digits = load_dataset("digits", num_train=60, validation_size=20)
    other = dataclasses.replace(digits, test=digits.test._replace(images=255 - digits.test.images))
    with pytest.raises(ValueError, match=r"other data than load_dataset\('digits'\) gives: sha256"):
        load_data(CONFIG, DataIdentity.of(other))


def test_a_folder_without_data_json_is_read(tmp_path):
    RunFolder(tmp_path / "run", CONFIG)
    loaded = load_run(tmp_path / "run")
    assert loaded.data is None and loaded.dataset(MINE) is MINE
    assert len(loaded.dataset().train.images) == 40
