"""A head's hard labels at given class shares: the balanced threshold, for two classes or more."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.methods.rounds import RoundInputs, as_probabilities
from w2s_jax.methods.selection import keep_lowest

# Passes over the classes. Two classes need one; on 2,000 rows of 9 classes, counts were off by at
# most two rows after three.
NUM_SWEEPS = 5
# Larger than any logit, small enough for sums in float32.
FAR = 1e30


def class_logits(logits: Float[Array, "k m"]) -> Float[Array, "c m"]:
    """A logit for each class; that of class 0 is zero where there is one logit for two."""
    if logits.shape[0] == 1:
        return jnp.concatenate([jnp.zeros_like(logits), logits])
    return logits


def pseudolabel_shares(inputs: RoundInputs, labels: Array) -> Float[Array, " c"]:
    """Share of each class in hard or soft labels of the valid rows."""
    labels = as_probabilities(labels, inputs)
    total = jnp.maximum(jnp.sum(inputs.valid), 1)
    return jnp.sum(jnp.where(inputs.valid[:, None], labels, 0.0), axis=0) / total


def class_counts(shares: Float[Array, " c"], total: Int[Array, ""]) -> Int[Array, " c"]:
    """Whole numbers of rows that add up to `total`, each within one of its share.

    >>> class_counts(jnp.array([0.25, 0.25, 0.5]), jnp.int32(10)).tolist()
    [3, 2, 5]
    """
    ends = jnp.floor(jnp.cumsum(shares) * total + 0.5).astype(jnp.int32).at[-1].set(total)
    return jnp.diff(ends, prepend=jnp.int32(0))


def balanced_labels(
    logits: Float[Array, "k m"], counts: Int[Array, " c"], valid: Bool[Array, " m"]
) -> Int[Array, " m"]:
    """The most probable class of each row once classes are offset to win `counts` rows.

    One logit: class 1 wins where the logit exceeds a threshold between the rows of rank n_0 and
    n_0 + 1. More classes: ``argmax_c (z_c + b_c)``, where class after class sets b_c halfway
    between the last row that it shall win against the others and the first that it shall not, in
    sweeps over the classes. At exact counts no other labels have a larger sum of logits.
    Rows of equal logits stay together (the lower class wins ties), so that counts are missed there.

    Args:
        logits: of one head.
        counts: rows of each class; they add up to the valid rows.
        valid: rows that count ``[m]``; the others are labelled too.

    >>> logits = jnp.array([[0.1, 0.2, 0.3, 0.4]])
    >>> balanced_labels(logits, jnp.array([3, 1]), jnp.ones(4, bool)).tolist()
    [0, 0, 0, 1]
    """
    z = class_logits(logits)
    num_classes = len(z)
    total = jnp.sum(valid, dtype=jnp.int32)

    def settle(i: Array, offsets: Array) -> Array:
        c = i % num_classes
        others = jnp.max(jnp.where(jnp.arange(num_classes) == c, -FAR, (z.T + offsets)), axis=1)
        lead = z[c] - others
        lost = keep_lowest(lead, total - counts[c], valid)
        last_lost = jnp.max(jnp.where(lost, lead, -FAR))
        first_won = jnp.min(jnp.where(valid & ~lost, lead, FAR))
        return offsets.at[c].set(-(last_lost + first_won) / 2)

    first, last = (1, 2) if num_classes == 2 else (0, NUM_SWEEPS * num_classes)
    offsets = jax.lax.fori_loop(first, last, settle, jnp.zeros(num_classes, z.dtype))
    return jnp.argmax(z.T + offsets, axis=1).astype(jnp.int32)
