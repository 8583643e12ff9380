"""Configuration of training."""

import re
from dataclasses import dataclass

import jax

from dsl_jax.config.search import COMPUTE_DTYPES
from dsl_jax.values import at_least, check_types, one_of

MATCHINGS = ("raw", "normalized")
RELATIONS = ("targets", "labels")
EVALUATION_STATISTICS = ("train", "batch")
VARIANTS = ("all_layers", "skip_block_0", "sgd")


def skipped_block(variant: str) -> int | None:
    """The block without a target of a "skip_block_N"; None for "all_layers". Raises ValueError."""
    if variant == "all_layers":
        return None
    if found := re.fullmatch(r"skip_block_(0|[1-9]\d*)", variant):
        return int(found[1])
    raise ValueError(f"variant {variant!r} is unknown: give all_layers, or skip_block_N of block N")


@jax.tree_util.register_static
@dataclass(frozen=True)
class LearnConfig:
    """Training, for searched targets and for SGD alike (paper 4.2 and A.3).

    Attributes:
      batch_size: images of a batch, about: see `batches.exact_batch_size`.
      batch_multiple: a batch holds a multiple of so many images, so that as many devices share it
          equally.
      learning_rate: peak, for a loss that is a mean over the batch.
      weight_decay: times the weights (not the biases), added to their gradient.
      bias_rate_factor: BatchNorm biases learn this much faster.
      initial_rate_fraction, warmup_fraction, final_rate_fraction: the rate rises linearly from
          this share of its peak, over this share of the steps, then falls to this share.
      stem_bias_epochs: the stem's bias is trained for so many epochs.
      head_weight: lambda, the weight of the head's loss (searched targets only).
      variant: "all_layers", or "skip_block_N" (no target for block N; searched targets only); the
          paper's are "all_layers" and "skip_block_0". Without its target the last block does not
          learn, as the head's loss does not reach it.
      matching: compare targets with "raw" activations, or with "normalized" ones.
      relational_weight: of a further loss for each block that has a target: how far two images of
          a batch are from being as alike as they ought to be (see `relational_loss`; searched
          targets only).
      relations: how alike they ought to be: as their "targets", or as their "labels", which the
          targets' logits tell: 1 for images of one class, else 0.
      augment, flip, crop_padding: random crops after padding, mirror images where flip is True.
        The targets of single images do not move with the crop, and need more epochs then; those of
        a `SharedTargets` or `Sampler` are made of it.
      evaluation_statistics: BatchNorm in evaluation: "train", re-estimated over the training
          images, or "batch", those of the evaluation batch (the paper's).
      statistics_images: number of training images that give the statistics during training.
      validate_every: epochs between two validations; the last epoch is always validated.
      compute_dtype: "float32", or "bfloat16": what the network's `nnx.Conv`s take and return in a
          step of training, their gradients too, so also what follows one, up to a BatchNorm. The
          stem, parameters, statistics, losses and evaluation are float32, and a `ConvNet`'s head.
    """

    epochs: int = 90
    batch_size: int = 2000
    batch_multiple: int = 1
    learning_rate: float = 1.0
    momentum: float = 0.85
    weight_decay: float = 0.0
    bias_rate_factor: float = 1.0
    initial_rate_fraction: float = 0.2
    warmup_fraction: float = 0.23
    final_rate_fraction: float = 0.07
    stem_bias_epochs: int = 3
    head_weight: float = 0.03
    variant: str = "all_layers"
    matching: str = "raw"
    relational_weight: float = 0.0
    relations: str = "targets"
    augment: bool = False
    flip: bool = False
    crop_padding: int = 2
    evaluation_statistics: str = "train"
    statistics_images: int = 2000
    validate_every: int = 1
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_types(self)
        at_least(1, self, "epochs", "batch_size", "batch_multiple")
        at_least(1, self, "statistics_images", "validate_every")
        at_least(0, self, "learning_rate", "momentum", "weight_decay", "bias_rate_factor")
        at_least(0, self, "initial_rate_fraction", "warmup_fraction", "final_rate_fraction")
        at_least(0, self, "stem_bias_epochs", "head_weight", "relational_weight", "crop_padding")
        for name in ("initial_rate_fraction", "warmup_fraction", "final_rate_fraction"):
            if (value := getattr(self, name)) > 1:
                raise ValueError(f"{name} is {value}: it must be at most 1")
        if self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}: it must be below 1")
        skipped_block(self.variant)
        one_of("matching", self.matching, MATCHINGS)
        one_of("relations", self.relations, RELATIONS)
        one_of("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        one_of("evaluation_statistics", self.evaluation_statistics, EVALUATION_STATISTICS)
