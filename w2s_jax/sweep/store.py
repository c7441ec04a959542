"""Result rows on disk: Parquet parts beside a ``sweep.json`` that pins what they belong to."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from w2s_jax.errors import StoreError
from w2s_jax.sweep.axes import METHOD_NUMBERS
from w2s_jax.sweep.grid import SCHEMA_VERSION
from w2s_jax.version import __version__

FORMAT_VERSION = 1


def _write_atomically(path: Path, data: bytes) -> None:
    """Temporary name, fsync, rename: a reader sees the whole file or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error.strerror}; rows written before are safe, free the "
            "disk or choose another --out and start the same command again"
        ) from error


def _pinned(fingerprints: dict[str, tuple[str, str]]) -> dict[str, Any]:
    return {name: {"teacher": t, "student": s} for name, (t, s) in fingerprints.items()}


class Store:
    """A run directory that rows are added to, part by part.

    Args:
        path: the directory; made where it is missing.
        fingerprints: of every pair's teacher and student; a pair in the store under another
            fingerprint is refused.
        settings: what else sweep.json records (grid, devices, precision).

    Raises:
        StoreError: if the directory is something else, cannot be written, was written by a newer
            version, or holds results of other features under the same names.
    """

    def __init__(
        self, path: str | Path, fingerprints: dict[str, tuple[str, str]], settings: dict[str, Any]
    ):
        self.path = Path(path)
        self._rows = self.path / "rows"
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"{self.path} is a file; give a directory for the results")
        manifest = read_manifest(self.path) if (self.path / "sweep.json").exists() else None
        if manifest is None and self.path.exists() and not _is_untouched(self.path):
            raise StoreError(f"{self.path} is not empty and holds no sweep; choose another --out")
        pairs = _pinned(fingerprints)
        grids = [settings]
        if manifest is not None:
            for name, old in manifest["pairs"].items():
                if name in pairs and pairs[name] != old:
                    raise StoreError(
                        f"{self.path} holds results of {name!r} with other features: stored "
                        f"{_short(old)}, now {_short(pairs[name])}; choose another --out, or "
                        "restore the feature files"
                    )
            stored = {old.get("dtype") for old in manifest["runs"]} - {settings.get("dtype")}
            if stored:
                raise StoreError(
                    f"{self.path} holds results in {stored.pop()}, this run is in "
                    f"{settings.get('dtype')}; choose another --out"
                )
            pairs = {**manifest["pairs"], **pairs}
            grids = manifest["runs"] + ([settings] if settings not in manifest["runs"] else [])
        try:
            self._rows.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {self._rows}: {error.strerror}") from error
        document = {
            "format_version": FORMAT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "package_version": __version__,
            "python": platform.python_version(),
            "pairs": pairs,
            "runs": grids,
        }
        _write_atomically(
            self.path / "sweep.json", json.dumps(document, indent=2, sort_keys=True).encode()
        )

    def keys(self) -> set[str]:
        """Keys of all rows that are there."""
        import pyarrow.parquet as pq

        found: set[str] = set()
        for part in sorted(self._rows.glob("*.parquet")):
            found.update(
                _read(part, lambda p: pq.read_table(p, columns=["key"])["key"].to_pylist())
            )
        return found

    def add(self, rows: pd.DataFrame) -> None:
        """Commits rows as one part, named by their keys."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        name = hashlib.blake2b("".join(rows["key"]).encode(), digest_size=12).hexdigest()
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pandas(rows, preserve_index=False)
        pq.write_table(table, sink, compression="zstd", write_statistics=False)
        _write_atomically(self._rows / f"{name}.parquet", sink.getvalue().to_pybytes())


def _is_untouched(path: Path) -> bool:
    """Whether a directory is empty, or all that a start which could not write left in it."""
    return all(
        (entry.name == "rows" and entry.is_dir() and not any(entry.iterdir()))
        or (entry.name.startswith(".sweep.json.") and entry.name.endswith(".tmp"))
        for entry in path.iterdir()
    )


def _short(pinned: dict[str, str]) -> str:
    return " and ".join(f"{side} {value[:12]}" for side, value in pinned.items())


def _read(path: Path, reader: Any) -> Any:
    import pyarrow as pa

    try:
        return reader(path)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}); move it away and start the same "
            "sweep again to compute its rows anew"
        ) from error


def read_manifest(run: str | Path) -> dict[str, Any]:
    """What a run directory's sweep.json says.

    Raises:
        StoreError: if there is none, it is damaged, or a newer version wrote it.
    """
    path = Path(run) / "sweep.json"
    try:
        document = json.loads(path.read_text())
        version = document["format_version"]
        kinds = (version, int), (document["pairs"], dict), (document["runs"], list)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise TypeError("a field has another type than it was written with")
    except FileNotFoundError:
        raise StoreError(f"{run} holds no sweep (no sweep.json); give a run directory") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({type(error).__name__}); restore it") from error
    if version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format {version}, this w2s_jax reads up to {FORMAT_VERSION}; upgrade"
        )
    return document


def read_rows(run: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """All result rows of a run directory, in a stable order.

    Args:
        run: the directory that ``--out`` named.
        columns: the columns to read; default all.

    Raises:
        StoreError: if the directory holds no sweep, no rows, or a damaged part.
    """
    read_manifest(run)
    parts = sorted((Path(run) / "rows").glob("*.parquet"))
    if not parts:
        raise StoreError(f"{run} holds no rows yet; run the sweep to its first commit")
    names = None if columns is None else list(columns)
    frames = [_read(p, lambda path: pd.read_parquet(path, columns=names)) for p in parts]
    rows = pd.concat(frames, ignore_index=True)
    if "key" in rows:
        # Two processes that were started on one directory may both have computed a row.
        rows = rows.drop_duplicates("key")
    return in_order(rows)


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Sorts rows by pair, draw, penalties and method, whatever order they were computed in."""
    by = ["pair", "feature_scaling", "class_prior", "n_labelled", "n_unlabelled", "eta_l", "eta_u"]
    by += ["seed", "teacher_l2", "student_l2", "method", *(axis.name for axis in METHOD_NUMBERS)]
    present = [name for name in by if name in rows] + (["key"] if "key" in rows else [])
    return rows.sort_values(present, kind="stable", ignore_index=True)
