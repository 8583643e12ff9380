"""What a training depends on is told apart; what rounding does to it is not."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from stripes import DATASET, make, targets

from dsl_jax.config import LearnConfig
from dsl_jax.learning.identity import OtherTraining, check_same_training, identity_of
from dsl_jax.learning.objectives import sgd_objective, target_objective

KEY, CONFIG = jax.random.key(0), LearnConfig(epochs=3)
TARGETS = tuple(targets().representations)


def identity(**others):
    given = {"key": KEY, "network": nnx.state(make()), "dataset": DATASET, "answers": TARGETS}
    given |= {"objective": Partial(target_objective), "config": CONFIG} | others
    return json.loads(json.dumps(identity_of(**given)))  # as it is kept


def with_split(name, **changes):
    split = getattr(DATASET, name)._replace(**changes)
    return dataclasses.replace(DATASET, **{name: split})


def mirrored(name):
    return with_split(name, images=getattr(DATASET, name).images[:, :, ::-1].copy())


def turned(name):
    """Another order of the images, of each class among themselves."""
    split = getattr(DATASET, name)
    order = np.arange(len(split.labels))
    for label in np.unique(split.labels):
        order[split.labels == label] = np.roll(np.flatnonzero(split.labels == label), 1)
    return with_split(name, images=split.images[order])


def shared(cosines=(0.2, 0.6), sign=1.0):
    directions = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    scales = np.float32([7, 31])  # of BatchNorm, as stages hold them beside all else
    arrays = (sign * directions, np.float32(cosines), scales)
    return {"objective": Partial(target_objective, arrays)}


OTHERS = {
    "key": {"key": jax.random.key(1)},
    "a field of the configuration": {"config": dataclasses.replace(CONFIG, learning_rate=0.3)},
    "objective": {"objective": Partial(sgd_objective)},
    "seed of the network": {"network": nnx.state(make(seed=1))},
    "depth of the network": {"network": nnx.state(make(groups=2))},
    "mirrored images": {"dataset": mirrored("train")},
    "order of the images": {"dataset": turned("train")},
    "validation images": {"dataset": turned("validation")},
    "labels": {"dataset": with_split("train", labels=np.roll(DATASET.train.labels, 1))},
    "mean": {"dataset": dataclasses.replace(DATASET, mean=(0.3,))},
    "order of the targets": {"answers": tuple(h[::-1] for h in TARGETS)},
    "targets of blocks": {"answers": (-TARGETS[0], *TARGETS[1:])},
    "targets that are not known yet": {"answers": None},
}


@pytest.mark.parametrize("others", OTHERS.values(), ids=OTHERS)
def test_another_training_is_told(others):
    with pytest.raises(OtherTraining, match=r"of another training\. These differ"):
        check_same_training(identity(**others), identity())
    with pytest.raises(OtherTraining):
        check_same_training(identity(), identity(**others))


@pytest.mark.parametrize("others", [shared((0.6, 0.2)), shared((0.205, 0.6)), shared(sign=-1.0)])
def test_other_shared_targets_are_told(others):
    check_same_training(identity(**shared()), identity(**shared()))
    with pytest.raises(OtherTraining, match="numbers in its shared targets"):
        check_same_training(identity(**others), identity(**shared()))


def test_rounding_and_fields_that_are_newer_make_no_other_training():
    rounded = jax.tree.map(lambda x: x * (1 + 1e-5), nnx.state(make()))
    check_same_training(identity(network=rounded), identity())
    all_but_0, nothing = ({"w": jnp.array([1.0, x]), "b": jnp.array([x])} for x in (1e-7, 0))
    check_same_training(identity(network=all_but_0), identity(network=nothing))
    older = identity()
    del older["settings"]["config"]["relational_weight"]  # as if it had come later
    check_same_training(identity(), older)
    other = identity(config=dataclasses.replace(CONFIG, relational_weight=0.5))
    with pytest.raises(OtherTraining, match=r"config.relational_weight: 0.0 there, 0.5 here"):
        check_same_training(other, older)


def test_a_network_may_hold_keys_and_few_bits():
    state = {"key": jax.random.key(0), "w": jnp.ones(3, jnp.bfloat16), "none": jnp.zeros(0)}
    check_same_training(identity(network=state), identity(network=state))
