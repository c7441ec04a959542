"""Teachers and students on drawn data, fitted by the package's own ridge heads."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from w2s_jax.heads import fit_ridge
from w2s_jax.theory.mixture import second_moment
from w2s_jax.theory.problem import GaussianProblem, TheoryError, checked_count
from w2s_jax.theory.risks import check_settings

MEMORY_BUDGET = 2**30


class Simulation(NamedTuple):
    """Means over draws with standard errors, all of the shape of eta_t.

    Attributes:
      teacher: mean excess risk of the teacher.
      student: mean excess risk of the student.
      gain: mean of teacher less student in the same draw.
      teacher_error: standard error of the teacher's mean.
      student_error: standard error of the student's mean.
      gain_error: standard error of the mean gain.
      teacher_draws: every draw's excess risk ``[num_draws, ...]``, a mean over its labels.
      student_draws: the same of the student.
    """

    teacher: np.ndarray
    student: np.ndarray
    gain: np.ndarray
    teacher_error: np.ndarray
    student_error: np.ndarray
    gain_error: np.ndarray
    teacher_draws: np.ndarray
    student_draws: np.ndarray


class _Samples(NamedTuple):
    """Samples of d draws: core features, [1; group feature] as either side sees it, label noise."""

    z: Float[Array, "d n d_z"]
    w: Float[Array, "d n p_T"]
    psi: Float[Array, "d n p_S"]
    noise: Float[Array, "d n k"]


@functools.partial(jax.jit, static_argnames=("d_z", "k"))
def _draws(
    root: Array, numbers: Int[Array, " d"], beta_norm: Array, *, d_z: int, k: int
) -> tuple[Array, Float[Array, "d d_z k"]]:
    """A key for each draw's labelled and unlabelled samples ``[d, 2]``, and its coefficients."""
    keys = jax.vmap(lambda number: jax.random.split(jax.random.fold_in(root, number), 3))(numbers)
    beta = jax.vmap(lambda key: jax.random.normal(key, (d_z, k), jnp.float64))(keys[:, 2])
    return keys[:, :2], beta_norm * beta / jnp.linalg.norm(beta, axis=1, keepdims=True)


def _samples(problem: GaussianProblem, keys: Array, eta: Array, size: int, k: int) -> _Samples:
    """All from one block of normal numbers, since every further call costs compilation.

    They are drawn in float32, at half the cost; all that follows is float64.
    """
    d_z, p = problem.d_z, len(problem.mu_xi)
    minority = jax.scipy.special.ndtri(eta)

    def one(key: Array) -> tuple[Array, Array, Array, Array]:
        numbers = jax.random.normal(key, (size, d_z + p + 1 + k), jnp.float32).astype(jnp.float64)
        g = numbers[:, d_z + p, None] < minority
        xi = g * problem.mu_xi + problem.sigma_xi * numbers[:, d_z : d_z + p]
        constant = jnp.ones((size, 1))
        w = jnp.concatenate([constant, xi @ problem.teacher_map], axis=1)
        psi = jnp.concatenate([constant, xi @ problem.student_map], axis=1)
        return numbers[:, :d_z], w, psi, problem.sigma_y * numbers[:, d_z + p + 1 :]

    return _Samples(*jax.vmap(one)(keys))


def _product(features: Float[Array, "d n p"], z: Float[Array, "d n d_z"]) -> Float[Array, "m k"]:
    """Rows of features (x) z of all draws, one draw below the other ``[d n, p d_z]``."""
    product = features[..., :, None] * z[..., None, :]
    return product.reshape(-1, features.shape[-1] * z.shape[-1])


@jax.jit
def _labelled(
    problem: GaussianProblem, keys: Array, eta: Array, beta: Array
) -> tuple[Array, Array]:
    """The teacher's features of labelled samples and their labels ``[d, n, k]``."""
    z, w, _, noise = _samples(problem, keys, eta, problem.n_labelled, beta.shape[-1])
    return _product(w, z), z @ beta + noise


@jax.jit
def _unlabelled(
    problem: GaussianProblem, keys: Array, eta: Array, theta: Float[Array, "d p_T d_z k"]
) -> tuple[Array, Array]:
    """The student's features of unlabelled samples and the teacher's predictions ``[d, n, k]``."""
    z, w, psi, _ = _samples(problem, keys, eta, problem.n_unlabelled, 0)
    return _product(psi, z), jnp.einsum("dnp,dnz,dpzk->dnk", w, z, theta)


def _fit(x: Array, targets: Array, l2: float, p: int) -> Float[Array, "d p d_z k"]:
    """One ridge head a draw: the draws' rows lie below each other in one matrix."""
    num_draws, size, k = targets.shape
    rows = np.arange(num_draws * size).reshape(num_draws, size)
    options = {"rows": rows, "l2": l2, "fit_intercept": False}
    return fit_ridge(x, np.asarray(targets), **options).w.reshape(num_draws, p, -1, k)


@functools.partial(jax.jit, static_argnames="side")
def _risks(
    problem: GaussianProblem, theta: Array, beta: Array, eta_t: Array, side: str
) -> Float[Array, "d t"]:
    """Excess risk of each draw exactly: mean over k of tr(A(eta_t) D D'), D = theta - e_1 beta'."""
    error = theta.at[:, 0].add(-beta)
    moments = jnp.einsum("dpzk,dqzk->dpq", error, error) / error.shape[-1]
    mu = getattr(problem, side)
    tests = jax.vmap(lambda eta: second_moment(eta, mu, problem.sigma_xi))(eta_t)
    return jnp.einsum("dpq,tpq->dt", moments, tests)


def _batch(problem: GaussianProblem, num_draws: int, k: int, budget: int) -> int:
    """Draws that fit the budget together: features, their copies on the host and in the fit."""
    labelled = problem.n_labelled * ((problem.p_T + 1) * problem.d_z + k)
    unlabelled = problem.n_unlabelled * ((problem.p_S + 1) * problem.d_z + k)
    one = 8 * 4 * max(labelled, unlabelled)
    return max(1, min(num_draws, budget // one))


def simulate(
    problem: GaussianProblem,
    eta_l: float,
    eta_u: float,
    eta_t: ArrayLike,
    *,
    num_draws: int,
    labels_per_draw: int = 1,
    seed: int = 0,
    teacher_l2: float = 0.0,
    student_l2: float = 0.0,
    beta_norm: float = 1.0,
    memory_budget: int = MEMORY_BUDGET,
) -> Simulation:
    """Excess risks over draws of data: both heads fitted, then tested in closed form.

    Groups are drawn one by one with probability eta, the true coefficients with random direction.
    Every draw depends on the seed and its number alone, not on how many are computed together.
    Both heads are `w2s_jax.fit_ridge` in float64 without intercept, one head a draw; without
    penalty the solution of least norm, which exists at any ratio. Most of a risk's variance comes
    from the labels: several for the same features, at hardly any cost, need far fewer draws.

    Args:
      problem: the problem; all its sizes are used.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      eta_t: of the test data, a number or an array.
      num_draws: of features, at least 2.
      labels_per_draw: times that coefficients and label noise are drawn for the features of a draw;
        its risk is the mean.
      seed: of the data.
      teacher_l2: penalty of (1/n) sum (y - f)^2 + l2 |theta|^2.
      student_l2: the same of the student.
      beta_norm: length of the true coefficients; matters with penalties only.
      memory_budget: bytes that draws computed together may take; one draw is never split.

    Returns:
      `Simulation`.

    Raises:
      TheoryError: for values out of range.

    >>> problem = GaussianProblem(30, 300, 900, [2.0], [[1.0]])  # a student without group feature
    >>> found = simulate(problem, 0.1, 0.5, [0.0, 1.0], num_draws=20)
    >>> found.gain.shape, bool((found.gain > 0).all())
    ((2,), True)
    """
    for name, count, least in (
        ("num_draws", num_draws, 2),
        ("labels_per_draw", labels_per_draw, 1),
    ):
        checked_count(name, count, least)
    settings = {"eta_l": eta_l, "eta_u": eta_u, "teacher_l2": teacher_l2, "student_l2": student_l2}
    for name, value in {**settings, "beta_norm": beta_norm}.items():
        if np.ndim(value):
            raise TheoryError(f"{name} must be one number here, found shape {np.shape(value)}")
    check_settings(eta_t=eta_t, beta_norm=beta_norm, **settings)
    num_draws, k = int(num_draws), int(labels_per_draw)
    size = _batch(problem, num_draws, k, memory_budget)
    size = math.ceil(num_draws / math.ceil(num_draws / size))  # batches alike: one program each
    shape = np.shape(eta_t)
    teachers, students = [], []
    with jax.enable_x64(True):
        test = jnp.asarray(eta_t, jnp.float64).reshape(-1)
        root = jax.random.key(seed)
        for start in range(0, num_draws, size):
            numbers = jnp.asarray(np.arange(start, start + size))
            keys, beta = _draws(root, numbers, jnp.float64(beta_norm), d_z=problem.d_z, k=k)
            x, y = _labelled(problem, keys[:, 0], jnp.float64(eta_l), beta)
            theta = _fit(x, y, teacher_l2, problem.p_T)
            teachers.append(np.asarray(_risks(problem, theta, beta, test, "mu_T")))
            x, y = _unlabelled(problem, keys[:, 1], jnp.float64(eta_u), theta)
            theta = _fit(x, y, student_l2, problem.p_S)
            students.append(np.asarray(_risks(problem, theta, beta, test, "mu_S")))
    teacher, student = (
        np.concatenate(own)[:num_draws].reshape(num_draws, *shape) for own in (teachers, students)
    )
    draws = (teacher, student, teacher - student)
    means = [np.asarray(own.mean(axis=0)) for own in draws]
    errors = [np.asarray(own.std(axis=0, ddof=1)) / math.sqrt(num_draws) for own in draws]
    return Simulation(*means, *errors, teacher_draws=teacher, student_draws=student)
