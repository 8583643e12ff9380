"""Learning: a network is trained on searched representations, or by SGD (paper 4.2, A.3).

Both go through one loop and differ in the objective alone. A network is any `nnx.Module` with
`representations(images) -> tuple of [B, ...]` and `head(last) -> logits [B, classes]`.
Letters: N training images, B images of a batch, L searched layers before the logits.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.tree_util import Partial

from dsl_jax.config import LearnConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.devices import on_one_device, replicate, share_batches, sharing, take
from dsl_jax.evolution.shared_targets import SharedTargets
from dsl_jax.keys import threefry_key
from dsl_jax.learning.batches import plan_batches
from dsl_jax.learning.checks import (
    check_arguments,
    check_finite,
    check_shared_targets,
    checked_targets,
    warn_of_other_images,
)
from dsl_jax.learning.evaluation import evaluate_images, with_training_statistics
from dsl_jax.learning.identity import identity_of
from dsl_jax.learning.objectives import sgd_objective, shared_objective, target_objective
from dsl_jax.learning.optimizer import (
    learning_rate,
    make_optimizer,
    rates_of,
    timing_of,
    without_rates,
)
from dsl_jax.learning.resident import has_room_for, on_device
from dsl_jax.learning.result import Checkpoints, LearnResult, Measure, OnEpoch, Record
from dsl_jax.learning.steps import Program, take_step, take_steps
from dsl_jax.networks.interface import in_mode, multiplying_in
from dsl_jax.networks.sampler import Sampler
from dsl_jax.plain_data import plain
from dsl_jax.progress import progress_bar

TargetsOf = Callable[[int, nnx.Module], Any]

STEPS_AT_ONCE = 600  # at most, where they are one program, after which the bar moves
STEPS_AHEAD = 2  # of which the batches are made while the device is busy


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
    on_epoch: OnEpoch | None = None,
    progress: bool | str = False,
) -> LearnResult:
    """Trains a copy of `network` on searched representations (paper 4.2).

    Args:
      key: a `jax.random` key; from a philox4x32 key a threefry2x32 key is derived.
      network: see the module; not changed.
      dataset: its training images have the targets; its validation images choose the epoch.
      targets: a `SearchResult` with a row for each training image, in order, or a `TargetStore`
        or `Overlay` that has the ids of all of them; or `SharedTargets` or a `Sampler`, of which a
        batch's are made as it comes, with `augment` of the augmented images; or a function that
        returns one of the first three for an epoch, such as `refreshed` does. It is called before
        each epoch, in every process, with the number of epochs done and a copy of the network, in
        evaluation mode, on one device. As a training may be interrupted, what it returns must
        depend on these alone.
      config: a `LearnConfig`; `variant` says which layers have a target.
      mesh: a mesh with the one axis "images": its devices share each batch equally, and BatchNorm
        sees the whole batch. It may span the processes of `jax.distributed`, each of which then
        calls this with the same arguments. None: one device. The batches are the same on any
        number of devices, the results but for rounding.
      checkpoints: where to keep and find the state of an interrupted training, which may go on
        with another number of devices.
      measure: called with the network after each validated epoch, in evaluation mode; what it
        returns joins the epoch's record. The network is gone when the next step begins.
      on_epoch: given each epoch's record, before the state is kept: those of epochs that an
        interruption lost come again.
      progress: show a bar of steps; a name: under this name.

    Returns:
      A `LearnResult`; BatchNorm statistics re-estimated over the training images. The network
      is on one device: the first of a mesh (of this process's).

    Raises:
      ValueError: targets are missing, or their shapes are not the network's; the network has
        dropout; the number of devices does not divide that of a batch's images; or the checkpoints
        are of another training.
      TypeError: the network lacks `representations` or `head`.
      FloatingPointError: the loss is not finite; names the step.
    """
    check_arguments(network, dataset, config, mesh)
    options = Options(mesh, checkpoints, measure, on_epoch, progress)
    if isinstance(targets, SharedTargets | Sampler):
        check_shared_targets(network, dataset, targets)
        objective = Partial(shared_objective, jax.device_put(targets))
        return _train(key, network, dataset, dataset.train.labels, objective, config, options)
    objective = Partial(target_objective)
    if callable(targets):
        return _train(key, network, dataset, None, objective, config, options, targets)
    answers = checked_targets(network, dataset, targets)
    warn_of_other_images(dataset, answers[-1])
    return _train(key, network, dataset, answers, objective, config, options)


def learn_sgd(
    key: jax.Array,
    network: nnx.Module,
    dataset: Dataset,
    config: LearnConfig,
    *,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
    measure: Measure | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool | str = False,
) -> LearnResult:
    """The baseline: the same loop, cross-entropy end to end (paper A.3); see `learn`."""
    check_arguments(network, dataset, config, mesh)
    options = Options(mesh, checkpoints, measure, on_epoch, progress)
    labels = dataset.train.labels
    return _train(key, network, dataset, labels, Partial(sgd_objective), config, options)


class Options(NamedTuple):
    """What does not change the result; see `learn`."""

    mesh: Mesh | None
    checkpoints: Checkpoints | None
    measure: Measure | None
    on_epoch: OnEpoch | None
    progress: bool | str


class Task(NamedTuple):
    """All that stays in training.

    graph: the network without its arrays, as it is evaluated; the program's is as it is trained.
    """

    graph: Any
    program: Program
    config: LearnConfig
    dataset: Dataset
    batches: np.ndarray  # rows [steps, B]
    objective: Partial
    answers: Any  # what the network should give: a pytree of arrays [N, ...]; None: not known yet
    rest: Any  # the network's arrays that are no parameters
    mesh: Mesh | None
    is_resident: bool  # images and answers lie on each device, which can take batches itself


class TrainState(NamedTuple):
    """All that changes in training; a pytree of arrays."""

    params: Any
    optimizer: Any
    best_params: Any
    best: jax.Array  # [2]: validation accuracy, minus validation loss


def _train(
    key: jax.Array,
    network: nnx.Module,
    dataset: Dataset,
    answers: Any,
    objective: Partial,
    config: LearnConfig,
    options: Options,
    targets_of: TargetsOf | None = None,
) -> LearnResult:
    """Epochs of training, each with its validation and its checkpoint.

    answers: as a `Task` has them; None: `targets_of` gives an epoch's.
    """
    key = threefry_key(key)
    epochs_key = jax.random.fold_in(key, 1)
    task, state = _begin(key, network, dataset, answers, objective, config, options.mesh)
    steps, history, checkpoints = len(task.batches), [], options.checkpoints
    if checkpoints is not None:
        identity = identity_of(key, nnx.state(network), dataset, answers, objective, config)
        state, history = checkpoints.restore(state, identity) or (state, [])
    bar = progress_bar(
        config.epochs * steps,
        done=len(history) * steps,
        unit="step",
        description=options.progress if isinstance(options.progress, str) else "learn",
        show=bool(options.progress),
    )
    with bar:
        for epoch in range(len(history), config.epochs):
            started = time.monotonic()
            if targets_of is not None:
                task = task._replace(answers=None)  # gives their memory to the search
                task = _with_new_targets(task, state, epoch, targets_of)
            epoch_key = jax.random.fold_in(epochs_key, epoch)
            state, record = _run_epoch(epoch_key, task, state, epoch, options.measure, bar)
            record["seconds"] = time.monotonic() - started
            history.append(record)
            if options.on_epoch is not None:
                options.on_epoch(record)
            if checkpoints is not None:
                is_last = epoch + 1 == config.epochs
                checkpoints.save(epoch + 1, state, history, identity, is_last)
    best = nnx.merge(task.graph, state.best_params, task.rest)
    best = with_training_statistics(best, dataset, task.batches.ravel())
    graph, weights = nnx.split(best)
    return LearnResult(nnx.merge(graph, on_one_device(weights)), history)


def _begin(
    key: jax.Array,
    network: nnx.Module,
    dataset: Dataset,
    answers: Any,
    objective: Partial,
    config: LearnConfig,
    mesh: Mesh | None,
) -> tuple[Task, TrainState]:
    """What is trained on what, in which batches; and the state before the first epoch."""
    count, batches_key = len(dataset.train.images), jax.random.fold_in(key, 0)
    batches = plan_batches(batches_key, count, config.batch_size, config.batch_multiple)
    trained = in_mode(network, training=True)
    graph, *states = nnx.split(trained, nnx.Param, ...)
    params, rest = states
    stepped = nnx.graphdef(multiplying_in(trained, config.compute_dtype))
    timing = timing_of(config, len(batches))
    task = Task(
        graph=graph,
        program=Program(stepped, without_rates(config), timing, dataset.mean, dataset.std),
        config=config,
        dataset=dataset,
        batches=batches,
        objective=replicate(objective, mesh),
        answers=None,
        rest=replicate(rest, mesh),
        mesh=mesh,
        is_resident=False,
    )
    # Copies: a step gives its state's memory away, and the network passed in keeps its own.
    state = TrainState(
        params=jax.tree.map(jnp.copy, params),
        optimizer=make_optimizer(rates_of(config), timing).init(params),
        best_params=jax.tree.map(jnp.copy, params),
        best=jnp.full(2, -jnp.inf, jnp.float32),
    )
    state = replicate(state, mesh)
    return task if answers is None else _with_answers(task, state, answers), state


def _with_answers(task: Task, state: TrainState, answers: Any) -> Task:
    """The task with what the network should give; on the devices, where these have room for it, and
    are this process's own."""
    dataset = task.dataset
    data = (dataset.train.images, dataset.validation.images, answers)
    place = jax.tree.leaves(state.params)[0].sharding
    is_resident = task.is_resident or (  # once decided it stays
        place.is_fully_addressable and has_room_for(data, place)
    )
    if is_resident:
        dataset, answers = on_device(dataset, answers, place)
    return task._replace(dataset=dataset, answers=answers, is_resident=is_resident)


def _with_new_targets(task: Task, state: TrainState, epoch: int, targets_of: TargetsOf) -> Task:
    """The task with an epoch's own targets, of the network as it is before it."""
    graph, weights = nnx.split(_as_it_is(task, state))
    weights = jax.tree.map(jnp.copy, on_one_device(weights))  # the next step gives its own away
    network = nnx.merge(graph, weights)
    targets = targets_of(epoch, network)
    return _with_answers(task, state, checked_targets(network, task.dataset, targets))


def _as_it_is(task: Task, state: TrainState) -> nnx.Module:
    """The network in evaluation mode, with the statistics of some training images."""
    few = task.batches.ravel()[: task.config.statistics_images]
    network = nnx.merge(task.graph, state.params, task.rest)
    return with_training_statistics(network, task.dataset, few)


def _run_epoch(
    key: jax.Array,
    task: Task,
    state: TrainState,
    epoch: int,
    measure: Measure | None,
    bar: Any,
) -> tuple[TrainState, Record]:
    """One epoch, counted from 0, and its validation where one is due; the state, its record."""
    config, steps = task.config, len(task.batches)
    state, losses = _run_batches(key, task, state, bar)
    check_finite(losses, epoch, steps)
    schedule = learning_rate(rates_of(config), task.program.timing)
    record: Record = {
        "epoch": epoch + 1,
        "images": task.batches.size,
        "train_loss": float(losses.mean()),
        "learning_rate": float(schedule((epoch + 1) * steps - 1)),
    }
    if epoch + 1 == config.epochs or (epoch + 1) % config.validate_every == 0:
        state, scores = _validate(task, state, measure)
        record |= scores
        accuracy = f"{record['validation_accuracy']:.2%}"
        bar.set_postfix(refresh=False, loss=f"{record['train_loss']:.4g}", validation=accuracy)
    return state, record


def _run_batches(
    key: jax.Array, task: Task, state: TrainState, bar: Any
) -> tuple[TrainState, np.ndarray]:
    """All batches once, in a new order; the state after them, and their losses."""
    order_key, step_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, len(task.batches)))
    params, optimizer, losses = state.params, state.optimizer, []
    data, rest = (task.dataset.train.images, task.answers), task.rest
    settings = rates_of(task.config), task.program
    if task.is_resident:
        for numbers in np.array_split(order, -(-len(order) // STEPS_AT_ONCE)):
            batches = (numbers, share_batches(task.batches[numbers], task.mesh))
            with sharing(task.mesh):
                params, optimizer, some = take_steps(
                    step_key, params, optimizer, rest, task.objective, data, batches, *settings
                )
            losses.append(np.asarray(some))  # so that the bar waits for what it shows
            bar.update(len(numbers))
        return state._replace(params=params, optimizer=optimizer), np.concatenate(losses)
    for number in order:
        rows = task.batches[number]
        number_key = jax.random.fold_in(step_key, number)
        some, theirs = jax.tree.map(lambda array: take(array, rows, task.mesh), data)
        with sharing(task.mesh):
            params, optimizer, loss = take_step(
                number_key, params, optimizer, rest, task.objective, some, theirs, *settings
            )
        losses.append(loss)
        if len(losses) > STEPS_AHEAD:  # or batches would pile up on the device
            jax.block_until_ready(losses[-1 - STEPS_AHEAD])
        bar.update()
    return state._replace(params=params, optimizer=optimizer), np.asarray(losses)


def _validate(task: Task, state: TrainState, measure: Measure | None) -> tuple[TrainState, Record]:
    """Scores on the validation images; the state keeps the best parameters so far.

    Higher accuracy wins, between equals the lower loss.
    """
    config = task.config
    if measure or config.evaluation_statistics == "train":
        network = _as_it_is(task, state)
    else:  # a batch's own statistics are used
        network = nnx.merge(task.graph, state.params, task.rest)
    scores = evaluate_images(
        network, task.dataset, task.dataset.validation, config.evaluation_statistics
    )
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
        **(_measured(measure, network) if measure else {}),
    }


def _measured(measure: Measure, network: nnx.Module) -> Record:
    """What a user's measure adds to a record. Raises TypeError where that is no dict."""
    found = measure(network)
    if not isinstance(found, dict):
        raise TypeError(
            f"measure returned a {type(found).__name__}: return a dict of names and numbers, which "
            "joins the epoch's record"
        )
    return plain(found)
