"""A peer in optax for heads trained by a given number of steps of Adam, vmapped and compiled."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .data import read_problem
from .optax_peer import objective
from .solvers import TRAINING_RATE, Solver, batches_of


class Vmapped(Solver):
    """`optax.adam` in a scan over steps, vmapped over heads that share their rows."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        problem = read_problem(folder)
        shape = problem.shape
        dtype = jnp.float32 if shape.logits == 1 else jnp.int32
        self._arrays = (
            jnp.asarray(np.array(problem.x)),
            jnp.asarray(problem.targets[units], dtype),
            jnp.asarray(problem.l2[units], jnp.float32),
        )
        batched = shape.batch > 0
        self._rows = None
        if batched:
            self._rows = jnp.asarray(batches_of(shape.n, shape.steps, shape.batch))
        rule = optax.adam(TRAINING_RATE)

        def train(x: Any, y: Any, l2: Any, rows: Any) -> Any:
            params = (jnp.zeros((shape.d, shape.logits)), jnp.zeros(shape.logits))

            def step(carry: Any, chosen: Any) -> Any:
                params, state = carry
                batch = (x[chosen], y[chosen]) if batched else (x, y)
                gradient = jax.grad(objective)(params, *batch, l2)
                updates, state = rule.update(gradient, state, params)
                return (optax.apply_updates(params, updates), state), None

            start = params, rule.init(params)
            length = None if batched else shape.steps
            (params, _), _ = jax.lax.scan(step, start, rows, length=length)
            return params

        self._train = jax.jit(jax.vmap(train, (None, 0, 0, None)))
        self._fit: Any = None

    def solve(self) -> dict[str, float]:
        """Trains the units together."""
        start = time.perf_counter()
        self._fit = jax.block_until_ready(self._train(*self._arrays, self._rows))
        return {"fit": time.perf_counter() - start}

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        return {"w": np.asarray(self._fit[0]), "b": np.asarray(self._fit[1])}

    def facts(self) -> dict[str, Any]:
        """Where it ran."""
        return {"runs_on": jax.devices()[0].platform}
