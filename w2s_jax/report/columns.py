"""Typed access to the columns and rows of a frame: one kind of result where pandas has several."""

from collections.abc import Sequence
from math import isclose
from typing import Any, cast

import numpy as np
import pandas as pd


def column(table: pd.DataFrame, name: str) -> pd.Series:
    """One column."""
    return cast(pd.Series, table[name])


def number(line: pd.Series, name: str) -> float:
    """An entry of a row, as a number."""
    entry: Any = line[name]
    return float(entry)


def where(table: pd.DataFrame, mask: Any) -> pd.DataFrame:
    """The rows where a mask holds, with their index."""
    return table.iloc[np.flatnonzero(np.asarray(mask, dtype=bool))]


def numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    """One column as float64, NaN where it has no number or does not exist."""
    if name not in table:
        return np.full(len(table), np.nan)
    return column(table, name).to_numpy(np.float64, na_value=np.nan)


def values_of(table: pd.DataFrame, name: str) -> list[Any]:
    """The sorted distinct values of a column that are not NaN or None."""
    return sorted(set(column(table, name).dropna().tolist()))


def distinct(table: pd.DataFrame, name: str) -> int:
    """Number of distinct values of a column, NaN and None counted as one."""
    return len(values_of(table, name)) + bool(np.any(missing(table, name)))


def missing(table: pd.DataFrame, name: str) -> np.ndarray:
    """Mask of the rows whose entry is NaN or None."""
    return np.asarray(pd.isna(column(table, name)), dtype=bool)


def equals(table: pd.DataFrame, name: str, value: Any) -> np.ndarray:
    """Mask of the rows whose entry equals `value`; NaN and None equal themselves.

    Numbers are equal to one part in 10^9, so that 0.3 from a flag finds 0.1 + 0.2.
    """
    if pd.isna(value):
        return missing(table, name)
    entries = column(table, name)
    if not isinstance(value, int | float):
        return np.asarray([item == value for item in entries.tolist()], dtype=bool)
    if pd.api.types.is_numeric_dtype(entries):
        return np.isclose(numbers(table, name), value, rtol=1e-9, atol=0)
    alike = [isinstance(x, int | float) and isclose(x, value) for x in entries.tolist()]
    return np.asarray(alike, dtype=bool)


def group_codes(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Number of each row's combination of values, in sorted order; NaN is a value too."""
    return table.groupby(list(names), dropna=False, sort=True).ngroup().to_numpy()
