"""Reading named files out of archives in memory: nothing is extracted, nothing is executed."""

import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from w2s_jax.errors import W2SError

# A member larger than this is not one of the small tables read here.
MAX_MEMBER_BYTES = 64 << 20


class DatasetError(W2SError):
    """A benchmark's source files cannot be used."""


def read_files(source: Path, names: Sequence[str], *, nested: str = "") -> dict[str, bytes]:
    """Content of files found by their base name in a folder or a (nested) tar archive.

    Args:
        source: A folder that holds the files or a folder of them, or a tar archive.
        names: Base names, each expected exactly once.
        nested: Base name of an archive inside `source` to look into where the files are not in
            `source` itself.

    Returns:
        Name to content.

    Raises:
        DatasetError: A file is absent, ambiguous or too large, or the archive is damaged or has a
            member that would lie outside of it.
    """
    if source.is_dir():
        found = _read_folder(source, {*names, nested} - {""})
    elif source.is_file():
        with source.open("rb") as stream:
            found = _read_tar(stream, {*names, nested} - {""}, str(source))
    else:
        raise DatasetError(f"There is nothing at {source}; give an archive or a folder.")
    if nested in found and not any(name in found for name in names):
        with io.BytesIO(found[nested]) as stream:
            found = _read_tar(stream, set(names), f"{source}/{nested}")
    missing = [name for name in names if name not in found]
    if missing:
        raise DatasetError(f"{source} lacks {', '.join(missing)}; give the published archive.")
    return {name: found[name] for name in names}


def _read_folder(folder: Path, names: set[str]) -> dict[str, bytes]:
    found = {}
    for name in sorted(names):
        paths = [path for path in sorted(folder.rglob(name)) if path.is_file()]
        if len(paths) > 1:
            raise DatasetError(
                f"{folder} has {len(paths)} files named {name}: {paths[0]}, {paths[1]}; "
                "give a folder with one of each."
            )
        if paths:
            _check_size(paths[0].stat().st_size, str(paths[0]))
            found[name] = paths[0].read_bytes()
    return found


def _read_tar(stream: io.BufferedIOBase, names: set[str], where: str) -> dict[str, bytes]:
    found = {}
    try:
        with tarfile.open(fileobj=stream, mode="r:*") as archive:
            for member in archive:
                path = PurePosixPath(member.name.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts:
                    raise DatasetError(
                        f"{where} has the member {member.name!r}, which lies outside of the "
                        "archive; it is not the published file, download it again."
                    )
                if path.name not in names:
                    continue
                reader = archive.extractfile(member) if member.isreg() else None
                if reader is None:
                    raise DatasetError(f"{where}: {member.name!r} is not a regular file.")
                if path.name in found:
                    raise DatasetError(f"{where} has several members named {path.name}.")
                _check_size(member.size, f"{where}: {member.name!r}")
                found[path.name] = reader.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DatasetError(
            f"{where} cannot be read as a tar archive ({error}); download it again."
        ) from error
    return found


def _check_size(size: int, where: str) -> None:
    if size > MAX_MEMBER_BYTES:
        raise DatasetError(f"{where} has {size} bytes, more than {MAX_MEMBER_BYTES} expected.")
