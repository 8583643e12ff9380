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
    table = importlib.import_module(experiment).table([r for point in points for r in point["rows"]])
    page = PAGE.read_text()
    missing = [line for line in table.splitlines() if "|" in line and line not in page.splitlines()]
    assert not missing
    assert f"--output_dir=results/{folder.name}" in page
