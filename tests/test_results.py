"""What the pages say was measured is what the kept results give."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "cycles.md"


@pytest.mark.parametrize("folder", sorted((ROOT / "results").glob("*/")), ids=lambda f: f.name)
def test_the_page_has_the_table_of_the_kept_results_and_their_command(folder):
    experiment = json.loads((folder / "sweep.json").read_text())["experiment"]
    points = [json.loads(path.read_text()) for path in sorted(folder.glob("points/*.json"))]
    rows = [row for point in points for row in point["rows"]]
    table = importlib.import_module(experiment).table(rows)
    page = PAGE.read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line for line in lines if line not in page.splitlines()] == []
    assert f"--output_dir=results/{folder.name}" in page
