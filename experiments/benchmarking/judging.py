"""Judges what solvers found: relative objective gaps in float64, by our own arithmetic."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .chains import KINDS
from .data import read_problem
from .objective import Fit, logistic_objective, ridge_objectives


def quantiles(values: np.ndarray) -> dict[str, Any]:
    """Middle, 95 % and largest of some numbers, and how many they are."""
    flat = np.ravel(values)
    p50, p95 = np.quantile(flat, [0.5, 0.95])
    return {"p50": float(p50), "p95": float(p95), "max": float(flat.max()), "heads": len(flat)}


def judge_heads(
    folder: Path,
    units: np.ndarray,
    solution: Mapping[str, np.ndarray],
    judged: np.ndarray,
    minimum: np.ndarray,
) -> dict[str, Any]:
    """Relative objective gaps of the judged units that a solver has solved."""
    problem = read_problem(folder)
    place = {int(unit): i for i, unit in enumerate(units)}
    gaps = []
    for unit, least in zip(judged, minimum, strict=True):
        if int(unit) not in place:
            continue
        i = place[int(unit)]
        fit, l2 = Fit(solution["w"][i], solution["b"][i]), float(problem.l2[unit])
        x, targets = problem.training(int(unit), np.float64)
        judge = ridge_objectives if problem.shape.classes == 0 else logistic_objective
        gaps.append(np.atleast_1d((judge(x, targets, fit, l2) - least) / least))
    return quantiles(np.concatenate(gaps))


def judge_chain(
    solution: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Gaps of cross-entropy heads to their minima; retrainings, not convex, to the judge's own."""
    gaps = {
        kind: (solution[f"{kind}.objective"] - found[f"{kind}.objective"])
        / found[f"{kind}.objective"]
        for kind in KINDS
    }
    convex = np.concatenate([gaps[kind] for kind in ("teacher", "ceiling", "student")])
    off = {
        kind: float(np.max(np.abs(solution[f"{kind}.accuracy"] - found[f"{kind}.accuracy"])))
        for kind in gaps
    }
    return {
        "gap": quantiles(convex),
        "gap_by_kind": {kind: quantiles(values) for kind, values in gaps.items()},
        "accuracy_difference_max": off,
    }
