"""Heads as lanes of the solver: gathers their rows, pads to buckets, and handles absent classes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.lbfgs import Problem, Solution, lane_bucket, solve, take_heads
from w2s_jax.heads.losses import Loss, has_no_minimum
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.status import (
    ABSENT_CLASS,
    CONSTANT,
    CONVERGED,
    NO_MINIMUM,
    NO_WEIGHT,
    RUNNING,
)
from w2s_jax.heads.targets import Targets, class_mass

# Logit of a class that left the softmax: probability exactly 0, yet every product with 0 is finite.
ABSENT_LOGIT = -1e9
MAX_LANES = 512
# Relative tolerances for convex losses and others, whose gap is but a measure of stationarity.
RTOL = {"float32": (3e-7, 1e-6), "float64": (1e-10, 1e-10)}


@jax.jit
def _join(parts: list[Solution], back: Int[Array | np.ndarray, " h"]) -> Solution:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts)


def concatenate(parts: list[Solution], heads: np.ndarray) -> Solution:
    """Joins the solutions of parts of the heads; `heads` names them in the order of the parts."""
    back = np.argsort(heads)
    if len(parts) == 1 and (back == np.arange(len(back))).all():
        return parts[0]
    return _join(parts, back)


def row_bucket(size: int) -> int:
    """Padded number of rows: at most a quarter more, so that few shapes are ever compiled.

    >>> row_bucket(200), row_bucket(2000), row_bucket(2049)
    (224, 2048, 2560)
    """
    if size <= 64:
        return 64
    unit = 2 ** (math.ceil(math.log2(size)) - 3)
    return math.ceil(size / unit) * unit


def _pad(leaf: Array | np.ndarray, sizes: dict[int, int], fill: float = 0) -> Array | np.ndarray:
    """Extends some axes of an array, given as {axis: size}; on the host if it lies there."""
    widths = [(0, sizes.get(axis, length) - length) for axis, length in enumerate(leaf.shape)]
    if not any(extra for _, extra in widths):
        return leaf
    pad = np.pad if isinstance(leaf, np.ndarray) else jnp.pad
    return pad(leaf, widths, constant_values=fill)


def _status_and_offset(
    mass: Float[Array, "h c"], no_minimum: Bool[Array, " h"]
) -> tuple[Int[Array, " h"], Float[Array, "h k"]]:
    """Status and logit offset of every head, from the weight of each class."""
    present = mass > 0
    num_present = jnp.sum(present, axis=-1)
    status = jnp.where(no_minimum, NO_MINIMUM, RUNNING)
    status = jnp.where(num_present == 1, CONSTANT, status)
    status = jnp.where(num_present == 0, NO_WEIGHT, status)
    some = (num_present > 0)[:, None]
    if mass.shape[-1] == 2:
        sign = jnp.where(present[:, 1:], -1.0, 1.0)
        offset = jnp.where((num_present == 1)[:, None], sign * ABSENT_LOGIT, 0.0)
    else:
        offset = jnp.where(some & ~present, ABSENT_LOGIT, 0.0)
    return status.astype(jnp.int32), offset.astype(mass.dtype)


@functools.partial(jax.jit, static_argnames=("num_classes", "intercept"))
def _set_up(
    x: Array,
    spectrum: Array,
    rows: Array,
    num_rows: Array,
    targets: Array,
    weights: Array,
    l2: Array,
    loss: Loss,
    init: Array | None,
    active: Array,
    *,
    num_classes: int,
    intercept: bool,
) -> tuple[Problem, Array, Array]:
    """The problem of padded lanes on padded rows, its start and each lane's first status."""
    dtype = x.dtype
    num_lanes, num_logits = len(l2), 1 if num_classes == 2 else num_classes
    x = jnp.where((jnp.arange(len(rows)) < num_rows)[:, None], x[rows], 0.0)
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        targets = targets.astype(dtype)
    weights = weights.astype(dtype)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    shares = weights / jnp.where(total > 0, total, 1.0)
    mass, mean = class_mass(targets, shares, num_classes)
    no_minimum = has_no_minimum(loss, mass, mean) if intercept else jnp.zeros(len(mass), bool)
    mass = jnp.broadcast_to(mass, (num_lanes, num_classes))
    status, offset = _status_and_offset(mass, jnp.broadcast_to(no_minimum, (num_lanes,)))
    status = jnp.where(active, status, NO_WEIGHT)

    if init is None:
        params = jnp.zeros((num_lanes, num_logits, x.shape[1] + 1), dtype)
    else:
        # Heads that are not fitted, and classes that are absent, start at zero; so do intercepts
        # that an earlier fit left at +-1e9.
        zero = (status != RUNNING)[:, None, None] | (offset != 0)[..., None]
        zero = zero | (jnp.abs(init) >= -ABSENT_LOGIT / 10)
        params = jnp.where(zero, 0.0, init.astype(dtype))
        params = params.at[..., -1].multiply(float(intercept))
    problem = Problem(
        x=x,
        xt=x.T,
        targets=targets,
        weights=shares,
        l2=l2.astype(dtype),
        offset=offset,
        spectrum=spectrum,
        loss=jax.tree.map(lambda p: p.astype(dtype), loss),
        intercept=intercept,
    )
    return problem, params, status


@functools.partial(jax.jit, static_argnames="num_heads")
def _finish(solution: Solution, offset: Array, num_heads: int) -> Solution:
    """Drops padding lanes, and gives absent classes their intercept and status."""
    absent = jnp.any(offset != 0, axis=-1) & (solution.status == CONVERGED)
    solution = solution._replace(
        params=solution.params.at[..., -1].add(offset),
        status=jnp.where(absent, ABSENT_CLASS, solution.status),
    )
    return jax.tree.map(lambda leaf: leaf[:num_heads], solution)


def fit_rows(
    prepared: Prepared,
    rows: Int[Array | np.ndarray, " n"],
    targets: Targets,
    *,
    weights: Float[Array | np.ndarray, "#h n"] | None = None,
    l2: Float[Array | np.ndarray, " h"],
    loss: Loss,
    fit_intercept: bool = True,
    init: Float[Array | np.ndarray, "h k p"] | None = None,
    active: Bool[Array | np.ndarray, " h"] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_iterations: int = 1000,
) -> Solution:
    """Fits heads that share their rows, in prepared coordinates and without input checks.

    The engine's entry; `fit_logistic` is the checked one in the caller's coordinates. Targets and
    weights may have a leading axis of 1, shared by all heads. Heads beyond `MAX_LANES` run in
    chunks of similar l2. Heads that are not `active` are padding: no pass is spent on them. Arrays
    on the host, or of bucket sizes, are padded without compiling anything.

    Returns:
      A `Solution`; its last parameter along p is the intercept, offsets of absent classes included.
    """
    dtype = prepared.x.dtype
    num_heads = len(l2)
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
    if weights is None:
        weights = np.ones((1, len(rows)), dtype)

    def to_buckets(leaf: Array | np.ndarray) -> Array | np.ndarray:
        """Pads rows, the last axis, and heads, unless all share it."""
        shared = leaf.shape[0] == 1
        return _pad(leaf, {leaf.ndim - 1: size} | ({} if shared else {0: lanes}))

    problem, params, status = _set_up(
        prepared.x,
        prepared.spectrum,
        _pad(rows, {0: size}),
        np.int32(len(rows)),
        to_buckets(targets.values),
        to_buckets(weights),
        _pad(l2, {0: lanes}, 1),
        jax.tree.map(lambda p: _pad(p, {0: lanes}, 1), loss),
        None if init is None else _pad(init, {0: lanes}),
        _pad(np.ones(num_heads, bool) if active is None else active, {0: lanes}),
        num_classes=targets.num_classes,
        intercept=fit_intercept,
    )
    solution = solve(
        problem,
        params,
        status,
        rtol=RTOL[dtype.name][not loss.convex] if rtol is None else rtol,
        atol=float(jnp.finfo(dtype).eps) * 1e-2 if atol is None else atol,
        max_iterations=max_iterations,
    )
    return _finish(solution, problem.offset, num_heads)
