"""Checkpoints and networks on disk, with orbax.

orbax keeps no checksum of what it writes; beside each state its hash is kept, to notice damage.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from dsl_jax.files import DamagedFile, is_of_the_file, refuse_file, writing
from dsl_jax.jobs import first_says
from dsl_jax.learning.identity import Identity, OtherTraining, check_same_training
from dsl_jax.learning.result import Record
from dsl_jax.networks.convnet import ConvNet
from dsl_jax.networks.interface import named_leaves
from dsl_jax.runs.results import TRAIN_AGAIN, Trained

CHECKPOINT_SECONDS = 30

logger = logging.getLogger(__name__)


class Checkpoints:
    """`learning.result.Checkpoints` on disk, with orbax, in a folder of their own.

    The state is written every 30 seconds at most, and after the last epoch. The processes of a job
    call each method together.

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

    def restore(self, like: Any, identity: Identity) -> tuple[Any, list[Record]] | None:
        """The last state that was written and can be read, and the history; None: there is none.

        Later ones, which are damaged, are removed with a warning, to be written again.

        Args:
          like: a pytree with the state's structure, shapes and devices.
          identity: that of the training which goes on.

        Raises:
          OtherTraining: they are of another one.
          ValueError: none can be read; none is removed.
        """
        damaged: dict[int, Exception] = {}
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(epoch, like, identity)
            except OtherTraining:
                raise
            except Exception as error:  # of what is damaged, orbax raises anything
                if not is_of_the_file(error):
                    raise
                damaged[epoch] = error
                continue
            self._remove(damaged, epoch)
            self._on_begin(epoch)
            return found
        if damaged:
            reasons = "; ".join(
                f"epoch {epoch}: {_briefly(error)}" for epoch, error in damaged.items()
            )
            raise ValueError(
                f"no checkpoint in {self._folder} can be read: restore the folder from a copy, or "
                f"delete it, and the network is trained from the start ({reasons})"
            )
        self._on_begin(0)
        return None

    def _read(self, epoch: int, like: Any, identity: Identity) -> tuple[Any, list[Record]]:
        beside = _read_beside(self._manager, epoch)
        if "training" in beside:
            check_same_training(identity, beside["training"])
        else:
            logger.warning(
                "%s is of an older version; whether it is of this training was not compared",
                self._folder,
            )
        names, leaves, structure = named_leaves(like)
        state = _read_state(self._manager, epoch, dict(zip(names, leaves, strict=True)), beside)
        return jax.tree.unflatten(structure, [state[name] for name in names]), beside["epochs"]

    def _remove(self, damaged: Mapping[int, Exception], readable: int) -> None:
        for epoch in damaged:
            logger.warning(
                "%s is damaged: training goes on from the checkpoint of epoch %d",
                self._folder / str(epoch),
                readable,
            )
            self._manager.delete(epoch)

    def save(
        self, epoch: int, state: Any, history: list[Record], identity: Identity, last: bool
    ) -> None:
        """Writes the state when it is time to."""
        import orbax.checkpoint as ocp

        waited = first_says(lambda: time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS)
        if not (last or waited):
            return
        names, leaves, _ = named_leaves(state)
        kept = {"epochs": history, "weights": hash_leaves(names, leaves), "training": identity}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(dict(zip(names, leaves, strict=True))),
            history=ocp.args.JsonSave(kept),
        )
        with writing(self._folder):
            self._manager.save(epoch, args=arguments)
        self._saved_at = time.monotonic()


def damaged_checkpoints(folder: Path) -> dict[Path, str]:
    """Reads the checkpoints of `Checkpoints`, and changes nothing: what is wrong, by folder."""
    import orbax.checkpoint as ocp

    if not folder.exists():
        return {}
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=_alone())
    manager = ocp.CheckpointManager(folder.absolute(), options=options)
    damaged: dict[Path, str] = {}
    with _checkpointer() as checkpointer:
        for epoch in sorted(manager.all_steps()):
            try:
                kept = checkpointer.metadata(folder.absolute() / str(epoch) / "state")
                # As NumPy's: the devices of the process that has written them need not be there.
                like = {
                    name: np.empty(array.shape, array.dtype)
                    for name, array in kept.item_metadata.tree.items()
                }
                _read_state(manager, epoch, like, _read_beside(manager, epoch))
            except Exception as error:  # as above
                if not is_of_the_file(error):
                    raise
                damaged[folder / str(epoch)] = _briefly(error)
    return damaged


def _read_beside(manager: Any, epoch: int) -> dict[str, Any]:
    """What `Checkpoints.save` wrote beside the state; of an older version it may lack all but
    "epochs". For files that are cut, changed or gone, orbax raises anything."""
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(history=ocp.args.JsonRestore())
    beside = manager.restore(epoch, args=arguments).history
    return beside if isinstance(beside, dict) else {"epochs": beside}


def _read_state(
    manager: Any, epoch: int, like: dict[str, Any], beside: dict[str, Any]
) -> dict[str, Any]:
    """The state of a checkpoint by name, as `Checkpoints.save` wrote it.

    Raises:
      ValueError: it is not the one that was written; else as `_read_beside`.
    """
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(like))
    state = manager.restore(epoch, args=arguments).state
    if beside.get("weights") not in (None, hash_leaves(state.keys(), state.values())):
        raise ValueError("the state is not the one that was written")
    return state


def _briefly(error: Exception) -> str:
    """The beginning of what orbax and tensorstore say, which can be pages."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."


def hash_leaves(names: Iterable[str], leaves: Iterable[Any]) -> str:
    """A hash of arrays and their names, the same in any order and wherever the arrays lie."""
    digest = hashlib.sha256()
    for name, leaf in sorted(zip(names, leaves, strict=True), key=lambda pair: pair[0]):
        array = np.asarray(leaf)
        digest.update(f"{name} {array.dtype}{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _alone() -> Any:
    """How orbax works for this process alone: the others of a job need not call it."""
    import orbax.checkpoint as ocp

    this = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"process_{this}"
    )


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer(multiprocessing_options=_alone())


def save_network(folder: Path, network: nnx.Module) -> str:
    """Writes a network's weights and statistics with orbax; an older copy is replaced.

    Returns:
      Their hash.
    """
    names, leaves, _ = named_leaves(jax.device_get(nnx.state(network)))
    with writing(folder), _checkpointer() as checkpointer:
        checkpointer.save(folder.absolute(), dict(zip(names, leaves, strict=True)), force=True)
    return hash_leaves(names, leaves)


def load_network(folder: Path, trained: Trained) -> ConvNet:
    """The network of a finished training.

    Args:
      folder: the training's.
      trained: its result, which says what the network is built with.

    Raises:
      DamagedFile: the folder holds no such network, or other weights than were written.
    """
    network = ConvNet(**trained.network, rngs=nnx.Rngs(0))
    network.eval()
    graph, state = nnx.split(network)
    names, leaves, structure = named_leaves(jax.device_get(state))
    path = (folder / "model").absolute()
    try:
        with _checkpointer() as checkpointer:
            saved = checkpointer.restore(path, dict(zip(names, leaves, strict=True)))
        leaves = [jax.numpy.asarray(saved[name]) for name in names]
    except Exception as error:  # of what is damaged, orbax raises anything
        if not is_of_the_file(error):
            raise
        raise DamagedFile(path, _briefly(error), TRAIN_AGAIN) from error
    if trained.weights and trained.weights != hash_leaves(names, leaves):
        raise DamagedFile(path, "the weights are not those that were written", TRAIN_AGAIN)
    return nnx.merge(graph, jax.tree.unflatten(structure, leaves))
