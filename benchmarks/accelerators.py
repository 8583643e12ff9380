"""What the compilers for a TPU v5e and an H100 make of our programs, on a machine without either.

    python benchmarks/accelerators.py --json=results/accelerators.json

For each chip and preset it compiles the search of an untrained and of a trained network, for as
many images as a chunk of `search` would have there, a step of learning, and evaluation; and a
generation of each layer alone. Where a chip has neighbours, also the search and the step as one
program for four of them. It prints how long each took to compile, its peak memory, the size of its
code, the bytes that it moves, the kernels that a loop's body launches, and what the devices tell
each other. Nothing is run.
How to install the compilers: `benchmarks/chips.py`.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing
from absl import app, flags
from chips import CHIPS, GB, Compiled, compile_for, is_installed
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import Partial

import dsl_jax as dsl
from dsl_jax.config import COMPUTE_DTYPES
from dsl_jax.evolution.fitness import evaluate_candidates, output_shapes
from dsl_jax.evolution.image import in_dtype
from dsl_jax.evolution.images import (
    Images,
    Method,
    _search_on_mesh,
    _search_together,
    as_pytrees,
    chunk_size_for,
)
from dsl_jax.evolution.layer import evolve_layer
from dsl_jax.evolution.operators import kind_of
from dsl_jax.evolution.rules import rules_of
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key
from dsl_jax.learning.evaluation import BATCH_SIZE, _score
from dsl_jax.learning.objectives import target_objective
from dsl_jax.learning.optimizer import make_optimizer, rates_of, timing_of
from dsl_jax.learning.steps import Program, take_step
from dsl_jax.networks.interface import in_mode, multiplying_in

_CHIPS = flags.DEFINE_list("chips", list(CHIPS), "For which.")
_PRESETS = flags.DEFINE_list("presets", ["laptop", "paper"], "The sizes, of CIFAR-10.")
_PROGRAMS = flags.DEFINE_list("programs", [], "Only these; empty: all.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", COMPUTE_DTYPES, "Of search and learning.")
_IMAGES = flags.DEFINE_integer("images", None, "Searched at once; default: a chunk of the chip's.")
_JSON = flags.DEFINE_string("json", None, "Where the results go, each as it is there.")

CLASSES = 10
ON_ALL = "{}, all devices"


class Case(NamedTuple):
    """A program: its name, what is jitted, its arguments and static ones, and a note.

    size: images searched at once on one device, or of a batch. split: in a program for several
    devices, the numbers of the arguments of which each has its part; else ().
    """

    name: str
    function: Any
    arguments: tuple
    static: dict[str, Any]
    size: int = 0
    split: tuple[int, ...] = ()


def make_cases(config: dsl.RunConfig, memory: float, mesh: Mesh) -> Iterator[Case]:
    """All programs of a preset, on a device with so much memory, and on all of a mesh if it has
    several."""
    shape = (32, 32, 3)
    images = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
    key = philox_key(jax.random.key(0))
    for name in ("search", "search, trained"):
        network = make_network(config, shape, images, groups=1)
        if name == "search, trained":
            for _, kernel in nnx.iter_graph(network):
                if isinstance(kernel, nnx.Param) and kernel[...].ndim == 4:
                    kernel[...] = kernel[...] + 1e-3  # no identity any more
        stages = as_pytrees(dsl.frozen_stages(network, images, config.search, key=key))
        count = _IMAGES.value or chunk_size_for(memory, stages, shape, config.search)
        method = Method(key, stages, config.search)
        rules = {"rules": rules_of(config.search)}
        yield Case(name, _search_together, (method, searched(count, shape)), rules, count)
        if name == "search":
            yield from generations(config, stages, shape, count)
            if mesh.size > 1:
                words = jax.random.key_data(key)
                arguments = (method._replace(key=words), searched(count * mesh.size, shape))
                yield Case(ON_ALL.format(name), _search_on_mesh, arguments,
                           rules | {"mesh": mesh}, count, split=(1,))  # fmt: skip
    size = config.learn.batch_size
    yield learning(config, shape, images, size)
    if mesh.size > 1:
        step = learning(config, shape, images, size - size % mesh.size)
        yield step._replace(name=ON_ALL.format(step.name), split=(5, 6))
    network = in_mode(make_network(config, shape, images, config.learner_groups), training=False)
    graph, state = nnx.split(network)
    labels, weights = np.zeros(BATCH_SIZE, np.int32), np.ones(BATCH_SIZE, bool)
    batch = (np.zeros((BATCH_SIZE, *shape), np.float32), labels, weights)
    yield Case("evaluation", jax.jit(partial(_score, graph)), (state, *batch), {}, BATCH_SIZE)


def searched(count: int, shape: tuple[int, ...]) -> Images:
    """So many images, labels and ids, as shapes."""
    kinds = ((shape, np.float32), ((), np.int32), ((), np.uint32))
    return Images(*(jax.ShapeDtypeStruct((count, *rest), dtype) for rest, dtype in kinds))


def computing_in(config: dsl.RunConfig, dtype: str) -> dsl.RunConfig:
    """A preset whose search and learning compute in a dtype."""
    parts = {
        name: dataclasses.replace(getattr(config, name), compute_dtype=dtype)
        for name in ("search", "learn")
    }
    return dataclasses.replace(config, **parts)


def make_network(config: dsl.RunConfig, shape: tuple, images: np.ndarray, groups: int):
    """A preset's network, whitened."""
    network = dsl.ConvNet(
        shape,
        CLASSES,
        config.widths,
        groups,
        normalize_blocks=config.normalize_blocks,
        representation=config.representation,
        rngs=nnx.Rngs(0),
    )
    network.whiten(images)
    return network


def generations(config: dsl.RunConfig, stages: tuple, shape: tuple, count: int) -> Iterator[Case]:
    """For each layer a search without generations, and one with one: their difference is one."""
    for index, h in enumerate(output_shapes(stages, shape)):
        kind = kind_of(h, last=index == len(stages) - 1)
        for many in (0, 1):
            layer = dataclasses.replace(config.search.layers[index], generations=many)

            def evolve(key, rest, h, layer=layer, kind=kind):
                def of_one(one):
                    size = config.search.population_size
                    kept = "float32" if kind == "logits" else config.search.compute_dtype
                    start = jnp.broadcast_to(one, (size, *one.shape)).astype(kept)
                    stages = in_dtype(rest, one, kept) if rest else rest
                    evaluate = partial(evaluate_candidates, stages, 3)
                    return evolve_layer(key, start, LayerTask(evaluate, layer, config.search, kind))

                return jax.vmap(of_one)(h)

            arguments = (
                philox_key(jax.random.key(0)),
                stages[index + 1 :],
                jax.ShapeDtypeStruct((count, *h), np.float32),
            )
            yield Case(f"layer {index}, {many} generations", jax.jit(evolve), arguments, {}, count)


def learning(config: dsl.RunConfig, shape: tuple, images: np.ndarray, size: int) -> Case:
    """A step of learning from targets of 16 bits, on a batch of so many images."""
    network, learn = make_network(config, shape, images, config.learner_groups), config.learn
    network = multiplying_in(in_mode(network, training=True), learn.compute_dtype)
    graph, params, rest = nnx.split(network, nnx.Param, ...)
    outputs = jax.eval_shape(
        in_mode(network, training=False).representations,
        jax.ShapeDtypeStruct((size, *shape), np.float32),
    )
    targets = tuple(
        jax.ShapeDtypeStruct(s, np.float16) for s in (*(h.shape for h in outputs), (size, CLASSES))
    )
    rates, timing = rates_of(learn), timing_of(learn, 10)
    program = Program(graph, learn, timing, (0.5,) * 3, (0.25,) * 3)
    arguments = (
        jax.random.key(0),
        params,
        make_optimizer(rates, timing).init(params),
        rest,
        Partial(target_objective),
        jax.ShapeDtypeStruct((size, *shape), np.uint8),
        targets,
        rates,
    )
    return Case("learning step", take_step, arguments, {"program": program}, size)


def row_of(chip: str, preset: str, case: Case, found: Compiled) -> dict[str, Any]:
    """A line of the table."""
    return {
        "chip": chip,
        "preset": preset,
        "dtype": _DTYPE.value,
        "program": case.name,
        "images": case.size,
        "compile, s": round(found.seconds, 1),
        "peak, GB": round(found.memory / GB, 3),
        "code, MB": round(found.code / 1e6, 2),
        "moved, GB": None if found.moved is None else round(found.moved / GB, 3),
        "kernels (copies) a loop": ", ".join(f"{n} ({c})" for n, c in found.kernels) or "none",
        "collectives": ", ".join(f"{n} {kind}" for kind, n in found.collectives.items()) or "none",
    }


def passes(rows: list[dict[str, Any]], config: dsl.RunConfig, chip: str) -> list[dict[str, Any]]:
    """Of each layer, how often a generation moves the bytes of its candidates."""
    moved = {
        row["program"]: row for row in rows if (row["chip"], row["preset"]) == (chip, config.name)
    }
    network = dsl.ConvNet((32, 32, 3), CLASSES, config.widths, rngs=nnx.Rngs(0))
    shapes = jax.eval_shape(
        in_mode(network, training=False).representations,
        jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32),
    )
    found = []
    for index, h in enumerate(shapes):
        without, one = (moved.get(f"layer {index}, {many} generations") for many in (0, 1))
        if without and one and one["moved, GB"] is not None:
            each = jnp.dtype(config.search.compute_dtype).itemsize
            size = each * h.size * one["images"] * config.search.num_children
            count = GB * (one["moved, GB"] - without["moved, GB"]) / size
            found.append(
                {"chip": chip, "preset": config.name, "layer": index, "passes": round(count, 1)}
            )
    return found


def main(_) -> None:
    about = timing.machine("dsl_jax", "flax", "optax", "evosax")
    rows, traffic = [], []
    for chip in _CHIPS.value:
        if not is_installed(chip):
            print(f"{chip}: its compiler, {CHIPS[chip].package}, is not installed")
            continue
        all_devices = Mesh(np.array(CHIPS[chip].devices()), ("images",))
        one = Mesh(all_devices.devices[:1], all_devices.axis_names)
        for preset in _PRESETS.value:
            config = computing_in(dsl.get_preset(preset, "cifar10"), _DTYPE.value)
            for case in make_cases(config, CHIPS[chip].memory, all_devices):
                if _PROGRAMS.value and not any(map(case.name.startswith, _PROGRAMS.value)):
                    continue
                found = compile_for(
                    all_devices if case.split else one,
                    case.function,
                    *case.arguments,
                    split=case.split,
                    **case.static,
                )
                rows.append(row_of(chip, preset, case, found))
                print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
                if _JSON.value:
                    timing.save({"machine": about, "rows": rows, "passes": traffic}, _JSON.value)
            traffic += passes(rows, config, chip)
    if not rows:
        raise SystemExit("nothing was compiled: see benchmarks/chips.py for how to install")
    timing.report(rows, about, None)
    if traffic:
        timing.report(traffic, about, None)
    if _JSON.value:
        timing.save({"machine": about, "rows": rows, "passes": traffic}, _JSON.value)


if __name__ == "__main__":
    app.run(main)
