"""The matrix of label noise, estimated from a head's probabilities at anchor points."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from w2s_jax.methods.selection import keep_lowest


def anchor_matrix(
    probabilities: Float[Array, "n c"], quantile: Float[Array, ""], valid: Bool[Array, " n"]
) -> Float[Array, "c c"]:
    """Probabilities of observed labels given the true class, ``T_ij = P(observed j | true i)``.

    Row i of T is the row of `probabilities` at which that of class i has the rank ``max(1,
    floor(quantile n + 1/2))`` from below among the valid ones: a point that is taken to be of class
    i for certain. The maximum itself (quantile 1) is an outlier easily. Public code takes the
    largest value below the 97th percentile, whose rank is within one of that of quantile 0.97.

    >>> p = jnp.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]])
    >>> anchor_matrix(p, jnp.float32(1.0), jnp.ones(3, bool)).tolist()
    [[0.75, 0.25], [0.125, 0.875]]
    """
    total = jnp.sum(valid)
    rank = jnp.clip(jnp.floor(quantile * total + 0.5), 1, total).astype(jnp.int32)

    def anchor(score: Array) -> Array:
        lowest = keep_lowest(score, rank, valid)
        return probabilities[jnp.argmax(jnp.where(lowest, score, -jnp.inf))]

    return jax.vmap(anchor, in_axes=1)(probabilities)


def inverse(matrix: Float[Array, "c c"]) -> Float[Array, "c c"]:
    """Inverse by Gauss-Jordan elimination with row pivots; not finite for a singular matrix.

    >>> inverse(jnp.array([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.5, 0.0]]
    """
    size = len(matrix)
    index = jnp.arange(size)

    def eliminate(k: Array, table: Array) -> Array:
        pivot = jnp.argmax(jnp.where(index >= k, jnp.abs(table[:, k]), -1.0))
        swapped = jnp.where(index == k, pivot, jnp.where(index == pivot, k, index))
        table = table[swapped]
        row = table[k] / table[k, k]
        return jnp.where((index == k)[:, None], row, table - table[:, k, None] * row)

    table = jnp.concatenate([matrix, jnp.eye(size, dtype=matrix.dtype)], axis=1)
    return jax.lax.fori_loop(0, size, eliminate, table)[:, size:]
