"""A process that holds one solver and does what the benchmark asks, one line of JSON at a time.

    python -m benchmarking.worker        (started by `measure`, with PYTHONPATH set)

Requests and replies are lines on stdin and stdout; whatever else writes to stdout goes to stderr.
"""

import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .solvers import Solver, find_solver

PACKAGES = (
    "w2s_jax",
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "torch",
    "optax",
    "himalaya",
    "grain",
    "pillow",
    "transformers",
)


def _status_mib(pid: str, field: str) -> float | None:
    """A memory field of /proc/PID/status in MiB; None where there is no such file."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = [line for line in text.splitlines() if line.startswith(f"{field}:")]
    return int(lines[0].split()[1]) / 1024 if lines else None


def _children(pid: str) -> Iterator[str]:
    """All living descendants of a process."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            yield child
            yield from _children(child)


def memory_mib() -> dict[str, float]:
    """Resident memory now and at its peak, with that of living child processes."""
    now, peak = _status_mib("self", "VmRSS"), _status_mib("self", "VmHWM")
    if now is None or peak is None:  # not Linux
        unit = 1024**2 if sys.platform == "darwin" else 1024
        now = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    children = [_status_mib(pid, "VmHWM") or 0.0 for pid in _children("self")]
    return {"now": now, "peak": peak, "children": sum(children)}


def device_memory_mib() -> float | None:
    """Peak memory of the accelerator, where JAX or torch was used on one."""
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if jax is not None:
        stats = jax.devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats and stats["peak_bytes_in_use"]:
            return stats["peak_bytes_in_use"] / 1024**2
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1024**2
    return None


class Compilations:
    """Counts the programs that XLA compiles in this process."""

    def __init__(self) -> None:
        self.count = 0

    def listen(self) -> None:
        """Starts counting, if JAX is here."""
        if "jax" not in sys.modules:
            return
        from jax import monitoring

        def on_event(event: str, duration_secs: float, **kwargs: Any) -> None:
            self.count += event == "/jax/core/compile/backend_compile_duration"

        monitoring.register_event_duration_secs_listener(on_event)


def software() -> dict[str, Any]:
    """Versions, thread pools and devices as this process sees them."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {"versions": versions}
    if importlib.util.find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_info

        keys = ("internal_api", "version", "architecture", "threading_layer", "num_threads")
        found["thread_pools"] = [{k: p.get(k) for k in keys} for p in threadpool_info()]
    if "jax" in sys.modules:
        import jax

        found["jax_device"] = jax.devices()[0].device_kind
        found["jax_platform"] = jax.devices()[0].platform
    return found


class Session:
    """One solver on one problem."""

    def __init__(self) -> None:
        self._solver: Solver | None = None
        self._compilations = Compilations()
        self._before = 0.0

    def start(self, *, kind: str, solver: str, folder: str, units: list[int]) -> dict[str, Any]:
        """Imports the solver and loads the problem."""
        try:
            made = find_solver(kind, solver)
            self._compilations.listen()
            self._solver = made(Path(folder), np.array(units, int))
        except ImportError as error:
            return {"missing": str(error)}
        self._before = memory_mib()["now"]
        return {"software": software()}

    def solve(self) -> dict[str, Any]:
        """One round."""
        assert self._solver is not None
        before, start = self._compilations.count, time.perf_counter()
        laps = self._solver.solve()
        return {
            "laps": laps,
            "wall": time.perf_counter() - start,
            "compiled": self._compilations.count - before,
        }

    def finish(self, *, out: str) -> dict[str, Any]:
        """Saves the solution, and tells what it took."""
        assert self._solver is not None
        memory = memory_mib()
        facts = self._solver.facts()
        device = device_memory_mib()
        arrays: dict[str, Any] = dict(self._solver.solution())
        np.savez(out, **arrays)
        return {
            "facts": facts,
            "memory_mib": {
                "before": self._before,
                "peak": memory["peak"] + memory["children"],
                "device_peak": device,
            },
        }


def main() -> None:
    """Serves requests until there are none."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    session = Session()
    for line in sys.stdin:
        request = json.loads(line)
        reply = getattr(session, request.pop("do"))(**request)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
