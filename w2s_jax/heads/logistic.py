"""Logistic heads: thousands of (generalized) cross-entropy problems on shared features."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from w2s_jax.errors import HeadError
from w2s_jax.heads.buckets import lanes_for, path_length
from w2s_jax.heads.costs import default_budget, parse_bytes, pool_is_cheaper
from w2s_jax.heads.inputs import (
    as_numbers,
    broadcast_heads,
    check_row_sets,
    check_weights,
    common_heads,
    floating_features,
    groups_of_equal_rows,
    per_head,
    prepare_if_needed,
)
from w2s_jax.heads.lanes import concatenate, fit_rows
from w2s_jax.heads.lbfgs import Solution, logits_of, take_heads
from w2s_jax.heads.losses import Loss, as_loss
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.targets import Targets, as_targets, num_logits_of

HIGHEST = jax.lax.Precision.HIGHEST


class LogisticHeads(NamedTuple):
    """Fitted heads in the caller's coordinates; logits are ``x @ w[h] + b[h]``.

    Attributes:
      w: weights ``[h, d, k]``, k = 1 for two classes (the logit of class 1), else k = classes.
      b: intercepts ``[h, k]``; -1e9 for a class that had no weight (probability 0), and +-1e9 for
        a constant predictor at two classes.
      status: ``[h]`` codes, named by `STATUS_NAMES`: converged; max_iterations; stalled (rounding
        leaves no further decrease); constant (one class had weight); absent_class (converged on
        the classes that had weight); no_weight (all sample weights zero: w = 0, b = 0);
        no_minimum (signed targets let an intercept lower cross entropy for ever: w = 0, b = 0).
      iterations: passes over the data ``[h]``.
      gradient_norm: Euclidean norm of the objective's gradient at the end ``[h]``, with the
        features centred on the head's rows.
      objective: value at the end ``[h]``.
      initial_objective: value at the start ``[h]``; what a non-convex fit descended from.
      gap: estimate of objective minus minimum, half the squared gradient norm under the larger of
        two inverse Hessian models ``[h]``; for non-convex losses a measure of stationarity.
    """

    w: Float[Array, "h d k"]
    b: Float[Array, "h k"]
    status: Int[Array, " h"]
    iterations: Int[Array, " h"]
    gradient_norm: Float[Array, " h"]
    objective: Float[Array, " h"]
    initial_objective: Float[Array, " h"]
    gap: Float[Array, " h"]


def fit_logistic(
    x: ArrayLike | Prepared,
    targets: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    l2: ArrayLike = 1.0,
    loss: str | Loss = "ce",
    fit_intercept: bool = True,
    init: tuple[ArrayLike, ArrayLike] | LogisticHeads | None = None,
    num_classes: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_iterations: int = 1000,
    memory_budget: int | str | None = None,
) -> LogisticHeads:
    r"""Fits many logistic heads at once.

    Minimises, for every head, with sample weights m_i and M their sum,

        (1/M) sum_i m_i loss(t_i, x_i W + b)  +  (l2 / 2) ||W||^2        (b is not penalised).

    W is ``[d, k]`` with k = 1 logit for two classes and softmax otherwise, as in scikit-learn,
    where l2 = 1 / (C M). A class without weight leaves the softmax; a single class gives a constant
    predictor; both are told by the head's status.

    Args:
      x: features ``[n, d]``, or a `Prepared` to reuse the centring and rotation. Heads are float32,
        and float64 only for float64 features under ``jax_enable_x64``.
      targets: class indices ``[m]`` or ``[h, m]`` (integers), or soft targets ``[m, c]`` or
        ``[h, m, c]`` that sum to one over classes and may have negative entries; aligned with
        `rows`.
      rows: indices ``[m]`` shared by all heads, or ``[h, m]``; default all rows. Heads on the same
        rows are solved together, and so are heads on different rows where that is cheaper.
      weights: sample weights ``[m]`` or ``[h, m]``, >= 0, aligned with `rows`; default one.
      l2: penalty >= 0, a scalar or ``[h]``. Without one, separable classes have no minimum: such a
        head converges once its objective is within the tolerance of zero.
      loss: "ce", `gce(q)`, or a `Loss` of your own.
      fit_intercept: without it, b stays 0 and a `Prepared` must be made with ``center=False``.
      init: starting (w, b), or heads from an earlier fit; default zero.
      num_classes: c, where the largest class index does not tell.
      rtol: stop where the estimated gap is below ``rtol * |objective| + atol``; default 1e-6 in
        float32 and 1e-10 in float64.
      atol: see rtol; default 1e-2 of the type's rounding unit.
      max_iterations: passes over the data that a head may take.
      memory_budget: bytes of device memory beside the features, or a size such as "2GiB"; heads
        beyond it run in turn.
        Default 40 % of the device's memory.

    Returns:
      `LogisticHeads` in the caller's coordinates; h is the common leading axis of targets, rows,
      weights, l2, init and the loss's hyperparameters (1 where none has one).

    Raises:
      HeadError: on shapes, targets, weights or penalties that make no sense; never for a numerical
        failure, which is told by the status.

    >>> x = np.array([[-1.0], [1.0], [2.0], [-2.0]])
    >>> heads = fit_logistic(x, np.array([0, 1, 1, 0]), l2=[0.1, 1.0])
    >>> heads.w.shape, bool(heads.w[0, 0, 0] > heads.w[1, 0, 0])
    ((2, 1, 1), True)
    """
    given = as_loss(loss)
    prepared = prepare_if_needed(x, fit_intercept)
    dtype = prepared.x.dtype
    canonical = as_targets(targets, num_classes, dtype)
    num_samples, count = canonical.values.shape[-1], canonical.num_classes
    if isinstance(memory_budget, str):
        memory_budget = parse_bytes(memory_budget)
    budget = default_budget() if memory_budget is None else memory_budget
    _check_stopping(rtol, atol, max_iterations)
    row_sets = check_row_sets(rows, prepared.num_rows, num_samples, "targets")
    host_weights = check_weights(weights, num_samples)
    start = None if init is None else _start_of(prepared, init, count)
    num_heads = common_heads(
        targets=canonical.values.shape[0],
        rows=row_sets.shape[0],
        weights=host_weights.shape[0],
        l2=np.size(l2),
        init=1 if start is None else start.shape[0],
        **{f"loss hyperparameter {i}": np.size(p) for i, p in enumerate(given.params)},
    )
    # Everything of h heads stays on the host until it is padded: other sizes compile nothing.
    penalties = per_head(l2, num_heads, "l2", dtype)
    own = jax.tree.map(lambda p: np.broadcast_to(np.asarray(p, dtype).ravel(), num_heads), given)
    host_weights = host_weights.astype(dtype)
    values = np.asarray(canonical.values)
    members = groups_of_equal_rows(broadcast_heads(row_sets, num_heads))
    pooled = None
    if len(members) == 1:
        row_sets = row_sets[:1]
    else:
        num_features = prepared.x.shape[1]
        pooled = _pool(row_sets, members, values, host_weights, num_features, num_classes=count)
    if pooled is not None:
        pool_rows, values, host_weights = pooled
        row_sets, members = pool_rows[None], [np.arange(num_heads)]

    chains, most = None, max(map(len, members))
    if start is not None:
        start = broadcast_heads(start, num_heads)
    elif own.convex and path_length(most, lanes_for(most, num_logits_of(count))) > 1:
        chains = _alike_but_for_l2(row_sets, values, host_weights, own, num_heads)

    def fit(heads: np.ndarray) -> Solution:
        return fit_rows(
            prepared,
            row_sets[heads[0]] if len(row_sets) > 1 else row_sets[0],
            Targets(take_heads(values, heads), count),
            weights=take_heads(host_weights, heads),
            l2=penalties[heads],
            loss=jax.tree.map(lambda p: p[heads], own),
            fit_intercept=fit_intercept,
            init=None if start is None else start[heads],
            chains=None if chains is None else chains[heads],
            rtol=rtol,
            atol=atol,
            max_iterations=max_iterations,
            memory_budget=budget,
        )

    solution = concatenate([fit(heads) for heads in members], np.concatenate(members))
    w, b = _from_prepared(prepared.rotation, prepared.mean, solution.params)
    others = {field: getattr(solution, field) for field in LogisticHeads._fields[2:]}
    return LogisticHeads(w, b, **others)


def _check_stopping(rtol: float | None, atol: float | None, max_iterations: int) -> None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not as_numbers(value, name) >= 0:
            raise HeadError(f"{name} must be a number >= 0, found {value!r}")
    if isinstance(max_iterations, bool) or not isinstance(max_iterations, int | np.integer):
        raise HeadError(f"max_iterations must be a whole number, found {max_iterations!r}")
    if max_iterations < 1:
        raise HeadError(f"max_iterations must be at least 1, found {max_iterations}")


def _pool(
    row_sets: Int[np.ndarray, "h m"],
    members: list[np.ndarray],
    values: np.ndarray,
    weights: np.ndarray,
    num_features: int,
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Heads on several sets of rows as heads on all of them, with weight 0 for other rows.

    Returns:
      Distinct rows ``[p]``, targets ``[h, (c,) p]`` and weights ``[h, p]``; None where fitting set
      after set is cheaper, or a set repeats a row.
    """
    num_heads, size = row_sets.shape
    own = np.sort(row_sets[[heads[0] for heads in members]], axis=1)
    pool, position = np.unique(row_sets, return_inverse=True)
    sizes, heads = np.full(len(members), size), np.array([len(m) for m in members])
    num_logits = num_logits_of(num_classes)
    repeats = bool((own[:, 1:] == own[:, :-1]).any())
    if repeats or not pool_is_cheaper(sizes, heads, len(pool), num_features, num_logits):
        return None
    position = position.reshape(row_sets.shape)

    def scatter(own: np.ndarray) -> np.ndarray:
        out = np.zeros((num_heads, *own.shape[1:-1], len(pool)), own.dtype)
        places = position.reshape(num_heads, *[1] * (own.ndim - 2), size)
        np.put_along_axis(out, np.broadcast_to(places, (num_heads, *own.shape[1:])), own, axis=-1)
        return out

    spread, masks = (scatter(broadcast_heads(a, num_heads)) for a in (values, weights))
    return pool, spread, masks


def _alike_but_for_l2(
    row_sets: np.ndarray, targets: np.ndarray, weights: np.ndarray, loss: Loss, num_heads: int
) -> Int[np.ndarray, " h"]:
    """Numbers the heads so that those of one number differ in their penalty alone."""
    numbers = np.zeros(num_heads, np.int64)
    columns = [broadcast_heads(a, num_heads) for a in (row_sets, targets, weights)]
    columns += [np.asarray(param)[:, None] for param in loss.params]
    for number, heads in enumerate(groups_of_equal_rows(*columns)):
        numbers[heads] = number
    return numbers


def _start_of(
    prepared: Prepared, init: tuple[ArrayLike, ArrayLike] | LogisticHeads, num_classes: int
) -> Float[np.ndarray, "h k p"]:
    """Starting parameters in prepared coordinates, from (w, b) in the caller's."""
    if not isinstance(init, tuple) or len(init) < 2:
        raise HeadError(f"init must be (w, b) or heads of an earlier fit, found {init!r:.60}")
    w, b = (as_numbers(part, "init", prepared.x.dtype) for part in init[:2])
    num_features, num_logits = prepared.rotation.shape[0], num_logits_of(num_classes)
    if b.ndim != 2 or w.shape != (len(b), num_features, b.shape[1]) or b.shape[1] != num_logits:
        raise HeadError(
            f"init must be (w [h, {num_features}, {num_logits}], b [h, {num_logits}]), found "
            f"{w.shape} and {b.shape}"
        )
    if not (np.isfinite(w).all() and np.isfinite(b).all()):
        raise HeadError("init contains NaN or infinite values; start these heads at zero instead")
    return np.asarray(_to_prepared(prepared.rotation, prepared.mean, w, b))


@jax.jit
def _to_prepared(rotation: Array, mean: Array, w: Array, b: Array) -> Float[Array, "h k p"]:
    inside = jnp.einsum("dr,hdk->hkr", rotation, w, precision=HIGHEST)
    intercept = b + jnp.einsum("d,hdk->hk", mean, w, precision=HIGHEST)
    return jnp.concatenate([inside, intercept[..., None]], axis=-1)


@jax.jit
def _from_prepared(rotation: Array, mean: Array, params: Array) -> tuple[Array, Array]:
    w = jnp.einsum("dr,hkr->hdk", rotation, params[..., :-1], precision=HIGHEST)
    return w, params[..., -1] - jnp.einsum("d,hdk->hk", mean, w, precision=HIGHEST)


@jax.jit
def _predict(w: Array, b: Array, x: Array) -> Float[Array, "h n c"]:
    params = jnp.concatenate([jnp.swapaxes(w, 1, 2), b[..., None]], axis=-1)
    return probabilities_of(logits_of(params, x.astype(params.dtype)))


def predict_proba(heads: LogisticHeads, x: ArrayLike) -> Float[Array, "h n c"]:
    """Class probabilities of every head on features ``[n, d]`` in the caller's coordinates."""
    if not isinstance(heads, LogisticHeads):
        raise HeadError(f"give the heads of fit_logistic, found {type(heads).__name__}")
    x, _ = floating_features(x)
    if x.ndim != 2 or x.shape[1] != heads.w.shape[1]:
        raise HeadError(f"features must be [n, {heads.w.shape[1]}], found shape {x.shape}")
    return _predict(heads.w, heads.b, x)


@jax.jit
def probabilities_of(logits: Float[Array, "h k n"]) -> Float[Array, "h n c"]:
    """Probabilities from logits; one logit stands for two classes."""
    if logits.shape[1] == 1:
        z = logits[:, 0]
        return jnp.stack([jax.nn.sigmoid(-z), jax.nn.sigmoid(z)], axis=-1)
    return jax.nn.softmax(jnp.swapaxes(logits, 1, 2), axis=-1)
