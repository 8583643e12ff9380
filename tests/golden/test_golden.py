"""The computation has not changed: same key, same bits, on a machine of a kind seen before."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent
pytestmark = pytest.mark.slow  # some twenty programs to compile
spec = importlib.util.spec_from_file_location("golden_make", FOLDER / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


def check_names(golden, computed):
    """Nothing that is computed is missing; a file may hold the searches alone (golden/make.py)."""
    parts = {name.partition(".")[0] for name in golden}
    assert "search" in parts
    assert golden.keys() == {name for name in computed if name.partition(".")[0] in parts}


@pytest.fixture(scope="module")
def computed():
    return make.compute()


def read(path):
    with np.load(path) as file:
        return dict(file)


def test_every_array_is_equal_to_the_bit_on_a_kind_of_machine_seen_before(computed):
    if not make.golden_file().exists():
        pytest.skip(f"no golden file of this kind of machine, {make.kind()}: tests/golden/make.py")
    golden = read(make.golden_file())
    check_names(golden, computed)
    changed = [
        name
        for name, array in golden.items()
        if array.dtype != computed[name].dtype or array.tobytes() != computed[name].tobytes()
    ]
    assert not changed


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.npz")), ids=lambda path: path.stem)
def test_other_machines_differ_by_rounding_and_what_selection_makes_of_it(computed, path):
    """Search amplifies a rounding error: it may choose another parent. So bits do not carry over
    to another processor or XLA; what the first generation starts from, the level that fitness
    reaches, and the first epoch's loss do."""
    golden = read(path)
    check_names(golden, computed)
    for name, array in golden.items():
        ours = computed[name]
        assert (array.shape, array.dtype) == (ours.shape, ours.dtype), name
        if name.endswith("fitness_0"):
            np.testing.assert_allclose(ours[:, 0], array[:, 0], atol=1e-3, err_msg=name)
        elif "fitness" in name:
            assert abs(ours[:, -1].mean() - array[:, -1].mean()) < 0.5, name
        elif name.endswith("train_loss"):
            np.testing.assert_allclose(ours[0], array[0], rtol=0.05, err_msg=name)
