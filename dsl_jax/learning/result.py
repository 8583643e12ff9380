"""What training returns and what it is given to keep: records, results, checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from flax import nnx

from dsl_jax.learning.identity import Identity

Record = dict[str, Any]
Measure = Callable[[nnx.Module], dict[str, Any]]
OnEpoch = Callable[[Record], None]


class LearnResult(NamedTuple):
    """A trained network.

    Attributes:
      network: the best epoch's by validation accuracy.
      history: one record an epoch: epoch, images (trained on), train_loss, learning_rate, seconds
        and, where the epoch was validated, validation_accuracy, validation_loss and best_so_far.
    """

    network: nnx.Module
    history: list[Record]

    def __repr__(self) -> str:
        return f"LearnResult(a {type(self.network).__name__}; {len(self.history)} epochs)"

    @property
    def best_epoch(self) -> Record:
        """The record of the epoch whose network this is."""
        return best_epoch(self.history)


def best_epoch(history: Sequence[Record]) -> Record:
    """The record of the best epoch by validation accuracy, between equals by loss."""
    return next(record for record in reversed(history) if record.get("best_so_far"))


class Checkpoints(Protocol):
    """Where training keeps its state; `runs.saved.Checkpoints` is the one on disk."""

    def restore(self, like: Any, identity: Identity) -> tuple[Any, list[Record]] | None:
        """The last saved (state, history), the state with the structure and devices of `like`.

        Raises `learning.identity.OtherTraining` where it is not of the training with this identity.
        """

    def save(
        self, epoch: int, state: Any, history: list[Record], identity: Identity, last: bool
    ) -> None:
        """Keeps the state after an epoch; `last` is the final one."""
