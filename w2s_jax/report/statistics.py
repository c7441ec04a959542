r"""Estimates over seeds with intervals that count both the draw and the test set.

Everything here works on a matrix `[seed, test row]` of correctness, or of a paired difference of
correctness between two models, decoded from the `*_correct` bits of the result rows. The test rows
are the same for every seed, so rows and seeds cross, and treating the S x T entries as independent
would be wrong twice: a row that is hard is hard for every seed, and a lucky draw is lucky on every
row. The model of an entry in test stratum c (a class's majority or minority part) is

    d_sj = mu_c + a_sc + b_j + e_sj,

seed effect a (any covariance between strata), row effect b and interaction e independent, seeds a
sample of draws from the pool, test rows a sample within each stratum. For fixed weights W_c the
estimate is the mean over seeds of sum_c W_c d_s.c and its variance

    Var = var(a)/S + sum_c W_c^2 var_c(b)/n_c + sum_c W_c^2 var_c(e)/(S n_c).

Three mean squares give it without bias:

    V_seed = sample variance over seeds of sum_c W_c d_s.c, divided by S
             (expectation: first and third term),
    V_row  = sum_c W_c^2 (sample variance within c of the row-wise seed means) / n_c
             (expectation: second and third term),
    V_int  = sum_c W_c^2 MS_c / (S n_c), with MS_c the two-way residual mean square
             (expectation: the third term, counted twice above),

    Var^ = V_seed + V_row - V_int,

where neither V_seed - V_int nor V_row - V_int is allowed below zero. The interval is Student's t
with Satterthwaite's degrees of freedom for this combination (S - 1 for V_seed, n_c - 1 for each
stratum of V_row, (S - 1)(n_c - 1) for V_int). With one seed, V_row alone is left: it holds the test
rows' variability and not the draw's, and the estimate says so.

What the interval does not cover: other pools, other backbones, the choice of (p, q) or l2 after
seeing test results, and the number of comparisons made. A stratum with one row borrows the mean
within-stratum variance of the others. Ratios use the same formula on their linearised matrix.

References: Searle, Casella, McCulloch, *Variance Components*, 1992, ch. 4 (two-way crossed
classification); Satterthwaite, *Biometrics Bulletin* 2, 1946; Owen, *Annals of Applied Statistics*
1, 2007 (the two-way bootstrap the tests compare with).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from w2s_jax import metrics
from w2s_jax.report.columns import numbers
from w2s_jax.report.frame import ReportError

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Order and strata of the test rows behind the correctness bits of a pair.

    Attributes:
        names: group names.
        labels: class of each group, `[g]`.
        minority: whether each group is minority, `[g]`.
        counts: test rows of each group, `[g]`; bits come group by group.
        group: group of each test row, `[t]`.
        cells: (label, minority) of the strata that have test rows.
        cell: stratum of each test row, `[t]`.
        prior: class prior of each stratum's label, `[c]`.
        complete: whether every class of positive prior has majority, and has minority, test rows.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    minority: np.ndarray
    counts: np.ndarray
    group: np.ndarray
    cells: tuple[tuple[int, bool], ...]
    cell: np.ndarray
    prior: np.ndarray
    complete: tuple[bool, bool]

    @property
    def num_test(self) -> int:
        """Number of test rows."""
        return len(self.cell)

    @cached_property
    def averaging(self) -> np.ndarray:
        """Matrix `[t, c]` that turns correctness of the test rows into accuracies of the strata."""
        matrix = np.zeros((self.num_test, len(self.cells)))
        matrix[np.arange(self.num_test), self.cell] = 1 / np.bincount(self.cell)[self.cell]
        return matrix


@lru_cache(maxsize=256)
def layout_of(groups: str) -> RowLayout:
    """The layout that a row's `groups` JSON describes.

    Raises:
        ReportError: Text that is not such a list.
    """
    try:
        listed = json.loads(groups)
        names = tuple(str(group["name"]) for group in listed)
        labels = np.array([int(group["label"]) for group in listed])
        minority = np.array([bool(group["minority"]) for group in listed])
        counts = np.array([int(group["test_count"]) for group in listed])
        prior = {int(group["label"]): float(group["prior"]) for group in listed}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ReportError(
            "column groups must be a JSON list of objects with name, label, minority, test_count"
            f" and prior; found {str(groups)[:60]!r}"
        ) from error
    if not counts.sum():
        raise ReportError("no group has a test row; nothing can be reported for this pair")
    group = np.repeat(np.arange(len(names)), counts)
    keys = [(int(label), bool(rare)) for label, rare in zip(labels, minority, strict=True)]
    cells = tuple(sorted({key for key, count in zip(keys, counts, strict=True) if count}))
    numbers = {cell: number for number, cell in enumerate(cells)}
    cell = np.array([numbers.get(key, -1) for key in keys])[group]
    weights = np.array([prior[label] for label, _ in cells])
    needed = {label for label, share in prior.items() if share > 0}
    majority, rare = ({label for label, part in cells if part is side} for side in (False, True))
    complete = (needed <= majority, needed <= rare)
    return RowLayout(names, labels, minority, counts, group, cells, cell, weights, complete)


def decode_correct(packed: Sequence[bytes] | pd.Series, num_test: int) -> np.ndarray:
    """Correctness bits of several rows, `[s, t]` uint8, from `np.packbits` bytes.

    Raises:
        ReportError: Missing bytes, or a length that does not fit `num_test`.

    >>> decode_correct([bytes([0b10100000]), bytes([0b11000000])], 3)
    array([[1, 0, 1],
           [1, 1, 0]], dtype=uint8)
    """
    packed = list(packed)
    size = -(-num_test // 8)
    found = {len(item) if isinstance(item, bytes) else None for item in packed}
    if found != {size}:
        raise ReportError(
            f"correctness bits of {num_test} test rows take {size} bytes a row, found"
            f" {sorted(map(str, found))}; the rows do not belong to this test set"
        )
    table = np.frombuffer(b"".join(packed), np.uint8).reshape(len(packed), size)
    return np.unpackbits(table, axis=1, count=num_test)


def accuracy_at(rows: pd.DataFrame, eta_t: float, model: str = "student") -> pd.Series:
    """Accuracy of each row's model at test minority fraction `eta_t`.

    (1 - eta_t) majority accuracy + eta_t minority accuracy, both averaged over classes with the
    draw's class prior.

    >>> rows = pd.DataFrame({"student_majority_accuracy": [0.9]})
    >>> accuracy_at(rows.assign(student_minority_accuracy=0.6), 0.5).round(3).tolist()
    [0.75]
    """
    check_metric(eta_t)
    majority = numbers(rows, f"{model}_majority_accuracy")
    minority = numbers(rows, f"{model}_minority_accuracy")
    if eta_t in (0, 1):  # where the other part has no test rows, it does not count
        return pd.Series(minority if eta_t else majority, rows.index)
    return pd.Series(metrics.accuracy_at(eta_t, majority, minority), rows.index)


def check_metric(metric: str | float) -> None:
    """Refuse a metric that is neither "accuracy" nor a test minority fraction in [0, 1]."""
    if metric == "accuracy" or (not isinstance(metric, str) and 0 <= metric <= 1):
        return
    raise ReportError(
        f'a metric is "accuracy" or a test minority fraction eta_t in [0, 1]; found {metric!r}'
    )


def cell_weights(layout: RowLayout, metric: str | float) -> np.ndarray:
    """Weights of the strata, `[c]`, that make a metric of their accuracies.

    "accuracy" counts test rows alike; a number is eta_t: class prior times (1 - eta_t) or eta_t,
    all NaN where a class has no test rows in a part that counts.
    """
    check_metric(metric)
    if isinstance(metric, str):
        return np.bincount(layout.cell) / layout.num_test
    rare = np.array([minority for _, minority in layout.cells])
    weights = np.zeros(len(rare))
    for part, share, complete in zip(
        (~rare, rare), (1 - metric, metric), layout.complete, strict=True
    ):
        if share:
            weights[part] = share * layout.prior[part]
            if not complete:
                weights[:] = np.nan
    return weights


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate; NaN where it does not exist.
        low, high: confidence limits.
        standard_error: square root of the estimated variance.
        df: degrees of freedom of Student's t.
        num_seeds: seeds averaged; with 1 the interval covers the test rows only.
    """

    value: float
    low: float
    high: float
    standard_error: float
    df: float
    num_seeds: int

    @property
    def direction(self) -> int:
        """1 or -1 where the interval lies above or below zero, else 0."""
        return int(self.low > 1e-12) - int(self.high < -1e-12)  # rounding is no direction

    def columns(self, name: str) -> dict[str, float]:
        """The entries name, name_low, name_high of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True, eq=False)
class TwoWay:
    """Sufficient statistics of a `[seed, test row]` matrix, by stratum, for any weights.

    Attributes:
        counts: rows of each stratum, `[c]`.
        seed_means: mean of each seed in each stratum, `[s, c]`.
        row_variance: sample variance of the row-wise seed means, `[c]`; NaN for one row.
        interaction: residual mean square, `[c]`; NaN for one row or one seed.
    """

    counts: np.ndarray
    seed_means: np.ndarray
    row_variance: np.ndarray
    interaction: np.ndarray


def two_way(matrix: np.ndarray, strata: np.ndarray, num_strata: int) -> TwoWay:
    """Means and mean squares of a `[s, t]` matrix within each stratum of its columns."""
    num_seeds = len(matrix)
    matrix = np.asarray(matrix, np.float64)
    member = np.zeros((matrix.shape[1], num_strata))
    member[np.arange(len(strata)), strata] = 1.0
    counts = member.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        seed_means = matrix @ member / counts
        row_means = matrix.mean(0)
        overall = seed_means.mean(0)
        rows = np.maximum(row_means**2 @ member - counts * overall**2, 0.0)
        seeds = counts * ((seed_means - overall) ** 2).sum(0)
        total = (matrix**2).sum(0) @ member - num_seeds * counts * overall**2
        residual = np.maximum(total - seeds - num_seeds * rows, 0.0)
        residual[residual < 1e-12 * total] = 0.0
        row_variance = rows / np.where(counts > 1, counts - 1, np.nan)
        freedom = (num_seeds - 1) * (counts - 1)
        interaction = residual / np.where(freedom > 0, freedom, np.nan)
    return TwoWay(counts, seed_means, row_variance, interaction)


def _fill(variance: np.ndarray, counts: np.ndarray) -> np.ndarray:
    known = np.isfinite(variance)
    if known.all() or not known.any():
        return variance
    return np.where(known, variance, np.average(variance[known], weights=counts[known]))


def _sum_of(parts: np.ndarray, freedom: np.ndarray) -> tuple[float, float]:
    """A sum of independent mean squares and Satterthwaite's degrees of freedom for it."""
    total = float(parts.sum())
    spread = float((parts**2 / np.maximum(freedom, 1)).sum())
    return total, (total**2 / spread if spread > 0 else np.inf)


def estimate(
    statistics: TwoWay,
    weights: np.ndarray,
    *,
    center: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Weighted mean over strata and seeds with its interval (formula: top of this file).

    Args:
        statistics: from `two_way`.
        weights: one weight a stratum, `[c]`.
        center: added to the value and both limits; a ratio's own value when the matrix is its
            linearisation, which averages to zero.
        confidence: coverage of the interval.
    """
    used = np.asarray(weights) != 0  # also True for NaN, which then spreads
    weights, counts = np.asarray(weights)[used], statistics.counts[used]
    by_seed = statistics.seed_means[:, used] @ weights
    num_seeds = len(by_seed)
    value = float(by_seed.mean()) + center
    rows, row_df = _sum_of(
        weights**2 * _fill(statistics.row_variance[used], counts) / counts, counts - 1
    )
    if num_seeds == 1:
        variance, df = rows, row_df
    else:
        seeds = float(by_seed.var(ddof=1)) / num_seeds
        both, both_df = _sum_of(
            weights**2 * _fill(statistics.interaction[used], counts) / counts / num_seeds,
            (num_seeds - 1) * (counts - 1),
        )
        variance = both + max(seeds - both, 0.0) + max(rows - both, 0.0)
        parts = ((seeds, num_seeds - 1), (rows, row_df), (both, both_df))
        if seeds <= both:
            parts = ((rows, row_df),)
        elif rows <= both:
            parts = ((seeds, num_seeds - 1),)
        spread = sum(part**2 / freedom for part, freedom in parts)
        df = variance**2 / spread if spread > 0 else np.inf
    return _interval(value, variance, df, num_seeds, confidence)


def _interval(
    value: float, variance: float, df: float, num_seeds: int, confidence: float
) -> Estimate:
    if not np.isfinite(value):
        return Estimate(np.nan, np.nan, np.nan, np.nan, np.nan, num_seeds)
    error = float(np.sqrt(variance))
    half = float(stdtrit(np.clip(df, 1.0, 1e6), 0.5 + confidence / 2)) * error
    return Estimate(value, value - half, value + half, error, float(df), num_seeds)


def seed_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of one number a seed with Student's t over seeds; no limits for one seed."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    count = len(values)
    if not count:
        return _interval(np.nan, np.nan, np.nan, 0, confidence)
    variance = float(values.var(ddof=1)) / count if count > 1 else np.nan
    return _interval(float(values.mean()), variance, max(count - 1, 1), count, confidence)


def two_way_interval(
    matrix: np.ndarray, strata: np.ndarray, weights: np.ndarray, confidence: float = CONFIDENCE
) -> Estimate:
    """Interval of a weighted mean of a `[seed, test row]` matrix.

    Args:
        matrix: correctness, or a paired difference of it, `[s, t]`.
        strata: stratum of each column, `[t]`.
        weights: weight of each stratum's mean, `[c]`.
        confidence: coverage.

    >>> two_way_interval(np.array([[1, 0, 1, 1], [1, 1, 1, 0]]), np.zeros(4, int), np.ones(1)).value
    0.75
    """
    return estimate(two_way(matrix, strata, len(weights)), weights, confidence=confidence)
