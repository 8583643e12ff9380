"""The programs start wherever and however they are started."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from children import XLA_FLAGS
from common import command_line

ROOT = Path(__file__).parents[2]
DRY = ("--dataset=digits", "--preset=smoke", "--dry_run")


def started(*command, **environment):
    """The output of a dry run that ended well."""
    done = subprocess.run(
        [sys.executable, *command, *DRY],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": XLA_FLAGS, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["main", "cycles"])
def test_a_program_finds_its_neighbours(name):
    for command in (("-m", f"experiments.{name}"), ("-P", f"experiments/{name}.py")):
        assert "\nfolder      runs/" in started(*command)


@pytest.mark.slow
def test_a_notebooks_backend_that_is_not_installed_stops_nothing():
    assert "folder" in started("experiments/main.py", MPLBACKEND="module://not_there.backend")


@pytest.mark.slow
def test_a_program_without_an_error_stream_does_its_work():
    """As by 2>&- in a shell."""
    command = f"exec {sys.executable} experiments/main.py {' '.join(DRY)} 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": XLA_FLAGS}
    done = subprocess.run(
        command, shell=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0 and "folder" in done.stdout


def test_a_program_runs_twice_in_one_process_without_the_flags_of_before(
    monkeypatch, tmp_path, capsys
):
    """As by %run in a notebook."""
    monkeypatch.chdir(tmp_path)
    script, printed = str(ROOT / "experiments" / "main.py"), []
    for flags in (["--cycles=2"], []):
        monkeypatch.setattr(sys, "argv", [script, *DRY, *flags])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script, run_name="__main__")
        assert not end.value.code
        printed.append(capsys.readouterr().out)
    assert ["2 cycles" in text for text in printed] == [True, False]


def test_the_users_compilation_cache_stays(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        for given, kept in ((str(tmp_path), str(tmp_path)), (None, "xla")):
            jax.config.update("jax_compilation_cache_dir", given)
            command_line.guarded(lambda: None)
            assert jax.config.jax_compilation_cache_dir.endswith(kept)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("platform", ("tpu", "cuda", "nosuch"))
def test_a_device_that_is_not_there_is_named(tmp_path, platform):
    command = ["experiments/main.py", *DRY[:2], f"--output_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": platform, "XLA_FLAGS": XLA_FLAGS},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"error: JAX finds no device (JAX_PLATFORMS={platform}; " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("plugin", "given", "left"),
    [
        (None, "", ""),
        ("jax_cuda12_plugin", "--x=1", "--x=1 --xla_gpu_exclude_nondeterministic_ops=true"),
        ("jax_cuda13_plugin", "", "--xla_gpu_exclude_nondeterministic_ops=true"),
        ("jax_cuda13_plugin", *2 * ("--xla_gpu_exclude_nondeterministic_ops=false",)),
    ],
)
def test_a_gpu_is_asked_for_the_same_bits_unless_the_user_says(plugin, given, left, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == plugin or None)
    monkeypatch.setenv("XLA_FLAGS", given)
    command_line._same_bits_on_a_gpu()
    assert os.environ["XLA_FLAGS"] == left
