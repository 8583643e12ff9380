"""A whole run and its report, in one call: what `dsl_jax.run` and `experiments/main.py` do."""

import os
from collections.abc import Sequence
from pathlib import Path

from dsl_jax import pipeline
from dsl_jax.config import RunConfig
from dsl_jax.data.dataset import Dataset
from dsl_jax.jobs import is_first, wait_for_first
from dsl_jax.runs.data import load_run_data
from dsl_jax.runs.loggers import Logger
from dsl_jax.runs.results import Result


def run(
    config: RunConfig,
    folder: str | os.PathLike,
    dataset: Dataset | None = None,
    *,
    notice: str | None = None,
    command: str = "",
    requested: str | None = None,
    phase: str = "all",
    repair: bool = False,
    probes: bool = True,
    progress: bool = True,
    loggers: Sequence[Logger] = (),
) -> dict[str, Result]:
    """Searches, trains and compares as `config` says, and writes report.html into `folder`.

    All is kept in the folder: the same call goes on where it was interrupted.

    Args:
      config: what to run, such as `get_preset("laptop", dataset)`.
      folder: the run's folder; made if it is not there.
      dataset: the data, which may be one's own; None: loaded as the configuration says.
      notice: what readers of the report must not miss.
      command: the command line that repeats the run, for the report.
      requested, phase, repair, probes, progress, loggers: as in `pipeline.run`.

    Returns:
      The results by name of training; empty, and no report, after the phases "search" and "learn"
      unless the run had ended before.

    Raises:
      ValueError: as `pipeline.run`.
    """
    from dsl_jax.reports import pages, summary  # matplotlib, which a search does not need

    folder = Path(folder).expanduser()
    if dataset is None:
        dataset = load_run_data(folder, config)
    results = pipeline.run(
        config,
        folder,
        dataset,
        requested=requested,
        phase=phase,
        repair=repair,
        probes=probes,
        progress=progress,
        loggers=loggers,
    )
    if results and is_first():
        report = summary.summarize(config, folder, dataset, results, notice=notice, command=command)
        pages.write_report(report, folder)
    wait_for_first("report")
    return results
