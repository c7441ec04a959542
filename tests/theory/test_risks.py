import warnings

import jax
import numpy as np
import pytest

from tests.theory.problems import random_problem
from tests.theory.reference import Reference
from w2s_jax.theory import GaussianProblem, TheoryError, mixture_parts, risks
from w2s_jax.theory.integration import gaussian_points
from w2s_jax.theory.mixture import inverse_second_moment, mixture_moments, second_moment
from w2s_jax.theory.proportional import proportional_moments

SIZES = [(1, 1), (1, 3), (3, 1), (2, 2), (4, 3), (6, 5)]
ETAS = np.linspace(0, 1, 5)


@pytest.mark.parametrize("p_T_gamma", [0.05, 0.8])
@pytest.mark.parametrize(("p_T", "p_S"), [(2, 2), (3, 1), (1, 3), (2, 3)])
def test_proportional_form_against_its_equations_step_by_step(p_T, p_S, p_T_gamma):
    problem = random_problem(p_T + 10 * p_S, p_T, p_S, p_T_gamma=p_T_gamma, p_S_nu=0.5)
    slow = Reference(problem, num_nodes=100 if p_T + p_S < 5 else 28)
    fine = {"num_points": 2**15}  # so that the rule's error hides nothing
    expected = slow.without_penalty(0.1, 0.4, 0.7)
    found = risks(problem, 0.1, 0.4, 0.7, **fine)
    np.testing.assert_allclose([found.teacher, found.student], expected, rtol=3e-4)
    settings = {"teacher_l2": 0.05, "student_l2": 0.02, "beta_norm": 1.3}
    expected = slow.with_penalty(0.1, 0.4, 0.7, *settings.values())
    found = risks(problem, 0.1, 0.4, 0.7, **settings, **fine)
    np.testing.assert_allclose([found.teacher, found.student], expected, rtol=3e-4)


def test_integration_error_covers_the_distance_to_a_finer_rule():
    problem = random_problem(5, 4, 3, p_T_gamma=0.6, p_S_nu=0.6)
    fine = risks(problem, 0.1, 0.4, 1.0, num_points=2**14)
    default = risks(problem, 0.1, 0.4, 1.0)
    for rule in (risks(problem, 0.1, 0.4, 1.0, num_points=2**9), default):
        assert abs(rule.teacher - fine.teacher) < 4 * rule.teacher_error
        assert abs(rule.student - fine.student) < 4 * rule.student_error
        assert fine.student_error < rule.student_error / 2
    assert default.teacher_error < 1e-3 * default.teacher
    assert default.student_error < 1e-3 * default.student


def test_penalties_that_vanish_change_nothing():
    problem = random_problem(3, 4, 3, p_T_gamma=0.6, p_S_nu=0.4)
    none = risks(problem, 0.1, 0.3, ETAS, beta_norm=5.0)
    # beta must not matter without penalty, and the bias of a small one is quadratic in it.
    np.testing.assert_array_equal(none.student, risks(problem, 0.1, 0.3, ETAS).student)
    small = risks(problem, 0.1, 0.3, ETAS, teacher_l2=1e-9, student_l2=1e-9)
    np.testing.assert_allclose(small.teacher, none.teacher, rtol=1e-7)
    np.testing.assert_allclose(small.student, none.student, rtol=1e-7)
    larger = risks(problem, 0.1, 0.3, ETAS, teacher_l2=1e-2, student_l2=1e-2)
    assert np.all(np.abs(larger.student / none.student - 1) > 1e-3)


@pytest.mark.parametrize(("p_T", "p_S"), [(1, 3), (3, 1), (4, 3)])
def test_mixture_is_the_limit_of_the_proportional_form(p_T, p_S):
    gaps = []
    for ratio in (1e-3, 5e-4):
        problem = random_problem(p_T, p_T, p_S, p_T_gamma=p_T * ratio, p_S_nu=p_S * ratio)
        exact = risks(problem, 0.2, 0.6, ETAS, num_points=256)
        limit = risks(problem, 0.2, 0.6, ETAS, form="mixture")
        np.testing.assert_allclose(exact.teacher, limit.teacher, rtol=60 * ratio)
        np.testing.assert_allclose(exact.student, limit.student, rtol=200 * ratio)
        gaps.append([exact.teacher / limit.teacher - 1, exact.student / limit.student - 1])
    np.testing.assert_allclose(gaps[1], np.array(gaps[0]) / 2, rtol=0.06)  # of first order


@pytest.mark.parametrize(("p_T", "p_S"), SIZES)
@pytest.mark.parametrize(("eta_l", "eta_u", "eta_t"), [(0.1, 0.5, 0.9), (0.0, 1.0, 0.3)])
def test_published_is_the_mixture_without_variance_between_groups(p_T, p_S, eta_l, eta_u, eta_t):
    problem = random_problem(p_S, p_T, p_S)
    found = risks(problem, eta_l, eta_u, eta_t, form="published")
    with jax.enable_x64(True):
        own = problem.reduced()
        teacher, student = mixture_moments(own, eta_l, eta_u, between_groups=0.0)
        for moment, mu, value in (
            (teacher, own.mu_T, found.teacher),
            (student, own.mu_S, found.student),
        ):
            test = second_moment(eta_t, mu, own.sigma_xi, between_groups=0.0)
            np.testing.assert_allclose(np.sum(np.asarray(test * moment)), value, rtol=1e-10)


@pytest.mark.parametrize(("p_T", "p_S"), SIZES)
@pytest.mark.parametrize(("eta_l", "eta_u", "eta_t"), [(0.1, 0.5, 0.9), (0.0, 1.0, 0.3)])
def test_parts_of_the_closed_form_add_up_to_the_mixture(p_T, p_S, eta_l, eta_u, eta_t):
    problem = random_problem(p_T + p_S, p_T, p_S)
    found = risks(problem, eta_l, eta_u, eta_t, form="mixture")
    with jax.enable_x64(True):
        parts = jax.tree.map(float, mixture_parts(problem.reduced(), eta_l, eta_u, eta_t))
    scale = problem.sigma_y**2 * problem.gamma
    teacher = parts.constant + parts.teacher_shift + parts.teacher_spread
    student = parts.constant + parts.student_shift + parts.student_spread
    np.testing.assert_allclose(scale * teacher, found.teacher, rtol=1e-10)
    np.testing.assert_allclose(scale * student, found.student, rtol=1e-10)


@pytest.mark.parametrize("between_groups", [0.0, 1.0])
def test_inverse_of_the_second_moment(between_groups):
    problem = random_problem(1, 4, 1)
    with jax.enable_x64(True):
        mu, sigma_xi = jax.numpy.asarray(problem.mu_T), problem.sigma_xi
        moment = second_moment(0.3, mu, sigma_xi, between_groups)
        inverse = inverse_second_moment(0.3, mu, sigma_xi, between_groups)
    np.testing.assert_allclose(np.asarray(inverse), np.linalg.inv(moment), rtol=1e-10, atol=1e-12)


def test_closed_form_drops_the_variance_between_groups_as_the_published_one_does():
    """At pure groups nothing lies between them, and all three agree."""
    problem = random_problem(0, 4, 3)
    mixture = risks(problem, 1.0, 0.0, [0.0, 1.0], form="mixture")
    published = risks(problem, 1.0, 0.0, [0.0, 1.0], form="published")
    np.testing.assert_allclose(mixture.teacher, published.teacher, rtol=1e-10)
    np.testing.assert_allclose(mixture.student, published.student, rtol=1e-10)


@pytest.mark.parametrize("eta_l", [0.0, 0.3])
@pytest.mark.parametrize("p_S", [1, 4])
def test_a_teacher_without_group_features_is_copied(eta_l, p_S):
    problem = random_problem(1, 1, p_S, p_T_gamma=0.7, p_S_nu=0.6)
    found = risks(problem, eta_l, [0.2, 1.0], ETAS[:, None], num_points=64)
    expected = problem.sigma_y**2 * problem.gamma / (1 - problem.gamma)
    np.testing.assert_allclose(found.teacher, expected, rtol=1e-10)
    np.testing.assert_allclose(found.student, expected, rtol=1e-10)


@pytest.mark.parametrize(("p_T", "p_S"), [(3, 3), (3, 5)])
def test_a_student_that_sees_all_the_teacher_sees_copies_it(p_T, p_S):
    rng = np.random.default_rng(2)
    S = np.linalg.qr(rng.normal(size=(6, p_S - 1)))[0]
    T = S @ np.linalg.qr(rng.normal(size=(p_S - 1, p_T - 1)))[0]
    problem = GaussianProblem(90, 900, 1000, 2 * rng.normal(size=6), T, S)
    found = risks(problem, 0.1, 0.6, ETAS, num_points=256)
    np.testing.assert_allclose(found.student, found.teacher, rtol=1e-9)


@pytest.mark.parametrize("p_T", [1, 2, 4])
def test_a_student_without_group_features_in_closed_form(p_T):
    problem = random_problem(p_T, p_T, 1, p_T_gamma=0.6, p_S_nu=0.5)
    found = risks(problem, 0.1, 0.6, ETAS, num_points=512)
    with jax.enable_x64(True):
        one = jax.numpy.ones(1)
        zero = jax.numpy.zeros(1)
        points = [jax.numpy.asarray(gaussian_points(k, 512)) for k in (p_T - 1, 0)]
        settings = (0.1 * one, 0.6 * one, zero, zero, one)
        moments = proportional_moments(problem.reduced(), *settings, *points)
        V = np.asarray(moments.teacher[0]).mean(axis=0)  # sigma_y^2 gamma M_T^{-1}
    nu, mu = problem.nu, problem.mu_T
    b = np.concatenate([[1.0], 0.6 * mu])
    group = problem.sigma_xi**2 * np.eye(p_T - 1) + 0.6 * 0.4 * np.outer(mu, mu)
    expected = b @ V @ b + nu / (1 - nu) * np.trace(V[1:, 1:] @ group)
    np.testing.assert_allclose(found.student, expected, rtol=1e-10)


@pytest.mark.parametrize("form", ["proportional", "mixture"])
def test_risks_are_affine_in_eta_t_but_for_the_published_form(form):
    problem = random_problem(6, 4, 3, p_T_gamma=0.5, p_S_nu=0.5)
    settings = {} if form != "proportional" else {"teacher_l2": 0.1, "student_l2": 0.2}
    found = risks(problem, 0.1, 0.6, ETAS, form=form, **settings)
    for values in (found.teacher, found.student):
        np.testing.assert_allclose(values, values[0] + ETAS * (values[-1] - values[0]), rtol=1e-12)
    published = risks(problem, 0.1, 0.6, ETAS, form="published")
    assert abs(np.diff(published.student, 2)[0]) > 1e-3 * published.student[0]


@pytest.mark.parametrize(("p_T", "p_S"), [(2, 2), (4, 3)])
@pytest.mark.parametrize("p_T_gamma", [0.05, 0.7])
def test_no_loss_at_the_test_fraction_with_endless_pseudolabels(p_T, p_S, p_T_gamma):
    for seed in range(3):
        problem = random_problem(seed, p_T, p_S, p_T_gamma=p_T_gamma, separation=4.0)
        problem = problem.replace(n_unlabelled=10**12)
        for form in ("mixture", "proportional"):
            found = risks(problem, ETAS[:, None], ETAS, ETAS, form=form, num_points=256)
            assert np.all(found.gain >= -1e-6 * found.teacher)


def test_no_loss_at_any_test_fraction_when_both_sets_are_balanced():
    for seed in range(5):
        problem = random_problem(seed, 3, 4, separation=5.0).replace(n_unlabelled=10**12)
        assert np.all(risks(problem, 0.5, 0.5, ETAS, form="mixture").gain >= 0)


def test_settings_broadcast_and_equal_one_call_each():
    problem = random_problem(1, 3, 2)
    eta_u, eta_t, l2 = np.array([0.1, 0.5, 0.9]), np.array([[0.2], [0.7]]), 0.1
    found = risks(problem, 0.3, eta_u, eta_t, student_l2=l2, num_points=256)
    assert found.student.shape == found.student_iterations.shape == (2, 3)
    assert found.student.dtype == np.float64
    for i, j in np.ndindex(2, 3):
        one = risks(problem, 0.3, eta_u[j], eta_t[i, 0], student_l2=l2, num_points=256)
        np.testing.assert_allclose(one.teacher, found.teacher[i, j], rtol=1e-12)
        np.testing.assert_allclose(one.student, found.student[i, j], rtol=1e-12)


@pytest.mark.parametrize("form", ["proportional", "mixture", "published"])
def test_vmap_and_jit_over_settings_and_problems(form):
    problems = [random_problem(seed, 3, 2) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *v: np.stack(v), *problems)

    def gain(problem, eta_u):
        return risks(problem, 0.1, eta_u, 0.5, form=form, num_points=256).gain

    with jax.enable_x64(True):
        both = jax.jit(jax.vmap(gain))(stacked, np.array([0.25, 0.75]))
    assert both.dtype == np.float64
    for problem, eta_u, value in zip(problems, (0.25, 0.75), both, strict=True):
        np.testing.assert_allclose(value, gain(problem, eta_u), rtol=1e-10)


def test_float64_whatever_the_caller_computes_in():
    problem = random_problem(1, 3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = risks(problem, 0.1, 0.5, 0.5, num_points=256)
        mapped = jax.vmap(lambda eta: risks(problem, 0.1, eta, 0.5, num_points=256).student)
        mapped = np.asarray(mapped(np.array([0.5])))
    assert found.student.dtype == mapped.dtype == np.float64
    np.testing.assert_allclose(mapped, found.student, rtol=1e-12)


def test_other_settings_and_sizes_compile_nothing():
    first, other = (random_problem(seed, 3, 2, p_T_gamma=0.1 * seed) for seed in (1, 2))
    risks(first, 0.1, [0.2, 0.3], 0.5, num_points=256)
    before = proportional_moments._cache_size()
    risks(other, 0.4, [0.7, 0.9], [0.1, 1.0], teacher_l2=0.3, student_l2=0.1, num_points=256)
    assert proportional_moments._cache_size() == before


def test_iterations_stay_few_near_the_limit_of_solutions():
    far, near = (random_problem(3, 4, 4, p_T_gamma=r, p_S_nu=r) for r in (0.05, 0.999))
    far, near = (risks(p, 0.1, 0.4, 0.5, num_points=256) for p in (far, near))
    assert 1 < far.teacher_iterations < 6
    assert far.teacher_iterations < near.teacher_iterations < 30
    assert np.isfinite(near.student)


def test_no_solution_without_penalty_beyond_as_many_features_as_samples():
    problem = random_problem(1, 3, 2, p_T_gamma=2.0, p_S_nu=1.5)
    with pytest.raises(TheoryError, match=r"the teacher has .* p_T d_z / n_labelled = 2; take"):
        risks(problem, 0.1, 0.4, 0.5)
    with pytest.raises(TheoryError, match="the student has as many features as samples"):
        risks(problem, 0.1, 0.4, 0.5, teacher_l2=0.1, student_l2=[0.1, 0.0])
    found = risks(problem, 0.1, 0.4, 0.5, teacher_l2=0.1, student_l2=0.2)
    assert np.isfinite(found.student)
    traced = jax.vmap(lambda l2: risks(problem, 0.1, 0.4, 0.5, teacher_l2=l2, student_l2=l2))
    np.testing.assert_array_equal(np.isnan(traced(np.array([0.0, 0.1])).student), [True, False])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "exact"}, "unknown form 'exact'; known: proportional, mixture, published"),
        ({"eta_l": -0.1}, "eta_l must be from 0 to 1, found -0.1"),
        ({"eta_u": [0.5, 1.5]}, "eta_u must be from 0 to 1, found 1.5"),
        ({"eta_t": float("nan")}, "eta_t must be from 0 to 1, found nan"),
        ({"teacher_l2": -1.0}, "teacher_l2 must be finite and at least 0, found -1"),
        ({"beta_norm": float("inf")}, "beta_norm must be finite"),
        ({"form": "mixture", "student_l2": 0.1}, "the mixture form has no penalties"),
        ({"num_points": 100}, "powers of two from 2 on, found 100 and 4"),
        ({"eta_l": "a"}, "eta_l must be numbers, found 'a'"),
        ({"eta_l": [0.1, 0.2], "eta_u": [0.1] * 3}, "do not broadcast"),
        ({"eta_u": []}, "no settings: fractions and penalties have the common shape"),
        ({"num_blocks": 1}, "powers of two from 2 on, found 4096 and 1"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    values = {"eta_l": 0.1, "eta_u": 0.4, "eta_t": 0.5} | settings
    with pytest.raises(TheoryError, match=message):
        risks(random_problem(1, 2, 2), **values)
