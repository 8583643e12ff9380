"""The search against the same search in plain PyTorch, and against what it is made of.

    pip install -e '.[bench]' && python benchmarks/search.py

For each layer, one image: the seconds that a generation takes here and in `torch_search`, those
that drawing its random numbers takes, and those that the network takes for its children alone.
The rows of whole searches are made of these, weighted by the paper's generations. A generation's
seconds are the difference between few generations and more, so that what is done once a layer is
left out.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import timing
import torch
import torch_search
from absl import app, flags
from flax import nnx

import dsl_jax as dsl
from dsl_jax.config import PAPER_LAYERS, LayerSchedule
from dsl_jax.evolution.fitness import evaluate_candidates
from dsl_jax.evolution.layer import evolve_layer
from dsl_jax.evolution.noise import noise_basis
from dsl_jax.evolution.operators import kind_of
from dsl_jax.evolution.task import LayerTask
from dsl_jax.keys import philox_key

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each piece is timed; medians count.")
_SMALL = flags.DEFINE_bool("small", False, "Small networks alone, to see that it runs.")
_JSON = flags.DEFINE_string("json", None, "Where the results go.")

KEY = jax.random.key(0)
LABEL = 3


def make_stages(width: int, image_shape: tuple[int, ...], trained: bool, config):
    """A network's stages, and some images. trained: no convolution is an identity."""
    images = np.random.default_rng(0).normal(size=(64, *image_shape)).astype(np.float32)
    network = dsl.ConvNet(image_shape, 10, (width,) * 3, rngs=nnx.Rngs(0))
    network.whiten(images)
    if trained:
        for number, block in enumerate(network.blocks):
            for conv in (block.groups[0].conv_1, block.groups[0].conv_2):
                key, kernel = jax.random.key(number), conv.kernel[...]
                conv.kernel[...] = kernel + 0.01 * jax.random.normal(key, kernel.shape)
        return dsl.frozen_stages(network, images, None), images
    return dsl.frozen_stages(network, images, config, key=KEY), images


def layer_times(width: int, image_shape: tuple[int, ...], index: int, trained: bool = False):
    """Seconds of a generation of one layer: {"ours", "torch", "draws", "forward"}."""
    config = dsl.SearchConfig()
    layer = config.layers[index]
    stages, images = make_stages(width, image_shape, trained, config)
    population = jnp.resize(images, (config.population_size, *image_shape))
    for stage in stages[: index + 1]:
        population = jax.jit(stage)(population)
    shape, rest = population.shape[1:], stages[index + 1 :]
    few, more = 1, ((4, 11, 21, 101) if trained else (11, 21, 51, 101))[index]

    def ours(generations):
        changed = dataclasses.replace(layer, generations=generations)

        @jax.jit
        def evolve(key, rest, population):
            evaluate = partial(evaluate_candidates, rest, LABEL)
            kind = kind_of(shape, last=index == len(stages) - 1)
            return evolve_layer(key, population, LayerTask(evaluate, changed, config, kind))

        return lambda: evolve(philox_key(KEY), rest, population)

    works = {"few": ours(few), "more": ours(more), "draws": draws(shape, layer, config)}
    if rest:
        children = jax.random.normal(KEY, (config.num_children, *shape))
        forward = jax.jit(evaluate_candidates)
        works["forward"] = lambda: forward(rest, jnp.int32(LABEL), children)
    works["torch"] = torch_generation(width, image_shape, index, config)
    times = timing.side_by_side(works, _ROUNDS.value)
    times["ours"] = (times.pop("more") - times.pop("few")) / (more - few)
    return {"forward": 0.0} | times


def draws(shape: tuple[int, ...], layer: LayerSchedule, config):
    """Drawing the random numbers of a generation, and nothing else."""
    numbers = shape
    if layer.smoothing_passes:
        basis = noise_basis(shape[:-1], layer.smoothing_passes, False, config.noise_truncation)
        numbers = (basis.shape[1], shape[-1])
    key = philox_key(KEY)
    draw = jax.jit(lambda key: jax.random.normal(key, (config.num_children, *numbers)))
    return lambda: draw(key)


def torch_generation(width: int, image_shape: tuple[int, ...], index: int, config):
    """A generation of the same layer in PyTorch."""
    *_, side, channels = image_shape
    torch.manual_seed(0)
    stages = torch_search.make_stages(channels, width, side, 10, normalized=False)
    with torch.inference_mode():
        parents = torch.randn(config.num_parents, channels, side, side)
        for stage in stages[: index + 1]:
            parents = stage(parents)
    fitness = torch_search.fitness_of(stages[index + 1 :], parents, LABEL)

    def generation():
        torch_search.evolve(
            stages[index + 1 :], parents, fitness, LABEL, config, config.layers[index], 1
        )

    return generation


def row(name: str, times: dict[str, float], candidates: int) -> dict:
    """A line of the table; times are seconds of the same work."""
    return {
        "what": name,
        "ours, candidates/s": candidates / times["ours"],
        "torch, candidates/s": candidates / times["torch"],
        "times torch": times["torch"] / times["ours"],
        "times draws": times["ours"] / times["draws"],
        "times forward": times["ours"] / (times["forward"] or float("nan")),
    }


def whole(times: list[dict[str, float]]) -> dict[str, float]:
    """The paper's generations of every layer together."""
    return {
        name: sum(
            layer.generations * each[name] for layer, each in zip(PAPER_LAYERS, times, strict=True)
        )
        for name in times[0]
    }


def main(_) -> None:
    config = dsl.SearchConfig()
    children = config.num_children
    rows = [row("layer 0, 64-64-64, 28x28", layer_times(64, (28, 28, 1), 0), children)]
    if not _SMALL.value:
        total = children * sum(layer.generations for layer in PAPER_LAYERS)
        for name, trained in (("untrained", False), ("trained", True)):
            times = [layer_times(256, (32, 32, 3), index, trained) for index in range(4)]
            for index, each in enumerate(times):
                rows.append(row(f"layer {index}, 256-256-256, 32x32, {name}", each, children))
            rows.append(row(f"an image, 256-256-256, 32x32, {name}", whole(times), total))
    timing.report(rows, timing.machine("flax", "torch"), _JSON.value)


if __name__ == "__main__":
    app.run(main)
