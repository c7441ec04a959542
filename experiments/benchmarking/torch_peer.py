"""Peers in torch: L-BFGS head by head, and Adam over all heads at once through torch.func.vmap.

On a GPU where torch sees one, otherwise on all cores.
"""

import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

from .data import read_problem
from .objective import Fit
from .solvers import Solver

torch: Any = importlib.import_module("torch")

TOLERANCE = 1e-6
MAX_ITERATIONS = 2000
# The smallest number of steps after which nearly all heads have a small gradient is found in the
# warm-up, so that no time is spent on accuracy that the others do not have.
ADAM_STEPS = (250, 500, 1000, 2000)
ADAM_TOLERANCE, ADAM_SHARE = 1e-5, 0.95
ADAM_RATE = 0.1


def device() -> Any:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Lets queued work of the GPU end."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def objective(logits: Any, w: Any, y: Any, l2: Any, q: float | None = None) -> Any:
    """Mean loss plus penalty of one head; y is a float for two classes, an index for more."""
    if w.shape[1] == 1:
        sign = 2 * y - 1
        log_p = torch.nn.functional.logsigmoid(sign * logits[:, 0])
    else:
        log_p = -torch.nn.functional.cross_entropy(logits, y, reduction="none")
    loss = -log_p if q is None else -torch.expm1(q * log_p) / q
    return loss.mean() + 0.5 * l2 * (w * w).sum()


def minimize(x: Any, y: Any, l2: float, k: int, q: float | None = None) -> tuple[Any, Any]:
    """One head by torch.optim.LBFGS with strong Wolfe line search, from zero."""
    w = torch.zeros((x.shape[1], k), device=x.device, requires_grad=True)
    b = torch.zeros(k, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [w, b],
        max_iter=MAX_ITERATIONS,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=TOLERANCE,
        tolerance_change=1e-9,
    )

    def closure() -> Any:
        optimizer.zero_grad()
        value = objective(x @ w + b, w, y, l2, q)
        value.backward()
        return value

    optimizer.step(closure)
    return w.detach(), b.detach()


def labels_for(y: np.ndarray, k: int) -> Any:
    """Labels as `objective` takes them."""
    return torch.as_tensor(y, dtype=torch.float32 if k == 1 else torch.int64, device=device())


class Loop(Solver):
    """A loop over heads, each on all cores or the GPU."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._problem = read_problem(folder)
        self._x = torch.as_tensor(np.array(self._problem.x), device=device())
        self._fits: list[Fit] = []

    def solve(self) -> dict[str, float]:
        """Fits the units one after another."""
        problem, k = self._problem, self._problem.shape.logits
        fits = []
        start = time.perf_counter()
        for u in self.units:
            rows = torch.as_tensor(problem.rows[problem.set_of(u)], device=device())
            x = self._x if problem.shape.sets == 1 else self._x[rows]
            y = labels_for(problem.targets[u], k)
            fits.append(minimize(x, y, float(problem.l2[u]), k))
        wait()
        seconds = time.perf_counter() - start
        self._fits = [Fit(w.cpu().numpy(), b.cpu().numpy()) for w, b in fits]
        return {"fit": seconds}

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        return {"w": np.stack([f.w for f in self._fits]), "b": np.stack([f.b for f in self._fits])}

    def facts(self) -> dict[str, Any]:
        """Where it ran."""
        return {"runs_on": str(device())}


def _of_transposed(w: Any, b: Any, xt: Any, y: Any, l2: Any) -> Any:
    # vmap makes one large product of this form, but many small ones of x @ w.
    return objective((w.T @ xt).T + b, w, y, l2)


class VmapAdam(Solver):
    """Adam on stacked heads, a fixed number of steps with the rate falling along a cosine."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        problem = read_problem(folder)
        self._shape = problem.shape
        x = torch.as_tensor(np.array(problem.x), device=device())
        rows = torch.as_tensor(problem.rows[problem.set_of(units)].astype(np.int64))
        shared = problem.shape.sets == 1
        self._xt = (x if shared else x[rows.to(device())]).mT.contiguous()
        self._y = labels_for(problem.targets[units], problem.shape.logits)
        self._l2 = torch.as_tensor(problem.l2[units], dtype=torch.float32, device=device())
        self._gradient = torch.func.vmap(
            torch.func.grad(_of_transposed, argnums=(0, 1)),
            in_dims=(0, 0, None if shared else 0, 0, 0),
        )
        self._steps = 0
        self._fit: Fit | None = None

    def _train(self, steps: int) -> tuple[Any, Any]:
        shape = self._shape
        w = torch.zeros((len(self.units), shape.d, shape.logits), device=device())
        b = torch.zeros((len(self.units), shape.logits), device=device())
        optimizer = torch.optim.Adam([w, b], lr=ADAM_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            w.grad, b.grad = self._gradient(w, b, self._xt, self._y, self._l2)
            optimizer.step()
            schedule.step()
        wait()
        return w, b

    def _enough(self, w: Any, b: Any) -> bool:
        """Whether nearly all heads are near their minimum."""
        gradient, _ = self._gradient(w, b, self._xt, self._y, self._l2)
        small = gradient.abs().amax(dim=(1, 2)) <= ADAM_TOLERANCE
        return bool(small.float().mean() >= ADAM_SHARE)

    def solve(self) -> dict[str, float]:
        """Trains all units together."""
        start = time.perf_counter()
        for steps in [self._steps] if self._steps else ADAM_STEPS:
            w, b = self._train(steps)
            if self._steps or self._enough(w, b):
                break
        self._steps = steps
        seconds = time.perf_counter() - start
        self._fit = Fit(w.cpu().numpy(), b.cpu().numpy())
        return {"fit": seconds}

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        assert self._fit is not None
        return {"w": self._fit.w, "b": self._fit.b}

    def facts(self) -> dict[str, Any]:
        """How long it trained, and where."""
        return {"steps": self._steps, "rate": ADAM_RATE, "runs_on": str(device())}
