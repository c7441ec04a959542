r"""What the theory needs, estimated from a teacher's and a student's features.

The theory's group features have, within a group, unit-variance directions that teacher and student
share in part, and a mean that moves between groups. Here a group is a (label, attribute) cell:

- the intrinsic dimension k is the number of leading principal components of the within-group
  covariance that hold a given share of its trace; whitened, they stand for the group features;
- Xi ``[k_T, k_S]`` is the correlation, within groups, of the teacher's components with the
  student's; its singular values are the canonical correlations, the cosines of the principal
  angles between the two subspaces of samples;
- for each label, mu is the mean of the minority less that of the majority in these components.

By chance alone, k components and n rows give |Xi|_F^2 of order k^2 / n and |mu|^2 of order k / n.
Both are removed: |Xi|_F^2 is the inner product of two estimates from disjoint halves, a canonical
correlation is measured on the half that did not choose its directions, and |mu|^2 has its expected
noise subtracted. That real features are Gaussian products as in the theory is not claimed.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from w2s_jax.features import FeatureSet, pair
from w2s_jax.features.scaling import scale_features
from w2s_jax.theory.problem import GaussianProblem, TheoryError
from w2s_jax.theory.risks import risks

SPECTRAL_MASS = 0.9
# Directions shared up to this correlation at most, so that two means always fit one problem.
MOST_SHARED = 0.999


class Interval(NamedTuple):
    """A value with the 2.5 and 97.5 percentiles of its bootstrap, shifted to the value."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class PairEstimate:
    """Estimates for a pair of feature sets, on the labelled rows of its pool.

    Attributes:
      spectral_mass: share of the within-group trace that components hold.
      teacher_dim: intrinsic dimension k_T.
      student_dim: intrinsic dimension k_S.
      similarity: |Xi|_F^2.
      shared: |Xi|_F^2 / min(k_T, k_S), 1 where one side sees all that the other does.
      teacher_separation: squared length of mu_T, mean over labels.
      student_separation: the same of mu_S.
      correlations: canonical correlations on rows that did not choose them, in falling order
        ``[min(k_T, k_S)]``.
      Xi: correlations of the components, with these singular values ``[k_T, k_S]``.
      mu_T: for each label, of the length that noise leaves ``[l, k_T]``.
      mu_S: likewise ``[l, k_S]``.
    """

    spectral_mass: float
    teacher_dim: Interval
    student_dim: Interval
    similarity: Interval
    shared: Interval
    teacher_separation: Interval
    student_separation: Interval
    correlations: np.ndarray
    Xi: np.ndarray
    mu_T: np.ndarray
    mu_S: np.ndarray

    def problems(self, n_labelled: int, n_unlabelled: int) -> list[GaussianProblem]:
        """One problem for each label: as many features as components and one, d_z = 1.

        So p_T gamma is the number of the teacher's features over its samples, as for the probe.
        """
        sizes = {"d_z": 1, "n_labelled": n_labelled, "n_unlabelled": n_unlabelled}
        means = zip(self.mu_T, self.mu_S, strict=True)
        return [GaussianProblem.from_overlap(self.Xi, *own, **sizes) for own in means]


class _Rows(NamedTuple):
    """Scaled features of the rows used, with their cells and halves."""

    teacher: np.ndarray
    student: np.ndarray
    labels: np.ndarray
    minority: np.ndarray
    half: np.ndarray


class _Side(NamedTuple):
    """Whitened components of one side within groups ``[n, k]``, and mu of each label ``[l, k]``."""

    components: np.ndarray
    mu: np.ndarray
    squared_mu: np.ndarray


def estimate_pair(
    teacher: FeatureSet,
    student: FeatureSet,
    *,
    spectral_mass: float = SPECTRAL_MASS,
    feature_scaling: str = "rms",
    num_resamples: int = 50,
    seed: int = 0,
) -> PairEstimate:
    """Estimates intrinsic dimensions, similarity and separations, with bootstrap intervals.

    Rows are resampled within the cells of each half, so that no row is ever in both halves.

    Args:
      teacher: the teacher's features.
      student: the student's, of the same rows.
      spectral_mass: share of the within-group trace that components hold, in (0, 1].
      feature_scaling: as in `w2s_jax.Grid`; components depend on it.
      num_resamples: of the bootstrap; 0 leaves the intervals NaN.
      seed: of halves and resamples.

    Raises:
      TheoryError: for a mass out of range, or a label without minority or majority rows in the
        pool, or with too few.
    """
    if not 0 < spectral_mass <= 1:
        raise TheoryError(f"spectral_mass must be in (0, 1], found {spectral_mass}")
    rng = np.random.default_rng(seed)
    rows = _rows(teacher, student, feature_scaling, rng)
    whole, parts = _estimate(rows, spectral_mass)
    resampled = [
        _estimate(_resampled(rows, rng), spectral_mass)[0] for _ in range(int(num_resamples))
    ]
    intervals: dict[str, Any] = {}
    for name, value in whole.items():
        low = high = float("nan")
        if resampled:
            values = np.array([one[name] for one in resampled])
            low, high = np.percentile(values - values.mean() + value, (2.5, 97.5))
        intervals[name] = Interval(float(value), float(low), float(high))
    return PairEstimate(spectral_mass, **intervals, **parts)


def _rows(
    teacher: FeatureSet, student: FeatureSet, scaling: str, rng: np.random.Generator
) -> _Rows:
    joined = pair(teacher, student)
    used = joined.pool_rows[joined.labels[joined.pool_rows] >= 0]
    labels, minority = joined.labels[used], joined.minority[used]
    for label in np.unique(labels):
        for part in (False, True):
            count = int(np.sum((labels == label) & (minority == part)))
            if count < 4:
                raise TheoryError(
                    f"separations need {'minority' if part else 'majority'} rows of every label in "
                    f"the pool, at least 4; label {label} has {count}"
                )
    features = []
    for own, index in ((teacher, joined.teacher_index), (student, joined.student_index)):
        features.append(scale_features(own.features[index], used, scaling, np.float64)[used])
    half = np.empty(len(used), np.int8)
    for places in _cells(labels, minority):
        half[rng.permutation(places)] = np.arange(len(places)) % 2
    return _Rows(features[0], features[1], labels, minority, half)


def _cells(labels: np.ndarray, minority: np.ndarray) -> list[np.ndarray]:
    """Places of the rows of each (label, minority) cell that has any."""
    number = 2 * labels + minority
    return [np.flatnonzero(number == value) for value in np.unique(number)]


def _resampled(rows: _Rows, rng: np.random.Generator) -> _Rows:
    places = [
        rng.choice(own, len(own))
        for cell in _cells(rows.labels, rows.minority)
        for own in (cell[rows.half[cell] == 0], cell[rows.half[cell] == 1])
    ]
    chosen = np.concatenate(places)
    return _Rows(*(array[chosen] for array in rows))


def _side(features: np.ndarray, rows: _Rows, mass: float) -> _Side:
    """Components by the pooled covariance within cells, and means of the minority in them."""
    cells = _cells(rows.labels, rows.minority)
    residual = features.copy()
    for places in cells:
        residual[places] -= residual[places].mean(axis=0)
    freedom = len(residual) - len(cells)
    values, vectors = np.linalg.eigh(residual.T @ residual / freedom)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    share = np.cumsum(values) / values.sum()
    k = int(np.searchsorted(share, mass - 1e-9)) + 1
    whitener = vectors[:, :k] / np.sqrt(values[:k])
    mu, squared = [], []
    for label in np.unique(rows.labels):
        own, less = (
            np.flatnonzero((rows.labels == label) & (rows.minority == part))
            for part in (True, False)
        )
        difference = (features[own].mean(axis=0) - features[less].mean(axis=0)) @ whitener
        noise = k * (1 / len(own) + 1 / len(less))
        length = difference @ difference
        unbiased = max(length - noise, 0.0)
        mu.append(difference * np.sqrt(unbiased / length) if length else difference)
        squared.append(unbiased)
    return _Side(residual @ whitener, np.stack(mu), np.array(squared))


def _estimate(rows: _Rows, mass: float) -> tuple[dict[str, float], dict[str, Any]]:
    teacher, student = (_side(own, rows, mass) for own in (rows.teacher, rows.student))
    halves = []
    for number in (0, 1):
        own = rows.half == number
        halves.append(teacher.components[own].T @ student.components[own] / own.sum())
    k_T, k_S = halves[0].shape
    # A direction seen by both sides has correlation 1; by chance more.
    similarity = float(np.clip(np.sum(halves[0] * halves[1]), 0, min(k_T, k_S)))
    held_out = []
    for chosen, other in (halves, halves[::-1]):
        left, _, right = np.linalg.svd(chosen, full_matrices=False)
        held_out.append(np.einsum("ir,ij,rj->r", left, other, right))
    correlations = np.sort(np.clip(np.mean(held_out, axis=0), 0, MOST_SHARED))[::-1]
    left, _, right = np.linalg.svd((halves[0] + halves[1]) / 2, full_matrices=False)
    values = {
        "teacher_dim": float(k_T),
        "student_dim": float(k_S),
        "similarity": similarity,
        "shared": similarity / min(k_T, k_S),
        "teacher_separation": float(teacher.squared_mu.mean()),
        "student_separation": float(student.squared_mu.mean()),
    }
    parts = {
        "correlations": correlations,
        "Xi": (left * correlations) @ right,
        "mu_T": teacher.mu,
        "mu_S": student.mu,
    }
    return values, parts


def predicted_gains(
    estimate: PairEstimate,
    eta_l: ArrayLike,
    eta_u: ArrayLike,
    eta_t: ArrayLike,
    *,
    n_labelled: int,
    n_unlabelled: int,
    form: str = "mixture",
) -> np.ndarray:
    """Gains in excess risk, mean over the problems of all labels, in units of sigma_y^2.

    Args:
      estimate: of the pair.
      eta_l: minority fraction of the labelled samples.
      eta_u: of the unlabelled samples.
      eta_t: of the test data; all three broadcast.
      n_labelled: samples of the teacher.
      n_unlabelled: samples of the student.
      form: as in `risks`; "proportional" is for few components.
    """
    problems = estimate.problems(n_labelled, n_unlabelled)
    return np.mean([risks(own, eta_l, eta_u, eta_t, form=form).gain for own in problems], axis=0)


def rank_agreement(
    predicted: ArrayLike, measured: ArrayLike, *, num_resamples: int = 1000, seed: int = 0
) -> Interval:
    """Spearman's rank correlation of predicted gains with measured ones, over settings.

    Its interval is from resampling the draws that were measured, not the settings.

    Args:
      predicted: gains ``[k]`` of k settings.
      measured: gains ``[s, k]`` of s draws.
      num_resamples: of the bootstrap.
      seed: of the resamples.

    >>> round(rank_agreement([0.1, 0.3, 0.2], [[1.0, 4.0, 2.0], [2.0, 5.0, 3.0]]).value, 12)
    1.0
    """
    expected, draws = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if draws.ndim != 2 or expected.shape != draws.shape[1:] or len(expected) < 2:
        raise TheoryError(
            "rank agreement needs predicted gains [k] and measured gains [s, k] of at least two "
            f"settings, found {list(expected.shape)} and {list(draws.shape)}"
        )

    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(draws), (num_resamples, len(draws)))
    means = np.concatenate([draws.mean(axis=0)[None], draws[chosen].mean(axis=1)])
    mine, theirs = stats.rankdata(expected), stats.rankdata(means, axis=1)
    mine, theirs = mine - mine.mean(), theirs - theirs.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(mine) * np.linalg.norm(theirs, axis=1)
    # Without any order, on either side, there is no correlation.
    found = np.where(lengths > 0, theirs @ mine / np.where(lengths > 0, lengths, 1.0), np.nan)
    low, high = np.percentile(found[1:], (2.5, 97.5))
    return Interval(float(found[0]), float(low), float(high))
