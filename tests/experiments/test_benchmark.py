"""The benchmark at tiny scale: all solvers minimise one objective, and the result can be read."""

import dataclasses
import doctest
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import w2s_jax
from experiments.benchmarking import chains, data, objective, results, table, workloads
from experiments.benchmarking.judging import judge_chain, judge_heads
from experiments.benchmarking.solvers import HOMES, TRAINING_RATE, find_solver
from experiments.benchmarking.worker import Session

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmark.py"
RECIPE = data.Recipe()
SHAPES = {
    "several sets": data.Shape(n=90, d=10, classes=2, sets=3, per_set=3),
    "more classes": data.Shape(n=150, d=10, classes=3, sets=1, per_set=8),
}
# The engine stops at an estimated gap of 1e-6; tolerances of the peers' gradients are alike.
LARGEST_GAP = 2e-5


@pytest.fixture(scope="module")
def problem(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("problem")
    data.write_problem(folder, SHAPES[request.param], RECIPE)
    return data.read_problem(folder)


@pytest.fixture(scope="module")
def minima(problem):
    out = []
    for unit in problem.order:
        x, y = problem.training(int(unit), np.float64)
        l2 = float(problem.l2[unit])
        fit = objective.minimize_tightly(x, y, l2, problem.shape.logits)
        value, bound = objective.lower_bound(x, y, fit, l2)
        assert value - bound < 1e-9 * value
        out.append(value)
    return np.array(out)


# The script's own run, below, is engine and scikit-learn on shared rows.
SOLVERS = {
    "several sets": ["engine", "optax vmapped"],
    "more classes": ["engine", "scikit-learn", "optax looped"],
}


@pytest.mark.parametrize(
    ("problem", "name"),
    [(shape, name) for shape, names in SOLVERS.items() for name in names],
    indirect=["problem"],
)
def test_all_solvers_minimise_the_same_objective(problem, minima, name):
    count = problem.shape.units if name == "engine" else 4
    units = data.units_of(problem, count)
    solver = find_solver("heads", name)(problem.folder, units)
    assert solver.solve()["fit"] > 0
    solution, shape = solver.solution(), problem.shape
    assert solution["w"].shape == (count, shape.d, shape.logits)
    gap = judge_heads(problem.folder, units, solution, problem.order, minima)
    assert gap["heads"] == count
    assert -1e-9 < gap["p50"] <= gap["max"] < LARGEST_GAP
    json.dumps(solver.facts())


def adam(x, y, l2, steps, rate):
    """Objective after full-batch steps of Adam at two classes, in float64."""
    params, first, second = np.zeros((3, x.shape[1] + 1))
    x = np.c_[x, np.ones(len(x))]
    penalised = np.r_[np.ones(x.shape[1] - 1), 0]
    for step in range(1, steps + 1):
        p = 1 / (1 + np.exp(-x @ params))
        gradient = x.T @ (p - y) / len(x) + l2 * penalised * params
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        params = params - rate * first / (1 - 0.9**step) / size
    fit = objective.Fit(params[:-1, None], params[-1:])
    return objective.logistic_objective(x[:, :-1], y, fit, l2)


@pytest.mark.parametrize("batch", [0, 30])
@pytest.mark.parametrize("name", ["engine", "optax vmapped", "torch vmap Adam", "torch Adam"])
def test_all_trainers_end_where_their_steps_end(tmp_path, name, batch):
    if name.startswith("torch"):
        pytest.importorskip("torch")
    shape = data.Shape(90, 10, 2, 1, 4, steps=40, batch=batch)
    data.write_problem(tmp_path, shape, RECIPE)
    problem = data.read_problem(tmp_path)
    solver = find_solver("trained", name)(tmp_path, np.arange(4))
    assert solver.solve()["fit"] > 0
    found = solver.solution()
    assert found["w"].shape == (4, 10, 1)
    for unit in range(4):
        x, y = problem.training(unit, np.float64)
        fit, l2 = objective.Fit(found["w"][unit], found["b"][unit]), float(problem.l2[unit])
        value = objective.logistic_objective(x, y, fit, l2)
        centred = x - x.mean(axis=0) if name == "engine" else x
        expected = adam(centred, y, l2, 40, TRAINING_RATE)
        # Batches of a third of the rows are noise about the steps with all rows.
        assert value == pytest.approx(expected, rel=0.1 if batch else 1e-4)


@pytest.mark.parametrize("shape", [data.Shape(80, 12, 0, 1, 5, 3), data.Shape(80, 12, 0, 4, 3, 1)])
@pytest.mark.parametrize("name", ["engine", "scikit-learn", "himalaya", "himalaya torch"])
def test_all_ridge_solvers_minimise_the_same_objective(tmp_path, shape, name):
    if name.startswith("himalaya"):
        pytest.importorskip("himalaya")
    if name.endswith("torch"):
        pytest.importorskip("torch")
    data.write_problem(tmp_path, shape, RECIPE)
    problem = data.read_problem(tmp_path)
    units = data.units_of(problem, shape.units)
    reference = find_solver("ridge", "reference")(tmp_path, problem.order)
    solver = find_solver("ridge", name)(tmp_path, units)
    reference.solve(), solver.solve()
    minima = reference.solution()["minimum"]
    gap = judge_heads(tmp_path, units, solver.solution(), problem.order, minima)
    assert gap["heads"] == shape.heads
    assert -1e-12 < gap["p50"] <= gap["max"] < 1e-8


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["scikit-learn", pytest.param("engine", marks=pytest.mark.slow)])
def test_chains_of_engine_and_script_agree(tmp_path, classes, name):
    (case,) = workloads.select([f"chain_{'2' if classes == 2 else '9'}"], scale=0.01)
    shape = dataclasses.replace(case.shape, classes=classes, n_unlabelled=120)
    chains.write_chain(tmp_path, shape, RECIPE)
    chain = chains.read_chain(tmp_path)
    grid = chains.engine_grid(shape, chain.pair)
    planned = w2s_jax.sweep.plan_grid(grid).heads
    counts = chain.counts
    assert planned == {
        "teachers": counts["teacher"],
        "ceilings": counts["ceiling"],
        "students": counts["student"] + counts["retrained"],
    }
    reference = find_solver("chain", "reference")(tmp_path, np.empty(0, int))
    reference.solve()
    found = reference.solution()
    np.savez(tmp_path / "reference.npz", **found)
    solver = find_solver("chain", name)(tmp_path, np.empty(0, int))
    assert solver.solve()["fit"] > 0
    judged = judge_chain(solver.solution(), found)
    assert judged["gap"]["max"] < LARGEST_GAP
    assert -1e-9 < judged["gap"]["p50"]
    # A retraining is not convex, and ranks rows by its own student.
    assert judged["gap_by_kind"]["retrained"]["p50"] < 1e-3
    assert max(judged["accuracy_difference_max"].values()) < 0.005
    json.dumps(solver.facts())


@pytest.mark.parametrize("q", [None, 0.7])
@pytest.mark.parametrize("k", [1, 3])
def test_the_judge_differentiates_its_objective(q, k):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.integers(0, max(k, 2), 30)
    theta, direction = rng.normal(size=(2, 5 * k))

    def value(step):
        return objective.value_and_gradient(x, y, theta + step * direction, 0.1, q, k)[0]

    _, gradient = objective.value_and_gradient(x, y, theta, 0.1, q, k)
    assert gradient @ direction == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-8)
    params = theta.reshape(-1, k)
    fit = objective.Fit(params[:-1], params[-1])
    assert objective.logistic_objective(x, y, fit, 0.1, q) == pytest.approx(value(0))
    if q is None:
        best = objective.minimize_tightly(x, y, 0.1, k)
        least = objective.logistic_objective(x, y, best, 0.1)
        settled, bound = objective.lower_bound(x, y, fit, 0.1)
        assert bound < least < settled < value(0)


def test_data_are_what_the_recipe_says(tmp_path):
    shape = data.Shape(n=3000, d=40, classes=2, sets=2, per_set=16)
    data.write_problem(tmp_path, shape, RECIPE)
    problem = data.read_problem(tmp_path)
    assert problem.x.shape == (6000, 40)
    assert np.mean(problem.x**2) == pytest.approx(1, rel=0.05)
    eigenvalues = np.linalg.eigvalsh(np.cov(problem.x.T))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 41)), np.log(eigenvalues), 1)[0]
    assert slope == pytest.approx(-RECIPE.decay, abs=0.1)
    first = problem.order[: RECIPE.num_l2]
    assert sorted(problem.l2[first]) == pytest.approx(RECIPE.penalties())
    assert np.log(problem.l2[first[:4]]).mean() == pytest.approx(np.log(RECIPE.penalties()).mean())
    again = tmp_path / "again"
    again.mkdir()
    data.write_problem(again, shape, RECIPE)
    np.testing.assert_array_equal(data.read_problem(again).targets, problem.targets)
    assert np.mean(problem.targets[0] != problem.targets[1]) > 0.05  # each has its own noise


def test_ten_thousand_configurations():
    (case,) = workloads.select(["grid_10000"], scale=1)
    grid = chains.engine_grid(case.shape, chains.EMBEDDED)
    configs = list(grid.configs({":".join(("a", "b")): None}))
    assert len(configs) == 10_000
    counts = {kind: len(found) for kind, found in chains.distinct_heads(configs).items()}
    assert counts == {"teacher": 40, "ceiling": 250, "student": 1000, "retrained": 9000}


def test_an_absent_peer_is_told_not_fatal(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "experiments.benchmarking.torch_peer", raising=False)
    reply = Session().start(kind="heads", solver="torch L-BFGS", folder=str(tmp_path), units=[0])
    assert "torch" in reply["missing"]


def test_unknown_workloads_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown workload 'head_1'; known: all, heads_1x512"):
        workloads.select(["head_1"], 1)
    solvers = {name for c in workloads.select(["all"], 1) for name in c.solvers}
    assert solvers <= {name for homes in HOMES.values() for name in homes}


def test_unknown_peers_are_refused_with_the_known_ones():
    cases = workloads.select(["ridge"], 1)
    with pytest.raises(ValueError, match="unknown peer 'foo'; known .*: scikit-learn, himalaya"):
        workloads.check_peers(["scikit-learn", "foo"], cases)
    workloads.check_peers(["himalaya torch"], cases)


@pytest.mark.parametrize("module", [data, results, table])
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the script says and writes."""
    out = tmp_path_factory.mktemp("out") / "result.json"
    flags = ["--workloads=heads_1x512", "--scale=0.02", "--repeats=2", f"--out={out}"]
    command = [sys.executable, SCRIPT, *flags, "--peers=scikit-learn,gemm numpy"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return run.stdout, out


def test_the_result_has_all_its_fields(measured):
    printed, out = measured
    result = results.load(str(out))
    assert {"cpu", "cores", "python", "unset_for_all_solvers"} <= set(result["machine"])
    (case,) = result["cases"]
    assert case["recipe"]["noise"] == RECIPE.noise
    assert len(case["l2"]) == 8
    assert case["heads"] == case["shape"]["sets"] * case["shape"]["per_set"]
    assert case["settings"]["repeats"] == 2
    assert case["reference"]["unproven_max"] < 1e-8
    assert {"date", "load_average_before", "load_average_after"} <= set(case)
    engine, peer = case["solvers"]["engine"], case["solvers"]["scikit-learn"]
    for solver in (engine, peer):
        assert solver["status"] == "ok"
        assert solver["rounds"] == 2
        assert 0 < solver["heads_per_s"]["min"] <= solver["heads_per_s"]["median"]
        assert solver["heads_per_s"]["median"] <= solver["heads_per_s"]["max"]
        assert solver["gap"]["p95"] < LARGEST_GAP
        assert solver["memory_mib"]["peak"] > solver["memory_mib"]["before"] > 10
        assert solver["warm_up_s"] > 0
        assert solver["software"]["versions"]["numpy"]
        assert any(
            pool["internal_api"] == "openblas" for pool in solver["software"]["thread_pools"]
        )
    assert engine["compiled_in_warm_up"] > 0
    assert engine["compiled_in_rounds"] == 0
    assert engine["heads_per_s_with_prepare"]["median"] < engine["heads_per_s"]["median"]
    assert 0 < engine["share_of_peak"]
    flops = 4 * case["shape"]["n"] * case["shape"]["d"] * engine["passes_sum"]
    assert engine["useful_gflops"] == pytest.approx(flops / engine["fit_s"]["median"] / 1e9)
    assert case["peak"] == {"gflops": pytest.approx(case["peak"]["gflops"]), "by": "gemm numpy"}
    ratio = engine["heads_per_s"]["median"] / peer["heads_per_s"]["median"]
    assert peer["engine_is_faster_by"] == pytest.approx(ratio)
    assert table.render(result) in printed


def test_table_and_figure(measured, tmp_path):
    _, out = measured
    result = results.load(str(out))
    peer = result["cases"][0]["solvers"]["scikit-learn"]
    peer["engine_is_faster_by"], peer["quoted_per_head"] = 0.5, True
    text = table.render(result)
    header, _, row = (line for line in text.splitlines() if line.startswith("|"))
    assert header.count("|") == row.count("|")
    assert "heads_1x512" in row
    assert "*†, **0.5×**, " in row  # the peer wins on a subset, in fewer than three rounds
    with pytest.raises(ValueError, match="no scaling workload"):
        table.draw_scaling(result, str(tmp_path / "f.png"))
    result["cases"][0]["workload"] = "scaling"
    assert table.draw_scaling(result, str(tmp_path / "f.png")).stat().st_size > 5000


def test_a_result_keeps_the_cases_it_had(measured, tmp_path):
    _, out = measured
    path = tmp_path / "result.json"
    path.write_text(out.read_text())
    result = results.load(str(path))
    result["cases"] = [{**result["cases"][0], "case": "another"}]
    assert results.save(result, str(path)) == path
    assert [c["case"] for c in results.load(str(path))["cases"]] == ["heads_1x512", "another"]
    assert results.save(result, str(tmp_path)).name.endswith(f"{result['date']}.json")
    path.write_text("[]")
    with pytest.raises(ValueError, match="no result"):
        results.load(str(path))
