"""Direct solvers for ridge heads: one factorisation of a set of weighted rows for all its heads.

All answer in the accuracy of float64, whatever the type of the features: the normal equations
square a condition number, and float32 would lose small penalties. Where the condition is good, a
factorisation in float32 is enough, as the preconditioner of a refinement on the rows in float64.
Every solver works on a batch of sets of rows of equal (padded) sizes, and says of each penalty
whether its answer can be trusted; `solve_by_svd` always can, at many times the cost.

With A the centred rows times the root of their share of the weight, and T the targets likewise,
a head is w = (A'A + l2)^-1 A'T (primal form) or, the same, w = A' (AA' + l2)^-1 T (dual form).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.heads.buckets import of_backend

_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

# Largest correction that the last step of refinement may make, as a share of the solution; what is
# left after the step is its square at one step, and smaller still at more.
TRUSTED_CORRECTION = 1e-5
# Smallest pivot of a Cholesky factor in float64 and float32, and smallest eigenvalue, as shares of
# the largest. At that pivot a step of refinement from float32 divides the error by about a hundred.
TRUSTED_PIVOT, TRUSTED_SINGLE_PIVOT = 1e-13, 1e-5
TRUSTED_EIGENVALUE = 1e-9
# Work on a set of rows below which float32 saves less than compiling another program may cost.
SINGLE_LEAST_FLOPS = 2e7
# Steps of refinement from a float64 and from a float32 factorisation.
REFINEMENTS, SINGLE_REFINEMENTS = 1, 3
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
    """Which equations are solved, and how.

    Attributes:
      dual: for one number a row instead of one a feature.
      spectral: by an eigendecomposition for all penalties instead of a Cholesky factor each.
      single: factored in float32; Cholesky only.
    """

    dual: bool
    spectral: bool
    single: bool


def flops(form: Form | None, rows: int, features: int, penalties: int, columns: int) -> float:
    """Work on one set of rows with some columns of targets for each penalty; None is the SVD."""
    least, most = sorted((rows, features))
    if form is None:
        return SVD_FLOPS * most * least**2
    size = rows if form.dual else features
    solutions = penalties * columns
    factor = of_backend(EIGH_FLOPS) * size**3 if form.spectral else penalties * size**3 / 3
    factor += 2.0 * rows * features * size
    apply = solutions * 4 * size**2
    pass_over_rows = solutions * 4 * rows * features
    if form.spectral:
        return factor + apply + solutions * 4 * size * features
    if form.single:
        return factor / 2 + (SINGLE_REFINEMENTS + 1) * (apply / 2 + pass_over_rows)
    return factor + (REFINEMENTS + 1) * (apply + pass_over_rows)


def cheapest_form(
    rows: int, features: int, penalties: int, columns: int, intercept: bool, single: bool
) -> Form:
    """The form with the fewest flops for a set of rows, a flop in float32 counting half.

    The dual form is that of rows that cannot determine w. A Cholesky factor serves one penalty, an
    eigendecomposition all of them. Only an eigendecomposition in float64 needs no pass over the
    rows for each column.

    Args:
      rows: with weight.
      features: of each.
      penalties: on this set of rows.
      columns: of targets for each penalty.
      intercept: whether it is free.
      single: whether a factor in float32 may be tried: the heads are float32.

    >>> cheapest_form(2000, 512, penalties=4, columns=1, intercept=True, single=False)
    Form(dual=False, spectral=False, single=False)
    >>> cheapest_form(100, 512, penalties=50, columns=100, intercept=True, single=True)
    Form(dual=True, spectral=True, single=False)
    """
    dual = rows - intercept < features

    def work(form: Form) -> float:
        return flops(form, rows, features, penalties, columns)

    best = min(Form(dual, False, False), Form(dual, True, False), key=work)
    if not single or work(best) < SINGLE_LEAST_FLOPS:
        return best
    return min(best, Form(dual, False, True), key=work)


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
    space: Space, sets: RowSets, centred: _Centred, a: Array, form: Form
) -> tuple[Array, Array, Array]:
    """A'A or AA' without the null directions that are known beforehand; its scale and rank.

    `a` has the centred rows, in any unit and type.

    Padded rows and constant columns get a pivot of their own, and so does the direction that
    centring removes from AA'. No right side has a part in them, so that no solution changes.
    """
    gram = _product("nr,mr->nm", a, a) if form.dual else _product("nr,ns->rs", a, a)
    diagonal = jnp.diagonal(gram)
    empty = sets.share == 0 if form.dual else jnp.all(centred.a == 0, axis=0)
    scale = jnp.max(diagonal)
    scale = jnp.where(scale > 0, scale, 1.0)
    gram = gram + jnp.diag(scale * empty)
    rank = jnp.sum(~empty)
    if form.dual:
        removed = space.intercept.astype(a.dtype) * scale
        root = centred.root.astype(a.dtype)
        gram = gram + removed * root[:, None] * root[None]
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


def _largest(values: Array, axis: int | None) -> Array:
    """Largest magnitude along an axis; one where all are zero."""
    largest = jnp.max(jnp.abs(values), axis=axis)
    return jnp.where(largest > 0, largest, 1.0)


def _by_cholesky(space: Space, sets: RowSets, form: Form, dtype: DTypeLike) -> Solved:
    """One set: a Cholesky factor a penalty, and refinement on the rows in float64.

    The steps make up for the squared condition number of the normal equations, and for a factor in
    float32; the size of the last tells how good it was. Factored and solved are numbers of at most
    about one, so that float32 holds them whatever the caller's units.
    """
    centred = _centre(space, sets)
    a, l2 = centred.a, sets.l2[:, None]
    t = jnp.broadcast_to(centred.t, (len(a), len(sets.l2), centred.t.shape[2]))
    unit = _largest(a, axis=None)
    scaled = (a / unit).astype(np.float32 if form.single else a.dtype)
    gram, scale, rank = _regular_gram(space, sets, centred, scaled, form)
    penalties = (sets.l2 / unit**2).astype(gram.dtype)
    shifted = gram + penalties[:, None, None] * jnp.eye(len(gram), dtype=gram.dtype)
    factor = jax.lax.linalg.cholesky(shifted, symmetrize_input=False)

    def inverse(right: Array) -> Array:
        options = {"left_side": True, "lower": True}
        largest = _largest(right, axis=0)
        right = (right / largest).astype(gram.dtype).transpose(1, 0, 2)
        half = jax.lax.linalg.triangular_solve(factor, right, **options)
        whole = jax.lax.linalg.triangular_solve(factor, half, transpose_a=True, **options)
        return whole.transpose(1, 0, 2).astype(a.dtype) * (largest / unit**2)

    def improve(_: Any, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        # In the dual form alpha has the weights' place, and w = A' alpha.
        w, alpha, _ = state
        error = t - _product("nr,rlq->nlq", a, w)
        if form.dual:
            step = inverse(error - l2 * alpha)
            alpha, step = alpha + step, _product("nr,nlq->rlq", a, step)
        else:
            step = inverse(_product("nr,nlq->rlq", a, error) - l2 * w)
        return w + step, alpha, step

    none = jnp.zeros((a.shape[1], *t.shape[1:]), a.dtype)
    steps = SINGLE_REFINEMENTS if form.single else REFINEMENTS
    state = none, jnp.zeros_like(t) if form.dual else jnp.zeros(()), none
    w, _, last = jax.lax.fori_loop(0, steps + 1, improve, state)
    size, change = jnp.sum(w**2, axis=0), jnp.sum(last**2, axis=0)
    trusted = jnp.all(change <= TRUSTED_CORRECTION**2 * size, axis=1)
    pivots = jnp.min(jnp.diagonal(factor, axis1=1, axis2=2), axis=1) ** 2
    least = TRUSTED_SINGLE_PIVOT if form.single else TRUSTED_PIVOT
    trusted = trusted & (pivots > least * (scale + penalties))
    return Solved(
        *_outside(space, centred, w, dtype), *_evaluate(centred, w, sets.l2), rank, trusted
    )


def _by_eigenvectors(space: Space, sets: RowSets, form: Form, dtype: DTypeLike) -> Solved:
    """One set: all penalties from one eigendecomposition, evaluated in its basis."""
    centred = _centre(space, sets)
    a, l2 = centred.a, sets.l2[:, None]
    gram, _, rank = _regular_gram(space, sets, centred, a, form)
    dual = form.dual
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
    return jax.vmap(lambda own: one(space, own, form, dtype))(sets)


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
