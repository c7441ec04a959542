"""One writer for a run directory: the second process refuses to start, whatever became of it."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from absl import logging

from w2s_jax.errors import StoreError

LOCK = ".lock"


class Lock:
    """Holds a file of a folder until `release`, or until the process ends, however it ends.

    Where the file system has no locks, a warning says so and the run goes on; rows that two
    processes wrote there still count once.

    Args:
        folder: where the file lies.
        name: of the file.
        shared: whether others may hold it too, if they share it.

    Raises:
        StoreError: while another process holds it; it says which.
    """

    def __init__(self, folder: Path, name: str = LOCK, *, shared: bool = False):
        self._file: IO[str] | None = None
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            return
        path = folder / name
        try:
            self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}; choose another --out"
            ) from error
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._holder()
            self.release()
            raise StoreError(
                f"{folder} is in use by {holder}; wait until it has ended, or choose another --out"
            ) from None
        except OSError as error:
            logging.warning("%s cannot be locked (%s): start one process only", folder, error)
            return
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with contextlib.suppress(OSError):  # only a courtesy to the next one
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(holder))
            self._file.flush()

    def _holder(self) -> str:
        assert self._file is not None
        try:
            self._file.seek(0)
            found = json.load(self._file)
            return f"process {found['pid']} on {found['host']} since {found['since']}"
        except (ValueError, KeyError, TypeError, OSError):
            return "another process"

    def release(self) -> None:
        """Lets others write; the file stays."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
