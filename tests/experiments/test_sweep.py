"""The sweep and report scripts as a shell runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.stand_ins import COUNTS, write_stand_ins
from tests.toy import toy_set
from w2s_jax import read_rows
from w2s_jax.report.published import RANGES

SCRIPTS = Path(__file__).parent.parent.parent / "experiments"


def script(name, *flags, cwd=None):
    command = [sys.executable, SCRIPTS / f"{name}.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


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
    of_two = ("--num_processes=2", "--process_id=1")
    plan = script("sweep", out, pair, *SMALL, "--dry_run", *of_two)
    assert "8 configurations" in plan.stdout, plan.stderr
    own = "all processes compute together; process 1 of 2: 4 configurations, 1 draws\n"
    assert plan.stdout.endswith(own)
    assert not (tmp_path / "run").exists()
    swept = script("sweep", out, pair, *SMALL, "--save_heads=student")
    assert swept.stdout.startswith("8 rows in"), swept.stderr
    assert not swept.stderr
    again = script("sweep", f"--flagfile={tmp_path}/run/flags.txt", f"--out={tmp_path}/again")
    assert again.stdout.startswith("8 rows in"), again.stderr
    expected = read_rows(tmp_path / "run")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "again"), expected, check_exact=True)
    reported = script("report", f"--run={tmp_path}/run")
    assert "page:" in reported.stdout, reported.stderr
    assert (tmp_path / "run" / "report" / "index.html").is_file()
    cells = "--minority_cells=0:1,1:0"
    evaluated = script("evaluate", f"--run={tmp_path}/run", f"--features={files}/strong.npz", cells)
    assert f"8 rows in {tmp_path}/run/evaluation.csv" in evaluated.stdout, evaluated.stderr
    found = pd.read_csv(tmp_path / "run" / "evaluation.csv").set_index("key")
    stored = expected.set_index("key").loc[found.index]
    for name in ("student_accuracy", "student_worst_group_accuracy"):
        assert found[name].tolist() == stored[name].tolist()
    for name in ("student_negative_log_likelihood", "student_calibration_error"):
        np.testing.assert_allclose(found[name], stored[name], rtol=1e-5)
    refused = script("evaluate", f"--run={tmp_path}/run", f"--features={files}/strong.npz", cells,
                     "--model=teacher")  # fmt: skip
    assert refused.returncode == 2
    assert "holds no teacher heads" in refused.stderr


def test_verify_goes_on_after_a_defect(files, tmp_path):
    whole = SCRIPTS.parent / "tests" / "sweep" / "format_1"
    ended = script("verify", f"--run={tmp_path},{whole}", f"--features={files}/weak.npz,none.npz")
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        str(whole), f"{files}/weak.npz", "defect", "defect",
    ]  # fmt: skip
    assert "holds no sweep" in lines[2]
    assert "none.npz" in lines[3]
    assert not ended.stderr


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
        ("--every_pair_of=a", "--every_pair_of has a only; give two sets or more"),
        ("--teacher=a --pairs=b:c", "--teacher belongs to a single pair"),
        ("--teacher=a --teacher_predictions=b.csv", "both name a teacher"),
        ("--dry_run --save_heads=all", "unknown model 'all'; known: teacher"),
    ],
)
def test_wrong_flags_end_in_one_line(flag, message, tmp_path):
    ended = script("sweep", f"--out={tmp_path}/run", *flag.split())
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--num_sed=1", "unknown flag --num_sed; did you mean --num_seeds?"),
        ("--num_seeds=a", "--num_seeds=a: not an integer"),
        ("--flagfile=none", "Unable to open flagfile"),
        ("--out", "Missing value for flag --out"),
        ("--nohelp=3", "--nohelp=3 does not take an argument"),
        ("extra", "unexpected argument 'extra'"),
    ],
)
def test_flags_that_cannot_be_read_end_in_one_line(flags, message):
    ended = script("quickstart", flags)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not ended.stdout


def test_every_script_runs_alike():
    for path in SCRIPTS.glob("*.py"):
        assert path.read_text().endswith("    run_script(main)\n"), path.name


def test_output_that_nobody_reads_is_no_error():
    program = "from w2s_jax.errors import run_script; run_script(lambda: print('a row'))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ended:
        assert ended.stdout
        assert ended.stderr
        ended.stdout.close()
        assert ended.stderr.read() == b""
    assert ended.returncode == 141


PLAN_EACH = """
import sys
from absl import flags
from absl.testing import flagsaver
import sweep

for config in sys.argv[1:]:
    with flagsaver.flagsaver():
        flags.FLAGS(["sweep", f"--flagfile={config}", "--out=run", "--dry_run"])
        sweep.main()
"""


def test_configs_plan(tmp_path):
    """The grids are feasible at the published counts and as large as they say."""
    for benchmark in COUNTS:
        write_stand_ins(tmp_path, benchmark)
    configs = sorted((SCRIPTS / "configs").glob("*.flags"))
    assert len(configs) == len(COUNTS) + 1
    command = [sys.executable, "-c", PLAN_EACH, *configs]
    path = os.pathsep.join([str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    planned = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert planned.returncode == 0, planned.stderr
    found = re.findall(r"^(\d+) configurations", planned.stdout, re.M)
    rows = [re.search(r"^# Rows: ([\d,]+)", config.read_text(), re.M) for config in configs]
    assert found == [row[1].replace(",", "") for row in rows if row]
    assert len(found) == len(configs)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", COUNTS)
def test_published_grid_from_features_to_ranges(benchmark, tmp_path):
    """A small part of each grid, on stand-ins under the published names."""
    write_stand_ins(tmp_path, benchmark)
    names = ("resnet18_pooled", "clip_vit_b32_projected", "dinov2_vitl14_cls")
    config = SCRIPTS / "configs" / f"paper_{benchmark.partition('-')[0]}.flags"
    swept = script(
        "sweep",
        f"--flagfile={config}",
        f"--every_pair_of={','.join(f'features/{benchmark}/{name}' for name in names)}",
        *("--out=run", "--seeds=0,1", "--teacher_l2=0.01", "--student_l2=0.1"),
        *("--keep_fraction=0.5,0.8", "--gce_q=0.7"),
        cwd=tmp_path,
    )
    assert swept.returncode == 0, swept.stderr
    reported = script("report", "--run=run", "--keep_fraction=0.5", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    (line,) = re.findall(r"^eta_l = 0.5, eta_u = eta_o .*", reported.stdout, re.M)
    published = RANGES[benchmark.partition("-")[0]].balanced_labels
    # The signals are far apart, so all three pairs count, the weaker side as teacher.
    pattern = r"[+-]?[\d.]+ to [+-]?[\d.]+ \(3 pairs\) +\+([\d.]+) to \+([\d.]+)"
    found = re.search(pattern, line)
    assert found, line
    assert (float(found[1]), float(found[2])) == published
    assert "Pairs left out" not in reported.stdout
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    page = page.split('<h2 id="published">')[1].split("<h2")[0]
    weak, middle, strong = (f"{benchmark}/{name}" for name in names)
    for pair in (f"{weak}:{middle}", f"{weak}:{strong}", f"{middle}:{strong}"):
        assert f"<td>{pair}</td>" in page
        assert f"<td>{':'.join(pair.split(':')[::-1])}</td>" not in page
