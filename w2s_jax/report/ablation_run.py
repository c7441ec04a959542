"""Trains what an ablation compares: every method at every candidate, settings side by side."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from w2s_jax.errors import GridError, StoreError
from w2s_jax.report.ablation import RULES, TEACHER, TEACHER_RULES, choose_teachers
from w2s_jax.report.columns import column, where
from w2s_jax.sweep import Config, Grid, plan_grid, read_rows, run
from w2s_jax.sweep.planning import Pair


@dataclasses.dataclass(frozen=True, eq=False)
class Ablation:
    """The rows of an ablation, at one teacher a draw.

    Attributes:
        rows: of every method, candidate, setting and seed.
        rule: by which hyperparameters are to be chosen.
        num_heads: distinct heads that this call trained.
        num_stored: rows that were there before.
    """

    rows: pd.DataFrame
    rule: str
    num_heads: int
    num_stored: int


def run_ablation(
    pairs: Mapping[str, Pair],
    settings: Sequence[tuple[Any, Any]],
    axes: Mapping[str, Any],
    *,
    rule: str = "validation",
    out: str | Path,
    progress: bool = False,
) -> Ablation:
    """Trains teachers, then all methods at the teachers that the rule chose.

    Args:
        pairs: from `resolve_pairs`.
        settings: (eta_l, eta_u) each, numbers or the words of a grid.
        axes: all other axes of a `Grid`, `methods` and `eta_o` among them.
        rule: as of `choose_hyperparameters`; teachers are chosen by labelled validation rows, or by
            the oracle too.
        out: run directory; rows that are there are not computed again.
        progress: show progress bars.

    Raises:
        W2SError: before anything is computed, for unknown methods, values out of range, draws that
            a pool cannot serve, or a rule that has nothing to read.
    """
    if rule not in RULES:
        raise GridError(f"unknown rule of choice {rule!r}; known: {', '.join(RULES)}")
    if not settings:
        raise GridError("there are no settings; give at least one (eta_l, eta_u)")
    names = tuple(pairs)
    grids = [Grid(pairs=names, eta_l=low, eta_u=high, **axes) for low, high in settings]
    _check_rule(rule, grids[0], pairs)
    configs = list(dict.fromkeys(c for grid in grids for c in grid.configs(pairs)))
    plan_grid(configs, pairs)  # refuses infeasible draws
    heads = stored = 0
    if len(grids[0].teacher_l2) > 1:
        first = [c for c in configs if c.method == "vanilla"]
        first = [c for c in first if c.student_l2 == grids[0].student_l2[0]]
        rows, heads, stored = _run(first, pairs, out, progress)
        best = choose_teachers(rows, rule)
        configs = [c for c in configs if c.teacher_l2 in (None, best[_teacher_of(c)])]
    rows, more, already = _run(configs, pairs, out, progress)
    # Rows of the first phase do not count as there before.
    return Ablation(rows, rule, heads + more, already if not heads else stored)


def _check_rule(rule: str, grid: Grid, pairs: Mapping[str, Pair]) -> None:
    if rule == "oracle":
        return
    outside = [name for name, pair in pairs.items() if pair.teacher_is_elsewhere]
    if grid.n_validation == 0 or outside:
        found = f"{outside[0]} has a teacher from elsewhere, hence none" if outside else "it is 0"
        raise GridError(
            f"the rule {rule!r} reads n_validation rows of every draw, and {found}; give"
            " n_validation > 0, or the rule 'oracle'"
        )
    if rule not in TEACHER_RULES and len(grid.teacher_l2) > 1:
        raise GridError(
            f"the rule {rule!r} cannot choose among {len(grid.teacher_l2)} values of teacher_l2,"
            " since a teacher's agreement with itself says nothing; give one"
        )


def _teacher_of(config: Config) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in TEACHER)


def _run(
    configs: Sequence[Config], pairs: Mapping[str, Pair], out: str | Path, progress: bool
) -> tuple[pd.DataFrame, int, int]:
    """The rows of some configurations, heads trained for them, and how many rows were there."""
    fingerprints = {name: pair.fingerprints for name, pair in pairs.items()}
    keys = {config.key(fingerprints): config for config in configs}
    known: set[str] = set()
    with contextlib.suppress(StoreError):  # no store yet, or one that `run` repairs or refuses
        known = keys.keys() & set(read_rows(out, ["key"])["key"])
    left = [config for key, config in keys.items() if key not in known]
    heads = sum(plan_grid(left, pairs).heads.values()) if left else 0
    rows = run(configs, pairs=pairs, out=out, progress=progress)
    mine = where(rows, np.isin(column(rows, "key").to_numpy(), list(keys)))
    return mine.reset_index(drop=True), heads, len(known)
