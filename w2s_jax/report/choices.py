"""What a report shows when rows hold several conditions, l2 values or (p, q)."""

from dataclasses import dataclass

import pandas as pd

from w2s_jax.report.columns import equals, values_of, where
from w2s_jax.report.frame import PQ, SIZE, check_rows, choose_pq, conditions, methods, show, split
from w2s_jax.report.selection import has_validation, select_l2


@dataclass(frozen=True, eq=False)
class Analysis:
    """Rows of one condition, ready for the tables.

    Attributes:
        label: the values of the axes that vary between conditions; empty when there is one.
        table: all checked rows of the condition.
        chosen: those at the l2 shown.
        l2_rule: "validation", "middle" or "only".
        l2_note: one sentence that says how l2 was chosen.
    """

    label: str
    table: pd.DataFrame
    chosen: pd.DataFrame
    l2_rule: str
    l2_note: str


def analyses(rows: pd.DataFrame) -> list[Analysis]:
    """One analysis a condition (feature_scaling, class_prior, pseudolabels, n_validation).

    l2 is chosen by validation where the rows allow it, else the middle of the grid is taken.
    """
    found = []
    for label, table in conditions(check_rows(rows)):
        several = any(
            len(values_of(part, axis)) > 1
            for _, part in split(table, ("pair",))
            for axis in ("teacher_l2", "student_l2")
        )
        rule = "middle" if several else "only"
        if several and has_validation(table):
            rule = "validation"
        chosen = table if rule == "only" else select_l2(table, rule)
        found.append(Analysis(label, table, chosen, rule, _l2_note(chosen, rule)))
    return found


def _l2_note(chosen: pd.DataFrame, rule: str) -> str:
    if rule == "validation":
        return (
            "Teacher l2 and student l2 were chosen in every draw by accuracy on labelled validation"
            " rows, never on test rows."
        )
    values = [
        f"{axis} = {', '.join(show(value) for value in values_of(chosen, axis)) or 'none'}"
        for axis in ("teacher_l2", "student_l2")
    ]
    if rule == "only":
        return f"The rows have one l2 each: {' and '.join(values)}."
    return (
        "Without validation rows l2 could not be chosen: the numbers are at"
        f" {' and '.join(values)}, the middle of the grid."
    )


def pq_note(table: pd.DataFrame, keep_fraction: float | None, gce_q: float | None) -> str:
    """One sentence on the (p, q) at which the methods are shown; empty where they have none."""
    names = methods(table)
    notes = []
    for name in names:
        part = where(table, equals(table, "variant", name))
        chosen = choose_pq(part, keep_fraction, gce_q)
        parts = []
        for axis, symbol, value, asked in zip(
            PQ, ("p", "q"), chosen, (keep_fraction, gce_q), strict=True
        ):
            if len(values_of(part, axis)):
                single = len(values_of(part, axis)) == 1
                how = "the only value" if single else "the middle of the grid, not selected"
                how = "as declared" if asked is not None else how
                parts.append(f"{symbol} = {show(value)} ({how})")
        if parts:
            label = f"{name[:1].upper()}{name[1:]}" if len(names) > 1 else "Retraining"
            notes.append(f"{label} is shown at {' and '.join(parts)}.")
    return " ".join(notes)


def extent_note(table: pd.DataFrame) -> str:
    """Seeds and sizes of the rows: "10 seeds; (n, N) = (200, 2000), (400, 4000)"."""
    seeds = len(values_of(table, "seed"))
    sizes = [
        f"({show(values['n_labelled'])}, {show(values['n_unlabelled'])})"
        for values, _ in split(table, SIZE)
    ]
    text = f"{seeds} seed{'s' if seeds != 1 else ''}; "
    if len(sizes) > 6:
        return text + f"{len(sizes)} sizes (n, N) from {sizes[0]} to {sizes[-1]}"
    return text + f"(n, N) = {', '.join(sizes)}"
