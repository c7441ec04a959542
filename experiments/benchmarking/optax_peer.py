"""Peers in optax: `optax.lbfgs` compiled for one head, looped over heads or vmapped over them."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .data import read_problem
from .solvers import Solver

TOLERANCE = 1e-6
MAX_ITERATIONS = 1000
HIGHEST = jax.lax.Precision.HIGHEST


def objective(params: tuple[Any, Any], x: Any, y: Any, l2: Any) -> Any:
    """Mean cross entropy of one head plus its penalty."""
    w, b = params
    logits = jnp.matmul(x, w, precision=HIGHEST) + b
    if w.shape[1] == 1:
        loss = optax.losses.sigmoid_binary_cross_entropy(logits[:, 0], y)
    else:
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
    return loss.mean() + 0.5 * l2 * jnp.sum(w**2)


def minimize(x: Any, y: Any, l2: Any, k: int) -> tuple[Any, Any, Any]:
    """One head from zero until no entry of its gradient exceeds the tolerance.

    It also ends where ten steps in a row gain nothing, which float32 may leave short of it.
    """

    def function(params: Any) -> Any:
        return objective(params, x, y, l2)

    solver = optax.lbfgs()
    value_and_gradient: Any = optax.value_and_grad_from_state(function)

    def step(carry: Any) -> Any:
        params, state, best, idle, done, _ = carry
        value, gradient = value_and_gradient(params, state=state)
        updates, state = solver.update(
            gradient, state, params, value=value, grad=gradient, value_fn=function
        )
        idle = jnp.where(value < best, 0, idle + 1)
        reached: Any = optax.tree.get(state, "grad")  # where the line search ended
        largest = jnp.maximum(*(jnp.max(jnp.abs(g)) for g in reached))
        updated = optax.apply_updates(params, updates)
        return updated, state, jnp.minimum(best, value), idle, done + 1, largest

    def more(carry: Any) -> Any:
        _, _, _, idle, done, largest = carry
        return (largest > TOLERANCE) & (idle < 10) & (done < MAX_ITERATIONS)

    params = (jnp.zeros((x.shape[1], k)), jnp.zeros(k))
    start = (params, solver.init(params), jnp.inf, 0, 0, jnp.inf)
    (w, b), _, _, _, iterations, _ = jax.lax.while_loop(more, step, start)
    return w, b, iterations


class _Optax(Solver):
    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        problem = read_problem(folder)
        self._k, self._shared = problem.shape.logits, problem.shape.sets == 1
        self._x = jnp.asarray(np.array(problem.x))
        self._rows = jnp.asarray(problem.rows[problem.set_of(units)])
        dtype = jnp.float32 if self._k == 1 else jnp.int32
        self._y = jnp.asarray(problem.targets[units], dtype)
        self._l2 = jnp.asarray(problem.l2[units], jnp.float32)
        self._fit: Any = None

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        return {"w": np.asarray(self._fit[0]), "b": np.asarray(self._fit[1])}

    def facts(self) -> dict[str, Any]:
        """Its iterations (each may take several passes), and where it ran."""
        return {
            "iterations_mean": float(np.mean(self._fit[2])),
            "runs_on": jax.devices()[0].platform,
        }


class Vmapped(_Optax):
    """All heads in one program; every step waits for the slowest head's line search."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        shared = self._shared

        @jax.jit
        def fit_all(x: Any, rows: Any, y: Any, l2: Any) -> Any:
            features = x if shared else x[rows]
            one = jax.vmap(
                lambda x, y, l2: minimize(x, y, l2, self._k), (None if shared else 0, 0, 0)
            )
            return one(features, y, l2)

        self._fit_all = fit_all

    def solve(self) -> dict[str, float]:
        """Fits the units together."""
        start = time.perf_counter()
        self._fit = jax.block_until_ready(self._fit_all(self._x, self._rows, self._y, self._l2))
        return {"fit": time.perf_counter() - start}


class Looped(_Optax):
    """One compiled program, called for one head after another."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        shared = self._shared

        @jax.jit
        def fit_one(x: Any, rows: Any, y: Any, l2: Any) -> Any:
            return minimize(x if shared else x[rows], y, l2, self._k)

        self._fit_one = fit_one

    def solve(self) -> dict[str, float]:
        """Fits the units one after another."""
        start = time.perf_counter()
        heads = zip(self._rows, self._y, self._l2, strict=True)
        fits = [jax.block_until_ready(self._fit_one(self._x, *head)) for head in heads]
        seconds = time.perf_counter() - start
        self._fit = [np.stack(parts) for parts in zip(*jax.device_get(fits), strict=True)]
        return {"fit": seconds}
