"""The report as a browser shows it: headless Chromium (Debian's package `chromium`)."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from full_report import full_report
from matplotlib import image as images

from dsl_jax.reports import plots
from dsl_jax.reports.pages import to_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=2000",
)  # fmt: skip
PHONE_WIDTH = 390


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with a real figure."""
    folder = tmp_path_factory.mktemp("report")
    fitness = [np.sort(np.random.default_rng(0).normal(size=(20, n)), axis=1) for n in (21, 11)]
    plots.plot_fitness(fitness).savefig(folder / "accuracy plot.png")
    (folder / "report.html").write_text(to_html(full_report(), folder))
    return folder / "report.html"


def chromium(page, tmp_path, *options):
    """What it prints on standard output; nothing may be told on the page's console."""
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def with_script(page, tmp_path, script, style=""):
    """A copy that may run a script, which leaves its result in the title."""
    html = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text())
    assert html != page.read_text()
    copy = tmp_path / "scripted.html"
    copy.write_text(html.replace("</body>", f"{style}<script>{script}</script></body>"))
    return copy


def test_a_fault_on_the_page_would_be_noticed(page, tmp_path):
    broken = with_script(page, tmp_path, "throw new Error('seen')")
    with pytest.raises(AssertionError, match="seen"):
        chromium(broken, tmp_path, "--dump-dom")
    # Nothing may be fetched either: what the page does not hold is refused, and told.
    loads = tmp_path / "loads.html"
    loads.write_text(page.read_text().replace("<h1>", '<img src="https://localhost/x.png"><h1>'))
    with pytest.raises(AssertionError, match="Content Security Policy"):
        chromium(loads, tmp_path, "--dump-dom")


def test_it_renders_without_a_word_on_the_console(page, tmp_path):
    dom = chromium(page, tmp_path, "--dump-dom")
    for fact in ("all layers", "97.00", "Accuracy of every row"):
        assert fact in dom
    shot = tmp_path / "shot.png"
    chromium(page, tmp_path, f"--screenshot={shot}", "--window-size=1000,1400")
    pixels = images.imread(shot)
    assert pixels.shape[:2] == (1400, 1000)
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) > 50  # the figure is drawn


def test_nothing_runs_out_of_a_phones_screen(page, tmp_path):
    # A frame as wide as a phone, since a headless window cannot be made so narrow.
    script = (
        f"const width = {PHONE_WIDTH};"
        + """
    const frame = document.createElement("iframe"), html = document.documentElement.outerHTML;
    frame.width = width; frame.height = 800;
    document.body.replaceChildren(frame);
    const inside = frame.contentDocument;
    inside.open(); inside.write(html.replace(/<script>[^]*?<\\/script>/, "")); inside.close();
    document.title = "width " + inside.documentElement.scrollWidth;
    """
    )
    dom = chromium(with_script(page, tmp_path, script), tmp_path, "--dump-dom")
    assert int(re.search(r"<title>width (\d+)</title>", dom)[1]) <= PHONE_WIDTH


def test_dark_mode_is_dark_and_print_is_light(page, tmp_path):
    script = """
    const colours = [], look = getComputedStyle(document.body);
    const note = () => colours.push(look.backgroundColor, look.color);
    note();
    for (const medium of ["dark", "print"]) {  // print last, as for a reader in dark mode
        for (const rule of [...document.styleSheets[0].cssRules])
            if (rule.media && rule.media.mediaText.includes(medium))
                for (const inner of rule.cssRules) {
                    const style = document.createElement("style");
                    style.textContent = inner.cssText; document.head.append(style);
                }
        note();
    }
    document.title = colours.join("|");
    """
    dom = chromium(with_script(page, tmp_path, script), tmp_path, "--dump-dom")
    colours = re.search(r"<title>(.*?)</title>", dom)[1].split("|")
    levels = [np.mean([int(x) for x in re.findall(r"\d+", colour)[:3]]) for colour in colours]
    for paper, ink, is_dark in zip(levels[::2], levels[1::2], (False, True, False), strict=True):
        assert (paper < 60 and ink > 180) if is_dark else (paper > 230 and ink < 60)
    pdf = tmp_path / "report.pdf"
    chromium(page, tmp_path, f"--print-to-pdf={pdf}")
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 10_000
