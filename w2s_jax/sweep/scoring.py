"""What heads predict on some rows, and how well their probabilities are calibrated, in one pass."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from w2s_jax.heads import Prepared
from w2s_jax.heads.buckets import of_backend
from w2s_jax.heads.lbfgs import logits_on_rows
from w2s_jax.heads.reductions import sum_last
from w2s_jax.heads.row_sharding import DealtRows, place_rows
from w2s_jax.pipeline import Heads, batch_within, batches, pad_rows

NUM_BINS = 15
# Heads that are scored in one call, and whose bins are filled together: on a CPU few enough that
# their numbers stay in its caches.
BATCH = {"cpu": 128, "other": 512}
BINNED = {"cpu": 1, "other": 512}


class Predicted(NamedTuple):
    """What a table of heads makes of some rows.

    Attributes:
        classes: most probable class of each row, the lower one of two ``[h, n]``.
        negative_log_likelihood: mean of -log p of the true class over the first rows, in nats, each
            at most that of the smallest normal float ``[h]``.
        calibration_error: expected calibration error on the same rows ``[h]``.
    """

    classes: Int[np.ndarray, "h n"]
    negative_log_likelihood: Float[np.ndarray, " h"]
    calibration_error: Float[np.ndarray, " h"]


def predict(
    prepared: Prepared,
    heads: Heads,
    rows: Int[np.ndarray, " n"],
    labels: Int[np.ndarray, " all"],
    num_scored: int,
    memory_budget: int | None = None,
) -> Predicted:
    """Classes that every head predicts on some rows, and its calibration on the first of them.

    The expected calibration error is ``sum_b |sum_{i in b} (confidence_i - right_i)| / n`` over 15
    bins of equal width, with the probability of the predicted class as confidence. A bin holds its
    upper end.

    Args:
        prepared: features of all rows.
        heads: a table of heads in these coordinates.
        rows: rows to predict ``[n]``.
        labels: class of every row of `prepared`.
        num_scored: how many of `rows`, from the first, calibration is measured on.
        memory_budget: bytes that the logits of one batch may take.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    num_heads, num_logits = heads.params.shape[:2]
    classes = np.empty((num_heads, len(rows)), _type_of_classes(num_logits))
    scores = np.full((2, num_heads), np.nan)
    if not len(rows):
        return Predicted(classes, *scores)
    padded, _ = pad_rows(rows)
    placed = place_rows(prepared.x, padded, len(rows))
    # Beside the logits: log-probabilities, confidences and temporaries.
    bytes_per_head = len(padded) * (3 * num_logits + 3) * heads.params.itemsize
    batch = batch_within(memory_budget, bytes_per_head, of_backend(BATCH))
    for part, params in batches(heads.params, batch):
        size = part.stop - part.start
        found, *values = jax.device_get(
            _predict(params, prepared.x, placed, labels[padded], np.int32(num_scored))
        )
        classes[part] = found[:size, : len(rows)]
        if num_scored:
            scores[:, part] = np.stack(values)[:, :size]
    return Predicted(classes, *scores)


def _type_of_classes(num_logits: int) -> np.dtype:
    """The smallest signed type that holds them."""
    return np.min_scalar_type(-max(num_logits, 2))


@jax.jit
def _predict(
    params: Array, x: Array, rows: Array | DealtRows, labels: Array, num_scored: Array
) -> tuple[Int[Array, "h n"], Float[Array, " h"], Float[Array, " h"]]:
    logits = logits_on_rows(params, x, rows)
    if logits.shape[1] == 1:
        z = logits[:, 0]
        classes = (z > 0).astype(jnp.int32)
        confidence = jax.nn.sigmoid(jnp.abs(z))
        log_likelihood = jax.nn.log_sigmoid(jnp.where(labels == 1, z, -z))
    else:
        classes = jnp.argmax(logits, axis=1).astype(jnp.int32)
        log_p = jax.nn.log_softmax(logits, axis=1)
        confidence = jnp.exp(jnp.max(log_p, axis=1))
        is_own = jnp.arange(logits.shape[1])[:, None] == labels
        log_likelihood = jnp.sum(jnp.where(is_own, log_p, 0.0), axis=1)
    scored = jnp.arange(rows.shape[0]) < num_scored
    count = jnp.maximum(num_scored, 1)
    # The log of probability zero, of a class that was absent in training, stays finite.
    log_likelihood = jnp.maximum(log_likelihood, jnp.log(jnp.finfo(logits.dtype).tiny))
    loss = -sum_last(jnp.where(scored, log_likelihood, 0.0)) / count
    excess = jnp.where(scored, confidence - (classes == labels), 0.0)
    # The most probable of c classes has at least 1 / c.
    first = -(-NUM_BINS // max(logits.shape[1], 2))

    def of_head(own: tuple[Array, Array]) -> Array:
        confidence, excess = own
        # As integers: NaN falls into the first bin, and shows.
        bin_of = jnp.clip(jnp.ceil(confidence * NUM_BINS).astype(jnp.int32), first, NUM_BINS)
        of_bin = bin_of == jnp.arange(first, NUM_BINS + 1)[:, None]
        return jnp.sum(jnp.abs(sum_last(jnp.where(of_bin, excess, 0.0)))) / count

    error = jax.lax.map(of_head, (confidence, excess), batch_size=of_backend(BINNED))
    return classes.astype(_type_of_classes(logits.shape[1])), loss, error
