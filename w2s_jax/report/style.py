"""Colours, labels and panels shared by the figures; no pyplot and no global matplotlib state."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from w2s_jax.report.frame import show

# Okabe and Ito's palette, told apart under the common colour vision deficiencies
COLOURS = {
    "teacher": "#7F7F7F",
    "vanilla": "#0072B2",
    "method": "#D55E00",
    "ceiling": "#009E73",
}
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DIVERGING = "RdBu"
SMALL, MEDIUM = 8.0, 9.0  # font sizes
DPI = 160


def literal(text: object) -> str:
    """Text that matplotlib shows as it is: a dollar sign starts no formula."""
    return str(text).replace("$", r"\$")


def wrapped(text: object, width: int) -> str:
    """Literal text on several lines, cut after the third."""
    lines = textwrap.wrap(str(text), width) or [""]
    if len(lines) > 3:
        lines = [*lines[:2], lines[2][: width - 1] + "…"]
    return literal("\n".join(lines))


def panels(
    num_rows: int, num_columns: int, size: tuple[float, float], **share: bool | str
) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of axes, `[rows, columns]`, each about `size` inches."""
    width, height = num_columns * size[0] + 0.6, num_rows * size[1] + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, **share)  # type: ignore[arg-type]
    for axis in axes.flat:
        axis.tick_params(labelsize=SMALL, length=3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def setting_name(eta_l: float, eta_u: float) -> str:
    """A setting in the symbols of the field."""
    parts = [
        rf"$\eta_{symbol}$ = {show(value)}"
        for symbol, value in ((r"\ell", eta_l), ("u", eta_u))
        if np.isfinite(value)
    ]
    return ", ".join(parts) or "unlabelled rows"


def zero_line(axis: Axes, *, vertical: bool = False) -> None:
    """A thin line at zero."""
    line = axis.axvline if vertical else axis.axhline
    line(0, color="#444444", linewidth=0.8, zorder=1)


def settings_of_interest(
    settings: Sequence[tuple[float, float]],
) -> list[tuple[float, float]]:
    """For each eta_l the eta_u nearest to it and the one farthest from it; four when unknown."""
    known = [pair for pair in settings if np.isfinite(pair).all()]
    if not known:
        return list(settings)[:4]
    chosen = []
    for eta_l in sorted({low for low, _ in known}):
        by_distance = sorted(
            (pair for pair in known if pair[0] == eta_l), key=lambda pair: abs(pair[1] - eta_l)
        )
        chosen += sorted({by_distance[0], by_distance[-1]})
    return chosen[:8]


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """A legend outside the axes, under them, so that it covers no data."""
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, len(handles)),
            fontsize=SMALL,
            frameon=False,
        )


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG that is the same for the same figure (no date, no software version)."""
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})
    return path
