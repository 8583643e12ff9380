"""A job: processes that `jax.distributed` has joined, and that all run the same program.

They search and learn together. What else a run does, one does for all: the first. A process alone
is the first, and waits for nobody.
"""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process does what one does for all: writes, evaluates, draws."""
    return jax.process_index() == 0


def first_says(question: Callable[[], bool]) -> bool:
    """The first process's answer, which all then have; the others wait for it.

    Two processes that look at a disk, or at a clock, need not see the same.
    """
    if jax.process_count() == 1:
        return question()
    answer = np.asarray(is_first() and question())
    return bool(multihost_utils.broadcast_one_to_all(answer))


def wait_for_first(what: str) -> None:
    """Waits until all processes are here, so that the first has done what comes before."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
