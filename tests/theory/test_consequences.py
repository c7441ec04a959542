import numpy as np
import pytest

from tests.theory.problems import random_problem
from w2s_jax.theory import GaussianProblem, TheoryError, best_published_eta_u, risks
from w2s_jax.theory.consequences import (
    best_eta_u,
    failure_map,
    gain_curve,
    group_risks,
    over_problems,
    penalty_effect,
    separated,
)

E1, E2 = np.eye(2)[:, :1], np.eye(2)[:, 1:]
TILTED = GaussianProblem(20, 1000, 5000, [0.0, 4.0], E1, [[0.8], [0.6]])
APART = GaussianProblem(20, 1000, 5000, [3.0, 3.0], E1, E2)
QUICK = {"num_points": 256}


def test_separated_scales_the_mean_only():
    problem = separated(random_problem(1, 3, 2), 9.0)
    np.testing.assert_allclose(problem.mu_xi @ problem.mu_xi / problem.sigma_xi**2, 9.0)
    np.testing.assert_array_equal(problem.Xi, random_problem(1, 3, 2).Xi)
    with pytest.raises(TheoryError, match="separation must be at least 0"):
        separated(problem, -1.0)
    with pytest.raises(TheoryError, match="mu_xi have a direction"):
        separated(problem.replace(mu_xi=0 * problem.mu_xi), 1.0)


def test_gain_curve_is_a_table_of_gains():
    eta_u, eta_t = np.array([0.1, 0.4, 0.8]), np.array([0.2, 0.9])
    curve = gain_curve(TILTED, 0.1, eta_u, eta_t, form="mixture")
    for i, j in np.ndindex(2, 3):
        expected = risks(TILTED, 0.1, eta_u[j], eta_t[i], form="mixture").gain
        np.testing.assert_allclose(curve[i, j], expected, rtol=1e-12)


@pytest.mark.parametrize("eta_t", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_closed_form_of_the_published_best_fraction(seed, eta_t):
    problem = random_problem(seed, 3, 3)
    grid = np.linspace(0, 1, 2001)
    by_grid = grid[np.argmin(risks(problem, 0.2, grid, eta_t, form="published").student)]
    assert abs(best_published_eta_u(problem, 0.2, eta_t) - by_grid) <= 0.0005 + 1e-9
    by_search = best_eta_u(problem, 0.2, eta_t, form="published")
    assert abs(by_search.eta_u - by_search.published_eta_u) < 1e-4
    assert by_search.gain >= by_search.published_gain - 1e-8


def test_published_best_fraction_is_undefined_where_any_is():
    problem = GaussianProblem(20, 200, 1000, [2.0, 0.0], E1, E1)
    assert np.isnan(best_published_eta_u(problem, 0.1, 0.7))
    best = best_eta_u(problem, 0.1, 0.7, form="published")
    assert np.isnan(best.published_gain)
    np.testing.assert_allclose(best.gain, 0, atol=1e-15)


def test_best_fraction_of_the_proportional_form_parts_from_the_published():
    best = best_eta_u(APART, 0.5, 0.5, **QUICK)
    assert best.published_eta_u == 0.5
    assert min(best.eta_u, 1 - best.eta_u) == pytest.approx(0.075, abs=0.03)
    assert best.gain > 1.2 * best.published_gain
    near = risks(APART, 0.5, np.clip(best.eta_u + np.array([-0.01, 0.01]), 0, 1), 0.5, **QUICK)
    assert np.all(near.student >= best.student)


def test_failure_boundary_is_where_the_gain_changes_sign():
    found = failure_map(TILTED, [4.0, 16.0, 36.0], 0.05, np.linspace(0, 1, 65), 0.9, **QUICK)
    assert found.gain.shape == (3, 65)
    for separation, lower, row in zip(found.separation, found.lower, found.gain, strict=True):
        problem = separated(TILTED, separation)
        across = risks(problem, 0.05, lower + np.array([-0.01, 0.0, 0.01]), 0.9, **QUICK)
        assert across.gain[0] < 0 < across.gain[2]
        assert abs(across.gain[1]) < 0.005 * across.teacher[1]
        assert np.all(row[found.eta_u < lower] < 0)
    assert np.all((found.upper > 0.9) & (found.upper <= 1))


def test_failure_map_says_where_every_fraction_loses():
    few = TILTED.replace(n_unlabelled=60)
    found = failure_map(few, [16.0], 0.05, np.linspace(0, 1, 9), 0.5, **QUICK)
    assert np.all(found.gain < 0)
    assert np.isnan(found.lower[0])
    assert np.isnan(found.upper[0])


def test_groups_gain_and_pay():
    found = group_risks(TILTED, 0.05, [0.05, 0.5], **QUICK)
    assert found.majority.gain[0] > 0 > found.minority.gain[0]
    assert np.all(np.array([found.majority.gain[1], found.minority.gain[1]]) > 0)
    whole = risks(TILTED, 0.05, [0.05, 0.5], 0.3, **QUICK)
    mean = 0.7 * found.majority.student + 0.3 * found.minority.student
    np.testing.assert_allclose(whole.student, mean, rtol=1e-12)


def test_penalties_are_a_table_with_a_best_one():
    problem = random_problem(2, 3, 2, p_T_gamma=0.6, p_S_nu=0.3)
    l2 = np.logspace(-4, 2, 7)
    found = penalty_effect(problem, 0.1, 0.4, 0.5, l2, l2, num_points=256)
    assert found.student.shape == (7, 7)
    np.testing.assert_allclose(found.teacher, found.teacher[:, :1] * np.ones(7), rtol=1e-12)
    for line in (found.teacher[:, 0], found.student[3]):
        assert 0 < np.argmin(line) < 6
    one = risks(problem, 0.1, 0.4, 0.5, teacher_l2=l2[2], student_l2=l2[5], num_points=256)
    np.testing.assert_allclose(found.student[2, 5], one.student, rtol=1e-12)
    # With endless penalties nothing is learned, and the risk is that of the zero function.
    huge = penalty_effect(problem, 0.1, 0.4, 0.5, [1e9], [1e9], beta_norm=2.0, num_points=256)
    np.testing.assert_allclose([huge.teacher[0, 0], huge.student[0, 0]], 4.0, rtol=1e-6)


def test_gain_falls_with_similarity_and_with_fewer_pseudolabels():
    def similar(value):
        sizes = {"d_z": 30, "n_labelled": 600, "n_unlabelled": 3000}
        return GaussianProblem.from_similarity(3, 3, value, 2.0, 2.0, **sizes)

    gains = over_problems(similar, [0.0, 1.0, 2.0], 0.1, [0.1, 0.3], 0.3, **QUICK)
    assert gains.shape == (3, 2)
    assert np.all(np.diff(gains, axis=0) < 0)
    np.testing.assert_allclose(gains[2], 0, atol=1e-9)
    fewer = over_problems(
        lambda n: similar(1.0).replace(n_unlabelled=int(n)), [3000, 300], 0.1, 0.2, 0.3, **QUICK
    )
    assert fewer[1, 0] < fewer[0, 0]
