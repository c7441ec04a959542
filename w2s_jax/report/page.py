"""One self-contained HTML page from result rows, with its figures in a folder beside it."""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from w2s_jax.report import sections, wording
from w2s_jax.report.album import Album, draw_l2, draw_pair
from w2s_jax.report.choices import Analysis, analyses, extent_note, pq_note
from w2s_jax.report.columns import distinct, equals, numbers, values_of, where
from w2s_jax.report.comparison import compare
from w2s_jax.report.correctness import check_metric
from w2s_jax.report.frame import ReportError, check_rows, methods, split
from w2s_jax.report.rendering import render
from w2s_jax.report.tables import averages_table, best_pq, improvement_map, l2_map, setting_table

FIGURES = "figures"


@dataclass
class Part:
    """What the page shows of one condition."""

    label: str
    choice: str
    main: list[sections.Table] = field(default_factory=list)
    oracle: list[sections.Table] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    sensitivity: str = ""
    l2_figures: list[dict[str, Any]] = field(default_factory=list)
    answer: str = ""
    comparisons: int = 0
    warnings: list[str] = field(default_factory=list)


def write_report(
    rows: pd.DataFrame,
    out_dir: str | os.PathLike[str],
    *,
    title: str = "Weak-to-strong generalization: results",
    keep_fraction: float | None = None,
    gce_q: float | None = None,
    eta_t: float | Sequence[float] = (0.1, 0.5),
) -> Path:
    """Write `out_dir/index.html` and `out_dir/figures/*.png`, replacing an earlier report.

    l2 is chosen by validation in every draw where the rows allow it (`select_l2`), else the middle
    of the grid is shown, and the page says so. Sections that the rows cannot support are left out
    with a sentence. Figures are written first and the page is renamed into place last, so a page
    that opens is complete; other files in `out_dir` are left alone.

    Args:
        rows: result rows.
        out_dir: folder to write to; made where it does not exist.
        title: heading of the page.
        keep_fraction: p at which methods are shown; the middle of the grid where not given.
        gce_q: likewise q.
        eta_t: test minority fractions; figures and sentences that show one use the last.

    Returns:
        The path of index.html.

    Raises:
        ReportError: Rows that cannot be read, a (p, q) that no row has, an impossible eta_t, or an
            out_dir that is a file.
    """
    fractions = [float(eta_t)] if isinstance(eta_t, int | float) else [float(e) for e in eta_t]
    if not fractions:
        raise ReportError("eta_t is empty; give at least one test minority fraction, such as 0.5")
    for fraction in fractions:
        check_metric(fraction)
    table = check_rows(rows)
    folder = Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise ReportError(f"{folder} is a file; give a folder to write the report to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".report-", dir=folder))
    except OSError as error:
        raise ReportError(f"no report can be written to {folder}: {error.strerror}") from error
    try:
        album = Album(scratch, FIGURES)
        parts = [
            _part(analysis, album, keep_fraction, gce_q, fractions) for analysis in analyses(table)
        ]
        text = _render(title, table, parts, fractions[-1])
        return _publish(text, scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _part(
    analysis: Analysis,
    album: Album,
    keep_fraction: float | None,
    gce_q: float | None,
    fractions: list[float],
) -> Part:
    chosen, headline = analysis.chosen, fractions[-1]
    choice = {"keep_fraction": keep_fraction, "gce_q": gce_q}
    notes = (analysis.l2_note, pq_note(chosen, keep_fraction, gce_q))
    part = Part(analysis.label, " ".join(note for note in notes if note))
    metrics = ["accuracy", *dict.fromkeys(fractions)]
    settings = setting_table(chosen, metrics=metrics, **choice)
    other = averages_table(chosen, **choice)
    maps = improvement_map(chosen, metrics=list(dict.fromkeys(["accuracy", headline])))
    l2 = l2_map(analysis.table, metrics=[headline]) if analysis.l2_rule != "only" else None
    names = methods(chosen)
    if not names:
        part.missing.append(
            "The rows hold no method besides vanilla, so there is no relative improvement, effect"
            " of retraining or kept subset to show."
        )
    for name in names:
        part.main.append(sections.improvement_table(settings, name, metrics))
    best = best_pq(where(maps, equals(maps, "metric", "accuracy"))) if names else maps
    part.oracle = [t for name in names if (t := sections.oracle_table(best, name)) is not None]
    part.published = [
        {"table": sections.comparison_table(found), "notes": found.notes()}
        for found in compare(chosen, keep_fraction, gce_q)
    ]

    for values, mine in split(settings, ("pair",)):
        pair = str(values["pair"])
        own = where(chosen, equals(chosen, "pair", pair))
        map_ = where(maps, equals(maps, "pair", pair)) if names else maps
        map_ = where(map_, equals(map_, "metric", headline)) if names else map_
        figures, missing = draw_pair(album, pair, own, mine, map_, headline)
        accuracy = [
            sections.accuracy_table(mine, methods(own), metric, folded=metric != headline)
            for metric in reversed(metrics)
        ]
        average = sections.averages(where(other, equals(other, "pair", pair)))
        part.pairs.append(
            {"name": pair, "tables": [*accuracy, average], "figures": figures, "missing": missing}
        )
    if l2 is None:
        part.sensitivity = (
            "The rows hold one teacher l2 and one student l2, so sensitivity to l2 is not shown."
        )
    else:
        part.sensitivity = wording.l2_sentence(l2)
        for values, mine in split(l2, ("pair",)):
            part.l2_figures += draw_l2(album, str(values["pair"]), mine, headline)
    _answer(part, where(settings, equals(settings, "metric", headline)), l2, headline)
    return part


def _answer(part: Part, settings: pd.DataFrame, l2: pd.DataFrame | None, eta_t: float) -> None:
    """The paragraph and the warnings below it, from the settings at the headline eta_t."""
    vanilla = where(settings, equals(settings, "variant", "vanilla"))
    start = f"At test minority fraction eta_t = {eta_t:g}"
    known = where(vanilla, np.isfinite(numbers(vanilla, "gain")))
    sentences = []
    if not len(known):
        sentences.append(f"{start} accuracy is not defined: a class has no test rows in one part.")
    elif distinct(known, "pair") > 2:
        sentences.append(f"{start}: {wording.gain_counts(known)}")
    else:
        sentences.append(f"All numbers here are at test minority fraction eta_t = {eta_t:g}.")
        for values, lines in split(known, ("pair",)):
            for number, (_, line) in enumerate(split(lines, ("eta_l",))):
                name = str(values["pair"]) if not number else ""
                sentences.append(wording.gain_sentence(line, name))
    for name in values_of(settings, "variant"):
        if name != "vanilla" and len(known):
            sentences.append(wording.effect_sentence(settings, name))
    if l2 is not None:
        sentences.append(wording.l2_sentence(l2))
    part.answer = " ".join(sentences)
    part.comparisons = len(settings)
    notes = (wording.seeds_sentence(settings), wording.sizes_sentence(settings))
    part.warnings = [note for note in notes if note]


def _render(title: str, table: pd.DataFrame, parts: list[Part], eta_t: float) -> str:
    status, unfinished = sections.status_table(table)
    total = sum(int(row[-1].text) for row in status.rows)
    answer = " ".join(
        f"{part.label + ': ' if part.label else ''}{part.answer}" for part in parts if part.answer
    )
    return render(
        "page.html",
        title=title,
        extent=f"{wording.count(distinct(table, 'pair'), 'pair')}; {extent_note(table)}.",
        question=wording.QUESTION,
        answer=answer,
        warnings=list(dict.fromkeys(note for part in parts for note in part.warnings)),
        parts=parts,
        chance=wording.chance_sentence(sum(part.comparisons for part in parts)),
        heads=f"{unfinished} of {wording.count(total, 'distinct head')} did not converge.",
        provenance=[sections.pairs_table(table), status, sections.grid_table(table)],
    )


def _publish(text: str, scratch: Path, folder: Path) -> Path:
    """Move figures and then the page into place; drop the earlier page's other figures."""
    target, page = folder / FIGURES, folder / "index.html"
    link = re.compile(rf'src="{FIGURES}/([\w.-]+\.png)"')
    earlier = link.findall(page.read_text(encoding="utf-8")) if page.is_file() else []
    target.mkdir(exist_ok=True)
    for figure in sorted(scratch.glob("*.png")):
        figure.replace(target / figure.name)
    fresh = scratch / "index.html"
    with open(fresh, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(page)
    for name in set(earlier) - set(link.findall(text)):
        (target / name).unlink(missing_ok=True)
    return page
