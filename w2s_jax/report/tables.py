"""Tidy tables of estimates from result rows: one row a pair, setting and method."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from w2s_jax.report.columns import equals, missing, numbers, values_of, where
from w2s_jax.report.estimates import Sample, columns_for, sample
from w2s_jax.report.frame import (
    AXES,
    IDENTITY,
    PQ,
    SETTING,
    at_pq,
    check_rows,
    methods,
    split,
)
from w2s_jax.report.statistics import Estimate, seed_interval

KEPT = (
    "kept_minority_fraction",
    "kept_pseudolabel_accuracy",
    "kept_pseudolabel_accuracy_majority",
    "kept_pseudolabel_accuracy_minority",
)
AVERAGES = (
    "accuracy",
    "group_balanced_accuracy",
    "train_weighted_accuracy",
    "worst_group_accuracy",
)


def setting_table(
    rows: pd.DataFrame,
    *,
    metrics: Sequence[str | float] = ("accuracy",),
    keep_fraction: float | None = None,
    gce_q: float | None = None,
) -> pd.DataFrame:
    """Accuracies, gains and relative improvement of every pair, setting, method and metric.

    Each estimate `x` has columns x, x_low, x_high: teacher, vanilla, ceiling (accuracies), gain
    (vanilla - teacher), pgr (plain accuracy) and, in the rows of a method other than vanilla,
    method_accuracy, method_gain (method - teacher), effect (method - vanilla), improvement
    (100 (method - vanilla) / vanilla, averaged over (n, N)) and method_pgr. All are averaged over
    seeds and (n, N).

    Args:
        rows: result rows at one l2 a draw (see `select_l2`).
        metrics: "accuracy" (plain test accuracy) or test minority fractions eta_t.
        keep_fraction: p of the methods that have one; the middle of the grid where not given.
        gce_q: likewise q.

    Returns:
        A frame with pair, eta_l, eta_u, variant, metric, keep_fraction, gce_q, num_seeds, num_sizes
        and the estimates.
    """
    table = check_rows(rows)
    lines = []
    for name in ("vanilla", *methods(table)):
        part = where(table, equals(table, "variant", name))
        p, q, part = at_pq(part, keep_fraction, gce_q)
        for values, cell in split(part, ("pair", *SETTING)):
            drawn = sample(table, cell)
            for metric in metrics:
                lines.append(
                    {
                        **values,
                        "variant": name,
                        "metric": metric,
                        **dict(zip(PQ, (p, q), strict=True)),
                        **_counts(drawn),
                        **_setting(drawn, name, metric),
                    }
                )
    return pd.DataFrame(lines)


def _counts(drawn: Sample) -> dict[str, int]:
    return {"num_seeds": len(drawn.seeds), "num_sizes": len(drawn.sizes)}


def _setting(drawn: Sample, name: str, metric: str | float) -> dict[str, float]:
    found: dict[str, Estimate] = {
        "teacher": drawn.level("teacher", metric),
        "vanilla": drawn.level("vanilla", metric),
        "ceiling": drawn.level("ceiling", metric),
        "gain": drawn.difference("vanilla", "teacher", metric),
        "pgr": drawn.recovered("vanilla"),
    }
    if name != "vanilla":
        found["method_accuracy"] = drawn.level("method", metric)
        found["method_gain"] = drawn.difference("method", "teacher", metric)
        found["effect"] = drawn.difference("method", "vanilla", metric)
        found["improvement"] = drawn.relative("method", "vanilla", metric)
        found["method_pgr"] = drawn.recovered("method")
    return {key: value for name, item in found.items() for key, value in item.columns(name).items()}


def relative_improvement(
    rows: pd.DataFrame,
    *,
    metric: str | float = "accuracy",
    keep_fraction: float | None = None,
    gce_q: float | None = None,
) -> pd.DataFrame:
    """Relative improvement (%) of each method over vanilla at the declared (p, q).

    100 (method - vanilla) / vanilla on seed means per (n, N), then averaged over (n, N).

    Returns:
        One row a pair, setting and method: improvement with limits, keep_fraction, gce_q, counts.
    """
    table = check_rows(rows)
    lines = []
    for name in methods(table):
        p, q, part = at_pq(where(table, equals(table, "variant", name)), keep_fraction, gce_q)
        for values, cell in split(part, ("pair", *SETTING)):
            drawn = sample(table, cell, ("vanilla", "method"))
            found = drawn.relative("method", "vanilla", metric)
            lines.append(
                {**values, "variant": name, "metric": metric, **dict(zip(PQ, (p, q), strict=True))}
                | _counts(drawn)
                | found.columns("improvement")
            )
    return pd.DataFrame(lines)


def oracle_improvement(rows: pd.DataFrame, *, metric: str | float = "accuracy") -> pd.DataFrame:
    """Relative improvement (%) at the (p, q) that is best *on the test set*: an oracle that peeks.

    One (p, q) a pair, setting and method, the one with the highest improvement averaged over seeds
    and (n, N). It says what the grid holds, not what a user would get, and has no interval: the
    best of several noisy numbers is too high by selection.

    Returns:
        One row a pair, setting and method: improvement, keep_fraction, gce_q, num_candidates.
    """
    return best_pq(improvement_map(rows, metrics=(metric,)))


def best_pq(full: pd.DataFrame) -> pd.DataFrame:
    """The line with the highest improvement of each pair, setting, method and metric of a map."""
    lines = []
    for values, part in split(full, ("pair", *SETTING, "variant", "metric")):
        found = numbers(part, "improvement")
        if np.isfinite(found).any():
            best = part.iloc[np.nanargmax(found)]
            chosen = {name: best[name] for name in ("improvement", *PQ)}
            lines.append({**values, **chosen, "num_candidates": len(part)})
    return pd.DataFrame(lines)


def improvement_map(
    rows: pd.DataFrame, *, metrics: Sequence[str | float] = ("accuracy",)
) -> pd.DataFrame:
    """Effect (method - vanilla) and relative improvement at every (p, q) of every setting."""

    def entries(drawn: Sample, metric: str | float) -> dict[str, float]:
        return drawn.difference("method", "vanilla", metric).columns("effect") | drawn.relative(
            "method", "vanilla", metric
        ).columns("improvement")

    table = check_rows(rows)
    part = where(table, ~equals(table, "method", "vanilla"))
    return _estimates(table, part, ("variant", *PQ), ("vanilla", "method"), metrics, entries)


def l2_map(rows: pd.DataFrame, *, metrics: Sequence[str | float] = ("accuracy",)) -> pd.DataFrame:
    """Gain (vanilla - teacher) at every teacher_l2 and student_l2 of every setting."""
    table = check_rows(rows)
    part = where(table, equals(table, "method", "vanilla"))
    return _estimates(
        table,
        part,
        ("teacher_l2", "student_l2"),
        ("teacher", "vanilla"),
        metrics,
        lambda drawn, metric: drawn.difference("vanilla", "teacher", metric).columns("gain"),
    )


def _estimates(
    table: pd.DataFrame,
    part: pd.DataFrame,
    axes: Sequence[str],
    models: Sequence[str],
    metrics: Sequence[str | float],
    entries: Callable[[Sample, str | float], dict[str, float]],
) -> pd.DataFrame:
    lines = []
    needed = [*IDENTITY, *AXES, "variant", "vanilla_position", *columns_for(models)]
    needed = [name for name in needed if name in table]
    table, part = table.loc[:, needed], part.loc[:, needed]
    for values, cell in split(part, ("pair", *SETTING, *axes)):
        drawn = sample(table, cell, models)
        for metric in metrics:
            lines.append({**values, "metric": metric, **_counts(drawn), **entries(drawn, metric)})
    return pd.DataFrame(lines)


def group_table(
    rows: pd.DataFrame, *, keep_fraction: float | None = None, gce_q: float | None = None
) -> pd.DataFrame:
    """Accuracy of teacher, vanilla student, method and ceiling in each group, with limits.

    Returns:
        One row a pair, setting, variant, group and model: accuracy, accuracy_low, accuracy_high,
        and the group's label, minority flag and test_count. Vanilla rows stand in for the method
        only where there is no other method.
    """
    table = check_rows(rows)
    lines = []
    for name in methods(table) or ["vanilla"]:
        part = where(table, equals(table, "variant", name))
        _, _, part = at_pq(part, keep_fraction, gce_q)
        for values, cell in split(part, ("pair", *SETTING)):
            drawn = sample(table, cell)
            for model in ("teacher", "vanilla", "method", "ceiling"):
                if model not in drawn.bits or (model == "method" and name == "vanilla"):
                    continue
                layout = drawn.layout
                for number, found in enumerate(drawn.by_group(model)):
                    lines.append(
                        {
                            **values,
                            "variant": name,
                            "model": model,
                            "group": layout.names[number],
                            "label": layout.labels[number],
                            "minority": layout.minority[number],
                            "test_count": layout.counts[number],
                            **found.columns("accuracy"),
                        }
                    )
    return pd.DataFrame(lines)


def kept_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Minority fraction and pseudolabel accuracy of the rows kept for retraining, by p.

    Averaged over (n, N) within a seed, with Student's t over seeds: these are fractions of
    unlabelled rows, which each seed draws anew. The kept rows do not depend on q, so its rows are
    averaged over. Vanilla keeps every row and is there as p = 1 where no method row is.
    """
    table = check_rows(rows)
    lines = []
    if not set(KEPT) <= set(table.columns):
        return pd.DataFrame(lines)
    selecting = where(table, ~missing(table, "keep_fraction") & ~equals(table, "method", "vanilla"))
    for values, part in split(selecting, ("pair", *SETTING, "variant")):
        whole = table.loc[np.unique(part["vanilla_position"].to_numpy())]
        by_p = {
            p: where(part, equals(part, "keep_fraction", p))
            for p in values_of(part, "keep_fraction")
        }
        for p, cell in ({1.0: whole} | by_p).items():
            found = {name: seed_interval(_by_seed(cell, name)) for name in KEPT}
            columns = {k: v for name, item in found.items() for k, v in item.columns(name).items()}
            lines.append({**values, "keep_fraction": p, **columns})
    frame = pd.DataFrame(lines)
    if len(frame):
        frame = frame.sort_values(["pair", *SETTING, "variant", "keep_fraction"])
    return frame.reset_index(drop=True)


def _by_seed(part: pd.DataFrame, name: str) -> np.ndarray:
    _, codes = np.unique(part["seed"].to_numpy(), return_inverse=True)
    return np.bincount(codes, weights=numbers(part, name)) / np.bincount(codes)


def averages_table(
    rows: pd.DataFrame, *, keep_fraction: float | None = None, gce_q: float | None = None
) -> pd.DataFrame:
    """Plain, group-balanced, train-weighted and worst-group accuracy: means over seeds and (n, N).

    Returns:
        One row a pair, setting and model ("teacher", "vanilla", a method variant, "ceiling").
    """
    table = check_rows(rows)
    lines = []
    for name in ("vanilla", *methods(table)):
        _, _, part = at_pq(where(table, equals(table, "variant", name)), keep_fraction, gce_q)
        for values, cell in split(part, ("pair", *SETTING)):
            models = {"teacher": "teacher", "vanilla": "student", "ceiling": "ceiling"}
            for model, column in (models if name == "vanilla" else {name: "student"}).items():
                found = {
                    average: float(numbers(cell, f"{column}_{average}").mean())
                    for average in AVERAGES
                }
                if any(np.isfinite(value) for value in found.values()):
                    lines.append({**values, "model": model, **found})
    return pd.DataFrame(lines)
