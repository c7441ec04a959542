"""Methods compared with vanilla, each at hyperparameters that one rule chose for all of them.

The rule scores a hyperparameter setting by the mean over seeds of one column (`RULES`); vanilla
chooses its penalty like every other method. Differences are paired by seed and test row.

A p-value belongs to its interval: both are Student's t with the standard error and the degrees of
freedom of `w2s_jax.report.statistics`, so that p < 0.05 where a 95 % interval excludes zero.
Adjusted p-values are Holm's over all methods and settings of one metric; they hold whatever the
dependence between the comparisons. The intervals are not adjusted.

What neither covers: the choice of hyperparameters itself, which was made once, for these seeds.

References: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
Statistics 6, 1979.
"""

import numpy as np
import pandas as pd
from scipy.special import stdtr

from w2s_jax.report.columns import column, equals, group_codes, missing, numbers, where
from w2s_jax.report.correctness import RowLayout, cell_weights, decode_correct, layout_of
from w2s_jax.report.frame import SETTING, SIZE, ReportError, show, split
from w2s_jax.report.statistics import Estimate, seed_interval, two_way_interval
from w2s_jax.sweep.axes import METHOD_NUMBERS, METHOD_OPTIONS

CELL = ("pair", *SETTING, *SIZE, "feature_scaling", "class_prior", "n_validation")
TEACHER = ("pair", "eta_l", "n_labelled", "feature_scaling", "class_prior", "n_validation")
HYPERPARAMETERS = ("student_l2", *(axis.name for axis in (*METHOD_NUMBERS, *METHOD_OPTIONS)))
# The only result that each rule reads, of students and of teachers.
RULES = {
    "validation": "student_validation_accuracy",
    "pseudolabels": "agreement_validation",
    "oracle": "student_accuracy",
}
TEACHER_RULES = {"validation": "teacher_validation_accuracy", "oracle": "teacher_accuracy"}
WORST = "worst group"
REFERENCES = ("teacher", "ceiling")


def choose_hyperparameters(rows: pd.DataFrame, rule: str = "validation") -> pd.DataFrame:
    """The rows of each method at one hyperparameter setting per pair, setting and size.

    The setting with the highest mean over seeds of the rule's column; ties go to the larger
    student_l2, then to the first in sorted order. Nothing else of the results is read.

    Args:
        rows: result rows of one teacher a draw; every candidate of a method has the same seeds.
        rule: "validation" (accuracy on labelled validation rows), "pseudolabels" (agreement with
            the teacher on the same rows, without their labels) or "oracle" (accuracy on test).

    Returns:
        The chosen rows, with `num_candidates`.

    Raises:
        ReportError: an unknown rule, a candidate that lacks a seed, or rows without the column.
    """
    _check_rule(rule, RULES)
    chosen = []
    for values, part in split(rows, (*CELL, "method")):
        where_is = f"{values['method']} at {_place(values)}"
        present = [name for name in HYPERPARAMETERS if name in part]
        candidate = group_codes(part, present)
        count = np.bincount(candidate)
        seeds = len(set(part["seed"]))
        if part.assign(_candidate=candidate).duplicated(["_candidate", "seed"]).any():
            raise ReportError(
                f"{where_is} has several rows for one seed and hyperparameter setting; give rows of"
                " one teacher_l2"
            )
        if (count != seeds).any():
            raise ReportError(
                f"{where_is} has {seeds} seeds, but a hyperparameter setting with {count.min()};"
                " finish the run"
            )
        score = _means(numbers(part, RULES[rule]), candidate, f"{where_is}: {RULES[rule]}")
        l2 = np.zeros(len(count))
        l2[candidate] = numbers(part, "student_l2")
        best = np.lexsort((np.arange(len(count)), -l2, -score))[0]
        chosen.append(where(part, candidate == best).assign(num_candidates=len(count)))
    return pd.concat(chosen, ignore_index=True)


def choose_teachers(rows: pd.DataFrame, rule: str) -> dict[tuple[object, ...], float]:
    """The teacher_l2 with the highest mean over seeds of the rule's column, for each of `TEACHER`.

    Ties go to the larger one. All methods of a setting share their teachers, so that their
    differences are theirs alone.

    Raises:
        ReportError: an unknown rule, or rows without the column.
    """
    _check_rule(rule, TEACHER_RULES)
    chosen = {}
    for values, part in split(rows, TEACHER):
        l2, code = np.unique(numbers(part, "teacher_l2"), return_inverse=True)
        name = TEACHER_RULES[rule]
        score = _means(numbers(part, name), code, f"{_place(values)}: {name}")
        chosen[tuple(values.values())] = float(l2[np.lexsort((-l2, -score))[0]])
    return chosen


def _check_rule(rule: str, known: dict[str, str]) -> None:
    if rule not in known:
        raise ReportError(f"unknown rule {rule!r} of choice; known: {', '.join(known)}")


def _place(values: dict) -> str:
    names = [name for name in ("pair", *SETTING, *SIZE) if name in values]
    return ", ".join(f"{name} {show(values[name])}" for name in names)


def _means(scores: np.ndarray, codes: np.ndarray, what: str) -> np.ndarray:
    """Mean score of each candidate, equal up to rounding where equal; -inf where one is missing."""
    means = np.bincount(codes, weights=scores) / np.bincount(codes)
    if np.isnan(means).all():
        raise ReportError(
            f"{what} is missing, so nothing can be chosen by it; draw validation rows"
            " (n_validation > 0) or use the rule 'oracle'"
        )
    return np.where(np.isnan(means), -np.inf, np.round(means, 12))


def p_value(found: Estimate) -> float:
    """Two-sided p-value of Student's t for an estimate of zero.

    >>> p_value(Estimate(1.0, 0.0, 2.0, 0.5, 10.0, 11)).__round__(4)
    0.0734
    """
    if not np.isfinite(found.standard_error):
        return float("nan")
    if abs(found.value) < 1e-12:  # rounding is no difference
        return 1.0
    if found.standard_error == 0:
        return 0.0
    t = abs(found.value) / found.standard_error
    return float(2 * stdtr(np.clip(found.df, 1.0, 1e6), -t))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p-values of one family; NaN entries are no members.

    Of m sorted p-values the i-th becomes ``max_{j <= i} min(1, (m - j + 1) p_(j))``.

    >>> holm(np.array([0.04, 0.01, np.nan, 0.03])).tolist()
    [0.06, 0.03, nan, 0.06]
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(len(p_values), np.nan)
    members = np.flatnonzero(np.isfinite(p_values))
    order = members[np.argsort(p_values[members], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def comparison_table(chosen: pd.DataFrame, metric: str | float = "accuracy") -> pd.DataFrame:
    """Every method beside vanilla: average, worst-group and per-group accuracy with differences.

    Averages and groups have intervals over seeds and test rows (`statistics`); the worst group, a
    minimum within each seed, has Student's t over seeds. Teacher and ceiling (at vanilla's penalty)
    stand beside the methods for reference, outside the families.

    Args:
        chosen: from `choose_hyperparameters`, vanilla among the methods.
        metric: the average: "accuracy" (plain) or a test minority fraction.

    Returns:
        One row a cell, method and metric ("average", "worst group" or a group's name): accuracy,
        difference (method - vanilla), their limits, p_value and p_holm.

    Raises:
        ReportError: without vanilla rows of the same seeds.
    """
    lines = []
    for values, cell in split(chosen, CELL):
        vanilla = _by_seed(where(cell, equals(cell, "method", "vanilla")))
        if not len(vanilla):
            raise ReportError(f"there are no vanilla rows at {_place(values)} to compare with")
        layout = layout_of(column(vanilla, "groups").iloc[0])
        base = _models(vanilla, "student", layout)
        for name in (*REFERENCES, *dict.fromkeys(column(cell, "method"))):
            role = name if name in REFERENCES else "student"
            part = vanilla if name in REFERENCES else where(cell, equals(cell, "method", name))
            part = _by_seed(part)
            if part["seed"].tolist() != vanilla["seed"].tolist():
                raise ReportError(f"{name} and vanilla have different seeds at {_place(values)}")
            if f"{role}_correct" not in part or missing(part, f"{role}_correct").any():
                continue
            found = _estimates(_models(part, role, layout), base, layout, metric)
            for which, (level, difference) in found.items():
                compared = name not in ("vanilla", *REFERENCES)
                lines.append(
                    {
                        **values,
                        "method": name,
                        "metric": which,
                        **level.columns("accuracy"),
                        **(difference.columns("difference") if name != "vanilla" else {}),
                        "p_value": p_value(difference) if compared else np.nan,
                        "num_seeds": level.num_seeds,
                        "num_candidates": int(part["num_candidates"].iloc[0]),
                        "hyperparameters": "" if name in REFERENCES else described(part.iloc[0]),
                    }
                )
    table = pd.DataFrame(lines)
    for name in ("difference", "difference_low", "difference_high"):
        table[name] = numbers(table, name)
    table["p_holm"] = np.nan
    for _, family in split(table, ("metric",)):
        table.loc[family.index, "p_holm"] = holm(numbers(family, "p_value"))
    return table


def described(row: pd.Series) -> str:
    """The hyperparameters of a row in words: "student_l2 = 0.1, keep_fraction = 0.5"."""
    named = [(name, show(row[name])) for name in HYPERPARAMETERS if name in row]
    return ", ".join(f"{name} = {value}" for name, value in named if value not in ("–", "nan"))


def _by_seed(part: pd.DataFrame) -> pd.DataFrame:
    return part.sort_values("seed", kind="stable")


def _models(part: pd.DataFrame, role: str, layout: RowLayout) -> tuple[np.ndarray, np.ndarray]:
    """Correctness ``[s, t]`` and worst-group accuracy ``[s]``."""
    bits = decode_correct(column(part, f"{role}_correct"), layout.num_test)
    return bits.astype(np.float64), numbers(part, f"{role}_worst_group_accuracy")


def _estimates(
    ours: tuple[np.ndarray, np.ndarray],
    base: tuple[np.ndarray, np.ndarray],
    layout: RowLayout,
    metric: str | float,
) -> dict[str, tuple[Estimate, Estimate]]:
    """Level and difference by metric."""
    pairs = ours[0], ours[0] - base[0]
    weights = cell_weights(layout, metric)
    level, difference = (two_way_interval(m, layout.cell, weights) for m in pairs)
    found = {"average": (level, difference)}
    found[WORST] = seed_interval(ours[1]), seed_interval(ours[1] - base[1])
    for number, name in enumerate(layout.names):
        if layout.counts[number]:
            own = layout.group == number
            strata, whole = np.zeros(own.sum(), np.int64), np.ones(1)
            level, difference = (two_way_interval(m[:, own], strata, whole) for m in pairs)
            found[name] = level, difference
    return found
