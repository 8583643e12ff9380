"""Individuals of several groups by their numbers, without joining the groups.

Letters: groups of m_i rows [m_i, ...] each, whose rows are numbered through all of them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def take_rows(groups: Sequence[jax.Array], index: jax.Array, failed: jax.Array) -> jax.Array:
    """The rows [n, ...] of these numbers [n].

    failed: bool [n], rows that may be NaN: they are there only for want of better ones.
    """
    return jax.lax.platform_dependent(
        not_empty(groups),
        index,
        failed,
        tpu=_rows_by_product,
        default=lambda groups, index, failed: rows_by_index(groups, index),
    )


def not_empty(groups: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """The groups that have rows."""
    return tuple(group for group in groups if len(group))


def rows_by_index(groups: Sequence[jax.Array], index: jax.Array) -> jax.Array:
    """The rows [n, ...] of these numbers [n], read from each group."""
    first, start = groups[0], 0
    if len(groups) == 1:
        return first[index]
    rows = jnp.zeros((len(index), *first.shape[1:]), first.dtype)
    for group in groups:
        here = (index >= start) & (index < start + len(group))
        taken = group[jnp.where(here, index - start, 0)]
        rows = jnp.where(_each(here, rows), taken, rows)
        start += len(group)
    return rows


def _rows_by_product(groups: Sequence[jax.Array], index: jax.Array, failed: jax.Array) -> jax.Array:
    """`take_rows` for a TPU, which else would copy all rows to where they lie one after the other.

    What is not finite counts as 0, or it would spoil all rows; those that have failed are NaN.
    """
    finite = [jnp.where(jnp.isfinite(group), group, 0) for group in groups]
    rows = sums_of_rows(finite, index[None], 1.0)
    return jnp.where(_each(failed, rows), jnp.nan, rows)


def sums_of_rows(groups: Sequence[jax.Array], index: jax.Array, share: float) -> jax.Array:
    """`share` times the sum of rows, numbers [m, n] -> [n, ...], as a product of their dtype.

    Exact but for the sum's own rounding where the share is a power of two. For a TPU, on which
    reading rows by their numbers moves twenty times the bytes.
    """
    first, start = groups[0], 0
    total = jnp.zeros((index.shape[1], *first.shape[1:]), first.dtype)
    for group in groups:
        chosen = jax.nn.one_hot(index - start, len(group), dtype=group.dtype)
        shares = share * jnp.sum(chosen, axis=0)
        total += jnp.tensordot(shares, group, 1, precision=jax.lax.Precision.HIGHEST)
        start += len(group)
    return total


def _each(flags: jax.Array, rows: jax.Array) -> jax.Array:
    """Flags [n], one for each of rows [n, ...], in as many dimensions."""
    return flags.reshape(-1, *[1] * (rows.ndim - 1))
