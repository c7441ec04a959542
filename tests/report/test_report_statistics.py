import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from report_rows import make_groups, make_rows

from w2s_jax.report.correctness import accuracy_at, cell_weights, decode_correct, layout_of
from w2s_jax.report.estimates import sample
from w2s_jax.report.frame import ReportError, check_rows
from w2s_jax.report.statistics import estimate, seed_interval, two_way, two_way_interval

STRATA = np.repeat([0, 1, 2], [40, 25, 15])
WEIGHTS = np.array([0.5, 0.3, 0.2])


def crossed(rng, num_seeds, seed_sd=0.1, row_sd=0.8, noise_sd=0.5):
    """A `[seed, row]` matrix of the model in the docstring, whose weighted mean is zero."""
    seed = rng.normal(0, seed_sd, (num_seeds, 1)) + 0.5 * rng.normal(0, seed_sd, (num_seeds, 3))
    row = rng.normal(0, row_sd, len(STRATA))
    noise = rng.normal(0, noise_sd, (num_seeds, len(STRATA)))
    return seed[:, STRATA] + row + noise


def variance_of(num_seeds, seed_sd=0.1, row_sd=0.8, noise_sd=0.5):
    counts = np.bincount(STRATA)
    share = (WEIGHTS**2 / counts).sum()
    of_seeds = seed_sd**2 * (1 + 0.25 * (WEIGHTS**2).sum())
    return of_seeds / num_seeds + share * (row_sd**2 + noise_sd**2 / num_seeds)


def parts_of(matrix):
    """V_seed, V_row by stratum and V_int by stratum with plain loops."""
    num_seeds = len(matrix)
    by_seed = sum(w * matrix[:, c == STRATA].mean(1) for c, w in enumerate(WEIGHTS))
    rows, both = [], []
    for c, weight in enumerate(WEIGHTS):
        d = matrix[:, c == STRATA]
        n = d.shape[1]
        rows.append(weight**2 * d.mean(0).var(ddof=1) / n)
        residual = d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()
        mean_square = (residual**2).sum() / ((num_seeds - 1) * (n - 1))
        both.append(weight**2 * mean_square / (num_seeds * n))
    return by_seed.var(ddof=1) / num_seeds, np.array(rows), np.array(both)


def test_variance_is_the_two_way_formula():
    matrix = crossed(np.random.default_rng(0), 6)
    seed, row, both = parts_of(matrix)
    found = two_way_interval(matrix, STRATA, WEIGHTS)
    assert found.standard_error**2 == pytest.approx(seed + row.sum() - both.sum(), rel=1e-10)
    spread = seed**2 / 5 + row.sum() ** 2 / (
        row.sum() ** 2 / (row**2 / (np.bincount(STRATA) - 1)).sum()
    )
    both_df = both.sum() ** 2 / (both**2 / (5 * (np.bincount(STRATA) - 1))).sum()
    spread += both.sum() ** 2 / both_df
    assert found.df == pytest.approx((seed + row.sum() - both.sum()) ** 2 / spread, rel=1e-8)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("sds", [(0.1, 0.8, 0.5), (0.3, 0.2, 0.9), (0.02, 0.5, 0.5)])
def test_variance_is_unbiased_and_intervals_cover(sds):
    rng = np.random.default_rng(1)
    num_seeds, repeats = 6, 1000
    found = [
        two_way_interval(crossed(rng, num_seeds, *sds), STRATA, WEIGHTS) for _ in range(repeats)
    ]
    true = variance_of(num_seeds, *sds)
    assert np.var([e.value for e in found]) == pytest.approx(true, rel=0.12)  # the model itself
    # setting negative components to zero may only add
    ratio = np.mean([e.standard_error**2 for e in found]) / true
    assert 0.95 < ratio < 1.12
    covered = np.mean([e.low < 0 < e.high for e in found])
    assert 0.925 < covered < 0.98


def test_one_source_alone_covers_too_little():
    rng = np.random.default_rng(2)

    def rate(found):
        return np.mean([e.low < 0 < e.high for e in found])

    by_rows = [crossed(rng, 6, 0.06, 0.8, 0.5) for _ in range(300)]  # test rows dominate
    means = [sum(w * m[:, c == STRATA].mean(1) for c, w in enumerate(WEIGHTS)) for m in by_rows]
    assert rate([seed_interval(values) for values in means]) < 0.75
    by_seeds = [crossed(rng, 6, 0.3, 0.4, 0.5) for _ in range(300)]  # draws dominate
    alone = [two_way_interval(m.mean(0, keepdims=True), STRATA, WEIGHTS) for m in by_seeds]
    assert rate(alone) < 0.75
    for matrices in (by_rows, by_seeds):
        assert rate([two_way_interval(m, STRATA, WEIGHTS) for m in matrices]) > 0.92


def test_paired_correctness_of_bits_covers():
    rng = np.random.default_rng(3)

    def bits(num_seeds, num_rows):
        row = rng.normal(0, 1.2, num_rows)
        shared = rng.normal(0, 0.5, (num_seeds, num_rows))
        out = []
        for level in (0.6, 0.8):
            seed = rng.normal(0, 0.15, (num_seeds, 1))
            out.append(level + row + seed + shared + rng.normal(0, 0.6, shared.shape) > 0)
        return out[1].astype(float) - out[0]

    true = bits(2000, 2000).mean()
    strata, one = np.zeros(150, int), np.ones(1)
    found = [two_way_interval(bits(8, 150), strata, one) for _ in range(600)]
    covered = np.mean([e.low < true < e.high for e in found])
    assert 0.92 < covered < 0.985


def test_two_way_bootstrap_agrees():
    rng = np.random.default_rng(4)
    matrix = crossed(rng, 8, 0.2, 0.8, 0.4)
    num_seeds, counts = len(matrix), np.bincount(STRATA)
    seed, row, both = parts_of(matrix)
    draws = []
    for _ in range(6000):
        of_seeds = np.bincount(rng.integers(0, num_seeds, num_seeds), minlength=num_seeds)
        value = 0.0
        for c, weight in enumerate(WEIGHTS):
            d = matrix[:, c == STRATA]
            of_rows = rng.multinomial(counts[c], np.full(counts[c], 1 / counts[c]))
            value += weight * (of_seeds @ d @ of_rows) / (num_seeds * counts[c])
        draws.append(value)
    shrink = (num_seeds - 1) / num_seeds
    inflate = (counts - 1) / counts
    # the bootstrap holds the interaction once more where ours takes it off once (Owen 2007)
    expected = seed * shrink + (row * inflate).sum() + (both * shrink * inflate).sum()
    assert np.var(draws) == pytest.approx(expected, rel=0.08)
    ours = two_way_interval(matrix, STRATA, WEIGHTS).standard_error ** 2
    assert ours < np.var(draws) / shrink
    assert ours == pytest.approx(np.var(draws) / shrink - 2 * both.sum(), rel=0.1)


def test_one_seed_leaves_the_test_rows():
    matrix = crossed(np.random.default_rng(5), 1)
    found = two_way_interval(matrix, STRATA, WEIGHTS)
    expected = sum(
        w**2 * matrix[0, c == STRATA].var(ddof=1) / (c == STRATA).sum()
        for c, w in enumerate(WEIGHTS)
    )
    assert found.standard_error**2 == pytest.approx(expected)
    assert found.num_seeds == 1


def test_degenerate_matrices():
    one, strata = np.ones(1), np.zeros(5, int)
    flat = two_way_interval(np.zeros((3, 5)), strata, one)
    assert (flat.value, flat.low, flat.high, flat.direction) == (0, 0, 0, 0)
    lonely = two_way_interval(np.array([[1.0], [0.0]]), np.zeros(1, int), one)
    assert lonely.value == 0.5
    assert np.isnan([lonely.low, lonely.high]).all()
    # a stratum of one row borrows the other's spread
    matrix = np.random.default_rng(0).normal(size=(4, 6))
    borrowed = two_way_interval(matrix, np.array([0, 0, 0, 0, 0, 1]), np.array([0.5, 0.5]))
    assert np.isfinite(borrowed.low)
    nothing = estimate(two_way(matrix, np.zeros(6, int), 1), np.array([np.nan]))
    assert np.isnan(nothing.value)
    assert nothing.direction == 0
    assert np.isnan(seed_interval(np.array([np.nan])).value)
    assert np.isnan(seed_interval(np.array([0.3])).low)


def test_decoding_refuses_other_lengths():
    with pytest.raises(ReportError, match="take 2 bytes a row"):
        decode_correct([b"\xff"], 9)
    with pytest.raises(ReportError, match="do not belong"):
        decode_correct([b"\xff\x00", None], 9)  # type: ignore[list-item]


@pytest.mark.parametrize("metric", [0.0, 0.1, 0.5, 1.0, "accuracy"])
def test_bits_give_the_columns(metric):
    rows = check_rows(make_rows(seeds=3, groups=make_groups(3, 3, 20), pq=((0.5, 0.5),)))
    for _, line in rows.iloc[:6].iterrows():
        part = rows.loc[[line.name]]
        drawn = sample(rows, part, ("teacher", "method", "ceiling"))
        for model, name in (("teacher", "teacher"), ("method", "student"), ("ceiling", "ceiling")):
            stated = (
                part[f"{name}_accuracy"]
                if metric == "accuracy"
                else accuracy_at(part, metric, name)
            )
            assert drawn.level(model, metric).value == pytest.approx(stated.iloc[0], abs=1e-12)
        by_group = [e.value for e in drawn.by_group("method")]
        columns = [line[f"student_group_{g}_accuracy"] for g in range(9)]
        np.testing.assert_allclose(by_group, columns)


def test_accuracy_at_ends_ignores_the_other_part():
    rows = pd.DataFrame({"student_majority_accuracy": [0.8], "student_minority_accuracy": [np.nan]})
    assert accuracy_at(rows, 0.0).tolist() == [0.8]
    assert np.isnan(accuracy_at(rows, 0.5)).all()
    with pytest.raises(ReportError, match=r"in \[0, 1\]; found 1.5"):
        accuracy_at(rows, 1.5)
    with pytest.raises(ReportError, match="found 'worst'"):
        cell_weights(layout_of(json.dumps(make_groups())), "worst")


def test_a_class_without_minority_test_rows_has_no_accuracy_there():
    groups = make_groups()
    groups[1]["test_count"] = 0
    layout = layout_of(json.dumps(groups))
    assert np.isnan(cell_weights(layout, 0.5)).all()
    assert np.isfinite(cell_weights(layout, 0.0)).all()
    assert cell_weights(layout, "accuracy").sum() == pytest.approx(1)


def test_layout_refuses_other_text():
    with pytest.raises(ReportError, match="must be a JSON list"):
        layout_of("[1, 2]")
    with pytest.raises(ReportError, match="no group has a test row"):
        layout_of(json.dumps([{**make_groups()[0], "test_count": 0}]))


def test_ratio_of_a_constant_base_is_the_scaled_difference():
    rows = check_rows(make_rows(seeds=4, pq=(), eta_l=(0.1,), eta_u=(0.1,)))
    drawn = sample(rows, rows[(rows["teacher_l2"] == 0.1) & (rows["student_l2"] == 1.0)])
    right = [np.ones_like(drawn.bits["teacher"][0])]
    fixed = dataclasses.replace(drawn, bits={**drawn.bits, "teacher": right}, _cache={})
    relative = fixed.relative("vanilla", "teacher", 0.5)
    difference = fixed.difference("vanilla", "teacher", 0.5)
    assert relative.value == pytest.approx(100 * difference.value)
    # the ratio's linearisation moves the base too: here it is 1 without spread
    assert relative.high - relative.low == pytest.approx(100 * (difference.high - difference.low))


def test_ratio_interval_is_calibrated():
    rng = np.random.default_rng(6)
    rows = check_rows(make_rows(seeds=5, pq=(), eta_l=(0.1,), eta_u=(0.1,)))
    drawn = sample(rows, rows[(rows["teacher_l2"] == 0.1) & (rows["student_l2"] == 1.0)])
    values, errors = [], []
    for _ in range(500):
        row = rng.normal(0, 1, drawn.layout.num_test)
        bits = {
            name: [level + row + rng.normal(0, 0.1, (5, 1)) + rng.normal(0, 0.7, (5, len(row))) > 0]
            for name, level in (("teacher", 0.4), ("vanilla", 0.6))
        }
        found = dataclasses.replace(drawn, bits=bits, _cache={}).relative("vanilla", "teacher", 0.3)
        values.append(found.value)
        errors.append(found.standard_error**2)
    assert np.mean(errors) / np.var(values) == pytest.approx(1.0, abs=0.15)
