"""Files of a run directory: written whole or not at all, and checked when they are read.

A part of rows is named by the hash of its content, so that one that lost its end or a single bit
tells by its name. Parts of format 1 have shorter names, by their keys, and are only parsed.
"""

import hashlib
import io
from collections.abc import Sequence

import pandas as pd

from w2s_jax.errors import StoreError
from w2s_jax.sweep.locations import Location, find, read, reason, rename, write

_HASH_BYTES = 16
DAMAGED = ".damaged"


class DamagedPart(StoreError):
    """A part whose content is not what was written."""


def write_atomically(path: Location, data: bytes) -> None:
    """Writes a file of a run directory: a reader sees the whole of it or none.

    Raises:
        StoreError: where that fails; nothing is left behind.
    """
    try:
        write(path, data)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {reason(error)}; rows written before are safe, free the "
            "disk or choose another --out and start the same command again"
        ) from error


def write_part(folder: Location, rows: pd.DataFrame) -> Location:
    """Writes rows as one Parquet part and returns where."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    table = pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(table, sink, compression="zstd", write_statistics=False)
    data = sink.getvalue().to_pybytes()
    path = folder / f"{content_hash(data)}.parquet"
    write_atomically(path, data)
    return path


def content_hash(data: bytes) -> str:
    """The name of a part with this content."""
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).hexdigest()


def part_files(folder: Location) -> list[Location]:
    """All parts of a folder, in a stable order."""
    try:
        return find(folder, "*.parquet")
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {reason(error)}; try again when it can") from error


def read_part(path: Location, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of one part, after comparing its content with its name.

    Raises:
        FileNotFoundError: where it is gone.
        DamagedPart: where its content is not what was written.
        StoreError: where it cannot be read at all.
    """
    import pyarrow as pa

    try:
        data = read(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {reason(error)}; try again when it can") from error
    advice = "start the same sweep again, which sets it aside and computes its rows anew"
    if len(path.stem) == 2 * _HASH_BYTES and content_hash(data) != path.stem:
        raise DamagedPart(f"{path} is damaged: its content does not match its name; {advice}")
    names = None if columns is None else list(columns)
    try:
        return pd.read_parquet(io.BytesIO(data), columns=names)
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise DamagedPart(f"{path} is damaged ({type(error).__name__}); {advice}") from error


def set_aside(path: Location) -> Location:
    """Renames a damaged part, so that nobody reads it and nothing is thrown away."""
    aside = path.with_name(path.name + DAMAGED)
    try:
        rename(path, aside)
    except FileNotFoundError:
        return aside  # another process was faster
    except OSError as error:
        raise StoreError(
            f"{path} is damaged and cannot be set aside: {reason(error)}; move it away and "
            "start the same command again"
        ) from error
    return aside
