"""Other people's solvers on the stated objectives; the one place that converts l2."""

import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression, Ridge


def sklearn_logistic(x, y, l2, weights=None, fit_intercept=True):
    """Coefficients [d, k] and intercepts [k]: C = 1 / (l2 M)."""
    weights = np.ones(len(y)) if weights is None else weights
    model = LogisticRegression(
        C=1 / (l2 * weights.sum()),
        tol=1e-12,
        max_iter=50_000,
        fit_intercept=fit_intercept,
        solver="newton-cg" if len(np.unique(y)) > 2 else "newton-cholesky",
    ).fit(x, y, sample_weight=weights)
    return model.coef_.T, np.broadcast_to(model.intercept_, model.coef_.shape[0])


def sklearn_ridge(x, t, l2, weights=None, fit_intercept=True):
    """Coefficients [d, k] and intercepts [k]: alpha = l2 M."""
    weights = np.ones(len(t)) if weights is None else weights
    model = Ridge(alpha=l2 * weights.sum(), fit_intercept=fit_intercept, solver="svd")
    model.fit(x, t, sample_weight=weights)
    coef = np.atleast_2d(model.coef_)
    return coef.T, np.broadcast_to(model.intercept_, len(coef))


def objective(w, b, x, targets, l2, weights=None, q=None):
    """Value and gradients (by w [d, k], by b [k]) in float64, from soft targets [n, c].

    q is the exponent of generalized cross entropy; None means cross entropy.
    """
    w, b, x = (np.asarray(a, np.float64) for a in (w, b, x))
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    share = weights / weights.sum()
    logits = x @ w + b
    if w.shape[1] == 1:
        logits = np.concatenate([np.zeros((len(x), 1)), logits], axis=1)
    top = logits.max(axis=1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    if q is None:
        loss = -(targets * log_p).sum(axis=1)
        by_log_p = -targets
    else:
        loss = (targets * -np.expm1(q * log_p)).sum(axis=1) / q
        by_log_p = -targets * p**q
    by_logits = by_log_p - p * by_log_p.sum(axis=1, keepdims=True)
    by_logits = share[:, None] * by_logits
    if w.shape[1] == 1:
        by_logits = by_logits[:, 1:]
    value = share @ loss + l2 / 2 * np.sum(w**2)
    return value, x.T @ by_logits + l2 * w, by_logits.sum(axis=0)


def scipy_minimum(x, targets, l2, start=None, **kwargs):
    """Minimiser of `objective`, as (w, b, value)."""
    num_logits = 1 if targets.shape[1] == 2 else targets.shape[1]
    shape = (x.shape[1], num_logits)
    if start is None:
        start = np.zeros(shape), np.zeros(num_logits)

    def unpack(theta):
        return theta[: -shape[1]].reshape(shape), theta[-shape[1] :]

    def flat(theta):
        value, by_w, by_b = objective(*unpack(theta), x, targets, l2, **kwargs)
        return value, np.concatenate([by_w.ravel(), by_b])

    theta = np.concatenate([np.ravel(start[0]), np.ravel(start[1])])
    for method, options in (
        ("L-BFGS-B", {"maxiter": 50_000, "ftol": 0, "gtol": 1e-13}),
        ("BFGS", {"gtol": 1e-12}),
    ):
        theta = minimize(flat, theta, jac=True, method=method, options=options).x
    w, b = unpack(theta)
    return w, b, flat(theta)[0]


def one_hot(y, num_classes):
    return np.eye(num_classes)[np.asarray(y)]


def problem(n=200, d=12, num_classes=2, noise=1.0, decay=0.5, seed=0):
    """Features [n, d] of decaying scales with a mean, and labels of a noisy linear rule."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -decay + rng.normal(size=d)
    scores = (x - x.mean(axis=0)) @ rng.normal(size=(d, num_classes))
    y = np.argmax(scores / scores.std() + noise * rng.normal(size=scores.shape), axis=1)
    y[:num_classes] = np.arange(num_classes)
    return x, y
