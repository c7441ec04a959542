"""A page on the theory: its figures, the statements with their judge, and the embedded features."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from w2s_jax.metrics import accuracy_at
from w2s_jax.report.album import Album
from w2s_jax.report.columns import equals, numbers, where
from w2s_jax.report.frame import ReportError, show, split
from w2s_jax.report.rendering import write_page
from w2s_jax.report.sections import Cell, Table
from w2s_jax.report.theory_figures import SOURCES, draw_agreement, draw_study
from w2s_jax.report.wording import signed
from w2s_jax.theory.estimation import Interval, PairEstimate, predicted_gains, rank_agreement
from w2s_jax.theory.findings import Finding
from w2s_jax.theory.study import Study

TITLE = "Weak-to-strong generalization: theory against simulation"
ETA_T = (0.0, 0.1, 0.5, 1.0)
PREDICTED_BY = ("mixture", "published")
JUDGED = {**SOURCES, "simulated": "simulation"}


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """Predicted beside measured gains of one pair of feature sets.

    Attributes:
      estimate: of the pair.
      table: a row for each penalty pair, form and eta_t ("all" for all together), with columns
        teacher_l2, student_l2, form, eta_t, correlation, low, high.
      predicted: gains of the first form ``[t, k]``.
      measured: mean gains in accuracy over all penalties ``[t, k]``.
      error: standard errors of these over seeds ``[t, k]``; NaN with one seed.
      settings: eta_l and eta_u ``[2, k]``.
    """

    estimate: PairEstimate
    table: pd.DataFrame
    predicted: np.ndarray
    measured: np.ndarray
    error: np.ndarray
    settings: np.ndarray


def benchmark_agreement(
    rows: pd.DataFrame, estimate: PairEstimate, eta_t: Sequence[float] = ETA_T
) -> Agreement:
    """Rank correlations over (eta_l, eta_u) of predicted gains with those of result rows.

    Args:
      rows: vanilla result rows of one pair, n_labelled and n_unlabelled; every seed, penalty and
        setting combined.
      estimate: of the pair.
      eta_t: test fractions.

    Raises:
      ReportError: where rows of a setting are missing or several sizes are mixed.
    """
    rows = where(rows, equals(rows, "method", "vanilla"))
    sizes = {}
    for name in ("n_labelled", "n_unlabelled"):
        values = np.unique(numbers(rows, name))
        if len(values) != 1:
            raise ReportError(f"rows must have one {name}, found {values.tolist()}")
        sizes[name] = int(values[0])
    found, measured, settings = [], [], np.empty((2, 0))
    predicted: dict[str, np.ndarray] = {}
    for penalties, own in split(rows, ("teacher_l2", "student_l2")):
        gains, settings = _gains(own, eta_t)
        measured.append(gains)
        eta_l, eta_u = settings
        for form in PREDICTED_BY:
            if form not in predicted:
                tests = np.asarray(eta_t)[:, None]
                fractions = (eta_l, eta_u, tests)
                predicted[form] = predicted_gains(estimate, *fractions, form=form, **sizes)
            parts = [(show(value), [i]) for i, value in enumerate(eta_t)]
            for name, chosen in (*parts, ("all", list(range(len(eta_t))))):
                draws = np.concatenate([gains[i] for i in chosen], axis=1)
                agreed = rank_agreement(predicted[form][chosen].ravel(), draws)
                found.append((*penalties.values(), form, name, *agreed))
    columns = ["teacher_l2", "student_l2", "form", "eta_t", "correlation", "low", "high"]
    table = pd.DataFrame(found, columns=pd.Index(columns))
    by_seed = np.mean(measured, axis=0)
    seeds = by_seed.shape[1]
    error = np.full(by_seed[:, 0].shape, np.nan)
    if seeds > 1:
        error = by_seed.std(axis=1, ddof=1) / np.sqrt(seeds)
    shown = predicted[PREDICTED_BY[0]]
    return Agreement(estimate, table, shown, by_seed.mean(axis=1), error, settings)


def _gains(rows: pd.DataFrame, eta_t: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Gains in accuracy ``[t, s, k]`` of every seed and setting, and the settings ``[2, k]``."""
    names = ("seed", "eta_l", "eta_u")
    rows = rows.sort_values(list(names), kind="stable")
    seeds = len(np.unique(numbers(rows, "seed")))
    settings = np.empty((2, seeds, len(rows) // seeds))
    if settings[0].size == len(rows):
        settings[:] = [numbers(rows, name).reshape(seeds, -1) for name in names[1:]]
    if settings[0].size != len(rows) or np.any(settings != settings[:, :1]):
        raise ReportError("every seed must have the same settings, once each")
    gains = []
    for value in eta_t:
        teacher, student = (
            accuracy_at(
                value,
                numbers(rows, f"{side}_majority_accuracy"),
                numbers(rows, f"{side}_minority_accuracy"),
            )
            for side in ("teacher", "student")
        )
        gains.append((student - teacher).reshape(seeds, -1))
    return np.stack(gains), settings[:, 0]


def series_table(studies: Sequence[Study]) -> pd.DataFrame:
    """All numbers of the figures, a row each: study, panel, label, source, x, y, error."""
    rows = []
    for study in studies:
        for one in study.series:
            errors = np.full(len(one.x), np.nan) if one.error is None else one.error
            head = (study.name, one.panel, one.label, one.source)
            rows += [(*head, *values) for values in zip(one.x, one.y, errors, strict=True)]
    columns = ["study", "panel", "label", "source", "x", "y", "error"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def write_theory_page(
    studies: Sequence[Study],
    findings: Sequence[Finding],
    out_dir: str | os.PathLike[str],
    *,
    effort: str,
    distance: str,
    agreement: Agreement | None = None,
) -> Path:
    """Write figures/*.png, series.csv and index.html to a folder.

    Args:
      studies: their figures in order; one is named "findings", one "examples".
      findings: the statements that this one judges.
      out_dir: made where it does not exist.
      effort: what was simulated, in words.
      distance: how far the leading orders are from the proportional form, in words.
      agreement: the section on features; left out where None.

    Returns:
      The path of index.html.

    Raises:
      ReportError: where the folder is a file.
    """
    folder = Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise ReportError(f"{folder} is a file; give a folder to write the page to")
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    album = Album(folder / "figures", "figures")
    pictures = {
        study.name: album.add(draw_study(study), study.name, study.name, study.caption)
        for study in studies
    }
    series_table(studies).to_csv(folder / "series.csv", index=False)
    by_name = {study.name: study for study in studies}
    judged, shown = pictures.pop("findings"), pictures.pop("examples")
    benchmark = None
    if agreement is not None:
        agreement.table.to_csv(folder / "agreement.csv", index=False)
        benchmark = _benchmark(agreement, album)
    return write_page(
        folder,
        "theory_page.html",
        title=TITLE,
        effort=effort,
        distance=distance,
        figures=list(pictures.values()),
        findings=findings,
        judged=judged,
        numbers=_numbers(by_name["findings"], findings),
        examples=shown,
        risks=_risks(by_name["examples"]),
        benchmark=benchmark,
    )


def _values(study: Study, panel: str, place: int, digits: int, *, sign: bool) -> list[Cell]:
    """A cell for each form and one for the simulation, at a place of the panel's series."""
    own = {one.source: one for one in study.series if one.panel == panel}
    cells = []
    for source in JUDGED:
        one = own[source]
        value = float(one.y[place])
        small = "" if one.error is None else f"± {2 * one.error[place]:.{digits}f}"
        cells.append(Cell(signed(value, digits) if sign else f"{value:.{digits}f}", small))
    return cells


def _risks(study: Study) -> Table:
    table = Table(
        "Excess risks of this problem, the simulated ones with two standard errors.",
        ["ratios", "of the", *JUDGED.values()],
    )
    for panel in dict.fromkeys(one.panel for one in study.series):
        sides = next(one for one in study.series if one.panel == panel).label.split("; ")
        digits = 4 if max(one.y.max() for one in study.series if one.panel == panel) < 1 else 2
        for place, side in enumerate(sides):
            head = [Cell(panel), Cell(side)]
            table.rows.append(head + _values(study, panel, place, digits, sign=False))
    return table


def _numbers(study: Study, findings: Sequence[Finding]) -> Table:
    table = Table(
        "Gains of the examples, the simulated ones with two standard errors.",
        ["example", "eta_l", "eta_u", "eta_t", *JUDGED.values()],
    )
    for finding in findings:
        for number, (eta_u, eta_t) in enumerate(finding.settings):
            cells = [Cell(finding.name), Cell(show(finding.eta_l)), Cell(show(eta_u))]
            cells.append(Cell(show(eta_t)))
            table.rows.append(cells + _values(study, finding.name, number, 4, sign=True))
    return table


def _interval(value: Interval, digits: int = 2) -> Cell:
    return Cell(f"{value.value:.{digits}f}", f"[{value.low:.{digits}f}, {value.high:.{digits}f}]")


def _benchmark(agreement: Agreement, album: Album) -> dict:
    estimate = agreement.estimate
    estimates = Table(
        f"Estimates within groups at spectral mass {show(estimate.spectral_mass)}, with 95 % "
        "bootstrap intervals; separations are squared lengths in units of the spread in a group.",
        ["teacher dim", "student dim", "|Xi|²", "share shared", "|mu_T|²", "|mu_S|²"],
        [
            [
                _interval(estimate.teacher_dim, 0),
                _interval(estimate.student_dim, 0),
                _interval(estimate.similarity, 1),
                _interval(estimate.shared),
                _interval(estimate.teacher_separation, 1),
                _interval(estimate.student_separation, 1),
            ]
        ],
    )
    tests = list(dict.fromkeys(agreement.table["eta_t"]))
    table = Table(
        "Spearman rank correlation over settings (eta_l, eta_u) of the predicted gain in risk with "
        "the measured gain in accuracy; 95 % intervals over draws. Last column: all eta_t "
        "together.",
        ["teacher_l2", "student_l2", "predicted by", *(f"eta_t = {name}" for name in tests)],
    )
    for values, own in split(agreement.table, ("teacher_l2", "student_l2", "form")):
        cells = [Cell(show(values["teacher_l2"])), Cell(show(values["student_l2"]))]
        cells.append(Cell(SOURCES[str(values["form"])]))
        for name in tests:
            line = where(own, equals(own, "eta_t", name)).iloc[0]
            bounds = f"[{signed(line['low'], 2)}, {signed(line['high'], 2)}]"
            cells.append(Cell(signed(line["correlation"], 2), bounds))
        table.rows.append(cells)
    tests_shown = np.array([float(name) for name in tests if name != "all"])
    figure = album.add(
        draw_agreement(
            agreement.predicted,
            agreement.measured,
            agreement.error,
            agreement.settings,
            tests_shown,
        ),
        "agreement",
        "Measured gain against predicted gain",
        "Measured gain (mean over seeds and penalties, two standard errors over seeds) against the "
        "gain that the leading order for the mixture predicts from the estimates, a dot for each "
        "(eta_l, eta_u); the ends of a line are marked with their eta_u.",
    )
    return {
        "text": agreement_sentence(agreement),
        "estimates": estimates,
        "agreement": table,
        "figure": figure,
    }


def agreement_sentence(agreement: Agreement) -> str:
    """How well the order of settings is predicted, in words, whatever the answer."""
    table, predicted, measured = agreement.table, agreement.predicted, 100 * agreement.measured
    spread = 100 * np.ptp(predicted) / np.abs(predicted).max()
    parts = []
    for values, own in split(where(table, equals(table, "eta_t", "all")), ("form",)):
        found = numbers(own, "correlation")
        low, high = signed(found.min(), 2), signed(found.max(), 2)
        parts.append(f"{low} to {high} by the {SOURCES[str(values['form'])]}")
    return (
        "Predicted and measured order of settings, all eta_t together: rank correlation "
        f"{' and '.join(parts)}, over the penalties tried. Near +1 the theory predicts the order, "
        "near 0 it says nothing about it, near -1 it predicts the reverse. The gains that the "
        f"{SOURCES[PREDICTED_BY[0]]} predicts differ by {spread:.1f} % at most between settings, "
        "since the estimated dimensions outweigh the separations; the measured ones run from "
        f"{signed(measured.min())} to {signed(measured.max())} points. The theory's risks come from"
        " label noise alone: in it the target does not depend on the group. Where labels and "
        "attribute go together, a teacher can also learn the attribute in place of the label, and "
        "its student that mistake; no term of the theory stands for this."
    )
