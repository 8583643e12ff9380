"""Checkpoints and networks on disk, with orbax."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from dsl_jax.files import refuse_file
from dsl_jax.learning.train import Record
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.interface import named_leaves

CHECKPOINT_SECONDS = 30

logger = logging.getLogger(__name__)


class Checkpoints:
    """`learning.train.Checkpoints` on disk, with orbax, in a folder of their own.

    The state is written every 30 seconds at most, and after the last epoch.

    Args:
      folder: made if it is not there.
      on_begin: called with the epoch after which training goes on, 0 for the start, when it is
        known.

    Raises:
      ValueError: a file is in the folder's place.
    """

    def __init__(self, folder: Path, on_begin: Callable[[int], None] = lambda epoch: None):
        import orbax.checkpoint as ocp

        refuse_file(folder)
        self._folder, self._on_begin = folder, on_begin
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )
        self._saved_at = time.monotonic()

    def restore(self, like: Any) -> tuple[Any, list[Record]] | None:
        """The last state that was written and can be read, and the history; None: there is none.

        Later ones, which are damaged, are removed with a warning, to be written again.

        Args:
          like: a pytree with the state's structure, shapes and devices.

        Raises:
          ValueError: none can be read; none is removed.
        """
        damaged: dict[int, Exception] = {}
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(epoch, like)
            except (LookupError, OSError, TypeError, ValueError) as error:
                damaged[epoch] = error
                continue
            self._remove(damaged, epoch)
            self._on_begin(epoch)
            return found
        if damaged:
            reasons = "; ".join(f"epoch {epoch}: {error}" for epoch, error in damaged.items())
            raise ValueError(
                f"no checkpoint in {self._folder} can be read: restore the folder from a copy, or "
                f"delete it, and the network is trained from the start ({reasons})"
            )
        self._on_begin(0)
        return None

    def _read(self, epoch: int, like: Any) -> tuple[Any, list[Record]]:
        import orbax.checkpoint as ocp

        names, leaves, structure = named_leaves(like)
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(dict(zip(names, leaves, strict=True))),
            history=ocp.args.JsonRestore(),
        )
        saved = self._manager.restore(epoch, args=arguments)
        state = jax.tree.unflatten(structure, [saved.state[name] for name in names])
        return state, saved.history

    def _remove(self, damaged: Mapping[int, Exception], readable: int) -> None:
        for epoch in damaged:
            logger.warning(
                "%s is damaged: training goes on from the checkpoint of epoch %d",
                self._folder / str(epoch),
                readable,
            )
            self._manager.delete(epoch)

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
