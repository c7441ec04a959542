"""Ridge and ridgeless heads: one factorisation of a set of weighted rows serves all its heads."""

import contextlib
import importlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from w2s_jax.errors import HeadError
from w2s_jax.heads.buckets import of_backend, padded_size
from w2s_jax.heads.inputs import (
    as_numbers,
    broadcast_heads,
    check_row_sets,
    check_weights,
    common_heads,
    floating_features,
    groups_of_equal_rows,
    per_head,
    prepare_if_needed,
)
from w2s_jax.heads.prepared import Prepared, check_matrix
from w2s_jax.heads.ridge_solvers import (
    Form,
    RowSets,
    Solved,
    Space,
    cheapest_form,
    flops,
    solve,
    solve_by_svd,
)
from w2s_jax.heads.status import CONVERGED, MINIMUM_NORM, NO_WEIGHT

# Sets of rows are solved together up to this many, this much work, which hides the cost of a call,
# and this much memory. More would fill up batches in vain where sets are few.
BATCH_SETS = 32
BATCH_FLOPS = {"cpu": 2e8, "other": 2e10}
BATCH_BYTES = 2**29


class RidgeHeads(NamedTuple):
    """Fitted ridge heads in the caller's coordinates; predictions are ``x @ w[h] + b[h]``.

    Attributes:
      w: weights ``[h, d, k]`` for k targets.
      b: intercepts ``[h, k]``.
      status: ``[h]``: converged; minimum_norm (l2 = 0 and rows that do not determine w: the
        solution of least norm); no_weight (all sample weights zero: w = 0, b = 0). Codes as in
        `w2s_jax.heads.STATUS_NAMES`.
      iterations: zero ``[h]``; the solution is direct.
      gradient_norm: Euclidean norm of the objective's gradient at the solution ``[h]``.
      objective: value at the solution ``[h]``.
      gap: zero ``[h]``.
    """

    w: Float[Array, "h d k"]
    b: Float[Array, "h k"]
    status: Int[Array, " h"]
    iterations: Int[Array, " h"]
    gradient_norm: Float[Array, " h"]
    objective: Float[Array, " h"]
    gap: Float[Array, " h"]


class _Job(NamedTuple):
    """Heads on one set of weighted rows, as a table by penalty; alike in all but penalty, targets.

    Attributes:
      heads: their numbers ``[l, c]``, each row of one penalty.
      rows: indices of the rows with weight ``[n]``.
      share: of each in the weight of all ``[n]``.
      places: of these rows among those that the targets are for ``[n]``.
      l2: penalties ``[l]``.
    """

    heads: np.ndarray
    rows: np.ndarray
    share: np.ndarray
    places: np.ndarray
    l2: np.ndarray


class _Shape(NamedTuple):
    """Padded sizes, and form, of the jobs that are solved together; None is the SVD."""

    form: Form | None
    rows: int
    penalties: int
    columns: int
    shared: bool


def _host_features(x: ArrayLike) -> tuple[np.ndarray, np.dtype]:
    """Checked features in float32 or float64, and the type of their heads."""
    host, dtype = floating_features(x)
    check_matrix(host)
    if host.dtype != np.float64:
        host = host.astype(np.float32, copy=False)
    largest = max(host.max(), -host.min())
    if not np.isfinite(largest):
        raise HeadError("features contain NaN or infinite values; drop or repair these rows first")
    if largest > np.sqrt(np.finfo(dtype).max):
        raise HeadError(
            f"features are too large for {dtype}: found {largest:.3g}; divide them by a constant "
            "first"
        )
    return host, dtype


def _space(x: ArrayLike | Prepared, fit_intercept: bool) -> tuple[Space, np.dtype, int]:
    """Features to fit on, the type of the heads, and the number of the caller's features.

    A direct solver needs no principal axes: features that are not prepared are fitted as they are.
    """
    intercept = np.asarray(fit_intercept, np.float64)
    if isinstance(x, Prepared):
        x = prepare_if_needed(x, fit_intercept)
        if x.row_shards > 1:
            raise HeadError(
                f"ridge heads need features on one device, found rows dealt out to "
                f"{x.row_shards}; prepare them without devices"
            )
        host, dtype, d = (x.x, x.rotation, x.mean, intercept), x.x.dtype, x.rotation.shape[0]
    else:
        features, dtype = _host_features(x)
        d = features.shape[1]
        host = (features, None, np.zeros(d), intercept)
    with jax.enable_x64(True):
        return Space(*jax.device_put(host)), np.dtype(dtype), d


def _jobs(
    row_sets: np.ndarray, weights: np.ndarray, l2: np.ndarray, shared: bool, most: int
) -> tuple[list[_Job], np.ndarray]:
    """Tables of heads with at most about `most` different solutions, and heads without weight."""
    jobs, weightless = [], []
    for heads in groups_of_equal_rows(row_sets, weights):
        weight = weights[heads[0]]
        share = weight / (weight.sum() or 1.0)
        places = np.flatnonzero(share)
        if not places.size:
            weightless.append(heads)
            continue
        rows, share = row_sets[heads[0]][places].astype(np.int32), share[places]
        values, number, counts = np.unique(l2[heads], return_inverse=True, return_counts=True)
        order = np.argsort(number, kind="stable")
        for count in np.unique(counts):
            table = heads[order[counts[number[order]] == count]].reshape(-1, count)
            across = count if shared else min(count, most)
            down = max(1, most // (1 if shared else across))
            for top, left in itertools.product(range(0, len(table), down), range(0, count, across)):
                part = table[top : top + down, left : left + across]
                jobs.append(_Job(part, rows, share, places, l2[part[:, 0]]))
    return jobs, np.concatenate([*weightless, np.empty(0, int)])


def _one_lapack_thread() -> threadpool_limits:
    """Keeps LAPACK to one thread.

    Over many small factors its threads would wait for each other at every step, on a busy machine
    for seconds; and batches overlap: while one is stored, the next is solved.
    """
    importlib.import_module("scipy.linalg.cython_lapack")  # What jaxlib will load and call.
    return threadpool_limits(1, user_api="blas")


class _Fits:
    """Solves jobs batch by batch and collects their heads on the host."""

    def __init__(self, space: Space, targets: np.ndarray, num_heads: int, dtype: np.dtype, d: int):
        k = targets.shape[2]
        self._space, self._targets, self._shared = space, targets, len(targets) == 1
        self._intercept = bool(space.intercept)
        self.w, self.b = np.zeros((num_heads, d, k), dtype), np.zeros((num_heads, k), dtype)
        self.objective, self.gradient_norm = np.zeros(num_heads), np.zeros(num_heads)
        self.status = np.full(num_heads, CONVERGED, np.int32)

    def solve_all(self, jobs: list[_Job]) -> None:
        """Fits all heads of the jobs, first in the cheapest way, then as those left over need."""
        if self.w.dtype == np.float32:
            jobs = self._solve(jobs, self._form(single=True))
        jobs = self._solve(jobs, self._form(single=False))
        self._solve(jobs, lambda _: None)

    def _form(self, *, single: bool) -> Callable[[_Job], Form]:
        features, k = self._space.x.shape[1], self._targets.shape[2]

        def form(job: _Job) -> Form:
            penalties, same = job.heads.shape
            columns = k * (1 if self._shared else same)
            return cheapest_form(
                len(job.rows), features, penalties, columns, self._intercept, single
            )

        return form

    def _solve(self, jobs: list[_Job], form: Callable[[_Job], Form | None]) -> list[_Job]:
        """Fits all heads of the jobs in their forms; returns those not to be trusted."""
        batches: dict[_Shape, list[_Job]] = {}
        for job in jobs:
            batches.setdefault(self._shape(job, form(job)), []).append(job)
        parts = [
            (shape, members[start : start + size], size)
            for shape, members in batches.items()
            for size in [self._batch_size(shape)]
            for start in range(0, len(members), size)
        ]
        untrusted, running = [], None
        with _one_lapack_thread() if len(jobs) > 1 else contextlib.nullcontext():
            for shape, batch, size in parts:
                launched = batch, self._launch(shape, batch, size)
                untrusted += self._store(*running) if running else []
                running = launched
            untrusted += self._store(*running) if running else []
        return untrusted

    def _shape(self, job: _Job, form: Form | None) -> _Shape:
        penalties, same = job.heads.shape
        columns = self._targets.shape[2] * (1 if self._shared else same)
        return _Shape(
            form,
            padded_size(len(job.rows)),
            padded_size(penalties, parts=2),
            padded_size(columns, parts=2),
            self._shared or penalties == 1,
        )

    def _batch_size(self, shape: _Shape) -> int:
        """Sets of rows solved together: of the shape alone, so that no number of sets compiles."""
        features = self._space.x.shape[1]
        work = flops(shape.form, shape.rows, features, shape.penalties, shape.columns)
        size = features if shape.form is None or not shape.form.dual else shape.rows
        solutions = shape.penalties * shape.columns
        entries = 3 * shape.rows * features + (shape.penalties + 3) * size**2
        entries += solutions * (2 * shape.rows + 4 * features)
        most = min(BATCH_SETS, of_backend(BATCH_FLOPS) / work, BATCH_BYTES / (8 * entries))
        return 2 ** (max(1, int(most)).bit_length() - 1)

    def _launch(self, shape: _Shape, jobs: list[_Job], size: int) -> Solved:
        """Pads the jobs to the shape and starts to solve them; spare places repeat the first."""
        rows = np.empty((size, shape.rows), np.int32)
        share = np.zeros((size, shape.rows))
        l2 = np.empty((size, shape.penalties))
        groups = 1 if shape.shared else shape.penalties
        targets = np.zeros((size, shape.rows, groups, shape.columns))
        for i, job in enumerate(jobs):
            n = len(job.rows)
            rows[i], rows[i, :n], share[i, :n] = job.rows[0], job.rows, job.share
            l2[i], l2[i, : len(job.l2)] = job.l2[-1], job.l2
            own = self._targets[job.heads[:1, :1] * 0 if self._shared else job.heads]
            own = own[:, :, job.places].transpose(2, 0, 1, 3)
            own = own.reshape(n, own.shape[1], -1)
            targets[i, :n, : own.shape[1], : own.shape[2]] = own
        for values in (rows, share, l2, targets):
            values[len(jobs) :] = values[0]
        sets = RowSets(*jax.device_put((rows, share, targets, l2)))
        if shape.form is None:
            longest = max(*(len(job.rows) for job in jobs), self._space.x.shape[1])
            return solve_by_svd(self._space, sets, float(longest), dtype=self.w.dtype)
        return solve(self._space, sets, form=shape.form, dtype=self.w.dtype)

    def _store(self, jobs: list[_Job], launched: Solved) -> list[_Job]:
        """Puts the heads of a batch in their places; returns those not to be trusted."""
        solved: Any = jax.device_get(launched)
        untrusted = []
        for i, job in enumerate(jobs):
            heads = job.heads
            own = heads[:, :1] if self._shared else heads

            def table(values: np.ndarray, own: np.ndarray = own) -> np.ndarray:
                """Columns ``[l, ..., q]`` as ``[l, c, ..., k]``."""
                k = self._targets.shape[2]
                values = values[: len(own), ..., : own.shape[1] * k]
                return np.moveaxis(values.reshape(*values.shape[:-1], own.shape[1], k), -2, 1)

            self.w[heads], self.b[heads] = table(solved.w[i]), table(solved.b[i])
            self.objective[heads] = table(solved.objective[i]).sum(axis=-1)
            self.gradient_norm[heads] = np.sqrt(table(solved.squared_gradient[i]).sum(axis=-1))
            free = (job.l2 == 0) & (solved.rank[i] < self.w.shape[1])
            self.status[heads] = np.where(free, MINIMUM_NORM, CONVERGED)[:, None]
            weak = ~solved.trusted[i, : len(heads)]
            if weak.any():
                untrusted.append(job._replace(heads=heads[weak], l2=job.l2[weak]))
        return untrusted


def fit_ridge(
    x: ArrayLike | Prepared,
    targets: ArrayLike,
    *,
    rows: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    l2: ArrayLike = 1.0,
    fit_intercept: bool = True,
) -> RidgeHeads:
    r"""Fits many ridge heads at once; l2 = 0 gives the minimum-norm (ridgeless) solution.

    Minimises, for every head, with sample weights m_i and M their sum,

        (1/2M) sum_i m_i ||t_i - x_i W - b||^2  +  (l2 / 2) ||W||^2        (b is not penalised),

    which is scikit-learn's ``Ridge(alpha = l2 M)``. Heads on the same rows with the same weights
    share the normal equations (of the rows, where these are fewer than the features), solved to
    float64 accuracy whatever the type of x. Where their condition is bad, a singular value
    decomposition takes their place: singular values below eps * max(n, d) of the largest count as
    zero.

    Args:
      x: features ``[n, d]``; heads are float32, and float64 only for float64 features under
        ``jax_enable_x64``. Best as they are: ridge needs nothing of a `Prepared`, whose features
        are rounded after the rotation.
      targets: real numbers ``[m]``, ``[m, k]`` or one set per head ``[h, m, k]``, aligned with
        `rows`.
      rows: indices ``[m]`` shared by all heads, or ``[h, m]``; default all rows.
      weights: sample weights ``[m]`` or ``[h, m]``, >= 0, aligned with `rows`; default one.
      l2: penalty >= 0, a scalar or ``[h]``.
      fit_intercept: without it, b stays 0 and a `Prepared` must be made with ``center=False``.

    Returns:
      `RidgeHeads` in the caller's coordinates.

    Raises:
      HeadError: on shapes, targets, weights or penalties that make no sense.

    >>> heads = fit_ridge(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]), l2=0.0)
    >>> heads.w.ravel().tolist(), heads.b.ravel().tolist()
    ([2.0], [1.0])
    """
    space, dtype, num_features = _space(x, fit_intercept)
    host = np.asarray(targets)
    host = host if host.dtype == np.float32 else as_numbers(targets, "ridge targets")
    if host.ndim not in (1, 2, 3) or not host.size or not np.isfinite(host).all():
        raise HeadError(
            f"ridge targets must be finite and [m], [m, k] or [h, m, k], found {host.shape}"
        )
    host = host[None, :, None] if host.ndim == 1 else host[None] if host.ndim == 2 else host
    row_sets = check_row_sets(rows, len(space.x), host.shape[1], "targets")
    host_weights = check_weights(weights, row_sets.shape[1])
    num_heads = common_heads(
        targets=host.shape[0], rows=row_sets.shape[0], weights=len(host_weights), l2=np.size(l2)
    )
    jobs, weightless = _jobs(
        broadcast_heads(row_sets, num_heads),
        broadcast_heads(host_weights, num_heads),
        per_head(l2, num_heads, "l2", np.float64),
        len(host) == 1,
        max(1, BATCH_BYTES // (8 * host.shape[2] * (2 * row_sets.shape[1] + 4 * num_features))),
    )
    with jax.enable_x64(True):
        fits = _Fits(space, host, num_heads, dtype, num_features)
        fits.solve_all(jobs)
    fits.status[weightless] = NO_WEIGHT
    still, none = np.zeros(num_heads, np.int32), np.zeros(num_heads, dtype)
    gradient_norm, objective = fits.gradient_norm.astype(dtype), fits.objective.astype(dtype)
    heads = (fits.w, fits.b, fits.status, still, gradient_norm, objective, none)
    return RidgeHeads(*jax.device_put(heads))
