"""Figures of the theory: lines for formulas, dots with two standard errors for simulation."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from w2s_jax.report.style import CYCLE, MARKERS, MEDIUM, SMALL, legend_below, panels, zero_line
from w2s_jax.theory.study import Series, Study

# Of each source: line style and width.
LINES = {"proportional": ("-", 1.6), "mixture": (":", 1.2), "published": ((0, (4, 2)), 1.1)}
SOURCES = {
    "proportional": "proportional form",
    "mixture": "mixture's leading order",
    "published": "published leading order",
}
# Figures in which a form far off may leave the frame.
FRAMED = ("gain", "groups")
SIGNS = {"gain": "#0072B2", "loss": "#D55E00", "undecided": "#FFFFFF"}
GREY = "#444444"
# Symbols of the series' labels as formulas.
SYMBOLS = {
    "|Ξ|²": r"$\|\Xi\|_F^2$",
    "|μ|²/σ²": r"$\|\mu_\xi\|^2/\sigma_\xi^2$",
    "p_T γ": r"$p_T\gamma$",
    "p_S ν": r"$p_S\nu$",
    "η_t": r"$\eta_t$",
}


def _typeset(text: str) -> str:
    for plain, formula in SYMBOLS.items():
        text = text.replace(plain, formula)
    return text


def draw_study(study: Study) -> Figure:
    """The figure of a study, by its name."""
    special = {"failure": _failure, "findings": _settings, "examples": _settings}
    return special.get(study.name, _lines)(study)


def _panels(study: Study, size: tuple[float, float], most: int) -> tuple[Figure, dict[str, Axes]]:
    names = list(dict.fromkeys(one.panel for one in study.series))
    columns = min(most, len(names))
    figure, axes = panels(-(-len(names) // columns), columns, size)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for column in range(columns):
        lowest = [axis for axis in axes[:, column] if axis.axison][-1]
        lowest.set_xlabel(study.x_label, fontsize=MEDIUM)
    for axis in axes[:, 0]:
        axis.set_ylabel(study.y_label, fontsize=MEDIUM)
    for name, axis in zip(names, axes.flat, strict=False):
        axis.set_title(_typeset(name), fontsize=MEDIUM)
    return figure, dict(zip(names, axes.flat, strict=False))


def _sources(figure: Figure, study: Study) -> None:
    """A legend of the sources, under the axes."""
    shown = [name for name in LINES if any(one.source == name for one in study.series)]
    handles = [
        Line2D([], [], color=GREY, linestyle=LINES[name][0], linewidth=LINES[name][1])
        for name in shown
    ]
    chosen = "choice by the " if study.name == "best" else ""
    labels = [chosen + SOURCES[name] for name in shown]
    handles.append(Line2D([], [], color=GREY, linestyle="", marker="o", markersize=4))
    labels.append("simulation, ± 2 standard errors")
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=SMALL,
        frameon=False,
    )


def _draw(axis: Axes, one: Series, number: int) -> None:
    colour, marker = CYCLE[number % len(CYCLE)], MARKERS[number % len(MARKERS)]
    if one.source == "simulated":
        axis.errorbar(
            one.x,
            one.y,
            yerr=None if one.error is None else 2 * one.error,
            fmt=marker,
            color=colour,
            markerfacecolor="white" if one.label.endswith("published choice") else colour,
            markersize=4,
            elinewidth=0.9,
            zorder=4,
        )
        return
    style, width = LINES[one.source]
    label = _typeset(one.label) if one.source == "proportional" else None
    axis.plot(one.x, one.y, linestyle=style, linewidth=width, color=colour, label=label, zorder=3)


def _lines(study: Study) -> Figure:
    """Lines and dots, a colour for each label."""
    figure, axes = _panels(study, (3.3, 2.6), 2)
    for name, axis in axes.items():
        own = [one for one in study.series if one.panel == name]
        labels = list(dict.fromkeys(one.label.split(",")[0] for one in own))
        lines = [one.y[np.isfinite(one.y)] for one in own]
        if min(values.min(initial=np.inf) for values in lines) < 0:
            zero_line(axis)
        published = [one for one in own if one.source == "published"]
        if len(published) > 1 and all(np.array_equal(v.y, published[0].y) for v in published):
            # What varies here is nothing to the published form: one line, of no label's colour.
            own = [one for one in own if one.source != "published"]
            style, width = LINES["published"]
            axis.plot(published[0].x, published[0].y, ls=style, lw=width, color=GREY, zorder=3)
        for one in own:
            _draw(axis, one, labels.index(one.label.split(",")[0]))
        if study.log_x:
            axis.set_xscale("log")
        if study.name in FRAMED:
            _frame(axis, own)
        if len(labels) > 1:
            axis.legend(fontsize=SMALL - 1, frameon=False)
    _sources(figure, study)
    return figure


def _frame(axis: Axes, own: list[Series]) -> None:
    """Limits that the proportional form and the simulation set: a form far off leaves the frame."""
    values = np.concatenate([one.y for one in own if one.source != "published"])
    values = values[np.isfinite(values)]
    low, high = values.min(), values.max()
    room = 0.25 * (high - low or 1.0)
    axis.set_ylim(low - room, high + room)


def _failure(study: Study) -> Figure:
    """Boundaries as lines over (eta_u, separation); simulated gains and losses as dots."""
    figure, axes = _panels(study, (2.5, 2.6), 3)
    for name, axis in axes.items():
        for one in study.series:
            if one.panel != name or not len(one.x):
                continue
            if one.source == "simulated":
                axis.plot(
                    one.x,
                    one.y,
                    linestyle="",
                    marker="o" if one.label != "loss" else "X",
                    markersize=6,
                    color=SIGNS[one.label],
                    markeredgecolor="#444444",
                    markeredgewidth=0.6,
                    label=f"simulated {one.label}" if one.label != "undecided" else one.label,
                    zorder=4,
                )
            else:
                style, width = LINES[one.source]
                edge, label = (
                    (0.0, SOURCES[one.source]) if one.label == "from here" else (1.0, None)
                )
                options = {"linestyle": style, "linewidth": width, "label": label}
                axis.plot(one.x, one.y, color=GREY, **options)
                if one.source == "proportional":
                    shade = {"color": SIGNS["loss"], "alpha": 0.12, "linewidth": 0}
                    axis.fill_betweenx(one.y, edge, one.x, **shade)
        axis.set_xlim(-0.04, 1.04)
    legend_below(figure, next(iter(axes.values())), 5)
    return figure


def _settings(study: Study) -> Figure:
    """Dots side by side at every setting of every panel."""
    figure, axes = _panels(study, (2.6, 2.3), 3)
    shifts = {"published": -0.24, "mixture": -0.08, "proportional": 0.08, "simulated": 0.24}
    names = {**SOURCES, "simulated": "simulation, ± 2 standard errors"}
    for name, axis in axes.items():
        own = [one for one in study.series if one.panel == name]
        zero_line(axis)
        for number, (source, shift) in enumerate(shifts.items()):
            one = next(one for one in own if one.source == source)
            axis.errorbar(
                one.x + shift,
                one.y,
                yerr=None if one.error is None else 2 * one.error,
                fmt=MARKERS[number],
                color=CYCLE[number] if source != "simulated" else "#000000",
                markersize=4.5,
                elinewidth=1.0,
                label=names[source],
            )
        labels = own[0].label.split("; ")
        axis.set_xticks(own[0].x, labels)
        axis.tick_params(axis="x", labelsize=SMALL - 1)
    legend_below(figure, next(iter(axes.values())), 4 if len(axes) > 2 else 2)
    return figure


def draw_agreement(
    predicted: np.ndarray,
    measured: np.ndarray,
    error: np.ndarray,
    settings: np.ndarray,
    eta_t: np.ndarray,
) -> Figure:
    """Measured gain in accuracy against predicted gain in risk, a panel an eta_t.

    Args:
        predicted: gains ``[t, k]`` of k settings.
        measured: mean gains ``[t, k]`` in accuracy.
        error: standard errors of these ``[t, k]``.
        settings: eta_l and eta_u ``[2, k]``; those of one eta_l are joined in the order of eta_u.
        eta_t: ``[t]``.
    """
    figure, axes = panels(1, len(eta_t), (2.4, 2.3))
    for axis, *own, value in zip(axes[0], predicted, measured, error, eta_t, strict=True):
        zero_line(axis)
        for number, eta_l in enumerate(np.unique(settings[0])):
            mine = np.flatnonzero(settings[0] == eta_l)
            mine = mine[np.argsort(settings[1, mine])]
            x, y, spread = (part[mine] for part in own)
            axis.errorbar(
                x,
                100 * y,
                yerr=200 * spread,
                fmt=MARKERS[number],
                linestyle="-",
                color=CYCLE[number],
                markersize=4,
                linewidth=0.8,
                elinewidth=0.8,
                label=rf"$\eta_\ell$ = {eta_l:g}",
            )
            for end in {0, len(mine) - 1}:
                axis.annotate(
                    f"{settings[1, mine[end]]:g}",
                    (x[end], 100 * y[end]),
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=SMALL - 1,
                    color=CYCLE[number],
                )
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.set_title(rf"$\eta_t$ = {value:g}", fontsize=MEDIUM)
        axis.set_xlabel("predicted gain (risk)", fontsize=MEDIUM)
    axes[0, 0].set_ylabel("measured gain\n(percentage points)", fontsize=MEDIUM)
    legend_below(figure, axes[0, 0], 4)
    return figure
