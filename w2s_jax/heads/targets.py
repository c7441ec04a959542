"""Targets of logistic heads: class indices or soft targets, checked and laid out for the solver."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from w2s_jax.errors import HeadError
from w2s_jax.heads.reductions import sum_last

# Heads whose targets by class are in memory together.
HEADS_AT_A_TIME = 8


class Targets(NamedTuple):
    """Targets in the solver's layout, on host or device; leading axis h or 1.

    Attributes:
      values: two classes: target of class 1 ``[h, n]``; more: class indices ``[h, n]`` (integers)
        or soft targets ``[h, c, n]``.
      num_classes: c.
    """

    values: Array | np.ndarray
    num_classes: int


def num_logits_of(num_classes: int) -> int:
    """Columns of a logistic head's weights: one logit stands for two classes.

    >>> num_logits_of(2), num_logits_of(3)
    (1, 3)
    """
    return 1 if num_classes == 2 else num_classes


def as_targets(targets: ArrayLike, num_classes: int | None, dtype: jnp.dtype) -> Targets:
    """Brings class indices ``[(h,) n]`` or soft targets ``[(h,) n, c]`` into the solver's layout.

    Raises:
      HeadError: for indices outside ``0..c-1``, fewer than two classes, soft targets that do not
        sum to one, or NaN.
    """
    if num_classes is not None and (
        isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer)
    ):
        raise HeadError(f"num_classes must be a whole number, found {num_classes!r}")
    try:
        host = np.asarray(targets)
    except ValueError:
        raise HeadError("targets have rows of different length; give one array") from None
    if host.dtype == bool or np.issubdtype(host.dtype, np.integer):
        if host.ndim not in (1, 2) or not host.size:
            raise HeadError(f"class indices must be [n] or [h, n], found shape {host.shape}")
        low, high = int(host.min()), int(host.max())
        count = max(2, high + 1) if num_classes is None else num_classes
        if low < 0 or high >= count:
            raise HeadError(
                f"targets must be class indices 0..{count - 1}, found {low}..{high}; "
                "drop unlabelled rows (-1) or pass num_classes"
            )
        values = host[None] if host.ndim == 1 else host
        values = values.astype(dtype if count == 2 else np.int32)
    elif np.issubdtype(host.dtype, np.floating):
        if host.ndim not in (2, 3) or not host.size:
            raise HeadError(
                f"soft targets must be [n, c] or [h, n, c], found shape {host.shape}; class indices"
                " must be integers, not floats"
            )
        sums = host.sum(axis=-1, dtype=np.float64)
        wrong = ~np.isclose(sums, 1.0, atol=1e-4)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            raise HeadError(
                f"soft targets must sum to one over classes, found a sum of {sums[place]:.4g}"
                f" in row {place[-1]}; class indices must be integers, not floats"
            )
        if num_classes not in (None, host.shape[-1]):
            raise HeadError(f"soft targets have {host.shape[-1]} classes, expected {num_classes}")
        count = host.shape[-1]
        values = host[None] if host.ndim == 2 else host
        values = values[..., 1] if count == 2 else np.swapaxes(values, 1, 2)
        values = values.astype(dtype)
    else:
        raise HeadError(
            f"targets must be integers or floats, found dtype {host.dtype}; encode class names "
            "as 0..c-1"
        )
    if count < 2:
        raise HeadError(f"a logistic head needs at least two classes, found {count}")
    return Targets(values, count)


def class_mass(
    targets: Array, weights: Float[Array, "_ n"], num_classes: int
) -> tuple[Float[Array, "m c"], Float[Array, "m c"]]:
    """Weight of each class, by absolute target and by signed target.

    m is the number of heads, 1 if they share both targets and weights.
    """

    def of_head(head: Array) -> tuple[Array, Array]:
        own = targets[head if len(targets) > 1 else 0]
        own_weights = weights[head if len(weights) > 1 else 0]
        if num_classes == 2:
            by_class = jnp.stack([1 - own, own])
        elif jnp.issubdtype(own.dtype, jnp.integer):
            by_class = (own == jnp.arange(num_classes)[:, None]).astype(weights.dtype)
        else:
            by_class = own
        return sum_last(own_weights * jnp.abs(by_class)), sum_last(own_weights * by_class)

    heads = jnp.arange(max(len(targets), len(weights)))
    return jax.lax.map(of_head, heads, batch_size=min(HEADS_AT_A_TIME, len(heads)))
