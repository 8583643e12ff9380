"""Learning: a network is trained on searched representations, or by SGD (paper 4.2, A.3).

Both go through one loop and differ in the objective alone. A network is any `nnx.Module` with
`representations(images) -> tuple of [B, ...]` and `head(last) -> logits [B, classes]`.
Letters: N training images, B images of a batch, L searched layers before the logits.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from dsl_jax.config import LearnConfig
from dsl_jax.data.augmentation import augment
from dsl_jax.data.dataset import Dataset
from dsl_jax.devices import on_one_device, replicate, take
from dsl_jax.keys import threefry_key
from dsl_jax.learning.batches import plan_batches
from dsl_jax.learning.checks import check_arguments, check_finite, check_targets, target_arrays
from dsl_jax.learning.evaluation import evaluate_images, with_training_statistics
from dsl_jax.learning.objectives import head_loss, regression_loss, sgd_objective, target_objective
from dsl_jax.learning.optimizer import learning_rate, make_optimizer
from dsl_jax.networks.interface import in_mode
from dsl_jax.progress import progress_bar
from dsl_jax.runs.loggers import Logger, plain

__all__ = ["LearnResult", "head_loss", "learn", "learn_sgd", "regression_loss"]


class LearnResult(NamedTuple):
    """A trained network.

    Attributes:
      network: the best epoch's by validation accuracy.
      history: one record an epoch: epoch, images (trained on), train_loss, learning_rate, seconds
        and, where the epoch was validated, validation_accuracy, validation_loss and best_so_far.
    """

    network: nnx.Module
    history: list[dict[str, float]]


Measure = Callable[[nnx.Module], dict[str, Any]]


class Checkpoints(Protocol):
    """Where training keeps its state; `runs.Checkpoints` is the one on disk."""

    def restore(self, like: Any) -> tuple[Any, list[dict[str, float]]] | None:
        """The last saved (state, history), the state with the structure and devices of `like`."""

    def save(self, epoch: int, state: Any, history: list[dict[str, float]], last: bool) -> None:
        """Keeps the state after an epoch; `last` is the final one."""


# --------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------


def learn(
    key: jax.Array,
    network: nnx.Module,
    dataset: Dataset,
    targets: Any,
    config: LearnConfig,
    *,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    measure: Measure | None = None,
    logger: Logger | None = None,
    progress: str | None = None,
) -> LearnResult:
    """Trains a copy of `network` on searched representations (paper 4.2).

    Args:
      key: a `jax.random` key; from a philox4x32 key a threefry2x32 key is derived.
      network: see the module; not changed.
      dataset: its training images have the targets; its validation images choose the epoch.
      targets: a `SearchResult` with a row for each training image, in order, or a `TargetStore`
        or `Overlay` that has the ids of all of them.
      config: a `LearnConfig`; `variant` says which layers have a target.
      mesh: a mesh with the one axis "images": its devices share each batch equally, and BatchNorm
        sees the whole batch. It may span the processes of `jax.distributed`, each of which then
        calls this with the same arguments. None: one device. The batches are the same on any
        number of devices, the results but for rounding.
      checkpoints: where to keep and find the state of an interrupted training, which may go on
        with another number of devices.
      measure: called with the network after each validated epoch, in evaluation mode; what it
        returns joins the epoch's record.
      logger: given each epoch's record, with `training`, its name.
      progress: a name, to show a bar under it.

    Returns:
      A `LearnResult`; BatchNorm statistics re-estimated over the training images. The network
      is on one device: the first of a mesh (of this process's).

    Raises:
      ValueError: targets are missing, or their shapes are not the network's; the network has
        dropout; or the number of devices does not divide that of a batch's images.
      TypeError: the network lacks `representations` or `head`.
      FloatingPointError: the loss is not finite; names the step.
    """
    check_arguments(network, dataset, config, mesh)
    arrays = target_arrays(targets, dataset.train.ids)
    check_targets(network, dataset, arrays)
    answers = Answers(arrays, target_objective)
    return _train(
        key, network, dataset, answers, config, mesh, checkpoints, measure, logger, progress
    )


def learn_sgd(
    key: jax.Array,
    network: nnx.Module,
    dataset: Dataset,
    config: LearnConfig,
    *,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    measure: Measure | None = None,
    logger: Logger | None = None,
    progress: str | None = None,
) -> LearnResult:
    """The baseline: the same loop, cross-entropy end to end (paper A.3); see `learn`."""
    check_arguments(network, dataset, config, mesh)
    answers = Answers(dataset.train.labels, sgd_objective)
    return _train(
        key, network, dataset, answers, config, mesh, checkpoints, measure, logger, progress
    )


class TrainState(NamedTuple):
    """All that changes in training; a pytree of arrays."""

    params: Any
    optimizer: Any
    best_params: Any
    best: jax.Array  # [2]: validation accuracy, minus validation loss


class Answers(NamedTuple):
    """What the network should give: a pytree of arrays [N, ...] on the host, and the loss."""

    arrays: Any
    objective: Callable


class Task(NamedTuple):
    """All that stays: what is trained, on what, and how.

    graph, rest: the network but for its parameters; batches: rows [steps, B].
    """

    graph: Any
    rest: Any
    dataset: Dataset
    batches: np.ndarray
    answers: Answers
    config: LearnConfig
    mesh: Mesh | None


def _train(
    key: jax.Array,
    network: nnx.Module,
    dataset: Dataset,
    answers: Answers,
    config: LearnConfig,
    mesh: Mesh | None,
    checkpoints: Checkpoints | None,
    measure: Measure | None,
    logger: Logger | None,
    progress: str | None,
) -> LearnResult:
    """Epochs of training, each with its validation and its checkpoint."""
    key = threefry_key(key)
    count = len(dataset.train.images)
    batches = plan_batches(
        jax.random.fold_in(key, 0), count, config.batch_size, config.batch_multiple
    )
    epochs_key = jax.random.fold_in(key, 1)
    graph, *states = nnx.split(in_mode(network, training=True), nnx.Param, ...)
    params, rest = states
    rest = replicate(rest, mesh)
    task = Task(graph, rest, dataset, batches, answers, config, mesh)
    state: TrainState = _start(params, task)
    history: list[dict[str, Any]] = []
    if checkpoints is not None and (saved := checkpoints.restore(state)) is not None:
        state, history = saved

    rate, steps = learning_rate(config, len(batches)), len(batches)
    bar = progress_bar(
        config.epochs * steps,
        done=len(history) * steps,
        unit="step",
        description=progress or "",
        show=progress is not None,
    )
    with bar:
        for epoch in range(len(history), config.epochs):
            started, last = time.monotonic(), epoch + 1 == config.epochs
            epoch_key = jax.random.fold_in(epochs_key, epoch)
            state, loss = _run_epoch(epoch_key, task, state, epoch, bar)
            record = {
                "epoch": epoch + 1,
                "images": batches.size,
                "train_loss": loss,
                "learning_rate": float(rate((epoch + 1) * steps - 1)),
            }
            if last or (epoch + 1) % config.validate_every == 0:
                state, scores = _validate(task, state, measure)
                record |= scores
                accuracy = f"{scores['validation_accuracy']:.2%}"
                bar.set_postfix(refresh=False, loss=f"{loss:.4g}", validation=accuracy)
            history.append(record | {"seconds": time.monotonic() - started})
            if logger is not None:
                logger.log({"training": progress or "training", **history[-1]})
            if checkpoints is not None:
                checkpoints.save(epoch + 1, state, history, last)

    best = nnx.merge(graph, state.best_params, rest)
    graph, weights = nnx.split(with_training_statistics(best, dataset, batches.ravel()))
    return LearnResult(nnx.merge(graph, on_one_device(weights)), history)


def _start(params: Any, task: Task) -> TrainState:
    # Copies: a step gives its state's memory away, and the network passed in keeps its own.
    params = jax.tree.map(jnp.copy, params)
    optimizer = make_optimizer(task.config, len(task.batches))
    best_params = jax.tree.map(jnp.copy, params)
    state = TrainState(params, optimizer.init(params), best_params, jnp.full(2, -jnp.inf))
    return replicate(state, task.mesh)


def _run_epoch(
    key: jax.Array, task: Task, state: TrainState, epoch: int, bar: Any
) -> tuple[TrainState, float]:
    """All batches once, in a new order; the state after them and the mean loss."""
    order_key, step_key = jax.random.split(key)
    params, optimizer, losses = state.params, state.optimizer, []
    for number in np.asarray(jax.random.permutation(order_key, len(task.batches))):
        rows = task.batches[number]
        params, optimizer, loss = _step(
            jax.random.fold_in(step_key, number),
            params,
            optimizer,
            task.rest,
            take(task.dataset.train.images, rows, task.mesh),
            jax.tree.map(lambda answer: take(answer, rows, task.mesh), task.answers.arrays),
            task.graph,
            task.answers.objective,
            task.config,
            len(task.batches),
            (task.dataset.mean, task.dataset.std),
        )
        losses.append(loss)
        bar.update()
    values = np.asarray(losses)
    check_finite(values, epoch, len(task.batches))
    return state._replace(params=params, optimizer=optimizer), float(values.mean())


def _validate(
    task: Task, state: TrainState, measure: Measure | None
) -> tuple[TrainState, dict[str, Any]]:
    """Scores on the validation images; the state keeps the best parameters so far.

    Higher accuracy wins, between equals the lower loss.
    """
    network = nnx.merge(task.graph, state.params, task.rest)
    few = task.batches.ravel()[: task.config.statistics_images]
    network = with_training_statistics(network, task.dataset, few)
    statistics = task.config.evaluation_statistics
    scores = evaluate_images(network, task.dataset, task.dataset.validation, statistics)
    score = np.asarray([scores.accuracy, -scores.loss], np.float32)
    is_best = score.tolist() > np.asarray(state.best).tolist()
    if is_best:
        best_params = jax.tree.map(jnp.copy, state.params)
        best = replicate(jnp.asarray(score), task.mesh)
        state = state._replace(best_params=best_params, best=best)
    return state, {
        "validation_accuracy": scores.accuracy,
        "validation_loss": scores.loss,
        "best_so_far": is_best,
        **(plain(measure(network)) if measure else {}),
    }


@partial(
    jax.jit,
    static_argnames=("graph", "objective", "config", "steps_per_epoch", "moments"),
    donate_argnames=("params", "optimizer_state"),
)
def _step(
    key: jax.Array,
    params: Any,
    optimizer_state: Any,
    rest: Any,
    images: jax.Array,
    answers: Any,
    graph: Any,
    objective: Callable,
    config: LearnConfig,
    steps_per_epoch: int,
    moments: tuple[tuple[float, ...], tuple[float, ...]],
) -> tuple[Any, Any, jax.Array]:
    """One step on a batch of uint8 images [B, H, W, C]."""
    if config.augment:
        images = augment(key, images, padding=config.crop_padding, flip=config.flip)
    mean, std = (jnp.asarray(m, jnp.float32).reshape(1, 1, 1, -1) for m in moments)
    images = (images.astype(jnp.float32) / 255 - mean) / std

    def loss_of(params: Any) -> jax.Array:
        # A copy, since BatchNorm writes its statistics into variables of the trace outside.
        return objective(nnx.merge(graph, params, rest, copy=True), images, answers, config)

    loss, gradient = jax.value_and_grad(loss_of)(params)
    optimizer = make_optimizer(config, steps_per_epoch)
    updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, loss
