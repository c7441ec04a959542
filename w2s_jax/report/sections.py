"""Tables of the page: headers and cells as text, from the tidy tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from w2s_jax.report.columns import (
    column,
    equals,
    group_codes,
    missing,
    number,
    numbers,
    values_of,
    where,
)
from w2s_jax.report.comparison import SETTINGS, Comparison, show_range
from w2s_jax.report.frame import AXES, CONDITION, SETTING, show, split
from w2s_jax.report.tables import AVERAGES
from w2s_jax.report.wording import signed

FINISHED = (
    "converged",
    "constant",
    "absent_class",
    "minimum_norm",
    "trained",
    "early_stopped",
)
PGR_NOTE = (
    " PGR is the share of the ceiling's lead over the teacher that the vanilla student recovers, in"
    " plain accuracy; it says little where that lead is not clearly above zero."
)
TEACHER_HEAD = ("pair", "seed", "eta_l", "n_labelled", "teacher_l2", *CONDITION)
CEILING_HEAD = ("pair", "seed", "eta_u", "n_unlabelled", "student_l2", *CONDITION)


@dataclass
class Cell:
    """A table cell: a value, a second line in small print, and whether the value stands out."""

    text: str
    small: str = ""
    strong: bool = False


@dataclass
class Table:
    """A table of the page; a row of one cell is a heading across the table."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    folded: bool = False


def metric_name(metric: str | float) -> str:
    """A metric in words."""
    return "plain test accuracy" if metric == "accuracy" else f"accuracy at eta_t = {show(metric)}"


def difference(line: pd.Series, name: str, scale: float, digits: int) -> Cell:
    """A difference with its interval; strong where the interval excludes zero."""
    value, low, high = (scale * number(line, end) for end in (name, f"{name}_low", f"{name}_high"))
    small = f"[{signed(low, digits)}, {signed(high, digits)}]" if np.isfinite(low + high) else ""
    return Cell(signed(value, digits), small, bool(low > 1e-12 or high < -1e-12))


def level(line: pd.Series, name: str) -> Cell:
    """An accuracy in percent with its half width."""
    value = 100 * number(line, name)
    half = 50 * (number(line, f"{name}_high") - number(line, f"{name}_low"))
    if not np.isfinite(value):
        return Cell("–")
    return Cell(f"{value:.1f}", f"± {half:.1f}" if np.isfinite(half) else "")


def setting_cells(values: dict[str, Any]) -> list[Cell]:
    """The two cells that name a setting."""
    return [Cell(show(values[axis])) for axis in SETTING]


def improvement_table(table: pd.DataFrame, variant: str, metrics: Sequence[str | float]) -> Table:
    """Relative improvement laid out with settings down and pairs across, a block a metric."""
    part = where(table, equals(table, "variant", variant))
    pairs = values_of(part, "pair")
    choice = [
        f"{symbol} = {show(float(numbers(part, axis)[0]))}"
        for symbol, axis in (("p", "keep_fraction"), ("q", "gce_q"))
        if np.isfinite(numbers(part, axis)[0])
    ]
    found = Table(
        f"Relative improvement (%) of {variant} over vanilla"
        f"{' at ' + ', '.join(choice) if choice else ''}: 100 (method − vanilla) / vanilla on seed"
        " means, averaged over (n, N), with 95 % intervals; bold where the interval excludes 0.",
        ["eta_l", "eta_u", *pairs],
    )
    for metric in metrics:
        found.rows.append([Cell(metric_name(metric))])
        block = where(part, equals(part, "metric", metric))
        for values, lines in split(block, SETTING):
            cells = setting_cells(values)
            for pair in pairs:
                mine = where(lines, equals(lines, "pair", pair))
                one = difference(mine.iloc[0], "improvement", 1.0, 2) if len(mine) else Cell("–")
                cells.append(one)
            found.rows.append(cells)
    return found


def oracle_table(best: pd.DataFrame, variant: str) -> Table | None:
    """The same layout at the (p, q) that is best on test; None where there is one candidate."""
    part = where(best, equals(best, "variant", variant)) if len(best) else best
    if not len(part) or numbers(part, "num_candidates").max() < 2:
        return None
    pairs = values_of(part, "pair")
    found = Table(
        f"ORACLE, peeks at the test set: relative improvement (%) of {variant} in plain test"
        " accuracy at the (p, q) that is best on test, chosen for each pair and setting. It shows"
        " what the grid holds, is too high by selection, and is not what a user would get.",
        ["eta_l", "eta_u", *pairs],
    )
    for values, lines in split(part, SETTING):
        cells = setting_cells(values)
        for pair in pairs:
            mine = where(lines, equals(lines, "pair", pair))
            if len(mine):
                line = mine.iloc[0]
                at = f"p = {show(line['keep_fraction'])}, q = {show(line['gce_q'])}"
                cells.append(Cell(signed(number(line, "improvement"), 2), at))
            else:
                cells.append(Cell("–"))
        found.rows.append(cells)
    return found


def comparison_table(comparison: Comparison) -> Table:
    """Improvements of each pair in the two published settings, and their ranges."""
    found = Table(comparison.caption(), ["weak:strong", *SETTINGS])
    lines = comparison.improvements
    for pair in values_of(lines, "pair") if len(lines) else []:
        mine = where(lines, equals(lines, "pair", pair))
        cells = [Cell(pair)]
        for setting in range(len(SETTINGS)):
            line = where(mine, equals(mine, "setting", setting))
            cells.append(
                difference(line.iloc[0], "improvement", 1.0, 2) if len(line) else Cell("–")
            )
        found.rows.append(cells)
    settings = range(len(SETTINGS))
    for name, ranges in (
        ("measured", [comparison.measured(setting) for setting in settings]),
        (
            "measured, ORACLE: (p, q) best on test",
            [comparison.measured(setting, "oracle") for setting in settings],
        ),
        ("published", [show_range(ends) for ends in comparison.published_ranges()]),
    ):
        found.rows.append([Cell(name, strong=True), *map(Cell, ranges)])
    return found


def accuracy_table(
    table: pd.DataFrame, variants: Sequence[str], metric: str | float, folded: bool
) -> Table:
    """Accuracies, gain, effects and PGR of one pair, a row a setting."""
    part = where(table, equals(table, "metric", metric))
    vanilla = where(part, equals(part, "variant", "vanilla"))
    ceiling = bool(np.isfinite(numbers(vanilla, "ceiling")).any())
    recovered = ceiling and (metric == "accuracy" or not folded)
    columns = ["eta_l", "eta_u", "teacher", "vanilla", *variants]
    columns += ["ceiling"] if ceiling else []
    columns += ["gain", *(f"{name} − vanilla" for name in variants)]
    columns += ["PGR, vanilla"] if recovered else []
    found = Table(
        f"{metric_name(metric).capitalize()} (%) and differences in percentage points, with 95 %"
        " intervals; bold where the interval excludes 0. Gain is vanilla − teacher."
        + (PGR_NOTE if recovered else ""),
        columns,
        folded=folded,
    )
    for values, lines in split(vanilla, SETTING):
        line = lines.iloc[0]
        mask = equals(part, "eta_l", values["eta_l"]) & equals(part, "eta_u", values["eta_u"])
        others = [where(part, mask & equals(part, "variant", name)) for name in variants]
        cells = [*setting_cells(values), level(line, "teacher"), level(line, "vanilla")]
        cells += [level(m.iloc[0], "method_accuracy") if len(m) else Cell("–") for m in others]
        cells += [level(line, "ceiling")] if ceiling else []
        cells.append(difference(line, "gain", 100.0, 2))
        cells += [difference(m.iloc[0], "effect", 100, 2) if len(m) else Cell("–") for m in others]
        cells += [_pgr(line)] if recovered else []
        found.rows.append(cells)
    return found


def _pgr(line: pd.Series) -> Cell:
    cell = difference(line, "pgr", 1.0, 2)
    if np.isfinite(number(line, "pgr")) and not cell.small:
        cell.small = "(lead unclear)"
    return cell


def averages(table: pd.DataFrame) -> Table:
    """Other averages of one pair: seed means without intervals."""
    found = Table(
        "Other averages of accuracy (%), means over seeds and (n, N): over test rows (plain), over"
        " groups, over groups weighted by their training share, and the worst group.",
        ["eta_l", "eta_u", "model", *(name.replace("_accuracy", "") for name in AVERAGES)],
        folded=True,
    )
    for _, line in table.iterrows():
        values = [100 * number(line, name) for name in AVERAGES]
        cells = [Cell(show(line[axis])) for axis in SETTING] + [Cell(str(line["model"]))]
        found.rows.append(
            cells + [Cell(f"{value:.1f}" if np.isfinite(value) else "–") for value in values]
        )
    return found


def status_table(table: pd.DataFrame) -> tuple[Table, int]:
    """Distinct heads by role and status, and how many stopped before they converged."""
    vanilla = where(table, equals(table, "method", "vanilla"))
    roles = [
        ("teacher", vanilla, "teacher_status", TEACHER_HEAD),
        ("ceiling", vanilla, "ceiling_status", CEILING_HEAD),
        *(
            (name, where(table, equals(table, "method", name)), "student_status", ("key",))
            for name in values_of(table, "method")
        ),
    ]
    counted: dict[str, dict[str, int]] = {}
    for role, part, name, identity in roles:
        if name not in part or not len(part):
            continue
        part = where(part, ~missing(part, name))
        if not len(part):
            continue
        _, first = np.unique(group_codes(part, identity), return_index=True)
        statuses = column(part.iloc[first], name).astype(str).tolist()
        counted[role] = {status: statuses.count(status) for status in sorted(set(statuses))}
    known = sorted({status for counts in counted.values() for status in counts})
    known.sort(key=lambda status: status != "converged")
    found = Table(
        "Distinct heads by role and status at the end of the fit, counted once a pair.",
        ["head", *known, "total"],
    )
    for role, counts in counted.items():
        cells = [Cell(str(counts.get(status, 0))) for status in known]
        found.rows.append([Cell(role), *cells, Cell(str(sum(counts.values())))])
    unfinished = sum(
        number
        for counts in counted.values()
        for name, number in counts.items()
        if name not in FINISHED
    )
    return found, unfinished


def pairs_table(table: pd.DataFrame) -> Table:
    """Feature fingerprints, test rows and numbers of rows of each pair."""
    found = Table(
        "Pairs, the fingerprints of their feature files (first 12 digits) and their rows.",
        ["pair", "teacher features", "student features", "classes", "groups", "test rows", "rows"],
    )
    for values, part in split(table, ("pair",)):
        prints = [
            ", ".join(str(value)[:12] for value in values_of(part, name)) if name in part else "–"
            for name in ("teacher_fingerprint", "student_fingerprint")
        ]
        groups = json.loads(column(part, "groups").iloc[0])
        counts = [
            len({group["label"] for group in groups}),
            len(groups),
            sum(group["test_count"] for group in groups),
            len(part),
        ]
        texts = [str(values["pair"]), *prints, *map(str, counts)]
        found.rows.append([Cell(text) for text in texts])
    return found


def grid_table(table: pd.DataFrame) -> Table:
    """The values of every axis in the rows."""
    found = Table("Values of each axis in the rows.", ["axis", "values"])
    for name in ("method", "seed", *AXES, "schema_version", "package_version"):
        known = values_of(table, name) if name in table else []
        if known:
            text = ", ".join(show(value) for value in known[:12])
            more = f", … ({len(known)} values)" if len(known) > 12 else ""
            found.rows.append([Cell(name), Cell(text + more)])
    return found
