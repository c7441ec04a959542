"""The judge: objectives, gradients and tight minima in float64, with numpy and scipy alone.

    F(W, b) = (1/M) sum_i m_i loss(t_i, x_i W + b)  +  (l2 / 2) ||W||^2        (b is not penalised)

with all m_i = 1 here. No solver's own word is taken for its objective.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax


class Fit(NamedTuple):
    """A head: weights ``[d, k]`` and intercept ``[k]``."""

    w: np.ndarray
    b: np.ndarray


def loss_and_residual(
    logits: np.ndarray, y: np.ndarray, q: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every row ``[n]`` and its derivative in the logits ``[n, k]``.

    Args:
        logits: ``[n, k]``, k = 1 for two classes.
        y: class indices ``[n]``.
        q: exponent of generalized cross entropy; None is cross entropy.
    """
    if logits.shape[1] == 1:
        sign = (2 * y - 1).astype(logits.dtype)
        margin = sign * logits[:, 0]
        log_p = -np.logaddexp(0, -margin)
        slope = -sign * expit(-margin)
        if q is None:
            return -log_p, slope[:, None]
        return -np.expm1(q * log_p) / q, (np.exp(q * log_p) * slope)[:, None]
    row = np.arange(len(y))
    log_p_all = log_softmax(logits, axis=1)
    log_p, residual = log_p_all[row, y], np.exp(log_p_all)
    residual[row, y] -= 1
    if q is None:
        return -log_p, residual
    return -np.expm1(q * log_p) / q, np.exp(q * log_p)[:, None] * residual


def logistic_objective(
    x: np.ndarray, y: np.ndarray, fit: Fit, l2: float, q: float | None = None
) -> float:
    """F of a logistic head, in float64 (x must be)."""
    w, b = np.asarray(fit.w, np.float64), np.asarray(fit.b, np.float64)
    loss, _ = loss_and_residual(x @ w + b, y, q)
    return float(loss.mean() + 0.5 * l2 * np.sum(w**2))


def value_and_gradient(
    x: np.ndarray, y: np.ndarray, theta: np.ndarray, l2: float, q: float | None, k: int
) -> tuple[float, np.ndarray]:
    """F and its gradient for flat parameters ``[(d + 1) k]``, in the type of x."""
    params = theta.reshape(-1, k).astype(x.dtype)
    w = params[:-1]
    loss, residual = loss_and_residual(x @ w + params[-1], y, q)
    gradient = np.concatenate([x.T @ residual / len(y) + l2 * w, residual.mean(axis=0)[None]])
    value = loss.mean(dtype=np.float64) + 0.5 * l2 * np.sum(w**2, dtype=np.float64)
    return float(value), gradient.ravel().astype(np.float64)


def _hessian_product(
    x: np.ndarray, theta: np.ndarray, direction: np.ndarray, l2: float, k: int
) -> np.ndarray:
    """Hessian of cross entropy times a direction."""
    params, along = theta.reshape(-1, k), direction.reshape(-1, k)
    logits, change = x @ params[:-1] + params[-1], x @ along[:-1] + along[-1]
    if k == 1:
        p = expit(logits)
        bent = p * (1 - p) * change
    else:
        p = softmax(logits, axis=1)
        bent = p * (change - np.sum(p * change, axis=1, keepdims=True))
    bent /= len(x)
    return np.concatenate([x.T @ bent + l2 * along[:-1], bent.sum(axis=0)[None]]).ravel()


def _settle_intercept(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The shift of the logits ``[k]`` that minimises their mean cross entropy, by Newton."""
    shift = np.zeros(logits.shape[1])
    for _ in range(20):
        _, residual = loss_and_residual(logits + shift, y, None)
        gradient = residual.mean(axis=0)
        if np.abs(gradient).max() < 1e-15:
            break
        if logits.shape[1] == 1:
            p = expit(logits + shift)
            hessian = np.mean(p * (1 - p), axis=0)[None]
        else:
            p = softmax(logits + shift, axis=1)
            hessian = np.diag(p.mean(axis=0)) - p.T @ p / len(p)
        shift = shift - np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
    return shift


def lower_bound(x: np.ndarray, y: np.ndarray, fit: Fit, l2: float) -> tuple[float, float]:
    """F of a cross-entropy head at its best intercept, and a bound below the minimum of F.

    With the intercept minimised away, F is l2-strongly convex in W, so that its minimum is at least
    F - ||gradient||^2 / (2 l2): true of any W, whoever found it.
    """
    w = np.asarray(fit.w, np.float64)
    logits = x @ w + np.asarray(fit.b, np.float64)
    logits = logits + _settle_intercept(logits, y)
    loss, residual = loss_and_residual(logits, y, None)
    value = float(loss.mean() + 0.5 * l2 * np.sum(w**2))
    gradient = x.T @ residual / len(y) + l2 * w
    return value, value - float(np.sum(gradient**2)) / (2 * l2)


def minimize_tightly(
    x: np.ndarray, y: np.ndarray, l2: float, k: int, start: Fit | None = None
) -> Fit:
    """A cross-entropy head to a gradient norm of 1e-8, by scipy's L-BFGS, then trust region Newton.

    Args:
        x: features in float64 ``[n, d]``.
        y: class indices ``[n]``.
        l2: penalty.
        k: logits.
        start: where to begin; default zero.
    """
    if start is None:
        theta = np.zeros((x.shape[1] + 1) * k)
    else:
        theta = np.concatenate([start.w, start.b[None]]).astype(np.float64).ravel()

    def function(theta: np.ndarray) -> tuple[float, np.ndarray]:
        return value_and_gradient(x, y, theta, l2, None, k)

    options = {"maxiter": 5000, "maxfun": 10_000, "gtol": 1e-8, "ftol": 0.0, "maxcor": 20}
    theta = minimize(function, theta, jac=True, method="L-BFGS-B", options=options).x
    found = minimize(
        function,
        theta,
        jac=True,
        hessp=lambda at, along: _hessian_product(x, at, along, l2, k),
        method="trust-ncg",
        options={"gtol": 1e-8, "maxiter": 50},
    )
    params = found.x.reshape(-1, k)
    return Fit(params[:-1], params[-1])


def minimize_gce(
    x: np.ndarray,
    y: np.ndarray,
    l2: float,
    q: float,
    k: int,
    *,
    tol: float = 1e-6,
) -> Fit:
    """A generalized cross-entropy head by scipy's L-BFGS from zero, in the type of x."""
    found = minimize(
        lambda theta: value_and_gradient(x, y, theta, l2, q, k),
        np.zeros((x.shape[1] + 1) * k),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": 10_000,
            "maxfun": 20_000,
            "gtol": tol,
            "ftol": 64 * np.finfo(float).eps,
        },
    )
    params = found.x.reshape(-1, k)
    return Fit(params[:-1], params[-1])


def ridge_objectives(x: np.ndarray, t: np.ndarray, fit: Fit, l2: float) -> np.ndarray:
    """F of every target of a ridge fit ``[t]``: (1/2n) ||t - x w - b||^2 + (l2/2) ||w||^2."""
    w, b = np.asarray(fit.w, np.float64), np.asarray(fit.b, np.float64)
    error = t - x @ w - b
    return 0.5 * np.mean(error**2, axis=0) + 0.5 * l2 * np.sum(w**2, axis=0)


def ridge_minima(x: np.ndarray, t: np.ndarray, l2: np.ndarray) -> np.ndarray:
    """Smallest F of every penalty and target ``[m, t]``, from a float64 SVD of centred rows."""
    x, t = x - x.mean(axis=0), t.astype(np.float64) - t.mean(axis=0)
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    aligned = u.T @ t
    out = []
    for penalty in l2:
        gain = s / (s**2 + penalty * len(x))
        fit = Fit(vt.T @ (gain[:, None] * aligned), np.zeros(t.shape[1]))
        out.append(ridge_objectives(x, t, fit, float(penalty)))
    return np.array(out)
