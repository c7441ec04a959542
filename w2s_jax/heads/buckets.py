"""Sizes to which heads and rows are padded, so that few programs are ever compiled."""

import math
from collections.abc import Mapping
from typing import TypeVar

import jax

Number = TypeVar("Number", int, float)

# Sizes to which batches of heads are padded.
HEAD_BUCKETS = (8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# Numbers of lanes in which heads are fitted, and to which they are compacted while the last run on.
LANES = (8, 16, 32, 64, 128, 512, 2048)
# Columns of one matrix product (heads times logits), and logits of one chunk of rows, if there are
# no more than sixteen chunks: few enough for a CPU's caches, many enough for an accelerator.
COLUMNS = {"cpu": 320, "other": 8192}
CHUNK_LOGITS = {"cpu": 1 << 18, "other": 1 << 26}
# Up to so many columns logits are rows times weights, not weights times rows: a CPU's product
# splits its left factor among the cores, and a short one badly.
FEW_COLUMNS = {"cpu": 32, "other": 0}


def head_bucket(size: int) -> int:
    """Smallest bucket that holds `size`; beyond the largest, multiples of it.

    >>> head_bucket(9), head_bucket(2049)
    (16, 4096)
    """
    for candidate in HEAD_BUCKETS:
        if size <= candidate:
            return candidate
    return math.ceil(size / HEAD_BUCKETS[-1]) * HEAD_BUCKETS[-1]


def padded_size(size: int, *, parts: int = 4, least: int = 1) -> int:
    """The next of `parts` sizes between neighbouring powers of two, at most 1 / parts more.

    >>> [padded_size(size, least=8) for size in (3, 9, 33, 256)]
    [8, 10, 40, 256]
    >>> [padded_size(size, parts=2) for size in (1, 2, 5, 7, 9)]
    [1, 2, 6, 8, 12]
    """
    if size <= least:
        return least
    unit = _unit(size, parts)
    return -(-size // unit) * unit


def _unit(size: int, parts: int = 4) -> int:
    """What padded sizes of about this size are multiples of."""
    return max(2 ** (size - 1).bit_length() // (2 * parts), 1)


def row_bucket(size: int) -> int:
    """Padded number of rows: at most a quarter more, so that few shapes are ever compiled.

    >>> row_bucket(200), row_bucket(2000), row_bucket(2049)
    (224, 2048, 2560)
    """
    return padded_size(size, least=64)


def of_backend(table: Mapping[str, Number]) -> Number:
    """The entry of JAX's default backend in a table by name, or its entry "other"."""
    return table.get(jax.default_backend(), table["other"])


def lanes_for(num_heads: int, num_logits: int) -> int:
    """Lanes for so many heads: no more than fill one matrix product.

    Rather fewer lanes than heads, which then queue, than lanes that idle; but a product of fewer
    than 32 columns wastes more than idle lanes do.

    >>> [lanes_for(num_heads, 1) for num_heads in (3, 20, 100)]
    [8, 32, 64]
    """
    columns = of_backend(COLUMNS)
    filling = max((b for b in LANES if b * num_logits <= columns), default=LANES[0])
    below = max((b for b in LANES if b <= num_heads), default=0)
    return min(filling, below if below >= 32 else enough_lanes(num_heads))


def enough_lanes(num_heads: int) -> int:
    """The smallest number of lanes, up to the largest, with one for each head.

    >>> enough_lanes(9), enough_lanes(5000)
    (16, 2048)
    """
    return next((b for b in LANES if b >= num_heads), LANES[-1])


def path_length(num_heads: int, num_lanes: int) -> int:
    """Heads on one path of penalties, such that all lanes have paths twice over; 1 or less: none.

    >>> path_length(512, 128), path_length(100, 32)
    (2, 1)
    """
    return num_heads // (2 * num_lanes)


def chunk_rows(padded_rows: int, num_lanes: int, num_logits: int) -> int:
    """Rows of one chunk, a divisor of the padded number of rows.

    >>> chunk_rows(row_bucket(1000), 128, 1), chunk_rows(row_bucket(5000), 128, 1)
    (1024, 1024)
    """
    fitting = max(64, of_backend(CHUNK_LOGITS) // (num_lanes * num_logits))
    if padded_rows <= fitting:
        return padded_rows
    # A padded number of rows is five to eight units, the last of them never padding alone. The
    # program of a pass holds every chunk, hence not more than two a unit.
    unit = _unit(padded_rows)
    return min(unit, max(unit // 2, 2 ** int(math.log2(fitting))))
