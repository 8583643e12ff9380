"""What the pages say was measured is what the kept results give, by the command that they show."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from common import sweeps

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cycles.md"


def never(*_):
    raise AssertionError("all points are kept: nothing is to be computed")


@pytest.mark.parametrize("kept", sorted((ROOT / "results").glob("*/")), ids=lambda f: f.name)
def test_the_command_shown_draws_the_table_shown(kept, experiment, tmp_path, monkeypatch, capsys):
    page = PAGE.read_text()
    lines = page.replace("\\\n", "").splitlines()
    (command,) = [line for line in lines if line.endswith(f" --output_dir=results/{kept.name}")]
    _, script, *flags, _ = shlex.split(command)
    folder = shutil.copytree(kept, tmp_path / kept.name)
    monkeypatch.setattr(sweeps, "compute", never)
    assert experiment(Path(script).stem)(*flags, f"--output_dir={folder}") == 0
    drawn = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [row for p in kept.glob("points/*.json") for row in json.loads(p.read_text())["rows"]]
    assert len(drawn) == 2 + len({row.get("title", row.get("option")) for row in rows})
    assert [line for line in drawn if line not in page.splitlines()] == []


def test_no_page_is_half_written():
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert "{{" not in path.read_text(), path.name
