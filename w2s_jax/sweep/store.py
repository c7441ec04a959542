"""Result rows on disk: Parquet parts beside a ``sweep.json`` that pins what they belong to."""

import hashlib
import itertools
import json
import platform
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
from absl import logging

from w2s_jax.errors import StoreError
from w2s_jax.sweep.axes import METHOD_NUMBERS
from w2s_jax.sweep.grid import SCHEMA_VERSION
from w2s_jax.sweep.hosts import Process
from w2s_jax.sweep.locations import (
    Location,
    exists,
    is_remote,
    location,
    make_folder,
    read,
    reason,
    remote_errors,
)
from w2s_jax.sweep.lock import LOCK, Lease, Lock
from w2s_jax.sweep.parts import (
    DAMAGED,
    DamagedPart,
    part_files,
    read_part,
    set_aside,
    write_atomically,
    write_part,
)
from w2s_jax.version import __version__

FORMAT_VERSION = 2
ALONE = Process(0, 1)
# Seconds for which processes wait for the first one.
_PATIENCE = 120
_ANEW = "move it away and start the same command again, which makes it anew from the rows"


def _pinned(fingerprints: dict[str, tuple[str, str]]) -> dict[str, Any]:
    return {name: {"teacher": t, "student": s} for name, (t, s) in fingerprints.items()}


class Store:
    """A run directory that rows are added to, part by part, by one process at a time.

    A context manager: leaving it lets other processes write.

    Args:
        path: the directory; made where it is missing. Or the URL of one in an object store.
        fingerprints: of every pair's teacher and student; a pair in the store under another
            fingerprint is refused.
        settings: what else sweep.json records (grid, devices, precision).
        process: which of several processes that share the run this is; the first pins the
            manifest, the others wait for it.

    Raises:
        StoreError: if the directory is something else, cannot be written, was written by a newer
            version, holds results of other features or methods under the same names, or is in use.
    """

    def __init__(
        self,
        path: str | Location,
        fingerprints: dict[str, tuple[str, str]],
        settings: dict[str, Any],
        process: Process = ALONE,
    ):
        self.path = location(path)
        self._rows = self.path / "rows"
        pairs = _pinned(fingerprints)
        self._suffix = process.suffix()
        self._locks: list[Lock | Lease] = []
        try:
            self._enter(process)
            if process.index:
                self._await(pairs, settings)
            else:
                self._pin(*merged(self.path, pairs, settings))
        except OSError as error:
            self.close()
            raise StoreError(
                f"cannot use {self.path}: {reason(error)}; choose another --out"
            ) from error
        except StoreError:
            self.close()
            raise

    def _enter(self, process: Process) -> None:
        """Makes the directory and locks it.

        One process alone excludes all others; those of one run exclude their doubles.
        """
        with remote_errors():
            if self.path.exists() and not self.path.is_dir():
                raise StoreError(f"{self.path} is a file; give a directory for the results")
            if not _may_be_a_run(self.path):
                raise StoreError(
                    f"{self.path} is not empty and holds no sweep; choose another --out"
                )
        own = f"{LOCK}-{process.index}"
        if is_remote(self.path):  # has no folders to make
            others = LOCK if not process.alone else f"{LOCK}-*"
            self._locks.append(Lease(self.path, LOCK if process.alone else own, others))
            return
        try:
            make_folder(self._rows)
        except OSError as error:
            raise StoreError(
                f"cannot make {self._rows}: {error.strerror}; choose another --out"
            ) from error
        self._locks.append(Lock(self.path, shared=not process.alone))
        if not process.alone:
            self._locks.append(Lock(self.path, own))

    def close(self) -> None:
        """Lets other processes write."""
        for lock in self._locks:
            lock.release()

    def _await(self, pairs: dict[str, Any], settings: dict[str, Any]) -> None:
        """Waits until the first process has pinned this run."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if exists(self.path / "sweep.json"):
                found = merged(self.path, pairs, settings)
                manifest = read_manifest(self.path)
                if found == (manifest["pairs"], manifest["runs"]):
                    return
            time.sleep(0.1)
        raise StoreError(
            f"process 0 has not begun this run in {self.path} within {_PATIENCE} s; start it, with "
            "the same flags and the same --out"
        )

    def _pin(self, pairs: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        document = {
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            "python": platform.python_version(),
            "pairs": pairs,
            "runs": runs,
        }
        document["checksum"] = _checksum(document)
        self.note("sweep.json", json.dumps(document, indent=2, sort_keys=True))

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has_rows(self) -> bool:
        """Whether any row is there."""
        return bool(part_files(self._rows))

    def keys(self) -> set[str]:
        """Keys of all rows that are there; a damaged part is set aside, and its rows are not."""
        return _keys(self._rows, aside=True)

    def add(self, rows: pd.DataFrame) -> None:
        """Commits rows as one part."""
        for lock in self._locks:
            lock.check()
        write_part(self._rows, rows)

    def report(self, progress: dict[str, Any]) -> None:
        """Replaces ``progress.json``, for whoever watches the run."""
        self.note(f"progress{self._suffix}.json", json.dumps(progress, indent=2))

    def note(self, name: str, text: str) -> None:
        """Writes or replaces a file of the directory."""
        write_atomically(self.path / name, text.encode())

    def keep(self, name: str, text: str) -> None:
        """Writes a file of the directory; under a numbered name where there is another one."""
        stem, _, suffix = name.partition(".")
        for number in itertools.count(1):
            path = self.path / (name if number == 1 else f"{stem}-{number}.{suffix}")
            if not exists(path):
                write_atomically(path, text.encode())
                return
            if read(path) == text.encode():
                return


def _keys(rows: Location, *, aside: bool) -> set[str]:
    """Keys of all rows in undamaged parts; damaged ones are set aside on request."""
    found: set[str] = set()
    for part in part_files(rows):
        try:
            found.update(read_part(part, ["key"])["key"])
        except FileNotFoundError:
            continue  # another process has set it aside
        except DamagedPart:
            if aside:
                logging.warning(
                    "%s is damaged; it is now %s, and its rows are computed anew",
                    part,
                    set_aside(part).name,
                )
    return found


def stored_keys(
    run: str | Location, fingerprints: dict[str, tuple[str, str]], settings: dict[str, Any]
) -> set[str]:
    """Keys of the rows that a run would find, without touching anything.

    Args:
        run: what ``--out`` names; it need not exist.
        fingerprints: as of `Store`.
        settings: likewise.

    Raises:
        StoreError: where that run would be refused.
    """
    path = location(run)
    try:
        if not exists(path):
            return set()
        merged(path, _pinned(fingerprints), settings)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; try again when it can") from error
    return _keys(path / "rows", aside=False)


def merged(
    path: Location, pairs: dict[str, Any], settings: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pairs and runs of a run directory with this run's, if they agree."""
    if exists(path / "sweep.json"):
        manifest = read_manifest(path)
    else:
        manifest = _manifest_of_rows(path / "rows")
    version = manifest["schema_version"]
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} holds rows of schema {version}, this w2s_jax computes schema "
            f"{SCHEMA_VERSION}, whose settings or heads mean something else; choose another "
            "--out, or go on with the version that wrote it"
        )
    if manifest["runs"] and not part_files(path / "rows"):  # they ended before their first rows
        return {**manifest["pairs"], **pairs}, [settings]
    for name, old in manifest["pairs"].items():
        if name in pairs and pairs[name] != old:
            raise StoreError(
                f"{path} holds results of {name!r} with other features: stored "
                f"{_short(old)}, now {_short(pairs[name])}; choose another --out, or "
                "restore the feature files"
            )
    for old in manifest["runs"]:
        for name, definition in old.get("methods", {}).items():
            now = settings.get("methods", {}).get(name)
            if now and definition and now != definition:
                raise StoreError(
                    f"{path} holds results of another method {name!r}: stored {definition}, now "
                    f"{now}; choose another --out, give the method another name, or restore its "
                    "code"
                )
    stored = {old["dtype"] for old in manifest["runs"] if "dtype" in old}
    stored -= {settings.get("dtype")}
    if stored:
        raise StoreError(
            f"{path} holds results in {stored.pop()}, this run is in "
            f"{settings.get('dtype')}; choose another --out"
        )
    own = settings.get("row_shards", 1)
    for old in manifest["runs"]:
        if old.get("row_shards", 1) != own:
            raise StoreError(
                f"{path} holds results of features that lie {_dealt(old.get('row_shards', 1))}, in "
                f"this run they lie {_dealt(own)}; choose another --out, or the devices, "
                "--memory_budget and --shard_rows of before"
            )
    added = [settings] if settings not in manifest["runs"] else []
    return {**manifest["pairs"], **pairs}, manifest["runs"] + added


def stored_row_shards(path: str | Location) -> int | None:
    """Devices among which the runs of a directory dealt out rows; None where there are no runs."""
    path = location(path)
    try:
        runs = read_manifest(path)["runs"] if exists(path / "sweep.json") else []
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; try again when it can") from error
    return runs[0].get("row_shards", 1) if runs and part_files(path / "rows") else None


def _dealt(row_shards: int) -> str:
    if row_shards == 1:
        return "whole on a device"
    return f"dealt out to {row_shards} devices"


def _checksum(document: dict[str, Any]) -> str:
    """Of a manifest without the checksum itself."""
    content = {key: value for key, value in document.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _may_be_a_run(path: Location) -> bool:
    """Whether a directory is a run's, or holds nothing but what a run, or its start, leaves."""
    if not path.exists():
        return True
    entries = list(path.iterdir())
    own = (LOCK, ".sweep.json.", ".progress", "progress", "flags")
    return any(entry.name == "sweep.json" for entry in entries) or all(
        (entry.name == "rows" and entry.is_dir() and _holds_parts_only(entry))
        or entry.name.startswith(own)
        for entry in entries
    )


def _holds_parts_only(folder: Location) -> bool:
    return all(
        entry.name.endswith((".parquet", f".parquet{DAMAGED}", ".tmp"))
        for entry in folder.iterdir()
    )


def _manifest_of_rows(folder: Location) -> dict[str, Any]:
    """What a lost sweep.json said, as far as the rows know it, which is not all.

    The precision of the runs before, what their methods were and to how many devices they dealt out
    features is lost: a run that does otherwise is warned and not refused.
    """
    names = ["pair", "teacher_fingerprint", "student_fingerprint", "schema_version"]
    pairs, versions = {}, {SCHEMA_VERSION}
    for part in part_files(folder):
        try:
            rows = read_part(part, names).drop_duplicates()
        except (DamagedPart, FileNotFoundError):
            continue
        for pair, teacher, student, version in rows.itertuples(index=False):
            pairs[str(pair)] = {"teacher": str(teacher), "student": str(student)}
            versions.add(int(version))
    if pairs:
        logging.warning(
            "%s has rows and no sweep.json; it is made anew without the precision, methods' code "
            "and devices (row_shards) of the runs before; go on with the same flags (flags.txt), "
            "code and devices only",
            folder.parent,
        )
    return {"pairs": pairs, "runs": [], "schema_version": max(versions)}


def _short(pinned: dict[str, str]) -> str:
    return " and ".join(f"{side} {value[:12]}" for side, value in pinned.items())


def read_manifest(run: str | Location) -> dict[str, Any]:
    """What a run directory's sweep.json says.

    Raises:
        StoreError: if there is none, it is damaged, or a newer version wrote it.
    """
    path = location(run) / "sweep.json"
    try:
        document = json.loads(read(path))
        version = document["format_version"]
        kinds = (version, int), (document["pairs"], dict), (document["runs"], list)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError("a field has another type than it was written with")
    except FileNotFoundError:
        raise StoreError(f"{run} holds no sweep (no sweep.json); give a run directory") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; try again when it can") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__}); {_ANEW}") from error
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format {version}, this w2s_jax reads up to {FORMAT_VERSION}; upgrade"
        )
    if version > 1 and document.get("checksum") != _checksum(document):
        raise StoreError(
            f"{path} does not match its own checksum: it was edited or damaged; {_ANEW}"
        )
    return document


def read_rows(run: str | Location, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All result rows of a run directory, in a stable order.

    Args:
        run: the directory that ``--out`` named, or its URL.
        columns: the columns to read; default all.

    Raises:
        StoreError: if the directory holds no sweep, no rows, a damaged part, or one that went away.
    """
    read_manifest(run)
    parts = part_files(location(run) / "rows")
    if not parts:
        raise StoreError(f"{run} holds no rows yet; run the sweep to its first commit")
    try:
        rows = pd.concat([read_part(part, columns) for part in parts], ignore_index=True)
    except FileNotFoundError as error:
        raise StoreError(
            f"a part of {run} went away while it was read ({reason(error)}): a sweep that runs "
            "there has set it aside as damaged; read again"
        ) from error
    if "key" in rows:
        # Where nothing can be locked, two processes may both have computed a row.
        rows = rows.drop_duplicates("key")
    return in_order(rows)


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sorts rows by pair, draw, penalties and method, whatever order they were computed in."""
    by = ["pair", "feature_scaling", "class_prior", "n_labelled", "n_unlabelled", "eta_l", "eta_u"]
    by += ["seed", "teacher_l2", "student_l2", "method", *(axis.name for axis in METHOD_NUMBERS)]
    present = [name for name in by if name in rows] + (["key"] if "key" in rows else [])
    return rows.sort_values(present, kind="stable", ignore_index=True)
