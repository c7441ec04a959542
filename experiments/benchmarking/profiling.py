"""Where the engine's time goes: of one pass over the rows, and of a whole grid.

Timers wrap the engine's own functions in this process and wait for the device after each, so that
work is booked where it is done; a whole grid takes a little longer for it.
"""

import collections
import contextlib
import datetime
import functools
import os
import pkgutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax
from w2s_jax.heads import lanes, lbfgs, losses
from w2s_jax.heads.buckets import chunk_rows, lanes_for, row_bucket
from w2s_jax.heads.targets import num_logits_of
from w2s_jax.sweep import runner

from .chains import EMBEDDED, ChainShape, engine_grid
from .data import Recipe, Shape, write_problem
from .engine import Heads
from .measure import Say
from .results import add_case, file_name, new_result, save
from .worker import software
from .workloads import select

KIND = "profile"
HOW = (
    "pass: one pass of a full set of lanes over 5,000 rows of 512 features, and parts of it, as "
    "programs of their own in turns; medians over the rounds in ms. products are the bare two "
    "matrix products in the same chunks. heads_1x512: one call of its heads. grid_10000: its warm "
    "run, one draw at a time, with a wait for the device after every part; medians over the "
    "rounds in s."
)
# Part of a whole run to the functions that make it up; they do not call one another.
PARTS = {
    "plan": ("w2s_jax.sweep.runner.plan_grid",),
    "scale and rotate": ("w2s_jax.sweep.runner._Runner._prepare_side",),
    "draws": ("w2s_jax.splits.Pool.draw",),
    "fits": ("w2s_jax.pipeline.fit_rows",),
    "targets and selection": ("w2s_jax.pipeline._round",),
    "pseudolabels": ("w2s_jax.sweep.runner.teacher_probabilities",),
    "predictions and calibration": ("w2s_jax.sweep.rows.predict",),
    "metrics": (
        "w2s_jax.sweep.rows.Scores.columns",
        "w2s_jax.sweep.runner.agreement_columns",
        "w2s_jax.sweep.runner.kept_columns",
    ),
    "rows": ("w2s_jax.sweep.runner.assemble",),
}
# Parts of a call of the solver.
SOLVER = {
    "passes": ("w2s_jax.heads.lbfgs._advance",),
    "exchange": ("w2s_jax.heads.lbfgs._exchange", "w2s_jax.heads.lbfgs._compact"),
    "set up": ("w2s_jax.heads.lanes._set_up", "w2s_jax.heads.lbfgs._open"),
}


def _place(path: str) -> tuple[Any, str]:
    """The module or class that holds a function, and its name there."""
    holder, _, name = path.rpartition(".")
    return pkgutil.resolve_name(holder), name


@contextlib.contextmanager
def timers(parts: dict[str, tuple[str, ...]]) -> Iterator[dict[str, float]]:
    """Seconds spent in each part while the context is open."""
    spent: dict[str, float] = collections.defaultdict(float)
    originals = []

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return jax.block_until_ready(function(*args, **kwargs))
            finally:
                spent[part] += time.perf_counter() - start

        return wrapper

    try:
        for part, paths in parts.items():
            for path in paths:
                holder, name = _place(path)
                originals.append((holder, name, getattr(holder, name)))
                setattr(holder, name, timed(part, originals[-1][2]))
        yield spent
    finally:
        for holder, name, function in originals:
            setattr(holder, name, function)


def _run_timed(parts: dict[str, tuple[str, ...]], work: Callable[[], Any]) -> dict[str, float]:
    with timers(parts) as spent:
        start = time.perf_counter()
        jax.block_until_ready(work())
        total = time.perf_counter() - start
    found = {part: spent.get(part, 0.0) for part in parts}
    return found | {"rest": total - sum(found.values()), "total": total}


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(lap[name] for lap in rounds) for name in rounds[0]}


def _pass_programs(num_rows: int, dim: int, classes: int, q: float | None) -> dict[str, Any]:
    """Parts of one pass, each a program without arguments."""
    rng = np.random.default_rng(0)
    logits = num_logits_of(classes)
    size, heads = row_bucket(num_rows), lanes_for(2048, logits)
    chunk = chunk_rows(size, heads, logits)
    x = jnp.asarray(rng.standard_normal((num_rows, dim), np.float32))
    labels = rng.integers(0, classes, (heads, size))
    problem = lanes._set_up(
        x,
        np.arange(size) % num_rows,
        np.int32(num_rows),
        labels.astype(np.float32 if classes == 2 else np.int32),
        np.ones((heads, size), np.float32),
        np.full(heads, 1e-2, np.float32),
        losses.cross_entropy() if q is None else losses.gce(np.full(heads, q, np.float32)),
        None,
        num_classes=classes,
        intercept=True,
        chunk=chunk,
    )
    every = np.arange(heads)
    data, state = lbfgs._open(problem, every, np.ones(heads, bool))
    one = jnp.float32(0.0)
    tolerance = lbfgs.Tolerance(one, one, jnp.int32(1000))
    params = jnp.asarray(rng.standard_normal(state.params.shape, np.float32)) / 100

    @jax.jit
    def products(rows: Any, params: Any) -> Any:
        total = jnp.zeros((heads * logits, dim), params.dtype)
        for x in rows.x:
            params, total = jax.lax.optimization_barrier((params, total))
            z = lbfgs.logits_of(params, x).reshape(heads * logits, -1)
            total = total + jnp.matmul(z, x, precision=jax.lax.Precision.HIGHEST)
        return total

    evaluate, one_pass = jax.jit(lbfgs._evaluate), jax.jit(lbfgs._one_pass)
    return {
        "products": lambda: products(problem.rows, params),
        "objective and gradient": lambda: evaluate(problem.rows, data, params),
        "whole pass": lambda: one_pass(problem.rows, data, state, tolerance),
    }


def _profile_pass(shape: tuple[int, int, int, float | None], repeats: int) -> dict[str, Any]:
    programs = _pass_programs(*shape)
    for program in programs.values():
        jax.block_until_ready(program())
    laps = []
    for _ in range(7 * repeats):
        lap = {}
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            lap[name] = 1e3 * (time.perf_counter() - start)
        laps.append(lap)
    found = _medians(laps)
    return found | {"unit": "ms", "whole": "whole pass"}


def _profile_call(shape: Shape, seed: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_problem(folder, shape, Recipe(seed=seed))
        solver = Heads(folder, np.arange(shape.units))
        prepared = w2s_jax.prepare(solver.x)
        fit = functools.partial(solver.fit, prepared)
        jax.block_until_ready(fit())
        return _medians([_run_timed(SOLVER, fit) for _ in range(repeats)]) | {"unit": "s"}


def _profile_grid(shape: ChainShape, repeats: int) -> dict[str, Any]:
    grid = engine_grid(shape, EMBEDDED)
    pairs = w2s_jax.resolve_pairs(grid.pairs)
    run = functools.partial(w2s_jax.run, grid, pairs=pairs)
    # One draw at a time: timers of two would overlap.
    choose, runner.choose_at_once = runner.choose_at_once, lambda *_: 1
    try:
        run()
        return _medians([_run_timed(PARTS, run) for _ in range(repeats)]) | {"unit": "s"}
    finally:
        runner.choose_at_once = choose


def measure(
    repeats: int, scale: float, seed: int, out: str, say: Say
) -> tuple[dict[str, Any], Path]:
    """Profiles passes, a call of many heads and the grid of the workload grid_10000.

    Args:
        repeats: rounds.
        scale: shrinks the sizes, for a smoke test.
        seed: of the data.
        out: a .json file, or a folder for profile-DEVICE-DATE.json.
        say: takes lines about the progress.

    Returns:
        The result, and where it is.
    """
    num_rows, dim = max(64, round(5000 * scale)), max(8, round(512 * scale))
    call, grid = select(["heads_1x512", "grid_10000"], scale)
    assert isinstance(grid.shape, ChainShape)
    passes = {
        "pass, 2 classes": (num_rows, dim, 2, None),
        "pass, 9 classes": (num_rows, dim, 9, None),
        "pass, 2 classes, generalized": (num_rows, dim, 2, 0.7),
    }
    work: dict[str, Callable[[], dict[str, Any]]] = {
        name: functools.partial(_profile_pass, shape, repeats) for name, shape in passes.items()
    }
    assert isinstance(call.shape, Shape)
    work["heads_1x512"] = functools.partial(_profile_call, call.shape, seed, repeats)
    work["grid_10000"] = functools.partial(_profile_grid, grid.shape, repeats)
    result = new_result() | {"how": HOW}
    path = Path(out)
    for name, profile in work.items():
        say(name)
        entry: dict[str, Any] = {
            "case": name,
            "kind": KIND,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "load_average_before": list(os.getloadavg()),
        }
        entry |= {"parts": profile(), "load_average_after": list(os.getloadavg())}
        add_case(result, entry | {"solvers": {"engine": {"software": software()}}})
        path = Path(out) if out.endswith(".json") else Path(out) / f"{KIND}-{file_name(result)}"
        path = save(result, str(path))
    return result, path


def render(result: dict[str, Any]) -> str:
    """A table of the result, as markdown: every part and its share of the whole."""
    lines = ["| work | part | time | share |", "| --- | --- | --- | --- |"]
    for case in result["cases"]:
        parts = dict(case["parts"])
        unit, whole = parts.pop("unit"), parts.pop("whole", "total")
        for name, taken in parts.items():
            share = f"{100 * taken / parts[whole]:.0f} %"
            lines.append(f"| {case['case']} | {name} | {taken:.3g} {unit} | {share} |")
    return "\n".join(lines)
