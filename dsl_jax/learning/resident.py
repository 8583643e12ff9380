"""Data that stay on the device for the whole of a training.

On an accelerator a step of a small network takes less time than the host needs to gather its batch
and hand it over. Where all of the data fit beside the network they are moved once.
"""

import dataclasses
from typing import Any

import jax

from dsl_jax.data.dataset import Dataset


def has_room_for(arrays: Any) -> bool:
    """Whether arrays on the host, a pytree, take up less than half of the device's free memory.

    Never of a CPU, whose memory is the host's.
    """
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    return device.platform != "cpu" and sum(x.nbytes for x in jax.tree.leaves(arrays)) < free / 2


def with_resident_images(dataset: Dataset) -> Dataset:
    """The dataset, its images to train on and to validate on moved to the device."""
    train, validation = (
        split._replace(images=jax.device_put(split.images))
        for split in (dataset.train, dataset.validation)
    )
    return dataclasses.replace(dataset, train=train, validation=validation)
