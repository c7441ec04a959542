"""Draws the figures of a report, numbers them and writes their captions."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from w2s_jax.report.columns import equals, numbers, values_of, where
from w2s_jax.report.figures import MOST_DOTS, gain_curves, group_bars, kept_subset
from w2s_jax.report.frame import PQ, SETTING, methods, show, split
from w2s_jax.report.heatmaps import MOST_PANELS, l2_heatmap, largest_of, pq_heatmap
from w2s_jax.report.style import DPI, save
from w2s_jax.report.tables import group_table, kept_table

INTERVALS = "95 % intervals over seeds and test rows"


class Album:
    """Figures saved so far.

    Args:
        folder: where the PNGs are written.
        link: folder name in front of their names in the page.
    """

    def __init__(self, folder: Path, link: str):
        self._folder, self._link, self._count = folder, link, 0

    def add(self, figure: Figure, name: str, alt: str, caption: str) -> dict[str, Any]:
        """Save a figure and return what the page needs to show it."""
        self._count += 1
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:80]
        path = self._folder / f"{self._count:02d}-{slug}.png"
        save(figure, path)
        width, height = figure.get_size_inches()
        return {
            "src": f"{self._link}/{path.name}",
            "alt": alt,
            "caption": caption,
            "number": self._count,
            "width": round(96 * width * min(1.0, DPI / 96)),
            "height": round(96 * height * min(1.0, DPI / 96)),
        }


def draw_pair(
    album: Album,
    pair: str,
    chosen: pd.DataFrame,
    settings: pd.DataFrame,
    maps: pd.DataFrame,
    headline: float,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures of one pair, and a sentence for each that the rows cannot support.

    Args:
        album: where figures go.
        pair: name of the pair.
        chosen: its rows at the l2 shown.
        settings: its rows of `setting_table`.
        maps: its rows of `improvement_map` at the headline eta_t; empty without methods.
        headline: eta_t of figures that show one.
    """
    names = methods(chosen)
    shown = [name for name in names if equals(settings, "variant", name).any()]
    first = shown[0] if shown else None
    at: dict[str, float | None] = dict(zip(PQ, _choice(settings, first), strict=True))
    figures: list[dict[str, Any]] = []
    missing: list[str] = []
    curves = where(settings, ~equals(settings, "metric", "accuracy"))
    curves = where(curves, np.isfinite(numbers(curves, "gain")))
    if not len(curves):
        missing.append("Gain curves are left out: accuracy at these eta_t is not defined.")
    elif not np.isfinite(numbers(curves, "eta_u")).any():
        missing.append(
            "Gain curves are left out: eta_u of truly unlabelled rows is not known; the gain is in"
            " the table above."
        )
    else:
        dashes = f" Dashed: {first}{_text_of(at)}, without bands." if first else ""
        figures.append(
            album.add(
                gain_curves(curves, first),
                f"gain {pair}",
                f"Gain of the student over its teacher against eta_u, {pair}",
                f"{pair}: gain of the vanilla student over its teacher (percentage points of"
                " accuracy at eta_t) against the minority fraction eta_u of the unlabelled data, a"
                f" line for each eta_l. Bands: {INTERVALS}.{dashes}",
            )
        )
    figures.append(_groups(album, pair, chosen, first, at))
    for name in names:
        mine = where(maps, equals(maps, "variant", name))
        tried = [values_of(mine, axis) for axis in ("keep_fraction", "gce_q")]
        if max(map(len, tried)) == 1:
            missing.append(f"The rows hold one (p, q) of {name}, so there is no map over (p, q).")
        elif any(tried) and np.isfinite(numbers(mine, "effect")).any():
            figures += _maps(album, pair, name, mine, headline)
        kept = kept_table(_with_vanilla(chosen, name))
        known = np.isfinite(numbers(kept, "kept_minority_fraction")) if len(kept) else []
        if np.any(known):
            figures.append(_kept(album, pair, name, where(kept, known)))
        elif tried[0]:
            missing.append(
                f"The make-up of the rows that {name} keeps is left out: their labels are unknown."
            )
    if not np.isfinite(numbers(settings, "ceiling")).any():
        missing.append("The rows have no ceiling (student on true labels), so no PGR either.")
    return figures, missing


def _choice(settings: pd.DataFrame, name: str | None) -> list[float | None]:
    """The (p, q) at which a method is shown, None where it has none."""
    part = where(settings, equals(settings, "variant", name)) if name else settings.iloc[:0]
    values = [float(numbers(part, axis)[0]) if len(part) else float("nan") for axis in PQ]
    return [value if np.isfinite(value) else None for value in values]


def _text_of(at: dict[str, float | None]) -> str:
    known = [f"{axis} = {show(at[name])}" for axis, name in zip("pq", PQ, strict=True) if at[name]]
    return f" at {', '.join(known)}" if known else ""


def _with_vanilla(chosen: pd.DataFrame, name: str) -> pd.DataFrame:
    keep = equals(chosen, "variant", name) | equals(chosen, "variant", "vanilla")
    return where(chosen, keep)


def _groups(
    album: Album,
    pair: str,
    chosen: pd.DataFrame,
    name: str | None,
    at: dict[str, float | None],
) -> dict[str, Any]:
    own = _with_vanilla(chosen, name) if name else chosen
    groups = group_table(own, **at)
    many = len(values_of(groups, "group")) > MOST_DOTS
    cut = (
        f" Only the {MOST_DOTS} groups with the lowest teacher accuracy are shown." if many else ""
    )
    method = f", {name}{_text_of(at)}" if name else ""
    return album.add(
        group_bars(groups, name),
        f"groups {pair}",
        f"Accuracy by group, {pair}",
        f"{pair}: accuracy in each group of the test set (n test rows): teacher, vanilla"
        f" student{method} and, where it exists, the ceiling (student on true labels). Settings:"
        " for each eta_l the nearest and the farthest eta_u. Error bars:"
        f" {INTERVALS}.{cut}",
    )


def _maps(
    album: Album, pair: str, name: str, mine: pd.DataFrame, headline: float
) -> list[dict[str, Any]]:
    figures = []
    limit = largest_of(mine, "effect")
    for values, part in split(mine, ("eta_l",)):
        at = f", eta_l = {show(values['eta_l'])}" if np.isfinite(values["eta_l"]) else ""
        figures.append(
            album.add(
                pq_heatmap(part, limit),
                f"pq eta-l {show(values['eta_l'])} {name} {pair}",
                f"Effect of {name} over p and q, {pair}{at}",
                f"{pair}{at}: effect of {name} ({name} − vanilla, percentage points of accuracy at"
                f" eta_t = {show(headline)}) over the share p of rows kept and the exponent q of"
                " generalized cross entropy. Outlined and bold: the 95 % interval over seeds and"
                f" test rows excludes 0.{_cut(part)}",
            )
        )
    return figures


def _cut(part: pd.DataFrame) -> str:
    if len(list(split(part, SETTING))) <= MOST_PANELS:
        return ""
    return f" {MOST_PANELS} settings, evenly spaced among all."


def _kept(album: Album, pair: str, name: str, kept: pd.DataFrame) -> dict[str, Any]:
    return album.add(
        kept_subset(kept),
        f"kept {name} {pair}",
        f"Minority share and pseudolabel accuracy of the rows kept by {name}, {pair}",
        f"{pair}: rows that {name} keeps for retraining, against the share p kept (p = 1: all"
        " rows). Above: their minority share, dotted the share eta_u before selection. Below: how"
        " many of their pseudolabels are right. Bands: 95 % intervals over seeds (these are"
        " unlabelled rows, drawn anew by every seed).",
    )


def draw_l2(album: Album, pair: str, mine: pd.DataFrame, headline: float) -> list[dict[str, Any]]:
    """Heat maps of the gain over teacher and student l2, one an eta_l."""
    figures = []
    limit = largest_of(mine, "gain")
    for values, part in split(mine, ("eta_l",)):
        if not np.isfinite(numbers(part, "gain")).any():
            continue
        at = f", eta_l = {show(values['eta_l'])}" if np.isfinite(values["eta_l"]) else ""
        figures.append(
            album.add(
                l2_heatmap(part, limit),
                f"l2 eta-l {show(values['eta_l'])} {pair}",
                f"Gain over teacher and student l2, {pair}{at}",
                f"{pair}{at}: gain of the vanilla student over its teacher (percentage points of"
                f" accuracy at eta_t = {show(headline)}) at every teacher l2 and student l2, not"
                " only those chosen. Outlined and bold: the 95 % interval over seeds and test rows"
                f" excludes 0.{_cut(part)}",
            )
        )
    return figures
