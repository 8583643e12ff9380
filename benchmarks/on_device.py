"""All that needs a real accelerator, in one command of minutes: is it right there, and how fast.

    python benchmarks/on_device.py --json=on_device.json

Compared with the CPU of the same machine: what the stages give for the same images, and what the
same search finds. Measured: copying memory, a generation of each layer at the paper's widths and
at laptop's, a step of learning, the seconds that each needs to compile, a repetition bit for bit,
and a whole laptop run of --dataset. On a machine without an accelerator it all runs on the CPU;
--small makes that a matter of a minute.
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing
from absl import app, flags
from flax import nnx
from jax.tree_util import Partial

import dsl_jax as dsl
from dsl_jax.evolution.fitness import evaluate_candidates
from dsl_jax.evolution.images import Images, Method, _search_together, as_pytrees
from dsl_jax.evolution.layer import evolve_layer
from dsl_jax.evolution.operators import kind_of
from dsl_jax.evolution.rules import rules_of
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key
from dsl_jax.learning.objectives import target_objective
from dsl_jax.learning.optimizer import make_optimizer, rates_of, timing_of
from dsl_jax.learning.steps import Program, take_step, take_steps
from dsl_jax.networks.interface import in_mode

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each piece is timed; medians count.")
_SMALL = flags.DEFINE_bool("small", False, "Small networks and few images, to see that it runs.")
_DATASET = flags.DEFINE_string("dataset", "mnist", "Of the whole run; empty: none.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10


class Case(NamedTuple):
    """A network to search and to learn with, and how."""

    name: str
    width: int
    search: dsl.SearchConfig
    images: int  # searched at once
    batch: int


def cases() -> list[Case]:
    """The paper's network and laptop's."""
    laptop = dsl.get_preset("laptop", "cifar10")
    if _SMALL.value:
        search = dsl.get_preset("smoke", "cifar10").search
        return [Case("small", 8, search, images=2, batch=20)]
    paper = dsl.get_preset("paper", "cifar10")
    return [
        Case("laptop, width 32", 32, laptop.search, images=256, batch=100),
        Case("paper, width 256", 256, paper.search, images=32, batch=2000),
    ]


def make(case: Case) -> tuple[dsl.ConvNet, tuple, np.ndarray]:
    """A case's network, its stages, and images."""
    images = np.random.default_rng(0).normal(size=(max(64, case.images), *IMAGE_SHAPE))
    images = images.astype(np.float32)
    network = dsl.ConvNet(
        IMAGE_SHAPE, CLASSES, (case.width,) * 3, 2, normalize_blocks=True, rngs=nnx.Rngs(0)
    )
    network.whiten(images[:64])
    stages = dsl.frozen_stages(network, images[:64], case.search, key=jax.random.key(0))
    return network, as_pytrees(stages), images


def search_arguments(case: Case) -> tuple:
    """What `_search_together` takes for the images of a case, but for the rules."""
    _, stages, images = make(case)
    labels = (np.arange(case.images) % CLASSES).astype(np.int32)
    method = Method(philox_key(jax.random.key(1)), stages, case.search)
    ids = np.arange(case.images, dtype=np.uint32)
    return method, Images(images[: case.images], labels, ids)


# --------------------------------------------------------------------------------------------
# Is it right?
# --------------------------------------------------------------------------------------------


def agreement(case: Case) -> list[dict[str, Any]]:
    """What the device makes of images, beside what the CPU makes of them."""
    _, stages, images = make(case)
    devices = {"here": jax.devices()[0], "cpu": jax.devices("cpu")[0]}
    rows = []
    for precision in ("default", "highest"):
        found = {}
        with jax.default_matmul_precision(precision):
            for place, device in devices.items():
                h, outputs = jax.device_put(images[:64], device), []
                for stage in jax.device_put(stages, device):
                    h = jax.jit(stage)(h)
                    outputs.append(np.asarray(h))
                found[place] = outputs
        for number, (here, cpu) in enumerate(zip(found["here"], found["cpu"], strict=True)):
            error = float(np.linalg.norm(here - cpu) / np.linalg.norm(cpu))
            rows.append(
                {"what": f"stage {number}, matmul precision {precision}", "relative error": error}
            )
    return rows


def searches_agree(case: Case) -> list[dict[str, Any]]:
    """A small search by the same key on both: mean cross-entropy after each layer."""
    few, results = case._replace(images=4 if _SMALL.value else 64), {}
    arguments = search_arguments(few)
    for place in ("here", "again", "cpu"):
        device = jax.devices("cpu" if place == "cpu" else None)[0]
        placed = jax.device_put(arguments, device)
        results[place] = jax.device_get(_search_together(*placed, rules=rules_of(few.search)))
    same = jax.tree.map(np.array_equal, results["here"], results["again"])
    return [
        {
            "what": f"layer {number}",
            "cross-entropy here": -float(here[:, -1].mean()),
            "on the CPU": -float(cpu[:, -1].mean()),
            "largest difference": float(np.abs(here[:, -1] - cpu[:, -1]).max()),
            "again the same bits": all(jax.tree.leaves(same)),
        }
        for number, (here, cpu) in enumerate(
            zip(results["here"].fitness, results["cpu"].fitness, strict=True)
        )
    ]


# --------------------------------------------------------------------------------------------
# How fast is it?
# --------------------------------------------------------------------------------------------


def bandwidth() -> float:
    """Bytes a second that a copy reads and writes."""
    array = jnp.ones((2**22 if _SMALL.value else 2**29,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    seconds = timing.side_by_side({"copy": lambda: copy(array)}, _ROUNDS.value)["copy"]
    return 2 * array.nbytes / seconds


def generations(case: Case, copied: float) -> list[dict[str, Any]]:
    """A generation of each layer, of several images at once.

    Its seconds are the difference between few generations and more. Passes: over the bytes of its
    candidates, at the speed at which memory is copied.
    """
    _, stages, images = make(case)
    rows, h = [], jnp.asarray(images[: case.images])
    for index, layer in enumerate(case.search.layers):
        h = jax.jit(stages[index])(h)
        kind = kind_of(h.shape[1:], last=index == len(stages) - 1)
        few, more = (1, 6) if index + 1 < len(stages) else (1, 101)  # logits take microseconds

        def evolve(many, index=index, layer=layer, kind=kind):
            changed = dataclasses.replace(layer, generations=many)

            @jax.jit
            def of_all(keys, rest, h):
                def of_one(key, one):
                    evaluate = partial(evaluate_candidates, rest, 3)
                    start = jnp.broadcast_to(one, (case.search.population_size, *one.shape))
                    task = LayerTask(evaluate, changed, case.search, kind)
                    return evolve_layer(key, start, task)

                return jax.vmap(of_one)(keys, h)

            return of_all

        keys = jax.random.split(philox_key(jax.random.key(0)), case.images)
        works, compiling = {}, 0.0
        for name, many in (("few", few), ("more", more)):
            work = evolve(many)
            started = time.perf_counter()
            jax.block_until_ready(work(keys, stages[index + 1 :], h))
            compiling = time.perf_counter() - started
            works[name] = partial(work, keys, stages[index + 1 :], h)
        times = timing.side_by_side(works, _ROUNDS.value)
        seconds = (times["more"] - times["few"]) / (more - few)
        candidates = case.images * case.search.num_children
        size = 4 * int(np.prod(h.shape[1:]))
        rows.append(
            {
                "what": f"{case.name}, layer {index}",
                "candidates/s": candidates / seconds,
                "KB each": size / 1e3,
                "passes": seconds * copied / (candidates * size),
                "ms a generation": 1e3 * seconds,
                "first call, s": compiling,
            }
        )
    return rows


def whole_search(case: Case) -> dict[str, Any]:
    """A search of as many images as a case has, and how long it compiles."""
    arguments = search_arguments(case)
    started = time.perf_counter()
    compiled = _search_together.lower(*arguments, rules=rules_of(case.search)).compile()
    compiling = time.perf_counter() - started
    started = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    return {
        "what": f"{case.name}, {case.images} images at once",
        "compile, s": compiling,
        "temporaries, GB": memory.temp_size_in_bytes / 1e9 if memory else float("nan"),
        "seconds": seconds,
        "images/s": case.images / seconds,
        "candidates/s": case.images * case.search.candidates_per_image / seconds,
    }


def again(batch: np.ndarray, times: int) -> np.ndarray:
    """The images of a batch [B, ...], so many times: [times * B, ...]."""
    return np.tile(batch, (times, *(1 for _ in batch.shape[1:])))


def learning(case: Case) -> list[dict[str, Any]]:
    """A step of learning from targets: batches handed over one by one, and as `learn` does it."""
    network, _, _ = make(case)
    few, more = 1, 4 if _SMALL.value else 11
    count = more * case.batch
    generator = np.random.default_rng(0)
    # One batch, again and again: the host takes minutes to draw numbers for all of the paper's.
    images = again(generator.integers(0, 256, (case.batch, *IMAGE_SHAPE), np.uint8), more)
    shapes = jax.eval_shape(
        in_mode(network, training=False).representations,
        jax.ShapeDtypeStruct((case.batch, *IMAGE_SHAPE), np.float32),
    )
    targets = tuple(
        again(generator.standard_normal(shape, np.float32).astype(np.float16), more)
        for shape in [*(h.shape for h in shapes), (case.batch, CLASSES)]
    )
    config = dsl.LearnConfig(batch_size=case.batch, learning_rate=0.05)
    graph, params, rest = nnx.split(in_mode(network, training=True), nnx.Param, ...)
    objective = Partial(target_objective)
    rates, schedule = rates_of(config), timing_of(config, more)
    program = Program(graph, config, schedule, (0.5,) * 3, (0.25,) * 3)
    key, batches = jax.random.key(0), np.arange(count).reshape(more, case.batch)
    resident = jax.device_put((images, targets))

    def start() -> tuple[Any, Any]:
        return jax.tree.map(jnp.copy, params), make_optimizer(rates, schedule).init(params)

    def one_by_one(many: int) -> list[float]:
        carry, losses = start(), []
        for number in range(many):
            some = jax.tree.map(lambda array: array[batches[number]], (images, targets))
            step_key = jax.random.fold_in(key, number)
            *carry, loss = take_step(step_key, *carry, rest, objective, *some, rates, program)
            losses.append(loss)
        return jax.device_get(losses)

    def as_one_program(many: int) -> list[float]:
        numbers = np.arange(many)
        some = (numbers, batches[numbers])
        *_, losses = take_steps(key, *start(), rest, objective, resident, some, rates, program)
        return losses.tolist()

    rows = []
    for name, steps in (("batch by batch", one_by_one), ("one program", as_one_program)):
        started = time.perf_counter()
        first = steps(more)
        compiling = time.perf_counter() - started
        works = {"few": partial(steps, few), "more": partial(steps, more)}
        times = timing.side_by_side(works, _ROUNDS.value)
        rows.append(
            {
                "what": f"{case.name}, batch {case.batch}, {name}",
                "ms a step": 1e3 * (times["more"] - times["few"]) / (more - few),
                "first call, s": compiling,
                "again the same bits": first == steps(more),
            }
        )
    return rows


def whole_run() -> dict[str, Any]:
    """`main.py` as a user types it."""
    root = Path(__file__).parents[1]
    folder = Path(tempfile.mkdtemp(prefix="on_device-")) / "run"
    command = [sys.executable, "experiments/main.py", f"--dataset={_DATASET.value}"]
    command += ["--preset=smoke"] if _SMALL.value else []
    started = time.perf_counter()
    done = subprocess.run(
        [*command, f"--output_dir={folder}"], cwd=root, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    print(*(line for line in done.stdout.splitlines() if line.startswith("|")), sep="\n")
    return {"what": " ".join(["python", *command[1:]]), "seconds": seconds}


def main(_) -> None:
    first = whole_run() if _DATASET.value else None  # before this process takes the device's memory
    about = timing.machine("dsl_jax", "flax", "optax", "evosax")
    results: dict[str, list[dict[str, Any]]] = {}

    def keep(name: str, rows: list[dict[str, Any]]) -> None:
        """What is measured stays, should a later piece fail or the machine be taken away."""
        results[name] = rows
        print(f"\n{name}")
        timing.report(rows, about, None)
        if _JSON.value:
            timing.save({"machine": about, "results": results}, _JSON.value)

    both = cases()
    if first is not None:
        keep("whole run", [first])
    keep("the stages beside the CPU's", agreement(both[0]))
    keep("a search beside the CPU's", searches_agree(both[0]))
    keep("learning", [row for case in both for row in learning(case)])
    keep("whole search", [whole_search(both[0])])
    copied = bandwidth()
    keep("copying memory", [{"what": "GB/s", "value": copied / 1e9}])
    for case in both:
        keep(f"generations, {case.name}", generations(case, copied))


if __name__ == "__main__":
    app.run(main)
