"""The benchmark of whole grids: its steps on a small store, and its table."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarking import stores

ROOT = Path(__file__).parents[2]
STORE = ROOT / "tests" / "sweep" / "format_1"


@pytest.mark.parametrize("name", ["read", "read_some", "query"])
def test_a_step_finds_all_rows(name):
    if name == "query":
        pytest.importorskip("duckdb")
    assert stores.STEPS[name](str(STORE), 1) == 4


def test_a_grid_has_as_many_configurations_as_it_says():
    assert stores.STEPS["plan"]("", 2) == 2 * stores.ROWS_A_SEED


def test_other_sizes_are_refused_and_a_million_is_only_planned():
    flags = ["--workloads=store", "--rows=1000,1500"]
    command = [sys.executable, ROOT / "experiments" / "benchmark.py", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "sizes are multiples of 1000, found 1500" in ended.stderr


def test_the_table():
    steps = {"plan": {"seconds": 9.5, "memory_mib": 1663.2}}
    cases = [{"rows": 10**6, "steps": steps, "parts": 0, "bytes": 0}]
    run = {"run": {"seconds": 2.0, "memory_mib": 900.0}}
    cases.append({"rows": 1000, "steps": steps | run, "parts": 5, "bytes": 3 * 2**19})
    assert stores.render({"cases": cases}).splitlines()[2:] == [
        "| 1,000 | 9.50 s, 1,663 MiB | 2.00 s, 900 MiB | – | – | – | 1.5 MiB, 5 parts |",
        "| 1,000,000 | 9.50 s, 1,663 MiB | – | – | – | – | – |",
    ]
