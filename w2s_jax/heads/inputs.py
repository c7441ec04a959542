"""Checks and broadcasting shared by the public fit functions."""

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import ArrayLike

from w2s_jax.errors import HeadError
from w2s_jax.heads.prepared import Prepared, prepare, x64_enabled


def as_numbers(value: ArrayLike, name: str, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Numbers on the host; texts and ragged lists are refused."""
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError):
        raise HeadError(f"{name} must be numbers, found {value!r:.60}") from None


def floating_features(x: ArrayLike) -> tuple[np.ndarray, np.dtype]:
    """Features on the host, and their heads' type: float64 only for these under jax_enable_x64."""
    try:
        host = np.asarray(x)
    except ValueError:
        raise HeadError("features must be a matrix [n, d], found rows of unequal length") from None
    if not np.issubdtype(host.dtype, np.floating) and host.dtype != jnp.bfloat16:
        raise HeadError(f"features must be floating point, found dtype {host.dtype}")
    wide = host.dtype == np.float64 and x64_enabled()
    return host, np.dtype(np.float64 if wide else np.float32)


def prepare_if_needed(x: ArrayLike | Prepared, fit_intercept: bool) -> Prepared:
    """Features become `Prepared` in their own precision (see `floating_features`)."""
    if not isinstance(x, Prepared):
        host, dtype = floating_features(x)
        x = prepare(host, center=fit_intercept, dtype=dtype)
    x.check_placed()
    if x.centered != fit_intercept:
        raise HeadError(
            f"fit_intercept={fit_intercept} needs prepare(x, center={fit_intercept}), found a "
            f"Prepared with center={x.centered}"
        )
    return x


def check_row_sets(
    rows: ArrayLike | None, num_rows: int, num_targets: int, targets_name: str
) -> np.ndarray:
    """Row indices as ``[h or 1, m]``, checked against the features and the targets."""
    row_sets = np.arange(num_rows)[None] if rows is None else np.atleast_2d(np.asarray(rows))
    if not np.issubdtype(row_sets.dtype, np.integer) or row_sets.ndim != 2:
        raise HeadError(
            f"rows must be integer indices [m] or [h, m], found {row_sets.dtype} of shape "
            f"{row_sets.shape}; use np.flatnonzero(mask) for a mask"
        )
    if not row_sets.size:
        raise HeadError("rows is empty; a head needs at least one row")
    if row_sets.min() < 0 or row_sets.max() >= num_rows:
        raise HeadError(
            f"rows must lie in 0..{num_rows - 1}, found {row_sets.min()}..{row_sets.max()}"
        )
    if row_sets.shape[1] != num_targets:
        raise HeadError(
            f"{targets_name} are for {num_targets} samples, the heads train on "
            f"{row_sets.shape[1]} rows"
        )
    return row_sets


def check_weights(weights: ArrayLike | None, num_samples: int) -> np.ndarray:
    """Sample weights as ``[h or 1, m]``, checked; ones where None.

    Each head's are scaled to a maximum of one, which changes no fit, so that a narrower type holds
    them whatever their unit.
    """
    if weights is None:
        return np.ones((1, num_samples))
    host = np.atleast_2d(as_numbers(weights, "weights"))
    if host.ndim != 2 or host.shape[1] != num_samples:
        raise HeadError(
            f"weights must be [m] or [h, m] with m = {num_samples} rows, found {host.shape}"
        )
    if not np.isfinite(host).all() or (host < 0).any():
        raise HeadError("weights must be finite and >= 0; found negative, NaN or infinite ones")
    largest = host.max(axis=1, keepdims=True)
    return host / np.where(largest > 0, largest, 1)


def common_heads(**sizes: int) -> int:
    """The number of heads that all arguments agree on, each having it or 1.

    >>> common_heads(targets=1, l2=3)
    3
    """
    num_heads = max(sizes.values())
    for name, size in sizes.items():
        if size not in (1, num_heads):
            most = max(sizes, key=lambda other: sizes[other])
            raise HeadError(f"{name} has {size} heads, {most} has {num_heads}; give 1 or the same")
    return num_heads


def per_head(value: ArrayLike, num_heads: int, name: str, dtype: DTypeLike) -> np.ndarray:
    """A non-negative hyperparameter as ``[h]``."""
    host = as_numbers(value, name, dtype)
    if host.ndim > 1:
        raise HeadError(f"{name} must be a scalar or one value per head, found {host.shape}")
    if not np.isfinite(host).all() or (host < 0).any():
        raise HeadError(f"{name} must be finite and >= 0, found {host.ravel()[:5]}")
    return np.broadcast_to(host, (num_heads,))


def broadcast_heads(array: np.ndarray, num_heads: int) -> np.ndarray:
    """Repeats a leading axis of 1 without copying."""
    return np.broadcast_to(array, (num_heads, *array.shape[1:]))


def groups_of_equal_rows(*arrays: np.ndarray) -> list[np.ndarray]:
    """Indices of the heads that are equal in every one of the arrays ``[h, ...]``.

    Grouped by content, in order of first appearance.

    >>> groups_of_equal_rows(np.array([[1], [2], [1]]))
    [array([0, 2]), array([1])]
    """
    own = [array for array in arrays if array.strides[0]]  # the others' heads share one row
    if not own:
        return [np.arange(len(arrays[0]))]
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for head in range(len(arrays[0])):
        groups.setdefault(tuple(a[head].tobytes() for a in own), []).append(head)
    return [np.array(heads) for heads in groups.values()]
