"""Excess risks of teacher and student in three forms, for any arrays of fractions and penalties."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from w2s_jax.heads.buckets import padded_size
from w2s_jax.theory.integration import NUM_BLOCKS, NUM_POINTS, gaussian_points
from w2s_jax.theory.mixture import mixture_moments, second_moment
from w2s_jax.theory.problem import GaussianProblem, Reduced, TheoryError, as_numbers
from w2s_jax.theory.proportional import MAX_ITERATIONS, ErrorMoments, proportional_moments
from w2s_jax.theory.published import published_risks

FORMS = ("proportional", "mixture", "published")


class Risks(NamedTuple):
    """Excess risks over z'beta, with how they were found; all of the settings' common shape.

    NumPy arrays, or tracers where the settings are.

    Attributes:
      teacher: E[(f_T(x) - z'beta)^2] in D(eta_t).
      student: the same of the student.
      teacher_error: standard error of the integration; zero for forms without integrals.
      student_error: the same of the student.
      teacher_iterations: most Newton steps of any block; zero for forms without.
      student_iterations: the same of the student.
    """

    teacher: Float[Array | np.ndarray, "..."]
    student: Float[Array | np.ndarray, "..."]
    teacher_error: Float[Array | np.ndarray, "..."]
    student_error: Float[Array | np.ndarray, "..."]
    teacher_iterations: Int[Array | np.ndarray, "..."]
    student_iterations: Int[Array | np.ndarray, "..."]

    @property
    def gain(self) -> Any:
        """Teacher's risk less student's."""
        return self.teacher - self.student


def is_traced(*values: Any) -> bool:
    """Whether any leaf is a tracer, whose value nobody knows yet."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def check_settings(**values: ArrayLike) -> None:
    """Fractions between 0 and 1, penalties and lengths >= 0.

    Raises:
      TheoryError: naming the value that is out of its range.
    """
    for name, value in values.items():
        if is_traced(value):
            continue
        most = 1.0 if name.startswith("eta") else np.inf
        array = as_numbers(value, name)
        wrong = array[~((array >= 0) & (array <= most) & np.isfinite(array))]
        if wrong.size:
            allowed = "from 0 to 1" if most == 1 else "finite and at least 0"
            raise TheoryError(f"{name} must be {allowed}, found {wrong[0]:g}")


def _check_solvable(problem: GaussianProblem, teacher_l2: ArrayLike, student_l2: ArrayLike) -> None:
    for who, p, ratio, sizes, penalty in (
        ("teacher", problem.p_T, problem.gamma, "p_T d_z / n_labelled", teacher_l2),
        ("student", problem.p_S, problem.nu, "p_S d_z / n_unlabelled", student_l2),
    ):
        if p * ratio >= 1 and not is_traced(penalty) and not np.all(np.asarray(penalty) > 0):
            raise TheoryError(
                f"no solution without penalty: the {who} has as many features as samples or more, "
                f"{sizes} = {p * ratio:.4g}; take more samples or {who}_l2 > 0"
            )


@functools.partial(jax.jit, static_argnames="form")
def _leading(reduced: Reduced, eta_l: Array, eta_u: Array, eta_t: Array, *, form: str) -> Risks:
    """Forms without integrals."""

    def one(eta_l: Array, eta_u: Array, eta_t: Array) -> tuple[Array, Array]:
        if form == "published":
            return published_risks(reduced, eta_l, eta_u, eta_t)
        teacher, student = mixture_moments(reduced, eta_l, eta_u)
        return _risk(reduced, eta_t, teacher, "mu_T"), _risk(reduced, eta_t, student, "mu_S")

    teacher, student = jax.vmap(one)(eta_l, eta_u, eta_t)
    none, steps = jnp.zeros_like(teacher), jnp.zeros(teacher.shape, jnp.int32)
    return Risks(teacher, student, none, none, steps, steps)


def _risk(reduced: Reduced, eta_t: Array, moment: Array, side: str) -> Array:
    """tr(A(eta_t) Q)."""
    return jnp.sum(second_moment(eta_t, getattr(reduced, side), reduced.sigma_xi) * moment)


@jax.jit
def _from_moments(reduced: Reduced, eta_t: Array, moments: ErrorMoments) -> Risks:
    """Means and standard errors over blocks of points, NaN where there is no solution."""

    def one(eta_t: Array, own: ErrorMoments) -> tuple[Array, ...]:
        values = []
        for moment, side in ((own.teacher, "mu_T"), (own.student, "mu_S")):
            risks = jax.vmap(lambda q, side=side: _risk(reduced, eta_t, q, side))(moment)
            risks = jnp.where(jnp.all(own.converged), risks, jnp.nan)
            error = jnp.std(risks, ddof=1) / jnp.sqrt(len(risks))
            values.append((jnp.mean(risks), error))
        (teacher, teacher_error), (student, student_error) = values
        steps = jnp.max(own.teacher_iterations), jnp.max(own.student_iterations)
        return (teacher, student, teacher_error, student_error, *steps)

    return Risks(*jax.vmap(one)(eta_t, moments))


def risks(
    problem: GaussianProblem,
    eta_l: ArrayLike,
    eta_u: ArrayLike,
    eta_t: ArrayLike,
    *,
    form: str = "proportional",
    teacher_l2: ArrayLike = 0.0,
    student_l2: ArrayLike = 0.0,
    beta_norm: ArrayLike = 1.0,
    num_points: int = NUM_POINTS,
    num_blocks: int = NUM_BLOCKS,
) -> Risks:
    """Excess risks of a teacher and of its student, in float64.

    Fractions and penalties broadcast against each other; the function may also be traced by
    `jax.vmap` and `jax.jit`, over these and over the problem's arrays. Where values are traced,
    settings without a solution give NaN, otherwise an error. Under tracing, arguments have the
    precision that the caller gave them.

    Args:
      problem: the problem.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      eta_t: of the test data.
      form: "proportional" (exact as sizes grow at these ratios), "mixture" (leading order in
        d_z / n as nu -> 0) or "published" (the same without the variance between groups).
      teacher_l2: penalty of (1/n) sum (y - f)^2 + l2 |theta|^2; proportional form only.
      student_l2: the same of the student.
      beta_norm: length of the true coefficients, of random direction; matters with penalties only.
      num_points: points of each block of the integration rule, a power of two.
      num_blocks: their number, a power of two from 2 on.

    Returns:
      `Risks` of the common shape.

    Raises:
      TheoryError: for an unknown form, values out of range, penalties where the form knows none,
        settings without a solution, or one that was not found within `MAX_ITERATIONS` steps.

    >>> problem = GaussianProblem(100, 1000, 5000, [0.0, 4.0], [[1.0], [0.0]], [[0.8], [0.6]])
    >>> found = risks(problem, 0.1, [0.1, 0.5], 0.5)
    >>> found.gain.shape, bool(found.gain[1] > found.gain[0])
    ((2,), True)
    """
    if form not in FORMS:
        raise TheoryError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    if any(count < 2 or count & (count - 1) for count in (num_points, num_blocks)):
        raise TheoryError(
            "num_points and num_blocks must be powers of two from 2 on, found "
            f"{num_points} and {num_blocks}"
        )
    fractions = {"eta_l": eta_l, "eta_u": eta_u, "eta_t": eta_t}
    penalties = {"teacher_l2": teacher_l2, "student_l2": student_l2}
    check_settings(**fractions, **penalties, beta_norm=beta_norm)
    if form != "proportional":
        for name, value in penalties.items():
            if is_traced(value) or np.any(np.asarray(value) > 0):
                raise TheoryError(
                    f"the {form} form has no penalties; take {name}=0 or proportional"
                )
    else:
        _check_solvable(problem, teacher_l2, student_l2)
    with jax.enable_x64(True):
        reduced = problem.reduced()
        values = (*fractions.values(), *penalties.values(), beta_norm)
        try:
            shape = np.broadcast_shapes(*map(np.shape, values))
        except ValueError:
            raise TheoryError(
                "fractions and penalties do not broadcast: their shapes are "
                f"{', '.join(str(np.shape(value)) for value in values)}"
            ) from None
        if not math.prod(shape):
            raise TheoryError(f"no settings: fractions and penalties have the common shape {shape}")
        settings = _padded(values, shape)
        eta_l, eta_u, eta_t, *_ = settings
        if form == "proportional":
            sides = (problem.p_T, problem.p_S)
            points = (gaussian_points(p - 1, num_points, num_blocks) for p in sides)
            rest = (*settings[:2], *settings[3:])
            moments = proportional_moments(reduced, *rest, *map(jnp.asarray, points))
            if not is_traced(moments) and not np.all(np.asarray(moments.converged)):
                raise TheoryError(
                    f"no solution found within {MAX_ITERATIONS} steps; the numbers of features and "
                    "samples are too close to each other, take more samples or a larger penalty"
                )
            found = _from_moments(reduced, eta_t, moments)
        else:
            found = _leading(reduced, eta_l, eta_u, eta_t, form=form)
        count = math.prod(shape)
        if is_traced(found):
            return Risks(*(value[:count].reshape(shape) for value in found))
        return Risks(*(np.asarray(value)[:count].reshape(shape) for value in found))


def _padded(values: Sequence[ArrayLike], shape: tuple[int, ...]) -> list[Any]:
    """All settings as vectors of a padded length, so that few lengths are ever compiled."""
    xp = jnp if is_traced(values) else np
    count = math.prod(shape)
    places = np.arange(padded_size(count, parts=1)) % count
    whole = (xp.broadcast_to(xp.asarray(value, np.float64), shape) for value in values)
    return [value.reshape(-1)[places] for value in whole]
