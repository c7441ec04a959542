"""Finding a benchmark's files in a local folder, and refusing those outside of it."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

from w2s_jax.datasets.archives import DatasetError

# Of files taken for images where a folder is listed; what a file is, its content decides.
IMAGE_SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .png .ppm .tif .tiff .webp".split())

T = TypeVar("T")


def path_inside(folder: str | os.PathLike, name: str) -> str:
    """Path of a file that a table names, refused where it leaves the folder.

    Args:
        folder: The benchmark's folder.
        name: Path relative to it, with slashes.

    Returns:
        The path, whether a file is there or not.

    Raises:
        DatasetError: The path is absolute, has "..", or leaves the folder by a link.
    """
    pure = PurePosixPath(name.replace("\\", "/"))
    path = os.path.join(folder, name)
    # A Windows drive is no relative path either, on whichever system the table was written.
    drive = re.match(r"[A-Za-z]:", name)
    bad = bool(drive) or not pure.parts or "\0" in name or pure.is_absolute() or ".." in pure.parts
    if not bad:
        root = os.path.realpath(folder)
        bad = os.path.commonpath([root, os.path.realpath(path)]) != root
    if bad:
        raise DatasetError(
            f"{name!r} lies outside of the data folder {os.fspath(folder)}, or a link leads out of "
            "it; names must be relative to the folder and stay in it."
        )
    return path


def list_images(folder: str | os.PathLike) -> list[str]:
    """Names of the image files in a folder, sorted; hidden files are no images.

    Args:
        folder: An existing folder.

    Returns:
        Base names.

    Raises:
        DatasetError: The folder does not exist.
    """
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"There is no folder {os.fspath(folder)}; give the folder of the published layout."
        ) from None
    return [
        name
        for name in names
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    ]


def find_folder(data_dir: str | os.PathLike, name: str, marker: str) -> str:
    """The benchmark's folder: the given one, or the one with the published name inside of it.

    Args:
        data_dir: What the user gave.
        name: The published name of the folder.
        marker: Name of a file or folder that the benchmark's folder has.

    Returns:
        The folder that has the marker.

    Raises:
        DatasetError: Neither has it.
    """
    for folder in (os.fspath(data_dir), os.path.join(data_dir, name)):
        if os.path.exists(os.path.join(folder, marker)):
            return folder
    raise DatasetError(
        f"Neither {os.fspath(data_dir)} nor a folder {name} in it has {marker!r}; give the folder "
        "of the published layout."
    )


def list_folders(folder: str | os.PathLike) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out.

    Raises:
        DatasetError: The folder does not exist.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(
            f"There is no folder {os.fspath(folder)}; give the folder of the published layout."
        ) from None


def read_table(path: str | os.PathLike, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header, values stripped of surrounding blanks.

    Args:
        path: UTF-8, a byte order mark allowed.
        columns: Names that the header must have.

    Returns:
        One dict a row, other columns included.

    Raises:
        DatasetError: The file cannot be read, a column is missing, or a row has another number of
            fields than the header.
    """
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{where} cannot be read as a CSV file in UTF-8 ({error}).") from None
    header = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise DatasetError(
            f"{where} lacks the columns {', '.join(missing)}; its columns are "
            f"{', '.join(header) or 'none'}."
        )
    rows = []
    for number, fields in enumerate(lines[1:], start=2):
        if not fields:
            continue
        if len(fields) != len(header):
            raise DatasetError(
                f"{where}, line {number} has {len(fields)} fields, its header {len(header)}."
            )
        rows.append(dict(zip(header, (field.strip() for field in fields), strict=True)))
    return rows


def read_code(row: Mapping[str, str], column: str, codes: Mapping[str, T], where: str) -> T:
    """What the value of a column stands for.

    Raises:
        DatasetError: The value is none of the known ones.
    """
    try:
        return codes[row[column]]
    except KeyError:
        raise DatasetError(
            f"{where}: {column} is {row[column]!r}; known: {', '.join(map(repr, codes))}."
        ) from None
