"""Students on scipy and numpy in float64, from the methods' definitions alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tests.toy import toy_set
from w2s_jax.sweep import Grid, resolve_pairs, run
from w2s_jax.sweep.chunks import draw_request
from w2s_jax.sweep.planning import plan_grid

DRAW = {
    "eta_l": 0.2,
    "eta_u": 0.4,
    "n_labelled": 60,
    "n_unlabelled": 120,
    "teacher_l2": 0.05,
    "seeds": 0,
}

# Class logits [n, c] to each row's loss [n] and its slope in the logits [n, c].
RowLoss = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Head(NamedTuple):
    w: np.ndarray
    b: np.ndarray
    objective: float

    def __call__(self, x):
        """A logit for each class; that of class 0 is zero where there are two."""
        z = x @ self.w + self.b
        return np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z


def objective(theta, x, loss, l2, weights, k):
    head = Head(theta[:-k].reshape(-1, k), theta[-k:], np.nan)
    share = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    values, slope = loss(head(x))
    slope = (share[:, None] * slope)[:, -k:]
    gradient = (x.T @ slope + l2 * head.w).ravel()
    value = share @ values + l2 / 2 * np.sum(head.w**2)
    return value, np.append(gradient, slope.sum(axis=0))


def fit(x, loss, l2, num_classes, weights=None, start=None):
    """The minimum that is reached from zero, or from another head."""
    k = 1 if num_classes == 2 else num_classes
    theta = np.zeros((x.shape[1] + 1) * k)
    if start is not None:
        theta = np.append(start.w.ravel(), start.b)
    options = {"gtol": 1e-10, "ftol": 1e-15, "maxiter": 5000}
    args = (x, loss, l2, weights, k)
    found = minimize(objective, theta, args, "L-BFGS-B", jac=True, options=options)
    return Head(found.x[:-k].reshape(-1, k), found.x[-k:], found.fun)


def descend(x, loss_at, l2, num_classes, num_steps, learning_rate):
    """Gradient descent from zero; the loss is that of a number of steps taken."""
    k = 1 if num_classes == 2 else num_classes
    theta = np.zeros((x.shape[1] + 1) * k)
    for step in range(num_steps):
        theta = theta - learning_rate * objective(theta, x, loss_at(step), l2, None, k)[1]
    value, _ = objective(theta, x, loss_at(num_steps), l2, None, k)
    return Head(theta[:-k].reshape(-1, k), theta[-k:], value)


def cross_entropy(targets):
    def loss(z):
        log_p = log_softmax(z, axis=1)
        total = targets.sum(axis=1, keepdims=True)
        return -np.sum(targets * log_p, axis=1), total * np.exp(log_p) - targets

    return loss


def generalized_cross_entropy(targets, q):
    def loss(z):
        log_p = log_softmax(z, axis=1)
        pulls = targets * np.exp(q * log_p)
        slope = pulls.sum(axis=1, keepdims=True) * np.exp(log_p) - pulls
        return np.sum(targets * (1 - np.exp(q * log_p)) / q, axis=1), slope

    return loss


def hardened(z):
    return np.eye(z.shape[1])[z.argmax(axis=1)]


class Problem(NamedTuple):
    """What a student sees, and where it is judged.

    Attributes:
        x: features of the unlabelled rows.
        teacher: its probabilities there.
        test_x: features of the test rows.
        test_labels: their classes.
        rows: result rows of a grid on the same draw.
    """

    x: np.ndarray
    teacher: np.ndarray
    test_x: np.ndarray
    test_labels: np.ndarray
    rows: pd.DataFrame

    @property
    def num_classes(self):
        return self.teacher.shape[1]

    def labels(self, kind):
        """Pseudolabels as targets."""
        return hardened(self.teacher) if kind == "hard" else self.teacher

    def assert_is(self, row, head, tolerance):
        """A result row's student reaches the head's objective and accuracy."""
        gap = row["student_objective"] / head.objective - 1
        assert abs(gap) < tolerance, gap
        right = head(self.test_x).argmax(axis=1) == self.test_labels
        assert abs(row["student_accuracy"] - right.mean()) * len(right) < 1 + 1e-9


def scaled(x, pool):
    x = x.astype(np.float64) - x[pool].mean(axis=0, dtype=np.float64)
    return x / np.sqrt(np.mean(x[pool] ** 2))


def make_problem(num_classes, **grid):
    """The rows of a grid in float64, and what a slow student starts from."""
    sets = tuple(
        toy_set(name, num_classes=num_classes, rows_per_cell=100, signal=signal, seed=seed)
        for name, signal, seed in (("weak", 0.5, 1), ("strong", 1.2, 2))
    )
    pairs = resolve_pairs([sets])
    grid = Grid(pairs=(sets,), **{**DRAW, **grid})
    with jax.enable_x64(True):
        rows = run(grid, pairs=pairs, dtype=np.float64)
    (pair,) = pairs.values()
    config = plan_grid(grid, pairs).groups[0].chunks[0].configs[0]
    draw = pair.pool("equal").draw(0, draw_request(config))
    data = pair.data
    weak = scaled(data.teacher.features[data.teacher_index], data.pool_rows)
    strong = scaled(data.student.features[data.student_index], data.pool_rows)
    labels = np.eye(num_classes)[data.labels[draw.labelled]]
    teacher = fit(weak[draw.labelled], cross_entropy(labels), DRAW["teacher_l2"], num_classes)
    return Problem(
        strong[draw.unlabelled],
        softmax(teacher(weak[draw.unlabelled]), axis=1),
        strong[data.test_rows],
        data.labels[data.test_rows],
        rows,
    )
