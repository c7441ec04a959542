"""Peak: both matrix products of one pass over the data, alone, at the workload's own shape."""

import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .data import read_problem
from .solvers import Solver

# Repetitions until one measurement takes about this long.
LEAST_SECONDS = 0.2


class _Gemm(Solver):
    """Logits ``[m, d] @ [d, n]`` and gradient ``[m, n] @ [n, d]`` in float32.

    m is the number of columns of all heads; where heads lie on several sets of rows, the columns of
    one set are measured as well.
    """

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        shape = read_problem(folder).shape
        rng = np.random.default_rng(0)
        x = rng.standard_normal((shape.n, shape.d), dtype=np.float32)
        self._flops, self._runs, self._times = {}, {}, {}
        columns = {"peak": shape.units * shape.logits}
        if shape.sets > 1:
            columns["peak_one_set"] = shape.per_set * shape.logits
        for name, m in columns.items():
            w = rng.standard_normal((m, shape.d), dtype=np.float32)
            r = rng.standard_normal((m, shape.n), dtype=np.float32)
            self._runs[name] = self._both(x, w, r)
            self._flops[name] = 4.0 * m * shape.n * shape.d

    def _both(self, x: np.ndarray, w: np.ndarray, r: np.ndarray) -> Callable[[], Any]:
        """A function that does both products and waits for them."""
        raise NotImplementedError

    def solve(self) -> dict[str, float]:
        """GFLOP/s by shape."""
        rates = {}
        for name, run in self._runs.items():
            done, start = 0, time.perf_counter()
            while not done or time.perf_counter() - start < LEAST_SECONDS:
                run()
                done += 1
            rates[name] = self._flops[name] * done / (time.perf_counter() - start) / 1e9
        return rates

    def solution(self) -> dict[str, np.ndarray]:
        """Nothing to judge."""
        return {}


class Numpy(_Gemm):
    """numpy's BLAS."""

    def _both(self, x: np.ndarray, w: np.ndarray, r: np.ndarray) -> Callable[[], Any]:
        xt = np.ascontiguousarray(x.T)
        logits, gradient = np.empty_like(r), np.empty_like(w)

        def run() -> None:
            np.matmul(w, xt, out=logits)
            np.matmul(r, x, out=gradient)

        return run


class XLA(_Gemm):
    """JAX's compiler, in full float32."""

    def _both(self, x: np.ndarray, w: np.ndarray, r: np.ndarray) -> Callable[[], Any]:
        import jax
        import jax.numpy as jnp

        highest = jax.lax.Precision.HIGHEST

        @jax.jit
        def both(w: Any, r: Any, x: Any, xt: Any) -> Any:
            return jnp.matmul(w, xt, precision=highest), jnp.matmul(r, x, precision=highest)

        arrays = [jnp.asarray(a) for a in (w, r, x, np.ascontiguousarray(x.T))]
        return lambda: jax.block_until_ready(both(*arrays))


class Torch(_Gemm):
    """torch's BLAS."""

    def _both(self, x: np.ndarray, w: np.ndarray, r: np.ndarray) -> Callable[[], Any]:
        torch: Any = importlib.import_module("torch")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        arrays = [torch.as_tensor(a, device=device) for a in (w, r, x, x.T.copy())]

        def run() -> None:
            w, r, x, xt = arrays
            torch.matmul(w, xt)
            torch.matmul(r, x)
            if device == "cuda":
                torch.cuda.synchronize()

        return run
