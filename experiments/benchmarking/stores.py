"""Time and memory of whole grids on the embedded benchmark: planning, running, reading rows.

Each step is a process of its own, whose peak memory is read at its end:

    python -m benchmarking.stores run FOLDER 10        (started by `measure`, with PYTHONPATH set)
"""

import datetime
import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .measure import Say
from .processes import environment
from .results import cpu_name, file_name, new_result, num_cores, save
from .worker import memory_mib, software

KIND = "store"
ROWS_A_SEED = 1000
HOW = (
    "Grids of 1,000 configurations a seed on the embedded benchmark (5 draws of 2,000 unlabelled "
    "rows a seed). Every step is a process of its own: seconds without imports, memory_mib is its "
    "peak resident memory. plan: configurations, stages, their heads and the prediction of cost, "
    "as --dry_run. run: the same, training, and rows written, compilation included. "
    "read: all columns as a data frame; read_some: three "
    "columns; query: means by method in DuckDB over the Parquet files."
)
COLUMNS = ("method", "eta_u", "student_accuracy")
QUERY = "SELECT method, eta_u, avg(student_accuracy), count(*) FROM '{}' GROUP BY ALL"


def _grid(seeds: int) -> Any:
    import w2s_jax

    return w2s_jax.Grid(
        pairs="reviews_vs_tweets/minilm_embeddings:reviews_vs_tweets/minilm_last",
        eta_l=(0.1, 0.5),
        eta_u=(0.1, 0.2, 0.3, 0.4, 0.5),
        teacher_l2=(0.01, 0.1),
        student_l2=(0.01, 0.03, 0.1, 0.3, 1.0),
        keep_fraction=(0.3, 0.5, 0.8),
        gce_q=(0.2, 0.5, 0.7),
        seeds=range(seeds),
    )


def _plan(folder: str, seeds: int) -> int:
    from w2s_jax.sweep import plan_grid, predict

    plan = plan_grid(_grid(seeds))
    plan.describe()
    predict(plan)
    return plan.num_configs


def _run(folder: str, seeds: int) -> int:
    import w2s_jax

    w2s_jax.run(_grid(seeds), out=folder, collect=False)
    return seeds * ROWS_A_SEED


def _read(folder: str, seeds: int, columns: Sequence[str] | None = None) -> int:
    from w2s_jax import read_rows

    return len(read_rows(folder, columns))


def _query(folder: str, seeds: int) -> int:
    import duckdb  # pyright: ignore[reportMissingImports]

    asked = duckdb.connect().execute(QUERY.format(f"{folder}/rows/*.parquet"))
    found = asked.fetchall()
    return sum(row[-1] for row in found)


STEPS: dict[str, Callable[[str, int], int]] = {
    "plan": _plan,
    "run": _run,
    "read": _read,
    "read_some": functools.partial(_read, columns=COLUMNS),
    "query": _query,
}


def _step(name: str, folder: Path, seeds: int, scratch: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarking.stores", name, str(folder), str(seeds)],
        env=environment(scratch),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(f"{name} of {seeds} seeds failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(rows: Sequence[int], out: str, say: Say) -> tuple[dict[str, Any], Path]:
    """Measures grids of several sizes; the result is saved after each.

    Args:
        rows: sizes, multiples of `ROWS_A_SEED`; a million and more are only planned.
        out: a .json file, or a folder for store-DEVICE-DATE.json.
        say: takes lines about the progress.

    Returns:
        The result, and where it is.

    Raises:
        ValueError: for another size, or where a step fails.
    """
    wrong = [size for size in rows if size < 1 or size % ROWS_A_SEED]
    if wrong:
        raise ValueError(f"sizes are multiples of {ROWS_A_SEED}, found {wrong[0]}")
    result: dict[str, Any] = new_result() | {"how": HOW}
    result["device"] = f"{cpu_name()}, {num_cores()} cores"
    path = Path(out)
    for size in rows:
        entry: dict[str, Any] = {
            "case": f"{KIND}_{size}",
            "kind": KIND,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "rows": size,
            "load_average_before": list(os.getloadavg()),
            "steps": {},
        }
        steps = [name for name in STEPS if size < 10**6 or name == "plan"]
        if not importlib.util.find_spec("duckdb"):
            steps = [name for name in steps if name != "query"]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "run"
            for name in steps:
                found = _step(name, folder, size // ROWS_A_SEED, Path(scratch))
                entry["steps"][name] = found
                say(f"{size} rows, {name}: {found['seconds']:.1f} s, {found['memory_mib']:.0f} MiB")
            parts = list(folder.glob("rows/*.parquet"))
            entry |= {"parts": len(parts), "bytes": sum(part.stat().st_size for part in parts)}
        entry["load_average_after"] = list(os.getloadavg())
        result["cases"].append(entry)
        path = Path(out) if out.endswith(".json") else Path(out) / f"{KIND}-{file_name(result)}"
        path = save(result, str(path))
    return result, path


def render(result: dict[str, Any]) -> str:
    """A table of the result, as markdown."""
    lines = [
        "| rows | " + " | ".join(STEPS) + " | on disk |",
        "| --- |" + " --- |" * (len(STEPS) + 1),
    ]
    for case in sorted(result["cases"], key=lambda case: case["rows"]):
        cells = [f"{case['rows']:,}"]
        for name in STEPS:
            step = case["steps"].get(name)
            cells.append(step and f"{step['seconds']:.2f} s, {step['memory_mib']:,.0f} MiB" or "–")
        on_disk = f"{case['bytes'] / 2**20:.1f} MiB, {case['parts']:,} parts"
        lines.append(f"| {' | '.join(cells)} | {on_disk if case['parts'] else '–'} |")
    return "\n".join(lines)


def main() -> None:
    """One step in this process; prints what it took as JSON."""
    import w2s_jax.sweep  # noqa: F401 - not part of the time

    name, folder, seeds = sys.argv[1:]
    start = time.perf_counter()
    rows = STEPS[name](folder, int(seeds))
    seconds = time.perf_counter() - start
    found = {"rows": rows, "seconds": seconds, "memory_mib": memory_mib()["peak"]}
    print(json.dumps(found | {"software": software()}))  # noqa: T201


if __name__ == "__main__":
    main()
