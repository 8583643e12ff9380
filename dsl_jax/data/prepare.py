"""Downloading and preparing a dataset with tensorflow-datasets, in a process of its own.

Needed once for each dataset, and the only use of TensorFlow. It fails soon where there is no
internet, and says why.
"""

import functools
import importlib.util
import logging
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

_PROBE = "import sys, requests; requests.get(sys.argv[1], timeout=10, stream=True).close()"
_PREPARE = """
import sys
import tensorflow
import tensorflow_datasets as tfds
name, folder = sys.argv[1:]
print("dsl_jax: imported", flush=True)
tfds.builder(name, data_dir=folder, file_format="array_record").download_and_prepare()
"""
_PROBE_SECONDS = 15
_IMPORT_SECONDS = 120
_DOWNLOAD_SECONDS = 25
# TensorFlow takes the whole memory of an accelerator that it sees, and JAX is using that.
_NO_ACCELERATOR = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "TPU_VISIBLE_CHIPS": "",
    "TPU_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
}

logger = logging.getLogger(__name__)


class DatasetUnavailable(ValueError):
    """A dataset is not on this machine and could not be prepared.

    reason: why.
    remedy: what has to be done before it can be prepared, but for `how_to_prepare`.
    """

    def __init__(self, name: str, folder: str, reason: str, before: str = ""):
        super().__init__(name, folder, reason, before)
        self.name, self.folder, self.reason = name, folder, reason
        self.remedy = f"{before}{how_to_prepare()}"

    def __str__(self) -> str:
        return (
            f"dataset {self.name!r} is not prepared in {self.folder}, and {self.reason}. "
            f"To prepare it: {self.remedy}. "
            f"If you have a prepared copy (tensorflow-datasets, array_record): "
            f"data_dir=FOLDER, the folder that holds {self.name}/. "
            f"mnist_5k and digits need no download."
        )


def has_tensorflow() -> bool:
    """Whether a dataset could be prepared here, given internet."""
    return importlib.util.find_spec("tensorflow") is not None


def how_to_prepare() -> str:
    """What a user has to do, as far as it is not done."""
    install = "" if has_tensorflow() else "pip install tensorflow-cpu, then "
    return f"{install}run again with internet (needed once)"


def check_means(name: str, folder: Path) -> None:
    """Raises DatasetUnavailable where nothing here could prepare a dataset, given internet."""
    if not has_tensorflow():
        reason = "preparing it needs TensorFlow once, which is not installed"
        raise DatasetUnavailable(name, str(folder), reason)


def prepare(name: str, folder: Path, url: str) -> None:
    """Downloads and prepares a dataset of tensorflow-datasets.

    Args:
      name: the dataset's name there.
      folder: the data_dir of tensorflow-datasets; gets FOLDER/NAME/VERSION/.
      url: where it is downloaded from; tried first.

    Raises:
      DatasetUnavailable: TensorFlow is not installed, `url` cannot be reached, or preparing failed.
    """
    check_means(name, folder)
    unavailable = functools.partial(DatasetUnavailable, name, str(folder))
    if not _is_reachable(url):
        raise unavailable(f"{url}, where it is downloaded from, cannot be reached (no internet?)")
    logger.warning("preparing %s in %s: a download, once", name, folder)
    command = [sys.executable, "-c", _PREPARE, name, str(folder)]
    try:
        _run_while_progressing(command, {**os.environ, **_NO_ACCELERATOR})
    except (OSError, RuntimeError) as error:
        raise unavailable(f"preparing it failed: {error}") from None


def _is_reachable(url: str) -> bool:
    """Whether there is any answer. In a process of its own: looking up a name may hang."""
    command = [sys.executable, "-c", _PROBE, url]
    try:
        probe = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def _run_while_progressing(command: list[str], env: dict[str, str]) -> None:
    """Runs a command, its output shown on stderr; one that is silent for too long is killed.

    The limits hold while it imports and while it downloads; generating needs no network.

    Raises:
      RuntimeError: it was killed, or failed; with the last line of its output.
    """
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output: Any = process.stdout
    text = ""
    limit: int | None = _IMPORT_SECONDS
    with process:
        try:
            while select.select([output], [], [], limit)[0]:
                chunk = output.read1().decode(errors="replace")
                if not chunk:
                    break
                sys.stderr.write(chunk)
                text = text[-10_000:] + chunk
                if "Generating" in text:
                    limit = None
                elif "dsl_jax: imported" in text:
                    limit = _DOWNLOAD_SECONDS
            else:
                raise RuntimeError(f"no progress for {limit} seconds")
            process.wait()
        finally:
            process.kill()
    if process.returncode:
        lines = [line for line in text.splitlines() if line.strip()]
        raise RuntimeError(lines[-1].strip()[:300] if lines else f"exit {process.returncode}")
