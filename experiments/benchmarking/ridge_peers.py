"""Peers for ridge: himalaya's SVD solver and scikit-learn's Ridge.

Both minimise ||t - x w||^2 + alpha ||w||^2, so alpha = l2 n makes the objective ours.
"""

import abc
import dataclasses
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from .data import Problem, read_problem
from .objective import Fit
from .solvers import Solver


class _BySet(Solver):
    """Fits all penalties and targets of one set of rows after another."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._problem = read_problem(folder)
        self._fits: list[Fit] = []

    def solution(self) -> dict[str, np.ndarray]:
        """Weights ``[u, d, t]`` and intercepts ``[u, t]``."""
        return {"w": np.stack([f.w for f in self._fits]), "b": np.stack([f.b for f in self._fits])}


def _ridge(problem: Problem, unit: int) -> Fit:
    from sklearn.linear_model import Ridge

    x, targets = problem.training(unit)
    model = Ridge(alpha=problem.l2[unit] * len(x)).fit(x, targets)
    return Fit(np.asarray(model.coef_).reshape(-1, x.shape[1]).T, np.atleast_1d(model.intercept_))


class ScikitLearn(_BySet):
    """Ridge with its default solver, one fit a penalty for all targets, on all cores."""

    def __init__(self, folder: Path, units: np.ndarray):
        import joblib as joblib
        import sklearn as sklearn

        super().__init__(folder, units)

    def solve(self) -> dict[str, float]:
        """Fits the units in parallel."""
        from .sklearn_peer import on_all_cores

        start = time.perf_counter()
        self._fits = on_all_cores(_ridge_in, [(self.folder, int(u)) for u in self.units])
        return {"fit": time.perf_counter() - start}


_OPEN: dict[Path, Problem] = {}


def _ridge_in(folder: Path, unit: int) -> Fit:
    """A fit in a worker process, which keeps the problem open."""
    if folder not in _OPEN:
        _OPEN.clear()
        _OPEN[folder] = read_problem(folder)
    return _ridge(_OPEN[folder], unit)


class _Himalaya(_BySet):
    """One SVD a set serves all its penalties and targets."""

    @abc.abstractmethod
    def _backend_name(self) -> str:
        """As himalaya calls it."""

    def __init__(self, folder: Path, units: np.ndarray):
        backends: Any = importlib.import_module("himalaya.backend")
        ridge: Any = importlib.import_module("himalaya.ridge")
        self._backend = backends.set_backend(self._backend_name(), on_error="raise")
        self._solve = ridge.solve_ridge_svd
        super().__init__(folder, units)
        self._problem = dataclasses.replace(self._problem, x=np.array(self._problem.x))

    def solve(self) -> dict[str, float]:
        """One SVD a set; a penalty for every column, each target repeated for each penalty."""
        problem, backend = self._problem, self._backend
        chosen = np.unique(problem.set_of(self.units))
        by_unit: dict[int, Fit] = {}
        start = time.perf_counter()
        for own in chosen:
            units = self.units[problem.set_of(self.units) == own]
            x, targets = problem.training(int(units[0]))
            alpha = np.repeat(problem.l2[units] * len(x), targets.shape[1]).astype(np.float32)
            tiled = np.tile(targets, (1, len(units)))
            w, b = self._solve(
                *(backend.asarray(a) for a in (x, tiled)),
                alpha=backend.asarray(alpha),
                fit_intercept=True,
                warn=False,
            )
            w, b = backend.to_numpy(w), backend.to_numpy(b)
            columns = np.split(np.arange(w.shape[1]), len(units))
            for unit, part in zip(units, columns, strict=True):
                by_unit[int(unit)] = Fit(w[:, part], b[part])
        self._fits = [by_unit[int(u)] for u in self.units]
        return {"fit": time.perf_counter() - start}

    def facts(self) -> dict[str, Any]:
        """Its backend."""
        return {"backend": self._backend_name()}


class HimalayaNumpy(_Himalaya):
    """On numpy."""

    def _backend_name(self) -> str:
        return "numpy"


class HimalayaTorch(_Himalaya):
    """On torch, on a GPU where torch sees one."""

    def _backend_name(self) -> str:
        from . import torch_peer

        return "torch_cuda" if torch_peer.torch.cuda.is_available() else "torch"
