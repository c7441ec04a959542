"""Sentences generated from numbers: a claim only where an interval excludes zero."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from w2s_jax.report.columns import equals, numbers, where
from w2s_jax.report.frame import SETTING, show, split

QUESTION = (
    "Does a student that is trained only on its teacher's pseudolabels beat that teacher when the"
    " minority fraction of the labelled data (eta_l) differs from that of the unlabelled data"
    " (eta_u), and does retraining it on part of those rows help?"
)


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign and a true minus: +1.2, −0.3, 0.0; a dash for NaN."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def join(parts: Sequence[str]) -> str:
    """Parts as running text: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 seed, 3 seeds."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def directions(part: pd.DataFrame, name: str) -> np.ndarray:
    """1, -1 or 0 where an interval lies above zero, below zero, or neither (or does not exist)."""
    low, high = numbers(part, f"{name}_low"), numbers(part, f"{name}_high")
    return (low > 1e-12).astype(int) - (high < -1e-12).astype(int)


def extent(part: pd.DataFrame, name: str) -> str:
    """The range of a difference in percentage points: "+1.2 to +3.4 points"."""
    values = 100 * numbers(part, name)
    ends = list(dict.fromkeys([signed(values.min()), signed(values.max())]))
    return f"{' to '.join(ends)} points"


def gain_sentence(part: pd.DataFrame, pair: str = "") -> str:
    """Where the vanilla student of one pair and eta_l beats its teacher, and where it does not.

    Args:
        part: vanilla rows of `setting_table` of one pair, eta_l and metric.
        pair: name of the pair, where the sentence is the first about it.
    """
    eta_l = numbers(part, "eta_l")[0]
    start = "with a teacher from elsewhere"
    if np.isfinite(eta_l):
        start = f"with labelled data at eta_l = {show(float(eta_l))}"
    clauses = []
    for direction, words in (
        (1, "beats its teacher"),
        (0, "shows no clear difference from its teacher"),
        (-1, "falls short of its teacher"),
    ):
        found = where(part, directions(part, "gain") == direction)
        if len(found):
            clauses.append(f"{words}{_places(found)} ({extent(found, 'gain')})")
    text = f"{start}, the student {join(clauses)}."
    return f"For {pair}, {text}" if pair else text[0].upper() + text[1:]


def _places(part: pd.DataFrame) -> str:
    eta_u = numbers(part, "eta_u")
    if np.isnan(eta_u).all():
        return ""
    return f" at eta_u = {join([show(float(value)) for value in eta_u])}"


def gain_counts(table: pd.DataFrame) -> str:
    """How often students beat their teachers over several pairs, in numbers of settings."""
    found = directions(table, "gain")
    pairs = len(list(split(table, ("pair",))))
    return (
        f"over {count(pairs, 'pair')}, the student beats its teacher in {int((found > 0).sum())} of"
        f" {count(len(found), 'setting')} (pair, eta_l, eta_u), falls short of it in"
        f" {int((found < 0).sum())}, and shows no clear difference in {int((found == 0).sum())}."
    )


def effect_sentence(table: pd.DataFrame, variant: str) -> str:
    """What a method does to the vanilla student, counted over settings; empty without rows."""
    part = where(table, equals(table, "variant", variant))
    if not len(part):
        return ""
    found = directions(part, "effect")
    choice = [
        f"{symbol} = {show(float(numbers(part, axis)[0]))}"
        for symbol, axis in (("p", "keep_fraction"), ("q", "gce_q"))
        if np.isfinite(numbers(part, axis)[0])
    ]
    at = f" ({', '.join(choice)})" if choice else ""
    better, worse = where(part, found > 0), where(part, found < 0)
    sizes = [f" ({extent(some, 'effect')})" if len(some) else "" for some in (better, worse)]
    return (
        f"Method {variant}{at} improves on the vanilla student in {len(better) or 'none'} of"
        f" {count(len(part), 'setting')}{sizes[0]}, makes it worse in {len(worse) or 'none'}"
        f"{sizes[1]}, and shows no clear difference in {int((found == 0).sum()) or 'none'}."
    )


def l2_sentence(table: pd.DataFrame) -> str:
    """How the sign of the gain depends on l2, from the rows of `l2_map`."""
    clashes, consistent, total = 0, 0, 0
    for _, part in split(table, ("pair", *SETTING)):
        found = directions(part, "gain")
        total += 1
        clashes += bool((found > 0).any() and (found < 0).any())
        consistent += bool((found > 0).all() or (found < 0).all())
    return (
        "Over the grid of l2 values the gain is clear and of one sign at every l2 in"
        f" {consistent or 'none'} of {count(total, 'setting')}; in {clashes or 'none'} it is"
        " clearly positive at one l2 and clearly negative at another."
    )


def seeds_sentence(table: pd.DataFrame) -> str:
    """A warning where an estimate rests on one seed; empty otherwise."""
    if not len(table) or (numbers(table, "num_seeds") > 1).all():
        return ""
    return (
        "Some estimates rest on one seed: their intervals hold the sampling of the test rows only,"
        " and another draw of the training rows may differ by more."
    )


def sizes_sentence(table: pd.DataFrame) -> str:
    """A warning where settings average over different numbers of (n, N); empty otherwise."""
    sizes = sorted({int(value) for value in numbers(table, "num_sizes")})
    if len(sizes) < 2:
        return ""
    return (
        "Settings average over different numbers of sizes (n, N), from"
        f" {sizes[0]} to {sizes[-1]}; compare them with care."
    )


def chance_sentence(number: int) -> str:
    """What many intervals without correction mean."""
    return (
        f"Nothing is corrected for the number of comparisons ({number} behind the answer above):"
        " of differences that are truly zero, about one in twenty would look clear."
    )
