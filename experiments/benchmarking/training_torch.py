"""Peers in torch for heads trained by a given number of steps of Adam."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from .data import read_problem
from .objective import Fit
from .solvers import TRAINING_RATE, Solver, batches_of
from .torch_peer import _of_transposed, device, labels_for, objective, torch, wait


class _Torch(Solver):
    """Features, labels and batches on the device."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        problem = read_problem(folder)
        self._shape, shape = problem.shape, problem.shape
        self._x = torch.as_tensor(np.array(problem.x), device=device())
        self._y = labels_for(problem.targets[units], shape.logits)
        self._l2 = torch.as_tensor(problem.l2[units], dtype=torch.float32, device=device())
        self._batches: Any = [None] * shape.steps
        if shape.batch:
            rows = batches_of(shape.n, shape.steps, shape.batch)
            self._batches = torch.as_tensor(rows, device=device())
        self._fit: Fit | None = None

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        assert self._fit is not None
        return {"w": self._fit.w, "b": self._fit.b}

    def facts(self) -> dict[str, Any]:
        """Where it ran."""
        return {"runs_on": str(device())}


class Vmapped(_Torch):
    """All heads at once through torch.func.vmap, one Adam over their stack."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._xt = self._x.mT.contiguous()
        self._gradient = torch.func.vmap(
            torch.func.grad(_of_transposed, argnums=(0, 1)), in_dims=(0, 0, None, 0, 0)
        )

    def solve(self) -> dict[str, float]:
        """Trains the units together."""
        shape, start = self._shape, time.perf_counter()
        w = torch.zeros((len(self.units), shape.d, shape.logits), device=device())
        b = torch.zeros((len(self.units), shape.logits), device=device())
        optimizer = torch.optim.Adam([w, b], lr=TRAINING_RATE)
        for rows in self._batches:
            xt, y = (self._xt, self._y) if rows is None else (self._x[rows].mT, self._y[:, rows])
            w.grad, b.grad = self._gradient(w, b, xt, y, self._l2)
            optimizer.step()
        wait()
        seconds = time.perf_counter() - start
        self._fit = Fit(w.cpu().numpy(), b.cpu().numpy())
        return {"fit": seconds}


class Looped(_Torch):
    """One head after another, as a training script does it."""

    def solve(self) -> dict[str, float]:
        """Trains the units in turn."""
        shape, start = self._shape, time.perf_counter()
        fits = []
        for y, l2 in zip(self._y, self._l2, strict=True):
            w = torch.zeros((shape.d, shape.logits), device=device(), requires_grad=True)
            b = torch.zeros(shape.logits, device=device(), requires_grad=True)
            optimizer = torch.optim.Adam([w, b], lr=TRAINING_RATE)
            for rows in self._batches:
                x, own = (self._x, y) if rows is None else (self._x[rows], y[rows])
                optimizer.zero_grad()
                objective(x @ w + b, w, own, l2).backward()
                optimizer.step()
            fits.append((w.detach(), b.detach()))
        wait()
        seconds = time.perf_counter() - start
        self._fit = Fit(
            *(np.stack([p.cpu().numpy() for p in side]) for side in zip(*fits, strict=True))
        )
        return {"fit": seconds}
