"""Ctrl-C and SIGTERM wait for the commit that is under way, of rows or of features."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

from w2s_jax.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """A context in which the first signal is only noted; a second one ends the process at once.

    Signals reach the main thread of a process alone; in another one this does nothing.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Takes over both signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        sys.stderr.write("stopping after what is under way; once more gives it up\n")
        for other, handler in self._previous.items():
            signal.signal(other, handler)

    def noted(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def check(self, done: str) -> None:
        """Ends the run after the last commit, if a signal has come.

        Args:
            done: what has been done, for the message.

        Raises:
            Interrupted: saying how to go on.
        """
        if self._signal is not None:
            name = signal.Signals(self._signal).name
            raise Interrupted(
                f"stopped by {name} after {done}; all of them are on disk, start the same command "
                "again to go on",
                128 + self._signal,
            )
