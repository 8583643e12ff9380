"""One damaged file of each kind that a run holds: noticed or harmless, never another result."""

import re
import shutil

import jax
import numpy as np
import pytest
from tiny_run import scores, tiny_config, tiny_data, weights
from toy_targets import files

from dsl_jax import pipeline
from dsl_jax.files import read_json
from dsl_jax.runs import saved
from dsl_jax.runs.verify import repair_run, verify_run
from dsl_jax.targets.store import TargetStore

# orbax leaves tasks behind when it meets damage.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("left_over_tasks"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KINDS = {  # of files: the first that fits, and whether a run can do it again
    "config": ("config.json", False),
    "data": ("data.json", False),
    "metrics": ("metrics.jsonl", True),
    "results": ("results.json", True),
    "note of a search": ("seed_0/search-*.json", True),
    "lock": ("seed_0/all_layers/.lock", True),
    "result of a training": ("seed_0/all_layers/result.json", True),
    "predictions": ("seed_0/all_layers/test_predictions.npz", True),
    "weights": ("seed_0/all_layers/model/ocdbt.process_0/d/*", True),
    "index of the weights": ("seed_0/all_layers/model/manifest.ocdbt", True),
    "structure of the weights": ("seed_0/all_layers/model/_METADATA", True),
    "manifest of targets": ("seed_0/targets/manifest.json", False),
    "ids of targets": ("seed_0/targets/ids/c/0", True),
    "description of targets": ("seed_0/targets/layer_1/zarr.json", True),
    "targets": ("seed_0/targets/layer_0/c/1/0/0/0", True),
    "fitness": ("seed_0/targets/fitness_0/c/0/0", True),
    "marker": ("seed_0/targets/committed/00000001", True),
    "claim": ("seed_0/targets/claims/00000001", True),
    "checkpoint": ("seed_0/sgd_g1/checkpoints/3/state/**/d/*", True),
    "history of a checkpoint": ("seed_0/sgd_g1/checkpoints/3/history/metadata", True),
}
DAMAGES = {
    "a flipped bit": lambda content: flipped(content),
    "half of it": lambda content: content[: len(content) // 2],
    "nothing of it": lambda content: b"",
    "no file": lambda content: None,
}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture(scope="module")
def run():
    """Runs, or goes on with, what is in a folder; on one device, as eight would compile it each."""

    config, dataset = tiny_config(), tiny_data()

    def go_on(folder, **options):
        return pipeline.run(config, folder, dataset, probes=False, progress=False, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "device_mesh", lambda *_: None)
        yield go_on


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """A run that is finished but for SGD, of which there are checkpoints, and the evaluation; the
    networks and results that it comes to."""
    folder = tmp_path_factory.mktemp("damage") / "run"
    delete = shutil.rmtree

    def keep_checkpoints(path, **options):
        if not str(path).endswith("checkpoints"):
            delete(path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, "CHECKPOINT_SECONDS", 0)
        patch.setattr("dsl_jax.runs.folder.shutil.rmtree", keep_checkpoints)
        results = run(folder)
    networks = weights(folder)
    (folder / "seed_0/sgd_g1/result.json").unlink()
    delete(folder / "seed_0/sgd_g1/model")
    delete(folder / "seed_0/sgd_g1/checkpoints/4")  # there is work left
    delete(folder / "seed_0/all_layers/checkpoints")
    claims = folder / "seed_0/targets/claims"
    claims.mkdir(exist_ok=True)
    (claims / "00000001").write_text('{"host": "elsewhere", "pid": 7}')
    return folder, networks, results


CASES = {
    f"{damage}, {kind}": (*KINDS[kind], DAMAGES[damage])
    for damage, kinds in {
        "a flipped bit": KINDS,
        "no file": KINDS,
        "half of it": ("config", "result of a training", "weights", "targets", "checkpoint"),
        "nothing of it": ("results", "predictions", "manifest of targets"),
    }.items()
    for kind in kinds
}


@pytest.mark.parametrize(
    ("pattern", "again", "damage"),
    [
        pytest.param(*case, id=name, marks=[] if "flipped" in name else pytest.mark.long)
        for name, case in CASES.items()
    ],
)
def test_damage_is_named_or_mended_and_never_changes_a_result(
    undisturbed, run, tmp_path, pattern, again, damage
):
    """First the run goes on without being told, then, if it refused, with `repair`."""
    template, networks, results = undisturbed
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    if not pattern.startswith("results"):
        (folder / "results.json").unlink()  # so that all is read again
    path = max(folder.glob(pattern), key=lambda p: p.stat().st_size)
    content = damage(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    named = re.escape(str(folder))
    try:
        found = run(folder)
    except (OSError, ValueError) as error:
        assert re.search(named, str(error))
        assert verify_run(folder)
        if not again:
            with pytest.raises(ValueError, match=named):
                run(folder, repair=True)
            return
        found = run(folder, repair=True)
    assert scores(found) == scores(results)
    jax.tree.map(np.testing.assert_array_equal, weights(folder), networks)
    repair_run(folder)
    assert all(damage.mend is None for damage in verify_run(folder))
    assert read_json(folder / "results.json")


def test_targets_of_a_finished_run_are_searched_again(undisturbed, run, tmp_path):
    """Its results are there, and stay; what `repair` takes away must come back all the same."""
    template, _, results = undisturbed
    folder = tmp_path / "run"
    shutil.copytree(template, folder)
    store = folder / "seed_0" / "targets"
    whole = files(store)
    path = store / "layer_0/c/1/0/0/0"
    path.write_bytes(flipped(path.read_bytes()))
    assert scores(run(folder, repair=True)) == scores(results)
    assert files(store).items() >= {n: c for n, c in whole.items() if "claims" not in n}.items()
    assert verify_run(folder) == [] and TargetStore.open(store).is_complete
