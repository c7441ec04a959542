import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.theory.problems import random_problem
from w2s_jax.theory import GaussianProblem, TheoryError, risks, simulate, simulation
from w2s_jax.theory.simulation import _batch, _draws, _labelled, _risks, _unlabelled

ETA_T = np.array([0.0, 1.0])
# Draws of each d_z; the labels of a draw cost next to nothing, and draws little beside compilation.
NUM_DRAWS = {32: 700, 64: 280}
LABELS = 16


class Case(NamedTuple):
    """A problem at both ratios; similarity None: maps in general position."""

    p_T: int
    p_S: int
    similarity: float | None
    mu: tuple[float, float]  # seen by teacher and student, in units of sigma_xi
    p_T_gamma: float
    p_S_nu: float
    eta_l: float
    eta_u: float
    teacher_l2: float = 0.0
    student_l2: float = 0.0

    def problem(self, d_z):
        if self.similarity is None:
            problem = random_problem(
                self.p_T + 10 * self.p_S, self.p_T, self.p_S, separation=self.mu[0], d_z=d_z
            )
        else:
            problem = GaussianProblem.from_similarity(
                self.p_T, self.p_S, self.similarity, *self.mu, d_z=d_z, n_labelled=1, n_unlabelled=1
            )
        return problem.replace(
            n_labelled=round(d_z * self.p_T / self.p_T_gamma),
            n_unlabelled=round(d_z * self.p_S / self.p_S_nu),
        )


SMALL = [
    Case(2, 2, 0.64, (2.0, 4.0), 0.4, 0.25, 0.05, 0.5),
    Case(2, 3, None, (2.0, 2.0), 2.0, 1.5, 0.1, 0.5, 0.1, 0.2),
]
LARGE = [
    Case(3, 1, 0.0, (3.0, 0.0), 0.5, 0.3, 0.1, 0.6),
    Case(1, 3, 0.0, (0.0, 2.0), 0.5, 0.75, 0.3, 0.9),
    Case(4, 4, 1.0, (3.0, 2.0), 0.8, 0.8, 0.1, 0.4),
    Case(3, 3, 0.0, (2.0, 3.0), 0.05, 0.3, 0.0, 1.0),
    Case(3, 3, 2.0, (3.0, 3.0), 0.5, 0.75, 0.02, 0.5),
    Case(3, 2, None, (3.0, 3.0), 0.6, 0.05, 1.0, 0.0),
    Case(6, 2, 0.3, (1.0, 4.0), 0.6, 0.4, 0.05, 0.95),
    Case(2, 6, 0.7, (3.0, 1.0), 0.2, 0.75, 0.1, 0.1),
    Case(5, 6, None, (4.0, 4.0), 0.5, 0.3, 0.5, 0.05),
    Case(3, 2, 0.8, (2.0, 3.0), 0.6, 0.4, 0.1, 0.5, 0.05, 0.02),
    Case(3, 4, None, (3.0, 3.0), 0.8, 0.8, 0.05, 0.6, 0.3, 0.0),
]


@functools.cache
def distances(case):
    """Simulation less proportional form in standard errors, and these relative to the form.

    The difference falls like 1 / d_z; extrapolation over a doubling of d_z takes it away but for
    1 / d_z^2.
    """
    settings = (case.eta_l, case.eta_u, ETA_T)
    options = {"teacher_l2": case.teacher_l2, "student_l2": case.student_l2, "beta_norm": 1.5}
    exact = risks(case.problem(32), *settings, **options)
    truth = np.concatenate([exact.teacher, exact.student])
    options |= {"labels_per_draw": LABELS}
    found = [
        simulate(case.problem(d_z), *settings, num_draws=count, seed=d_z, **options)
        for d_z, count in NUM_DRAWS.items()
    ]
    half, whole = (np.concatenate([one.teacher, one.student]) for one in found)
    errors = [np.concatenate([one.teacher_error, one.student_error]) for one in found]
    error = np.sqrt(4 * errors[1] ** 2 + errors[0] ** 2)
    return (2 * whole - half - truth) / error, error / truth


@pytest.mark.parametrize(
    "case", [*SMALL, *(pytest.param(case, marks=pytest.mark.slow) for case in LARGE)]
)
def test_proportional_form_is_what_simulation_finds(case):
    z, error = distances(case)
    assert np.all(error < 0.02)
    assert np.all(np.abs(z) < 3.5)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_no_bias_in_the_mean_over_problems():
    """Each problem's four risks share their draws, so only problems count as independent."""
    found = [distances(case) for case in SMALL + LARGE]
    z = np.array([z.mean() for z, _ in found])
    assert np.sqrt(np.mean(z**2)) < 1.6
    assert abs(z.sum()) < 3 * math.sqrt(len(z))
    weights = np.array([1 / error.mean() for _, error in found])
    relative = np.array([(z * error).mean() for z, error in found])
    assert abs(np.average(relative, weights=weights**2)) < 0.01


def test_published_and_mixture_forms_are_far_from_it_at_such_ratios():
    """The comparison above can tell forms apart."""
    case = SMALL[0]
    exact = risks(case.problem(64), case.eta_l, case.eta_u, ETA_T)
    for form in ("mixture", "published"):
        other = risks(case.problem(64), case.eta_l, case.eta_u, ETA_T, form=form)
        assert np.all(np.abs(other.student / exact.student - 1) > 0.2)


def test_many_labels_need_no_extrapolation():
    """At p_T gamma = 0.05 what d_z = 100 leaves is far below the standard error."""
    problem = random_problem(5, 2, 2, p_T_gamma=0.05, p_S_nu=0.05, d_z=100)
    found = simulate(problem, 0.1, 0.5, ETA_T, num_draws=20, labels_per_draw=LABELS)
    exact = risks(problem, 0.1, 0.5, ETA_T)
    allowance = 0.5 / problem.d_z
    for value, error, truth in (
        (found.teacher, found.teacher_error, exact.teacher),
        (found.student, found.student_error, exact.student),
    ):
        assert np.all(error < 0.02 * value)
        assert np.all(np.abs(value - truth) < 3.5 * error + allowance * truth)


@pytest.mark.parametrize(("l2", "k"), [(0.0, 1), (0.3, 2)])
def test_a_draw_against_least_squares_and_a_large_test_set(l2, k):
    problem = random_problem(1, 3, 2, p_T_gamma=0.5, p_S_nu=0.4, d_z=24)
    options = {"teacher_l2": l2, "student_l2": l2, "beta_norm": 2.0, "labels_per_draw": k}
    found = simulate(problem, 0.3, 0.6, 0.8, num_draws=2, seed=3, **options)
    with jax.enable_x64(True):
        keys, betas = _draws(jax.random.key(3), jnp.arange(2), jnp.float64(2), d_z=24, k=k)
        keys, own = keys[1], betas[1:]
        x, y = (np.asarray(v) for v in _labelled(problem, keys[:1], jnp.float64(0.3), own))
        theta = fit(x, y[0], l2)
        teacher = jnp.asarray(theta.reshape(1, problem.p_T, 24, k))
        x, y = _unlabelled(problem, keys[1:], jnp.float64(0.6), teacher)
        theta_S = fit(np.asarray(x), np.asarray(y)[0], l2)
        beta = np.asarray(own[0])
    np.testing.assert_allclose(np.linalg.norm(beta, axis=0), 2)
    rng = np.random.default_rng(0)
    m = 200_000
    z, g = rng.normal(size=(m, 24)), rng.random((m, 1)) < 0.8
    xi = g * problem.mu_xi + problem.sigma_xi * rng.normal(size=(m, 3))
    for own, coefficients, draws in (
        (problem.teacher_map, theta, found.teacher_draws),
        (problem.student_map, theta_S, found.student_draws),
    ):
        features = np.hstack([np.ones((m, 1)), xi @ own])
        prediction = np.einsum("mp,mz,pzk->mk", features, z, coefficients.reshape(-1, 24, k))
        errors = np.mean((prediction - z @ beta) ** 2, axis=1)
        assert abs(errors.mean() - draws[1]) < 4 * errors.std() / math.sqrt(m)


def test_labels_of_one_draw_differ_and_leave_the_mean_as_it_is():
    problem = random_problem(1, 3, 2, p_T_gamma=0.5, p_S_nu=0.4, d_z=24)
    one, many = (
        simulate(problem, 0.3, 0.6, 0.5, num_draws=60, labels_per_draw=k, seed=k) for k in (1, 16)
    )
    assert many.teacher_error < 0.6 * one.teacher_error
    assert many.student_error < 0.8 * one.student_error
    assert abs(many.student - one.student) < 3.5 * np.hypot(many.student_error, one.student_error)


def fit(x, y, l2):
    if l2 == 0:
        return np.linalg.lstsq(x, y, rcond=None)[0]
    return np.linalg.solve(x.T @ x / len(x) + l2 * np.eye(x.shape[1]), x.T @ y / len(x))


def test_draws_do_not_depend_on_how_many_fit_into_memory():
    problem = random_problem(1, 2, 3, d_z=30)
    whole = simulate(problem, 0.1, 0.5, ETA_T, num_draws=7, seed=5)
    parts = simulate(problem, 0.1, 0.5, ETA_T, num_draws=7, seed=5, memory_budget=1)
    assert _batch(problem, 7, 1, 1) == 1
    np.testing.assert_allclose(parts.student_draws, whole.student_draws, rtol=1e-9)
    fewer = simulate(problem, 0.1, 0.5, ETA_T, num_draws=3, seed=5)
    np.testing.assert_allclose(fewer.student_draws, whole.student_draws[:3], rtol=1e-9)
    other = simulate(problem, 0.1, 0.5, ETA_T, num_draws=7, seed=6)
    assert np.all(other.student_draws != whole.student_draws)


def test_batches_stay_within_the_memory_budget(monkeypatch):
    problem = random_problem(1, 2, 3, d_z=30)
    rows = problem.n_unlabelled
    sizes = []
    fit_ridge = simulation.fit_ridge

    def watched(x, targets, **options):
        assert options["fit_intercept"] is False
        sizes.append(4 * x.size * 8)
        return fit_ridge(x, targets, **options)

    monkeypatch.setattr(simulation, "fit_ridge", watched)
    budget = 3 * 8 * 4 * (30 * 4 + 1) * rows
    simulate(problem, 0.1, 0.5, 0.5, num_draws=12, memory_budget=budget)
    assert len(sizes) == 8
    assert max(sizes) <= budget


def test_means_and_standard_errors_are_those_of_the_draws():
    found = simulate(random_problem(1, 2, 3, d_z=30), 0.1, 0.5, [[0.0, 0.5, 1.0]], num_draws=9)
    assert found.student.shape == (1, 3)
    gains = found.teacher_draws - found.student_draws
    np.testing.assert_allclose(found.gain, gains.mean(axis=0))
    np.testing.assert_allclose(found.gain_error, gains.std(axis=0, ddof=1) / 3)
    np.testing.assert_allclose(found.teacher_error, found.teacher_draws.std(axis=0, ddof=1) / 3)
    # Risks are affine in eta_t, draw by draw.
    middle = found.student_draws[:, 0].mean(axis=1)
    np.testing.assert_allclose(found.student_draws[:, 0, 1], middle, rtol=1e-10)


def test_risks_of_exact_coefficients_are_zero():
    problem = random_problem(1, 3, 2, d_z=5)
    with jax.enable_x64(True):
        beta = jnp.ones((1, 5, 3))
        theta = jnp.concatenate([beta[:, None], jnp.zeros((1, 2, 5, 3))], axis=1)
        found = _risks(problem, theta, beta, jnp.asarray(ETA_T), "mu_T")
    np.testing.assert_array_equal(np.asarray(found), 0)


@pytest.mark.slow
def test_core_features_of_2048_dimensions():
    """The size of the published synthetic experiments: two draws are close to the limit."""
    problem = random_problem(5, 2, 2, p_T_gamma=0.5, p_S_nu=0.4, d_z=2048)
    found = simulate(problem, 0.1, 0.5, ETA_T, num_draws=2, labels_per_draw=64)
    exact = risks(problem, 0.1, 0.5, ETA_T)
    np.testing.assert_allclose(found.teacher, exact.teacher, rtol=0.02)
    np.testing.assert_allclose(found.student, exact.student, rtol=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_draws": 1}, "num_draws must be a whole number from 2 on, found 1"),
        ({"labels_per_draw": 0}, "labels_per_draw must be a whole number from 1 on, found 0"),
        ({"eta_u": 1.2}, "eta_u must be from 0 to 1, found 1.2"),
        ({"student_l2": -0.1}, "student_l2 must be finite and at least 0"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    values = {"eta_l": 0.1, "eta_u": 0.4, "eta_t": 0.5, "num_draws": 3} | settings
    with pytest.raises(TheoryError, match=message):
        simulate(random_problem(1, 2, 2, d_z=10), **values)
