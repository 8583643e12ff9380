"""Rows: how many images a batch of training holds, and which; where an image stands."""

import jax
import numpy as np


def exact_batch_size(num_images: int, batch_size: int, multiple: int = 1) -> int:
    """B, the number of images in every batch: a multiple of `multiple`.

    B is near batch_size (within 10 %, or the images in equal parts) and leaves the fewest images
    out; fewer images than batch_size make one batch. Where none of these is a multiple, B is the
    multiple nearest to batch_size.

    Raises:
      ValueError: fewer images than `multiple`.
    """
    if num_images < multiple:
        raise ValueError(
            f"batch_multiple is {multiple}, but there are {num_images} training images: "
            "a batch needs at least so many"
        )
    batch_size = min(batch_size, num_images)
    near = range(max(1, round(0.9 * batch_size)), min(num_images, round(1.1 * batch_size)) + 1)
    sizes = [*near]
    if num_images < 10 * batch_size:  # of few batches none near may leave out as few as equal parts
        sizes.append(num_images // round(num_images / batch_size))
    sizes = [size for size in sizes if size % multiple == 0]
    if sizes:
        return min(sizes, key=lambda b: (num_images % b, abs(b - batch_size)))
    below = batch_size // multiple * multiple
    possible = [size for size in (below, below + multiple) if 0 < size <= num_images]
    return min(possible, key=lambda b: abs(b - batch_size))


def plan_batches(key: jax.Array, num_images: int, batch_size: int, multiple: int = 1) -> np.ndarray:
    """Rows [steps, B] of each batch, the same in every epoch (paper A.3); `exact_batch_size`."""
    size = exact_batch_size(num_images, batch_size, multiple)
    rows = np.asarray(jax.random.permutation(key, num_images))
    steps = num_images // size
    return rows[: steps * size].reshape(steps, size)
