"""Figures of gains, groups and kept rows, drawn from the tables of `w2s_jax.report.tables`."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s_jax.report.columns import column, equals, numbers, values_of, where
from w2s_jax.report.frame import SETTING, ReportError, show, split
from w2s_jax.report.style import (
    COLOURS,
    CYCLE,
    MARKERS,
    MEDIUM,
    SMALL,
    legend_below,
    literal,
    panels,
    setting_name,
    settings_of_interest,
    wrapped,
    zero_line,
)

MOST_BARS = 8
MOST_DOTS = 30


def gain_curves(table: pd.DataFrame, variant: str | None = None) -> Figure:
    """Gain of the student over its teacher against eta_u, a panel an eta_t and a line an eta_l.

    Args:
        table: one pair's rows of `setting_table`, metrics being eta_t values.
        variant: a method whose gain (method - teacher) is added as a dashed line.

    Raises:
        ReportError: Rows without eta_u.
    """
    table = where(table, np.isfinite(numbers(table, "eta_u")))
    if not len(table):
        raise ReportError("gain curves need rows with a known eta_u")
    metrics, known = values_of(table, "metric"), values_of(table, "eta_u")
    lines = max(len(list(split(table, ("eta_l",)))), 1)
    figure, axes = panels(1, len(metrics), (3.4, 2.7), sharey=True)
    for axis, metric in zip(axes[0], metrics, strict=True):
        part = where(table, equals(table, "metric", metric))
        zero_line(axis)
        for number, (values, line) in enumerate(split(part, ("eta_l",))):
            style = {"color": CYCLE[number % len(CYCLE)], "marker": MARKERS[number % len(MARKERS)]}
            name = setting_name(values["eta_l"], np.nan)
            if len(known) == 1:  # side by side, or they would cover each other
                line = line.assign(eta_u=known[0] + 0.02 * (number - (lines - 1) / 2))
            vanilla = where(line, equals(line, "variant", "vanilla"))
            _curve(axis, vanilla, "gain", style, f"vanilla, {name}")
            if variant is not None:
                method = where(line, equals(line, "variant", variant))
                _dashes(axis, method, style, f"{_short(variant)}, {name}")
        axis.set_title(rf"test data at $\eta_t$ = {show(metric)}", fontsize=MEDIUM)
        axis.set_xlabel(r"minority fraction of unlabelled data $\eta_u$", fontsize=MEDIUM)
        axis.margins(x=0.04)
        if len(known) <= 7:
            axis.set_xticks(known, [show(value) for value in known])
        if len(known) == 1:
            axis.set_xlim(known[0] - 0.02 * (lines + 1), known[0] + 0.02 * (lines + 1))
    axes[0, 0].set_ylabel("gain over teacher\n(percentage points)", fontsize=MEDIUM)
    legend_below(figure, axes[0, 0], 4 if len(metrics) > 1 and lines < 3 else max(lines, 2))
    return figure


def _short(variant: str | None) -> str:
    """A method's name in a legend."""
    return literal(variant) if len(str(variant)) <= 24 else "method"


def _curve(axis: Axes, line: pd.DataFrame, name: str, style: dict, label: str) -> None:
    x = numbers(line, "eta_u")
    y, low, high = (100 * numbers(line, part) for part in (name, f"{name}_low", f"{name}_high"))
    axis.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0, zorder=2)
    if len(x) == 1:
        axis.vlines(x, low, high, color=style["color"], linewidth=1.4, zorder=2)
    axis.plot(x, y, linewidth=1.6, markersize=4.5, label=label, zorder=4, **style)


def _dashes(axis: Axes, line: pd.DataFrame, style: dict, label: str) -> None:
    axis.plot(
        numbers(line, "eta_u"),
        100 * numbers(line, "method_gain"),
        linestyle=(0, (4, 2)),
        linewidth=1.3,
        markersize=4.5,
        markerfacecolor="white",
        label=label,
        zorder=3,
        **style,
    )


def group_bars(table: pd.DataFrame, variant: str | None = None) -> Figure:
    """Accuracy of teacher, vanilla student, method and ceiling in each group, a panel a setting.

    Bars for up to 8 groups, dots beside group names for more; of more than 30 groups the 30 with
    the lowest accuracy of the teacher are shown.

    Args:
        table: one pair's rows of `group_table`.
        variant: the method shown; None for none.
    """
    table = where(table, numbers(table, "test_count") > 0)
    wanted = settings_of_interest(list(dict.fromkeys(_settings(table))))
    models = [m for m in COLOURS if m in values_of(table, "model") and (m != "method" or variant)]
    names = {"vanilla": "vanilla student", "method": _short(variant)}
    groups = column(table, "group").drop_duplicates().tolist()
    bars = len(groups) <= MOST_BARS
    if len(groups) > MOST_DOTS:
        groups = _lowest(table, models[0], MOST_DOTS)
    columns = min(2 if bars else 4, len(wanted))
    rows = -(-len(wanted) // columns)
    width = max(3.2, 0.95 * len(groups)) if bars else 2.4
    size = (width, 2.3) if bars else (width, 0.6 + 0.24 * len(groups))
    figure, axes = panels(rows, columns, size, sharey=True, sharex=True)
    for axis, (eta_l, eta_u) in zip(axes.flat, wanted, strict=False):
        part = where(table, equals(table, "eta_l", eta_l) & equals(table, "eta_u", eta_u))
        for number, model in enumerate(models):
            mine = where(part, equals(part, "model", model))
            mine = mine.set_index("group").reindex(groups).reset_index()
            shift = (number - (len(models) - 1) / 2) * (0.8 / len(models))
            draw = _bars if bars else _dots
            draw(axis, mine, shift, 0.8 / len(models), model, names.get(model, model))
        axis.set_title(setting_name(eta_l, eta_u), fontsize=MEDIUM)
    _label_groups(axes, table, groups, bars)
    for axis in axes.flat[len(wanted) :]:
        axis.set_axis_off()
    legend_below(figure, axes[0, 0], 4)
    return figure


def _lowest(table: pd.DataFrame, model: str, count: int) -> list[str]:
    """The groups with the lowest accuracy of a model over settings, in their usual order."""
    mine = where(table, equals(table, "model", model))
    names = column(mine, "group").to_numpy()
    order = list(dict.fromkeys(names))
    means = [numbers(mine, "accuracy")[names == name].mean() for name in order]
    return [order[place] for place in sorted(np.argsort(means, kind="stable")[:count])]


def _settings(table: pd.DataFrame) -> list[tuple[float, float]]:
    return [(v["eta_l"], v["eta_u"]) for v, _ in split(table, SETTING)]


def _error(part: pd.DataFrame) -> np.ndarray:
    y = numbers(part, "accuracy")
    low, high = numbers(part, "accuracy_low"), numbers(part, "accuracy_high")
    error = np.stack([y - np.clip(low, 0, 1), np.clip(high, 0, 1) - y])
    return 100 * np.nan_to_num(np.maximum(error, 0))


def _bars(
    axis: Axes, part: pd.DataFrame, shift: float, width: float, model: str, label: str
) -> None:
    axis.bar(
        np.arange(len(part)) + shift,
        np.nan_to_num(100 * numbers(part, "accuracy")),
        width * 0.92,
        yerr=_error(part),
        color=COLOURS[model],
        label=label,
        error_kw={"elinewidth": 0.9, "ecolor": "#222222"},
    )


def _dots(
    axis: Axes, part: pd.DataFrame, shift: float, width: float, model: str, label: str
) -> None:
    axis.errorbar(
        100 * numbers(part, "accuracy"),
        np.arange(len(part)) + shift,
        xerr=_error(part),
        fmt=MARKERS[list(COLOURS).index(model)],
        color=COLOURS[model],
        markersize=3.2,
        elinewidth=0.8,
        label=label,
    )


def _label_groups(axes: np.ndarray, table: pd.DataFrame, groups: list[str], bars: bool) -> None:
    first = table.drop_duplicates("group").set_index("group").loc[groups].reset_index()
    labels = []
    for _, line in first.iterrows():
        part = "minority" if line["minority"] else "majority"
        name = wrapped(line["group"], 16 if bars else 40)
        separator = "\n" if bars else ", "
        labels.append(f"{name}{separator}{part}, n={line['test_count']}")
    where_ = np.arange(len(groups))
    if bars:
        axes[0, 0].set_xticks(where_, labels)
        axes[0, 0].set_ylim(0, 100)
        for axis in axes[:, 0]:
            axis.set_ylabel("accuracy (%)", fontsize=MEDIUM)
        for axis in axes.flat:
            axis.tick_params(axis="x", labelsize=SMALL - 1, length=0)
        return
    axes[0, 0].set_yticks(where_, labels)
    axes[0, 0].set_ylim(len(groups) - 0.4, -0.6)
    axes[0, 0].set_xlim(-2, 102)
    for axis in axes.flat:
        axis.tick_params(axis="y", labelsize=SMALL - 1, length=0)
        for row in range(0, len(groups), 2):
            axis.axhspan(row - 0.5, row + 0.5, color="#F2F2F2", linewidth=0, zorder=0)
    for axis in axes[-1]:
        axis.set_xlabel("accuracy (%)", fontsize=MEDIUM)


def kept_subset(table: pd.DataFrame) -> Figure:
    """Minority fraction and pseudolabel accuracy of the rows kept for retraining, against p.

    Args:
        table: one pair's and method's rows of `kept_table`.
    """
    wanted = settings_of_interest(list(dict.fromkeys(_settings(table))))[:4]
    figure, axes = panels(2, len(wanted), (2.3, 1.9), sharex=True, sharey="row")
    parts = (
        ("kept_pseudolabel_accuracy_majority", "majority rows", CYCLE[0], "o"),
        ("kept_pseudolabel_accuracy", "all kept rows", "#444444", "s"),
        ("kept_pseudolabel_accuracy_minority", "minority rows", CYCLE[1], "^"),
    )
    for place, (eta_l, eta_u) in enumerate(wanted):
        part = where(table, equals(table, "eta_l", eta_l) & equals(table, "eta_u", eta_u))
        above, below = axes[0, place], axes[1, place]
        _with_band(above, part, "kept_minority_fraction", CYCLE[3], "D", "minority share")
        above.axhline(100 * eta_u, color="#444444", linestyle=":", linewidth=1.0)
        above.annotate(
            r"$\eta_u$",
            (1.0, 100 * eta_u),
            (3, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=SMALL,
            va="center",
        )
        for name, label, colour, marker in parts:
            _with_band(below, part, name, colour, marker, label)
        above.set_title(setting_name(eta_l, eta_u), fontsize=MEDIUM)
        below.set_xlabel("share kept p", fontsize=MEDIUM)
    shares = numbers(table, "kept_minority_fraction_high"), numbers(table, "kept_minority_fraction")
    axes[0, 0].set_ylim(0, 110 * np.nanmax([*shares, numbers(table, "eta_u")]))
    axes[0, 0].set_ylabel("minority share of\nkept rows (%)", fontsize=MEDIUM)
    axes[1, 0].set_ylabel("pseudolabel\naccuracy (%)", fontsize=MEDIUM)
    legend_below(figure, axes[1, 0], 3)
    return figure


def _with_band(
    axis: Axes, part: pd.DataFrame, name: str, colour: str, marker: str, label: str
) -> None:
    x = numbers(part, "keep_fraction")
    y, low, high = (100 * numbers(part, end) for end in (name, f"{name}_low", f"{name}_high"))
    low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.4, label=label)
