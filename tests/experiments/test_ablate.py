"""The ablation script as a shell runs it: tables, files, resuming, errors before any compute."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax import read_rows

SCRIPT = Path(__file__).parent.parent.parent / "experiments" / "ablate.py"
SMALL = (
    "--n_labelled=40",
    "--n_unlabelled=60",
    "--n_validation=20",
    "--settings=0.2:0.5,0.5:0.2",
    "--seeds=0,1,2",
    "--methods=enhanced,group_reweighted",
    "--keep_fraction=0.5",
    "--gce_q=0.7",
)


def ablate(*flags):
    command = [sys.executable, SCRIPT, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    for name, seed in (("weak", 1), ("strong", 2)):
        s = toy_set(name, seed=seed)
        arrays = {name: getattr(s, name) for name in ("features", "labels", "attributes", "split")}
        np.savez(folder / f"{name}.npz", ids=s.ids, **arrays)
    return f"--pairs={folder}/weak.npz:{folder}/strong.npz"


@pytest.fixture(scope="module")
def done(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    ended = ablate(pair, f"--out={out}", *SMALL)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, out


def test_tables_files_and_page(done):
    printed, out = done
    assert "group_reweighted*" in printed
    assert "* looks at true labels and groups" in printed
    assert "p Holm" in printed
    table = pd.read_csv(out / "report" / "comparison.csv")
    assert set(table["method"]) == {
        "teacher", "ceiling", "vanilla", "enhanced", "group_reweighted"
    }  # fmt: skip
    assert set(table["choice"]) == {"validation"}
    assert len(table) == 2 * 5 * (2 + 4)
    compared = table[table["method"].isin(["enhanced", "group_reweighted"])]
    assert compared["p_holm"].between(0, 1).all()
    assert table["num_seeds"].eq(3).all()
    assert set(pd.read_csv(out / "report" / "diagnostics.csv")["group"]) >= {"all"}
    page = (out / "report" / "index.html").read_text()
    figures = re.findall(r'src="(figures/[\w.-]+)"', page)
    assert len(figures) == 1
    assert (out / "report" / figures[0]).stat().st_size > 5000
    assert page.count("<table>") == 2 * 4 + 3
    assert "</body>" in page


def test_numbers_are_those_of_the_rows(done):
    _, out = done
    table = pd.read_csv(out / "report" / "comparison.csv")
    rows = read_rows(out)
    line = table.query("method == 'enhanced' and eta_l == 0.2 and metric == 'average'").iloc[0]
    chosen = dict(part.split(" = ") for part in line["hyperparameters"].split(", "))
    mine = rows.query("method == 'enhanced' and eta_l == 0.2")
    by_l2 = mine.groupby(["teacher_l2", "student_l2"])["student_accuracy"].mean()
    candidates = by_l2[by_l2.index.get_level_values("student_l2") == float(chosen["student_l2"])]
    assert np.isclose(candidates, line["accuracy"]).any()
    assert line["num_candidates"] == 3


def test_a_second_call_trains_nothing(pair, done):
    printed, out = done
    assert int(re.search(r"(\d+) distinct heads trained, 0 rows were there", printed)[1]) > 50
    parts = sorted(path.name for path in (out / "rows").iterdir())
    again = ablate(pair, f"--out={out}", *SMALL)
    assert "\n0 distinct heads trained" in again.stdout, again.stderr
    assert sorted(path.name for path in (out / "rows").iterdir()) == parts
    heads = re.compile(r"\n\d+ distinct heads.*")
    assert heads.sub("", again.stdout) == heads.sub("", printed)


def test_other_rules_use_the_same_rows(pair, done):
    _, out = done
    oracle = ablate(pair, f"--out={out}", *SMALL, "--choose=pseudolabels", "--teacher_l2=0.1")
    assert "imitate their teacher" in oracle.stdout, oracle.stderr
    oracle = ablate(pair, f"--out={out}", *SMALL, "--choose=oracle", "--teacher_l2=0.1")
    assert oracle.stdout.startswith("ORACLE, peeks at the test set"), oracle.stderr
    assert "\n0 distinct heads trained" in oracle.stdout
    assert 'class="peek"' in (out / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods=enhance"], "did you mean 'enhanced'"),
        (["--n_validation=0"], "the rule 'validation' reads n_validation rows"),
        (["--choose=pseudolabels"], "cannot choose among 3 values of teacher_l2"),
        (["--settings=0.5"], "--settings takes eta_l:eta_u pairs"),
        (["--settings=0.5:0.1", "--n_unlabelled=100000"], "infeasible draw"),
        (["--settings=eta_o:0.5"], "give eta_o as a number"),
        (["--keep_fraction=2"], "keep_fraction must be"),
        (["--pseudolabels=medium"], "unknown pseudolabels 'medium'"),
        (["--eta_t=1.5"], "a test minority fraction eta_t"),
    ],
)
def test_wrong_flags_end_in_one_line(flags, message, tmp_path):
    ended = ablate(f"--out={tmp_path}/run", *flags)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
