"""Worker processes as the benchmark sees them: their environment, requests and deadlines."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]

# They make a BLAS choose slower kernels, or fewer threads, than it would on its own.
SLOWING = (
    "ATEN_CPU_CAPABILITY",
    "BLIS_ARCH_TYPE",
    "BLIS_NUM_THREADS",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NVPL_BLAS_DEBUG_CPU_TYPE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
)


class WorkerError(Exception):
    """A solver's process died or took too long."""


def environment(scratch: Path) -> dict[str, str]:
    """What every worker sees, engine and peers alike."""
    kept = {name: value for name, value in os.environ.items() if name not in SLOWING}
    paths = [str(HOME), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        # Several workers share a GPU, and a warm-up must not find an earlier run's programs.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled"),
    }


def slowing_variables() -> dict[str, str]:
    """Which of them were set here, and were unset for all workers."""
    return {name: os.environ[name] for name in SLOWING if name in os.environ}


class Worker:
    """One solver in a process of its own.

    Args:
        scratch: folder for its log and its compiled programs, for this worker alone.
        env: of the process.
    """

    def __init__(self, scratch: Path, env: Mapping[str, str]):
        self._log = tempfile.TemporaryFile("w+", dir=scratch)  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=dict(env),
        )

    def send(self, do: str, **arguments: Any) -> None:
        """Makes a request; `receive` waits for its reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def receive(self, limit: float) -> dict[str, Any]:
        """The reply to the last request.

        Raises:
            WorkerError: if it did not come within `limit` seconds, or the process died.
        """
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.stop()
                raise WorkerError(f"took more than {limit:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._last_words())
        return json.loads(line)

    def ask(self, do: str, limit: float, **arguments: Any) -> dict[str, Any]:
        """A request and its reply."""
        self.send(do, **arguments)
        return self.receive(limit)

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return f"died with {self._process.returncode}: {lines[-1] if lines else 'no message'}"

    def stop(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # it died with a request unread
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
