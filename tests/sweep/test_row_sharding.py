"""Features whose rows are dealt out to four devices give the results of one device."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from w2s_jax.sweep import read_rows
from w2s_jax.sweep.store import read_manifest

ROOT = Path(__file__).parents[2]
COMMON = """
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from tests.toy import toy_set
from w2s_jax.compilation import enable_compilation_cache
from w2s_jax.errors import GridError, HeadError, StoreError
from w2s_jax.heads import fit_logistic, fit_ridge, gce, prepare
from w2s_jax.heads import lbfgs
from w2s_jax.sweep import Grid, plan_grid, prediction, predict, read_rows, rows, run, runner

folder = Path(sys.argv[1])
enable_compilation_cache(str(folder / "cache"))
found = {}

def refused(*kinds, of):
    try:
        of()
    except kinds as error:
        return str(error)
    return None


weak, strong = (
    toy_set(name, signal=signal, seed=seed, order=np.arange(557))
    for name, signal, seed in (("weak", 0.5, 1), ("strong", 1.2, 2))
)
methods = ("enhanced", "co_training")
settings = dict(pairs=((weak, strong),), eta_l=(0.2, 0.5), eta_u=(0.3, 0.5), n_labelled=60,
                n_unlabelled=121, n_validation=20, student_l2=(0.01, 0.1), seeds=(0, 1))
grid = Grid(methods=methods, **settings)
"""
HEADS = """
# Heads of the caller's own: rows that four does not divide, repeated rows, two and three classes.
rng = np.random.default_rng(0)
x = rng.normal(size=(1003, 20)).astype(np.float32) * np.arange(1, 21) ** -0.5 + 3
two = (x[:, 0] + rng.normal(size=len(x)) > 3).astype(int)
three = np.where(x[:, 1] > 3.3, 2, two)
weights = rng.random(len(x))
one, four = prepare(x), prepare(x, devices=jax.local_devices())
found["share"] = [shard.data.shape for shard in four.x.addressable_shards]
found["num_rows"] = four.num_rows
found["heads"] = []
sets = np.stack([rng.integers(0, len(x), 301) for _ in range(4)])
of_one_device = np.arange(0, len(x), 4)
for targets, own, loss in ((two, sets, "ce"), (three, None, gce(0.5)), (two, of_one_device, "ce")):
    chosen = targets if own is None else targets[own]
    given = {"rows": own, "l2": [0.01, 0.1, 1, 3], "weights": weights if own is None else None}
    a, b = (fit_logistic(p, chosen, loss=loss, **given) for p in (one, four))
    same = (np.asarray(a.status) == np.asarray(b.status)).all()
    apart = np.abs(np.asarray(a.w) - np.asarray(b.w)).max()
    objective = np.abs(np.asarray(b.objective) / np.asarray(a.objective) - 1).max()
    found["heads"].append([bool(same), float(apart), float(objective)])


found["ridge"] = refused(HeadError, of=lambda: fit_ridge(four, two))
moved = jax.device_put(four, jax.local_devices()[0])
found["moved"] = refused(HeadError, of=lambda: fit_logistic(moved, two))
found["mask"] = prepare(x, statistics_rows=two == 1, devices=jax.local_devices()).num_rows

# A pass exchanges sums, never features: many chunks of rows, in a program compiled as the run's.
programs, advance = [], lbfgs._advance


def noting(*args):
    programs.append(advance.lower(*args).compile().as_text())
    return advance(*args)


lbfgs._advance = noting
fit_logistic(prepare(np.tile(x, (40, 1)), devices=jax.local_devices()), np.tile(two, 40), l2=0.1)
lbfgs._advance = advance
found["exchanges"] = sorted(set(re.findall(
    r"(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)", programs[0])))

found["stepwise"] = refused(GridError, of=lambda: run(
    Grid(methods=("vanilla_trained",), **settings), shard_rows="always"))

# Automatic: by the device's memory and by the budget.
plan = plan_grid(grid)
whole = prediction.feature_bytes(plan)
found["bytes"] = whole, prediction.feature_bytes(plan, row_shards=4)
found["roomy"] = prediction.choose_row_shards(plan)
larger = plan_grid(Grid(methods=methods, **settings | {"student_l2": np.geomspace(1e-3, 1, 40)}))
prediction.device_memory = lambda: whole + (1 << 20)
found["by size"] = [
    [prediction.choose_row_shards(p, memory_budget=budget) for p in (plan, larger)]
    for budget in (1 << 20, (1 << 20) + 1)
]
prediction.device_memory = lambda: whole
found["tight"] = prediction.choose_row_shards(plan, memory_budget=1 << 40)
steps = plan_grid(Grid(methods=("vanilla_trained",), **settings))
found["steps"] = prediction.choose_row_shards(steps, memory_budget=1 << 40)
found["stored"] = [prediction.choose_row_shards(plan, memory_budget=1 << 40, stored=n)
                   for n in (None, 1, 4)]
found["described"] = predict(plan, num_devices=4).describe()
found["never"] = prediction.choose_row_shards(plan, shard_rows="never")
prediction.device_memory = lambda: whole - 1
found["too much"] = refused(
    GridError, of=lambda: prediction.choose_row_shards(plan, shard_rows="never"))
prediction.device_memory = lambda: whole // 4
found["far too much"] = refused(GridError, of=lambda: run(grid))
prediction.device_memory = lambda: 1 << 40
found["small budget"] = refused(HeadError, of=lambda: predict(plan, 1000))
"""
GRID = """
predictions, original, on_devices = [], rows.predict, runner.on_devices


def keeping(*args):
    predictions.append(original(*args))
    return predictions[-1]


rows.predict = keeping
runner.on_devices = lambda work, devices, *_: on_devices(work, devices[:1])  # in order
run(grid, out=folder / "one", shard_rows="never")
of_one, predictions[:] = list(predictions), []
runner.on_devices = on_devices
run(grid, out=folder / "four", shard_rows="always", keep_heads=("student",))
found["predictions"] = sum(p.classes.size for p in of_one)
found["flipped"] = int(sum((a.classes != b.classes).sum() for a, b in zip(of_one, predictions)))
shutil.copytree(folder / "four", folder / "again")
for part in sorted((folder / "again" / "rows").iterdir())[::2]:
    part.unlink()
run(grid, out=folder / "again")  # goes on as it was begun
with jax.default_device(jax.local_devices()[0]):
    rest = run(grid, shard_rows="always")
by_key = lambda table: table.set_index("key")["student_accuracy"]
found["default device"] = bool((by_key(rest) == by_key(read_rows(folder / "four"))).all())
found["other way"] = refused(
    StoreError, of=lambda: run(grid, out=folder / "four", shard_rows="never"))
"""
END = "print(json.dumps(found))"


def run_on_four(program, folder, *arguments):
    ended = subprocess.run(
        [sys.executable, "-c", COMMON + program + END, str(folder), *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return run_on_four(HEADS, tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    return folder, run_on_four(GRID, folder)


def test_each_device_has_its_share(found):
    told = found
    assert told["share"] == [[251, 20]] * 4
    assert told["num_rows"] == 1003
    whole, share = told["bytes"]
    assert share == whole * 140 / 557


def test_heads_equal_those_of_one_device(found):
    for same, apart, objective in found["heads"]:
        assert same
        assert apart <= 1e-5
        assert objective <= 2e-6


def test_a_pass_exchanges_sums_only(found):
    assert found["exchanges"] == ["all-reduce"]


@pytest.mark.slow
def test_a_grid_gives_the_results_of_one_device(grid):
    folder, told = grid
    one, four = read_rows(folder / "one"), read_rows(folder / "four")
    assert told["predictions"] > 10_000
    assert told["flipped"] <= 1e-4 * told["predictions"]
    assert (one["key"] == four["key"]).all()
    for name in one.filter(
        regex="_accuracy|_log_likelihood|_calibration|_objective|^agreement|^kept"
    ).select_dtypes("number"):
        np.testing.assert_allclose(four[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert read_manifest(folder / "four")["runs"][0]["row_shards"] == 4
    assert "row_shards" not in read_manifest(folder / "one")["runs"][0]


@pytest.mark.slow
def test_a_resumed_run_repeats_the_bits(grid):
    folder, told = grid
    pd.testing.assert_frame_equal(
        read_rows(folder / "again"), read_rows(folder / "four"), check_exact=True
    )
    assert told["default device"]
    assert "holds results of features that lie dealt out to 4 devices" in told["other way"]


def test_rows_are_dealt_out_where_features_do_not_fit_one_device(found):
    told = found
    assert [told["roomy"], told["tight"], told["never"], told["steps"]] == [1, 4, 1, 1]
    assert told["by size"] == [[1, 1], [4, 4]]  # a larger grid of the same pairs changes nothing
    assert told["stored"] == [4, 1, 4]
    assert told["described"].endswith("the features' rows are dealt out to 4 devices")
    assert "deal out the rows (shard_rows=auto)" in told["too much"]
    assert "their rows dealt out to 4 devices, take" in told["far too much"]
    assert "(strong 557 x 12, weak 557 x 12)" in told["far too much"]
    # Of the sizes that do not fit, any may be told.
    small = r"a memory budget of 0.000954 MiB is too small for (60|121|241) rows of 12 features"
    assert re.search(small, told["small budget"])


def test_what_needs_features_on_one_device_is_refused(found):
    assert "vanilla_trained train step by step" in found["stepwise"]
    assert "dealt out to 4 devices and moved to 1 since" in found["moved"]
    assert found["mask"] == 1003
    assert "ridge heads need features on one device, found rows dealt out to 4" in found["ridge"]
