"""Pytrees by the names of their leaves."""

from typing import Any

import jax


def path_name(path: Any) -> str:
    """A leaf's path as text, its parts separated by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree: Any) -> tuple[list[str], list[Any], Any]:
    """Names of the leaves by their paths, the leaves, and the structure."""
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [path_name(path) for path, _ in flat], [leaf for _, leaf in flat], structure
