"""Feature scaling: one centre and scale per feature set, from the pool's rows only."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import DTypeLike

from w2s_jax.errors import FeatureError

SCALINGS = ("rms", "none", "standardize")
_CHUNK = 1024  # rows whose float64 copy stays in the cache
_SCALED = 128  # likewise, of several copies


class Scaling(NamedTuple):
    """Centre and scale of features, in float64.

    Attributes:
        mean: what is subtracted ``[d]``.
        multiplier: what the rest is multiplied with ``[d]``, 0 for constant columns.
    """

    mean: Float[np.ndarray, " d"]
    multiplier: Float[np.ndarray, " d"]

    def apply(self, features: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Scaled features ``[n, d]``, a new array."""
        scaled = np.empty(features.shape, dtype)
        for start in range(0, len(features), _SCALED):
            block = slice(start, start + _SCALED)
            scaled[block] = (features[block].astype(np.float64) - self.mean) * self.multiplier
        return scaled


def fit_scaling(
    features: np.ndarray, pool_rows: np.ndarray, how: str, name: str = "these features"
) -> Scaling:
    """Centre and scale by the pool's rows (see `scale_features`); `name` is for errors."""
    if how not in SCALINGS:
        raise FeatureError(f"unknown feature_scaling {how!r}; known: {', '.join(SCALINGS)}")
    mean = np.zeros(features.shape[1])
    for start in range(0, len(pool_rows), _CHUNK):
        mean += features[pool_rows[start : start + _CHUNK]].sum(axis=0, dtype=np.float64)
    mean /= len(pool_rows)
    variance = np.zeros_like(mean)
    for start in range(0, len(pool_rows), _CHUNK):
        block = features[pool_rows[start : start + _CHUNK]].astype(np.float64) - mean
        variance += np.einsum("nd,nd->d", block, block)
    variance /= len(pool_rows)
    # What is left of a constant column after centring is rounding of its mean.
    constant = np.sqrt(variance) <= 1e-7 * np.abs(mean)
    if constant.all():
        raise FeatureError(f"every feature of {name} is constant on the pool's rows; give others")
    if how == "none":
        scale = np.ones_like(mean)
    elif how == "rms":
        scale = np.full_like(mean, np.sqrt(variance[~constant].sum() / len(mean)))
    else:
        scale = np.sqrt(variance)
    multiplier = np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, scale))
    return Scaling(mean, multiplier)


def scale_features(
    features: np.ndarray, pool_rows: np.ndarray, how: str, dtype: DTypeLike = np.float32
) -> np.ndarray:
    """Centres features and scales them, by the pool's rows.

    What happens after weak-to-strong training depends on the scale at a given l2, so it is part of
    a result's key.

    Args:
        features: [n, d], any floating type, possibly memory mapped.
        pool_rows: [p] rows that define centre and scale; their labels play no part.
        how: "rms" divides by one number so that the pool's centred entries have root mean square
            1; "standardize" divides each column by its standard deviation; "none" only centres.
            Constant columns become 0.
        dtype: type of the result; sums are taken in float64.

    Returns:
        [n, d] a new array.

    Raises:
        FeatureError: for an unknown scaling, or features that are constant throughout.

    >>> scale_features(np.array([[1.0, 5.0], [3.0, 5.0]]), np.arange(2), "standardize").tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    return fit_scaling(features, pool_rows, how).apply(features, dtype)
