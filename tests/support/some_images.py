"""Random images and labels, for tests of datasets and of where they come from."""

import numpy as np


def some_arrays(num=100, shape=(6, 5, 3), num_classes=7, seed=0):
    """Random images whose channels differ in mean and spread, so that mix-ups show."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, *shape)) // np.arange(1, shape[-1] + 1) + 10
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num)])[:num]
    return images.clip(0, 255).astype(np.uint8), labels
