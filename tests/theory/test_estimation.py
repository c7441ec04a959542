import numpy as np
import pytest
from scipy import stats

from w2s_jax.features import make_feature_set
from w2s_jax.theory import TheoryError
from w2s_jax.theory.estimation import estimate_pair, predicted_gains, rank_agreement


def planted(correlations, k_T, k_S, mu_T, mu_S, n=4000, seed=0, minority=0.3):
    """Two feature sets with k strong directions each, correlated pair by pair, turned at random."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(n, k_T))
    v = rng.normal(size=(n, k_S))
    for i, c in enumerate(correlations):
        v[:, i] = c * u[:, i] + np.sqrt(1 - c**2) * v[:, i]
    labels = rng.integers(0, 2, n)
    is_minority = rng.random(n) < minority
    u += is_minority[:, None] * np.eye(1, k_T)[0] * mu_T
    v += is_minority[:, None] * np.eye(1, k_S)[0] * mu_S
    u += 3 * labels[:, None] * np.eye(1, k_T, k_T - 1)[0]
    sets = []
    for own, k in ((u, k_T), (v, k_S)):
        d = 12
        noise = 1e-3 * rng.normal(size=(n, d))
        noise[:, :k] += own
        turned = noise @ np.linalg.qr(rng.normal(size=(d, d)))[0]
        split = np.where(np.arange(n) % 10 == 0, "test", "train")
        options = {"minority": is_minority, "split": split, "eta_o": None}
        sets.append(make_feature_set(turned, labels, **options))
    return sets


def test_planted_numbers_are_found_with_their_intervals():
    teacher, student = planted([0.9, 0.5], 5, 3, 3.0, 2.0)
    found = estimate_pair(teacher, student, spectral_mass=0.99, num_resamples=40)
    assert (found.teacher_dim.value, found.student_dim.value) == (5, 3)
    for interval, truth in (
        (found.similarity, 0.81 + 0.25),
        (found.shared, (0.81 + 0.25) / 3),
        (found.teacher_separation, 9.0),
        (found.student_separation, 4.0),
    ):
        half = (interval.high - interval.low) / 2
        assert abs(interval.value - truth) < 2 * half
        assert 0 < half < 0.1 * truth
    np.testing.assert_allclose(found.correlations[:2], [0.9, 0.5], atol=0.04)
    np.testing.assert_allclose(found.correlations[2], 0, atol=0.05)


def test_nothing_shared_and_nothing_separated_come_out_near_zero():
    """By chance alone, 10 x 10 components and 600 rows give |Xi|^2 near 0.17 and |mu|^2 0.15."""
    shared, separation = [], []
    for seed in range(8):
        teacher, student = planted([], 10, 10, 0.0, 0.0, n=600, seed=seed)
        found = estimate_pair(teacher, student, spectral_mass=0.995, num_resamples=0)
        shared.append(found.similarity.value)
        separation.append(found.teacher_separation.value)
        assert np.isnan(found.similarity.low)
    assert np.mean(shared) < 0.04
    assert np.mean(separation) < 0.08


def test_a_set_shares_all_with_itself_and_a_rotation_changes_nothing():
    teacher, student = planted([0.6], 4, 4, 2.0, 1.0)
    same = estimate_pair(teacher, teacher, spectral_mass=0.99, num_resamples=0)
    assert same.shared.value == pytest.approx(1, abs=0.02)
    rng = np.random.default_rng(5)
    turned = student.features @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    options = {"minority": student.minority, "split": student.split, "eta_o": None}
    again = make_feature_set(turned, student.labels, **options)
    one, other = (
        estimate_pair(teacher, own, spectral_mass=0.99, num_resamples=0) for own in (student, again)
    )
    assert other.similarity.value == pytest.approx(one.similarity.value, rel=1e-9)
    assert other.student_separation.value == pytest.approx(one.student_separation.value, rel=1e-9)


def test_problems_have_the_numbers_estimated():
    found = estimate_pair(*planted([0.8], 3, 2, 3.0, 2.0), spectral_mass=0.99, num_resamples=0)
    problems = found.problems(200, 1000)
    assert len(problems) == 2
    for problem, mu_T in zip(problems, found.mu_T, strict=True):
        assert (problem.p_T, problem.p_S, problem.d_z) == (4, 3, 1)
        np.testing.assert_allclose(problem.mu_T, mu_T, atol=1e-9)
        np.testing.assert_allclose(problem.Xi, found.Xi, atol=1e-9)
    gains = predicted_gains(found, 0.1, [0.1, 0.5], 0.5, n_labelled=200, n_unlabelled=1000)
    assert gains.shape == (2,)
    assert np.all(np.isfinite(gains))


def test_too_few_rows_of_a_cell_and_a_mass_out_of_range():
    teacher, student = planted([], 3, 3, 0.0, 0.0, n=200, minority=0.0)
    with pytest.raises(TheoryError, match="minority rows of every label .* label 0 has 0"):
        estimate_pair(teacher, student)
    with pytest.raises(TheoryError, match=r"spectral_mass must be in \(0, 1\], found 0"):
        estimate_pair(teacher, student, spectral_mass=0)


def test_rank_agreement_and_its_interval():
    predicted = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(rank_agreement(predicted, [predicted**3] * 3), 1.0)
    np.testing.assert_allclose(rank_agreement(predicted, [-predicted] * 3), -1.0)
    assert np.isnan(rank_agreement(np.ones(4), [predicted] * 3).value)
    noisy = predicted + 3 * np.random.default_rng(0).normal(size=(6, 4))
    found = rank_agreement(predicted, noisy)
    assert found.low <= found.value <= found.high
    ranks = stats.spearmanr(predicted, noisy.mean(axis=0)).statistic
    np.testing.assert_allclose(found.value, ranks)
    assert found.high - found.low > 0.1
    with pytest.raises(TheoryError, match=r"found \[4\] and \[4\]"):
        rank_agreement(predicted, predicted)
