"""Logistic heads: thousands of (generalized) cross-entropy problems on shared features."""

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
from w2s_jax.heads.lanes import concatenate, fit_rows
from w2s_jax.heads.lbfgs import Solution, logits_of, take_heads
from w2s_jax.heads.losses import Loss, as_loss
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.targets import Targets, as_targets

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
      gradient_norm: Euclidean norm of the objective's gradient at the end ``[h]``.
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
) -> LogisticHeads:
    r"""Fits many logistic heads at once.

    Minimises, for every head, with sample weights m_i and M their sum,

        (1/M) sum_i m_i loss(t_i, x_i W + b)  +  (l2 / 2) ||W||^2        (b is not penalised).

    W is ``[d, k]`` with k = 1 logit for two classes and softmax otherwise, as in scikit-learn,
    where l2 = 1 / (C M). A class without weight leaves the softmax; a single class gives a constant
    predictor; both are told by the head's status.

    Args:
      x: features ``[n, d]``, or a `Prepared` to reuse the centring and rotation.
      targets: class indices ``[m]`` or ``[h, m]`` (integers), or soft targets ``[m, c]`` or
        ``[h, m, c]`` that sum to one over classes and may have negative entries; aligned with
        `rows`.
      rows: indices ``[m]`` shared by all heads, or ``[h, m]``; default all rows. Heads on the same
        rows are solved together.
      weights: sample weights ``[m]`` or ``[h, m]``, >= 0, aligned with `rows`; default one.
      l2: penalty >= 0, a scalar or ``[h]``.
      loss: "ce", `gce(q)`, or a `Loss` of your own.
      fit_intercept: without it, b stays 0 and a `Prepared` must be made with ``center=False``.
      init: starting (w, b), or heads from an earlier fit; default zero.
      num_classes: c, where the largest class index does not tell.
      rtol: stop where the estimated gap is below ``rtol * |objective| + atol``; default 3e-7 in
        float32 (1e-6 for non-convex losses) and 1e-10 in float64.
      atol: see rtol; default 1e-2 of the type's rounding unit.
      max_iterations: passes over the data that a head may take.

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
    loss = as_loss(loss)
    prepared = prepare_if_needed(x, fit_intercept)
    dtype = prepared.x.dtype
    canonical = as_targets(targets, num_classes, dtype)
    num_samples = canonical.values.shape[-1]
    row_sets = check_row_sets(rows, prepared.num_rows, num_samples, "targets")
    host_weights = check_weights(weights, num_samples)
    start = None if init is None else _start_of(prepared, init, canonical.num_classes)
    num_heads = common_heads(
        targets=canonical.values.shape[0],
        rows=row_sets.shape[0],
        weights=host_weights.shape[0],
        l2=np.size(l2),
        init=1 if start is None else start.shape[0],
        **{f"loss hyperparameter {i}": np.size(p) for i, p in enumerate(loss.params)},
    )
    # Everything of h heads stays on the host until it is padded: other sizes compile nothing.
    penalties = per_head(l2, num_heads, "l2", dtype)
    loss = jax.tree.map(lambda p: np.broadcast_to(np.asarray(p, dtype).ravel(), num_heads), loss)
    host_weights = host_weights.astype(dtype)
    if start is not None:
        start = broadcast_heads(start, num_heads)

    def fit(heads: np.ndarray) -> Solution:
        return fit_rows(
            prepared,
            row_sets[heads[0]] if len(row_sets) > 1 else row_sets[0],
            Targets(take_heads(canonical.values, heads), canonical.num_classes),
            weights=take_heads(host_weights, heads),
            l2=penalties[heads],
            loss=jax.tree.map(lambda p: p[heads], loss),
            fit_intercept=fit_intercept,
            init=None if start is None else start[heads],
            rtol=rtol,
            atol=atol,
            max_iterations=max_iterations,
        )

    members = groups_of_equal_rows(broadcast_heads(row_sets, num_heads))
    solution = concatenate([fit(heads) for heads in members], np.concatenate(members))
    w, b = _from_prepared(prepared.rotation, prepared.mean, solution.params)
    others = {field: getattr(solution, field) for field in LogisticHeads._fields[2:]}
    return LogisticHeads(w, b, **others)


def _start_of(
    prepared: Prepared, init: tuple[ArrayLike, ArrayLike] | LogisticHeads, num_classes: int
) -> Float[np.ndarray, "h k p"]:
    """Starting parameters in prepared coordinates, from (w, b) in the caller's."""
    w, b = (np.asarray(part, prepared.x.dtype) for part in init[:2])
    num_features, num_logits = prepared.rotation.shape[0], 1 if num_classes == 2 else num_classes
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
    return probabilities_of(logits_of(params, x.astype(params.dtype).T))


def predict_proba(heads: LogisticHeads, x: ArrayLike) -> Float[Array, "h n c"]:
    """Class probabilities of every head on features ``[n, d]`` in the caller's coordinates."""
    x = np.asarray(x)
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
