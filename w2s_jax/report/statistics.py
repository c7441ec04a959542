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

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95


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
