"""What tables and figures call the trainings of a run."""

from dsl_jax.config import RunConfig
from dsl_jax.runs.results import Result
from dsl_jax.runs.steps import COSINE, Training

ROWS = {
    "all_layers": ("searched targets, all layers", "learned from the searched representations"),
    "linear_on_pixels": ("linear classifier on pixels", "no network"),
    "head_on_untrained_network": ("head on the untrained network", "nothing learned but the head"),
}
# By `steps.Training.kind`, for what stands in later cycles: after the variant, and a sentence.
KINDS = {
    "cycle": ("", "searched again from the network before, and trained further"),
    "first_targets": (", the first targets again", "as many epochs, but nothing searched again"),
    "natural_targets": (", no search of blocks", "its own representations as targets"),
    "fresh_network": (", a fresh network", "trained for as many epochs on the last targets"),
    "long_sgd": ("", "as many as all cycles together"),
}
# Likewise, for controls of targets: before the variant, and a sentence.
CONTROLLED = {
    "permuted": ("permuted targets", "each image learns those of another of its class"),
    "class_means": ("class means", "each image learns the mean target of its class"),
    "natural": ("natural representations", "blocks not searched; searched logits"),
    "class_displacement": (
        "natural and class displacement",
        "moved by the class's mean of searched minus natural; searched logits",
    ),
    "class_part": (
        "natural and class part",
        "moved by the class's mean of searched minus its natural part; searched logits",
    ),
    "channel_code": (
        "natural and channel code",
        "moved by a random number per class and channel, blocks not searched; searched logits",
    ),
    "element_code": (
        "natural and element code",
        "moved by a random tensor per class, blocks not searched; searched logits",
    ),
    "shuffled_labels": (
        "targets for shuffled labels",
        "blocks searched for labels dealt out at random; searched logits of the true ones",
    ),
}


def row_of(name: str) -> tuple[str, str] | None:
    """The title of a training that has one by its name alone, and a sentence; else None."""
    block = name.removeprefix("skip_block_")
    if block != name and block.isdigit():
        without = f"the same, without targets for block {block}"
        return f"searched targets, skip block {block}", without
    return ROWS.get(name)


def training_title(name: str, training: Training | Result, cycles: int) -> str:
    """What tables call a training."""
    name, _, cosine = name.partition(COSINE)
    if cosine:
        cosines = cosine.replace("_", ", ")
        return f"{training_title(name, training, cycles)}, cosine {cosines}"
    if row := row_of(name):
        return row[0]
    if training.variant == "sgd":
        long = f", {cycles} times the epochs" if training.kind == "long_sgd" else ""
        return f"SGD, G = {training.groups}{long}"
    if training.kind in CONTROLLED:
        title = f"{CONTROLLED[training.kind][0]}, {str(training.variant).replace('_', ' ')}"
        return title if training.cycle == 1 else f"{title}, cycle {training.cycle}"
    title = (row_of(str(training.variant)) or ("",))[0] + KINDS[training.kind][0]
    return title if training.kind == "fresh_network" else f"{title}, cycle {training.cycle}"


def of_first_seed(config: RunConfig) -> str:
    """What a caption says of a figure that is of the first of several seeds."""
    return f", seed {config.seed}" if config.num_seeds > 1 else ""
