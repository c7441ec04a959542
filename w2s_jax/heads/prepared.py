"""Features made ready for many fits: centred, and rotated once into their principal axes.

Centring is exact because the intercept is free; the rotation is exact because the L2 penalty is
rotation-invariant. In these axes one diagonal preconditioner, built from the spectrum, serves every
head, penalty, loss and subset of rows.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from w2s_jax.errors import HeadError

CHUNK_ROWS = 1024  # whose float64 copy stays in the cache


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rotated features and what is needed to come back.

    Attributes:
      x: centred and rotated features ``[n, r]``, r = min(rows of the statistics, d).
      mean: what was subtracted, in the caller's coordinates ``[d]`` (zeros when not centred).
      rotation: orthonormal columns ``[d, r]``; a rotated weight w is ``rotation @ w`` outside.
      spectrum: mean square of the statistics rows along each axis ``[r]``, descending.
      centered: whether the mean was subtracted (required by fits with an intercept).
    """

    x: Float[Array, "n r"]
    mean: Float[Array, " d"]
    rotation: Float[Array, "d r"]
    spectrum: Float[Array, " r"]
    centered: bool = dataclasses.field(metadata={"static": True})

    @property
    def num_rows(self) -> int:
        """Rows of `x`."""
        return self.x.shape[0]


def x64_enabled() -> bool:
    """Whether JAX computes in float64 (``jax_enable_x64``)."""
    return jnp.result_type(float) == jnp.float64


def check_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type of the heads, if they can be trained in it.

    Raises:
      HeadError: for another type than float32 and float64, or float64 without ``jax_enable_x64``.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.float32, jnp.float64):
        raise HeadError(f"heads are trained in float32 or float64, found {dtype}")
    if dtype == jnp.float64 and not x64_enabled():
        raise HeadError(
            "float64 heads need jax_enable_x64; call jax.config.update('jax_enable_x64', True)"
        )
    return dtype


def check_matrix(x: np.ndarray) -> None:
    """Refuses features that are no non-empty matrix ``[n, d]``."""
    if x.ndim != 2 or 0 in x.shape:
        raise HeadError(f"features must be a non-empty matrix [n, d], found shape {x.shape}")


def _gram(x: np.ndarray, mean: np.ndarray) -> np.ndarray:
    gram = np.zeros((x.shape[1], x.shape[1]))
    for start in range(0, len(x), CHUNK_ROWS):
        block = x[start : start + CHUNK_ROWS].astype(np.float64) - mean
        gram += block.T @ block
    return gram


def _principal_axes(x: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes ``[d, r]`` and mean squares ``[r]``, in float64.

    With fewer rows than columns the axes span the rows exactly, which is all that a head trained on
    these rows can use; they then come from an SVD, because the Gram matrix would blur the small
    directions. A rotation only has to be orthogonal, so its accuracy elsewhere is not critical.
    """
    num_rows, num_features = x.shape
    if num_rows < num_features:
        _, singular, axes = np.linalg.svd(x.astype(np.float64) - mean, full_matrices=False)
        return axes.T, singular**2 / num_rows
    eigenvalues, axes = np.linalg.eigh(_gram(x, mean))
    return axes[:, ::-1], np.maximum(eigenvalues[::-1], 0) / num_rows


class Basis(NamedTuple):
    """The coordinates in which heads are trained, in float64.

    Attributes:
      mean: what is subtracted ``[d]``.
      axes: orthonormal columns ``[d, r]``.
      spectrum: mean square along each axis ``[r]``, descending.
    """

    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "d r"]
    spectrum: Float[np.ndarray, " r"]

    def apply(self, x: np.ndarray, dtype: DTypeLike) -> np.ndarray:
        """Features in these coordinates ``[n, r]``."""
        rotated = np.empty((len(x), self.axes.shape[1]), dtype)
        for start in range(0, len(x), CHUNK_ROWS):
            block = slice(start, start + CHUNK_ROWS)
            rotated[block] = (x[block].astype(np.float64) - self.mean) @ self.axes
        return rotated


def find_basis(
    x: np.ndarray,
    *,
    statistics_rows: np.ndarray | None = None,
    center: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Basis:
    """Mean and principal axes of features (see `prepare`)."""
    dtype = check_dtype(dtype)
    check_matrix(x)
    base = x if statistics_rows is None else x[np.asarray(statistics_rows)]
    if not len(base):
        raise HeadError("no rows to compute the mean from: statistics_rows is empty")
    mean = base.mean(axis=0, dtype=np.float64) if center else np.zeros(x.shape[1])
    if not np.isfinite(mean).all() or not np.isfinite(x).all():
        raise HeadError("features contain NaN or infinite values; drop or repair these rows first")
    axes, spectrum = _principal_axes(base, mean)
    if spectrum[0] > jnp.finfo(dtype).max:
        raise HeadError(
            f"features are too large for {dtype}: their mean square is {spectrum[0]:.3g} along one "
            "direction; divide them by a constant first"
        )
    return Basis(mean, axes, spectrum)


def prepare_in(
    basis: Basis, x: np.ndarray, *, center: bool = True, dtype: DTypeLike = jnp.float32
) -> Prepared:
    """Features in a given basis."""
    dtype = check_dtype(dtype)
    return Prepared(
        x=jnp.asarray(basis.apply(x, dtype)),
        mean=jnp.asarray(basis.mean, dtype),
        rotation=jnp.asarray(basis.axes, dtype),
        spectrum=jnp.asarray(basis.spectrum, dtype),
        centered=center,
    )


def prepare(
    x: np.ndarray | Array,
    *,
    statistics_rows: np.ndarray | None = None,
    center: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Prepared:
    """Centres and rotates features once, for any number of later fits.

    Args:
      x: features ``[n, d]``, any floating type.
      statistics_rows: indices of the rows that define mean and axes (default: all). Every row that
        a head trains on must be among them; further rows (a test set) are carried along.
      center: subtract the mean; needed by fits with an intercept, to be switched off for fits
        without one.
      dtype: type of the fits, float32 or float64 (the latter needs ``jax_enable_x64``).

    Returns:
      A `Prepared`, to be passed to `fit_logistic` or `fit_ridge` in place of the features.

    Raises:
      HeadError: if x is not a finite matrix or its squares overflow the type, or the type is
        none that heads are trained in (see `check_dtype`).

    >>> prepare(np.eye(3, 2)).x.shape
    (3, 2)
    """
    x = np.asarray(x)
    basis = find_basis(x, statistics_rows=statistics_rows, center=center, dtype=dtype)
    return prepare_in(basis, x, center=center, dtype=dtype)
