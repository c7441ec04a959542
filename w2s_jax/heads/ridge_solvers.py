"""Direct solvers for ridge heads: one factorisation of a set of weighted rows for all its heads.

All compute in float64, whatever the type of the features: the normal equations square a condition
number, and float32 would lose small penalties. Every solver works on a batch of sets of rows of
equal (padded) sizes, and says of each penalty whether its answer can be trusted; `solve_by_svd`
always can, at many times the cost.

With A the centred rows times the root of their share of the weight, and T the targets likewise,
a head is w = (A'A + l2)^-1 A'T (primal form) or, the same, w = A' (AA' + l2)^-1 T (dual form).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.buckets import of_backend

_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

# Largest correction that one step of refinement may make to a Cholesky solution; what is left
# after the step is about its square.
TRUSTED_CORRECTION = 1e-5
# Smallest pivot of a Cholesky factor, and smallest eigenvalue, as shares of the largest.
TRUSTED_PIVOT = 1e-13
TRUSTED_EIGENVALUE = 1e-9
# Flops per cube of the size, at the speed of a Cholesky factor. On CPUs measured for sizes of 150
# to 500, where 2.5 holds on an idle machine only: LAPACK's eigensolver suffers most from busy
# neighbours. On accelerators, which cannot batch the tridiagonalisation, a guess.
EIGH_FLOPS = {"cpu": 4.0, "other": 20.0}
SVD_FLOPS = 20.0


class Space(NamedTuple):
    """Features to fit on, and the way back to the caller's coordinates.

    Attributes:
      x: features ``[p, r]`` of the pool.
      rotation: a weight w is ``rotation @ w`` outside ``[d, r]``; None where that is w itself.
      mean: what was subtracted from the features, in the caller's coordinates ``[d]``.
      intercept: 1 with a free intercept, 0 without.
    """

    x: Float[Array, "p r"]
    rotation: Float[Array, "d r"] | None
    mean: Float[Array, " d"]
    intercept: Float[Array, ""]


class RowSets(NamedTuple):
    """A batch of sets of rows with their targets and penalties.

    Attributes:
      rows: indices ``[s, n]``; the first has weight.
      share: of each row in its set's weight ``[s, n]``; sums to one, zero in padding.
      targets: ``[s, n, j, q]``: q columns for each penalty, or j = 1 for all penalties.
      l2: penalties ``[s, l]``.
    """

    rows: Int[Array, "s n"]
    share: Float[Array, "s n"]
    targets: Float[Array, "s n j q"]
    l2: Float[Array, "s l"]


class Solved(NamedTuple):
    """Heads of each set and penalty in the caller's coordinates; sums run over one column each.

    Attributes:
      w: weights ``[s, l, d, q]`` in the type asked for.
      b: intercepts that fit these rounded weights ``[s, l, q]``.
      objective: value of each column ``[s, l, q]``.
      squared_gradient: squared norm of each column's gradient ``[s, l, q]``.
      rank: of each set's centred rows ``[s]``, if it is trusted at l2 = 0.
      trusted: whether the factorisation was good enough ``[s, l]``.
    """

    w: Float[Array, "s l d q"]
    b: Float[Array, "s l q"]
    objective: Float[Array, "s l q"]
    squared_gradient: Float[Array, "s l q"]
    rank: Int[Array, " s"]
    trusted: Bool[Array, "s l"]


class Form(NamedTuple):
    """Which equations are solved, and how."""

    dual: bool
    spectral: bool


def flops(form: Form | None, rows: int, features: int, penalties: int, columns: int) -> float:
    """Work on one set of rows with some columns of targets for each penalty; None is the SVD."""
    least, most = sorted((rows, features))
    if form is None:
        return SVD_FLOPS * most * least**2
    size = rows if form.dual else features
    gram = 2.0 * rows * features * size
    if form.spectral:
        eigh = of_backend(EIGH_FLOPS) * size**3
        return gram + eigh + penalties * columns * 4 * size * (size + features)
    return gram + penalties * (size**3 / 3 + 8 * rows * features * columns)


def cheapest_form(rows: int, features: int, penalties: int, columns: int, intercept: bool) -> Form:
    """The form with the fewest flops for a set of rows.

    The dual form is that of rows that cannot determine w. A Cholesky factor serves one penalty, and
    is checked and refined on the rows; an eigendecomposition serves all penalties.

    >>> cheapest_form(2000, 512, penalties=4, columns=1, intercept=True)
    Form(dual=False, spectral=False)
    >>> cheapest_form(100, 512, penalties=50, columns=1, intercept=True)
    Form(dual=True, spectral=True)
    """
    forms = [Form(rows - intercept < features, spectral) for spectral in (False, True)]
    return min(forms, key=lambda form: flops(form, rows, features, penalties, columns))


class _Centred(NamedTuple):
    """One set: a ``[n, r]`` and t ``[n, j, q]`` as in the module's text, and their means."""

    a: Float[Array, "n r"]
    t: Float[Array, "n j q"]
    root: Float[Array, " n"]
    x_mean: Float[Array, " r"]
    t_mean: Float[Array, "j q"]


def _centre(space: Space, sets: RowSets) -> _Centred:
    def centre(values: Array) -> tuple[Array, Array]:
        # From the first row on, so that a constant column becomes exactly zero.
        origin = space.intercept * values[0]
        values = values - origin
        mean = space.intercept * _product("n,n...->...", sets.share, values)
        return values - mean, origin + mean

    a, x_mean = centre(space.x[sets.rows].astype(sets.share.dtype))
    t, t_mean = centre(sets.targets)
    root = jnp.sqrt(sets.share)
    return _Centred(root[:, None] * a, root[:, None, None] * t, root, x_mean, t_mean)


def _regular_gram(
    space: Space, sets: RowSets, centred: _Centred, dual: bool
) -> tuple[Array, Array, Array]:
    """A'A or AA' without the null directions that are known beforehand; its scale and rank.

    Padded rows and constant columns get a pivot of their own, and so does the direction that
    centring removes from AA'. No right side has a part in them, so that no solution changes.
    """
    a = centred.a
    gram = _product("nr,mr->nm", a, a) if dual else _product("nr,ns->rs", a, a)
    diagonal = jnp.diagonal(gram)
    empty = sets.share == 0 if dual else diagonal == 0
    scale = jnp.max(diagonal)
    scale = jnp.where(scale > 0, scale, 1.0)
    gram = gram + jnp.diag(scale * empty)
    rank = jnp.sum(~empty)
    if dual:
        removed = space.intercept * scale
        gram = gram + removed * centred.root[:, None] * centred.root[None]
        rank = rank - space.intercept.astype(rank.dtype)
    return gram, scale, rank


def _outside(space: Space, centred: _Centred, w: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """Weights ``[l, d, q]`` and intercepts ``[l, q]`` in the caller's coordinates."""
    shift = _product("r,rlq->lq", centred.x_mean, w)
    if space.rotation is not None:
        w = _product("dr,rlq->dlq", space.rotation.astype(w.dtype), w)
    rounded = w.astype(dtype)
    if space.rotation is None:
        # The intercept makes up for what rounding the weights did to the mean.
        shift = _product("r,rlq->lq", centred.x_mean, rounded.astype(w.dtype))
    shift = shift + _product("d,dlq->lq", space.mean.astype(w.dtype), rounded.astype(w.dtype))
    b = space.intercept * (centred.t_mean - shift)
    return rounded.transpose(1, 0, 2), b


def _evaluate(centred: _Centred, w: Array, l2: Array) -> tuple[Array, Array]:
    """Objective and squared gradient norm of each column ``[l, q]``, on the rows themselves."""
    error = centred.t - _product("nr,rlq->nlq", centred.a, w)
    gradient = l2[:, None] * w - _product("nr,nlq->rlq", centred.a, error)
    objective = 0.5 * jnp.sum(error**2, axis=0) + 0.5 * l2[:, None] * jnp.sum(w**2, axis=0)
    return objective, jnp.sum(gradient**2, axis=0)


def _by_cholesky(space: Space, sets: RowSets, dual: bool, dtype: DTypeLike) -> Solved:
    """One set: a Cholesky factor a penalty, and one step of refinement on the rows.

    The step makes up for the squared condition number of the normal equations, and its size tells
    how good they were.
    """
    centred = _centre(space, sets)
    a, t, l2 = centred.a, centred.t, sets.l2[:, None]
    gram, scale, rank = _regular_gram(space, sets, centred, dual)
    shifted = gram + sets.l2[:, None, None] * jnp.eye(len(gram), dtype=gram.dtype)
    factor = jax.lax.linalg.cholesky(shifted, symmetrize_input=False)

    def solve(right: Array) -> Array:
        right = jnp.broadcast_to(right, (len(gram), len(sets.l2), right.shape[2]))
        options = {"left_side": True, "lower": True}
        half = jax.lax.linalg.triangular_solve(factor, right.transpose(1, 0, 2), **options)
        whole = jax.lax.linalg.triangular_solve(factor, half, transpose_a=True, **options)
        return whole.transpose(1, 0, 2)

    if dual:
        alpha = solve(t)
        first = _product("nr,nlq->rlq", a, alpha)
        alpha = solve(t - _product("nr,rlq->nlq", a, first) - l2 * alpha)
        correction = _product("nr,nlq->rlq", a, alpha)
    else:
        first = solve(_product("nr,njq->rjq", a, t))
        error = t - _product("nr,rlq->nlq", a, first)
        correction = solve(_product("nr,nlq->rlq", a, error) - l2 * first)
    w = first + correction
    size, change = jnp.sum(w**2, axis=0), jnp.sum(correction**2, axis=0)
    pivots = jnp.min(jnp.diagonal(factor, axis1=1, axis2=2), axis=1) ** 2
    trusted = jnp.all(change <= TRUSTED_CORRECTION**2 * size, axis=1)
    trusted = trusted & (pivots > TRUSTED_PIVOT * (scale + sets.l2))
    return Solved(
        *_outside(space, centred, w, dtype), *_evaluate(centred, w, sets.l2), rank, trusted
    )


def _by_eigenvectors(space: Space, sets: RowSets, dual: bool, dtype: DTypeLike) -> Solved:
    """One set: all penalties from one eigendecomposition, evaluated in its basis."""
    centred = _centre(space, sets)
    a, l2 = centred.a, sets.l2[:, None]
    gram, _, rank = _regular_gram(space, sets, centred, dual)
    basis, values = jax.lax.linalg.eigh(gram, symmetrize_input=False)

    def times_gram(columns: Array) -> Array:
        # Not by the eigenvalues: objective and gradient show the decomposition's own error.
        if columns[0].size < len(gram):
            columns = _product("mn,nlq->mlq", gram, _product("nk,klq->nlq", basis, columns))
            return _product("mi,mlq->ilq", basis, columns)
        return _product("ik,klq->ilq", _product("mi,mn,nk->ik", basis, gram, basis), columns)

    to_weights = _product("nr,ni->ri", a, basis) if dual else basis
    right = centred.t if dual else _product("nr,njq->rjq", a, centred.t)
    right = _product("mi,mjq->ijq", basis, right)
    solution = right / (values[:, None, None] + l2)
    product = times_gram(solution)
    gradient = product + l2 * solution - right
    quadratic = jnp.sum(solution * product, axis=0)
    if dual:
        objective = jnp.sum((right - product) ** 2, axis=0) + l2 * quadratic
        squared = jnp.sum(gradient * times_gram(gradient), axis=0)
    else:
        total = jnp.sum(centred.t**2, axis=0) + quadratic + l2 * jnp.sum(solution**2, axis=0)
        objective = total - 2 * jnp.sum(solution * right, axis=0)
        squared = jnp.sum(gradient**2, axis=0)
    return Solved(
        *_outside(space, centred, _product("ri,ilq->rlq", to_weights, solution), dtype),
        0.5 * jnp.maximum(objective, 0),
        jnp.maximum(squared, 0),
        rank,
        values[0] + sets.l2 > TRUSTED_EIGENVALUE * (values[-1] + sets.l2),
    )


@functools.partial(jax.jit, static_argnames=("form", "dtype"))
def solve(space: Space, sets: RowSets, *, form: Form, dtype: DTypeLike) -> Solved:
    """All heads of a batch of sets of rows, in the given form.

    Args:
      space: features.
      sets: rows, targets and penalties; float64.
      form: see `cheapest_form`; the dual form without penalty needs linearly independent rows (up
        to centring), the primal form independent columns. Otherwise heads are not trusted.
      dtype: of the weights.
    """
    one = _by_eigenvectors if form.spectral else _by_cholesky
    return jax.vmap(lambda own: one(space, own, form.dual, dtype))(sets)


@functools.partial(jax.jit, static_argnames=("dtype",))
def solve_by_svd(
    space: Space, sets: RowSets, size: Float[Array, ""] | float, *, dtype: DTypeLike
) -> Solved:
    """All heads of a batch of sets from singular value decompositions of their rows.

    Args:
      space: features.
      sets: rows, targets and penalties; float64.
      size: singular values below eps * size of the largest count as zero.
      dtype: of the weights.
    """

    def one(own: RowSets) -> Solved:
        centred = _centre(space, own)
        left, singular, right = jnp.linalg.svd(centred.a, full_matrices=False)
        kept = singular > np.finfo(np.float64).eps * size * singular[0]
        safe = jnp.where(kept, singular, 1.0)[:, None]
        gain = jnp.where(kept[:, None], safe / (safe**2 + own.l2), 0.0)
        aligned = _product("ni,njq->ijq", left, centred.t)
        w = _product("ir,ilq->rlq", right, gain[:, :, None] * aligned)
        return Solved(
            *_outside(space, centred, w, dtype),
            *_evaluate(centred, w, own.l2),
            jnp.sum(kept),
            jnp.ones(own.l2.shape, bool),
        )

    return jax.vmap(one)(sets)
