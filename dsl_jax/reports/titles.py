"""What tables and figures call the trainings of a run."""

from dsl_jax.config import TARGET_CONTROLS
from dsl_jax.runs.results import Result
from dsl_jax.runs.steps import Training

ROWS = {
    "all_layers": ("searched targets, all layers", "learned from the searched representations"),
    "skip_block_0": ("searched targets, skip block 0", "the same, without targets for block 0"),
    "linear_on_pixels": ("linear classifier on pixels", "no network"),
    "head_on_untrained_network": ("head on the untrained network", "nothing learned but the head"),
}
# By `steps.Training.kind`, for controls and later cycles: after the variant, and a sentence.
KINDS = {
    "cycle": ("", "searched again from the network before, and trained further"),
    "first_targets": (", the first targets again", "as many epochs, but nothing searched again"),
    "natural_targets": (", no search of blocks", "its own representations as targets"),
    "fresh_network": (", a fresh network", "trained for as many epochs on the last targets"),
    "long_sgd": ("", "as many as all cycles together"),
    "permuted": (", permuted", "each image learns the targets of another of its class"),
    "class_means": (", class means", "each image learns the mean target of its class"),
    "natural": (", natural", "its natural representations, searched logits"),
    "class_displacement": (
        ", natural and class",
        "its natural representation, moved by what the search of its class has in common",
    ),
    "channel_code": (
        ", natural and channel code",
        "its natural representation, moved by a random number a class and channel: no search",
    ),
    "element_code": (
        ", natural and element code",
        "its natural representation, moved by a random tensor a class: no search",
    ),
    "shuffled_labels": (", shuffled labels", "blocks searched for labels dealt out at random"),
}


def training_title(name: str, training: Training | Result, cycles: int) -> str:
    """What tables call a training."""
    if name in ROWS:
        return ROWS[name][0]
    if training.variant == "sgd":
        long = f", {cycles} times the epochs" if training.kind == "long_sgd" else ""
        return f"SGD, G = {training.groups}{long}"
    title = ROWS[str(training.variant)][0] + KINDS[training.kind][0]
    if training.kind == "fresh_network" or (
        training.kind in TARGET_CONTROLS and training.cycle == 1
    ):
        return title
    return f"{title}, cycle {training.cycle}"
