"""Controls by their names."""

from types import SimpleNamespace

import numpy as np
import toy_targets as toy

from dsl_jax.config import TARGET_CONTROLS
from dsl_jax.runs import controlled
from dsl_jax.targets import controls
from dsl_jax.targets.controls import class_statistics, natural_plus, random_code
from dsl_jax.targets.reading import Naturals

LABELS = toy.LABELS.astype(np.int32)
SEED, CYCLE = 3, 2


def test_each_name_is_that_control_of_the_training_and_cycle(tmp_path, monkeypatch):
    found = toy.run(tmp_path / "targets")
    shuffled = toy.run(tmp_path / "shuffled", labels=np.roll(LABELS, 1))
    naturals = Naturals(toy.STAGES, toy.IMAGES)
    dataset = SimpleNamespace(
        num_classes=3, train=SimpleNamespace(ids=found.ids, labels=LABELS, images=toy.IMAGES)
    )
    monkeypatch.setattr(controlled, "searched_naturals", lambda *_: (naturals, LABELS))

    def moved(directions):
        return natural_plus(directions, statistics.cosines, found, naturals, LABELS)

    def key(kind):
        return controlled.control_key(SEED, kind, CYCLE)

    statistics = class_statistics(found, naturals, LABELS, 3)
    shapes = [block.shape[1:] for block in statistics.means]
    wanted = {
        "permuted": controls.permuted(key("permuted"), found, LABELS),
        "class_means": controls.class_means(found, LABELS, statistics),
        "natural": controls.natural(found, naturals),
        "class_displacement": moved(statistics.displacements),
        "class_part": moved(statistics.parts),
        "channel_code": moved(random_code(key("channel_code"), shapes, 3, "channel")),
        "element_code": moved(random_code(key("element_code"), shapes, 3, "element")),
        "shuffled_labels": controls.with_blocks_of(shuffled, found),
    }
    assert set(wanted) == set(TARGET_CONTROLS)
    blocks = set()
    for kind, control in wanted.items():
        step = SimpleNamespace(kind=kind, cycle=CYCLE, targets=("targets",))
        other = shuffled if kind == "shuffled_labels" else None
        ours = controlled.control_of(None, dataset, SEED, step, found, other).read()
        for got, expected in zip(ours.representations, control.read().representations, strict=True):
            np.testing.assert_array_equal(got, expected)
        blocks.add(ours.representations[0].tobytes())
    assert len(blocks) == len(wanted)  # no two are alike, so that none stands for another
