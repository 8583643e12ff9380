"""The search against the same search in plain PyTorch, and against what it is made of.

    pip install -e '.[bench]' && python benchmarks/search.py

For each layer, one image: the seconds that a generation takes here and in `torch_search`, those
that drawing its random numbers takes, and those that the network takes for its children alone.
The rows of whole searches are made of these, weighted by the paper's generations. A generation's
seconds are the difference between a search of few generations and one of more, so that what is
done once an image is left out on both sides.
"""

import dataclasses

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
from dsl_jax.evolution import noise_basis, philox_key
from dsl_jax.search import log_likelihood

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
    stages, images = make_stages(width, image_shape, trained, config)
    few, more = 1, (11 if index < 3 else 51)

    def ours(generations):
        layers = tuple(
            dataclasses.replace(layer, generations=generations if i == index else 0)
            for i, layer in enumerate(config.layers)
        )
        changed = dataclasses.replace(config, layers=layers)
        return lambda: dsl.search(KEY, stages, images[:1], [LABEL], changed)

    shape = (
        dsl.search(
            KEY, stages, images[:1], [LABEL], dataclasses.replace(config, layers=NO_GENERATIONS)
        )
        .representations[index]
        .shape[1:]
    )
    layer = config.layers[index]
    works = {"few": ours(few), "more": ours(more)}
    works["draws"] = draws(shape, layer, config)
    if index < 3:
        rest = stages[index + 1 :]
        children = jax.random.normal(KEY, (config.num_children, *shape))
        forward = jax.jit(log_likelihood)
        works["forward"] = lambda: forward(rest, jnp.int32(LABEL), children)
    works["torch"] = torch_generation(width, image_shape, index, config)
    times = timing.side_by_side(works, _ROUNDS.value)
    times["ours"] = (times.pop("more") - times.pop("few")) / (more - few)
    return {"forward": float("nan")} | times


NO_GENERATIONS = tuple(dataclasses.replace(layer, generations=0) for layer in PAPER_LAYERS)


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
        "times forward": times["ours"] / times["forward"],
    }


def whole(times: list[dict[str, float]]) -> dict[str, float]:
    """The paper's generations of every layer together."""
    return {
        name: sum(
            layer.generations * each[name]
            for layer, each in zip(PAPER_LAYERS, times, strict=True)
            if not np.isnan(each[name])
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
