import dataclasses
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s_jax.errors import DrawError
from w2s_jax.splits import (
    Pool,
    Request,
    cell_counts,
    class_seats,
    minority_count,
)

etas = st.decimals(0, 1, places=3).map(float)
votes = st.lists(st.integers(1, 5000), min_size=2, max_size=6).map(tuple)


def make_pool(sizes, *, order=None, sources=False, num_unlabelled=0, **kwargs):
    """A pool with `sizes` [c, 2] rows in each (class, minority) cell, as shuffled by `order`."""
    sizes = np.asarray(sizes)
    labels = np.repeat(np.arange(len(sizes)), sizes.sum(axis=1))
    minority = np.concatenate([np.repeat([False, True], row) for row in sizes])
    labels = np.concatenate([labels, np.full(num_unlabelled, -1)])
    minority = np.concatenate([minority, np.zeros(num_unlabelled, bool)])
    ids = np.array([f"row {i}" for i in range(len(labels))])
    source_ids = None
    if sources:  # the same sources in the majority and the minority of a class
        within = np.concatenate([np.arange(n) for row in sizes for n in row])
        source_ids = np.array([f"{y}/{i}" for y, i in zip(labels, within, strict=True)])
    order = np.arange(len(labels)) if order is None else order
    return Pool(
        ids[order],
        labels[order],
        minority[order],
        np.arange(len(labels)),
        num_classes=len(sizes),
        source_ids=None if source_ids is None else source_ids[order],
        **kwargs,
    )


REQUEST = Request(eta_l=0.1, n_labelled=40, eta_u=0.4, n_unlabelled=150, n_validation=10)
SIZES = [[120, 90], [130, 70]]


def cells_of(pool, rows):
    out = np.zeros((pool.num_classes, 2), int)
    np.add.at(out, (pool._labels[rows], pool._minority[rows].astype(int)), 1)
    return out


@given(n=st.integers(1, 3000), eta=etas)
def test_minority_count_rounds_half_up_in_decimals(n, eta):
    exact = Decimal(n) * Decimal(str(eta))
    count = minority_count(n, eta)
    assert Decimal(count) - Decimal("0.5") <= exact < Decimal(count) + Decimal("0.5")


def test_minority_count_does_not_follow_binary_floats():
    # 0.15 * 50 is 7.499999999999999... in other orders of evaluation; the decimal is 7.5.
    assert minority_count(50, 0.15) == 8
    assert minority_count(1000, 0.0005) == 1


@given(votes=votes, n=st.integers(0, 400))
def test_seats_are_proportional_and_monotone(votes, n):
    now, more = class_seats(n, votes), class_seats(n + 1, votes)
    assert now.sum() == n
    assert np.all(more >= now)
    # Sainte-Laguë: no transfer of a seat would bring two classes closer to proportion.
    last = np.where(now > 0, np.array(votes) / np.maximum(2 * now - 1, 1), np.inf)
    following = np.array(votes) / (2 * now + 1)
    assert last.min() >= following.max() * (1 - 1e-12)


def test_seat_ties_go_to_the_lower_class():
    assert class_seats(1, (1, 1, 1)).tolist() == [1, 0, 0]
    assert class_seats(4, (1, 1, 1)).tolist() == [2, 1, 1]
    assert class_seats(2, (3, 1)).tolist() == [2, 0]  # 3/3 = 1/1


@given(n=st.integers(1, 500), eta=etas, votes=votes)
def test_one_class_prior_for_majority_and_minority(n, eta, votes):
    counts = cell_counts(n, eta, votes)
    assert counts[:, 1].sum() == minority_count(n, eta)
    assert counts.sum() == n
    share = np.array(votes) / sum(votes)
    for side in (0, 1):
        ideal = share * counts[:, side].sum()
        assert np.all(np.abs(counts[:, side] - ideal) < len(votes))
    if len(set(votes)) == 1:
        assert np.ptp(counts, axis=0).max() <= 1


@given(n=st.integers(1, 300), step=st.integers(1, 50), eta=etas, votes=votes)
def test_counts_are_monotone_in_n(n, step, eta, votes):
    assert np.all(cell_counts(n + step, eta, votes) >= cell_counts(n, eta, votes))


@given(n=st.integers(1, 300), eta=etas, other=etas, votes=votes)
def test_counts_are_monotone_in_eta(n, eta, other, votes):
    low, high = sorted((eta, other))
    before, after = cell_counts(n, low, votes), cell_counts(n, high, votes)
    assert np.all(after[:, 1] >= before[:, 1])
    assert np.all(after[:, 0] <= before[:, 0])


@given(seed=st.integers(0, 2**40), eta_l=etas, eta_u=etas, n=st.integers(1, 40))
def test_a_draw_has_the_exact_cells_and_disjoint_roles(seed, eta_l, eta_u, n):
    pool = make_pool(SIZES)
    request = Request(eta_l, n, eta_u, 2 * n, n_validation=n // 2)
    draw = pool.draw(seed, request)
    assert cells_of(pool, draw.labelled).tolist() == cell_counts(n, eta_l, (1, 1)).tolist()
    assert cells_of(pool, draw.unlabelled).tolist() == cell_counts(2 * n, eta_u, (1, 1)).tolist()
    assert cells_of(pool, draw.validation).tolist() == cell_counts(n // 2, eta_l, (1, 1)).tolist()
    every = np.concatenate([draw.labelled, draw.validation, draw.unlabelled])
    assert len(np.unique(every)) == len(every) == n + n // 2 + 2 * n


@given(seed=st.integers(0, 1000), eta=etas, other=etas, n=st.integers(1, 40), m=st.integers(1, 40))
def test_sets_are_nested_cell_by_cell(seed, eta, other, n, m):
    pool = make_pool(SIZES)
    draws = [pool.draw(seed, Request(e, k, e, 2 * k)) for e, k in ((eta, n), (other, m))]
    for role in ("labelled", "unlabelled"):
        sets = [set(getattr(draw, role).tolist()) for draw in draws]
        for label in range(2):
            for side in (False, True):
                cell = np.flatnonzero((pool._labels == label) & (pool._minority == side))
                first, second = (s & set(cell.tolist()) for s in sets)
                assert first <= second or second <= first


def test_a_validation_set_changes_no_other_role():
    pool = make_pool(SIZES)
    without = pool.draw(3, dataclasses.replace(REQUEST, n_validation=0))
    draw = pool.draw(3, REQUEST)
    assert draw.labelled.tolist() == without.labelled.tolist()
    assert draw.unlabelled.tolist() == without.unlabelled.tolist()
    assert len(draw.validation) == 10


@given(seed=st.integers(0, 50), shuffle=st.integers(0, 2**32 - 1))
def test_file_order_changes_nothing(seed, shuffle):
    total = int(np.sum(SIZES))
    order = np.random.default_rng(shuffle).permutation(total)
    draw, shuffled = (
        make_pool(SIZES).draw(seed, REQUEST),
        make_pool(SIZES, order=order).draw(seed, REQUEST),
    )
    for role in ("labelled", "validation", "unlabelled"):
        # The same rows by id, in the same order.
        assert order[getattr(shuffled, role)].tolist() == getattr(draw, role).tolist()


def test_seeds_differ_and_repeat():
    pool = make_pool(SIZES)
    first = pool.draw(0, REQUEST).unlabelled
    assert first.tolist() != pool.draw(1, REQUEST).unlabelled.tolist()
    assert first.tolist() == pool.draw(0, REQUEST).unlabelled.tolist()


def test_draw_order_is_blind_to_labels():
    pool = make_pool(SIZES)
    draw = pool.draw(0, Request(0.5, 80, 0.5, 160))
    for rows in (draw.labelled, draw.unlabelled):
        half = len(rows) // 2
        assert 0.3 < pool._labels[rows[:half]].mean() < 0.7
        assert 0.3 < pool._minority[rows[:half]].mean() < 0.7


def test_each_row_is_drawn_equally_often():
    pool = make_pool([[20, 20], [20, 20]])
    hits = np.zeros(80)
    for seed in range(600):
        hits[pool.draw(seed, Request(0.5, 20, 0.5, 20)).labelled] += 1
    # 600 draws of 1/4: mean 150, standard deviation 10.6.
    assert np.abs(hits - 150).max() < 4.5 * 10.6


def test_pool_prior_follows_the_pool():
    pool = make_pool([[300, 100], [100, 100]], class_prior="pool")
    assert pool.prior.tolist() == [4 / 6, 2 / 6]
    draw = pool.draw(0, Request(0.5, 60, 0.2, 60))
    assert cells_of(pool, draw.labelled).tolist() == [[20, 20], [10, 10]]
    assert cells_of(pool, draw.unlabelled).tolist() == [[32, 8], [16, 4]]


def test_an_infeasible_request_is_explained():
    pool = make_pool(SIZES, class_names=("waterbird", "landbird"))
    request = Request(0.5, 40, 0.9, 150, n_validation=10)
    with pytest.raises(DrawError, match="'landbird', minority needs 10 labelled") as error:
        pool.check(request)
    message = str(error.value)
    assert "the pool has 70" in message
    largest = int(message.rsplit(" ", 1)[1])
    pool.check(dataclasses.replace(request, n_unlabelled=largest))
    with pytest.raises(DrawError):
        pool.check(dataclasses.replace(request, n_unlabelled=largest + 1))


def test_infeasible_even_without_unlabelled_rows():
    with pytest.raises(DrawError, match="largest n_labelled at eta_l=1.0 is 141"):
        make_pool(SIZES).check(Request(1.0, 500, 0.0, 10))


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_fractions_outside_zero_one(eta):
    with pytest.raises(DrawError, match=r"eta_u must lie in \[0, 1\]"):
        make_pool(SIZES).check(dataclasses.replace(REQUEST, eta_u=eta))


def test_unknown_prior():
    with pytest.raises(DrawError, match="known: equal, pool"):
        make_pool(SIZES, class_prior="uniform")


def test_truly_unlabelled_rows():
    pool = make_pool(SIZES, num_unlabelled=50)
    small, large = (pool.draw(0, Request(0.1, 20, None, n)) for n in (10, 30))
    assert np.all(pool._labels[large.unlabelled] == -1)
    assert set(small.unlabelled.tolist()) <= set(large.unlabelled.tolist())
    assert len(large.unlabelled) == 30
    with pytest.raises(DrawError, match="the pool has 50"):
        pool.check(Request(0.1, 20, None, 51))


def test_teacher_from_elsewhere_needs_no_labelled_rows():
    draw = make_pool(SIZES).draw(0, Request(None, None, 0.3, 100))
    assert len(draw.labelled) == len(draw.validation) == 0
    assert len(draw.unlabelled) == 100


@given(seed=st.integers(0, 300))
def test_rows_of_one_source_stay_in_one_role(seed):
    pool = make_pool([[60, 60], [60, 60]], sources=True)
    draw = pool.draw(seed, Request(0.2, 40, 0.5, 100, n_validation=8))
    names = ("labelled", "validation", "unlabelled")
    roles = [set(pool._sources[getattr(draw, name)]) for name in names]
    assert len(roles[0] | roles[1] | roles[2]) == sum(map(len, roles))


def test_sources_that_cannot_stay_apart_are_an_error():
    pool = make_pool([[60, 60], [60, 60]], sources=True)
    with pytest.raises(DrawError, match="would serve both labelled and unlabelled"):
        pool.draw(0, Request(0.0, 100, 1.0, 100))


@given(votes=votes, n=st.integers(0, 300))
def test_seats_equal_the_definition(votes, n):
    seats = [0] * len(votes)
    for _ in range(n):  # one seat after another, ties to the lower class
        quotients = [v / (2 * s + 1) for v, s in zip(votes, seats, strict=True)]
        seats[quotients.index(max(quotients))] += 1
    assert class_seats(n, votes).tolist() == seats


def test_seats_of_many_classes_and_rows_are_cheap():
    assert class_seats(10**9, (1,) * 1000).tolist() == [10**6] * 1000


def test_a_pool_without_labels_has_no_prior_of_its_own():
    with pytest.raises(DrawError, match="use 'equal'"):
        make_pool([[0, 0], [0, 0]], num_unlabelled=5, class_prior="pool")
