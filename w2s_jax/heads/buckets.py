"""Sizes to which heads and rows are padded, so that few programs are ever compiled."""

import math

import jax

# Sizes of batches of heads; also of the lanes in which they are fitted.
HEAD_BUCKETS = (8, 32, 128, 512, 2048)
# Columns of one matrix product (heads times logits), and logits of one chunk of rows: few enough
# for a CPU's caches, many enough for an accelerator.
COLUMNS = {"cpu": 320, "other": 8192}
CHUNK_LOGITS = {"cpu": 1 << 18, "other": 1 << 26}


def lane_bucket(size: int) -> int:
    """Smallest bucket that holds `size`; beyond the largest, multiples of it.

    >>> lane_bucket(9), lane_bucket(2049)
    (32, 4096)
    """
    for candidate in HEAD_BUCKETS:
        if size <= candidate:
            return candidate
    return math.ceil(size / HEAD_BUCKETS[-1]) * HEAD_BUCKETS[-1]


def row_bucket(size: int) -> int:
    """Padded number of rows: at most a quarter more, so that few shapes are ever compiled.

    >>> row_bucket(200), row_bucket(2000), row_bucket(2049)
    (224, 2048, 2560)
    """
    if size <= 64:
        return 64
    unit = row_unit(size)
    return math.ceil(size / unit) * unit


def row_unit(size: int) -> int:
    """What padded numbers of rows of this size are multiples of."""
    return 2 ** (math.ceil(math.log2(size)) - 3)


def _of_backend(table: dict[str, int]) -> int:
    return table.get(jax.default_backend(), table["other"])


def lanes_for(num_heads: int, num_logits: int) -> int:
    """Lanes for so many heads, a bucket size: no more than fill one matrix product.

    Rather fewer lanes than heads, which then queue, than lanes that idle; but a product of fewer
    than 32 columns wastes more than idle lanes do.

    >>> [lanes_for(num_heads, 1) for num_heads in (3, 20, 100)]
    [8, 32, 32]
    """
    columns = _of_backend(COLUMNS)
    filling = max((b for b in HEAD_BUCKETS if b * num_logits <= columns), default=HEAD_BUCKETS[0])
    below = max((b for b in HEAD_BUCKETS if b <= num_heads), default=0)
    return min(filling, below if below >= 32 else lane_bucket(num_heads))


def chunk_rows(padded_rows: int, num_lanes: int, num_logits: int) -> int:
    """Rows of one chunk, a divisor of the padded number of rows.

    >>> chunk_rows(row_bucket(1000), 128, 1), chunk_rows(row_bucket(5000), 128, 1)
    (1024, 1024)
    """
    fitting = max(64, _of_backend(CHUNK_LOGITS) // (num_lanes * num_logits))
    if padded_rows <= fitting:
        return padded_rows
    return min(row_unit(padded_rows), 2 ** int(math.log2(fitting)))
