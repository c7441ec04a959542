"""Peer: scikit-learn's LogisticRegression, one head after another, on all cores through joblib."""

import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .data import read_problem
from .objective import Fit
from .solvers import Solver

TOLERANCE = 1e-6
MAX_ITERATIONS = 10_000


def fit_cross_entropy(x: np.ndarray, y: np.ndarray, l2: float) -> Fit:
    """One head by lbfgs; C = 1 / (l2 n) makes the objective ours."""
    model = LogisticRegression(
        C=1 / (l2 * len(y)), solver="lbfgs", tol=TOLERANCE, max_iter=MAX_ITERATIONS
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gap tells
        model.fit(x, y)
    return Fit(model.coef_.T, np.atleast_1d(model.intercept_))


def on_all_cores(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Calls a function in processes of one BLAS thread each; arrays reach them by memory map."""
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        results = joblib.Parallel(n_jobs=joblib.cpu_count())(
            joblib.delayed(function)(*arguments) for arguments in calls
        )
    return list(results)


def _fit(x: np.ndarray, rows: np.ndarray | None, y: np.ndarray, l2: float) -> Fit:
    return fit_cross_entropy(x if rows is None else x[rows], y, l2)


class Loop(Solver):
    """A joblib loop over heads; every job gathers its own rows."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._problem = read_problem(folder)
        self._fits: list[Fit] = []

    def solve(self) -> dict[str, float]:
        """Fits the units in parallel."""
        problem = self._problem
        shared = problem.shape.sets == 1
        start = time.perf_counter()
        self._fits = on_all_cores(
            _fit,
            (
                (
                    problem.x,
                    None if shared else problem.rows[problem.set_of(u)],
                    problem.targets[u],
                    problem.l2[u],
                )
                for u in self.units
            ),
        )
        return {"fit": time.perf_counter() - start}

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        return {"w": np.stack([f.w for f in self._fits]), "b": np.stack([f.b for f in self._fits])}
