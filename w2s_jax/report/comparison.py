"""Measured relative improvements of Enhanced-W2S beside the published ranges.

The paper reports a pair of backbones on a benchmark where the sign of (student accuracy - teacher
accuracy under true labels) stays the same as eta_l, eta_u, n and N vary. Here a pair counts where
one backbone is ahead of the other on the true labels of the same rows at every (eta_l, n), labelled
rows, and at every (eta_u, N), unlabelled ones, in plain test accuracy averaged over seeds; it is
the student. So the rows must have both backbones as teacher of the other.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from w2s_jax.report.columns import equals, number, numbers, values_of, where
from w2s_jax.report.frame import at_pq, methods, show, split
from w2s_jax.report.published import BALANCED, CITATION, Published, Range, find_published
from w2s_jax.report.tables import oracle_improvement, relative_improvement
from w2s_jax.report.wording import count, signed

SETTINGS = ("eta_l = 0.5, eta_u = eta_o", "eta_l = eta_o, eta_u = 0.5")


@dataclass
class Comparison:
    """A benchmark and a variant of Enhanced-W2S beside what is published.

    Attributes:
        published: What is published.
        variant: "enhanced", with those retraining choices that vary.
        choice: (p, q) of the variant in words.
        improvements: One row a pair that counts and setting (its number in `SETTINGS`):
            improvement (%) with limits, and the best on test over (p, q), `oracle`.
        left_out: Pairs that do not count, with the reason.
    """

    published: Published
    variant: str
    choice: str
    improvements: pd.DataFrame
    left_out: list[str] = field(default_factory=list)

    def measured(self, setting: int, name: str = "improvement") -> str:
        """Lowest and highest improvement over the pairs of a setting, in words."""
        if not len(self.improvements):
            return "–"
        part = where(self.improvements, equals(self.improvements, "setting", setting))
        values = numbers(part, name)
        values = values[np.isfinite(values)]
        if not len(values):
            return "–"
        return f"{show_range((values.min(), values.max()))} ({count(len(values), 'pair')})"

    def published_ranges(self) -> tuple[Range, Range]:
        """The published range of each of `SETTINGS`."""
        return self.published.balanced_labels, self.published.balanced_unlabelled

    def caption(self) -> str:
        """What the numbers are."""
        return (
            f"{self.published.title}: relative improvement (%) of {self.variant}{self.choice} over"
            " vanilla in plain test accuracy, averaged over (n, N), beside the published ranges"
            f" ({CITATION})."
        )

    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        found = [
            "Which (n, N), eta_o, optimizer, p and q the published ranges are at is not known to"
            " us; agreement is no proof and disagreement no refutation."
        ]
        if self.published.note:
            found.append(self.published.note)
        if self.left_out:
            found.append(f"Pairs left out: {'; '.join(self.left_out)}.")
        return found


def show_range(ends: Range) -> str:
    """Two ends in words; a dash for no range."""
    return "–" if ends is None else " to ".join(signed(end, 2) for end in ends)


def compare(
    table: pd.DataFrame, keep_fraction: float | None = None, gce_q: float | None = None
) -> list[Comparison]:
    """Comparisons of all benchmarks among the rows of which something is published.

    Args:
        table: checked rows at one l2 a draw.
        keep_fraction: p of the method; the middle of the grid where not given.
        gce_q: likewise q.

    Returns:
        One a benchmark and variant of Enhanced-W2S; none where no benchmark is published.
    """
    found = []
    by_benchmark: dict[str, list[str]] = {}
    for pair in values_of(table, "pair"):
        by_benchmark.setdefault(_benchmark(pair), []).append(pair)
    for benchmark, pairs in by_benchmark.items():
        published = find_published(benchmark)
        mine = where(table, np.isin(table["pair"].to_numpy(), pairs))
        if published is None:
            continue
        for variant in methods(mine):
            if variant == "enhanced" or variant.startswith("enhanced, "):
                found.append(_compare(published, variant, mine, keep_fraction, gce_q))
    return found


def _benchmark(pair: str) -> str:
    """The benchmark of both sides of a pair, "" where they differ."""
    names = {side.rpartition("/")[0].rpartition("/")[2] for side in pair.split(":")}
    return names.pop() if len(names) == 1 else ""


def _compare(
    published: Published,
    variant: str,
    table: pd.DataFrame,
    keep_fraction: float | None,
    gce_q: float | None,
) -> Comparison:
    vanilla = where(table, equals(table, "method", "vanilla"))
    counted, left_out = weak_to_strong(vanilla)
    others = [eta for eta in values_of(vanilla, "eta_l") if not np.isclose(eta, BALANCED)]
    if len(others) != 1:
        left_out = [f"all, as eta_l takes {len(others)} values besides 0.5 and eta_o is one"]
        counted, others = [], [np.nan]
    of_variant = where(table, equals(table, "variant", variant))
    p, q, shown = at_pq(of_variant, keep_fraction, gce_q)
    lines: list[dict[str, Any]] = []
    for setting, (eta_l, eta_u) in enumerate(((BALANCED, others[0]), (others[0], BALANCED))):

        def chosen(part: pd.DataFrame, eta_l: float = eta_l, eta_u: float = eta_u) -> pd.DataFrame:
            there = equals(part, "eta_l", eta_l) & equals(part, "eta_u", eta_u)
            return where(part, there & np.isin(part["pair"].to_numpy(), counted))

        base = chosen(vanilla)
        if not len(chosen(shown)):
            continue
        rows = pd.concat([base, chosen(shown)])
        best = oracle_improvement(pd.concat([base, chosen(of_variant)]))
        for _, line in relative_improvement(rows).iterrows():
            oracle = where(best, equals(best, "pair", line["pair"]))
            ends = ("improvement", "improvement_low", "improvement_high")
            lines.append(
                {"pair": line["pair"], "setting": setting}
                | {name: number(line, name) for name in ends}
                | {"oracle": numbers(oracle, "improvement")[0] if len(oracle) else np.nan}
            )
    parts = [f"{symbol} = {show(x)}" for symbol, x in (("p", p), ("q", q)) if np.isfinite(x)]
    choice = f" at {', '.join(parts)}" if parts else ""
    return Comparison(published, variant, choice, pd.DataFrame(lines), left_out)


def weak_to_strong(vanilla: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Pairs whose student is ahead of the teacher wherever both see true labels of the same rows.

    Args:
        vanilla: vanilla rows.

    Returns:
        The pairs that count, "weak:strong", and the others with the reason.
    """
    accuracy: dict[str, dict[Any, float]] = {}
    for model, axes in (
        ("teacher", ("eta_l", "n_labelled")),
        ("ceiling", ("eta_u", "n_unlabelled")),
    ):
        for values, part in split(vanilla, ("pair", *axes)):
            cell = (model, *(values[axis] for axis in axes))
            accuracy.setdefault(values["pair"], {})[cell] = numbers(
                part, f"{model}_accuracy"
            ).mean()
    sides = sorted({side for pair in accuracy for side in pair.split(":")})
    counted, left_out = [], []
    for first, second in itertools.combinations(sides, 2):
        there, back = f"{first}:{second}", f"{second}:{first}"
        known = [pair for pair in (there, back) if pair in accuracy]
        if len(known) == 2:
            leads = _leads(accuracy[there], accuracy[back])
            if all(lead > 0 for lead in leads) or all(lead < 0 for lead in leads):
                counted.append(there if leads[0] > 0 else back)
            else:
                left_out.append(f"{there} (which side is ahead on true labels varies)")
        elif known:
            left_out.append(f"{known[0]} (not run the other way round)")
    return counted, left_out


def _leads(there: dict[Any, float], back: dict[Any, float]) -> Sequence[float]:
    """Accuracy of the second side less that of the first, on the true labels of the same rows."""
    cells = sorted(there.keys() & back.keys(), key=str)
    # "there" has the first side as teacher and the second as student; "back" the reverse.
    return [(back[cell] - there[cell]) * (1 if cell[0] == "teacher" else -1) for cell in cells] or [
        np.nan
    ]
