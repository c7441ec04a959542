"""Lock-step preconditioned L-BFGS: many logistic heads on the same rows, one pass at a time.

A pass evaluates objective and gradient of every lane (head) once, as two matrix products over all
lanes. A lane whose trial step fails its descent test shrinks the step in the next pass, so no lane
ever waits inside another's line search. Finished lanes leave the batch, which is compacted to the
next smaller bucket size.

Two-loop recursion and initial scaling: Nocedal and Wright, Numerical Optimization, 2nd ed.,
algorithm 7.4. Approximate Wolfe test in the presence of rounding: Hager and Zhang, SIAM J. Optim.
16(1), 2005.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from w2s_jax.heads.losses import Loss, loss_per_sample
from w2s_jax.heads.status import CONVERGED, MAX_ITERATIONS, RUNNING, STALLED

MEMORY = 5
LANE_BUCKETS = (8, 32, 128, 512, 2048)
PASSES_PER_CALL = 16
SUFFICIENT_DECREASE = 1e-4
# The curvature that the preconditioner assumes falls at most tenfold a pass.
CURVATURE_FALL = 0.1
# A lane without progress first forgets its curvature pairs, then stops.
FORGET_AFTER, STOP_AFTER = 4, 10


def take_heads(leaf: Array | np.ndarray, heads: np.ndarray | Array) -> Any:
    """Some of the heads of an array whose leading axis is h, or 1 where all share it."""
    return leaf if leaf.shape[0] == 1 else leaf[heads]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """Heads on one set of rows. A leading axis of 1 in place of h is shared by all heads.

    Attributes:
      x: rows ``[n, r]`` in prepared coordinates (padding rows are zero).
      xt: the same, transposed ``[r, n]``, so that neither product has to transpose.
      targets: as in `loss_per_sample`.
      weights: sample weights ``[h, n]`` that sum to one, zero for padding.
      l2: penalty per head ``[h]``.
      offset: added to the logits ``[h, k]``; large and negative for classes that left the softmax.
      spectrum: mean square of the features along each axis ``[r]``, for the preconditioner.
      loss: its hyperparameters ``[h]``.
      intercept: whether the intercept is free; it stays 0 otherwise.
    """

    x: Float[Array, "n r"]
    xt: Float[Array, "r n"]
    targets: Array
    weights: Float[Array, "#h n"]
    l2: Float[Array, " h"]
    offset: Float[Array, "h k"]
    spectrum: Float[Array, " r"]
    loss: Loss
    intercept: bool = dataclasses.field(metadata={"static": True})

    def take(self, lanes: Int[Array, " m"]) -> "Problem":
        """The problem of some of the heads."""
        return dataclasses.replace(
            self,
            targets=take_heads(self.targets, lanes),
            weights=take_heads(self.weights, lanes),
            l2=self.l2[lanes],
            offset=self.offset[lanes],
            loss=jax.tree.map(lambda p: p[lanes], self.loss),
        )


class State(NamedTuple):
    """Per lane: the iterate, its gradient, the direction under trial and the curvature pairs.

    Parameters are ``[h, k, r + 1]``, the intercept last. Pairs sit in ``[MEMORY, h, k, r + 1]``
    slots that all lanes fill in step; a lane that rejected its trial leaves its slot empty
    (``inverse_sy = 0``). `curvature` is the loss's mean curvature in a logit as the last step met
    it; the preconditioner, and with it the gap estimate, follows each lane's own.
    """

    params: Float[Array, "h k p"]
    objective: Float[Array, " h"]
    gradient: Float[Array, "h k p"]
    direction: Float[Array, "h k p"]
    slope: Float[Array, " h"]
    step: Float[Array, " h"]
    steps: Float[Array, "m h k p"]
    changes: Float[Array, "m h k p"]
    inverse_sy: Float[Array, "m h"]
    scale: Float[Array, " h"]
    curvature: Float[Array, " h"]
    gap: Float[Array, " h"]
    stall: Int[Array, " h"]
    iterations: Int[Array, " h"]
    status: Int[Array, " h"]
    slot: Int[Array, ""]


class Solution(NamedTuple):
    """Heads in prepared coordinates and how their fits ended (see `fit_logistic`)."""

    params: Float[Array, "h k p"]
    objective: Float[Array, " h"]
    initial_objective: Float[Array, " h"]
    gradient_norm: Float[Array, " h"]
    gap: Float[Array, " h"]
    iterations: Int[Array, " h"]
    status: Int[Array, " h"]


def _dot(a: Array, b: Array) -> Float[Array, " h"]:
    return jnp.sum(a * b, axis=(-2, -1))


def logits_of(
    params: Float[Array, "h k p"], xt: Float[Array, "r n"], offset: Array | float = 0.0
) -> Float[Array, "h k n"]:
    """Logits of many heads on one set of rows, as one matrix product."""
    h, k, p = params.shape
    product = jnp.matmul(
        params[..., :-1].reshape(h * k, p - 1), xt, precision=jax.lax.Precision.HIGHEST
    )
    return product.reshape(h, k, -1) + (params[..., -1] + offset)[..., None]


def _objective(problem: Problem, params: Float[Array, "h k p"]) -> tuple[Array, Array]:
    logits = logits_of(params, problem.xt, problem.offset)

    def weighted_loss(z: Array) -> tuple[Array, Array]:
        values = problem.weights * loss_per_sample(problem.loss, z, problem.targets)
        return jnp.sum(values), jnp.sum(values, axis=-1)

    residual, data_term = jax.grad(weighted_loss, has_aux=True)(logits)
    h, k, n = residual.shape
    weight_gradient = jnp.matmul(
        residual.reshape(h * k, n), problem.x, precision=jax.lax.Precision.HIGHEST
    ).reshape(h, k, -1)
    w = params[..., :-1]
    weight_gradient = weight_gradient + problem.l2[:, None, None] * w
    intercept_gradient = jnp.sum(residual, axis=-1, keepdims=True) * float(problem.intercept)
    value = data_term + 0.5 * problem.l2 * _dot(w, w)
    return value, jnp.concatenate([weight_gradient, intercept_gradient], axis=-1)


def _curvature_bound(num_logits: int) -> float:
    """Where a lane's curvature starts, and its upper bound.

    The largest second derivative at two classes. For softmax a fixed fraction of the trace, because
    the sharp bound (1/2) is attained by no head that is not a coin toss.
    """
    return 0.25 if num_logits == 1 else 1.0 / num_logits


def _preconditioner(problem: Problem, curvature: Float[Array, " h"]) -> Float[Array, "h 1 p"]:
    """Diagonal of an inverse Hessian model, 1 / (c s_j + l2), with c the lane's curvature."""
    c = curvature[:, None]
    # The floor keeps directions without any variance from amplifying rounding errors.
    floor = c * jnp.finfo(problem.x.dtype).eps * jnp.maximum(problem.spectrum[0], 1e-30)
    diagonal = jnp.maximum(c * problem.spectrum + problem.l2[:, None], floor)
    return 1.0 / jnp.concatenate([diagonal, c], axis=-1)[:, None, :]


def _curvature_along(problem: Problem, state: State, step: Array, sy: Array) -> Float[Array, " h"]:
    """The loss's curvature c along a step: s'y = c s'Ss + l2 ||w part of s||^2, S the spectrum.

    Heads that fit their rows well have far less than the bound. Without convexity a step may run
    along a valley whose floor is flat or bent the other way, and tells nothing: the bound stays.
    """
    if not problem.loss.convex:
        return state.curvature
    w, b = step[..., :-1], step[..., -1]
    modelled = _dot(problem.spectrum * w, w) + jnp.sum(b * b, axis=-1)
    met = (sy - problem.l2 * _dot(w, w)) / jnp.where(modelled > 0, modelled, 1.0)
    met = jnp.clip(met, CURVATURE_FALL * state.curvature, _curvature_bound(step.shape[1]))
    return jnp.where((modelled > 0) & (sy > 0), met, state.curvature)


def _descent_direction(state: State, preconditioner: Array) -> Float[Array, "h k p"]:
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


def _begin(problem: Problem, params: Array) -> State:
    objective, gradient = _objective(problem, params)
    curvature = jnp.full_like(problem.l2, _curvature_bound(params.shape[1]))
    preconditioner = _preconditioner(problem, curvature)
    direction = -preconditioner * gradient
    slope = _dot(gradient, direction)
    h = params.shape[0]
    pairs = jnp.zeros((MEMORY, *params.shape), params.dtype)
    return State(
        params=params,
        objective=objective,
        gradient=gradient,
        direction=direction,
        slope=slope,
        step=jnp.ones_like(objective),
        steps=pairs,
        changes=pairs,
        inverse_sy=jnp.zeros((MEMORY, h), params.dtype),
        scale=jnp.ones_like(objective),
        curvature=curvature,
        gap=-0.5 * slope,
        stall=jnp.zeros(h, jnp.int32),
        iterations=jnp.zeros(h, jnp.int32),
        status=jnp.full(h, RUNNING, jnp.int32),
        slot=jnp.int32(0),
    )


def _update_pairs(state: State, step: Array, change: Array, accept: Array) -> State:
    """Stores a curvature pair in this pass's slot; lanes that rejected leave theirs empty."""
    sy, ss, yy = _dot(step, change), _dot(step, step), _dot(change, change)
    useful = accept & (sy > 1e-7 * jnp.sqrt(ss * yy))
    slot = state.slot % MEMORY
    return state._replace(
        steps=state.steps.at[slot].set(step),
        changes=state.changes.at[slot].set(change),
        inverse_sy=state.inverse_sy.at[slot].set(
            jnp.where(useful, 1.0 / jnp.where(useful, sy, 1.0), 0.0)
        ),
        slot=state.slot + 1,
    )


def _one_pass(problem: Problem, state: State, rtol: Array, atol: Array, limit: Array) -> State:
    active = state.status == RUNNING
    trial = state.params + state.step[:, None, None] * state.direction
    value, gradient = _objective(problem, trial)
    # A trial that overflowed is treated like one that went too far.
    value = jnp.where(jnp.isfinite(value), value, jnp.inf)

    rounding = 4 * jnp.finfo(trial.dtype).eps * jnp.abs(state.objective)
    decrease = state.objective - value
    descends = decrease >= -SUFFICIENT_DECREASE * state.step * state.slope
    flat = (decrease >= -rounding) & (_dot(gradient, state.direction) <= -0.9 * state.slope)
    accept = active & (descends | flat)
    progress = accept & (decrease > rounding)

    # Rejected: minimum of the parabola through both values and the slope, safeguarded.
    drop = state.step * state.slope
    parabola = -0.5 * drop / jnp.where(value > state.objective + drop, -decrease - drop, 1.0)
    shrink = jnp.where(jnp.isfinite(value), jnp.clip(parabola, 0.1, 0.5), 0.1)

    take = accept[:, None, None]
    step = jnp.where(take, state.step[:, None, None] * state.direction, 0.0)
    change = jnp.where(take, gradient - state.gradient, 0.0)
    stall = jnp.where(progress, 0, state.stall + 1)
    forget = active & (stall == FORGET_AFTER)
    updated = _update_pairs(state, step, change, accept)
    inverse_sy = jnp.where(forget, 0.0, updated.inverse_sy)
    # Scale of the initial inverse Hessian from the newest pair; negative curvature doubles it.
    sy = _dot(step, change)
    curvature = _curvature_along(problem, state, step, sy)
    curvature = jnp.where(forget, _curvature_bound(step.shape[1]), curvature)
    preconditioner = _preconditioner(problem, curvature)
    ypy = _dot(change, preconditioner * change)
    scale = jnp.where(
        accept, jnp.where(sy > 0, sy / jnp.where(ypy > 0, ypy, 1.0), 2 * state.scale), state.scale
    )
    scale = jnp.where((scale > 0) & ~forget, scale, 1.0)
    updated = updated._replace(
        params=jnp.where(take, trial, state.params),
        objective=jnp.where(accept, value, state.objective),
        gradient=jnp.where(take, gradient, state.gradient),
        inverse_sy=inverse_sy,
        scale=scale,
        curvature=curvature,
    )
    direction = _descent_direction(updated, preconditioner)
    slope = _dot(updated.gradient, direction)
    plain = -preconditioner * updated.gradient
    plain_slope = _dot(updated.gradient, plain)
    uphill = (slope >= 0) | ~jnp.isfinite(slope)
    direction = jnp.where(uphill[:, None, None], plain, direction)
    slope = jnp.where(uphill, plain_slope, slope)

    renew = accept | forget
    gap = jnp.where(accept, -0.5 * jnp.minimum(slope, plain_slope), state.gap)
    iterations = state.iterations + active
    status = jnp.where(stall >= STOP_AFTER, STALLED, RUNNING)
    status = jnp.where(iterations >= limit, MAX_ITERATIONS, status)
    status = jnp.where(gap <= rtol * jnp.abs(updated.objective) + atol, CONVERGED, status)
    return updated._replace(
        direction=jnp.where(renew[:, None, None], direction, state.direction),
        slope=jnp.where(renew, slope, state.slope),
        step=jnp.where(renew, 1.0, state.step * shrink),
        gap=gap,
        stall=jnp.where(active, stall, state.stall),
        iterations=iterations,
        status=jnp.where(active, status, state.status).astype(jnp.int32),
    )


@jax.jit
def _start(problem: Problem, params: Array, status: Array, rtol: Array, atol: Array) -> State:
    state = _begin(problem, params)
    arrived = state.gap <= rtol * jnp.abs(state.objective) + atol
    status = jnp.where((status == RUNNING) & arrived, CONVERGED, status)
    return state._replace(status=status)


@jax.jit
def _advance(
    problem: Problem, state: State, rtol: Array, atol: Array, limit: Array, num_passes: Array
) -> State:
    def more(carry: tuple[Array, State]) -> Array:
        done, state = carry
        return (done < num_passes) & jnp.any(state.status == RUNNING)

    def body(carry: tuple[Array, State]) -> tuple[Array, State]:
        done, state = carry
        return done + 1, _one_pass(problem, state, rtol, atol, limit)

    return jax.lax.while_loop(more, body, (jnp.int32(0), state))[1]


@jax.jit
def _compact(problem: Problem, state: State, lanes: Array) -> tuple[Problem, State]:
    kept = State(
        **{
            name: leaf
            if name == "slot"
            else leaf[:, lanes]
            if name in ("steps", "changes", "inverse_sy")
            else leaf[lanes]
            for name, leaf in state._asdict().items()
        }
    )
    return problem.take(lanes), kept


def lane_bucket(size: int) -> int:
    """Smallest bucket that holds `size`; beyond the largest, multiples of it.

    >>> lane_bucket(9), lane_bucket(2049)
    (32, 4096)
    """
    for candidate in LANE_BUCKETS:
        if size <= candidate:
            return candidate
    return math.ceil(size / LANE_BUCKETS[-1]) * LANE_BUCKETS[-1]


def solve(
    problem: Problem,
    params: Float[Array, "h k p"],
    status: Int[Array, " h"],
    *,
    rtol: float,
    atol: float,
    max_iterations: int,
) -> Solution:
    """Minimises every head's objective from the given start.

    Args:
      problem: the heads; h must be a bucket size (pad with heads whose status is not RUNNING).
      params: starting parameters.
      status: RUNNING for heads to fit; any other value is returned as it is, with its start.
      rtol: stop where the estimated gap to the minimum is below ``rtol |F| + atol``.
      atol: see rtol.
      max_iterations: passes a lane may take.

    Returns:
      One entry per head, in order.
    """
    dtype = params.dtype
    rtol_, atol_ = jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype)
    limit, passes = jnp.int32(max_iterations), jnp.int32(PASSES_PER_CALL)
    state = _start(problem, params, status, rtol_, atol_)
    initial_objective, out = state.objective, None
    lanes = np.arange(params.shape[0])
    while True:
        running = np.flatnonzero(np.asarray(state.status) == RUNNING)
        smaller = lane_bucket(len(running))
        if not len(running) or smaller < len(lanes):
            if out is None:
                out = _solution(state, initial_objective)
            else:
                out = _retire(out, state, lanes)
            if not len(running):
                return out
            # Padding repeats a finished lane, which no pass changes.
            idle = np.setdiff1d(np.arange(len(lanes)), running)[: smaller - len(running)]
            keep = np.concatenate([running, idle])
            problem, state = _compact(problem, state, keep)
            lanes = lanes[keep]
        state = _advance(problem, state, rtol_, atol_, limit, passes)


@jax.jit
def _solution(state: State, initial_objective: Array) -> Solution:
    return Solution(
        params=state.params,
        objective=state.objective,
        initial_objective=initial_objective,
        gradient_norm=jnp.sqrt(_dot(state.gradient, state.gradient)),
        gap=state.gap,
        iterations=state.iterations,
        status=state.status,
    )


@jax.jit
def _retire(out: Solution, state: State, lanes: Array) -> Solution:
    """Writes the state of some lanes into the solution of all."""
    new = _solution(state, out.initial_objective[lanes])
    return jax.tree.map(lambda whole, part: whole.at[lanes].set(part), out, new)
