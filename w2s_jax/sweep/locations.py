"""Where a run directory is: a local folder, or an object store behind a URL, through fsspec.

Local files are written under a temporary name, synced and renamed. An object is written by a single
PUT, which stores give whole or not at all; there is nothing to sync. Whatever a store's own library
raises becomes an OSError.
"""

import contextlib
import errno
import fnmatch
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s_jax.errors import StoreError

# A pathlib.Path, or a upath.UPath, which is none but has its methods.
if TYPE_CHECKING:
    Location = Path
else:
    Location = Any


def location(run: Any) -> Location:
    """A run directory from its path, or from a URL such as ``s3://bucket/run``.

    Raises:
        StoreError: for a URL that nothing installed here can open.
    """
    if isinstance(run, Path) or hasattr(run, "fs"):
        return run
    if not isinstance(run, str | os.PathLike) or not str(run):
        raise StoreError(f"a run directory is a path or a URL, found {run!r}")
    text = str(run)
    if "://" not in text:
        return Path(text)
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    try:
        from upath import UPath

        path = UPath(text, use_listings_cache=False)
        path.fs  # noqa: B018 - loads what the protocol needs
    except ImportError as error:
        raise StoreError(
            f"cannot open {text} ({error}); pip install 'w2s_jax[fsspec]', and what the store "
            "needs, such as s3fs or gcsfs"
        ) from error
    except ValueError as error:
        raise StoreError(f"cannot open {text}: {error}; give a path, s3://..., gs://...") from error
    return path  # pyright: ignore[reportReturnType]


def is_remote(path: Location) -> bool:
    """Whether a location is in an object store."""
    return not isinstance(path, Path)


def reason(error: OSError) -> str:
    """What went wrong, in a few words."""
    return error.strerror or str(error)


@contextlib.contextmanager
def remote_errors() -> Iterator[None]:
    """Turns whatever a store's library raises into an OSError."""
    try:
        yield
    except (OSError, StoreError):
        raise
    except Exception as error:  # every store has its own kinds
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def read(path: Location) -> bytes:
    """The content of a file."""
    if not is_remote(path):
        return path.read_bytes()
    with remote_errors():
        return _fs(path).cat_file(_key(path))


def write(path: Location, data: bytes) -> None:
    """Writes a file, whole or not at all."""
    if is_remote(path):
        with remote_errors():
            _fs(path).pipe_file(_key(path), data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def create(path: Location, data: bytes) -> None:
    """Writes an object that is not there yet; stores without such a request just write it.

    Raises:
        FileExistsError: if it is there.
    """
    with remote_errors():
        try:
            _fs(path).pipe_file(_key(path), data, mode="create")
        except (TypeError, NotImplementedError):
            _fs(path).pipe_file(_key(path), data)


def rename(path: Location, to: Location) -> None:
    """Renames a file; an object is copied first, and then removed."""
    if not is_remote(path):
        os.replace(path, to)
        return
    with remote_errors():
        _fs(path).mv(_key(path), _key(to))


def remove(path: Location) -> None:
    """Removes an object, if it is there."""
    with remote_errors(), contextlib.suppress(FileNotFoundError):
        _fs(path).rm_file(_key(path))


def exists(path: Location) -> bool:
    """Whether there is a file, or a folder with something in it."""
    with remote_errors():
        return path.exists()


def find(folder: Location, pattern: str) -> list[Location]:
    """Files of a folder, by name; none where there is no folder."""
    if is_remote(folder):
        with remote_errors():
            return sorted(folder.glob(pattern), key=lambda path: path.name)
    try:
        names = os.listdir(folder)  # unlike Path.glob, fails where it may not read
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(names) if fnmatch.fnmatchcase(name, pattern)]


def make_folder(folder: Path) -> None:
    """Makes a folder and those it lies in, so that they survive a power cut."""
    missing = itertools.takewhile(lambda path: not path.exists(), (folder, *folder.parents))
    parents = [path.parent for path in missing]
    folder.mkdir(parents=True, exist_ok=True)
    for parent in parents:
        with contextlib.suppress(PermissionError):  # may write there, but not list
            sync_folder(parent)


def sync_folder(folder: Location) -> None:
    """Makes a rename survive a power cut, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def _fs(path: Any) -> Any:
    return path.fs


def _key(path: Any) -> str:
    return path.path
