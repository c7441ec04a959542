"""A process that writes checkpoints for one of several that share a run.

Orbax writes arrays of NumPy in process 0 of ``jax.distributed`` only, and those of one process's
devices not at all. So each of several processes has a child, which belongs to no others.
"""

import functools
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from w2s_jax.errors import StoreError


@functools.cache
def _writer() -> "subprocess.Popen[bytes]":
    """The child of this process; it ends with its standard input, whatever ends this process."""
    paths = os.pathsep.join(path for path in sys.path if path)
    # Signals are for the run, which ends after the commit. A child that inherits them blocked never
    # sees them, not even while it starts.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        return subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_elsewhere(
    path: Path, temporary: Path, arrays: dict[str, Any], about: dict[str, Any]
) -> None:
    """`saved_heads.write_checkpoint` in the child of this process, one at a time.

    Raises:
        StoreError: where it cannot be written, or the child has ended.
    """
    child = _writer()
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        pickle.dump((path, temporary, arrays, about), child.stdin)
        child.stdin.flush()
        problem = pickle.load(child.stdout)
    except (OSError, EOFError) as error:
        raise StoreError(
            f"the process that writes heads to {path.parent} has ended ({child.poll()}); rows "
            "written before are safe, start the same command again"
        ) from error
    if problem is not None:
        raise StoreError(problem)


def _serve() -> None:
    """Writes what comes in on standard input, and answers with what went wrong, or None."""
    from w2s_jax.sweep.saved_heads import write_checkpoint

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints
    while True:
        try:
            wanted = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            write_checkpoint(*wanted)
            problem = None
        except StoreError as error:
            problem = str(error)
        pickle.dump(problem, answers)
        answers.flush()
