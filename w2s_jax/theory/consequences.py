"""What the risks say: gains, best fractions, where the student fails, who gains, penalties.

Every function takes any form of `risks` by its options, and broadcasts as that does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from w2s_jax.theory.problem import GaussianProblem, TheoryError
from w2s_jax.theory.published import best_published_eta_u
from w2s_jax.theory.risks import Risks, risks


def separated(problem: GaussianProblem, separation: float) -> GaussianProblem:
    """The problem with mu_xi scaled so that |mu_xi|^2 / sigma_xi^2 = separation.

    Raises:
      TheoryError: for a negative separation, or a positive one where mu_xi = 0 has no direction.

    >>> problem = GaussianProblem(9, 99, 999, [3.0, 4.0], sigma_xi=2.0)
    >>> separated(problem, 1.0).mu_xi.round(12).tolist()
    [1.2, 1.6]
    """
    length = float(np.linalg.norm(problem.mu_xi))
    if not separation >= 0 or (separation > 0 and not length):
        raise TheoryError(
            f"separation must be at least 0, and mu_xi have a direction; found {separation} and "
            f"|mu_xi| = {length}"
        )
    scale = problem.sigma_xi * np.sqrt(separation) / length if length else 0.0
    return problem.replace(mu_xi=scale * problem.mu_xi)


def gain_curve(
    problem: GaussianProblem, eta_l: float, eta_u: ArrayLike, eta_t: ArrayLike, **options: Any
) -> np.ndarray:
    """Gains ``[t, u]``: a row for each eta_t, a column for each eta_u.

    Args:
      problem: the problem.
      eta_l: minority fraction of the labelled samples.
      eta_u: fractions of the unlabelled samples ``[u]``.
      eta_t: fractions of the test data ``[t]``.
      **options: of `risks`, such as form and penalties.
    """
    tests = np.atleast_1d(np.asarray(eta_t, np.float64))[:, None]
    return risks(problem, eta_l, np.atleast_1d(eta_u), tests, **options).gain


class BestFraction(NamedTuple):
    """An eta_u of least student risk.

    Attributes:
      eta_u: the fraction found.
      student: the student's risk there.
      gain: the gain there.
      published_eta_u: the published form's best in closed form; NaN where any is.
      published_gain: what the form asked for gives at that fraction; NaN likewise.
    """

    eta_u: float
    student: float
    gain: float
    published_eta_u: float
    published_gain: float


def best_eta_u(
    problem: GaussianProblem,
    eta_l: float,
    eta_t: float,
    *,
    num_points: int = 2**10,
    tolerance: float = 1e-4,
    **options: Any,
) -> BestFraction:
    """The eta_u of least student risk in [0, 1], beside that of the published form.

    A grid, since the risk may have several minima, refined around its best point.

    Args:
      problem: the problem.
      eta_l: minority fraction of the labelled samples.
      eta_t: of the test data.
      num_points: of the integration rule; the same in all evaluations, so that its error hardly
        moves the minimum.
      tolerance: of eta_u.
      **options: of `risks`, such as form and penalties.

    >>> problem = GaussianProblem(20, 1000, 5000, [3.0, 3.0], [[1.0], [0.0]], [[0.0], [1.0]])
    >>> best = best_eta_u(problem, eta_l=0.5, eta_t=0.5, form="mixture")
    >>> 0.05 < best.eta_u < 0.15 or 0.85 < best.eta_u < 0.95, best.published_eta_u
    (True, 0.5)
    """
    low, high, num_fractions = 0.0, 1.0, 64
    options["num_points"] = num_points
    while True:
        grid = np.linspace(low, high, num_fractions)
        found = risks(problem, eta_l, grid, eta_t, **options)
        best = int(np.argmin(found.student))
        if grid[1] - grid[0] <= tolerance:
            break
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, num_fractions - 1)]
        num_fractions = 16
    published = best_published_eta_u(problem, eta_l, eta_t)
    there = float("nan")
    if np.isfinite(published):
        there = float(risks(problem, eta_l, published, eta_t, **options).gain)
    student, gain = float(found.student[best]), float(found.gain[best])
    return BestFraction(float(grid[best]), student, gain, published, there)


class FailureMap(NamedTuple):
    """Where the student is worse than its teacher.

    Attributes:
      eta_u: fractions of the unlabelled samples ``[u]``.
      separation: |mu_xi|^2 / sigma_xi^2 ``[s]``.
      gain: at every pair, in units of the teacher's risk ``[s, u]``.
      lower: end below of the fractions without loss around the best one ``[s]``.
      upper: end above of them ``[s]``; both NaN where every fraction loses.
    """

    eta_u: np.ndarray
    separation: np.ndarray
    gain: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def failure_map(
    problem: GaussianProblem,
    separation: ArrayLike,
    eta_l: float,
    eta_u: ArrayLike,
    eta_t: float,
    **options: Any,
) -> FailureMap:
    """Gain over (eta_u, separation) and the boundary beyond which it is negative.

    Args:
      problem: the problem; its mu_xi gives the direction only.
      separation: values of |mu_xi|^2 / sigma_xi^2 ``[s]``.
      eta_l: minority fraction of the labelled samples.
      eta_u: rising fractions of the unlabelled samples ``[u]``.
      eta_t: of the test data.
      **options: of `risks`, such as form and penalties.
    """
    fractions, separations = np.asarray(eta_u, np.float64), np.asarray(separation, np.float64)
    gains = []
    for value in separations:  # one program serves all, whatever the separation
        found = risks(separated(problem, float(value)), eta_l, fractions, eta_t, **options)
        gains.append(found.gain / found.teacher)
    gain = np.stack(gains)
    ends = np.array([_positive_range(fractions, row) for row in gain])
    return FailureMap(fractions, separations, gain, ends[:, 0], ends[:, 1])


def _positive_range(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Ends of the interval around the largest y on which y >= 0, by linear interpolation."""
    best = int(np.argmax(y))
    if y[best] < 0:
        return float("nan"), float("nan")

    def end(step: int) -> float:
        place = best
        while 0 <= place + step < len(x) and y[place + step] >= 0:
            place += step
        if not 0 <= place + step < len(x):
            return float(x[place])
        share = y[place] / (y[place] - y[place + step])
        return float(x[place] + share * (x[place + step] - x[place]))

    return end(-1), end(1)


class GroupRisks(NamedTuple):
    """Risks in each group, of the common shape of the settings."""

    majority: Risks
    minority: Risks


def group_risks(
    problem: GaussianProblem, eta_l: ArrayLike, eta_u: ArrayLike, **options: Any
) -> GroupRisks:
    """Risks on majority (eta_t = 0) and minority (eta_t = 1); which gains, and which pays.

    Args:
      problem: the problem.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      **options: of `risks`, such as form and penalties.
    """
    return GroupRisks(*(risks(problem, eta_l, eta_u, eta_t, **options) for eta_t in (0.0, 1.0)))


def penalty_effect(
    problem: GaussianProblem,
    eta_l: float,
    eta_u: float,
    eta_t: float,
    teacher_l2: ArrayLike,
    student_l2: ArrayLike,
    *,
    beta_norm: float = 1.0,
    num_points: int = 2**10,
) -> Risks:
    """Risks ``[t, s]`` at every pair of penalties.

    Args:
      problem: the problem.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      eta_t: of the test data.
      teacher_l2: penalties ``[t]``.
      student_l2: penalties ``[s]``.
      beta_norm: length of the true coefficients, on which the best penalty depends.
      num_points: of the integration rule.
    """
    pairs = {"teacher_l2": np.asarray(teacher_l2)[:, None], "student_l2": np.asarray(student_l2)}
    options = {"beta_norm": beta_norm, "num_points": num_points}
    return risks(problem, eta_l, eta_u, eta_t, **pairs, **options)


def over_problems(
    make: Callable[[float], GaussianProblem],
    values: ArrayLike,
    eta_l: float,
    eta_u: ArrayLike,
    eta_t: float,
    **options: Any,
) -> np.ndarray:
    """Gains ``[v, u]`` of one problem for each value: of similarity, of nu, of anything.

    Args:
      make: the problem of a value.
      values: ``[v]``.
      eta_l: minority fraction of the labelled samples.
      eta_u: fractions of the unlabelled samples ``[u]``.
      eta_t: of the test data.
      **options: of `risks`, such as form and penalties.
    """
    curves = (
        gain_curve(make(float(value)), eta_l, eta_u, eta_t, **options)
        for value in np.atleast_1d(np.asarray(values, np.float64))
    )
    return np.concatenate(list(curves))
