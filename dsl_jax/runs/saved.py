"""Checkpoints and networks on disk, with orbax."""

import time
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from dsl_jax.learning.train import Record
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.interface import named_leaves

CHECKPOINT_SECONDS = 30


class Checkpoints:
    """`learning.train.Checkpoints` on disk, with orbax, in a folder of their own.

    The state is written every 30 seconds at most, and after the last epoch.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp

        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )
        self._saved_at = time.monotonic()

    @property
    def last_epoch(self) -> int:
        """The epoch after which the last state was written; 0: there is none."""
        return self._manager.latest_step() or 0

    def restore(self, like: Any) -> tuple[Any, list[Record]] | None:
        """The last state that was written, with the structure of `like`, and the history."""
        import orbax.checkpoint as ocp

        if not self.last_epoch:
            return None
        names, leaves, structure = named_leaves(like)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(dict(zip(names, leaves, strict=True))),
            history=ocp.args.JsonRestore(),
        )
        saved = self._manager.restore(self.last_epoch, args=arguments)
        state = jax.tree.unflatten(structure, [saved.state[name] for name in names])
        return state, saved.history

    def save(self, epoch: int, state: Any, history: list[Record], last: bool) -> None:
        """Writes the state when it is time to."""
        import orbax.checkpoint as ocp

        if not last and time.monotonic() - self._saved_at < CHECKPOINT_SECONDS:
            return
        names, leaves, _ = named_leaves(state)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(dict(zip(names, leaves, strict=True))),
            history=ocp.args.JsonSave(history),
        )
        self._manager.save(epoch, args=arguments)
        self._saved_at = time.monotonic()


def save_network(folder: Path, network: nnx.Module) -> None:
    """Writes a network's weights and statistics with orbax; an older copy is replaced."""
    import orbax.checkpoint as ocp

    names, leaves, _ = named_leaves(nnx.state(network))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), dict(zip(names, leaves, strict=True)), force=True)


def load_network(folder: Path, arguments: dict[str, Any]) -> ConvNet:
    """The network of a finished training.

    Args:
      folder: the training's.
      arguments: what the `ConvNet` was built with.

    Raises:
      ValueError: the folder holds no network, or one of another shape.
    """
    import orbax.checkpoint as ocp

    network = ConvNet(**arguments, rngs=nnx.Rngs(0))
    network.eval()
    graph, state = nnx.split(network)
    names, leaves, structure = named_leaves(state)
    path = (folder / "model").absolute()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.restore(path, dict(zip(names, leaves, strict=True)))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} holds no network of this shape: {error}") from error
    return nnx.merge(graph, jax.tree.unflatten(structure, [saved[name] for name in names]))
