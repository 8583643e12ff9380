"""Accuracy against the number of training images, up to a whole data set.

    python experiments/full_data.py --dataset=cifar10

A point is one training: a size, a method and a seed. The test split is read once, at its end, and
the class that the network gives each test image is kept. Methods:

    sgd_g1, sgd_g2, sgd_g3  SGD, with so many ConvGroups a block
    searched                an image's own targets
    permuted                those of another image of its class
    class_part              natural, moved by what the targets of a class have in common, from the
                            search of a few images
    per_class               natural, moved in a direction that is searched for the class
    channel_code            natural, moved by a random code of the class
    per_class_code          the same, with the logits of per_class
    sampler                 class_part, and what a small network, which has learned from the few
                            searches, makes of the image besides
    started                 an image's own targets, of a search that begins with the sampler's
    again                   searched, and once more in a network that has learned from that, with
                            --config.later_cycles[0]
    cross_fitted            the same, each image in a network that has not learned from it
    again_natural           what the network of again makes of the image, without a second search
    again_class_part        that, moved as class_part is, by the second targets
    again_channel_code      that, moved as channel_code is

started, again and cross_fitted with _permuted are those of another image of the class. What moves
the natural representation leaves it the cosine that searched targets have to it; logits are those
of the few, but for per_class.

Settings, each --sweep.NAME=VALUE; in brackets laptop's:

    sizes             of training images, validation not counted (2000,5000)
    methods           (sgd_g1,sgd_g2,class_part,per_class,channel_code)
    searched_images   the few (1000)
    images_per_class  of a class's search (32)
    fresh_images      of these drawn anew in each generation; 0: all, always (0)
    clusters          of a class, each searched as a class is (1)
    cosines           of a class's search, for each block or one for all, in place of those that the
                      search of the few leaves, which is then not needed (none)
    folds             among which images are dealt out to be cross-fitted (5)
    changes           what is set for a size, a method, or both, such as
                      "2000:learn.learning_rate=2|2000-sgd_g1:sgd.learning_rate=0.1" (none)
    probes            also measure how well the training images are learned, and how well a new
                      linear head does on the trained body (False)
    validation_size   (1000)
    num_seeds         (1)
"""

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for python -m and python -P
from common import command_line, few_searches, plan, sweep_points, sweep_rows, sweeps
from common import whole_searches as whole
from common.command_line import DATA_DIR
from common.methods import CROSS_FITTED, PER_CLASS, SECOND, SGD, SHARED, STARTED, STORED, Method
from common.overrides import override, parse_options
from common.predictions import keep_predictions, with_predictions
from common.size_curves import draw, table
from common.unused import check_used

from dsl_jax.config import RunConfig, SharedConfig
from dsl_jax.config.search import check_per_class
from dsl_jax.data import catalogue
from dsl_jax.data.dataset import Dataset
from dsl_jax.data.load import foresee
from dsl_jax.learning.evaluation import logits_of
from dsl_jax.learning.probes import MOST_IMAGES, linear_probe
from dsl_jax.presets import get_preset
from dsl_jax.values import at_least, one_of


@dataclass(frozen=True)
class Settings(sweeps.Settings):
    """What is swept."""

    sizes: tuple[int, ...] = (2000, 5000)
    methods: tuple[str, ...] = (*SGD[:2], *SHARED[:3])
    searched_images: int = 1000
    images_per_class: int = 32
    fresh_images: int = 0
    clusters: int = 1
    folds: int = 5
    changes: str = ""
    cosines: tuple[float, ...] = ()
    probes: bool = False

    @property
    def of_a_class(self) -> dict[str, Any]:
        """How the search of a class differs from the first setting's, as `SharedConfig` has it."""
        found: dict[str, Any] = {"images_per_class": self.images_per_class}
        found |= {"cosines": self.cosines} if self.cosines else {}
        found |= {"fresh_images": self.fresh_images} if self.fresh_images else {}
        return found | ({"clusters": self.clusters} if self.clusters > 1 else {})

    def needs_few(self, method: str) -> bool:
        """Whether a method needs the search of a few images."""
        return method in (*SHARED, *STARTED) and not (self.cosines and method in PER_CLASS)

    def searches(self, method: str) -> set[str]:
        """Which searches of single images a method needs: of the few, of every one, or both."""
        found = {"few"} if self.needs_few(method) else set()
        if method in STORED:
            found.add("started" if method in STARTED else "every")
        return found

    def networks(self, method: str) -> int:
        """In how many trained networks a method searches the images once more."""
        if method not in SECOND:
            return 0
        return self.folds if method in CROSS_FITTED else 1


SCALES = {
    "smoke": Settings(
        validation_size=40,
        sizes=(160,),
        methods=("sgd_g1", *SHARED),
        searched_images=80,
        images_per_class=4,
    ),
    "laptop": Settings(validation_size=1000, num_seeds=1),
    "paper": Settings(validation_size=4000, sizes=(46000,), num_seeds=1),
}


def define(config: RunConfig, settings: Settings) -> sweeps.Sweep:
    """A point for each size, method and seed."""
    if not settings.sizes or not settings.methods:
        raise ValueError("sweep.sizes and sweep.methods must not be empty")
    at_least(1, settings, "sizes", "searched_images", "clusters")
    shared = SharedConfig(**settings.of_a_class)
    shared.of_blocks(len(config.widths))
    for name in settings.methods:
        one_of("sweep.methods", name, (*SGD, *STORED, *SHARED))
    check_settings_are_used(config, settings)
    pairs = itertools.product(settings.sizes, settings.methods)
    known = dict.fromkeys(itertools.chain.from_iterable(places(*pair) for pair in pairs))
    changes = parse_options(settings.changes, "sweep.changes")
    for name, fields in changes.items():
        one_of("the place in sweep.changes", name, tuple(known))
        for field in fields:
            check_change(name, field)
    if config.shared != SharedConfig():
        raise ValueError(
            "config.shared has no effect here: set --sweep.images_per_class, --sweep.fresh_images, "
            "--sweep.clusters and --sweep.cosines"
        )
    if settings.num_train is not None:
        raise ValueError("sweep.num_train has no effect here: set sweep.sizes")
    if {*settings.methods} & {*SECOND}:
        whole.check_later_cycles(config)
    is_cross_fitted = bool({*settings.methods} & {*CROSS_FITTED})
    if is_cross_fitted and not 2 <= settings.folds <= min(settings.sizes):
        raise ValueError(
            f"sweep.folds is {settings.folds}: it must be at least 2, and at most as many as images"
        )
    variants = [variant for variant in config.variants if variant != "sgd"]
    if not variants and (learners := [name for name in settings.methods if name not in SGD]):
        raise ValueError(
            f"sweep.methods has {learners[0]}, but config.variants has none that learns targets: "
            f"{config.variants}"
        )
    methods = [
        Method(name, variant)
        for name in settings.methods
        for variant in ([""] if name in SGD else variants)
    ]
    smallest = min(settings.sizes)
    if any(map(settings.needs_few, settings.methods)) and settings.searched_images > smallest:
        raise ValueError(
            f"sweep.searched_images is {settings.searched_images}, but the smallest of sweep.sizes "
            f"has {smallest}"
        )
    points, searched, searched_again = [], set(), set()
    for size, seed, method in itertools.product(settings.sizes, config.seeds, methods):
        changed = changed_config(config, changes, size, method, seed)
        if method.name in PER_CLASS:
            check_per_class(changed.search, shared)
        digest = sweep_points.search_digest(changed), seed
        needed = {(what, *digest) for what in settings.searches(method.name)}
        point = make_point(changed, settings, size, method, {w for w, *_ in needed - searched})
        searched |= needed
        of_classes = "per_class", *digest
        if method.name in PER_CLASS and of_classes not in searched:
            point = sweep_points.with_more(point, *plan.shared_search_cost(changed, size, shared))
            searched.add(of_classes)
        if networks := settings.networks(method.name):
            again = networks, point.config
            point = whole.as_second_cycle(point, networks, again not in searched_again)
            searched_again.add(again)
        points.append(point)

    def measure(point, dataset, folder):
        return measure_training(point, dataset, folder, settings)

    return sweeps.Sweep(points, measure, draw, table, with_predictions, check_sizes)


def check_settings_are_used(config: RunConfig, settings: Settings) -> None:
    """Raises ValueError for a setting of few methods that none of those here has a use for."""
    preset, scale = get_preset(config.name, config.dataset), SCALES[config.name]
    needs = (
        ("sweep.cosines", settings, scale, PER_CLASS),
        ("sweep.folds", settings, scale, CROSS_FITTED),
        ("config.later_cycles", config, preset, SECOND),
        ("config.sampler", config, preset, ("sampler", *STARTED)),
    )
    for path, given, default, methods in needs:
        name = path.partition(".")[2]
        is_given = getattr(given, name) != getattr(default, name)
        if is_given and not {*methods} & {*settings.methods}:
            raise ValueError(f"{path} has no effect without a method among {', '.join(methods)}")


def check_sizes(points: Sequence[sweeps.Point]) -> None:
    """Raises ValueError where the data are too few; they may be others than those asked for."""
    if not points:
        return
    largest = max(points, key=lambda point: point.columns["size"])
    config, size, validation = largest.config, largest.columns["size"], held_out(largest.config)
    name = foresee(config.dataset, config.name, DATA_DIR.value).name
    if size > (left := max(0, catalogue.facts(name).train_images - validation)):
        raise ValueError(
            f"sweep.sizes has {size}, but {name} has {left} training images beside the "
            f"{validation} for validation"
        )


def held_out(config: RunConfig) -> int:
    """The images for validation, beside those that are counted."""
    if config.validation_size is not None:
        return config.validation_size
    return plan.image_counts(config)[1]


def places(size: int, method: str) -> tuple[str, str, str]:
    """Under which names `changes` may say something of a training; the last wins."""
    return str(size), method, f"{size}-{method}"


def check_change(place: str, field: str) -> None:
    """Raises ValueError for a field that may not be changed, or that has no effect at a place."""
    part = field.partition(".")[0]
    one_of("what sweep.changes sets", part, ("learn", "sgd", "search"))
    method = place.split("-")[-1]
    unused: tuple[str, ...] = ("learn", "search") if method in SGD else ("sgd",)
    if method.isdigit():  # a size alone, for all methods
        unused = ()
    if method in SECOND:
        raise ValueError(
            f"sweep.changes: {field} of {place} would be that of the networks that are searched, "
            "too, and its control would be searched in others: set it for the size, or by --config"
        )
    if part in unused or field == "learn.variant":
        raise ValueError(f"sweep.changes: {field} has no effect on {place}")


def changed_config(
    config: RunConfig, changes: dict[str, dict[str, str]], size: int, method: Method, seed: int
) -> RunConfig:
    """The configuration of one method's training on so many images."""
    groups = int(method.name[-1]) if method.name in SGD else config.learner_groups
    changed = dataclasses.replace(
        config,
        num_train=size + held_out(config),
        validation_size=held_out(config),
        seed=seed,
        num_seeds=1,
        variants=(method.variant or "sgd",),
        learner_groups=groups,
        sgd_groups=(groups,),
    )
    for place in places(size, method.name):
        assignments = changes.get(place, {})
        changed = override(changed, assignments, f"sweep.changes: {place}")
        check_used(assignments, [changed], where=f"sweep.changes: {place}: ")
    return changed


def make_point(
    config: RunConfig, settings: Settings, size: int, method: Method, new: set[str]
) -> sweeps.Point:
    """A training; new: the searches (`Settings.searches`) that it is the first to need."""
    seed = config.seed
    name = f"{size}-{method.name}{f'-{method.variant}' if method.variant else ''}-seed_{seed}"
    columns = {
        "size": size,
        "method": method.name,
        "variant": method.variant,
        "title": method.title,
        "seed": seed,
    }
    columns |= {"probes": True} if settings.probes else {}
    if settings.needs_few(method.name):
        columns["searched_images"] = settings.searched_images
    if method.name in PER_CLASS:
        columns |= settings.of_a_class
    if networks := settings.networks(method.name):
        columns["networks"] = networks
    point = sweep_points.run_point(name, columns, config, is_searched=bool(new - {"few"}))
    if "few" not in new:
        return point
    return sweep_points.with_more(point, *plan.search_cost(config, settings.searched_images))


# --------------------------------------------------------------------------------------------
# A training
# --------------------------------------------------------------------------------------------


def measure_training(
    point: sweeps.Point, dataset: Dataset, folder: Path, settings: Settings
) -> sweep_rows.Rows:
    """The row of a training, and a file with what its network says of each test image."""
    config, method, variant = point.config, point.columns["method"], point.columns["variant"]
    if (there := len(dataset.train.images)) != point.columns["size"]:  # other data in their place
        raise ValueError(
            f"{dataset.name} has {there} training images, not {point.columns['size']}: set "
            f"--sweep.sizes, or prepare {config.dataset}"
        )
    learning = config.sgd if method in SGD else dataclasses.replace(config.learn, variant=variant)
    targets = targets_of(point, dataset, folder, settings)
    learned, said = sweep_points.train(point, dataset, targets, learning, folder)
    keep_predictions(folder, dataset, {method: said})
    best = learned.best_epoch
    row = probed(learned.network, dataset) if settings.probes else {}
    return [
        row
        | {
            "training": method,
            "best_epoch": best["epoch"],
            "validation_accuracy": best["validation_accuracy"],
            "train_loss": learned.history[-1]["train_loss"],
            "test_accuracy": float(np.mean(said == dataset.test.labels)),
            "training_seconds": round(sum(epoch["seconds"] for epoch in learned.history), 1),
            "predictions": f"points/{point.name}.npz",
        }
    ]


def probed(network: Any, dataset: Dataset) -> dict[str, float]:
    """Accuracies on training images, and on test images with a new linear head; see `probes`."""
    few = sweep_points.first_rows(dataset.train, MOST_IMAGES)
    said = np.argmax(logits_of(network, dataset, few), axis=-1)
    new_head = linear_probe(dataset, network)
    return {
        "train_accuracy": float(np.mean(said == few.labels)),
        "new_head_accuracy": new_head.test_accuracy,
    }


def targets_of(point: sweeps.Point, dataset: Dataset, folder: Path, settings: Settings) -> Any:
    """What a point learns; None: SGD. Made before its folder holds anything, as a run's must."""
    if point.columns["method"] in SGD:
        return None
    if point.columns["method"] in STARTED:
        return few_searches.started(point, dataset, folder.parent, settings.searched_images)
    if point.columns["method"] in STORED:
        networks = settings.networks(point.columns["method"])
        return whole.targets_of(point, dataset, folder, networks)
    return few_searches.targets_of(
        point, dataset, folder.parent, settings.searched_images, settings.of_a_class
    )


def run_all() -> None:
    """The sweep, as the command line says."""
    if command_line.NUM_TRAIN.value is not None:
        raise ValueError("--num_train has no effect here: set --sweep.sizes")
    fixed = ("num_train", "learner_groups", "sgd_groups", "target_controls", "searched")
    fixed += ("sampler.images", "cycles", "controls")
    used = ("sampler", "later_cycles")  # by methods of these names, and by SECOND
    sweeps.run("full_data", SCALES, define, fixed=fixed, has_cycles=True, used=used)


if __name__ == "__main__":
    command_line.start(run_all)
