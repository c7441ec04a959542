"""Reading IDX files, the format of MNIST and Fashion-MNIST, gzipped or not."""

import gzip
import math
import os
import zlib

import numpy as np

from w2s_jax.datasets.archives import DatasetError

# Larger than any file of these benchmarks.
MAX_BYTES = 1 << 28


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """An array of bytes from an IDX file.

    Args:
        path: The file; gzipped where it starts as gzip does.

    Returns:
        uint8 with the file's dimensions.

    Raises:
        DatasetError: The file is missing, damaged, too large or has other values than bytes.
    """
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{where} cannot be read ({error}); copy it again.") from None
    if len(content) > MAX_BYTES or len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(
            f"{where} is no IDX file of bytes, or has more than {MAX_BYTES} of them."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DatasetError(f"{where} ends within its header; copy it again.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    found = len(content) - start
    if found != math.prod(shape):
        raise DatasetError(f"{where} has {found} values, its header says {shape}; copy it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
