"""Reading the two containers of a user's arrays: .npz archives and CSV tables."""

import contextlib
import csv
import difflib
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from w2s_jax.errors import FeatureError
from w2s_jax.features.checks import did_you_mean
from w2s_jax.features.npyfile import read_npy

# What the standard library raises on archives that are cut, overwritten, encrypted or no archive.
_DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
)


def read_npz(path: Path, known: Iterable[str]) -> dict[str, np.ndarray]:
    """Read every array of an .npz archive; nothing is unpickled.

    Args:
        path: archive written by numpy.savez or numpy.savez_compressed.
        known: keys that may occur.

    Raises:
        FeatureError: missing, damaged, with an unknown key or with an array of objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for key in members:
                if key not in known:
                    raise FeatureError(
                        f"{path} has the unknown key {key!r}{did_you_mean(key, known)}; "
                        f"found {', '.join(members)}, known are {', '.join(known)}"
                    )
            result = {}
            for key, info in members.items():
                with archive.open(info) as file:
                    result[key] = read_npy(file, info.file_size, f"{key} in {path}")
            return result
    except FeatureError:
        raise
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror or error}") from None
    except _DAMAGED_ZIP as error:
        raise FeatureError(
            f"{path} is damaged or truncated, not an .npz archive ({error}); write it again with "
            "numpy.savez"
        ) from None


@contextlib.contextmanager
def naming(*paths: Path) -> Iterator[None]:
    """Put the names of the files before a FeatureError about their content."""
    try:
        yield
    except FeatureError as error:
        raise FeatureError(f"{' with '.join(map(str, paths))}: {error}") from None


def require_keys(
    path: Path, found: Iterable[str], needed: Iterable[str], kind: str = "key"
) -> None:
    """Refuse a file that lacks one of the needed keys."""
    for key in needed:
        if key not in found:
            raise FeatureError(
                f"{path} lacks the {kind} {key!r}{did_you_mean(key, found)}; found "
                f"{', '.join(found) or 'none'}, needed are {', '.join(needed)}"
            )


def read_csv(path: Path, columns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Read the wanted columns of a CSV with a header line; other columns are ignored.

    Args:
        path: UTF-8 CSV file.
        columns: for each wanted column the names it may have.

    Returns:
        The columns found, under their canonical names, as strings.

    Raises:
        FeatureError: missing, empty, ragged, two names for one column, or a column that looks
            like a misspelling of one that is not there.
    """
    header, rows = _read_rows(path)
    result = {}
    for name, aliases in columns.items():
        present = [column for column in header if column in aliases]
        if len(present) > 1:
            raise FeatureError(
                f"{path} has the columns {' and '.join(present)}, which all mean {name}; "
                "keep one of them"
            )
        if present:
            at = header.index(present[0])
            result[name] = [row[at] for row in rows]
    aliases = [alias for names in columns.values() for alias in names]
    absent = [alias for name in columns if name not in result for alias in columns[name]]
    for column in header:
        close = difflib.get_close_matches(column.lower(), absent, n=1, cutoff=0.8)
        if column not in aliases and close:
            raise FeatureError(
                f"{path} has the unknown column {column!r} (did you mean {close[0]!r}?); "
                f"rename it, or drop it if it is something else; found {', '.join(header)}"
            )
    return result


def read_header(path: Path) -> list[str]:
    """The column names of a CSV."""
    return _read_rows(path)[0]


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [column.strip() for column in next(reader, [])]
            if not any(header):
                raise FeatureError(f"{path} is empty; its first line must name the columns")
            repeated = sorted({column for column in header if header.count(column) > 1})
            if repeated:
                raise FeatureError(f"{path} repeats the column {repeated[0]!r}; rename one")
            rows = []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise FeatureError(
                        f"{path} has {len(row)} values in line {reader.line_num}, but "
                        f"{len(header)} columns; repair the line"
                    )
                rows.append(row)
            return header, rows
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeatureError(f"{path} is not a UTF-8 CSV file ({error}); save it again") from None


def as_integers(path: Path, name: str, column: Sequence[str]) -> np.ndarray:
    """A CSV column [n] as int64.

    Raises:
        FeatureError: naming the first row that is not an integer.
    """
    try:
        return np.array(column, dtype=np.str_).astype(np.int64)
    except (ValueError, OverflowError):
        integers = np.zeros(len(column), np.int64)
        for row, value in enumerate(column):
            try:
                integers[row] = int(value)
            except (ValueError, OverflowError):
                raise FeatureError(
                    f"{name} in {path} is {value!r} in row {row} (counting from 0), not an "
                    "integer; number the values from 0, -1 = unlabelled"
                ) from None
        return integers
