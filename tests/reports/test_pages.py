"""The report: what it must say, that nothing in it is taken for markup, and that it is one file."""

import base64
import dataclasses
import os
import re
from html.parser import HTMLParser

import pytest
from full_report import full_report

from dsl_jax.reports.pages import Report, Row, to_html, to_markdown, write_report

# A PNG of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
VOID = {"meta", "br", "img", "source"}


class Page(HTMLParser):
    """Tags must close in order; keeps the text, the tags and the attributes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.text))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "accuracy plot.png").write_bytes(PNG)
    return tmp_path


# --------------------------------------------------------------------------------------------
# What it says
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["markdown", "html"])
def test_both_pages_give_every_fact(page, folder):
    report = full_report()
    text = to_markdown(report) if page == "markdown" else Page(to_html(report, folder)).text
    for fact in (
        "A run",
        "mnist was replaced by mnist_5k",
        "python experiments/main.py --dataset=mnist",
        "candidates",
        "4800",
        "all layers",
        "regression",
        "Searched targets are not distinguishable",
        "97.00 ± 1.00 %",
        "95.00 ± 0.00 %",
        "3 seeds",
        "1 min 15 s",
        "SGD (reference)",
        "98.77 %",
        "0.0513",
        "1 seed",
        "2 h 03 min",
        "sample standard deviation",
        "What it is made of",
        "Two parts.",
        "block 0",
        "12.5%",
        "Accuracy of every row",
        "59.9 s",
        "1 min 00 s",
        '"generations": 20',
        "0.10.2",
    ):
        assert fact in text, fact


def test_results_stand_in_their_columns():
    lines = to_markdown(full_report()).splitlines()
    table = [line.strip("| ").split(" | ") for line in lines[lines.index("## Results") :]]
    header = next(cells for cells in table if "method" in cells)
    sgd = next(cells for cells in table if cells[0].startswith("SGD"))
    assert dict(zip(header, sgd, strict=True)) == {
        "method": "SGD (reference)",
        "G": "n/a",
        "test accuracy": "98.77 % (98.54 to 98.97)",
        "validation accuracy": "90.00 %",
        "test loss": "0.0513",
        "seeds": "1 seed",
        "training": "2 h 03 min",
    }  # nothing was searched: no columns for it


def test_notices_come_right_after_the_title(folder):
    assert to_markdown(full_report()).split("\n\n")[1].startswith("> [!WARNING]\n> **Notice:**")
    html = to_html(full_report(), folder)
    assert html.index("</h1>") < html.index('class="notice"') < html.index("<pre")


def test_a_dark_figure_is_shown_on_dark_screens(folder):
    (folder / "accuracy plot-dark.png").write_bytes(PNG)
    (source,) = [a for a in Page(to_html(full_report(), folder)).attributes if a[0] == "source"][:1]
    assert source[1:] == ("media", "(prefers-color-scheme: dark)")


def test_an_empty_report_says_so(tmp_path):
    assert "No results yet." in to_markdown(Report("Empty"))
    assert "No results yet." in Page(to_html(Report("Empty"), tmp_path)).text


def test_nothing_is_said_of_a_deviation_when_there_is_one_seed():
    only = full_report().rows[1]
    text = to_markdown(Report("One", rows=(only,)))
    assert "±" not in text and "ConvGroups" not in text


# --------------------------------------------------------------------------------------------
# Markup and files
# --------------------------------------------------------------------------------------------

EVIL = '<script>alert(1)</script> a|b `c` *d* "e" & skip_block_0 [f](g)\nnew line'


def evil_report():
    row = Row(EVIL, EVIL, 1, (0.5,), (), (), 1.0)
    return Report(
        EVIL,
        notices=(EVIL,),
        finding=EVIL,
        command=EVIL + "```",
        summary=((EVIL, EVIL),),
        rows=(row,),
        figures=((EVIL, "accuracy plot.png"),),
        timings=((EVIL, 1.0),),
        settings={EVIL: EVIL},
        environment={EVIL: EVIL},
    )


def test_html_takes_nothing_for_markup(folder):
    page = Page(to_html(evil_report(), folder))
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 10
    (alt,) = [value for tag, name, value in page.attributes if name == "alt"]
    assert alt == EVIL


def test_markdown_takes_nothing_for_markup():
    text = to_markdown(evil_report())
    shown = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert r"\`c\` \*d\*" in shown and r"\[f\](g) new line" in shown and "skip_block_0" in shown
    tables = [line for line in shown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {3, 5}
    assert text.count("````") == 2  # the command holds a fence of three


def test_leading_and_trailing_underscores_are_escaped_in_markdown():
    assert r"\_a\_ b_c \_\_d\_\_" in to_markdown(Report("_a_ b_c __d__"))


def test_html_is_one_file_that_loads_nothing(folder):
    html = to_html(full_report(), folder)
    page = Page(html)
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset")]
    assert len(sources) == 1
    kind, data = sources[0].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == PNG
    for outside in ("http:", "https:", "url(", "@import", "<script", "<link"):
        assert outside not in html
    assert ("meta", "name", "viewport") in page.attributes
    for query in ("prefers-color-scheme: dark", "@media print", "max-width"):
        assert query in html
    assert page.tags.count("details") == 4  # the run, its time, settings and environment


def test_markdown_links_figures_beside_it():
    assert "![Accuracy of every row](accuracy%20plot.png)" in to_markdown(full_report())


def test_a_missing_figure_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'accuracy plot.png' \(Accuracy.*save it there"):
        write_report(full_report(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_is_no_png_is_refused(tmp_path):
    (tmp_path / "accuracy plot.png").write_text("<svg/>")
    with pytest.raises(ValueError, match="is not a PNG file"):
        to_html(full_report(), tmp_path)


def test_pages_are_written_whole_and_readable_by_all(folder):
    markdown, html = write_report(full_report(), folder)
    assert markdown == folder / "report.md" and html == folder / "report.html"
    assert markdown.read_text(encoding="utf-8") == to_markdown(full_report())
    assert html.read_text(encoding="utf-8") == to_html(full_report(), folder)
    figure = folder / "accuracy plot.png"
    assert html.stat().st_mode == figure.stat().st_mode  # as any other file
    assert len(list(folder.iterdir())) == 3  # no temporary files


def test_an_interrupted_write_leaves_the_old_page(folder, monkeypatch):
    write_report(full_report(), folder)
    before = (folder / "report.md").read_text(encoding="utf-8")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(dataclasses.replace(full_report(), title="New"), folder)
    assert (folder / "report.md").read_text(encoding="utf-8") == before
    assert len(os.listdir(folder)) == 3


def test_an_accuracy_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"test_accuracy of 'a' is 97.2: give a fraction"):
        Row("a", "", 1, (97.2,), (0.9,), (0.1,), 1.0)


def test_numbers_of_seeds_must_agree():
    with pytest.raises(ValueError, match=r"'a' has \(2, 1, 0\) values"):
        Row("a", "", 1, (0.9, 0.9), (0.9,), (), 1.0)
