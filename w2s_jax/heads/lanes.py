"""Heads for the solver: gathers their rows, pads to buckets, queues, and handles absent classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.buckets import chunk_rows, head_bucket, lanes_for, path_length, row_bucket
from w2s_jax.heads.costs import FitCost
from w2s_jax.heads.lbfgs import Problem, Rows, Solution, solve, take_heads
from w2s_jax.heads.losses import Loss, has_no_minimum
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.reductions import sum_last
from w2s_jax.heads.row_sharding import DealtRows, moments, place_rows, rows_in_chunks
from w2s_jax.heads.status import (
    ABSENT_CLASS,
    CONSTANT,
    CONVERGED,
    NO_MINIMUM,
    NO_WEIGHT,
    RUNNING,
)
from w2s_jax.heads.targets import Targets, class_mass, num_logits_of

# Logit of a class that left the softmax: probability exactly 0, yet every product with 0 is finite.
ABSENT_LOGIT = -1e9
# Relative tolerances for convex losses and others, whose gap is but a measure of stationarity.
RTOL = {"float32": (1e-6, 1e-6), "float64": (1e-10, 1e-10)}


@jax.jit
def _join(parts: list[Solution], back: Int[Array | np.ndarray, " h"]) -> Solution:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[back], *parts)


def concatenate(parts: list[Solution], heads: np.ndarray) -> Solution:
    """Joins the solutions of parts of the heads; `heads` names them in the order of the parts."""
    back = np.argsort(heads)
    if len(parts) == 1 and (back == np.arange(len(back))).all():
        return parts[0]
    return _join(parts, back)


def pad(leaf: Array | np.ndarray, sizes: dict[int, int], fill: float = 0) -> Array | np.ndarray:
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


def make_queue(
    l2: Float[np.ndarray, " h"], chains: Int[np.ndarray, " h"] | None, num_lanes: int
) -> list[list[int]]:
    """Heads in the order in which lanes take them, hardest (of the smallest penalty) first.

    Args:
      l2: penalty of each head.
      chains: heads of equal number differ in their penalty alone; None: no two do.
      num_lanes: chains are cut so that all lanes have work, twice over.

    >>> make_queue(np.array([0.1, 1.0, 0.1, 1.0]), np.array([0, 0, 1, 1]), num_lanes=1)
    [[1, 0], [3, 2]]
    """
    order = np.argsort(l2, kind="stable")
    longest = path_length(len(l2), num_lanes)
    if chains is None or longest < 2:
        return [[int(head)] for head in order]
    members: dict[int, list[int]] = {}
    for head in order[::-1]:
        members.setdefault(int(chains[head]), []).append(int(head))
    pieces = [
        chain[start : start + longest]
        for chain in members.values()
        for start in range(0, len(chain), longest)
    ]
    return sorted(pieces, key=lambda piece: (l2[piece[-1]], piece[-1]))


@functools.partial(jax.jit, static_argnames=("num_classes", "intercept", "chunk"))
def _set_up(
    x: Array,
    rows: Array | DealtRows,
    num_rows: Array,
    targets: Array,
    weights: Array,
    l2: Array,
    loss: Loss,
    init: Array | None,
    *,
    num_classes: int,
    intercept: bool,
    chunk: int,
) -> Problem:
    """The problem of padded heads on padded rows."""
    dtype = x.dtype
    num_heads, num_logits = len(l2), num_logits_of(num_classes)

    if isinstance(rows, DealtRows):
        own_x, num_rows, mesh = rows.in_chunks(x, chunk), jnp.asarray(rows.most), rows.mesh
        targets = rows.arrange(targets)
        weights = jnp.where(rows.filled, rows.arrange(weights), 0)
    else:
        own_x, mesh = rows_in_chunks(x, rows, chunk), None
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        targets = targets.astype(dtype)
    weights = weights.astype(dtype)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    shares = weights / jnp.where(total > 0, total, 1.0)
    mass, mean = class_mass(targets, shares, num_classes)
    no_minimum = has_no_minimum(loss, mass, mean) if intercept else jnp.zeros(len(mass), bool)
    mass = jnp.broadcast_to(mass, (num_heads, num_classes))
    verdict, offset = _status_and_offset(mass, jnp.broadcast_to(no_minimum, (num_heads,)))

    shift, center, spectrum = moments(x, rows, shares, center=intercept)
    own_x = tuple(part - shift for part in own_x)

    if init is None:
        params = jnp.zeros((1, num_logits, x.shape[-1] + 1), dtype)
    else:
        # Heads that are not fitted, and classes that are absent, start at zero; so do intercepts
        # that an earlier fit left at +-1e9.
        zero = (verdict != RUNNING)[:, None, None] | (offset != 0)[..., None]
        zero = zero | (jnp.abs(init) >= -ABSENT_LOGIT / 10)
        params = jnp.where(zero, 0.0, init.astype(dtype))
        params = _about(shift + center, params.at[..., -1].multiply(float(intercept)))
    return Problem(
        rows=Rows(
            x=own_x,
            num_chunks=(num_rows + chunk - 1) // chunk,
            intercept=intercept,
            mesh=mesh,
        ),
        targets=targets,
        weights=shares,
        shift=shift,
        center=center,
        spectrum=spectrum,
        l2=l2.astype(dtype),
        offset=offset,
        loss=jax.tree.map(lambda p: p.astype(dtype), loss),
        init=params,
        verdict=verdict,
    )


def _about(center: Float[Array, "#h r"], params: Float[Array, "h k p"]) -> Float[Array, "h k p"]:
    """Parameters of the same heads where the features are centred."""
    return params.at[..., -1].add(sum_last(center[:, None, :] * params[..., :-1]))


@jax.jit
def _finish(solution: Solution, center: Array, offset: Array) -> Solution:
    """Undoes the centring, and gives absent classes their intercept and status."""
    absent = jnp.any(offset != 0, axis=-1) & (solution.status == CONVERGED)
    return solution._replace(
        params=_about(-center, solution.params).at[..., -1].add(offset),
        status=jnp.where(absent, ABSENT_CLASS, solution.status),
    )


@functools.partial(jax.jit, static_argnames="num_heads")
def _first(solution: Solution, num_heads: int) -> Solution:
    return jax.tree.map(lambda leaf: leaf[:num_heads], solution)


def fit_rows(
    prepared: Prepared,
    rows: Int[Array | np.ndarray, " n"],
    targets: Targets,
    *,
    weights: Float[Array | np.ndarray, "#h n"] | None = None,
    l2: Float[np.ndarray, " h"],
    loss: Loss,
    fit_intercept: bool = True,
    init: Float[Array | np.ndarray, "h k p"] | None = None,
    chains: Int[np.ndarray, " h"] | None = None,
    num_heads: int | None = None,
    num_rows: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_iterations: int = 1000,
    memory_budget: int | None = None,
) -> Solution:
    """Fits heads that share their rows, in prepared coordinates and without input checks.

    The engine's entry; `fit_logistic` is the checked one in the caller's coordinates. Targets and
    weights may have a leading axis of 1, shared by all heads. Heads of equal number in `chains`
    differ in their penalty alone: where heads queue for lanes, each starts from the solution of a
    larger penalty. Heads beyond `num_heads` and rows beyond `num_rows` are padding, on which hardly
    a pass is spent; such heads may be returned too, so that their number compiles nothing. Heads
    beyond what `memory_budget` (bytes, see `FitCost`) holds run in turn. Arrays on the host, or of
    bucket sizes, are padded without compiling anything.

    Returns:
      A `Solution`; its last parameter along p is the intercept, offsets of absent classes included.
    """
    dtype = prepared.x.dtype
    padded_by_caller = num_heads is not None
    num_heads = len(l2) if num_heads is None else num_heads
    size = row_bucket(len(rows))
    placed = place_rows(
        prepared.x, pad(rows, {0: size}), len(rows) if num_rows is None else num_rows
    )
    own_size = placed.slots_per_device if isinstance(placed, DealtRows) else size
    cost = FitCost(
        num_rows=len(rows),
        num_features=prepared.x.shape[1],
        num_classes=targets.num_classes,
        num_heads=num_heads,
        soft=not jnp.issubdtype(targets.values.dtype, jnp.integer),
        weighted=weights is not None and len(weights) > 1,
        warm=init is not None,
        itemsize=dtype.itemsize,
        num_devices=prepared.row_shards,
        slots=own_size,
    )
    most = cost.heads_per_call(memory_budget)
    if num_heads > most:
        parts = [np.arange(i, min(i + most, num_heads)) for i in range(0, num_heads, most)]
        solutions = [
            fit_rows(
                prepared,
                rows,
                Targets(take_heads(targets.values, heads), targets.num_classes),
                weights=None if weights is None else take_heads(weights, heads),
                l2=l2[heads],
                loss=jax.tree.map(lambda p, heads=heads: p[heads], loss),
                fit_intercept=fit_intercept,
                init=None if init is None else init[heads],
                chains=None if chains is None else chains[heads],
                num_rows=num_rows,
                rtol=rtol,
                atol=atol,
                max_iterations=max_iterations,
                memory_budget=memory_budget,
            )
            for heads in parts
        ]
        return concatenate(solutions, np.arange(num_heads))

    num_logits = num_logits_of(targets.num_classes)
    padded_heads = head_bucket(len(l2))
    if weights is None:
        weights = np.ones((1, len(rows)), dtype)
    num_lanes = lanes_for(num_heads, num_logits)
    queue = make_queue(l2[:num_heads], None if chains is None else chains[:num_heads], num_lanes)

    def to_buckets(leaf: Array | np.ndarray) -> Array | np.ndarray:
        """Pads rows, the last axis, and heads, unless all share it."""
        shared = leaf.shape[0] == 1
        return pad(leaf, {leaf.ndim - 1: size} | ({} if shared else {0: padded_heads}))

    problem = _set_up(
        prepared.x,
        placed,
        np.int32(len(rows) if num_rows is None else num_rows),
        to_buckets(targets.values),
        to_buckets(weights),
        pad(l2, {0: padded_heads}, 1).astype(dtype),
        jax.tree.map(lambda p: pad(p, {0: padded_heads}, 1), loss),
        None if init is None else pad(init, {0: padded_heads}),
        num_classes=targets.num_classes,
        intercept=fit_intercept,
        chunk=chunk_rows(own_size, num_lanes, num_logits),
    )
    solution = solve(
        problem,
        queue,
        num_lanes=num_lanes,
        rtol=RTOL[dtype.name][not loss.convex] if rtol is None else rtol,
        atol=float(jnp.finfo(dtype).eps) * 1e-2 if atol is None else atol,
        max_iterations=max_iterations,
    )
    solution = _finish(solution, problem.shift + problem.center, problem.offset)
    return solution if padded_by_caller else _first(solution, num_heads)
