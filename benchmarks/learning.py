"""A step of learning from searched targets against the same step in plain PyTorch.

    pip install -e '.[bench]' && python benchmarks/learning.py

With --dtype=float32 --dtype=bfloat16 both are timed, too, where products are made in bfloat16: ours
by `LearnConfig.compute_dtype`, PyTorch's by its autocast. With --shared ours is timed once more,
with targets that are made of the batch, as those of one search per class are.

Both make normalised images of bytes, then a step of Nesterov momentum on the regression to three
layers' targets and the head's divergence. Compilation is reported apart. As in our commands, freed
memory is kept (for both), and each core is a device.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
import torch_learning
from absl import app, flags
from flax import nnx
from jax.tree_util import Partial

import dsl_jax as dsl
from dsl_jax.devices import (
    device_mesh,
    keep_freed_memory,
    replicate,
    sharing,
    take,
    use_all_cores,
)
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.learning.objectives import shared_objective, target_objective
from dsl_jax.learning.optimizer import make_optimizer, rates_of, timing_of
from dsl_jax.learning.steps import Program, take_step
from dsl_jax.networks.interface import in_mode, multiplying_in

_ROUNDS = flags.DEFINE_integer("rounds", 11, "How often each step is timed; medians count.")
_WIDTHS = flags.DEFINE_multi_integer("width", [64], "Channels of each block; may be repeated.")
_GROUPS = flags.DEFINE_integer("groups", 2, "ConvGroups a block, G.")
_BATCH = flags.DEFINE_integer("batch", 256, "Images of a batch.")
_DTYPES = flags.DEFINE_multi_enum(
    "dtype", ["float32"], ["float32", "bfloat16"], "What products are made in; may be repeated."
)
_SHARED = flags.DEFINE_bool("shared", False, "Also time targets that are made of the batch.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

IMAGE_SHAPE = (28, 28, 1)
MOMENTS = ((0.13,), (0.31,))


def batch(network):
    """Images as bytes, targets of every layer and logits, as arrays on the host."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (_BATCH.value, *IMAGE_SHAPE), np.uint8)
    last = jax.eval_shape(
        in_mode(network, training=False).representations,
        jax.ShapeDtypeStruct(images.shape, np.float32),
    )
    shapes = [*(h.shape for h in last), (_BATCH.value, 10)]
    return images, tuple(generator.normal(size=shape).astype(np.float16) for shape in shapes)


def shared_targets(network, images, targets):
    """Those of ten classes, with some images' targets for directions."""
    stages = dsl.frozen_stages(network, images / np.float32(255))
    *directions, logits = (h[:10].astype(np.float32) for h in targets)
    cosines = np.full(len(directions), 0.2, np.float32)
    return SharedTargets(stages, tuple(directions), cosines, logits, propagates=True)


def our_step(network, images, answers, dtype, objective=target_objective):
    """A function that does a step, and the seconds until the first one is done."""
    config = dsl.LearnConfig(batch_size=_BATCH.value, learning_rate=0.05, compute_dtype=dtype)
    trained = multiplying_in(in_mode(network, training=True), dtype)
    graph, *arrays = nnx.split(trained, nnx.Param, ...)
    params, rest = jax.tree.map(jnp.copy, arrays)  # as a step takes what it is given
    mesh, rows = device_mesh(_BATCH.value), np.arange(_BATCH.value)
    rates, timing = rates_of(config), timing_of(config, 20)
    state = {"params": params, "optimizer": make_optimizer(rates, timing).init(params)}
    state, rest = replicate((state, rest), mesh)
    key, objective = jax.random.key(0), replicate(Partial(objective), mesh)
    program = Program(graph, config, timing, *MOMENTS)

    def step():
        some, theirs = jax.tree.map(lambda array: take(array, rows, mesh), (images, answers))
        with sharing(mesh):
            state["params"], state["optimizer"], loss = take_step(
                key,
                state["params"],
                state["optimizer"],
                rest,
                objective,
                some,
                theirs,
                rates,
                program,
            )
        return loss

    started = time.perf_counter()
    jax.block_until_ready(step())
    return step, time.perf_counter() - started


def torch_step(width, images, targets, dtype):
    """The same in PyTorch."""
    torch.manual_seed(0)
    network = torch_learning.Network(1, width, IMAGE_SHAPE[0], 10, _GROUPS.value)
    step = torch_learning.make_step(network, autocast=dtype == "bfloat16")
    channels_first = [torch.from_numpy(np.moveaxis(h, -1, 1).copy()) for h in targets[:-1]]
    logits = torch.from_numpy(targets[-1])
    (mean,), (std,) = MOMENTS

    def one():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
        step(x.contiguous(), [h.float() for h in channels_first], logits.float())

    return one


def main(_) -> None:
    keep_freed_memory()
    use_all_cores()
    rows = []
    for width in _WIDTHS.value:
        network = dsl.ConvNet(IMAGE_SHAPE, 10, (width,) * 3, _GROUPS.value, rngs=nnx.Rngs(0))
        images, targets = batch(network)
        network.whiten(images / np.float32(255))
        works, first_step = {}, {}
        for dtype in _DTYPES.value:
            works["ours", dtype], first_step[dtype] = our_step(network, images, targets, dtype)
            if _SHARED.value:
                made = Partial(shared_objective, shared_targets(network, images, targets))
                labels = np.arange(len(images)) % 10
                works["shared", dtype], _ = our_step(network, images, labels, dtype, made)
            works["torch", dtype] = torch_step(width, images, targets, dtype)
        times = timing.side_by_side(works, _ROUNDS.value)
        reference = _DTYPES.value[0]
        for dtype in _DTYPES.value:
            ours, theirs = times["ours", dtype], times["torch", dtype]
            rows.append(
                {
                    "what": f"{width}-{width}-{width}, G = {_GROUPS.value}, batch {_BATCH.value}",
                    "dtype": dtype,
                    "ours, ms": 1e3 * ours,
                    "torch, ms": 1e3 * theirs,
                    "times torch": theirs / ours,
                    f"times ours in {reference}": times["ours", reference] / ours,
                    "first step, s": first_step[dtype],
                }
            )
            if _SHARED.value:
                shared = times["shared", dtype]
                rows[-1] |= {"made of the batch, ms": 1e3 * shared, "times as long": shared / ours}
    timing.report(rows, timing.machine("flax", "optax", "torch"), _JSON.value)


if __name__ == "__main__":
    app.run(main)
