import numpy as np
import pytest

from w2s_jax.errors import W2SError
from w2s_jax.metrics import accuracy_at, grouped_test, pgr


@pytest.fixture
def test_set():
    # Groups are (label, attribute) pairs in order; label != attribute is the minority.
    groups = np.array([3, 0, 1, 0, 2, 3, 0, 0, 1, 2, 3, 0])
    return grouped_test(
        groups,
        np.arange(8),
        np.arange(8, 12),
        names=("a", "b", "c", "d"),
        labels=np.array([0, 0, 1, 1]),
        minority=np.array([False, True, True, False]),
        prior=np.array([0.25, 0.75]),
    )


def test_rows_are_ordered_by_group_then_id(test_set):
    assert test_set.rows.tolist() == [1, 3, 6, 7, 2, 4, 0, 5]
    assert test_set.counts.tolist() == [4, 1, 1, 2]
    assert test_set.train_share.tolist() == [0.25, 0.25, 0.25, 0.25]


def test_averages_by_hand(test_set):
    correct = np.array([[1, 1, 1, 0, 1, 0, 1, 0]], bool)
    by_group = test_set.group_accuracies(correct)
    assert by_group.tolist() == [[0.75, 1.0, 0.0, 0.5]]
    averages = {name: values[0] for name, values in test_set.averages(by_group).items()}
    assert averages == pytest.approx(
        {
            "accuracy": 5 / 8,
            "group_balanced_accuracy": 2.25 / 4,
            "train_weighted_accuracy": 2.25 / 4,
            "worst_group_accuracy": 0.0,
            "majority_accuracy": 0.25 * 0.75 + 0.75 * 0.5,
            "minority_accuracy": 0.25 * 1.0 + 0.75 * 0.0,
        }
    )


def test_accuracy_at_equals_a_reweighted_test_set(test_set):
    rng = np.random.default_rng(0)
    correct = rng.random((5, 8)) < 0.6
    by_group = test_set.group_accuracies(correct)
    averages = test_set.averages(by_group)
    for eta_t in (0.0, 0.3, 1.0):
        expected = sum(
            test_set.prior[y] * ((1 - eta_t) * by_group[:, major] + eta_t * by_group[:, minor])
            for y, major, minor in ((0, 0, 1), (1, 3, 2))
        )
        found = accuracy_at(eta_t, averages["majority_accuracy"], averages["minority_accuracy"])
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_accuracy_at_an_impossible_fraction():
    with pytest.raises(W2SError, match=r"eta_t must lie in \[0, 1\], found 2"):
        accuracy_at(2.0, np.array([0.9]), np.array([0.5]))


def test_a_group_without_test_rows_is_left_out():
    grouped = grouped_test(
        np.array([0, 0, 1, 3, 3, 2]),
        np.arange(5),
        np.array([5]),
        names=("a", "b", "c", "d"),
        labels=np.array([0, 0, 1, 1]),
        minority=np.array([False, True, True, False]),
        prior=np.array([0.5, 0.5]),
    )
    by_group = grouped.group_accuracies(np.array([[True, False, True, True, True]]))
    assert by_group[0, 2] != by_group[0, 2]  # NaN
    averages = grouped.averages(by_group)
    assert averages["worst_group_accuracy"] == pytest.approx(0.5)
    assert averages["group_balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert averages["majority_accuracy"] == pytest.approx(0.75)
    assert np.isnan(averages["minority_accuracy"]).all()
    assert np.isnan(averages["train_weighted_accuracy"]).all()  # all its weight is on group c


def test_pgr_is_undefined_where_there_is_no_gap():
    teacher = np.array([0.5, 0.5, 0.6])
    ceiling = np.array([0.9, 0.51, 0.5])
    found = pgr(np.array([0.7, 0.7, 0.7]), teacher, ceiling, num_test=100)
    assert found[0] == pytest.approx(0.5)
    assert np.isnan(found[1:]).all()
