"""The .npy format, strictly: headers are checked against file sizes and nothing is ever unpickled.

Files are written in one canonical form (version 1.0, little-endian, C order), so the sha256 of an
array's file is also the sha256 of its content, whoever holds it.
"""

import ast
import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from w2s_jax.errors import FeatureError

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 16
_DESCR = re.compile(r"[<>|=][a-zA-Z]\d*(\[\w+\])?")
_BLOCK_BYTES = 16 << 20


class NpyHeader(NamedTuple):
    """What a .npy header says, with the byte offset at which the data start."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int

    @property
    def num_bytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes], size: int, name: str) -> NpyHeader:
    """Read a .npy header and check that the data fill the rest of the file exactly.

    Args:
        file: binary stream at the start of the .npy data.
        size: length of the .npy data in bytes.
        name: how errors call the file.

    Raises:
        FeatureError: not .npy, damaged, truncated, followed by other bytes, or holding objects.
    """
    magic = file.read(8)
    if magic[:6] != _MAGIC or len(magic) < 8:
        raise FeatureError(
            f"{name} is not a .npy array ({size} bytes, starting with {magic[:6]!r}); "
            "write it again with numpy.save"
        )
    if magic[6] not in (1, 2, 3):
        raise FeatureError(
            f"{name} has .npy format version {magic[6]}.{magic[7]}, known are 1, 2 and 3; "
            "write it again with numpy.save"
        )
    width = 2 if magic[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    header = file.read(min(length, _MAX_HEADER))
    damaged = f"{name} has a damaged or truncated .npy header; write or copy the file again"
    if len(header) != length:
        raise FeatureError(damaged)
    try:
        fields = ast.literal_eval(header.decode("latin1").strip())
        descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise FeatureError(damaged) from None
    if isinstance(descr, list):
        raise FeatureError(
            f"{name} holds structured records {descr}; store each field as an array of its own"
        )
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr):
        raise FeatureError(damaged)
    if descr[1] in "OT":
        raise FeatureError(
            f"{name} holds Python objects (a pickle), which is never loaded; convert it to "
            "numbers or fixed-width strings, for instance with .astype(str)"
        )
    if (
        not isinstance(fortran, bool)
        or not isinstance(shape, tuple)
        or not all(type(axis) is int and 0 <= axis < 1 << 62 for axis in shape)
    ):
        raise FeatureError(damaged)
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError):
        raise FeatureError(damaged) from None
    result = NpyHeader(dtype, shape, fortran, 8 + width + length)
    expected = result.offset + result.num_bytes
    if expected != size:
        problem = "is truncated" if size < expected else "has bytes after its array"
        raise FeatureError(
            f"{name} {problem}: its header announces {dtype} {list(shape)}, {expected} bytes in "
            f"all, but it has {size}; write or copy the file again"
        )
    return result


def open_npy(path: Path) -> np.ndarray:
    """Memory-map a .npy file read-only, without reading its data.

    Raises:
        FeatureError: the file is missing, unreadable or fails `read_header`.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = read_header(file, size, str(path))
            if header.num_bytes == 0:  # An empty range cannot be mapped.
                return np.zeros(header.shape, header.dtype)
            return np.memmap(
                file,
                dtype=header.dtype,
                mode="r",
                offset=header.offset,
                shape=header.shape,
                order="F" if header.fortran_order else "C",
            )
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror or error}") from None


def read_npy(file: IO[bytes], size: int, name: str) -> np.ndarray:
    """Read a whole .npy array from a stream, such as a member of an .npz archive."""
    header = read_header(file, size, name)
    data = file.read()
    if header.num_bytes == 0:
        return np.zeros(header.shape, header.dtype)
    order = "F" if header.fortran_order else "C"
    return np.frombuffer(data, header.dtype).reshape(header.shape, order=order)


def canonical_dtype(dtype: DTypeLike) -> np.dtype:
    """The little-endian form of a dtype, in which files are written and hashed."""
    return np.dtype(dtype).newbyteorder("<")


def canonical_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The one header that a canonical file of this dtype and shape has.

    >>> canonical_header(np.dtype("float32"), (2, 3))[10:69]
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
    """
    text = repr({"descr": canonical_dtype(dtype).str, "fortran_order": False, "shape": shape})
    text = text[:-1] + ", }"
    padding = -(10 + len(text) + 1) % 64
    body = (text + " " * padding + "\n").encode("latin1")
    return _MAGIC + b"\x01\x00" + len(body).to_bytes(2, "little") + body


def row_blocks(array: np.ndarray, dtype: np.dtype | None = None) -> Iterator[np.ndarray]:
    """Yield consecutive row blocks of a few MiB, contiguous and in canonical `dtype`."""
    dtype = canonical_dtype(array.dtype if dtype is None else dtype)
    row_bytes = max(1, dtype.itemsize * math.prod(array.shape[1:]))
    num_rows = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(array), num_rows):
        # Overflow becomes inf here, and whoever narrows a dtype checks for it.
        with np.errstate(over="ignore"):
            yield np.ascontiguousarray(array[start : start + num_rows], dtype=dtype)


def write_npy(
    path: Path, blocks: Iterable[np.ndarray], dtype: np.dtype, shape: tuple[int, ...]
) -> str:
    """Write a canonical .npy file from its row blocks, flush it to disk, return its sha256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for data in _chunks(blocks, dtype, shape):
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def array_checksum(array: np.ndarray) -> str:
    """The sha256 that the array's canonical .npy file would have, computed block by block."""
    digest = hashlib.sha256()
    for data in _chunks(row_blocks(array), array.dtype, array.shape):
        digest.update(data)
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """The sha256 of a file's bytes.

    Raises:
        FeatureError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror or error}") from None


def _chunks(
    blocks: Iterable[np.ndarray], dtype: np.dtype, shape: tuple[int, ...]
) -> Iterator[bytes | memoryview]:
    yield canonical_header(dtype, shape)
    for block in blocks:
        yield block.reshape(-1).view(np.uint8).data
