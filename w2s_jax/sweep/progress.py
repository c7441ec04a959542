"""How far a run is, for ``progress.json``."""

import time
from typing import Any

_EVERY = 60.0  # seconds between lines in a log


class Progress:
    """Counts rows on disk and the rate at which they come.

    Args:
        total: rows of the whole grid.
        done: rows that were there before.
    """

    def __init__(self, total: int, done: int):
        self.total = total
        self.done = done
        self._before = done
        self._started = self._told = time.time()

    def add(self, rows: int) -> None:
        """Rows that were committed."""
        self.done += rows

    def is_due(self) -> bool:
        """Whether a minute has passed since this last said so, or since the start."""
        now = time.time()
        due = now - self._told >= _EVERY
        self._told = now if due else self._told
        return due

    def line(self) -> str:
        """The same in a few words, for a log."""
        told = self.document()
        rate, left = told["rows_per_second"], told["seconds_left"]
        pace = "" if rate is None or left is None else f"; {rate:.3g} a second, {left:.0f} s left"
        return f"{self.done} of {self.total} rows{pace}"

    def document(self) -> dict[str, Any]:
        """Rows in total, on disk, and before this run; Unix times; rows a second; seconds left."""
        now = time.time()
        rate = (self.done - self._before) / max(now - self._started, 1e-9)
        left = self.total - self.done
        return {
            "rows_total": self.total,
            "rows_done": self.done,
            "rows_before": self._before,
            "started": self._started,
            "updated": now,
            "rows_per_second": rate if self.done > self._before else None,
            "seconds_left": left / rate if rate else None,
        }
