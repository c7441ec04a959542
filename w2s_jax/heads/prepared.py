"""Features made ready for many fits: centred, and rotated once into their principal axes.

Centring is exact because the intercept is free; the rotation is exact because the L2 penalty is
rotation-invariant. In these axes a diagonal preconditioner, built from the mean squares of a head's
own rows, serves every penalty and loss.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from w2s_jax.errors import HeadError
from w2s_jax.heads.row_sharding import deal_out, num_shards, row_mesh

CHUNK_ROWS = 1024  # whose float64 copy stays in the cache
_NOT_FINITE = "features contain NaN or infinite values; drop or repair these rows first"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prepared:
    """Rotated features and what is needed to come back.

    Attributes:
      x: centred and rotated features ``[n, r]``, r = min(rows of the statistics, d). Rows that
        several devices share lie device after device, and are padded to a multiple of them: row i
        is on device i mod D.
      mean: what was subtracted, in the caller's coordinates ``[d]`` (zeros when not centred).
      rotation: orthonormal columns ``[d, r]``; a rotated weight w is ``rotation @ w`` outside.
      centered: whether the mean was subtracted (required by fits with an intercept).
      padding: rows of `x` that are none.
      row_shards: devices that share the rows, D.
    """

    x: Float[Array, "n r"]
    mean: Float[Array, " d"]
    rotation: Float[Array, "d r"]
    centered: bool = dataclasses.field(metadata={"static": True})
    padding: int = dataclasses.field(default=0, metadata={"static": True})
    row_shards: int = dataclasses.field(default=1, metadata={"static": True})

    @property
    def num_rows(self) -> int:
        """Rows of the features."""
        return self.x.shape[0] - self.padding

    def check_placed(self) -> None:
        """Refuses dealt-out rows that were moved: their order tells which device has which."""
        if num_shards(self.x) != self.row_shards:
            raise HeadError(
                f"the rows of these features were dealt out to {self.row_shards} devices and moved "
                f"to {num_shards(self.x)} since; prepare them where they are needed"
            )


def x64_enabled() -> bool:
    """Whether JAX computes in float64 (``jax_enable_x64``)."""
    return jnp.result_type(float) == jnp.float64


def check_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The type of the heads, if they can be trained in it.

    Raises:
      HeadError: for another type than float32 and float64, or float64 without ``jax_enable_x64``.
    """
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise HeadError(f"heads are trained in float32 or float64, found {dtype!r}") from None
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
    return _axes_of_gram(_gram(x, mean), num_rows)


def _axes_of_gram(gram: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    eigenvalues, axes = np.linalg.eigh(gram)
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
    try:
        base = x if statistics_rows is None else x[np.asarray(statistics_rows)]
    except IndexError as error:
        raise HeadError(f"statistics_rows must be rows of the {len(x)} features: {error}") from None
    if not len(base):
        raise HeadError("no rows to compute the mean from: statistics_rows is empty")
    mean = base.mean(axis=0, dtype=np.float64) if center else np.zeros(x.shape[1])
    if not np.isfinite(mean).all() or not np.isfinite(x).all():
        raise HeadError(_NOT_FINITE)
    return _checked(Basis(mean, *_principal_axes(base, mean)), dtype)


def _checked(basis: Basis, dtype: jnp.dtype) -> Basis:
    """A basis in which squares do not overflow."""
    if basis.spectrum[0] > jnp.finfo(dtype).max:
        raise HeadError(
            f"features are too large for {dtype}: their mean square is {basis.spectrum[0]:.3g} "
            "along one direction; divide them by a constant first"
        )
    return basis


def prepare_in(
    basis: Basis, x: np.ndarray, *, center: bool = True, dtype: DTypeLike = jnp.float32
) -> Prepared:
    """Features in a given basis."""
    dtype = check_dtype(dtype)
    return Prepared(
        x=jnp.asarray(basis.apply(x, dtype)),
        mean=jnp.asarray(basis.mean, dtype),
        rotation=jnp.asarray(basis.axes, dtype),
        centered=center,
    )


Read = Callable[[Int[np.ndarray, " m"]], Float[np.ndarray, "m d"]]


def _blocks(rows: Int[np.ndarray, " n"], size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def basis_of_blocks(
    read: Read,
    statistics_rows: Int[np.ndarray, " n"],
    *,
    center: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Basis:
    """Mean and principal axes of features that are read block by block (see `prepare`).

    Args:
      read: gives the rows of some indices.
      statistics_rows: indices of the rows that define mean and axes.
      center: subtract the mean.
      dtype: of the heads.
    """
    dtype = check_dtype(dtype)
    num_rows = len(statistics_rows)
    if not num_rows:
        raise HeadError("no rows to compute the mean from: statistics_rows is empty")
    blocks = _blocks(statistics_rows, CHUNK_ROWS)
    num_features = read(statistics_rows[:1]).shape[1]
    mean = np.zeros(num_features)
    if center:
        mean = sum((read(block).sum(axis=0, dtype=np.float64) for block in blocks), mean) / num_rows
    if not np.isfinite(mean).all():
        raise HeadError(_NOT_FINITE)
    if num_rows < num_features:
        return _checked(Basis(mean, *_principal_axes(read(statistics_rows), mean)), dtype)
    gram = sum((_gram(read(block), mean) for block in blocks), np.zeros((num_features,) * 2))
    if not np.isfinite(gram).all():
        raise HeadError(_NOT_FINITE)
    return _checked(Basis(mean, *_axes_of_gram(gram, num_rows)), dtype)


def prepare_dealt(
    basis: Basis,
    read: Read,
    num_rows: int,
    *,
    devices: Sequence[Any],
    center: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Prepared:
    """Features in a given basis, rows dealt out to several devices, read block by block.

    Args:
      basis: the coordinates.
      read: gives the rows of some indices.
      num_rows: of the features.
      devices: of this process.
      center: whether the basis has the mean.
      dtype: of the heads.
    """
    dtype, mesh = check_dtype(dtype), row_mesh(devices)

    def rotated(block: np.ndarray) -> np.ndarray:
        rows = read(block)
        if not np.isfinite(rows).all():
            raise HeadError(_NOT_FINITE)
        return basis.apply(rows, dtype)

    size = max(CHUNK_ROWS // len(devices), 1) * len(devices)
    blocks = map(rotated, _blocks(np.arange(num_rows), size))
    x = deal_out(blocks, num_rows, basis.axes.shape[1], dtype, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    others = basis.mean, basis.axes
    mean, rotation = (jax.device_put(part.astype(dtype), everywhere) for part in others)
    return Prepared(x, mean, rotation, center, len(x) - num_rows, len(devices))


def prepare(
    x: np.ndarray | Array,
    *,
    statistics_rows: np.ndarray | None = None,
    center: bool = True,
    dtype: DTypeLike = jnp.float32,
    devices: Sequence[Any] | None = None,
) -> Prepared:
    """Centres and rotates features once, for any number of later fits.

    Args:
      x: features ``[n, d]``, any floating type.
      statistics_rows: indices of the rows that define mean and axes (default: all). Every row that
        a head trains on must be among them; further rows (a test set) are carried along.
      center: subtract the mean; needed by fits with an intercept, to be switched off for fits
        without one.
      dtype: type of the fits, float32 or float64 (the latter needs ``jax_enable_x64``).
      devices: devices of this process among which the rows are dealt out, for features that one
        of them cannot hold (logistic heads only); default one device.

    Returns:
      A `Prepared`, to be passed to `fit_logistic` or `fit_ridge` in place of the features.

    Raises:
      HeadError: if x is not a finite matrix or its squares overflow the type, or the type is
        none that heads are trained in (see `check_dtype`).

    >>> prepare(np.eye(3, 2)).x.shape
    (3, 2)
    """
    x = np.asarray(x)
    if devices is not None and len(devices) > 1:
        check_matrix(x)
        chosen = np.arange(len(x))
        chosen = chosen if statistics_rows is None else chosen[np.asarray(statistics_rows)]
        basis = basis_of_blocks(x.__getitem__, chosen, center=center, dtype=dtype)
        return prepare_dealt(
            basis, x.__getitem__, len(x), devices=devices, center=center, dtype=dtype
        )
    basis = find_basis(x, statistics_rows=statistics_rows, center=center, dtype=dtype)
    return prepare_in(basis, x, center=center, dtype=dtype)
