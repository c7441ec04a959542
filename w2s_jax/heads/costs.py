"""What a fit costs: floating-point operations, bytes and passes, and what follows from them.

Counts, not timings: they choose between two ways to fit the same heads, size batches to a budget of
memory, and predict a run before it starts.
"""

import contextlib
import dataclasses
import math
import os
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from w2s_jax.errors import HeadError
from w2s_jax.heads.buckets import (
    HEAD_BUCKETS,
    chunk_rows,
    head_bucket,
    lanes_for,
    of_backend,
    row_bucket,
)
from w2s_jax.heads.lbfgs import MEMORY
from w2s_jax.heads.targets import HEADS_AT_A_TIME, num_logits_of

# Floating-point operations that take as long as moving one byte of memory, and as long as starting
# one more fit: on 2 cores and on an accelerator alike, within a factor of two.
FLOPS_PER_BYTE = 12
FLOPS_PER_CALL = 1e9
# Rows and columns of the matrices whose product is timed.
GEMM_SIZE = {"cpu": 1024, "other": 8192}
# Share of the device's memory that is used where no budget is given.
DEFAULT_SHARE = 0.4
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def parse_bytes(text: str) -> int:
    """Bytes from a number with an optional unit.

    Raises:
      HeadError: for anything else.

    >>> parse_bytes("2GiB"), parse_bytes("500MB"), parse_bytes("1e9")
    (2147483648, 500000000, 1000000000)
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMG]?I?)B?\s*", text, re.IGNORECASE)
    try:
        size = float(match[1]) * UNITS[match[2].upper()] if match else 0
    except (KeyError, ValueError):
        size = 0
    if not size >= 1:
        raise HeadError(f"memory_budget is a size such as 2GiB or 500MB, found {text!r}")
    return int(size)


def default_budget() -> int:
    """Bytes that fits may take where nobody says: a share of the device's memory.

    Not of what is free: batches, and so the last bits of results, would differ from run to run.
    """
    return int(DEFAULT_SHARE * device_memory())


def device_memory() -> int:
    """Bytes of the first local device; for a CPU what this process may use of the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return host_memory() if limit is None else int(limit)


def host_memory(groups: str = "/proc/self/cgroup", limits: str = "/sys/fs/cgroup") -> int:
    """Bytes that this process may use: the machine's, or less where control groups say so.

    Args:
      groups: the control groups of this process, as Linux lists them.
      limits: where their limits are; those of the groups above count too.
    """
    try:
        sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (ValueError, OSError):
        sizes = [8 << 30]
    try:
        lines = Path(groups).read_text().splitlines()
    except OSError:
        return sizes[0]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = Path(limits), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path(limits) / "memory", "memory.limit_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # "max", or not to be seen from here
                sizes.append(int((folder / name).read_text()))
            if folder == root:
                break
    return min(size for size in sizes if size > 0)


@dataclasses.dataclass(frozen=True)
class FitCost:
    """The cost of one fit of heads on shared rows.

    Attributes:
      num_rows: n, before padding.
      num_features: r.
      num_classes: c.
      num_heads: h, before padding.
      soft: whether targets are soft at three classes or more.
      weighted: whether each head has weights of its own.
      warm: whether each head has a start of its own.
      held: further numbers a row and head that the caller holds.
      itemsize: bytes of a number.
      num_devices: among which the rows are dealt out; memory is that of each.
      slots: rows of the fullest device, padded, where they are known.
    """

    num_rows: int
    num_features: int
    num_classes: int
    num_heads: int
    soft: bool = False
    weighted: bool = False
    warm: bool = False
    held: int = 0
    itemsize: int = 4
    num_devices: int = 1
    slots: int = 0

    @property
    def num_logits(self) -> int:
        """Columns of a head's weights, k."""
        return num_logits_of(self.num_classes)

    @property
    def flops_per_pass(self) -> float:
        """Of the two products of one pass of all heads."""
        return 4.0 * self.num_rows * self.num_features * self.num_logits * self.num_heads

    def bytes_of_rows(self) -> int:
        """Features of the rows."""
        return self._share * self.num_features * self.itemsize

    def bytes_per_head(self) -> int:
        """What each further head takes, in a lane or not.

        Targets and weights, as given and as the solver has them, start and result; own weights make
        own means and mean squares of the features.
        """
        parameters = self.num_logits * (self.num_features + 1)
        numbers = self._bucket * (self._of_problem + self.held) + self._share * self._of_problem
        numbers += parameters * (2 if self.warm else 1)
        numbers += 2 * self.num_features * self.weighted
        return numbers * self.itemsize

    @property
    def _bucket(self) -> int:
        return row_bucket(self.num_rows)

    @property
    def _share(self) -> int:
        """Rows of the fullest device, padded; of random ones three standard deviations more."""
        if self.slots or self.num_devices == 1:
            return self.slots or self._bucket
        mean = self.num_rows / self.num_devices
        return row_bucket(min(self.num_rows, math.ceil(mean + 3 * math.sqrt(mean))))

    @property
    def _of_problem(self) -> int:
        """Numbers of a head's targets and weights for each row."""
        targets = self.num_classes if self.soft and self.num_classes > 2 else 1
        return targets + self.weighted

    def bytes_of_lanes(self) -> int:
        """Their data (half of it twice while loaded), their state, twice, and one chunk's."""
        lanes = lanes_for(self.num_heads, self.num_logits)
        parameters = lanes * self.num_logits * (self.num_features + 1)
        chunk = chunk_rows(self._share, lanes, self.num_logits)
        data = self._share * self._of_problem * lanes
        state = (2 * MEMORY + 5) * parameters
        numbers = 2 * state + data + data // 2 + 4 * lanes * self.num_logits * chunk
        return numbers * self.itemsize

    def bytes_of_set_up(self) -> int:
        """The masses of the classes of a few heads at a time."""
        return 3 * HEADS_AT_A_TIME * self.num_classes * self._share * self.itemsize

    def peak_bytes(self, heads_per_call: int = HEAD_BUCKETS[-1]) -> int:
        """Device memory that the fit takes beside the prepared features."""
        some = dataclasses.replace(self, num_heads=min(self.num_heads, heads_per_call))
        held = head_bucket(some.num_heads) * some.bytes_per_head()
        return some.bytes_of_rows() + held + max(some.bytes_of_lanes(), some.bytes_of_set_up())

    def heads_per_call(self, budget: int | None, sharers: int = 1) -> int:
        """Heads that fit into a budget at a time, a bucket size.

        Args:
          budget: bytes; None holds any number.
          sharers: fits at a time that share it.

        Raises:
          HeadError: where not even the smallest bucket does; it says what is needed.
        """
        if budget is None:
            return HEAD_BUCKETS[-1]
        for bucket in reversed(HEAD_BUCKETS):
            if self.peak_bytes(bucket) <= budget // sharers:
                return bucket
        needed = self.peak_bytes(HEAD_BUCKETS[0]) / 2**20
        of_each = f" in each of {sharers} draws" if sharers > 1 else ""
        raise HeadError(
            f"a memory budget of {budget / 2**20:.3g} MiB is too small for {self.num_rows} rows of "
            f"{self.num_features} features: {HEAD_BUCKETS[0]} heads{of_each} need "
            f"{sharers * needed:.3g} MiB; raise memory_budget"
        )


def expected_passes(l2: np.ndarray, num_classes: int, convex: bool = True) -> np.ndarray:
    """Passes that heads are likely to take to the default tolerance, from their penalties.

    Fitted to the synthetic problems of ``experiments/benchmark.py``, n = 5000, d = 512, features of
    root mean square 1; within a factor of two elsewhere.

    >>> expected_passes(np.array([1.0, 1e-3]), 2).round().tolist()
    [8.0, 19.0]
    """
    decades = np.clip(-np.log10(np.maximum(l2, 1e-8)), 0, 8)
    passes = 7.5 + 3.8 * decades if num_classes == 2 else 10 * 10 ** (0.25 * decades)
    return passes if convex else 1.3 * passes


def pool_is_cheaper(
    set_sizes: Int[np.ndarray, " s"],
    heads_of_set: Int[np.ndarray, " s"],
    pool_rows: int,
    num_features: int,
    num_logits: int,
    passes: float = 15.0,
) -> bool:
    """Whether heads on several sets of rows are fitted faster on all these rows with weights.

    Gathered rows cost a copy and a fit a set, and few heads on them are bound by reading the rows;
    the pool's products are one, but also over rows without weight.

    Args:
      set_sizes: rows of each set.
      heads_of_set: heads on each set.
      pool_rows: distinct rows of all sets.
      num_features: r.
      num_logits: k.
      passes: passes a head takes.

    >>> sizes, heads = np.full(64, 5000), np.full(64, 8)
    >>> [pool_is_cheaper(sizes, heads, rows, 512, 1) for rows in (10_000, 320_000)]
    [True, False]
    """
    bytes_of_set = 4.0 * set_sizes * num_features
    compute = 4.0 * set_sizes * num_features * num_logits * heads_of_set
    a_pass = np.maximum(compute, 2 * bytes_of_set * FLOPS_PER_BYTE)
    gathered = np.sum(passes * a_pass + 4 * bytes_of_set * FLOPS_PER_BYTE + FLOPS_PER_CALL)
    total_heads = float(np.sum(heads_of_set))
    # Heads with weights of their own take means and mean squares of their own.
    products = passes * num_logits + 1
    pooled = products * 4.0 * pool_rows * num_features * total_heads + FLOPS_PER_CALL
    return bool(pooled < gathered)


def gemm_flops(seconds: float = 0.1) -> float:
    """Floating-point operations a second of this device's matrix product, measured now."""
    size = of_backend(GEMM_SIZE)
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=jax.lax.Precision.HIGHEST))
    product(a).block_until_ready()
    best, spent = math.inf, 0.0
    while spent < seconds:
        start = time.perf_counter()
        product(a).block_until_ready()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return 2.0 * size**3 / best
