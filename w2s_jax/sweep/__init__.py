"""Grids of experiments: from axes to a plan, to trained heads, to result rows."""

from w2s_jax.sweep.axes import parse_axis
from w2s_jax.sweep.grid import Config, Grid
from w2s_jax.sweep.planning import Pair, Plan, plan_grid, resolve_pairs
from w2s_jax.sweep.prediction import Prediction, predict
from w2s_jax.sweep.runner import run
from w2s_jax.sweep.saved_heads import evaluate_heads
from w2s_jax.sweep.store import read_rows

__all__ = [
    "Config",
    "Grid",
    "Pair",
    "Plan",
    "Prediction",
    "evaluate_heads",
    "parse_axis",
    "plan_grid",
    "predict",
    "read_rows",
    "resolve_pairs",
    "run",
]
