"""Heat maps over two hyperparameters, a panel a setting, on one diverging scale centred on zero."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from w2s_jax.report.columns import equals, numbers, values_of, where
from w2s_jax.report.frame import SETTING, show, split
from w2s_jax.report.style import DIVERGING, MEDIUM, SMALL, panels, setting_name
from w2s_jax.report.wording import signed

MOST_PANELS = 12


def pq_heatmap(table: pd.DataFrame, limit: float | None = None) -> Figure:
    """Effect of retraining (method - vanilla) over (p, q).

    Args:
        table: one pair's and method's rows of `improvement_map`.
        limit: end of the colour scale in percentage points; the largest value where not given.
    """
    return _heatmap(
        table,
        limit,
        "effect",
        ("gce_q", "GCE exponent q"),
        ("keep_fraction", "share kept p"),
        "effect of retraining\n(percentage points)",
    )


def l2_heatmap(table: pd.DataFrame, limit: float | None = None) -> Figure:
    """Gain of the vanilla student over its teacher, over student_l2 and teacher_l2.

    Args:
        table: one pair's rows of `l2_map`.
        limit: end of the colour scale in percentage points; the largest value where not given.
    """
    return _heatmap(
        table,
        limit,
        "gain",
        ("student_l2", "student l2"),
        ("teacher_l2", "teacher l2"),
        "gain over teacher\n(percentage points)",
    )


def _heatmap(
    table: pd.DataFrame,
    limit: float | None,
    name: str,
    across: tuple[str, str],
    down: tuple[str, str],
    label: str,
) -> Figure:
    xs: list[float] = values_of(table, across[0]) or [np.nan]
    ys: list[float] = values_of(table, down[0]) or [np.nan]
    settings = [(values["eta_l"], values["eta_u"]) for values, _ in split(table, SETTING)]
    if len(settings) > MOST_PANELS:
        chosen = np.linspace(0, len(settings) - 1, MOST_PANELS).round().astype(int)
        settings = [settings[number] for number in chosen]
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    size = (max(1.6, 0.46 * len(xs) + 0.5), max(1.7 / rows, 0.34 * len(ys) + 0.45))
    figure, axes = panels(rows, columns, size, sharex=True, sharey=True)
    largest = limit or largest_of(table, name)
    norm = Normalize(-largest, largest)
    image = None
    for axis, (eta_l, eta_u) in zip(axes.flat, settings, strict=False):
        part = where(table, equals(table, "eta_l", eta_l) & equals(table, "eta_u", eta_u))
        cells = [[_cell(part, name, across[0], x, down[0], y) for x in xs] for y in ys]
        values = 100 * np.array([[cell[0] for cell in line] for line in cells])
        image = axis.imshow(
            np.ma.masked_invalid(values), cmap=DIVERGING, norm=norm, origin="lower", aspect="auto"
        )
        axis.set_facecolor("#DDDDDD")
        _print_cells(axis, values, np.array([[cell[1] for cell in line] for line in cells]), norm)
        axis.set_title(setting_name(eta_l, eta_u), fontsize=MEDIUM)
        axis.set_xticks(range(len(xs)), [show(x) for x in xs])
        axis.set_yticks(range(len(ys)), [show(y) for y in ys])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    for axis in axes.flat[len(settings) :]:
        axis.set_axis_off()
    figure.supxlabel(across[1], fontsize=MEDIUM)
    figure.supylabel(down[1], fontsize=MEDIUM)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=25)
        bar.set_label(label, fontsize=MEDIUM)
        bar.ax.tick_params(labelsize=SMALL)
        bar.outline.set_visible(False)  # type: ignore[union-attr]
    return figure


def largest_of(table: pd.DataFrame, name: str) -> float:
    """Largest absolute value of a column in percentage points; 1 where there is none."""
    values = 100 * np.abs(numbers(table, name))
    return float(values[np.isfinite(values)].max(initial=0.0)) or 1.0


def _cell(
    part: pd.DataFrame, name: str, across: str, x: float, down: str, y: float
) -> tuple[float, bool]:
    """Value of a cell and whether its interval excludes zero."""
    found = where(part, equals(part, across, x) & equals(part, down, y))
    if not len(found):
        return float("nan"), False
    low, high = numbers(found, f"{name}_low")[0], numbers(found, f"{name}_high")[0]
    return float(numbers(found, name)[0]), bool(low > 0 or high < 0)


def _print_cells(axis: Axes, values: np.ndarray, clear: np.ndarray, norm: Normalize) -> None:
    colours = matplotlib.colormaps[DIVERGING]
    for (row, place), value in np.ndenumerate(values):
        known = bool(np.isfinite(value))
        red, green, blue, _ = colours(norm(value)) if known else (1.0, 1.0, 1.0, 1.0)
        luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        ink = "white" if luminance < 0.2 else "black"
        axis.text(
            place,
            row,
            signed(value),
            ha="center",
            va="center",
            fontsize=SMALL,
            fontweight="bold" if clear[row, place] else "normal",
            color=ink,
        )
        if clear[row, place]:
            axis.add_patch(
                Rectangle((place - 0.46, row - 0.45), 0.92, 0.9, fill=False, edgecolor=ink, lw=1.0)
            )
