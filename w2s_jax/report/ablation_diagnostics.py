"""What students make of their teacher's errors, how they agree with it, and their calibration."""

import numpy as np
import pandas as pd

from w2s_jax.report.ablation import CELL
from w2s_jax.report.columns import column, numbers
from w2s_jax.report.correctness import decode_correct, layout_of
from w2s_jax.report.frame import split
from w2s_jax.report.statistics import seed_interval

ALL = "all"
ERRORS = ("corrected", "copied", "new_errors")
# Name in the table, column of the rows.
OF_ROWS = {
    "calibration_error": "student_calibration_error",
    "negative_log_likelihood": "student_negative_log_likelihood",
    "agreement_unlabelled": "agreement_unlabelled",
    "kept_count": "kept_count",
    "kept_minority_fraction": "kept_minority_fraction",
    "kept_pseudolabel_accuracy": "kept_pseudolabel_accuracy",
    "kept_pseudolabel_accuracy_majority": "kept_pseudolabel_accuracy_majority",
    "kept_pseudolabel_accuracy_minority": "kept_pseudolabel_accuracy_minority",
}


def diagnostics_table(chosen: pd.DataFrame) -> pd.DataFrame:
    """Diagnostics of every method: means over seeds, with Student's t intervals over seeds.

    Of the test rows on which the teacher is wrong, `corrected` is the share on which the student is
    right and `copied` the share on which it predicts the same wrong class (at more than two classes
    it may be wrong otherwise); `new_errors` is its share of errors where the teacher is right.
    `agreement` is the share of test rows on which both predict the same class. These four exist for
    each group; what the teacher predicts is known to the rows by `agreement_test` and by the
    correctness bits. A share of no rows in a seed is left out of the mean.

    Args:
        chosen: from `choose_hyperparameters`.

    Returns:
        One row a cell, method and group, "all" first; calibration, agreement on the unlabelled rows
        and the make-up of the rows kept are in the rows of "all" only.
    """
    lines = []
    for values, part in split(chosen, (*CELL, "method")):
        layout = layout_of(column(part, "groups").iloc[0])
        right = {
            model: decode_correct(column(part, f"{model}_correct"), layout.num_test).astype(bool)
            for model in ("teacher", "student")
        }
        two_classes = len(set(layout.labels)) == 2
        for number, group in enumerate((ALL, *layout.names)):
            mask = layout.group == number - 1 if number else np.ones(layout.num_test, bool)
            name = f"agreement_test_group_{number - 1}" if number else "agreement_test"
            teacher, student = right["teacher"][:, mask], right["student"][:, mask]
            agreement = numbers(part, name)
            if two_classes:  # rows from before the column existed tell it too
                agreement = _share(teacher == student, np.ones_like(teacher))
            found = {"agreement": agreement, **errors(teacher, student, agreement)}
            if not number:
                found |= {key: numbers(part, name) for key, name in OF_ROWS.items()}
            line = {**values, "group": group}
            for key, by_seed in found.items():
                line |= seed_interval(by_seed).columns(key)
            lines.append(line)
    return pd.DataFrame(lines)


def errors(teacher: np.ndarray, student: np.ndarray, agreement: np.ndarray) -> dict:
    """Shares of corrected, copied and new errors.

    Args:
        teacher: whether it is right ``[s, t]``.
        student: likewise.
        agreement: share of rows on which they predict the same class ``[s]``.

    Returns:
        Arrays ``[s]``, NaN where the teacher makes no error, or nothing else.
    """
    same = agreement * teacher.shape[1] - (teacher & student).sum(axis=1)  # and both wrong
    wrong = (~teacher).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        copied = np.where(wrong > 0, same / wrong, np.nan)
    values = _share(student, ~teacher), copied, _share(~student, teacher)
    return dict(zip(ERRORS, values, strict=True))


def _share(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    total = among.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, (of & among).sum(axis=1) / total, np.nan)
