"""The table and the picture of trainings on more and more images."""

import numpy as np
from matplotlib.figure import Figure

from common import curves, sweep_rows
from common.methods import CONTROLS, SGD, method_title
from common.predictions import in_text, minus, over


def best_by_validation(rows: sweep_rows.Rows) -> sweep_rows.Rows:
    """The rows of the method that is best by validation, of those that ended for most seeds; none
    of none."""
    methods = [sweep_rows.select(rows, method=x) for x in sweep_rows.values_of(rows, "method")]

    def validation(ours: sweep_rows.Rows) -> tuple[int, float]:
        return len(ours), float(np.mean([row["validation_accuracy"] for row in ours]))

    return max(methods, key=validation, default=[])


def table(rows: sweep_rows.Rows) -> str:
    """A line a size and method."""
    lines = []
    probes = {"train_accuracy": "training images", "new_head_accuracy": "new head"}
    probes = {column: title for column, title in probes.items() if column in rows[0]}
    for size in sorted(sweep_rows.values_of(rows, "size")):
        here = sweep_rows.select(rows, size=size)
        sgd = best_by_validation([row for row in here if row["method"] in SGD])
        best = sgd[0]["method"] if sgd else None
        for title in sweep_rows.values_of(here, "title"):
            ours = sweep_rows.select(here, title=title)
            name, variant = ours[0]["method"], ours[0]["variant"]
            trained = (
                sweep_rows.select(here, method=control, variant=variant)
                for control in CONTROLS.get(name, ())
            )
            control = next(filter(None, trained), [])
            lines.append(
                [
                    size,
                    title,
                    sweep_rows.mean_percent(ours, "test_accuracy"),
                    sweep_rows.mean_percent(ours, "validation_accuracy"),
                    in_text(minus(ours, control)) if control else "",
                    "" if name == best else in_text(minus(ours, sgd)),
                    *(sweep_rows.mean_percent(ours, column) for column in probes),
                ]
            )
    header = ["images", "learned", "test", "validation", "minus control", "minus SGD"]
    header += probes.values()
    return (
        "Accuracies in percent, mean ± standard deviation over seeds. Differences of test accuracy "
        f"in points, with their 95 % interval over {over(rows)}; from a method's control "
        "with the same layers (searched targets: permuted ones; again, cross fitted, started: "
        "theirs, permuted; class part and per class: the random code; sampler: class part), and "
        "from SGD with the G that is best by validation at that size.\n\n"
        + sweep_rows.markdown(header, lines)
    )


def draw(rows: sweep_rows.Rows) -> dict[str, tuple[Figure, str]]:
    """Accuracy against the number of images: a panel a variant, a line a method, SGD in each."""
    percent = [row | {"percent": 100 * row["test_accuracy"]} for row in rows]
    panels = []
    for variant in sweep_rows.values_of(rows, "variant"):
        if variant:
            shown = [row for row in percent if row["variant"] in ("", variant)]
            lines = {
                method_title(method): sweep_rows.curve(
                    sweep_rows.select(shown, method=method), "size", "percent"
                )
                for method in sweep_rows.values_of(shown, "method")
            }
            title = variant.replace("_", " ")
            panels.append(
                curves.Panel(lines, "training images", "test accuracy, %", title, x_scale="log")
            )
    caption = f"Test accuracy, {rows[0]['dataset']}, {sweep_rows.seeds_note(rows)}."
    return {"full_data": (curves.plot_curves(panels), caption)} if panels else {}
