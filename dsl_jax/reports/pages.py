"""The report of a run: one page of Markdown, and one of HTML that holds everything it shows.

`Report` is plain data. Both pages give the same facts in the same order; the HTML page has its
figures inside and loads nothing, so it can be sent as one file.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np

from dsl_jax.files import write_text


@dataclass(frozen=True)
class Row:
    """One line of the table of results: a way of training, over one or more seeds.

    description: a sentence for readers; may be empty.
    groups: G, ConvGroups in a block; None where it means nothing.
    test_accuracy, validation_accuracy: fractions between 0 and 1, one for each seed.
    test_loss: cross-entropy in nats, one for each seed. Of the three any may be empty: not known.
    seconds: time that its training took, all seeds together.
    candidates, search_seconds: what was searched for it, all seeds together.
    is_reference: a number to compare with, not one of this run's subjects.
    interval: where the test accuracy of one seed lies over other test images; None: not known.

    Raises:
      ValueError: an accuracy that is not a fraction, or values for different numbers of seeds.
    """

    name: str
    description: str
    groups: int | None
    test_accuracy: tuple[float, ...]
    validation_accuracy: tuple[float, ...]
    test_loss: tuple[float, ...]
    seconds: float
    is_reference: bool = False
    candidates: int = 0
    search_seconds: float = 0.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for what in ("test_accuracy", "validation_accuracy"):
            for value in getattr(self, what):
                if not 0 <= value <= 1:
                    raise ValueError(
                        f"{what} of {self.name!r} is {value}: give a fraction between 0 and 1"
                    )
        counts = len(self.test_accuracy), len(self.validation_accuracy), len(self.test_loss)
        if len(set(counts) - {0}) > 1:
            raise ValueError(
                f"{self.name!r} has {counts} values of test_accuracy, validation_accuracy and "
                "test_loss: give one for each seed, or none"
            )

    @property
    def num_seeds(self) -> int:
        """How many seeds the numbers come from; 0 when there are none."""
        return max(len(self.test_accuracy), len(self.validation_accuracy), len(self.test_loss))


@dataclass(frozen=True)
class Table:
    """A table with a heading of its own, and a text that says what it means."""

    heading: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    text: str


@dataclass(frozen=True)
class Report:
    """What a run did and what came out.

    notices: what a reader must not miss, such as a dataset that was put in another's place.
    finding: what came out and how sure it is, in a sentence or two.
    command: the command line that repeats the run.
    tables: what stands between results and figures.
    summary: (label, value) pairs: dataset, sizes, preset, number of candidates, ...
    figures: (caption, file name of a PNG in the report's folder) pairs; beside NAME.png there may
      be a NAME-dark.png, for dark screens.
    timings: (stage, seconds) pairs.
    settings: the configuration, nested plain data.
    environment: versions, device, ...; plain data.
    """

    title: str
    notices: tuple[str, ...] = ()
    finding: str = ""
    command: str = ""
    summary: tuple[tuple[str, Any], ...] = ()
    rows: tuple[Row, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    timings: tuple[tuple[str, float], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)


def write_report(report: Report, folder: str | os.PathLike) -> tuple[Path, Path]:
    """Writes report.md and report.html into `folder`, each replaced whole or not at all.

    Returns:
      The two paths.

    Raises:
      FileNotFoundError, ValueError: a figure is missing or is no PNG; nothing is written then.
    """
    folder = Path(folder)
    # The Markdown last: where it is, the run counts as finished.
    pages = {"report.html": to_html(report, folder), "report.md": to_markdown(report)}
    for name, text in pages.items():
        write_text(folder / name, text)
    return folder / "report.md", folder / "report.html"


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown; figures are links to files beside it."""
    blocks = [f"# {_md(report.title)}"]
    blocks += [f"> [!WARNING]\n> **Notice:** {_md(notice)}" for notice in report.notices]
    if report.finding:
        blocks.append(_md(report.finding))
    blocks.append("## Results")
    if report.rows:
        header, lines = _results(report.rows)
        named = [(f"{name}: {text}" if text else name, *rest) for name, text, *rest in lines]
        blocks += [markdown_table(header, named), _md(_explain(report.rows))]
    else:
        blocks.append("No results yet.")
    for table in report.tables:
        blocks += [f"## {_md(table.heading)}", _md(table.text)]
        blocks.append(markdown_table(table.header, table.lines))
    if report.figures:
        blocks.append("## Figures")
        for caption, name in report.figures:
            blocks.append(f"![{_md(caption)}]({quote(name)})\n\n{_md(caption)}")
    if report.command or report.summary:
        blocks.append("## Run")
    if report.command:
        blocks.append(_md_fence(report.command, "sh"))
    if report.summary:
        blocks.append(markdown_table(("", ""), report.summary))
    if report.timings:
        blocks += ["## Time", markdown_table(("stage", "time"), _timing_cells(report.timings))]
    for heading, values in (("Settings", report.settings), ("Environment", report.environment)):
        if values:
            blocks += [f"## {heading}", _md_fence(_json(values), "json")]
    return "\n\n".join(blocks) + "\n"


def to_html(report: Report, folder: str | os.PathLike) -> str:
    """The report as one self-contained HTML page.

    Args:
      report: what to show.
      folder: where the figures' PNG files are; they are put into the page.

    Raises:
      FileNotFoundError: a figure is not in the folder.
      ValueError: a figure is no PNG file.
    """
    parts = [f"<h1>{escape(report.title)}</h1>"]
    parts += [
        f'<p class="notice" role="note"><strong>Notice:</strong> {escape(notice)}</p>'
        for notice in report.notices
    ]
    if report.finding:
        parts.append(f'<p class="finding">{escape(report.finding)}</p>')
    parts.append("<h2>Results</h2>")
    if report.rows:
        parts.append(_html_results(report.rows))
        parts.append(f'<p class="small">{escape(_explain(report.rows))}</p>')
    else:
        parts.append("<p>No results yet.</p>")
    for table in report.tables:
        parts += [f"<h2>{escape(table.heading)}</h2>", f"<p>{escape(table.text)}</p>"]
        parts.append(_html_table(table.header, table.lines))
    if report.figures:
        parts.append("<h2>Figures</h2>")
        parts += [_html_figure(caption, Path(folder) / name) for caption, name in report.figures]
    parts += [_html_folded(heading, body) for heading, body in _html_details(report) if body]
    page = Template((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))
    return page.substitute(title=escape(report.title), body="\n".join(parts))


# --------------------------------------------------------------------------------------------
# Cells, the same in both pages
# --------------------------------------------------------------------------------------------

_NOTHING = ("n/a", "none", "1 seed")  # a column that says nothing else is left out


def _results(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header, and for each row name, description, and a text for each further column."""
    cells = [_result_cells(row) for row in rows]
    kept = [name for name in cells[0] if any(row[name] not in _NOTHING for row in cells)]
    lines = [
        (
            f"{row.name} (reference)" if row.is_reference else row.name,
            row.description,
            *(texts[name] for name in kept),
        )
        for row, texts in zip(rows, cells, strict=True)
    ]
    return ("method", *kept), lines


def _result_cells(row: Row) -> dict[str, str]:
    """From a column's heading to its text."""
    accuracy = mean_and_deviation([100 * a for a in row.test_accuracy], 2, " %")
    if row.interval is not None:
        accuracy += " ({:.2f} to {:.2f})".format(*(100 * x for x in row.interval))
    return {
        "test accuracy": accuracy,
        "training": _duration(row.seconds),
        "search": _duration(row.search_seconds) if row.candidates else "none",
        "candidates": f"{row.candidates:,}" if row.candidates else "none",
        "G": "n/a" if row.groups is None else str(row.groups),
        "validation accuracy": mean_and_deviation(
            [100 * a for a in row.validation_accuracy], 2, " %"
        ),
        "test loss": mean_and_deviation(row.test_loss, 4),
        "seeds": f"{row.num_seeds} seed{'' if row.num_seeds == 1 else 's'}"
        if row.num_seeds
        else "n/a",
    }


def mean_and_deviation(values: Sequence[float], digits: int, unit: str = "") -> str:
    """Mean ± sample standard deviation over the seeds, or the one value there is."""
    if not values:
        return "n/a"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}{unit}"


def _explain(rows: Sequence[Row]) -> str:
    text = (
        "Accuracies: of the epoch that is best by validation. Test loss: cross-entropy in nats. "
        "Training and search: time and candidates of all that led to it, all seeds together, "
        "compilation included."
    )
    if any(row.groups is not None for row in rows):
        text = f"G: ConvGroups in a block. {text}"
    if any(row.num_seeds > 1 for row in rows):
        text += " ±: sample standard deviation over the seeds."
    if any(row.interval is not None for row in rows):
        text += " In brackets: 95 % interval over other test images (Wilson), for this one seed."
    return text


def _duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "n/a"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _timing_cells(timings: Sequence[tuple[str, float]]) -> list[tuple[str, str]]:
    return [(stage, _duration(seconds)) for stage, seconds in timings]


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, default=str)


# --------------------------------------------------------------------------------------------
# Markdown
# --------------------------------------------------------------------------------------------


def _md(value: Any) -> str:
    """Text on one line in which nothing is markup; snake_case names stay as they are."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(str(value).split()))
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\_", text)
    return escape(text, quote=False)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, its cells escaped."""
    lines = [map(_md, header), ["---"] * len(header), *(map(_md, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _md_fence(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


# --------------------------------------------------------------------------------------------
# HTML
# --------------------------------------------------------------------------------------------


def _html_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose first column heads its rows."""
    return _html_grid(header, [("", *(escape(str(cell)) for cell in row)) for row in rows])


def _html_results(rows: Sequence[Row]) -> str:
    """The table of results, a description under its name."""
    header, cells = _results(rows)
    lines = []
    for row, (name, description, *rest) in zip(rows, cells, strict=True):
        below = f'<br><span class="small">{escape(description)}</span>' if description else ""
        mark = ' class="reference"' if row.is_reference else ""
        lines.append((mark, escape(name) + below, *map(escape, rest)))
    return _html_grid(header, lines)


def _html_details(report: Report) -> Iterator[tuple[str, str]]:
    """What is folded away: headings and HTML, which may be empty."""
    words = (f"<span>{escape(word)}</span>" for word in report.command.split(" "))
    command = f'<pre class="command"><code>{" ".join(words)}</code></pre>' if report.command else ""
    yield "Run", command + (_html_table((), report.summary) if report.summary else "")
    timings = _timing_cells(report.timings)
    yield "Time", _html_table(("stage", "time"), timings) if timings else ""
    for heading, values in (("Settings", report.settings), ("Environment", report.environment)):
        yield heading, f"<pre><code>{escape(_json(values))}</code></pre>" if values else ""


def _html_folded(heading: str, body: str) -> str:
    return f"<details><summary>{heading}</summary>{body}</details>"


def _html_grid(header: Sequence[str], lines: Sequence[tuple[str, ...]]) -> str:
    """`lines`: the attributes of a row, then its cells, all of it HTML."""
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    head = f"<thead><tr>{heads}</tr></thead>" if header else ""
    body = "\n".join(
        f'<tr{mark}><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for mark, first, *rest in lines
    )
    return f'<div class="scroll" tabindex="0"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _html_figure(caption: str, path: Path) -> str:
    light, text = _html_image(caption, path), escape(caption)
    picture, dark = f'<img alt="{text}" src="{light}">', path.with_stem(f"{path.stem}-dark")
    if dark.is_file():
        source = (
            f'<source media="(prefers-color-scheme: dark)" srcset="{_html_image(caption, dark)}">'
        )
        picture = f"<picture>{source}{picture}</picture>"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _html_image(caption: str, path: Path) -> str:
    """A PNG file as a data: URL."""
    if not path.is_file():
        raise FileNotFoundError(
            f"figure {path.name!r} ({caption}) is not in {path.parent}: save it there before the "
            "report is written, or take it out of Report.figures"
        )
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"figure {path} is not a PNG file: save it as PNG")
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
