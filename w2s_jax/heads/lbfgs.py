"""Lock-step preconditioned L-BFGS: many logistic heads on the same rows, one pass at a time.

A pass evaluates objective and gradient of every lane once, as two matrix products over all lanes,
in chunks of rows whose logits stay in the cache. A lane whose trial step fails its descent test
shrinks the step in the next pass, so no lane ever waits inside another's line search.

Heads queue for lanes. A lane whose head is finished takes the next one: the same problem with the
next smaller penalty, which starts from the solution and keeps its curvature pairs, or another
problem. When the queue is empty the lanes are compacted to ever smaller buckets.

Two-loop recursion and initial scaling: Nocedal and Wright, Numerical Optimization, 2nd ed.,
algorithm 7.4. Approximate Wolfe test in the presence of rounding: Hager and Zhang, SIAM J. Optim.
16(1), 2005.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.buckets import FEW_COLUMNS, LANES, enough_lanes, of_backend
from w2s_jax.heads.losses import Loss, loss_and_residual
from w2s_jax.heads.reductions import sum_last
from w2s_jax.heads.row_sharding import AXIS, DealtRows, along_rows, on_own_rows
from w2s_jax.heads.status import CONVERGED, MAX_ITERATIONS, NO_WEIGHT, RUNNING, STALLED

MEMORY = 5
SUFFICIENT_DECREASE = 1e-4
# The curvature that the preconditioner assumes falls at most tenfold a pass, or without convexity
# to a tenth of its bound.
CURVATURE_FALL = 0.1
# A lane without progress first forgets its curvature pairs, then stops.
FORGET_AFTER, STOP_AFTER = 4, 10
# While heads wait, lanes are exchanged once this share of them has finished.
EXCHANGE_SHARE = 0.125


def take_heads(leaf: Array | np.ndarray, heads: np.ndarray | Array) -> Any:
    """Some of the heads of an array whose leading axis is h, or 1 where all share it."""
    return leaf if leaf.shape[0] == 1 else leaf[heads]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that heads share, in chunks of m; padding rows repeat others and have no weight.

    Attributes:
      x: rows in prepared coordinates less the problem's shift, c chunks of ``[m, r]``; arrays of
        their own, because a slice of one array would be copied in every pass.
      num_chunks: chunks in use; those beyond are padding, and skipped.
      intercept: whether the intercept is free; it stays 0 otherwise.
      mesh: the devices that have m / D rows of every chunk each; None where one has them all.
    """

    x: tuple[Float[Array, "m r"], ...]
    num_chunks: Int[Array, ""]
    intercept: bool = dataclasses.field(metadata={"static": True})
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """All heads on one set of rows. A leading axis of 1 in place of h is shared by all heads.

    Attributes:
      rows: the rows.
      targets: as in `loss_and_residual`, n = c m.
      weights: sample weights ``[h, n]`` that sum to one.
      shift: what the rows' features are less ``[r]``, the mean over all heads of their weighted
        means; zero without an intercept.
      center: each head's weighted mean ``[h, r]`` from there, zero likewise. A head's parameters
        are those of features that are centred on its mean.
      spectrum: weighted mean square of the centred features along each axis ``[h, r]``, for the
        preconditioner.
      l2: penalty per head ``[h]``.
      offset: added to the logits ``[h, k]``; large and negative for classes that left the softmax.
      loss: its hyperparameters ``[h]``.
      init: starting parameters ``[h, k, r + 1]``, the intercept last.
      verdict: RUNNING for heads to fit; others are evaluated at their start and get this status
        ``[h]``.
    """

    rows: Rows
    targets: Array
    weights: Float[Array, "#h n"]
    shift: Float[Array, " r"]
    center: Float[Array, "#h r"]
    spectrum: Float[Array, "#h r"]
    l2: Float[Array, " h"]
    offset: Float[Array, "h k"]
    loss: Loss
    init: Float[Array, "#h k p"]
    verdict: Int[Array, " h"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lanes:
    """What the heads in the lanes train on; chunk by chunk where it has rows.

    Attributes:
      targets: ``[c, l, m]`` or ``[c, l, classes, m]``; l is 1 where all heads share them.
      weights: ``[c, l, m]``, likewise.
      center: ``[l, r]``, likewise.
      spectrum: ``[l, r]``, likewise.
      l2: ``[l]``.
      offset: ``[l, k]``.
      loss: its hyperparameters ``[l]``.
      verdict: ``[l]``.
    """

    targets: Array
    weights: Float[Array, " c #l m"]
    center: Float[Array, "#l r"]
    spectrum: Float[Array, "#l r"]
    l2: Float[Array, " l"]
    offset: Float[Array, "l k"]
    loss: Loss
    verdict: Int[Array, " l"]


class State(NamedTuple):
    """Per lane: the iterate, its gradient, the direction under trial and the curvature pairs.

    Parameters are ``[l, k, r + 1]``, the intercept last. Pairs sit in ``[MEMORY, l, k, r + 1]``
    slots that all lanes fill in step; a lane that rejected its trial leaves its slot empty
    (``inverse_sy = 0``). `spread` and `length` are s'Ss and ||w part of s||^2 of each step.
    `curvature` is the loss's mean curvature in a logit, from what the last step met; the
    preconditioner follows each lane's own. A `fresh` lane has not been evaluated yet.
    """

    params: Float[Array, "l k p"]
    objective: Float[Array, " l"]
    initial_objective: Float[Array, " l"]
    gradient: Float[Array, "l k p"]
    direction: Float[Array, "l k p"]
    slope: Float[Array, " l"]
    step: Float[Array, " l"]
    steps: Float[Array, "m l k p"]
    changes: Float[Array, "m l k p"]
    inverse_sy: Float[Array, "m l"]
    spread: Float[Array, "m l"]
    length: Float[Array, "m l"]
    scale: Float[Array, " l"]
    curvature: Float[Array, " l"]
    gap: Float[Array, " l"]
    stall: Int[Array, " l"]
    iterations: Int[Array, " l"]
    status: Int[Array, " l"]
    fresh: Bool[Array, " l"]
    slot: Int[Array, ""]


PAIRS = ("steps", "changes", "inverse_sy", "spread", "length")


class Solution(NamedTuple):
    """Heads in the coordinates of their problem and how their fits ended (see `fit_logistic`)."""

    params: Float[Array, "h k p"]
    objective: Float[Array, " h"]
    initial_objective: Float[Array, " h"]
    gradient_norm: Float[Array, " h"]
    gap: Float[Array, " h"]
    iterations: Int[Array, " h"]
    status: Int[Array, " h"]


def _dot(a: Float[Array, "h k p"], b: Float[Array, "h k p"]) -> Float[Array, " h"]:
    return sum_last((a * b).reshape(len(a), -1))


def logits_of(
    params: Float[Array, "h k p"], x: Float[Array, "n r"], offset: Array | float = 0.0
) -> Float[Array, "h k n"]:
    """Logits of many heads on one set of rows, as one matrix product."""
    h, k, p = params.shape
    # Both operands are contracted along their rows, so that nothing is transposed in memory.
    w, by_rows = params[..., :-1].reshape(h * k, p - 1), (((1,), (1,)), ((), ()))
    highest = jax.lax.Precision.HIGHEST
    if h * k <= of_backend(FEW_COLUMNS):
        product = jax.lax.dot_general(x, w, by_rows, precision=highest)
        # Without the barrier XLA would exchange the factors again.
        product = jax.lax.optimization_barrier(product).T
    else:
        product = jax.lax.dot_general(w, x, by_rows, precision=highest)
    return product.reshape(h, k, -1) + (params[..., -1] + offset)[..., None]


@jax.jit
def logits_on_rows(
    params: Float[Array, "h k p"], x: Float[Array, "all r"], rows: Int[Array, " n"] | DealtRows
) -> Float[Array, "h k n"]:
    """Logits of many heads on some of the rows of `x` (see `place_rows`)."""
    if isinstance(rows, DealtRows):
        return rows.apply(logits_of, params, x)
    return logits_of(params, x[rows])


def _evaluate(
    rows: Rows, lanes: Lanes, params: Float[Array, "l k p"]
) -> tuple[Float[Array, " l"], Float[Array, "l k p"]]:
    """Objective and gradient of every lane."""
    center, w = lanes.center[:, None, :], params[..., :-1]
    offset = lanes.offset - sum_last(center * w)
    # In this order, everything that is one per row first.
    given = rows.x, lanes.targets, lanes.weights, rows.num_chunks, offset, lanes.loss, params
    if rows.mesh is None:
        sums = _sums_over_rows(*given)
    else:
        by_row = (along_rows(2, 0), along_rows(lanes.targets.ndim), along_rows(3))
        specs = (*by_row, P(), P(), P(), P())
        sums = on_own_rows(_sums_over_devices, rows.mesh, specs, P())(*given)
    value, weight_gradient, intercept_gradient = sums
    intercept_gradient = intercept_gradient[..., None] * float(rows.intercept)
    weight_gradient = weight_gradient.reshape(w.shape) - center * intercept_gradient
    weight_gradient = weight_gradient + lanes.l2[:, None, None] * w
    value = value + 0.5 * lanes.l2 * _dot(w, w)
    return value, jnp.concatenate([weight_gradient, intercept_gradient], axis=-1)


def _sums_over_devices(*given: Any) -> tuple[Array, Array, Array]:
    """Each device's sums, and then those of all: the only exchange of a pass."""
    return jax.lax.psum(_sums_over_rows(*given), AXIS)


Sums = tuple[Array, Array, Array]


def _sums_over_rows(
    x: tuple[Float[Array, "m r"], ...],
    all_targets: Array,
    all_weights: Float[Array, " c #l m"],
    num_chunks: Int[Array, ""],
    offset: Float[Array, "l k"],
    loss: Loss,
    params: Float[Array, "l k p"],
) -> tuple[Float[Array, " l"], Float[Array, "q r"], Float[Array, "l k"]]:
    """Loss and its gradient in weights and intercepts, chunk of rows after chunk of rows."""
    num_lanes, k, p = params.shape

    def add_chunk(chunk: int, sums: Sums) -> Sums:
        value, weight_gradient, intercept_gradient = sums
        logits = logits_of(params, x[chunk], offset)
        weights = all_weights[chunk]
        values, residual = loss_and_residual(loss, logits, all_targets[chunk])
        residual = weights[:, None, :] * residual
        product = jnp.matmul(
            residual.reshape(num_lanes * k, -1), x[chunk], precision=jax.lax.Precision.HIGHEST
        )
        return (
            value + sum_last(weights * values),
            weight_gradient + product,
            intercept_gradient + sum_last(residual),
        )

    sums = (
        jnp.zeros(num_lanes, params.dtype),
        jnp.zeros((num_lanes * k, p - 1), params.dtype),
        jnp.zeros((num_lanes, k), params.dtype),
    )
    if len(x) == 1:
        return add_chunk(0, sums)
    for chunk in range(len(x)):
        # As branches, which wait for the sums before them: XLA would compute the logits of all
        # chunks at a time, and drops barriers that forbid it.
        sums = jax.lax.cond(
            chunk < num_chunks, functools.partial(add_chunk, chunk), lambda sums: sums, sums
        )
    return sums


def _curvature_bound(num_logits: int) -> float:
    """Where a lane's curvature starts, and its upper bound.

    The largest second derivative at two classes. For softmax a fixed fraction of the trace, because
    the sharp bound (1/2) is attained by no head that is not a coin toss.
    """
    return 0.25 if num_logits == 1 else 1.0 / num_logits


def _preconditioner(
    spectrum: Float[Array, "#l r"], l2: Float[Array, " l"], curvature: Float[Array, " l"]
) -> Float[Array, "l 1 p"]:
    """Diagonal of an inverse Hessian model, 1 / (c s_j + l2), with c the lane's curvature."""
    c, eps = curvature[:, None], jnp.finfo(spectrum.dtype).eps
    # The floor keeps directions without any variance from amplifying rounding errors. Without a
    # penalty it is all that does, and directions of as little variance as rounding has count as
    # none; with one, features of very different scales each keep their own.
    least = jnp.where(l2 > 0, eps**2, eps)[:, None]
    floor = c * least * jnp.max(spectrum, axis=-1, keepdims=True)
    floor = jnp.maximum(floor, 1e3 * jnp.finfo(spectrum.dtype).tiny)
    diagonal = jnp.maximum(c * spectrum + l2[:, None], floor)
    return 1.0 / jnp.concatenate([diagonal, c], axis=-1)[:, None, :]


def _two_loop(state: State, preconditioner: Array) -> Float[Array, "l k p"]:
    """Two-loop recursion over the slots, newest first. Empty slots change nothing."""
    q = state.gradient
    alphas = [jnp.zeros_like(state.scale)] * MEMORY
    slots = [(state.slot - 1 - age) % MEMORY for age in range(MEMORY)]
    for age, slot in enumerate(slots):
        alphas[age] = state.inverse_sy[slot] * _dot(state.steps[slot], q)
        q = q - alphas[age][:, None, None] * state.changes[slot]
    r = state.scale[:, None, None] * preconditioner * q
    for age, slot in reversed(list(enumerate(slots))):
        beta = state.inverse_sy[slot] * _dot(state.changes[slot], r)
        r = r + (alphas[age] - beta)[:, None, None] * state.steps[slot]
    return -r


class _Next(NamedTuple):
    """What a lane does from where it stands."""

    direction: Float[Array, "l k p"]
    slope: Float[Array, " l"]
    gap: Float[Array, " l"]


def _next_direction(lanes: Lanes, state: State, preconditioner: Array) -> _Next:
    """Direction, its slope, and an estimate of the gap to the minimum.

    The gap is g'Hg / 2 under the larger of two inverse Hessian models H. Convex objectives divide
    the diagonal model's by the least curvature that a recent step met in units of the model's, for
    what is left to gain lies along the softest directions.
    """
    direction = _two_loop(state, preconditioner)
    slope = _dot(state.gradient, direction)
    plain = -preconditioner * state.gradient
    plain_slope = _dot(state.gradient, plain)
    uphill = (slope >= 0) | ~jnp.isfinite(slope)
    direction = jnp.where(uphill[:, None, None], plain, direction)
    slope = jnp.where(uphill, plain_slope, slope)
    softest = jnp.ones_like(slope)
    if lanes.loss.convex:
        modelled = state.curvature * state.spread + lanes.l2 * state.length
        known = state.inverse_sy > 0
        met = 1.0 / jnp.where(known, state.inverse_sy * modelled, 1.0)
        softest = jnp.min(jnp.where(known & (modelled > 0), met, 1.0), axis=0)
    gap = -0.5 * jnp.minimum(slope, plain_slope / jnp.clip(softest, 1e-3, 1.0))
    return _Next(direction, slope, gap)


def _arrived(state: State, tolerance: "Tolerance") -> Bool[Array, " l"]:
    return state.gap <= tolerance.rtol * jnp.abs(state.objective) + tolerance.atol


class Tolerance(NamedTuple):
    """Stop where ``gap <= rtol |F| + atol``, or after so many passes."""

    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    max_iterations: Int[Array, ""]


def _one_pass(rows: Rows, lanes: Lanes, state: State, tolerance: Tolerance) -> State:
    active = state.status == RUNNING
    trial = state.params + state.step[:, None, None] * state.direction
    value, gradient = _evaluate(rows, lanes, trial)
    # A trial that overflowed is treated like one that went too far.
    value = jnp.where(jnp.isfinite(value), value, jnp.inf)
    # A fresh lane's trial is its start; it is compared with nothing.
    before = jnp.where(state.fresh, value, state.objective)

    rounding = 4 * jnp.finfo(trial.dtype).eps * jnp.abs(before)
    decrease = before - value
    descends = decrease >= -SUFFICIENT_DECREASE * state.step * state.slope
    flat = (decrease >= -rounding) & (_dot(gradient, state.direction) <= -0.9 * state.slope)
    accept = active & jnp.isfinite(value) & (state.fresh | descends | flat)
    progress = accept & (state.fresh | (decrease > rounding))

    # Rejected: minimum of the parabola through both values and the slope, safeguarded.
    drop = state.step * state.slope
    parabola = -0.5 * drop / jnp.where(value > before + drop, -decrease - drop, 1.0)
    shrink = jnp.where(jnp.isfinite(value), jnp.clip(parabola, 0.1, 0.5), 0.1)

    moved = (accept & ~state.fresh)[:, None, None]
    step = jnp.where(moved, state.step[:, None, None] * state.direction, 0.0)
    change = jnp.where(moved, gradient - state.gradient, 0.0)
    stall = jnp.where(progress, 0, state.stall + 1)
    forget = active & (stall == FORGET_AFTER)

    # The loss's curvature c along the step: s'y = c s'Ss + l2 ||w part of s||^2, S the spectrum.
    # Heads that fit their rows well have far less than the bound. Without convexity a step may run
    # along a valley whose floor is flat or bent the other way, and tells little: the geometric mean
    # with the bound, or where it is bent the bound itself.
    sy, ss, yy = _dot(step, change), _dot(step, step), _dot(change, change)
    w, b = step[..., :-1], step[..., -1]
    length = _dot(w, w)
    spread = _dot(lanes.spectrum[:, None, :] * w, w) + jnp.sum(b * b, axis=-1)
    bound = _curvature_bound(step.shape[1])
    met = (sy - lanes.l2 * length) / jnp.where(spread > 0, spread, 1.0)
    told = spread > 0
    if lanes.loss.convex:
        told = told & (sy > 0)
        met = jnp.clip(met, CURVATURE_FALL * state.curvature, bound)
    else:
        mean = jnp.clip(jnp.sqrt(jnp.maximum(met, 0.0) * bound), CURVATURE_FALL * bound, bound)
        met = jnp.where(met > 0, mean, bound)
    curvature = jnp.where(told, met, state.curvature)
    curvature = jnp.where(forget, bound, curvature)
    preconditioner = _preconditioner(lanes.spectrum, lanes.l2, curvature)
    # Scale of the initial inverse Hessian from the newest pair; negative curvature doubles it.
    ypy = _dot(change, preconditioner * change)
    scale = jnp.where(sy > 0, sy / jnp.where(ypy > 0, ypy, 1.0), 2 * state.scale)
    scale = jnp.where(moved[:, 0, 0], scale, state.scale)
    scale = jnp.where((scale > 0) & ~forget, scale, 1.0)

    useful = moved[:, 0, 0] & (sy > 1e-7 * jnp.sqrt(ss * yy))
    slot = state.slot % MEMORY
    inverse_sy = jnp.where(useful, 1.0 / jnp.where(useful, sy, 1.0), 0.0)
    updated = state._replace(
        params=jnp.where(accept[:, None, None], trial, state.params),
        objective=jnp.where(accept, value, state.objective),
        initial_objective=jnp.where(accept & state.fresh, value, state.initial_objective),
        gradient=jnp.where(accept[:, None, None], gradient, state.gradient),
        steps=state.steps.at[slot].set(step),
        changes=state.changes.at[slot].set(change),
        inverse_sy=jnp.where(forget, 0.0, state.inverse_sy.at[slot].set(inverse_sy)),
        spread=state.spread.at[slot].set(spread),
        length=state.length.at[slot].set(length),
        scale=scale,
        curvature=curvature,
        stall=jnp.where(active, stall, state.stall),
        iterations=state.iterations + active,
        fresh=state.fresh & ~accept,
        slot=state.slot + 1,
    )
    then = _next_direction(lanes, updated, preconditioner)
    renew = accept | forget
    updated = updated._replace(
        direction=jnp.where(renew[:, None, None], then.direction, state.direction),
        slope=jnp.where(renew, then.slope, state.slope),
        step=jnp.where(renew, 1.0, state.step * shrink),
        gap=jnp.where(accept, then.gap, state.gap),
    )
    status = jnp.where(stall >= STOP_AFTER, STALLED, RUNNING)
    status = jnp.where(updated.iterations >= tolerance.max_iterations, MAX_ITERATIONS, status)
    status = jnp.where(_arrived(updated, tolerance), CONVERGED, status)
    status = jnp.where(accept & (lanes.verdict != RUNNING), lanes.verdict, status)
    return updated._replace(status=jnp.where(active, status, state.status).astype(jnp.int32))


@functools.partial(jax.jit, donate_argnames="state")
def _advance(rows: Rows, lanes: Lanes, state: State, tolerance: Tolerance, enough: Array) -> State:
    """Passes until at most `enough` lanes are still running."""

    def more(state: State) -> Array:
        return jnp.sum(state.status == RUNNING) > enough

    return jax.lax.while_loop(more, lambda s: _one_pass(rows, lanes, s, tolerance), state)


def _load(problem: Problem, heads: Int[Array, " l"]) -> Lanes:
    """The data of some heads, rows in chunks."""
    chunks, mesh = len(problem.rows.x), problem.rows.mesh

    def split(own: Array) -> Array:
        return jnp.moveaxis(own.reshape(*own.shape[:-1], chunks, own.shape[-1] // chunks), -2, 0)

    def in_chunks(leaf: Array) -> Array:
        own = take_heads(leaf, heads)
        if mesh is None:
            return split(own)
        return on_own_rows(split, mesh, along_rows(own.ndim), along_rows(own.ndim + 1))(own)

    return Lanes(
        targets=in_chunks(problem.targets),
        weights=in_chunks(problem.weights),
        center=take_heads(problem.center, heads),
        spectrum=take_heads(problem.spectrum, heads),
        l2=problem.l2[heads],
        offset=problem.offset[heads],
        loss=jax.tree.map(lambda p: p[heads], problem.loss),
        verdict=problem.verdict[heads],
    )


def _fresh_state(problem: Problem, heads: Int[Array, " l"], occupied: Bool[Array, " l"]) -> State:
    """Lanes about to be evaluated at their heads' starts."""
    num_lanes, dtype = len(heads), problem.init.dtype
    params = jnp.broadcast_to(take_heads(problem.init, heads), (num_lanes, *problem.init.shape[1:]))
    pairs = jnp.zeros((MEMORY, *params.shape), dtype)
    scalars = jnp.zeros((MEMORY, num_lanes), dtype)
    zero, one = jnp.zeros(num_lanes, dtype), jnp.ones(num_lanes, dtype)
    none = jnp.zeros(num_lanes, jnp.int32)
    return State(
        params=params,
        objective=zero,
        initial_objective=zero,
        gradient=jnp.zeros_like(params),
        direction=jnp.zeros_like(params),
        slope=zero,
        step=one,
        steps=pairs,
        changes=pairs,
        inverse_sy=scalars,
        spread=scalars,
        length=scalars,
        scale=one,
        curvature=one * _curvature_bound(params.shape[1]),
        gap=jnp.full(num_lanes, jnp.inf, dtype),
        stall=none,
        iterations=none,
        status=jnp.where(occupied, RUNNING, NO_WEIGHT).astype(jnp.int32),
        fresh=occupied,
        slot=jnp.int32(0),
    )


@jax.jit
def _open(problem: Problem, heads: Array, occupied: Array) -> tuple[Lanes, State]:
    return _load(problem, heads), _fresh_state(problem, heads, occupied)


def _continued(lanes: Lanes, new: Lanes, state: State, tolerance: Tolerance) -> State:
    """The state under another penalty of the same problems, without any pass over the data."""
    extra = new.l2 - lanes.l2
    w = state.params[..., :-1]
    objective = state.objective + 0.5 * extra * _dot(w, w)
    # A pair's s'y changes by the same rule; one that drowns in rounding is dropped.
    known = state.inverse_sy > 0
    old = 1.0 / jnp.where(known, state.inverse_sy, 1.0)
    sy = old + extra * state.length
    keep = known & (sy > 1e-3 * old)
    zero = jnp.zeros_like(state.stall)
    by_parameter = extra[:, None, None]
    state = state._replace(
        objective=objective,
        initial_objective=objective,
        gradient=state.gradient.at[..., :-1].add(by_parameter * w),
        changes=state.changes.at[..., :-1].add(by_parameter * state.steps[..., :-1]),
        inverse_sy=jnp.where(keep, 1.0 / jnp.where(keep, sy, 1.0), 0.0),
        step=jnp.ones_like(state.step),
        stall=zero,
        iterations=zero,
    )
    preconditioner = _preconditioner(new.spectrum, new.l2, state.curvature)
    then = _next_direction(new, state, preconditioner)
    state = state._replace(direction=then.direction, slope=then.slope, gap=then.gap)
    status = jnp.where(_arrived(state, tolerance), CONVERGED, RUNNING)
    status = jnp.where(new.verdict == RUNNING, status, new.verdict)
    return state._replace(status=status.astype(jnp.int32))


def _choose(which: Bool[Array, " l"], new: State, old: State) -> State:
    """Lanes of one state or the other."""

    def choose(name: str, a: Array, b: Array) -> Array:
        if name == "slot":
            return b
        axis = 1 if name in PAIRS else 0
        shape = [1] * a.ndim
        shape[axis] = -1
        return jnp.where(which.reshape(shape), a, b)

    return State(*(choose(name, getattr(new, name), getattr(old, name)) for name in State._fields))


def _written(out: Solution, state: State, heads: Int[Array, " l"]) -> Solution:
    """Writes lanes into the solution of all heads; a head beyond the last is none."""
    new = Solution(
        params=state.params,
        objective=jnp.where(state.fresh, jnp.inf, state.objective),  # a start that overflows
        initial_objective=state.initial_objective,
        gradient_norm=jnp.sqrt(_dot(state.gradient, state.gradient)),
        gap=state.gap,
        iterations=state.iterations,
        status=state.status,
    )
    return jax.tree.map(lambda all_, part: all_.at[heads].set(part, mode="drop"), out, new)


@functools.partial(jax.jit, donate_argnames=("lanes", "state", "out"))
def _exchange(
    problem: Problem,
    lanes: Lanes,
    state: State,
    out: Solution,
    tolerance: Tolerance,
    done: Int[Array, " l"],
    heads: Int[Array, " l"],
    follows: Bool[Array, " l"],
    starts: Bool[Array, " l"],
) -> tuple[Lanes, State, Solution]:
    """Writes finished heads (`done`) and gives their lanes the heads that follow or start."""
    out = _written(out, state, done)
    new = _load(problem, heads)
    state = _choose(follows, _continued(lanes, new, state, tolerance), state)
    return new, _choose(starts, _fresh_state(problem, heads, starts), state), out


@functools.partial(jax.jit, donate_argnames="out")
def _compact(
    problem: Problem, state: State, out: Solution, done: Array, heads: Array, kept: Array
) -> tuple[Lanes, State, Solution]:
    """Writes finished heads and keeps some of the lanes."""
    out = _written(out, state, done)
    leaves = {
        name: leaf if name == "slot" else leaf[:, kept] if name in PAIRS else leaf[kept]
        for name, leaf in state._asdict().items()
    }
    return _load(problem, heads), State(**leaves), out


@functools.partial(jax.jit, donate_argnames="out")
def _close(state: State, out: Solution, done: Array) -> Solution:
    return _written(out, state, done)


@jax.jit
def _empty(problem: Problem) -> Solution:
    """What heads that are never fitted get."""
    num_heads, dtype = len(problem.l2), problem.init.dtype
    none = jnp.zeros(num_heads, dtype)
    return Solution(
        params=jnp.zeros((num_heads, *problem.init.shape[1:]), dtype),
        objective=none,
        initial_objective=none,
        gradient_norm=none,
        gap=none,
        iterations=jnp.zeros(num_heads, jnp.int32),
        status=jnp.full(num_heads, NO_WEIGHT, jnp.int32),
    )


def solve(
    problem: Problem,
    queue: Sequence[Sequence[int]],
    *,
    num_lanes: int,
    rtol: float,
    atol: float,
    max_iterations: int,
) -> Solution:
    """Minimises the objective of every head in the queue.

    Args:
      problem: all heads.
      queue: heads in the order in which they are taken, each once: chains whose members differ in
        their penalty alone, descending. A chain runs in one lane, each member from the solution of
        the one before.
      num_lanes: heads that are fitted at a time, one of `LANES`; fewer where the queue is shorter.
      rtol: stop where the estimated gap to the minimum is below ``rtol |F| + atol``.
      atol: see rtol.
      max_iterations: passes a head may take.

    Returns:
      One entry per head of the problem, in order; heads that were not in the queue have no weight.
    """
    dtype = problem.init.dtype
    tolerance = Tolerance(
        jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype), jnp.int32(max_iterations)
    )
    none = len(problem.l2)
    waiting = collections.deque(collections.deque(chain) for chain in queue)
    out = _empty(problem)
    if not waiting:
        return out
    # One chain a lane; `heads` is the one it works on, `none` in an idle lane.
    size = min(num_lanes, enough_lanes(len(waiting)))
    chains = [waiting.popleft() if waiting else collections.deque() for _ in range(size)]
    heads = np.array([chain.popleft() if chain else none for chain in chains])
    lanes, state = _open(problem, np.where(heads == none, 0, heads), heads != none)
    while True:
        more = bool(waiting) or any(chains)
        smaller = max((b for b in LANES if b < len(heads)), default=0)
        in_work = int(np.sum(heads != none))
        enough = max(0, in_work - max(1, int(EXCHANGE_SHARE * size))) if more else smaller
        state = _advance(problem.rows, lanes, state, tolerance, jnp.int32(enough))
        running = np.asarray(state.status) == RUNNING
        done = np.where(running, none, heads)
        if more:
            follows, starts = np.zeros(size, bool), np.zeros(size, bool)
            heads = np.where(running, heads, none)
            for lane in np.flatnonzero(~running):
                follows[lane] = bool(chains[lane])
                if not chains[lane] and waiting:
                    chains[lane] = waiting.popleft()
                    starts[lane] = True
                if chains[lane]:
                    heads[lane] = chains[lane].popleft()
            lanes, state, out = _exchange(
                problem,
                lanes,
                state,
                out,
                tolerance,
                done,
                np.where(heads == none, 0, heads),
                follows,
                starts,
            )
            continue
        # One size at a time, so that a call compiles the same programs wherever its heads end.
        if not smaller:
            return _close(state, out, done)
        kept = np.concatenate([np.flatnonzero(running), np.flatnonzero(~running)])[:smaller]
        heads = np.where(running, heads, none)[kept]
        loaded = np.where(heads == none, 0, heads)
        lanes, state, out = _compact(problem, state, out, done, loaded, kept)
