"""The statements about the mixture, with simulation as the judge."""

import numpy as np
import pytest

from w2s_jax.theory import risks, simulate
from w2s_jax.theory.findings import examples, findings, judge

BY_NAME = {finding.name: finding for finding in findings()}


def test_example_of_a_loss_at_equal_fractions():
    """Known values: by the proportional form to 1e-4, published to 1e-4, simulated to 2 errors."""
    judged = judge(BY_NAME["equal fractions"], num_draws=60, labels_per_draw=16)
    np.testing.assert_allclose(judged.forms["proportional"], [0.0129, -0.0097, -0.0322], atol=1e-4)
    np.testing.assert_allclose(judged.forms["published"], [0.0070, -0.0077, -0.0593], atol=1e-4)
    assert np.all(judged.error < [4e-4, 7e-4, 1.5e-3])
    assert np.all(np.abs(judged.simulated - judged.forms["proportional"]) < 3.5 * judged.error)
    assert abs(judged.simulated[2] - judged.forms["published"][2]) > 10 * judged.error[2]


def test_example_of_two_optima():
    finding = BY_NAME["two optima"]
    judged = judge(finding, num_draws=60, labels_per_draw=16)
    at = dict(zip([eta_u for eta_u, _ in finding.settings], range(4), strict=True))
    exact, published = judged.forms["proportional"], judged.forms["published"]
    np.testing.assert_allclose(exact[[at[0.5], at[0.09]]], [0.0110, 0.0139], atol=1e-4)
    assert np.all(np.abs(judged.simulated - exact) < 3.5 * judged.error + 0.02 * np.abs(exact))
    assert judged.simulated[at[0.09]] > judged.simulated[at[0.5]]
    assert published[at[0.09]] < 0 < published[at[0.5]]


@pytest.mark.parametrize("name", ["test fraction met", "balanced on both sides"])
def test_no_loss_where_none_is_claimed(name):
    finding = BY_NAME[name]
    eta_u, eta_t = np.array(finding.settings).T
    endless = finding.problem.replace(n_unlabelled=10**12)
    for form in ("mixture", "proportional"):
        found = risks(endless, finding.eta_l, eta_u, eta_t, form=form, num_points=256)
        assert np.all(found.gain > 0)


def test_leading_orders_miss_the_loss_near_as_many_features_as_samples():
    finding = BY_NAME["as many features as samples, nearly"]
    eta_u, eta_t = np.array(finding.settings).T
    gain = {
        form: risks(finding.problem, finding.eta_l, eta_u, eta_t, form=form).gain
        for form in ("mixture", "published", "proportional")
    }
    assert np.all(gain["proportional"] < -3)
    for form in ("mixture", "published"):
        assert np.all(np.abs(gain[form]) < 0.3)


def test_known_risks_of_one_problem_at_small_and_at_large_ratios():
    """The published form to what it is known to give; at 0.7 the proportional one as well."""
    small, large = examples()
    published = risks(small.problem, *small.settings, form="published")
    np.testing.assert_allclose(published.student, 0.0192, atol=5e-5)
    published = risks(large.problem, *large.settings, form="published")
    np.testing.assert_allclose([published.teacher, published.student], [1.06, 0.27], atol=5e-3)
    exact = risks(large.problem, *large.settings)
    np.testing.assert_allclose([exact.teacher, exact.student], [4.14, 8.86], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("example", examples(), ids=("small", "large"))
def test_simulation_finds_the_known_risks(example):
    """Standard errors below 2 %, and an allowance of 2.5 % for what is of order 1 / d_z."""
    found = simulate(example.problem, *example.settings, num_draws=20, labels_per_draw=32)
    exact = risks(example.problem, *example.settings)
    for side in ("teacher", "student"):
        value, error = getattr(found, side), getattr(found, f"{side}_error")
        truth = getattr(exact, side)
        assert error < 0.02 * truth
        assert abs(value - truth) < 3 * error + 0.025 * truth
    published = risks(example.problem, *example.settings, form="published")
    assert found.student > 1.3 * published.student


def test_every_finding_says_what_it_assumes():
    for finding in findings():
        assert finding.statement.endswith(".")
        assert finding.assumption
        assert "error" not in finding.statement + finding.assumption
