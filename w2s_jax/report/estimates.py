"""Seed-averaged estimates of accuracies, differences and ratios from result rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from w2s_jax.report.columns import column, distinct, group_codes, missing, numbers
from w2s_jax.report.correctness import RowLayout, cell_weights, decode_correct, layout_of
from w2s_jax.report.frame import AXES, SIZE, ReportError, show
from w2s_jax.report.statistics import Estimate, TwoWay, estimate, two_way

MISSING = Estimate(np.nan, np.nan, np.nan, np.nan, np.nan, 0)
_COLUMN = {"teacher": "teacher", "ceiling": "ceiling", "method": "student", "vanilla": "student"}


@dataclass(frozen=True, eq=False)
class Sample:
    """Correctness bits of one configuration: its sizes (n, N), seeds and test rows.

    Attributes:
        layout: order and strata of the test rows.
        seeds: seeds that every size has.
        bits: for each of "teacher", "vanilla", "method", "ceiling" that exists, one `[s, t]` matrix
            a size.
        sizes: the (n, N) averaged over.
    """

    layout: RowLayout
    seeds: tuple[int, ...]
    bits: dict[str, list[np.ndarray]]
    sizes: tuple[tuple[float, float], ...]
    _cache: dict[tuple[str, str], TwoWay] = field(default_factory=dict, repr=False)

    def level(self, model: str, metric: str | float) -> Estimate:
        """Accuracy of a model, averaged over seeds and sizes."""
        return self.difference(model, "", metric)

    def difference(self, model: str, base: str, metric: str | float) -> Estimate:
        """Paired difference of two models' accuracies (model - base) in the same draws."""
        statistics = self._statistics(model, base)
        return estimate(statistics, self._weights(metric)) if statistics else MISSING

    def relative(self, model: str, base: str, metric: str | float) -> Estimate:
        """100 (model - base) / base on seed means per (n, N), then averaged over (n, N).

        The interval is that of the linearisation: (M - (1 + r) B) / b averaged over sizes, with r
        and b the size's ratio and base accuracy.
        """
        if not {model, base} <= self.bits.keys():
            return MISSING
        weights = self._weights(metric)
        total, matrix = 0.0, 0.0
        for ours, theirs in zip(self.bits[model], self.bits[base], strict=True):
            a, b = self._mean(ours, weights), self._mean(theirs, weights)
            if not b > 0:
                return MISSING
            total += 100 * (a - b) / b
            matrix = matrix + 100 * (ours - (a / b) * theirs) / b
        count = len(self.sizes)
        statistics = two_way(np.asarray(matrix) / count, self.layout.cell, len(weights))
        return estimate(statistics, weights, center=total / count)

    def recovered(self, model: str = "vanilla") -> Estimate:
        """PGR in plain accuracy: ratio of means over seeds and (n, N).

        (model - teacher) / (ceiling - teacher), missing where the ceiling's lead is at most one
        test row. The interval is that of the linearisation, and missing too where the lead is not
        clearly above zero: no finite interval is right there (Fieller 1954).
        """
        if not {model, "teacher", "ceiling"} <= self.bits.keys():
            return MISSING
        weights = self._weights("accuracy")
        ours, teacher, ceiling = (self._average(name) for name in (model, "teacher", "ceiling"))
        lead = self._mean(ceiling, weights) - self._mean(teacher, weights)
        if lead <= 1 / self.layout.num_test:
            return MISSING
        ratio = (self._mean(ours, weights) - self._mean(teacher, weights)) / lead
        matrix = (ours - teacher - ratio * (ceiling - teacher)) / lead
        found = estimate(
            two_way(matrix, self.layout.cell, len(weights)), weights, center=float(ratio)
        )
        if self.difference("ceiling", "teacher", "accuracy").direction > 0:
            return found
        return replace(found, low=np.nan, high=np.nan)

    def by_group(self, model: str) -> list[Estimate]:
        """Accuracy of a model in each group; missing for a group without test rows."""
        if model not in self.bits:
            return [MISSING] * len(self.layout.names)
        matrix = self._average(model)
        statistics = two_way(matrix, self.layout.group, len(self.layout.names))
        unit = np.eye(len(self.layout.names))
        return [
            estimate(statistics, unit[number]) if count else MISSING
            for number, count in enumerate(self.layout.counts)
        ]

    def _average(self, model: str) -> np.ndarray:
        """Correctness averaged over sizes, `[s, t]`."""
        return np.asarray(np.mean(self.bits[model], axis=0, dtype=np.float64))

    def _weights(self, metric: str | float) -> np.ndarray:
        return cell_weights(self.layout, metric)

    def _mean(self, bits: np.ndarray, weights: np.ndarray) -> float:
        return float(bits.mean(0, dtype=np.float64) @ self.layout.averaging @ weights)

    def _statistics(self, model: str, base: str) -> TwoWay | None:
        if not {model, base} - {""} <= self.bits.keys():
            return None
        if (model, base) not in self._cache:
            matrix = self._average(model) - (self._average(base) if base else 0.0)
            self._cache[model, base] = two_way(matrix, self.layout.cell, len(self.layout.cells))
        return self._cache[model, base]


def sample(
    table: pd.DataFrame,
    part: pd.DataFrame,
    models: Sequence[str] = ("teacher", "vanilla", "method", "ceiling"),
) -> Sample:
    """Decode the rows of one configuration (one method, setting, l2, p, q; any sizes and seeds).

    Seeds that not every (n, N) has are left out, so that all averages are over the same draws.

    Args:
        table: the checked rows `part` was taken from; vanilla rows are looked up in it.
        part: rows that differ in n_labelled, n_unlabelled and seed only.
        models: which to decode; a model without bits (no ceiling) is left out of the result.

    Raises:
        ReportError: Several rows for one seed, two test sets, bits that contradict the accuracy.
    """
    if distinct(part, "groups") != 1:
        raise ReportError(
            f"rows of {part['pair'].iloc[0]} have different test groups; report on one at a time"
        )
    layout = layout_of(part["groups"].iloc[0])
    seeds = part["seed"].to_numpy()
    by_size: dict[tuple[float, float], np.ndarray] = {}
    number, count = (numbers(part, axis) for axis in SIZE)
    codes = group_codes(part, SIZE)
    for code in range(codes.max() + 1):
        rows = np.flatnonzero(codes == code)
        rows = rows[np.argsort(seeds[rows], kind="stable")]
        if len(np.unique(seeds[rows])) != len(rows):
            raise _ambiguous(part.iloc[rows])
        by_size[float(number[rows[0]]), float(count[rows[0]])] = rows
    common = set.intersection(*(set(seeds[rows]) for rows in by_size.values()))
    if not common:
        raise ReportError(
            f"no seed of {part['pair'].iloc[0]} was run at all {len(by_size)} sizes (n, N); finish"
            " the sweep or report on one size"
        )
    order = np.concatenate([rows[np.isin(seeds[rows], list(common))] for rows in by_size.values()])
    chosen, vanilla = part.iloc[order], None
    bits: dict[str, list[np.ndarray]] = {}
    for model in models:
        name = _COLUMN[model]
        if model == "vanilla" and vanilla is None:
            vanilla = table.loc[chosen["vanilla_position"].to_numpy()]
        rows = vanilla if model == "vanilla" and vanilla is not None else chosen
        if f"{name}_correct" in rows and not missing(rows, f"{name}_correct").any():
            bits[model] = np.split(_decode(rows, name, layout), len(by_size))
    return Sample(layout, tuple(sorted(common)), bits, tuple(by_size))


def columns_for(models: Sequence[str]) -> list[str]:
    """Columns of the result rows that `sample` reads for these models, beside axes and identity."""
    names = {_COLUMN[model] for model in models}
    return [
        f"{name}_{part}"
        for name in sorted(names)
        for part in ("correct", "accuracy", "majority_accuracy", "minority_accuracy")
    ]


def _ambiguous(rows: pd.DataFrame) -> ReportError:
    axes = ("pair", "variant", "teacher_fingerprint", "student_fingerprint", *AXES)
    varying = [
        f"{axis} ({', '.join(sorted({show(value) for value in rows[axis]}))})"
        for axis in axes
        if axis in rows and distinct(rows, axis) > 1
    ]
    seeds, twice = rows["seed"].tolist(), int(np.argmax(rows["seed"].duplicated()))
    return ReportError(
        f"several rows share seed {seeds[twice]} of one setting;"
        f" they differ in {'; '.join(varying) or 'no known axis'}; choose one value first"
        " (select_l2 chooses l2)"
    )


def _decode(rows: pd.DataFrame, model: str, layout: RowLayout) -> np.ndarray:
    """Bits of one model, `[s, t]`, checked against the accuracies beside them."""
    bits = decode_correct(column(rows, f"{model}_correct"), layout.num_test)
    cells = bits.astype(np.float64) @ layout.averaging
    checks: list[tuple[str | float, str]] = [
        ("accuracy", "accuracy"),
        (0.0, "majority_accuracy"),
        (1.0, "minority_accuracy"),
    ]
    for metric, name in checks:
        stated = numbers(rows, f"{model}_{name}")
        found = cells @ cell_weights(layout, metric)
        wrong = np.flatnonzero(np.abs(found - stated) > 1e-4)
        if len(wrong):
            raise ReportError(
                f"row {rows['key'].iloc[wrong[0]]!r}: {model}_correct gives {model}_{name}"
                f" {found[wrong[0]]:.4f}, the column says {stated[wrong[0]]:.4f}; the bits are not"
                " in the order of the groups column"
            )
    return bits
