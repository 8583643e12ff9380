"""Where a search begins: with noisy images, what is common to a class, or a sampler's proposals.

    python experiments/starts.py --dataset=cifar10

A few images are searched as ever; from them a sampler learns (`dsl_jax.learn_sampler`). Then other
images are searched three times: from noisy copies of the image, as in the paper ("noisy"), from its
natural representation moved along what is common to its class ("class"), and from the sampler's
proposals ("sampler"). Compared is the best fitness in each generation, layer by layer, and how many
generations a start saves.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    searched_images  the few, the first ones (1000)
    num_images       searched from each start, those after them (200)
    num_seeds        (1)
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, curves, few_searches, sweep_points, sweep_rows, sweeps

from dsl_jax.config import RunConfig
from dsl_jax.keys import SEARCH, purpose_key
from dsl_jax.runs.untrained import make_stages
from dsl_jax.values import at_least

STARTS = ("noisy", "class", "sampler")
UNUSED = tuple(name for name in sweeps.LEARNING_FIELDS if name != "sampler")


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """How many images are searched first, and then from each start."""

    num_seeds: int | None = 1
    searched_images: int = 1000
    num_images: int = 200

    def __post_init__(self):
        at_least(1, self, "searched_images", "num_images")


SCALES = {
    "smoke": Settings(searched_images=100, num_images=8),
    "laptop": Settings(),
    "paper": Settings(searched_images=4000, num_images=1000),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point for each seed and start; those of a seed share the few searches."""
    few, count = settings.searched_images, settings.num_images
    sweep_points.check_first_images(config, few + count)
    points = []
    for seed in config.seeds:
        for start in STARTS:
            chosen = dataclasses.replace(config, seed=seed, num_seeds=1)
            columns = {"start": start, "seed": seed, "searched_images": few, "images": count}
            name, searched = f"{start}-seed_{seed}", count + (few if start == "class" else 0)
            points.append(sweep_points.search_point(name, columns, chosen, searched))

    def measure(point, dataset, folder):
        chosen, start, seed = point.config, point.columns["start"], point.columns["seed"]
        stages = make_stages(chosen, dataset, seed)
        split = sweep_points.first_images(dataset, few, few + count)
        starts = None
        if start != "noisy":
            sampler = few_searches.sampler(chosen, dataset, stages, folder.parent, few)
            targets = sampler if start == "sampler" else sampler.shared
            images = dataset.normalize(split.images)
            starts = jax.device_get(targets.of(images, split.labels))
        key = purpose_key(seed, SEARCH)
        found = sweep_points.search_images(
            key, stages, dataset, split, chosen, progress=True, starts=starts
        )
        rows = []
        for layer, trace in enumerate(found.fitness):
            # A logarithm of a softmax may round to a little above 0.
            for generation, values in enumerate(np.maximum(-np.float64(trace), 0).T):
                rows.append(
                    {
                        "layer": layer,
                        "generation": generation,
                        "cross_entropy": float(values.mean()),
                        "standard_error": sweep_rows.standard_error(values),
                    }
                )
        return rows

    return sweeps.Sweep(points, measure, draw, table, unused=UNUSED)


def mean_traces(rows: sweep_rows.Rows, layer: int) -> dict[str, np.ndarray]:
    """By start the cross-entropy in each generation, a mean over seeds."""
    found = {}
    for start in sweep_rows.values_of(rows, "start"):
        chosen = sweep_rows.select(rows, start=start, layer=layer)
        generations = sorted(sweep_rows.values_of(chosen, "generation"))
        found[start] = np.array(
            [
                np.mean([row["cross_entropy"] for row in sweep_rows.select(chosen, generation=g)])
                for g in generations
            ]
        )
    return found


def saved(trace: np.ndarray, noisy: np.ndarray) -> int:
    """How many of the noisy start's generations another saves at the fitness that the noisy one
    ends with; negative where it never comes so far, by the generations that noisy has ahead."""
    reached = np.flatnonzero(trace <= noisy[-1])
    if len(reached):
        return len(noisy) - 1 - int(reached[0])
    return int(np.flatnonzero(noisy <= trace[-1])[0]) - (len(noisy) - 1)


def table(rows: sweep_rows.Rows) -> str:
    """A line a layer and start."""
    lines = []
    for layer in sorted(sweep_rows.values_of(rows, "layer")):
        traces = mean_traces(rows, layer)
        for start, trace in traces.items():
            noisy = traces.get("noisy") if start != "noisy" else None
            gain = "" if noisy is None else saved(trace, noisy)
            name = sweep_rows.layer_name(layer)
            lines.append([name, start, trace[0], trace[-1], len(trace) - 1, gain])
    header = ["layer", "start", "first", "last", "generations", "saved"]
    return (
        f"Mean best cross-entropy (nats) over {rows[0]['images']} images, "
        f"{sweep_rows.seeds_note(rows)}, in the first and after the last generation; and how many "
        "generations are saved at the fitness that the noisy start ends with.\n\n"
        + sweep_rows.markdown(header, lines)
    )


def draw(rows: sweep_rows.Rows):
    """A panel a layer, a line a start."""
    panels = []
    for layer in sorted(sweep_rows.values_of(rows, "layer")):
        lines = {
            start: (np.arange(len(trace)), trace)
            for start, trace in mean_traces(rows, layer).items()
        }
        title, label = sweep_rows.layer_name(layer), "best cross-entropy, nats"
        panels.append(curves.Panel(lines, "generation", label, title, y_scale="log"))
    caption = f"Best fitness by where the search begins, {rows[0]['dataset']}."
    return {"starts": (curves.plot_curves(panels, legend="start"), caption)}


def run_all() -> None:
    """The sweep, as the command line says."""
    fixed = ("sampler.images",)  # those of --sweep.searched_images
    sweeps.run("starts", SCALES, define, fixed=fixed, used=("sampler",))


if __name__ == "__main__":
    command_line.start(run_all)
