"""The smallest run that goes through every phase, for tests of what may happen to one."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image

import dsl_jax as dsl
from dsl_jax import pipeline
from dsl_jax.config import LayerSchedule, RunConfig

LAYERS = tuple(LayerSchedule(n, 0.2) for n in (1, 1, 0, 1))


def tiny_data() -> dsl.Dataset:
    return dsl.load_dataset("digits", num_train=60, validation_size=20)


def tiny_config() -> RunConfig:
    config = dsl.get_preset("smoke", "digits")
    search = dataclasses.replace(
        config.search, layers=LAYERS, num_parents=3, num_explorers=4, num_refiners=6
    )
    learn, sgd = (dataclasses.replace(c, epochs=4) for c in (config.learn, config.sgd))
    return dataclasses.replace(
        config,
        widths=(4, 4, 4),
        num_train=60,
        validation_size=20,
        search=search,
        learn=learn,
        sgd=sgd,
        variants=("all_layers", "sgd"),
        sgd_groups=(1,),
        chunk_size=16,
    )


@contextlib.contextmanager
def empty_pictures():
    """Figures are saved as one pixel: drawing them takes seconds, and other tests look at them."""

    def save(figure, file):
        Image.new("RGB", (1, 1)).save(file, "png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


def finish(config, folder, data, **options):
    """Runs it, or goes on with it, on one device, quietly and without pictures; its results."""
    with pytest.MonkeyPatch.context() as patch, empty_pictures():  # `one_device` is each test's
        patch.setattr(pipeline, "device_mesh", lambda *_: None)
        return dsl.run(config, folder, data, probes=False, progress=False, **options)


def weights(folder):
    """The parameters and statistics of a run's networks."""
    found = dsl.load_run(folder).networks
    return {name: jax.tree.map(np.asarray, nnx.state(n)) for name, n in found.items()}


def scores(results):
    """What of results must be the same in every run."""
    return {
        name: (row.test_accuracy, row.test_loss, row.validation_accuracy)
        for name, row in results.items()
    }
