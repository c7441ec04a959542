"""The words and the terminal's tables of an ablation."""

import textwrap
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from w2s_jax.report.ablation import CELL, REFERENCES, WORST
from w2s_jax.report.ablation_diagnostics import ALL
from w2s_jax.report.columns import column, equals, numbers, where
from w2s_jax.report.frame import show, split
from w2s_jax.report.wording import count, join, signed

WIDTH = 100
LEVEL = 0.05
CHOICES = {
    "validation": (
        "Hyperparameters, vanilla's penalty among them, are those with the best mean accuracy over"
        " seeds on each draw's labelled validation rows, which are drawn at eta_l and disjoint from"
        " all other rows; the teacher's penalty was chosen likewise. Nothing was chosen by test"
        " rows."
    ),
    "pseudolabels": (
        "Hyperparameters, vanilla's penalty among them, are those whose students agree best with"
        " their teacher on rows held out from both, without labels. Nothing was chosen by test"
        " rows. The rule prefers students that imitate their teacher, errors included."
    ),
    "oracle": (
        "ORACLE, peeks at the test set: hyperparameters, vanilla's and the teacher's penalty among"
        " them, are those with the best mean accuracy over seeds on the test rows. It shows what"
        " the grid holds and not what a user would get; the more candidates, the higher by"
        " selection."
    ),
}
JUDGED = (
    "Differences are paired by seed and test row. Intervals (95 %) and p-values are Student's t and"
    " count the draws and the test rows; those of the worst group, a minimum within each seed,"
    " count the draws only. Adjusted p-values are Holm's over all methods and settings of one"
    " column; intervals are not adjusted. None of them covers the choice of hyperparameters, other"
    " pools or other backbones. Teacher and ceiling (the student on true labels, at vanilla's"
    " penalty) stand outside the families."
)
# Column of the diagnostics, heading on the terminal (none where it is on the page only), heading on
# the page, whether it is a share.
DIAGNOSTICS = (
    ("calibration_error", "ECE", "calibration error (ECE, 15 bins)", True),
    ("negative_log_likelihood", "NLL", "negative log-likelihood (nats)", False),
    ("agreement", "agree", "agreement with the teacher, test", True),
    ("agreement_unlabelled", "agree U", "agreement with the teacher, unlabelled rows", True),
    ("corrected", "fixed", "teacher's errors corrected", True),
    ("copied", "copied", "teacher's errors copied", True),
    ("new_errors", "new", "errors where the teacher is right", True),
    ("kept_count", "kept", "rows kept", False),
    ("kept_minority_fraction", "kept min", "minority among rows kept", True),
    ("kept_pseudolabel_accuracy", "kept ok", "pseudolabels right among rows kept", True),
    ("kept_pseudolabel_accuracy_majority", "", "among majority rows kept", True),
    ("kept_pseudolabel_accuracy_minority", "", "among minority rows kept", True),
)


def cell_name(values: dict) -> str:
    """A setting and its sizes: "weak:strong: eta_l = 0.1, eta_u = 0.5; (n, N) = (200, 2000)"."""
    sizes = ", ".join(show(values[name]) for name in ("n_labelled", "n_unlabelled"))
    text = f"{values['pair']}: eta_l = {show(values['eta_l'])}, eta_u = {show(values['eta_u'])}"
    text += f"; (n, N) = ({sizes})"
    others = {"feature_scaling": "rms", "class_prior": "equal"}
    return text + "".join(
        f"; {k} = {values[k]}" for k, usual in others.items() if values[k] != usual
    )


def labelled(name: str, oracles: Collection[str]) -> str:
    """A method's name, marked where its rounds look at true labels and groups."""
    return f"{name} (oracle)" if name in oracles else name


def ordered(names: Collection[str], oracles: Collection[str]) -> list[str]:
    """Teacher, ceiling, vanilla, the methods by name, those that are oracles last."""
    first = (*REFERENCES, "vanilla")
    rest = sorted(set(names) - set(first), key=lambda name: (name in oracles, name))
    return [name for name in first if name in names] + rest


def answer(table: pd.DataFrame, oracles: Collection[str]) -> str:
    """What differs from vanilla after Holm's correction, setting by setting."""
    sentences = []
    for values, cell in split(table, CELL):
        clauses = []
        for metric, words in (("average", "average accuracy"), (WORST, "worst-group accuracy")):
            part = where(
                cell, equals(cell, "metric", metric) & np.isfinite(numbers(cell, "p_holm"))
            )
            clear = numbers(part, "p_holm") < LEVEL
            difference = numbers(part, "difference")
            found = []
            for verb, mask in (("raise", difference > 0), ("lower", difference < 0)):
                mine = where(part, clear & mask).sort_values(
                    "difference", ascending=verb == "lower"
                )
                named = [
                    f"{labelled(name, oracles)} ({signed(100 * value)})"
                    for name, value in zip(mine["method"], mine["difference"], strict=True)
                ]
                found += (
                    [f"{join(named)} {verb}{'s' if len(named) == 1 else ''} it"] if named else []
                )
            total = count(len(part), "method")
            clauses.append(f"of {total} in {words}, {'; '.join(found) or 'none differs clearly'}")
        sentences.append(f"{cell_name(values)}, compared with vanilla: {'. And '.join(clauses)}.")
    return " ".join(sentences) + f" (Points; adjusted p < {LEVEL}.)"


def format_comparison(
    table: pd.DataFrame, diagnostics: pd.DataFrame, rule: str, oracles: Collection[str]
) -> str:
    """Differences to vanilla, groups and diagnostics of every setting, and what is clear."""
    blocks = [_wrap(CHOICES[rule]), _wrap(JUDGED)]
    for values, cell in split(table, CELL):
        seeds = count(int(numbers(cell, "num_seeds").max()), "seed")
        blocks.append(_wrap(f"{cell_name(values)}; {seeds}; accuracy in %, differences in points"))
        names = ordered(set(column(cell, "method")), oracles)
        blocks.append(_differences(cell, names, oracles))
        blocks.append(_groups(cell, names, oracles))
        same = np.logical_and.reduce([equals(diagnostics, name, values[name]) for name in CELL])
        blocks.append(_diagnostics(where(diagnostics, same), names, oracles))
    blocks.append(_wrap(answer(table, oracles)))
    return "\n\n".join(blocks).replace("−", "-").replace("–", "-")


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def line_of(cell: pd.DataFrame, name: str, metric: str) -> Any:
    """The line of a method and metric; None where there is none."""
    part = where(cell, equals(cell, "method", name) & equals(cell, "metric", metric))
    return part.iloc[0] if len(part) else None


def p_text(value: float) -> str:
    """A p-value in three digits, empty where there is none."""
    if not np.isfinite(value):
        return ""
    return "<.001" if value < 0.0005 else f"{value:.3f}"


def _named(name: str, oracles: Collection[str]) -> str:
    short = f"{name}*" if name in oracles else name
    return f"{short[:20]:20}"


def _differences(cell: pd.DataFrame, names: list[str], oracles: Collection[str]) -> str:
    head = f"{'method':20} {'tried':>5}"
    for title in ("average", "worst"):
        head += f" {title:>7} {'- vanilla':>20} {'p Holm':>6}"
    lines = [head, "-" * len(head)]
    for name in names:
        text = _named(name, oracles)
        for number, metric in enumerate(("average", WORST)):
            line = line_of(cell, name, metric)
            if line is None:
                continue
            if not number:
                tried = "" if name in REFERENCES else str(line["num_candidates"])
                text += f" {tried:>5}"
            value, low, high = (
                100 * float(line[end])
                for end in ("difference", "difference_low", "difference_high")
            )
            limits = (
                f"{signed(value)} [{signed(low)}, {signed(high)}]" if np.isfinite(value) else ""
            )
            p = p_text(float(line["p_holm"]))
            text += f" {100 * float(line['accuracy']):7.1f} {limits:>20} {p:>6}"
        lines.append(text.rstrip())
    if set(names) & set(oracles):
        lines.append("* looks at true labels and groups")
    return "\n".join(lines)


def _groups(cell: pd.DataFrame, names: list[str], oracles: Collection[str]) -> str:
    metrics = [m for m in dict.fromkeys(column(cell, "metric")) if m not in ("average", WORST)]
    shown = metrics[:4]
    width = max(7, *(min(len(metric), 18) for metric in shown)) if shown else 7
    head = f"{'accuracy by group':20} " + " ".join(f"{metric[:18]:>{width}}" for metric in shown)
    lines = [head, "-" * len(head)]
    for name in names:
        found = [line_of(cell, name, metric) for metric in shown]
        values = [float("nan") if line is None else 100 * float(line["accuracy"]) for line in found]
        lines.append(f"{_named(name, oracles)} " + " ".join(f"{v:{width}.1f}" for v in values))
    if len(metrics) > len(shown):
        lines.append(f"and {len(metrics) - len(shown)} more groups in the files")
    return "\n".join(lines)


def diagnostic(line: Any, name: str, share: bool) -> str:
    """A diagnostic in short: shares in percent."""
    value = float(line[name])
    if not np.isfinite(value):
        return "–"
    digits = 0 if name == "kept_count" else 2
    return f"{100 * value:.1f}" if share else f"{value:.{digits}f}"


def _diagnostics(part: pd.DataFrame, names: list[str], oracles: Collection[str]) -> str:
    shown = [entry for entry in DIAGNOSTICS if entry[1]]
    head = f"{'diagnostics (%)':20} " + " ".join(f"{title:>7}" for _, title, _, _ in shown)
    lines = [head, "-" * len(head)]
    for name in names:
        mine = where(part, equals(part, "method", name) & equals(part, "group", ALL))
        if len(mine):
            cells = [diagnostic(mine.iloc[0], key, share) for key, _, _, share in shown]
            lines.append(f"{_named(name, oracles)} " + " ".join(f"{text:>7}" for text in cells))
    return "\n".join(lines)
