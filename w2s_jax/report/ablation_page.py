"""A page, a figure and files of numbers from an ablation."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s_jax.report import sections
from w2s_jax.report.ablation import (
    CELL,
    REFERENCES,
    WORST,
    choose_hyperparameters,
    comparison_table,
)
from w2s_jax.report.ablation_diagnostics import ALL, diagnostics_table
from w2s_jax.report.ablation_run import Ablation
from w2s_jax.report.ablation_text import (
    CHOICES,
    DIAGNOSTICS,
    JUDGED,
    LEVEL,
    answer,
    cell_name,
    diagnostic,
    format_comparison,
    labelled,
    line_of,
    ordered,
    p_text,
)
from w2s_jax.report.album import Album
from w2s_jax.report.columns import column, distinct, equals, where
from w2s_jax.report.correctness import check_metric
from w2s_jax.report.frame import ReportError, split
from w2s_jax.report.rendering import write_page
from w2s_jax.report.sections import Cell, Table
from w2s_jax.report.style import COLOURS, MEDIUM, SMALL, literal, panels, setting_name, zero_line
from w2s_jax.report.wording import count

TITLE = "Methods compared with vanilla weak-to-strong training"


def write_ablation(
    ablation: Ablation,
    out_dir: str | os.PathLike[str],
    *,
    metric: str | float = "accuracy",
    oracles: Collection[str] = (),
) -> tuple[str, Path]:
    """Writes index.html, figures, comparison.csv and diagnostics.csv; returns text and page.

    Args:
        ablation: from `run_ablation`.
        out_dir: folder, made where it does not exist.
        metric: the average, as of `comparison_table`.
        oracles: names of methods that look at true labels and groups, to be marked.

    Raises:
        ReportError: rows that cannot be compared, or a folder that is a file.
    """
    folder = Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise ReportError(f"{folder} is a file; give a folder to write the page to")
    check_metric(metric)
    chosen = choose_hyperparameters(ablation.rows, ablation.rule)
    table, diagnostics = comparison_table(chosen, metric), diagnostics_table(chosen)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, frame in (("comparison", table), ("diagnostics", diagnostics)):
        frame.assign(choice=ablation.rule).to_csv(folder / f"{name}.csv", index=False)
    figure = Album(folder / "figures", "figures").add(
        draw_differences(table, oracles),
        "differences",
        "Difference of every method to vanilla in average and worst-group accuracy",
        "Difference to vanilla in percentage points with unadjusted 95 % intervals; filled where"
        f" the p-value, adjusted for all methods and settings, is below {LEVEL}.",
    )
    status, unfinished = sections.status_table(ablation.rows)
    total = sum(int(row[-1].text) for row in status.rows)
    page = write_page(
        folder,
        "ablation_page.html",
        title=TITLE,
        extent=f"{count(distinct(table, 'pair'), 'pair')};"
        f" {count(len(set(column(chosen, 'seed'))), 'seed')}.",
        answer=answer(table, oracles),
        rule=ablation.rule,
        choice=CHOICES[ablation.rule],
        figure=figure,
        cells=_cells(table, diagnostics, oracles),
        judged=JUDGED,
        heads=f"{unfinished} of {count(total, 'distinct head')} did not converge.",
        provenance=[
            sections.pairs_table(ablation.rows),
            status,
            sections.grid_table(ablation.rows),
        ],
    )
    return format_comparison(table, diagnostics, ablation.rule, oracles), page


def _cells(
    table: pd.DataFrame, diagnostics: pd.DataFrame, oracles: Collection[str]
) -> list[dict[str, object]]:
    found = []
    for values, cell in split(table, CELL):
        same = np.logical_and.reduce([equals(diagnostics, name, values[name]) for name in CELL])
        names = ordered(set(column(cell, "method")), oracles)
        tables = [
            _comparison(cell, names, oracles),
            _groups(cell, names, oracles),
            *_diagnostics(where(diagnostics, same), names, oracles),
        ]
        found.append({"name": cell_name(values), "tables": tables})
    return found


def _comparison(cell: pd.DataFrame, names: list[str], oracles: Collection[str]) -> Table:
    table = Table(
        "Accuracy (%) and differences to vanilla in points, with 95 % intervals and adjusted"
        f" p-values; bold where adjusted p < {LEVEL}. tried: hyperparameter settings among which"
        " the rule chose.",
        ["method", "average", "− vanilla", "p (Holm)", "worst group", "− vanilla", "p (Holm)"]
        + ["tried", "chosen"],
    )
    for name in names:
        cells = [Cell(labelled(name, oracles))]
        for metric in ("average", WORST):
            line = line_of(cell, name, metric)
            if line is None:
                cells += [Cell("–")] * 3
                continue
            difference = sections.difference(line, "difference", 100.0, 1)
            difference.strong = bool(line["p_holm"] < LEVEL)
            p = Cell(p_text(float(line["p_holm"])))
            cells += [sections.level(line, "accuracy"), difference, p]
        line = line_of(cell, name, "average")
        shown = {} if name in REFERENCES or line is None else line
        cells += [Cell(str(shown.get(k, ""))) for k in ("num_candidates", "hyperparameters")]
        table.rows.append(cells)
    return table


def _groups(cell: pd.DataFrame, names: list[str], oracles: Collection[str]) -> Table:
    metrics = [m for m in dict.fromkeys(column(cell, "metric")) if m not in ("average", WORST)]
    table = Table(
        "Accuracy by group (%), with differences to vanilla and their 95 % intervals, not adjusted"
        " (adjusted p-values are in comparison.csv).",
        ["method", *(heading for metric in metrics for heading in (metric, "− vanilla"))],
        folded=True,
    )
    for name in names:
        cells = [Cell(labelled(name, oracles))]
        for metric in metrics:
            line = line_of(cell, name, metric)
            if line is None:
                cells += [Cell("–")] * 2
                continue
            difference = sections.difference(line, "difference", 100.0, 1)
            difference.strong = False
            cells += [sections.level(line, "accuracy"), difference]
        table.rows.append(cells)
    return table


def _diagnostics(part: pd.DataFrame, names: list[str], oracles: Collection[str]) -> list[Table]:
    """Over all test rows, and what becomes of the teacher's errors by group."""
    whole = Table(
        "Diagnostics, means over seeds; shares in percent. Errors corrected and copied are shares"
        " of the test rows on which the teacher is wrong, new errors of those on which it is"
        " right.",
        ["method", *(title for _, _, title, _ in DIAGNOSTICS)],
    )
    by_error = ("agreement", "corrected", "copied", "new_errors")
    short = [title for key, _, title, _ in DIAGNOSTICS if key in by_error]
    detailed = Table(
        "What becomes of the teacher's errors in each group (%).",
        ["method", "group", *short],
        folded=True,
    )
    for name in names:
        for line in where(part, equals(part, "method", name)).to_dict("records"):
            first = Cell(labelled(name, oracles))
            if line["group"] == ALL:
                values = [diagnostic(line, key, share) for key, _, _, share in DIAGNOSTICS]
                whole.rows.append([first, *map(Cell, values)])
            else:
                values = [diagnostic(line, key, True) for key in by_error]
                detailed.rows.append([first, Cell(str(line["group"])), *map(Cell, values)])
    return [whole, detailed]


def draw_differences(table: pd.DataFrame, oracles: Collection[str]) -> Figure:
    """Differences to vanilla, a row of panels a setting: average and worst group.

    Args:
        table: from `comparison_table`.
        oracles: names of methods to be marked.
    """
    cells = list(split(table, CELL))
    names = ordered(set(column(table, "method")) - {"vanilla", "ceiling"}, oracles)
    size = (3.6, 0.9 + 0.19 * len(names))
    figure, axes = panels(len(cells), 2, size, sharey=True)
    for row, (values, cell) in zip(axes, cells, strict=True):
        for axis, metric in zip(row, ("average", WORST), strict=True):
            for place, name in enumerate(names):
                line = line_of(cell, name, metric)
                if line is not None and np.isfinite(line["difference"]):
                    _dot(axis, line, place, name, oracles)
            zero_line(axis, vertical=True)
            title = setting_name(values["eta_l"], values["eta_u"])
            axis.set_title(f"{title}: {metric}", fontsize=MEDIUM)
            axis.set_xlabel("− vanilla (points)", fontsize=SMALL)
        shown = [literal(labelled(name, oracles)) for name in names]
        row[0].set_yticks(range(len(names)), shown, fontsize=SMALL)
        row[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _dot(axis: Axes, line: Any, place: int, name: str, oracles: Collection[str]) -> None:
    colour = COLOURS["method"]
    if name in REFERENCES or name in oracles:
        colour = COLOURS["teacher"] if name in REFERENCES else COLOURS["ceiling"]
    low, high = 100 * float(line["difference_low"]), 100 * float(line["difference_high"])
    axis.hlines(place, low, high, color=colour, linewidth=1.2)
    clear = bool(line["p_holm"] < LEVEL)
    face = colour if clear else "white"
    axis.plot(100 * line["difference"], place, "o", color=colour, markersize=4.5, mfc=face)
