"""The sweep and report scripts as a shell runs them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax import read_rows

SCRIPTS = Path(__file__).parent.parent.parent / "experiments"


def script(name, *flags):
    command = [sys.executable, SCRIPTS / f"{name}.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    for name, seed in (("weak", 1), ("strong", 2)):
        s = toy_set(name, seed=seed)
        np.savez(
            folder / f"{name}.npz",
            features=s.features,
            labels=s.labels,
            attributes=s.attributes,
            split=s.split,
            ids=s.ids,
        )
    test = s.split == 2
    kept = test | (np.arange(len(test)) % 2 == 0)
    lines = [f"{i},{y}" for i, y in zip(s.ids[kept], s.labels[kept], strict=True)]
    (folder / "llm.csv").write_text("id,prediction\n" + "\n".join(lines) + "\n")
    return folder


SMALL = ("--n_labelled=40", "--n_unlabelled=60", "--eta_u=0.3", "--seeds=0,1")


def test_sweep_then_report(files, tmp_path):
    pair = f"--pairs={files}/weak.npz:{files}/strong.npz"
    out = f"--out={tmp_path}/run"
    plan = script("sweep", out, pair, *SMALL, "--dry_run")
    assert "8 configurations" in plan.stdout, plan.stderr
    assert not (tmp_path / "run").exists()
    swept = script("sweep", out, pair, *SMALL)
    assert swept.stdout.startswith("8 rows in"), swept.stderr
    assert not swept.stderr
    again = script("sweep", f"--flagfile={tmp_path}/run/flags.txt", f"--out={tmp_path}/again")
    assert again.stdout.startswith("8 rows in"), again.stderr
    expected = read_rows(tmp_path / "run")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "again"), expected, check_exact=True)
    reported = script("report", f"--run={tmp_path}/run")
    assert "page:" in reported.stdout, reported.stderr
    assert (tmp_path / "run" / "report" / "index.html").is_file()


def test_partial_predictions_join_by_request(files, tmp_path):
    flags = (
        f"--teacher_predictions={files}/llm.csv",
        f"--student={files}/strong.npz",
        f"--out={tmp_path}/run",
        *SMALL,
    )
    refused = script("sweep", *flags)
    assert refused.returncode == 2
    assert "only in student" in refused.stderr
    assert script("sweep", *flags, "--join=inner").stdout.startswith("4 rows in")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--eta_u=", "cannot read ''"),
        ("--student_l2=inf", "student_l2 must be"),
        ("--seeds=0:10", "ten seeds are 0:9:10"),
        ("--n_unlabelled=1000000000", "infeasible draw"),
        ("--methods=enhance", "did you mean 'enhanced'"),
    ],
)
def test_wrong_flags_end_in_one_line(flag, message, tmp_path):
    ended = script("sweep", f"--out={tmp_path}/run", flag)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_configs_plan(tmp_path):
    configs = sorted((SCRIPTS / "configs").glob("*.flags"))
    assert configs
    for config in configs:
        rows = re.search(r"^# Rows: ([\d,]+)", config.read_text(), re.M)
        planned = script("sweep", f"--flagfile={config}", f"--out={tmp_path}/run", "--dry_run")
        assert rows
        assert planned.stdout.startswith(rows[1].replace(",", "") + " configurations")
