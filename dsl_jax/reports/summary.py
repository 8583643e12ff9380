"""From a run's folder to its report: the table, the figures, the times."""

import os
from pathlib import Path
from typing import Any

from dsl_jax.config import RunConfig, to_dict
from dsl_jax.data.dataset import Dataset
from dsl_jax.devices import environment
from dsl_jax.files import replacing
from dsl_jax.reports import pictures, plots
from dsl_jax.reports.dark import in_dark
from dsl_jax.reports.finding import best_method, finding
from dsl_jax.reports.intervals import of_accuracy
from dsl_jax.reports.pages import Report, Row
from dsl_jax.reports.searched import AboutSearch, about_search
from dsl_jax.reports.titles import CONTROLLED, KINDS, of_first_seed, row_of, training_title
from dsl_jax.runs.data import check_identity
from dsl_jax.runs.folder import read_predictions, search_seconds
from dsl_jax.runs.results import Result, read_trained
from dsl_jax.runs.steps import COSINE, is_searched, trainings

NOTES = {"smoke": "The preset smoke only checks that all works: its accuracies say nothing else."}


def summarize(
    config: RunConfig,
    folder: str | os.PathLike,
    dataset: Dataset,
    results: dict[str, Result],
    *,
    notice: str | None = None,
    command: str = "",
) -> Report:
    """Draws a finished run's figures into its folder and gathers its report.

    Args:
      config: the run's configuration.
      folder: its folder.
      dataset: its data.
      results: what `pipeline.run` returned.
      notice: what a reader must not miss.
      command: what repeats the run.

    Raises:
      ValueError: the run is on other data; what differs is named.
    """
    folder = Path(folder)
    check_identity(folder, dataset)
    first = folder / f"seed_{config.seed}"
    trained = {
        training_title(step.name, step, config.cycles): done
        for step in trainings(config)
        if (done := read_trained(first / step.name)) is not None
    }
    rows = [_row(name, result, config, dataset) for name, result in results.items()]
    rows += _rows_without_test(config, folder, results)
    histories = {title: done.history for title, done in trained.items()}
    trained_rows = [row for row in rows if row.groups is not None]  # a probe would take the axis
    figures = {
        "accuracy": (plots.plot_accuracy(trained_rows), "Test accuracy."),
        "learning": (
            plots.plot_learning(histories),
            f"Learning: training loss and validation accuracy{of_first_seed(config)}.",
        ),
    }
    found = AboutSearch({}, (), ())
    timings = [(f"training {t}, seed {config.seed}", d.seconds) for t, d in trained.items()]
    if is_searched(config):
        found = about_search(config, folder, dataset, best_method(results))
        figures |= found.figures
        seconds = sum(search_seconds(folder, seed) for seed in config.seeds)
        timings.insert(0, ("search, compilation included, all seeds", seconds))
    figures |= _mistakes(config, folder, dataset, results)
    for name, (figure, _) in figures.items():
        with replacing(folder / f"{name}.png") as file:
            figure.savefig(file)
        figure.set_layout_engine("none")  # what is laid out stays where it is
        with replacing(folder / f"{name}-dark.png") as file:
            in_dark(figure).savefig(file)
    left_out = max(done.images_left_out for done in trained.values())
    return Report(
        title=f"{dataset.title}: searched representations against SGD ({config.name})",
        notices=tuple(filter(None, (notice, NOTES.get(config.name)))),
        finding=finding(config, folder, dataset, results),
        command=command,
        summary=(
            ("dataset", dataset.title),
            ("training images", f"{len(dataset.train.images):,}"),
            ("validation images", f"{len(dataset.validation.images):,}"),
            ("test images", f"{len(dataset.test.images):,}"),
            ("preset", config.name),
            ("seeds", ", ".join(map(str, config.seeds))),
            ("network", f"widths {'-'.join(map(str, config.widths))}, G = {config.learner_groups}"),
            ("training images in no batch, since all are of one size", str(left_out)),
            *found.summary,
        ),
        rows=tuple(rows),
        tables=found.tables,
        figures=tuple((caption, f"{name}.png") for name, (_, caption) in figures.items()),
        timings=tuple(timings),
        settings=to_dict(config),
        environment=environment(),
    )


def _rows_without_test(config: RunConfig, folder: Path, results: dict[str, Result]) -> list[Row]:
    """What was trained and not compared: an SGD whose G is neither the learner's nor the best, and
    cosines that were not chosen."""
    rows = []
    for step in trainings(config):
        done = [read_trained(folder / f"seed_{seed}" / step.name) for seed in config.seeds]
        found = [one for one in done if one is not None]
        if step.name not in results and found:
            row = Row(
                training_title(step.name, step, config.cycles),
                "not the best by validation: its test images were not looked at",
                groups=step.groups,
                test_accuracy=(),
                validation_accuracy=tuple(one.validation_accuracy for one in found),
                test_loss=(),
                seconds=sum(one.seconds for one in found),
                is_reference=True,
            )
            rows.append(row)
    return rows


def _mistakes(
    config: RunConfig, folder: Path, dataset: Dataset, results: dict[str, Result]
) -> dict[str, tuple[Any, str]]:
    """What the best method by validation takes for what, with the first seed."""
    name = best_method(results)
    path = folder / f"seed_{config.seed}" / str(name)
    predictions = None if name is None else read_predictions(path)
    if name is None or predictions is None:  # SGD alone, or a run from before they were kept
        return {}
    title = training_title(name, results[name], config.cycles)
    labels, names = dataset.test.labels, dataset.class_titles
    figures = {
        "confusion": (
            pictures.plot_confusion(labels, predictions, names),
            f"{title}, seed {config.seed}: how often a class is taken for another, in percent.",
        )
    }
    if (predictions != labels).any():
        figures["mistakes"] = (
            pictures.plot_mistakes(dataset.test.images, labels, predictions, names),
            f"{title}, seed {config.seed}: the first test images that it gets wrong.",
        )
    return figures


def _description(name: str, result: Result, config: RunConfig) -> str:
    """A sentence for the report's readers."""
    name, _, cosine = name.partition(COSINE)
    if cosine:
        return f"{_description(name, result, config)}; the cosine is the best by validation"
    if row := row_of(name):
        return row[1]
    if result.kind in (known := KINDS | CONTROLLED):
        return known[result.kind][1]
    paired = result.groups == config.learner_groups
    best = result.best_by_validation and len({config.learner_groups, *config.sgd_groups}) > 1
    return " and ".join(
        ["the learner's own network"] * paired + ["the best G by validation"] * best
    )


def _row(name: str, result: Result, config: RunConfig, dataset: Dataset) -> Row:
    interval = None
    if len(result.test_accuracy) == 1:
        interval = of_accuracy(result.test_accuracy[0], len(dataset.test.images))[1:]
    return Row(
        name=training_title(name, result, config.cycles),
        description=_description(name, result, config),
        groups=result.groups,
        test_accuracy=result.test_accuracy,
        validation_accuracy=result.validation_accuracy,
        test_loss=result.test_loss,
        seconds=result.seconds,
        is_reference=result.role != "method",
        candidates=result.candidates,
        search_seconds=result.search_seconds,
        interval=interval,
    )
