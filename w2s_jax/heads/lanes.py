"""Heads as lanes of the solver: gathers their rows, pads to buckets, and handles absent classes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.lbfgs import Problem, Solution, lane_bucket, solve, take_heads
from w2s_jax.heads.losses import Loss
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.status import ABSENT_CLASS, CONSTANT, CONVERGED, NO_WEIGHT, RUNNING
from w2s_jax.heads.targets import Targets, class_mass

# Logit of a class that left the softmax: probability exactly 0, yet every product with 0 is finite.
ABSENT_LOGIT = -1e9
MAX_LANES = 512
RTOL = {"float32": 1e-6, "float64": 1e-10}


def concatenate(parts: list[Solution], heads: np.ndarray) -> Solution:
    """Joins the solutions of parts of the heads; `heads` names them in the order of the parts."""
    back = np.argsort(heads)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts)


def row_bucket(size: int) -> int:
    """Padded number of rows: at most a quarter more, so that few shapes are ever compiled.

    >>> row_bucket(200), row_bucket(2000), row_bucket(2049)
    (224, 2048, 2560)
    """
    if size <= 64:
        return 64
    unit = 2 ** (math.ceil(math.log2(size)) - 3)
    return math.ceil(size / unit) * unit


@jax.jit
def _gather(
    x: Array, rows: Array, targets: Array, weights: Array, valid: Array
) -> tuple[Array, Array, Array, Array]:
    """Rows, their transpose, targets and normalised weights, padded to a bucket."""
    x_rows = jnp.where(valid[:, None], x[rows], 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1.0)
    padding = [(0, 0)] * (targets.ndim - 1) + [(0, len(valid) - targets.shape[-1])]
    return x_rows, x_rows.T, jnp.pad(targets, padding), weights


@jax.jit
def _initial_status(mass: Float[Array, "h c"]) -> tuple[Array, Array]:
    """Status and logit offset of every head, from the weight of each class."""
    present = mass > 0
    num_present = jnp.sum(present, axis=-1)
    status = jnp.where(num_present == 0, NO_WEIGHT, jnp.where(num_present == 1, CONSTANT, RUNNING))
    some = (num_present > 0)[:, None]
    if mass.shape[-1] == 2:
        sign = jnp.where(present[:, 1:], -1.0, 1.0)
        offset = jnp.where((num_present == 1)[:, None], sign * ABSENT_LOGIT, 0.0)
    else:
        offset = jnp.where(some & ~present, ABSENT_LOGIT, 0.0)
    return status.astype(jnp.int32), offset.astype(mass.dtype)


def fit_rows(
    prepared: Prepared,
    rows: Int[np.ndarray, " n"],
    targets: Targets,
    *,
    weights: Float[Array, "h n"] | None = None,
    l2: Float[Array, " h"],
    loss: Loss,
    fit_intercept: bool = True,
    init: Float[Array, "h k p"] | None = None,
    active: Bool[Array, " h"] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_iterations: int = 1000,
) -> Solution:
    """Fits heads that share their rows, in prepared coordinates and without input checks.

    The engine's entry; `fit_logistic` is the checked one in the caller's coordinates. Targets and
    weights may have a leading axis of 1, shared by all heads. Heads beyond `MAX_LANES` run in
    chunks of similar l2. Heads that are not `active` are padding: no pass is spent on them.

    Returns:
      A `Solution`; its last parameter along p is the intercept, offsets of absent classes included.
    """
    dtype = prepared.x.dtype
    num_heads = len(l2)
    num_logits = 1 if targets.num_classes == 2 else targets.num_classes
    if num_heads > MAX_LANES:
        order = np.argsort(np.asarray(l2), kind="stable")
        chunks = [order[i : i + MAX_LANES] for i in range(0, num_heads, MAX_LANES)]
        parts = [
            fit_rows(
                prepared,
                rows,
                Targets(take_heads(targets.values, heads), targets.num_classes),
                weights=None if weights is None else take_heads(weights, heads),
                l2=l2[heads],
                loss=jax.tree.map(lambda p, heads=heads: p[heads], loss),
                fit_intercept=fit_intercept,
                init=None if init is None else init[heads],
                active=None if active is None else active[heads],
                rtol=rtol,
                atol=atol,
                max_iterations=max_iterations,
            )
            for heads in chunks
        ]
        return concatenate(parts, order)

    size, lanes = row_bucket(len(rows)), lane_bucket(num_heads)
    valid = jnp.arange(size) < len(rows)
    padded_rows = np.zeros(size, np.int32)
    padded_rows[: len(rows)] = rows
    raw = jnp.ones((1, len(rows)), dtype) if weights is None else weights.astype(dtype)
    x, xt, values, shares = _gather(
        prepared.x,
        jnp.asarray(padded_rows),
        targets.values,
        jnp.pad(raw, [(0, 0), (0, size - len(rows))]),
        valid,
    )
    mass = class_mass(values, shares, targets.num_classes)
    status, offset = _initial_status(jnp.broadcast_to(mass, (num_heads, mass.shape[-1])))
    if active is not None:
        status = jnp.where(active, status, NO_WEIGHT)

    def pad(leaf: Array, fill: float = 0) -> Array:
        """Adds lanes that are finished from the start; what all heads share stays shared."""
        if leaf.shape[0] != num_heads:
            return leaf
        widths = [(0, lanes - num_heads)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=fill)

    if init is None:
        init = jnp.zeros((num_heads, num_logits, x.shape[1] + 1), dtype)
    # Heads that are not fitted start at zero; so do intercepts that an earlier fit left at +-1e9.
    untouched = (status != RUNNING)[:, None, None] | (jnp.abs(init) >= -ABSENT_LOGIT / 10)
    problem = Problem(
        x=x,
        xt=xt,
        targets=pad(values),
        weights=pad(shares),
        l2=pad(l2.astype(dtype), 1),
        offset=pad(offset),
        spectrum=prepared.spectrum,
        loss=jax.tree.map(lambda p: pad(p.astype(dtype), 1), loss),
        intercept=fit_intercept,
    )
    solution = solve(
        problem,
        pad(jnp.where(untouched, 0.0, init)),
        pad(status, NO_WEIGHT),
        rtol=RTOL[dtype.name] if rtol is None else rtol,
        atol=float(jnp.finfo(dtype).eps) * 1e-2 if atol is None else atol,
        max_iterations=max_iterations,
    )
    solution = jax.tree.map(lambda leaf: leaf[:num_heads], solution)
    absent = jnp.any(offset != 0, axis=-1) & (solution.status == CONVERGED)
    return solution._replace(
        params=solution.params.at[..., -1].add(offset),
        status=jnp.where(absent, ABSENT_CLASS, solution.status),
    )
