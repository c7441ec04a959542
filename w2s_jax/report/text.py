"""The plain-text table for the terminal."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd

from w2s_jax.report.choices import analyses, extent_note, pq_note
from w2s_jax.report.columns import equals, number, where
from w2s_jax.report.comparison import SETTINGS, Comparison, compare, show_range
from w2s_jax.report.frame import SETTING, methods, show, split
from w2s_jax.report.tables import setting_table
from w2s_jax.report.wording import seeds_sentence, signed, sizes_sentence

WIDTH = 100


def format_table(
    rows: pd.DataFrame,
    *,
    eta_t: float | Sequence[float] = (0.1, 0.5),
    keep_fraction: float | None = None,
    gce_q: float | None = None,
) -> str:
    """The result rows as a short text table, at most 100 columns wide.

    One block a pair, method and eta_t; one line a setting (eta_l, eta_u): accuracies in percent of
    teacher, vanilla student, method and ceiling at eta_t, gain (vanilla - teacher) and effect of
    retraining (method - vanilla) in percentage points with 95 % intervals over seeds and test rows.
    l2 is chosen by validation where the rows allow it, else the middle of the grid is shown. Ranges
    of relative improvements stand beside those published, where something is published of the
    benchmark.

    Raises:
        ReportError: Rows that cannot be read, or a (p, q) that no row has.
    """
    metrics = [eta_t] if isinstance(eta_t, int | float) else list(eta_t)
    blocks = []
    for analysis in analyses(rows):
        table = setting_table(
            analysis.chosen, metrics=metrics, keep_fraction=keep_fraction, gce_q=gce_q
        )
        names = methods(analysis.chosen)
        notes = [analysis.l2_note, pq_note(analysis.chosen, keep_fraction, gce_q)]
        notes += [seeds_sentence(table), sizes_sentence(table)]
        if analysis.label:
            notes.insert(0, f"{analysis.label}.")
        blocks.append(_wrap(" ".join(note for note in notes if note)))
        for values, pair in split(table, ("pair",)):
            extent = extent_note(
                where(analysis.chosen, equals(analysis.chosen, "pair", values["pair"]))
            )
            for name in names or ["vanilla"]:
                for metric in metrics:
                    part = where(
                        pair, equals(pair, "variant", name) & equals(pair, "metric", metric)
                    )
                    if len(part):
                        blocks.append(_block(part, values["pair"], name, metric, extent))
        blocks += [_beside(found) for found in compare(analysis.chosen, keep_fraction, gce_q)]
    return "\n\n".join(blocks).replace("−", "-").replace("–", "-")


def _beside(found: Comparison) -> str:
    """Measured and published ranges."""
    head = f"{'setting':<28} {'measured':<30} {'published'}"
    lines = [_wrap(found.caption()), head, "-" * len(head)]
    for setting, (name, ends) in enumerate(zip(SETTINGS, found.published_ranges(), strict=True)):
        lines.append(f"{name:<28} {found.measured(setting):<30} {show_range(ends)}")
    return "\n".join([*lines, _wrap(" ".join(found.notes()))])


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _points(line: pd.Series, name: str) -> str:
    """A difference in percentage points with its limits, alone where there are none."""
    value, low, high = (100 * number(line, end) for end in (name, f"{name}_low", f"{name}_high"))
    limits = f" [{signed(low, 2)}, {signed(high, 2)}]" if np.isfinite(low + high) else ""
    return signed(value, 2) + limits


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def _block(part: pd.DataFrame, pair: str, name: str, metric: float, extent: str) -> str:
    has_method = name != "vanilla"
    short = name if len(name) <= 8 else "method"
    title = f"{pair}: accuracy (%) at eta_t = {show(metric)}; {extent}"
    if short != name and has_method:
        title += f"; method: {name}"
    # Three digits: eta_o may be any fraction.
    etas = [[show(value, 3) for value in part[axis]] for axis in SETTING]
    wide = [max(least, *map(len, texts)) for least, texts in zip((5, 6), etas, strict=True)]
    head = f"{'eta_l':>{wide[0]}} {'eta_u':>{wide[1]}} {'teacher':>8} {'vanilla':>8}"
    head += f" {short:>8}" if has_method else ""
    head += f" {'ceiling':>8}  {'gain (points)':>23}"
    head += f"  {'retraining (points)':>23}" if has_method else ""
    lines = [_wrap(title), head, "-" * len(head)]
    for (_, line), eta_l, eta_u in zip(part.iterrows(), *etas, strict=True):
        text = f"{eta_l:>{wide[0]}} {eta_u:>{wide[1]}}"
        levels = ["teacher", "vanilla", *(["method_accuracy"] if has_method else []), "ceiling"]
        for level in levels:
            text += f" {_percent(number(line, level)):>8}"
        text += f"  {_points(line, 'gain'):>23}"
        text += f"  {_points(line, 'effect'):>23}" if has_method else ""
        lines.append(text)
    return "\n".join(lines)
