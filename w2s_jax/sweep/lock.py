"""One writer for a run directory: the second process refuses to start, whatever became of it.

A local directory has a lock of the system, which ends with its process. An object store has none:
there a writer renews an object that names it, and is believed to be dead where that stays the same
for too long. Two processes that watch a dead one at the same moment may both begin; the later one
remains, the other ends at its next commit. Rows computed twice count once: they have one key.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, NoReturn

from absl import logging

from w2s_jax.errors import StoreError
from w2s_jax.sweep.locations import Location, create, find, read, remove, write

LOCK = ".lock"
# Seconds after which a lease is renewed, and after which its holder is believed to be dead.
RENEWED_AFTER, DEAD_AFTER = 10.0, 60.0


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
        with contextlib.suppress(OSError):  # only a courtesy to the next one
            self._file.seek(0)
            self._file.truncate()
            self._file.write(json.dumps(_this_process()))
            self._file.flush()

    def _holder(self) -> str:
        assert self._file is not None
        try:
            self._file.seek(0)
            return _named(json.load(self._file))
        except (ValueError, KeyError, TypeError, OSError):
            return "another process"

    def check(self) -> None:
        """Nothing: the system keeps the lock."""

    def release(self) -> None:
        """Lets others write; the file stays."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


class Lease:
    """Holds an object of a store until `release`; it is renewed meanwhile.

    Args:
        folder: where the object lies.
        name: of the object.
        others: pattern of further objects that nobody else may hold.

    Raises:
        StoreError: while another process holds one of them; it says which.
    """

    def __init__(self, folder: Location, name: str, others: str):
        self._path, self._folder = folder / name, folder
        self._own = {**_this_process(), "token": uuid.uuid4().hex}
        self._lost = False
        self._ended = threading.Event()
        self._outlive(dict.fromkeys([self._path, *find(folder, others)]))
        try:
            create(self._path, self._content())
        except FileExistsError:
            self._refuse(_read_lease(self._path))
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _outlive(self, paths: Iterable[Location]) -> None:
        """Removes leases that nobody renews; returns at once where there are none."""
        first = {path: found for path in paths if (found := _read_lease(path))}
        for found in first.values():
            logging.warning("%s: looking whether %s is alive", self._folder, _named(found))
        end = time.monotonic() + DEAD_AFTER
        while first and time.monotonic() < end:
            time.sleep(RENEWED_AFTER / 10)
            for path, found in list(first.items()):
                now = _read_lease(path)
                if now is None:
                    del first[path]
                elif now != found:
                    self._refuse(now)
        for path in first:
            remove(path)

    def _refuse(self, holder: dict[str, Any] | None) -> NoReturn:
        named = _named(holder) if holder else "another process"
        raise StoreError(
            f"{self._folder} is in use by {named}; wait until it has ended, or choose another --out"
        )

    def _content(self) -> bytes:
        return json.dumps({**self._own, "renewed": time.time()}).encode()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_AFTER):
            try:
                found = _read_lease(self._path)
                self._lost = found is None or found["token"] != self._own["token"]
                if self._lost:
                    return
                write(self._path, self._content())
            except OSError as error:
                logging.warning("%s cannot be renewed (%s)", self._path, error)

    def check(self) -> None:
        """Ends a run whose place another process has taken.

        Raises:
            StoreError: if so.
        """
        if self._lost:
            raise StoreError(
                f"{self._path} was taken over by another process, because this one did not renew "
                "it in time; rows written before are safe, start the same command again when the "
                "other has ended"
            )

    def release(self) -> None:
        """Lets others write."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            found = _read_lease(self._path)
            if found and found["token"] == self._own["token"]:
                remove(self._path)


def _this_process() -> dict[str, Any]:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _named(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _read_lease(path: Location) -> dict[str, Any] | None:
    """Who holds a lease; None where there is none, or none that can be read."""
    try:
        found = json.loads(read(path))
        return found if {"token", "renewed", "pid", "host", "since"} <= found.keys() else None
    except (FileNotFoundError, ValueError, AttributeError):
        return None
