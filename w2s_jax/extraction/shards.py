"""Features under way: shards of rows in a working folder, each committed as a whole.

A shard is written under a temporary name, synced, and renamed to a name that holds the hash of its
content. `job.json` pins all that the features depend on, so that shards of another setting are
refused and never mixed.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax.errors import W2SError
from w2s_jax.features.npyfile import array_checksum, file_checksum, open_npy, write_npy
from w2s_jax.features.saving import sync_directory

JOB = "job.json"
_SHARDS = "shard-*-*.npy"
_HASH_DIGITS = 32


class ExtractionError(W2SError):
    """Features cannot be extracted, stored or continued."""


def fingerprint(job: Mapping[str, Any]) -> str:
    """Hash of a job's description, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions, "key: found, now wanted" each.

    >>> differences({"layer": "cls", "n": 3}, {"layer": "mean", "n": 3})
    ["layer: 'cls' there, 'mean' now"]
    """
    out = []
    for key in sorted({*found, *wanted}):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            out += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            out.append(f"{prefix}{key}: {_short(old)} there, {_short(new)} now")
    return out


def refuse_other_settings(
    place: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], way_out: str
) -> None:
    """Compares the settings at a place with those that are asked for.

    Raises:
        ExtractionError: They differ; names both fingerprints, what differs and the way out.
    """
    if dict(found) != dict(wanted):
        raise ExtractionError(
            f"{place} has features of other settings, fingerprint {fingerprint(found)[:12]}..., "
            f"now {fingerprint(wanted)[:12]}... ({'; '.join(differences(found, wanted))}); "
            f"{way_out}"
        )


class ShardFolder:
    """The working folder of one feature set; one process at a time.

    Args:
        folder: Where; it is made, with its parents.
        job: All that the features depend on, as JSON holds it.
        num_rows: n.
        num_features: d.
        dtype: float16 or float32, in which features are kept.
        shard_size: Rows a shard; the last one has what is left.

    Raises:
        ExtractionError: Shards of other settings are there, another process writes them, or the
            folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        job: Mapping[str, Any],
        *,
        num_rows: int,
        num_features: int,
        dtype: np.dtype,
        shard_size: int,
    ):
        self.folder, self._dtype, self._shape = folder, dtype, (num_rows, num_features)
        self._shard_size = shard_size
        self._lock: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
            for left in folder.glob("*.tmp"):
                left.unlink()
            self._pin(job)
            self.done = self._find_done()
        except OSError as error:
            self.release()
            raise _cannot_write(folder, error) from error
        except W2SError:
            self.release()
            raise

    def _pin(self, job: Mapping[str, Any]) -> None:
        path = self.folder / JOB
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = None
        except ValueError as error:
            raise ExtractionError(
                f"{path} is damaged ({error}); remove {self.folder} and start again"
            ) from None
        if found == job:
            return
        if found is not None and any(self.folder.glob(_SHARDS)):
            refuse_other_settings(
                self.folder,
                found,
                job,
                "start the earlier command again to finish it, choose another --out, or remove "
                f"{self.folder} to give its shards up",
            )
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(job, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(self.folder)

    @property
    def num_shards(self) -> int:
        """How many there will be."""
        return -(-self._shape[0] // self._shard_size)

    def rows(self, shard: int) -> range:
        """The rows of a shard."""
        start = shard * self._shard_size
        return range(start, min(start + self._shard_size, self._shape[0]))

    def _find_done(self) -> dict[int, Path]:
        """Committed shards; one whose content does not match its name is removed."""
        done = {}
        for path in sorted(self.folder.glob(_SHARDS)):
            number, digest = path.stem.split("-")[1:]
            shape = (len(self.rows(int(number))), self._shape[1])
            if file_checksum(path)[:_HASH_DIGITS] == digest and open_npy(path).shape == shape:
                done[int(number)] = path
            else:
                path.unlink()
        return done

    def commit(self, shard: int, features: np.ndarray) -> None:
        """Writes the features of a shard, whole or not at all.

        Args:
            shard: Its number.
            features: [rows of the shard, d] float32, already known to fit the storage dtype.

        Raises:
            ExtractionError: The disk refuses; shards that were committed before stay.
        """
        features = np.ascontiguousarray(features, self._dtype)
        digest = array_checksum(features)
        path = self.folder / f"shard-{shard:06d}-{digest[:_HASH_DIGITS]}.npy"
        temporary = path.with_suffix(".tmp")
        try:
            temporary.unlink(missing_ok=True)
            write_npy(temporary, [features], self._dtype, features.shape)
            os.replace(temporary, path)
            sync_directory(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise _cannot_write(path, error) from error
        self.done[shard] = path

    def assemble(self) -> np.ndarray:
        """All features [n, d] in the order of rows, as a memory map in the working folder."""
        missing = self.num_shards - len(self.done)
        if missing:
            raise ExtractionError(
                f"{self.folder} lacks {missing} of {self.num_shards} shards; extract them first"
            )
        path = self.folder / "features.tmp"
        try:
            blocks = (open_npy(self.done[shard]) for shard in range(self.num_shards))
            write_npy(path, blocks, self._dtype, self._shape)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return open_npy(path)

    def release(self) -> None:
        """Lets another process go on here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Removes the folder, once the features are elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()


def _lock(folder: Path) -> int | None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return None
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ExtractionError(
            f"another process extracts into {folder}; wait until it has ended, or choose another "
            "--out"
        ) from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _cannot_write(path: Path, error: OSError) -> ExtractionError:
    return ExtractionError(
        f"cannot write {path}: {error.strerror or error}; shards written before are safe, free the "
        "disk or choose another --out and start the same command again"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
