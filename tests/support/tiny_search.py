"""Flags of the smallest runs that go through every layer, for the experiments' tests."""

TINY_SEARCH = [
    "--dataset=digits",
    "--preset=smoke",
    "--config.widths=(4,4,4)",
    "--config.search.num_explorers=4",
    "--config.search.num_refiners=6",
    "--config.search.num_parents=3",
    "--config.search.layers[0].generations=2",
    "--config.search.layers[1].generations=1",
    "--config.search.layers[2].generations=0",
]

TINY_RUN = [
    *TINY_SEARCH,
    "--num_train=60",
    "--config.validation_size=20",
    "--config.search.layers[3].generations=1",
    "--config.learn.epochs=2",
    "--config.sgd.epochs=2",
]

TRAINING = ("--config.learn.", "--config.sgd.")
TINY_SEARCHES = [flag for flag in TINY_RUN if not flag.startswith(TRAINING)]  # and no training
TINY_FITNESS = [  # of fitness_scaling.py, which sets the sizes of a search itself
    *(flag for flag in TINY_SEARCHES if "search" not in flag),
    "--sweep.num_images=5",
]

TINY_MAIN = [
    *TINY_SEARCH,
    "--num_train=90",
    "--config.validation_size=30",
    "--config.learn.epochs=3",
    "--config.sgd.epochs=3",
    "--config.sgd_groups=(1,2)",
    "--config.chunk_size=16",
]
