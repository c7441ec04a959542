"""Correctness of test rows: their order and strata, decoding of bits, and accuracy at any eta_t."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from w2s_jax import metrics
from w2s_jax.report.columns import numbers
from w2s_jax.report.frame import ReportError


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Order and strata of the test rows behind the correctness bits of a pair.

    Attributes:
        names: group names.
        labels: class of each group, `[g]`.
        minority: whether each group is minority, `[g]`.
        counts: test rows of each group, `[g]`; bits come group by group.
        group: group of each test row, `[t]`.
        cells: (label, minority) of the strata that have test rows.
        cell: stratum of each test row, `[t]`.
        prior: class prior of each stratum's label, `[c]`.
        complete: whether every class of positive prior has majority, and has minority, test rows.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    minority: np.ndarray
    counts: np.ndarray
    group: np.ndarray
    cells: tuple[tuple[int, bool], ...]
    cell: np.ndarray
    prior: np.ndarray
    complete: tuple[bool, bool]

    @property
    def num_test(self) -> int:
        """Number of test rows."""
        return len(self.cell)

    @cached_property
    def averaging(self) -> np.ndarray:
        """Matrix `[t, c]` that turns correctness of the test rows into accuracies of the strata."""
        matrix = np.zeros((self.num_test, len(self.cells)))
        matrix[np.arange(self.num_test), self.cell] = 1 / np.bincount(self.cell)[self.cell]
        return matrix


@lru_cache(maxsize=256)
def layout_of(groups: str) -> RowLayout:
    """The layout that a row's `groups` JSON describes.

    Raises:
        ReportError: Text that is not such a list.
    """
    try:
        listed = json.loads(groups)
        names = tuple(str(group["name"]) for group in listed)
        labels = np.array([int(group["label"]) for group in listed])
        minority = np.array([bool(group["minority"]) for group in listed])
        counts = np.array([int(group["test_count"]) for group in listed])
        prior = {int(group["label"]): float(group["prior"]) for group in listed}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ReportError(
            "column groups must be a JSON list of objects with name, label, minority, test_count"
            f" and prior; found {str(groups)[:60]!r}"
        ) from error
    if not counts.sum():
        raise ReportError("no group has a test row; nothing can be reported for this pair")
    group = np.repeat(np.arange(len(names)), counts)
    keys = [(int(label), bool(rare)) for label, rare in zip(labels, minority, strict=True)]
    cells = tuple(sorted({key for key, count in zip(keys, counts, strict=True) if count}))
    numbers = {cell: number for number, cell in enumerate(cells)}
    cell = np.array([numbers.get(key, -1) for key in keys])[group]
    weights = np.array([prior[label] for label, _ in cells])
    needed = {label for label, share in prior.items() if share > 0}
    majority, rare = ({label for label, part in cells if part is side} for side in (False, True))
    complete = (needed <= majority, needed <= rare)
    return RowLayout(names, labels, minority, counts, group, cells, cell, weights, complete)


def decode_correct(packed: Sequence[bytes] | pd.Series, num_test: int) -> np.ndarray:
    """Correctness bits of several rows, `[s, t]` uint8, from `np.packbits` bytes.

    Raises:
        ReportError: Missing bytes, or a length that does not fit `num_test`.

    >>> decode_correct([bytes([0b10100000]), bytes([0b11000000])], 3)
    array([[1, 0, 1],
           [1, 1, 0]], dtype=uint8)
    """
    packed = list(packed)
    size = -(-num_test // 8)
    found = {len(item) if isinstance(item, bytes) else None for item in packed}
    if found != {size}:
        raise ReportError(
            f"correctness bits of {num_test} test rows take {size} bytes a row, found"
            f" {sorted(map(str, found))}; the rows do not belong to this test set"
        )
    table = np.frombuffer(b"".join(packed), np.uint8).reshape(len(packed), size)
    return np.unpackbits(table, axis=1, count=num_test)


def accuracy_at(rows: pd.DataFrame, eta_t: float, model: str = "student") -> pd.Series:
    """Accuracy of each row's model at test minority fraction `eta_t`.

    (1 - eta_t) majority accuracy + eta_t minority accuracy, both averaged over classes with the
    draw's class prior.

    >>> rows = pd.DataFrame({"student_majority_accuracy": [0.9]})
    >>> accuracy_at(rows.assign(student_minority_accuracy=0.6), 0.5).round(3).tolist()
    [0.75]
    """
    check_metric(eta_t)
    majority = numbers(rows, f"{model}_majority_accuracy")
    minority = numbers(rows, f"{model}_minority_accuracy")
    if eta_t in (0, 1):  # where the other part has no test rows, it does not count
        return pd.Series(minority if eta_t else majority, rows.index)
    return pd.Series(metrics.accuracy_at(eta_t, majority, minority), rows.index)


def check_metric(metric: str | float) -> None:
    """Refuse a metric that is neither "accuracy" nor a test minority fraction in [0, 1]."""
    if metric == "accuracy" or (not isinstance(metric, str) and 0 <= metric <= 1):
        return
    raise ReportError(
        f'a metric is "accuracy" or a test minority fraction eta_t in [0, 1]; found {metric!r}'
    )


def cell_weights(layout: RowLayout, metric: str | float) -> np.ndarray:
    """Weights of the strata, `[c]`, that make a metric of their accuracies.

    "accuracy" counts test rows alike; a number is eta_t: class prior times (1 - eta_t) or eta_t,
    all NaN where a class has no test rows in a part that counts.
    """
    check_metric(metric)
    if isinstance(metric, str):
        return np.bincount(layout.cell) / layout.num_test
    rare = np.array([minority for _, minority in layout.cells])
    weights = np.zeros(len(rare))
    for part, share, complete in zip(
        (~rare, rare), (1 - metric, metric), layout.complete, strict=True
    ):
        if share:
            weights[part] = share * layout.prior[part]
            if not complete:
                weights[:] = np.nan
    return weights
