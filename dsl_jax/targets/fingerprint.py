"""What tells one search from another: the manifest that is kept beside its targets.

Its fingerprint holds all that decides the result, arrays as hashes: a search that differs in it is
another one, and so is one whose stages compute something else (see `targets.outputs`). Its
provenance holds what may change a result by rounding, and is only warned of. Where that differs,
the stages' weights may, too: statistics measured there are rounded otherwise.
Letters: N images, L layers.
"""

import dis
import functools
import hashlib
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dsl_jax.config import SearchConfig, search_from_dict, to_dict
from dsl_jax.devices import processor, version_of
from dsl_jax.evolution.fitness import output_shapes
from dsl_jax.evolution.image import Stages
from dsl_jax.evolution.rules import check_schedules, rules_of
from dsl_jax.names import source_hash
from dsl_jax.plain_data import differences
from dsl_jax.targets.outputs import (
    NUM_INPUTS,
    TOLERANCE,
    WIDE_TOLERANCE,
    different_outputs,
    summarize_outputs,
)

FORMAT = 1
ACTIVATION_DTYPE = "float16"
PACKAGES = ("dsl_jax", "jax", "jaxlib", "numpy")
LATER_FIELDS = ("strategy_sha256", "fitness_sha256")  # which older fingerprints lack

logger = logging.getLogger(__name__)


def make_manifest(
    key: jax.Array,
    stages: Stages,
    take: Callable[[slice], np.ndarray],
    labels: np.ndarray,
    ids: np.ndarray,
    config: SearchConfig,
    *,
    dataset: str,
    chunk_size: int,
    starts: Callable | None = None,
) -> dict[str, Any]:
    """What a search is, as plain data; no more than some images are in memory at a time.

    Args:
      key, stages, config: as in `search`.
      take: gives some rows of the images, float32 [M, H, W, C].
      labels, ids: integers [N].
      dataset: its name.
      chunk_size: images in one chunk.
      starts: the function that makes where an image's search begins, if it is not the paper's.

    Returns:
      {"format": int, "fingerprint": {...}, "provenance": {...}, "outputs": {...}}.

    Raises:
      ValueError: the numbers of stages and of layer schedules differ.
    """
    check_schedules(stages, config)
    shapes = output_shapes(stages, take(slice(0, 1)).shape[1:])
    rules = rules_of(config)
    own = [name for name in ("strategy", "fitness") if ":" in getattr(config, name)]
    return {
        "format": FORMAT,
        "fingerprint": {
            "dataset": dataset,
            "num_images": len(ids),
            "ids_sha256": hash_rows(ids.__getitem__, len(ids)),
            "images_sha256": hash_rows(take, len(ids)),
            "labels_sha256": hash_rows(labels.astype(np.int64).__getitem__, len(ids)),
            "stages_sha256": hash_stages(stages),
            "config": to_dict(config),
            "key": [str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)).tolist()],
            "dtype": ACTIVATION_DTYPE,
            "chunk_size": int(chunk_size),
            "layer_shapes": [list(shape) for shape in shapes],
            **{f"{name}_sha256": source_hash(getattr(rules, name)) for name in own},
            **({} if starts is None else {"starts_sha256": hash_stages((starts,))}),
        },
        "provenance": _provenance(),
        "outputs": summarize_outputs(
            stages, take(slice(0, NUM_INPUTS)), rules.fitness if "fitness" in own else None
        ),
    }


def check_same_search(ours: dict, theirs: dict, path: Any) -> None:
    """Compares two manifests; other conditions, and what an older one lacks, are only warned of.

    Raises:
      ValueError: the fingerprints differ, or what a stage computes; what differs is named.
    """
    then = theirs["provenance"]
    conditions = differences({name: ours["provenance"].get(name) for name in then}, then)
    later = {name for name in LATER_FIELDS if name not in theirs["fingerprint"]}
    left_out = later | ({"stages_sha256"} if conditions and "outputs" in theirs else set())

    def compared(fingerprint: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in fingerprint.items() if name not in left_out}

    lines = differences(compared(ours["fingerprint"]), compared(_completed(theirs["fingerprint"])))
    if not lines and "outputs" in theirs:
        tolerance = WIDE_TOLERANCE if conditions else TOLERANCE
        lines = different_outputs(ours["outputs"], theirs["outputs"], tolerance)
    if lines:
        raise ValueError(
            f"{path} holds the targets of another search. These differ:\n  "
            + "\n  ".join(lines)
            + "\nGive another path, or the same arguments as then."
        )
    unknown = sorted(later & ours["fingerprint"].keys())
    unknown += [] if "outputs" in theirs else ["the outputs of its stages"]
    if unknown:
        logger.warning("%s is of an older version; not compared: %s", path, ", ".join(unknown))
    if conditions:
        logger.warning(
            "%s was begun under other conditions; the rest may differ by rounding: %s",
            path,
            "; ".join(conditions),
        )


def _completed(fingerprint: dict[str, Any]) -> dict[str, Any]:
    """A fingerprint; fields of its configuration that are newer than it have their defaults."""
    try:
        return fingerprint | {"config": to_dict(search_from_dict(fingerprint["config"]))}
    except (KeyError, TypeError, ValueError):  # of another version: as it is
        return fingerprint


def config_of(manifest: dict[str, Any]) -> SearchConfig:
    """The `SearchConfig` that a manifest describes."""
    return search_from_dict(manifest["fingerprint"]["config"])


def _provenance() -> dict[str, Any]:
    """What may change a result by rounding, and is told of but not refused."""
    return {
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "processor": processor(),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined,unused-ignore]
        "versions": {package: version_of(package) for package in PACKAGES},
    }


# --------------------------------------------------------------------------------------------
# Hashes
# --------------------------------------------------------------------------------------------


def hash_stages(stages: Stages) -> str:
    """A hash of the stages' weights, structure and function names, the same in every process.

    Arrays are found in `Partial`s, pytrees, closures, defaults and global variables that a
    function uses. What it does not see, such as a changed body, is seen in the stages' outputs.
    """
    digest = hashlib.sha256()
    _feed(digest, tuple(stages), set())
    return digest.hexdigest()


def _feed(digest: Any, value: Any, seen: set[int]) -> None:
    """Adds to `digest` what tells `value` apart; `seen` ends functions that refer to themselves."""

    def feed(title: str, *parts: Any) -> None:
        digest.update(f"{title};".encode())
        for part in parts:
            _feed(digest, part, seen)

    value = getattr(value, "__wrapped__", value)  # what is inside jit
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        feed(repr(value))
    elif isinstance(value, np.ndarray) and value.dtype == object:
        _feed(digest, value.tolist(), seen)
    elif isinstance(value, jax.Array | np.ndarray | np.generic):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            feed(str(jax.random.key_impl(value)))
            value = jax.random.key_data(value)
        value = np.asarray(value)
        feed(f"{value.dtype}{value.shape}")
        digest.update(value.tobytes())
    elif isinstance(value, tuple | list):
        feed(f"sequence {len(value)}", *value)
    elif isinstance(value, Mapping):
        feed(f"dict {len(value)}", *sorted(value.items(), key=lambda item: str(item[0])))
    elif isinstance(value, functools.partial):
        feed("partial", value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        feed("method", value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        feed(f"function {value.__qualname__}")
        if id(value) not in seen:
            seen.add(id(value))
            for part in (value.__defaults__, value.__kwdefaults__, _captured(value)):
                _feed(digest, part, seen)
    else:
        feed(f"{type(value).__qualname__} {getattr(value, '__qualname__', '')}")
        _feed_object(digest, value, seen)


def _feed_object(digest: Any, value: Any, seen: set[int]) -> None:
    """`_feed` of what is neither plain data nor a function: pytrees, dataclasses, callables."""
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if isinstance(value, type) or id(value) in seen:
        return
    if is_dataclass(value):  # first, as a pytree may keep some fields beside its leaves
        seen.add(id(value))
        _feed(digest, {field.name: getattr(value, field.name) for field in fields(value)}, seen)
    elif leaves and leaves[0][0]:  # a pytree, such as a Flax module
        _feed(digest, [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves], seen)
    elif callable(value):
        seen.add(id(value))
        _feed(digest, getattr(value, "__dict__", None), seen)


def _captured(function: FunctionType) -> dict[str, Any]:
    """What a function takes from around it: closed-over variables, and global arrays."""
    code = function.__code__
    captured = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        captured[name] = cell.cell_contents
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    for name in names:
        value = function.__globals__.get(name)
        if isinstance(value, jax.Array | np.ndarray):
            captured[name] = value
    return captured


def hash_rows(take: Callable[[slice], np.ndarray], num_rows: int, block: int = 1024) -> str:
    """SHA-256 of an array's type, shape and bytes, of which only a block is in memory."""
    digest = hashlib.sha256()
    for start in range(0, num_rows, block):
        rows = take(slice(start, min(start + block, num_rows)))
        if start == 0:
            digest.update(f"{rows.dtype}{rows.shape[1:]}".encode())
        digest.update(rows.tobytes())
    return digest.hexdigest()
