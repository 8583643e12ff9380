"""What the README shows runs."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.slow
def test_the_python_examples_run_one_after_another(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "Evaluation(accuracy=" in out
    assert [h.shape for h in names["found"].representations] == [(111, 32), (111, 10)]


def test_links_and_pictures_exist():
    root = Path(__file__).parents[2]
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / link).exists(), link


def test_ci_runs_exactly_the_commands_shown():
    script = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    commands = re.findall(r"```sh\n(pip install.*?)\n```", README)
    assert len(commands) == 2
    for command in commands:
        assert command in script
