"""Data that stay on the devices for the whole of a training.

On an accelerator a step of a small network takes less time than the host needs to gather its batch
and hand it over. Where the data take up little of the memory they are moved once, to each device.
"""

import dataclasses
from typing import Any

import jax

from dsl_jax.data.dataset import Dataset

SHARE = 0.25  # of the memory that is free: a batch's activations and gradients need the rest


def has_room_for(arrays: Any, device: jax.Device) -> bool:
    """Whether arrays, a pytree, take up no more than `SHARE` of what is free of a device's memory.

    Those of JAX are taken to lie there already. Never of a CPU, whose memory is the host's, nor of
    a device that does not tell.
    """
    if device.platform == "cpu":
        return False
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    new = (x for x in jax.tree.leaves(arrays) if not isinstance(x, jax.Array))
    return sum(array.nbytes for array in new) <= SHARE * free


def on_device(
    dataset: Dataset, answers: Any, place: jax.Device | jax.sharding.Sharding
) -> tuple[Dataset, Any]:
    """The images to train on and to validate on, and the answers, on a device or several."""
    train, validation = (
        split._replace(images=jax.device_put(split.images, place))
        for split in (dataset.train, dataset.validation)
    )
    dataset = dataclasses.replace(dataset, train=train, validation=validation)
    return dataset, jax.device_put(answers, place)
