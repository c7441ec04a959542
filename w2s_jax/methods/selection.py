"""The masking pass: keeps the share of rows on which a head is most confident."""

from decimal import ROUND_FLOOR, Decimal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

from w2s_jax.heads.reductions import count_last


def keep_count(keep_fraction: float, n: int) -> int:
    """Rows kept of n: max(1, floor(p n + 1/2)), in decimal arithmetic.

    >>> keep_count(0.15, 10), keep_count(0.01, 10)
    (2, 1)
    """
    exact = Decimal(str(keep_fraction)) * n + Decimal("0.5")
    return max(1, int(exact.to_integral_value(rounding=ROUND_FLOOR)))


def entropy_score(logits: Float[Array, "k n"]) -> Float[Array, " n"]:
    """A number that orders rows as their predictive entropy does, without saturating.

    Two classes: -|logit|. More: the logarithm of the entropy, in log space, so that rows keep
    their order where probabilities round to one.
    """
    if logits.shape[0] == 1:
        return -jnp.abs(logits[0])
    top = jnp.argmax(logits, axis=0)
    is_top = jnp.arange(logits.shape[0])[:, None] == top
    gaps = logits - jnp.max(logits, axis=0)
    log_rest = jax.nn.logsumexp(jnp.where(is_top, -jnp.inf, gaps), axis=0)
    log_partition = jax.nn.softplus(log_rest)
    # Surprise of the top class, log(1 + rest), is rest itself where rest is small.
    log_surprise_of_top = jnp.where(
        log_rest < -15, log_rest, jnp.log(jnp.maximum(log_partition, 1e-30))
    )
    log_surprise = jnp.where(is_top, log_surprise_of_top, jnp.log(log_partition - gaps + 1e-30))
    return jax.nn.logsumexp(gaps - log_partition + log_surprise, axis=0)


def margin(logits: Float[Array, "k n"]) -> Float[Array, " n"]:
    """Distance of the largest logit from the second; |logit| for two classes."""
    if logits.shape[0] == 1:
        return jnp.abs(logits[0])
    best, second = jax.lax.top_k(logits.T, 2)[0].T
    return best - second


def _sortable(values: Float[Array, " n"]) -> UInt[Array, " n"]:
    """Unsigned integers in the order of the floats (-0 and 0 alike)."""
    values = values + 0.0
    width = values.dtype.itemsize * 8
    bits = jax.lax.bitcast_convert_type(values, jnp.dtype(f"uint{width}"))
    negative = bits >> (width - 1) == 1
    return jnp.where(negative, ~bits, bits | (bits.dtype.type(1) << (width - 1)))


def _kth_smallest(
    keys: UInt[Array, " n"], among: Bool[Array, " n"], k: Int[Array, ""]
) -> UInt[Array, ""]:
    """The k-th smallest key, bit by bit from the top: counts instead of a sort."""
    width = keys.dtype.itemsize * 8

    def refine(i: Array, threshold: Array) -> Array:
        candidate = threshold | (keys.dtype.type(1) << (width - 1 - i).astype(keys.dtype))
        below = count_last(among & (keys < candidate))
        return jnp.where(below < k, candidate, threshold)

    return jax.lax.fori_loop(0, width, refine, keys.dtype.type(0))


def keep_lowest(
    score: Float[Array, " n"],
    k: Int[Array, ""],
    valid: Bool[Array, " n"],
    tie_break: Float[Array, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Mask of exactly k rows of lowest score; ties by lower `tie_break`, then by position.

    Args:
        score: one number a row ``[n]``.
        k: rows to keep, at most the valid ones.
        valid: rows that may be kept; padding is False ``[n]``.
        tie_break: orders rows of equal score ``[n]``.

    >>> keep_lowest(jnp.array([3.0, 1.0, 1.0, 1.0]), jnp.int32(2), jnp.ones(4, bool)).tolist()
    [False, True, True, False]
    """
    kept = jnp.zeros_like(valid)
    candidates = valid
    missing = k
    for values in (score, tie_break):
        if values is None:
            continue
        keys = _sortable(values)
        threshold = _kth_smallest(keys, candidates, missing)
        kept = kept | (candidates & (keys < threshold))
        candidates = candidates & (keys == threshold)
        missing = k - count_last(kept)
    return kept | (candidates & (jnp.cumsum(candidates, dtype=jnp.int32) <= missing))
