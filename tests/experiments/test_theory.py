"""The theory script as a shell runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parent.parent.parent / "experiments" / "theory.py"


def theory(*flags, cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, SCRIPT, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_theory_writes_page_figures_and_tables(tmp_path):
    out = tmp_path / "theory"
    small = ("--num_draws=4", "--num_dots=2", "--d_z=8", "--num_seeds=2")
    done = theory(f"--out={out}", *small, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"page: {out}/index.html")
    assert "rank correlation" in done.stdout
    assert len(list((out / "figures").glob("*.png"))) == 8
    series = pd.read_csv(out / "series.csv")
    assert set(series.source) == {"proportional", "mixture", "published", "simulated"}
    agreement = pd.read_csv(out / "agreement.csv")
    assert agreement.correlation.between(-1, 1).all()
    assert len(agreement) == 2 * 4 * 5


def test_bad_flags_end_in_one_line(tmp_path):
    done = theory("--num_draws=1", cache=tmp_path)
    assert done.returncode != 0
    assert "num_draws" in done.stderr
    done = theory("nonsense", cache=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: unexpected argument 'nonsense'; settings are flags --name=value"
    ]
