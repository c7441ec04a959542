"""Result rows as the report reads them: checks, axes, and splitting into comparable parts."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from w2s_jax.errors import W2SError
from w2s_jax.report.columns import column, distinct, equals, group_codes, missing, values_of, where

SETTING = ("eta_l", "eta_u")
SIZE = ("n_labelled", "n_unlabelled")
L2 = ("teacher_l2", "student_l2")
PQ = ("keep_fraction", "gce_q")
CONDITION = ("feature_scaling", "class_prior", "pseudolabels", "n_validation")
OF_METHODS = (
    "retrain_l2",
    "retrain_init",
    "retrain_targets",
    "optimizer",
    "learning_rate",
    "num_steps",
    "batch_size",
    "patience",
    "confidence_weight",
    "warmup_fraction",
    "confidence_temperature",
    "smoothing",
    "bootstrap_weight",
    "entropy_weight",
    "anchor_quantile",
    "identity_weight",
    "sinkhorn_prior",
    "sinkhorn_steps",
    "upweight",
    "group_step",
)
AXES = (*SETTING, *SIZE, *L2, *CONDITION, *PQ, *OF_METHODS)
MODELS = ("teacher", "ceiling", "student")
IDENTITY = ("key", "vanilla_key", "method", "pair", "seed", "groups")


class ReportError(W2SError):
    """The rows, or what is asked of them, do not make a table or a figure."""


def check_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy of the rows with every axis column, numbered 0..n-1, each linked to its vanilla row.

    Two columns are added: `vanilla_position`, the number of a row's vanilla row (its own for a
    vanilla row), and `variant`, the method's name together with those retraining choices that vary
    among its rows. A frame that has both columns already is returned as it is.

    Raises:
        ReportError: No rows, a missing column, a row twice, a vanilla row that is not there.
    """
    if {"vanilla_position", "variant"} <= set(rows.columns):
        return rows
    if not len(rows):
        raise ReportError("there are no result rows; run a sweep first, then report on its rows")
    lacking = [name for name in (*IDENTITY, *SETTING, *SIZE, *L2) if name not in rows]
    if lacking:
        raise ReportError(
            f"the result rows lack the column(s) {', '.join(lacking)}; pass rows as a sweep writes"
            " them"
        )
    table = rows.reset_index(drop=True)
    absent = pd.DataFrame({name: np.nan for name in AXES if name not in table}, table.index)
    table = pd.concat([table, absent], axis=1)
    keys = column(table, "key").tolist()
    if len(set(keys)) < len(keys):
        raise ReportError(
            f"{len(keys) - len(set(keys))} row(s) occur more than once, first the key"
            f" {keys[int(np.argmax(table['key'].duplicated()))]!r}; drop the repeated rows"
        )
    is_vanilla = equals(table, "method", "vanilla")
    number = {keys[row]: int(row) for row in np.flatnonzero(is_vanilla)}
    wanted = np.where(is_vanilla, column(table, "key"), column(table, "vanilla_key"))
    position = np.array([number.get(key, -1) for key in wanted])
    if (position < 0).any():
        lost = where(table, position < 0).iloc[0]
        raise ReportError(
            f"row {lost['key']!r} ({lost['method']}) refers to the vanilla row"
            f" {lost['vanilla_key']!r}, which is not among the {len(table)} rows; keep the vanilla"
            " rows when filtering"
        )
    for axis in CONDITION:  # a method that does not read an axis shares its vanilla row's value
        entries = column(table, axis)
        if missing(table, axis).any():
            table[axis] = entries.where(entries.notna(), entries.iloc[position].to_numpy())
    links = {"vanilla_position": position, "variant": _variants(table)}
    return pd.concat([table, pd.DataFrame(links)], axis=1)


def _variants(table: pd.DataFrame) -> list[str]:
    """Method name, with the retraining choices that vary: "enhanced, retrain_init = warm"."""
    names = column(table, "method").astype(str).tolist()
    for method in sorted(set(names) - {"vanilla"}):
        part = where(table, equals(table, "method", method))
        for axis in OF_METHODS:
            values = column(part, axis).tolist()
            if axis == "retrain_l2":
                follows = missing(part, axis) | (part[axis] == part["student_l2"]).to_numpy()
                values = np.where(follows, "student_l2", values).tolist()
            if len({show(value) for value in values}) > 1:
                for row, value in zip(part.index, values, strict=True):
                    names[row] += f", {axis} = {show(value)}"
    return names


def split(
    table: pd.DataFrame, axes: Sequence[str]
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Parts of a table by the values of `axes`, in sorted order; NaN and None are values too."""
    if not len(table):
        return
    codes = group_codes(table, axes)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        part = table.iloc[rows]
        yield {axis: column(part, axis).iloc[0] for axis in axes}, part


def middle(values: Sequence[float]) -> float:
    """The middle of sorted values, the upper one of two: a choice that reads no result."""
    return values[len(values) // 2]


def conditions(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Parts of the rows that one table must not mix, each with a label naming what varies.

    The axes are feature_scaling, class_prior, pseudolabels and n_validation; the label is empty
    when there is one part.
    """
    varying = [axis for axis in CONDITION if distinct(table, axis) > 1]
    if not varying:
        return [("", table)]
    return [
        (", ".join(f"{axis} = {show(value)}" for axis, value in values.items()), part)
        for values, part in split(table, varying)
    ]


def methods(table: pd.DataFrame) -> list[str]:
    """The method variants besides vanilla, those of "enhanced" first."""
    names = values_of(where(table, table["method"] != "vanilla"), "variant")
    return sorted(names, key=lambda name: (not name.startswith("enhanced"), name))


def choose_pq(
    part: pd.DataFrame, keep_fraction: float | None, gce_q: float | None
) -> tuple[float, float]:
    """The (p, q) to show for one method: as asked, else the only value, else the grid's middle.

    Raises:
        ReportError: An asked value that no row has.
    """
    asked = dict(zip(PQ, (keep_fraction, gce_q), strict=True))
    chosen: dict[str, float] = {}
    for axis in sorted(PQ, key=lambda axis: asked[axis] is None):  # defaults fit what is asked
        known, value = values_of(part, axis), asked[axis]
        if not known:
            chosen[axis] = float("nan")
        elif value is None:
            chosen[axis] = middle(known)
        else:
            near = [item for item in known if np.isclose(item, value, rtol=1e-9, atol=0)]
            if not near:
                at = "".join(f" at {name} = {show(item)}" for name, item in chosen.items())
                raise ReportError(
                    f"no row has {axis} = {show(value)}{at}; the rows have"
                    f" {', '.join(show(item) for item in known)}"
                )
            chosen[axis] = near[0]
        part = where(part, equals(part, axis, chosen[axis]))
    return chosen["keep_fraction"], chosen["gce_q"]


def at_pq(
    part: pd.DataFrame, keep_fraction: float | None, gce_q: float | None
) -> tuple[float, float, pd.DataFrame]:
    """`choose_pq` and the rows that have the chosen values."""
    p, q = choose_pq(part, keep_fraction, gce_q)
    return p, q, where(part, equals(part, "keep_fraction", p) & equals(part, "gce_q", q))


def show(value: Any, digits: int = 6) -> str:
    """A value in short: 0.1, 2000, rms; a dash for NaN and None."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return "–"
    if isinstance(value, float | int | np.floating | np.integer):
        return f"{value:.{digits}g}"
    return str(value)
