"""Choice of teacher and student l2 from labelled validation rows, never from test rows."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from w2s_jax.report.columns import equals, group_codes, missing, numbers, values_of, where
from w2s_jax.report.frame import CONDITION, ReportError, check_rows, middle, show, split

TEACHER_AXES = ("pair", "seed", "eta_l", "n_labelled", *CONDITION)
STUDENT_AXES = (*TEACHER_AXES, "eta_u", "n_unlabelled")
RULES = ("validation", "middle")


def select_l2(rows: pd.DataFrame, rule: str = "validation") -> pd.DataFrame:
    """Rows at one teacher l2 and one student l2 a draw, chosen without test data.

    "validation": for each pair, seed, eta_l, n_labelled, feature scaling, class prior, kind of
    pseudolabels and n_validation, the teacher_l2 with the highest teacher_validation_accuracy; then
    for each eta_u and n_unlabelled the student_l2 with the highest student_validation_accuracy of
    the vanilla row. Ties go to the larger l2. Only these two columns are read, and both count
    labelled validation rows only. A student is thus validated on labels that its teacher could have
    trained on, drawn at eta_l; it never sees the labels of its own unlabelled rows.

    "middle": the middle value of each pair's grid, the upper one of two. It reads no result.

    Rows of other methods are kept when their vanilla row is. A draw whose chosen l2 has no row (a
    sweep still under way) is absent from the result.

    Args:
        rows: result rows, vanilla and others.
        rule: "validation" or "middle".

    Returns:
        The chosen rows with their index.

    Raises:
        ReportError: An unknown rule, or rows without validation accuracies.
    """
    if rule not in RULES:
        raise ReportError(f"unknown rule {rule!r} for the choice of l2; known: {', '.join(RULES)}")
    table = check_rows(rows)
    vanilla = where(table, equals(table, "method", "vanilla"))
    chosen = _by_validation(vanilla) if rule == "validation" else _middle(vanilla)
    return where(rows, np.isin(table["vanilla_position"].to_numpy(), chosen))


def has_validation(rows: pd.DataFrame) -> bool:
    """Whether every vanilla row carries the validation accuracies that the rule reads."""
    vanilla = where(rows, equals(rows, "method", "vanilla"))
    trained = where(vanilla, ~missing(vanilla, "teacher_l2"))
    return bool(
        np.isfinite(numbers(vanilla, "student_validation_accuracy")).all()
        and np.isfinite(numbers(trained, "teacher_validation_accuracy")).all()
    )


def _by_validation(vanilla: pd.DataFrame) -> list[int]:
    best = _best(vanilla, TEACHER_AXES, "teacher_l2", "teacher_validation_accuracy")
    draws = where(vanilla, best)
    best = _best(draws, STUDENT_AXES, "student_l2", "student_validation_accuracy")
    return draws.index[best].tolist()


def _best(part: pd.DataFrame, axes: Sequence[str], l2: str, column: str) -> np.ndarray:
    """Mask of the rows whose l2 has the highest `column` among rows equal in `axes`.

    The larger l2 of several; every row where there is no l2 (a teacher from elsewhere).
    """
    value, score = numbers(part, l2), numbers(part, column)
    group = group_codes(part, axes)
    order = np.lexsort((value, np.nan_to_num(score, nan=-np.inf)))
    last = np.zeros(group.max() + 1, np.int64)
    last[group[order]] = order  # the last of repeated indices stays: the highest score
    winner = last[group]
    unscored = np.isnan(score[winner]) & ~np.isnan(value[winner])
    if unscored.any():
        raise ReportError(
            f"l2 cannot be chosen by validation: {column} is missing for"
            f" {_name(part.iloc[np.flatnonzero(unscored)[0]], axes)}; draw labelled validation rows"
            " (n_validation > 0) or use the rule 'middle'"
        )
    return (value == value[winner]) | np.isnan(value[winner])


def _middle(vanilla: pd.DataFrame) -> list[int]:
    positions: list[int] = []
    for _, pair in split(vanilla, ("pair", *CONDITION)):
        for axis in ("teacher_l2", "student_l2"):
            known = values_of(pair, axis)
            if known:
                pair = where(pair, equals(pair, axis, middle(known)))
        positions += pair.index.tolist()
    return positions


def _name(row: pd.Series, axes: Sequence[str]) -> str:
    return ", ".join(f"{axis} {show(row[axis])}" for axis in axes)
