"""Ridge and ridgeless heads: one factorisation of a set of weighted rows serves every penalty."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from w2s_jax.errors import HeadError
from w2s_jax.heads.inputs import (
    broadcast_heads,
    check_row_sets,
    check_weights,
    common_heads,
    groups_of_equal_rows,
    per_head,
    prepare_if_needed,
)
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.status import CONVERGED, MINIMUM_NORM, NO_WEIGHT


class RidgeHeads(NamedTuple):
    """Fitted ridge heads in the caller's coordinates; predictions are ``x @ w[h] + b[h]``.

    Attributes:
      w: weights ``[h, d, k]`` for k targets.
      b: intercepts ``[h, k]``.
      status: ``[h]``: converged; minimum_norm (l2 = 0 and rows that do not determine w: the
        solution of least norm); no_weight (all sample weights zero: w = 0, b = 0). Codes as in
        `w2s_jax.heads.STATUS_NAMES`.
      iterations: zero ``[h]``; the solution is direct.
      gradient_norm: Euclidean norm of the objective's gradient at the solution ``[h]``.
      objective: value at the solution ``[h]``.
      gap: zero ``[h]``.
    """

    w: Float[Array, "h d k"]
    b: Float[Array, "h k"]
    status: Int[Array, " h"]
    iterations: Int[Array, " h"]
    gradient_norm: Float[Array, " h"]
    objective: Float[Array, " h"]
    gap: Float[Array, " h"]


class _Solved(NamedTuple):
    w: Float[Array, "h r k"]
    b: Float[Array, "h k"]
    objective: Float[Array, " h"]
    gradient_norm: Float[Array, " h"]
    rank: Int[Array, ""]


@jax.jit
def _solve(
    x: Float[Array, "n r"],
    targets: Float[Array, "h n k"],
    weights: Float[Array, " n"],
    l2: Float[Array, " h"],
    intercept: Array,
) -> _Solved:
    """All heads of one set of weighted rows, from one singular value decomposition."""
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1.0)
    x_mean = intercept * (share @ x)
    t_mean = intercept * jnp.einsum("n,hnk->hk", share, targets)
    x = x - x_mean
    residual = targets - t_mean[:, None, :]
    root = jnp.sqrt(share)[:, None]
    u, singular, vt = jnp.linalg.svd(root * x, full_matrices=False)
    cutoff = jnp.finfo(x.dtype).eps * max(x.shape) * singular[0]
    kept = singular > cutoff
    safe = jnp.where(kept, singular, 1.0)
    gain = jnp.where(kept, safe / (safe**2 + l2[:, None]), 0.0)
    w = jnp.einsum("sr,hs,ns,hnk->hrk", vt, gain, u, root * residual)
    error = residual - jnp.einsum("nr,hrk->hnk", x, w)
    objective = 0.5 * jnp.einsum("n,hnk->h", share, error**2)
    objective = objective + 0.5 * l2 * jnp.sum(w**2, axis=(1, 2))
    gradient = l2[:, None, None] * w - jnp.einsum("n,nr,hnk->hrk", share, x, error)
    return _Solved(
        w=w,
        b=t_mean - jnp.einsum("r,hrk->hk", x_mean, w),
        objective=objective,
        gradient_norm=jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2))),
        rank=jnp.sum(kept),
    )


def fit_ridge(
    x: ArrayLike | Prepared,
    targets: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    l2: ArrayLike = 1.0,
    fit_intercept: bool = True,
) -> RidgeHeads:
    r"""Fits many ridge heads at once; l2 = 0 gives the minimum-norm (ridgeless) solution.

    Minimises, for every head, with sample weights m_i and M their sum,

        (1/2M) sum_i m_i ||t_i - x_i W - b||^2  +  (l2 / 2) ||W||^2        (b is not penalised),

    which is scikit-learn's ``Ridge(alpha = l2 M)``. Heads on the same rows with the same weights
    share one singular value decomposition, computed in float64 whatever the type of x: singular
    values below eps * max(n, d) of the largest count as zero.

    Args:
      x: features ``[n, d]``, or a `Prepared`.
      targets: real numbers ``[m]``, ``[m, k]`` or one set per head ``[h, m, k]``, aligned with
        `rows`.
      rows: indices ``[m]`` shared by all heads, or ``[h, m]``; default all rows.
      weights: sample weights ``[m]`` or ``[h, m]``, >= 0, aligned with `rows`; default one.
      l2: penalty >= 0, a scalar or ``[h]``.
      fit_intercept: without it, b stays 0 and a `Prepared` must be made with ``center=False``.

    Returns:
      `RidgeHeads` in the caller's coordinates.

    Raises:
      HeadError: on shapes, targets, weights or penalties that make no sense.

    >>> heads = fit_ridge(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]), l2=0.0)
    >>> heads.w.ravel().tolist(), heads.b.ravel().tolist()
    ([2.0], [1.0])
    """
    prepared = prepare_if_needed(x, fit_intercept)
    dtype = prepared.x.dtype
    host = np.asarray(targets, dtype=np.float64)
    if host.ndim not in (1, 2, 3) or not host.size or not np.isfinite(host).all():
        raise HeadError(
            f"ridge targets must be finite and [m], [m, k] or [h, m, k], found {host.shape}"
        )
    host = host[None, :, None] if host.ndim == 1 else host[None] if host.ndim == 2 else host
    row_sets = check_row_sets(rows, prepared.num_rows, host.shape[1], "targets")
    host_weights = check_weights(weights, row_sets.shape[1])
    num_heads = common_heads(
        targets=host.shape[0], rows=row_sets.shape[0], weights=len(host_weights), l2=np.size(l2)
    )
    penalties = per_head(l2, num_heads, "l2", np.float64)
    row_sets = broadcast_heads(row_sets, num_heads)
    host_weights = broadcast_heads(host_weights, num_heads)
    host = broadcast_heads(host, num_heads)

    # One factorisation a set of rows and weights; both decide the group.
    w = np.empty((num_heads, prepared.rotation.shape[0], host.shape[2]))
    b = np.empty((num_heads, host.shape[2]))
    objective, gradient_norm = np.empty(num_heads), np.empty(num_heads)
    status = np.zeros(num_heads, np.int32)
    rotation = np.asarray(prepared.rotation, np.float64)
    mean = np.asarray(prepared.mean, np.float64)
    features = np.asarray(prepared.x)
    for heads in groups_of_equal_rows(row_sets, host_weights):
        first = heads[0]
        if not host_weights[first].any():
            w[heads], b[heads], objective[heads], gradient_norm[heads] = 0, 0, 0, 0
            status[heads] = NO_WEIGHT
            continue
        with jax.enable_x64(True):
            solved = _solve(
                jnp.asarray(features[row_sets[first]], jnp.float64),
                jnp.asarray(host[heads]),
                jnp.asarray(host_weights[first], jnp.float64),
                jnp.asarray(penalties[heads]),
                jnp.asarray(float(fit_intercept), jnp.float64),
            )
            solved = jax.tree.map(np.asarray, solved)
        w[heads] = np.einsum("dr,hrk->hdk", rotation, solved.w)
        b[heads] = solved.b - np.einsum("d,hdk->hk", mean, w[heads])
        objective[heads] = solved.objective
        gradient_norm[heads] = solved.gradient_norm
        deficient = solved.rank < rotation.shape[0]
        status[heads] = np.where((penalties[heads] == 0) & deficient, MINIMUM_NORM, CONVERGED)
    return RidgeHeads(
        w=jnp.asarray(w, dtype),
        b=jnp.asarray(b, dtype),
        status=jnp.asarray(status),
        iterations=jnp.zeros(num_heads, jnp.int32),
        gradient_norm=jnp.asarray(gradient_norm, dtype),
        objective=jnp.asarray(objective, dtype),
        gap=jnp.zeros(num_heads, dtype),
    )
