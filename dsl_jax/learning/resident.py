"""Data that stay on the devices for the whole of a training.

On an accelerator a step of a small network takes less time than the host needs to gather its batch
and hand it over. Where the data take up little of the memory they are moved once, to each device.
"""

import dataclasses
from typing import Any

import jax
from jax.sharding import Sharding

from dsl_jax.data.dataset import Dataset

SHARE = 0.25  # of the memory that is free: a batch's activations and gradients need the rest


def has_room_for(arrays: Any, place: Sharding) -> bool:
    """Whether arrays, a pytree, whole on each device of a place, take up no more than `SHARE` of
    what is free of its memory.

    Never of a CPU, whose memory is the host's, nor of a device that does not tell.
    """

    def free(device: Any) -> int:
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)

    devices: Any = place.addressable_devices
    if any(device.platform == "cpu" for device in devices):
        return False
    size = sum(array.nbytes for array in jax.tree.leaves(arrays))
    return size <= SHARE * min(map(free, devices))


def on_device(dataset: Dataset, answers: Any, place: Sharding) -> tuple[Dataset, Any]:
    """The images to train on and to validate on, and the answers, at a place."""
    train, validation = (
        split._replace(images=jax.device_put(split.images, place))
        for split in (dataset.train, dataset.validation)
    )
    dataset = dataclasses.replace(dataset, train=train, validation=validation)
    return dataset, jax.device_put(answers, place)
