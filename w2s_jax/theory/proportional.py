r"""Exact asymptotic risks at any ratios, with or without ridge penalties (our derivation).

As d_z, n, N grow with d_z / n -> gamma and d_z / N -> nu, a resolvent of the teacher's sample
covariance, sum_i (z_i z_i') (x) (w_i w_i') / n + l2, becomes I (x) N_T^{-1}, where N_T solves

    N = l2 I + E[ c w w' ],        c = 1 / (1 + gamma w' N^{-1} w):                              (1)

c is what leaving out a sample changes. The map on the right is monotone and concave in N, and the
second moment plus penalty lies above its fixed point; so Newton steps from there fall monotonically
to it, and quadratically in the end. They need the operator

    O(R) = N R N - gamma E[ c^2 (w' R w) w w' ],                                                 (2)

which every other average needs too. The error of the teacher's coefficients, a matrix with a row
for each core feature, has the second moment

    Q_T = b^2 delta delta' + V,      delta = -l2 N^{-1} e_1,
    O(V) = gamma E[ c^2 (sigma_y^2 + b^2 (delta'w)^2) w w' ],

b being the length of the true coefficients, of random direction. The student fits the teacher's
random function: with its own (1), B = N_S^{-1} E[c psi w'] is the mean fit, r = w - B'psi what it
cannot express, and this acts as noise of variance s = r'(V + b^2 alpha alpha') r, where alpha =
e_1 + delta:

    Q_S = b^2 delta_S delta_S' + B V B' + U,      delta_S = B alpha - e_1,
    O_S(U) = nu E[ s c^2 psi psi' ].

An excess risk is tr(A Q) with the second moment A of the features in the test data, and so it is
affine in the minority fraction of these. Given psi, w is Gaussian with a mean linear in psi and a
constant covariance: that part of every expectation is exact, and the Sobol rule only sees psi.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.theory.integration import mixture_features, mixture_weights
from w2s_jax.theory.problem import Reduced

MAX_ITERATIONS = 100
TOLERANCE = 1e-11  # largest relative size of the last Newton step


class ErrorMoments(NamedTuple):
    """Second moments of the coefficients' errors; a risk is tr(A Q), A of the test features.

    Attributes:
      teacher: Q_T ``[p_T, p_T]``.
      student: Q_S ``[p_S, p_S]``.
      teacher_iterations: Newton steps for (1).
      student_iterations: the same of the student.
      converged: whether both solutions were found.
    """

    teacher: Float[Array, "*r p_T p_T"]
    student: Float[Array, "*r p_S p_S"]
    teacher_iterations: Int[Array, "*r"]
    student_iterations: Int[Array, "*r"]
    converged: Bool[Array, "*r"]


class _Rows(NamedTuple):
    """Features at weighted points, with x x' in the coordinates of `_entries`."""

    x: Float[Array, "m p"]
    products: Float[Array, "m q"]
    weights: Float[Array, " m"]


class _Solution(NamedTuple):
    """The fixed point N, c at every point, the operator (2) as a matrix, and how it was found."""

    N: Float[Array, "p p"]
    c: Float[Array, " m"]
    operator: Float[Array, "q q"]
    iterations: Int[Array, ""]
    converged: Bool[Array, ""]


def _pairs(p: int) -> tuple[np.ndarray, np.ndarray, Array]:
    """Rows and columns of a symmetric matrix's entries, and the root of how often each occurs."""
    i, j = np.triu_indices(p)
    return i, j, jnp.where(i == j, 1.0, math.sqrt(2.0))


def _entries(matrix: Float[Array, "p p"]) -> Float[Array, " q"]:
    """Coordinates in an orthonormal basis of symmetric matrices, q = p (p + 1) / 2."""
    i, j, root = _pairs(len(matrix))
    return root * matrix[i, j]


def _symmetric(entries: Float[Array, " q"], p: int) -> Float[Array, "p p"]:
    i, j, root = _pairs(p)
    place = np.zeros((p, p), int)
    place[i, j] = place[j, i] = np.arange(len(i))
    return (entries / root)[place]


def _rows(x: Float[Array, "m p"], weights: Float[Array, " m"]) -> _Rows:
    i, j, root = _pairs(x.shape[1])
    return _Rows(x, root * x[:, i] * x[:, j], weights)


def _mean(rows: _Rows, values: Float[Array, " m"]) -> Float[Array, "p p"]:
    """E[ values x x' ]."""
    return _symmetric(rows.products.T @ (rows.weights * values), rows.x.shape[1])


def _positive_solve(matrix: Float[Array, "q q"], right: Float[Array, "q k"]) -> Float[Array, "q k"]:
    """Gauss-Jordan elimination, which positive matrices let go without pivots.

    Not LAPACK: where a program runs two batched calls of it at once, jaxlib (seen in 0.10.2) waits
    for a thread pool from within the pool, for ever on two cores.
    """
    q = len(matrix)

    def eliminate(k: Array, table: Array) -> Array:
        row = table[k] / table[k, k]
        return (table - jnp.outer(table[:, k], row)).at[k].set(row)

    return jax.lax.fori_loop(0, q, eliminate, jnp.concatenate([matrix, right], axis=1))[:, q:]


def _linearise(rows: _Rows, N: Float[Array, "p p"], ratio: Array) -> tuple[Array, Array]:
    """Values c at every point ``[m]``, and (2), self-adjoint and positive, as a matrix."""
    i, j, root = _pairs(len(N))
    inverse = _positive_solve(N, jnp.eye(len(N)))
    c = 1 / (1 + ratio * (rows.products @ _entries(inverse)))
    both = N[i][:, i] * N[j][:, j] + N[i][:, j] * N[j][:, i]
    fourth = rows.products.T @ ((rows.weights * c**2)[:, None] * rows.products)
    return c, root[:, None] * both * root / 2 - ratio * fourth


def _invert(operator: Float[Array, "q q"], right: Float[Array, "p p"]) -> Float[Array, "p p"]:
    return _symmetric(_positive_solve(operator, _entries(right)[:, None])[:, 0], len(right))


def _solve(rows: _Rows, l2: Array, ratio: Array) -> _Solution:
    """Solves (1) by Newton steps from above."""
    p = rows.x.shape[1]
    penalty = l2 * jnp.eye(p)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        N, *_, count = state
        c, operator = _linearise(rows, N, ratio)
        change = N @ _invert(operator, _mean(rows, c) + penalty - N) @ N
        size = jnp.max(jnp.abs(change)) / jnp.max(jnp.abs(N))
        return N + change, c, operator, size, count + 1

    def going(state: tuple[Array, ...]) -> Array:
        *_, size, count = state
        return (size > TOLERANCE) & (count < MAX_ITERATIONS)

    one, q = jnp.ones_like(rows.weights), rows.products.shape[1]
    start = (
        _mean(rows, one) + penalty,
        one,
        jnp.zeros((q, q)),
        jnp.asarray(jnp.inf),
        jnp.asarray(0),
    )
    # c and the operator belong to the last N but one, which differs by the tolerance at most.
    N, c, operator, size, count = jax.lax.while_loop(going, step, start)
    return _Solution(N, c, operator, count, (size <= TOLERANCE) & ((l2 > 0) | (p * ratio < 1)))


def _moments(
    reduced: Reduced,
    eta_l: Array,
    eta_u: Array,
    teacher_l2: Array,
    student_l2: Array,
    beta_norm: Array,
    teacher_points: Float[Array, "n a"],
    student_points: Float[Array, "k b"],
) -> ErrorMoments:
    """Both second moments by one block of points."""
    gamma, nu, sigma_y, sigma_xi, mu_T, mu_S, Xi = reduced
    a, b = Xi.shape
    rows = _rows(
        mixture_features(teacher_points, mu_T, sigma_xi),
        mixture_weights(eta_l, len(teacher_points)),
    )
    teacher = _solve(rows, teacher_l2, gamma)
    first = jnp.eye(a + 1)[0]
    delta = -teacher_l2 * _positive_solve(teacher.N, first[:, None])[:, 0]
    noise = sigma_y**2 + (beta_norm * (rows.x @ delta)) ** 2
    V = _invert(teacher.operator, gamma * _mean(rows, teacher.c**2 * noise))

    psi = _rows(
        mixture_features(student_points, mu_S, sigma_xi),
        mixture_weights(eta_u, len(student_points)),
    )
    student = _solve(psi, student_l2, nu)
    # The teacher's features given the student's, in the mean.
    w = mixture_features(student_points @ Xi.T, mu_T, sigma_xi)
    weighted = (psi.weights * student.c)[:, None] * psi.x
    B = _positive_solve(student.N, weighted.T @ w)
    alpha = first + delta
    function = V + beta_norm**2 * jnp.outer(alpha, alpha)
    r = w - psi.x @ B
    unseen = sigma_xi**2 * jnp.sum(function[1:, 1:] * (jnp.eye(a) - Xi @ Xi.T))
    s = jnp.sum(r @ function * r, axis=1) + unseen
    U = _invert(student.operator, nu * _mean(psi, s * student.c**2))
    bias = B @ alpha - jnp.eye(b + 1)[0]
    return ErrorMoments(
        beta_norm**2 * jnp.outer(delta, delta) + V,
        beta_norm**2 * jnp.outer(bias, bias) + B @ V @ B.T + U,
        teacher.iterations,
        student.iterations,
        teacher.converged & student.converged,
    )


@functools.partial(jax.jit, static_argnames="batch_size")
def proportional_moments(
    reduced: Reduced,
    eta_l: Float[Array, " h"],
    eta_u: Float[Array, " h"],
    teacher_l2: Float[Array, " h"],
    student_l2: Float[Array, " h"],
    beta_norm: Float[Array, " h"],
    teacher_points: Float[Array, "r n a"],
    student_points: Float[Array, "r k b"],
    *,
    batch_size: int = 16,
) -> ErrorMoments:
    """Second moments of both errors for h settings, by every block of points ``[h, r, ...]``.

    Args:
      reduced: the problem, in float64.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      teacher_l2: the teacher's penalty.
      student_l2: the student's.
      beta_norm: length of the true coefficients; matters with penalties only.
      teacher_points: `gaussian_points` for the teacher's group features, in r blocks.
      student_points: the same for the student's.
      batch_size: settings computed together.
    """
    settings = (eta_l, eta_u, teacher_l2, student_l2, beta_norm)
    count = len(eta_l)

    def one(setting: Sequence[Array]) -> ErrorMoments:
        by_block = jax.vmap(lambda *points: _moments(reduced, *setting, *points))
        return by_block(teacher_points, student_points)

    size = min(count, batch_size)
    batches = -(-count // size)
    places = jnp.arange(batches * size).reshape(batches, size) % count
    found = jax.lax.map(lambda own: jax.vmap(one)([v[own] for v in settings]), places)
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[:count], found)
