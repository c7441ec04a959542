"""Grids with a method that is trained step by step, end to end; and the table of axes."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from absl import flags

from tests.toy import toy_set
from w2s_jax.errors import GridError
from w2s_jax.methods import METHODS, Fit, Method, Train
from w2s_jax.methods.trained import OPTIMIZERS
from w2s_jax.sweep import Config, Grid, plan_grid, read_rows, resolve_pairs, run
from w2s_jax.sweep.axes import AXES, METHOD_NUMBERS, METHOD_OPTIONS

COMMON = {
    "eta_l": 0.2,
    "eta_u": 0.4,
    "n_labelled": 60,
    "n_unlabelled": 120,
    "student_l2": (0.03, 0.3),
    "seeds": (0, 1),
    "methods": ("vanilla", "vanilla_trained"),
}
TRAINED = {"num_steps": (3, 1500), "batch_size": (0, 50), "patience": (0, 2), "learning_rate": 0.03}


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", seed=1), toy_set("strong", seed=2)


@pytest.fixture(scope="module")
def rows(sets):
    return run(Grid(pairs=(sets,), **COMMON, **TRAINED))


def test_every_column_of_a_trained_head_is_there(rows):
    trained = rows[rows["method"] == "vanilla_trained"]
    vanilla = rows[rows["method"] == "vanilla"]
    assert (len(vanilla), len(trained)) == (2 * 2, 2 * 2 * 2 * 2 * 2)
    for axis, values in TRAINED.items():
        assert vanilla[axis].isna().all()
        assert sorted(set(trained[axis])) == sorted(np.ravel(values).tolist())
    assert set(trained["optimizer"]) == {"adam"}
    assert vanilla["optimizer"].isna().all()
    assert trained[["keep_fraction", "gce_q", "retrain_l2", "retrain_init"]].isna().all().all()
    assert set(trained["vanilla_key"]) == set(vanilla["key"])
    assert rows["key"].is_unique
    # What is empty in a trained row is empty in a vanilla row, but for its own axes and the gap.
    empty = {c for c in rows if trained[c].isna().any()} - {
        c for c in rows if vanilla[c].isna().any()
    }
    assert empty == {"student_gap"}
    finite = ["student_accuracy", "student_objective", "student_gradient_norm", "pgr"]
    assert np.isfinite(trained[finite]).all().all()


def test_how_a_training_ended_is_told(rows):
    trained = rows[rows["method"] == "vanilla_trained"]
    patient = trained["patience"] > 0
    assert (trained[~patient]["student_status"] == "trained").all()
    assert set(trained[patient]["student_status"]) == {"trained", "early_stopped"}
    whole = trained["student_status"] == "trained"
    assert (trained["student_iterations"] == trained["num_steps"])[whole].all()
    assert (trained["student_iterations"] < trained["num_steps"])[~whole].all()
    assert (trained["kept_count"] == np.where(patient, 108, 120)).all()


def test_many_steps_on_all_rows_end_at_the_vanilla_student(rows):
    long = rows.query("num_steps == 1500 and batch_size == 0 and patience == 0")
    vanilla = rows.set_index("key").loc[long["vanilla_key"]]
    assert len(long) == 4
    np.testing.assert_allclose(long["student_objective"], vanilla["student_objective"], rtol=1e-4)
    np.testing.assert_allclose(long["student_accuracy"], vanilla["student_accuracy"], atol=0.02)
    short = rows.query("num_steps == 3 and batch_size == 0 and patience == 0")
    assert (short["student_objective"].to_numpy() > long["student_objective"].to_numpy()).all()


def test_equal_heads_are_trained_once(sets):
    plan = plan_grid(Grid(pairs=(sets,), **{**COMMON, "seeds": 0}, **TRAINED))
    assert plan.heads == {"teachers": 1, "students": 2 + 16, "ceilings": 2}


def test_a_row_does_not_depend_on_its_grid(sets, rows):
    small = {"num_steps": 3, "batch_size": 50, "patience": 0, "learning_rate": 0.03}
    alone = run(Grid(pairs=(sets,), **{**COMMON, "seeds": 1, "student_l2": 0.3}, **small))
    alone = alone[alone["method"] == "vanilla_trained"].reset_index(drop=True)
    same = rows[rows["key"].isin(alone["key"])].reset_index(drop=True)
    assert len(same) == 1
    np.testing.assert_allclose(alone["student_objective"], same["student_objective"], rtol=1e-6)
    assert alone["student_correct"].equals(same["student_correct"])


def test_optimizers_differ(sets):
    grid = {**COMMON, "seeds": 0, "student_l2": 0.1, "optimizer": tuple(OPTIMIZERS)}
    rows = run(Grid(pairs=(sets,), **grid, num_steps=20))
    trained = rows[rows["method"] == "vanilla_trained"].set_index("optimizer")
    assert trained["student_objective"].nunique() == 3
    assert trained["student_objective"]["momentum"] < trained["student_objective"]["sgd"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, r"num_steps must be a whole number in \[1, 1000000000\]; found 0"),
        ({"num_steps": 2.5}, "num_steps must be a whole number"),
        ({"learning_rate": -0.1}, r"learning_rate must be a number in \(0, inf\); found -0.1"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"batch_size": -1}, "batch_size must be"),
        ({"patience": -1}, "patience must be"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'; known: adam, sgd, momentum"),
        ({"batch_size": (10, 121)}, "batch_size must be at most n_unlabelled, found 121"),
    ],
)
def test_impossible_trainings_fail_before_anything_is_computed(sets, change, message):
    with pytest.raises(GridError, match=message):
        plan_grid(Grid(pairs=(sets,), **COMMON, **change))


def test_a_batch_size_binds_only_methods_that_read_it(sets):
    grid = Grid(pairs=(sets,), **{**COMMON, "methods": "enhanced"}, batch_size=10_000)
    assert plan_grid(grid).num_configs == 8


def test_configurations_of_trainings_are_checked():
    base = Config("a:b", "vanilla_trained", 0, 0.1, 0.3, 50, 100, 0, 0.01, 0.1)
    with pytest.raises(GridError, match="needs optimizer"):
        base.canonical()
    with pytest.raises(GridError, match="needs num_steps, learning_rate, batch_size, patience"):
        dataclasses.replace(base, optimizer="adam").canonical()


def test_keys_of_earlier_versions_stand():
    prints = {"a:b": ("t", "s")}
    base = Config("a:b", "vanilla", 0, 0.1, 0.3, 50, 100, 0, 0.01, 0.1)
    changes = {
        "method": "enhanced",
        "gce_q": 0.7,
        "keep_fraction": 0.5,
        "retrain_targets": "student",
        "retrain_init": "warm",
        "retrain_l2": 0.02,
        "pseudolabels": "soft",
        "eta_u": None,
        "seed": 7,
        "class_prior": "pool",
        "feature_scaling": "none",
    }
    enhanced = dataclasses.replace(base, **changes)
    elsewhere = dataclasses.replace(base, eta_l=None, n_labelled=None, teacher_l2=None)
    keys = [c.canonical().key(prints) for c in (base, enhanced, elsewhere)]
    assert keys == [
        "732d636661a5dfaa3c83961e",
        "349c5e81156ff85b225950af",
        "649c6ab0b70d038d4723703f",
    ]


def test_a_row_gives_back_its_configuration(sets, rows):
    pairs = resolve_pairs([sets])
    prints = {name: pair.fingerprints for name, pair in pairs.items()}
    for _, row in rows.iloc[::7].iterrows():
        assert Config.from_row(row).canonical().key(prints) == row["key"]


def test_rows_without_the_newer_columns_are_read_and_added_to(sets, tmp_path):
    grid = Grid(pairs=(sets,), **{**COMMON, "seeds": 0, "methods": "enhanced"})
    run(grid, out=tmp_path)
    newer = ["num_steps", "learning_rate", "batch_size", "patience", "optimizer"]
    for number, part in enumerate(sorted((tmp_path / "rows").glob("*.parquet"))):
        rows = pd.read_parquet(part).drop(columns=newer)
        part.unlink()
        rows.to_parquet(part.with_name(f"{number:024}.parquet"))  # as format 1 named them
    old = read_rows(tmp_path)
    assert len(old) == 4
    assert not set(newer) & set(old)
    both = run(Grid(pairs=(sets,), **{**COMMON, "seeds": 0}, num_steps=5), out=tmp_path)
    assert both["method"].value_counts().to_dict() == {
        "enhanced": 2,
        "vanilla": 2,
        "vanilla_trained": 2,
    }
    assert set(old["key"]) < set(both["key"])
    others = both[both["method"] != "vanilla_trained"]
    assert others[newer].isna().all().all()


def test_an_axis_is_one_entry_and_one_field():
    names = {axis.name for axis in AXES}
    assert names == {f.name for f in dataclasses.fields(Config)} - {"pair", "method"}
    in_grid = {f.name for f in dataclasses.fields(Grid)} - {"pairs", "methods", "eta_o"}
    assert {axis.field for axis in AXES} == in_grid
    known = {axis.name for axis in METHOD_OPTIONS}
    for method in METHODS.values():
        assert set(method.options) <= known


@pytest.mark.parametrize(("options", "reads"), [(("cut",), ()), (("pseudolabels",), ("cut_at",))])
def test_a_method_that_reads_what_no_grid_knows(sets, monkeypatch, options, reads):
    def rounds(chosen):
        return (Fit(targets=len, reads=reads),)

    monkeypatch.setitem(METHODS, "odd", Method("odd", rounds, options))
    with pytest.raises(GridError, match="'odd' reads cut.*no axis of a grid; add it to AXES"):
        plan_grid(Grid(pairs=(sets,), **{**COMMON, "methods": "odd"}))


def test_trainings_read_their_seed_only_for_minibatches():
    step = METHODS["vanilla_trained"].rounds({"pseudolabels": "hard", "optimizer": "sgd"})[0].step
    assert Train(step, 5).hyperparameters == ("learning_rate", "student_l2")
    assert "seed" in Train(step, 5, batch_size=8).hyperparameters
    assert {axis.name for axis in METHOD_NUMBERS} >= {"num_steps", "batch_size", "patience"}


@pytest.fixture
def sweep_script(monkeypatch):
    """The sweep script as a module, its flags unparsed."""
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    defined = flags.FlagValues()
    for name in ("string", "list", "integer", "float", "enum", "bool"):
        define = getattr(flags, f"DEFINE_{name}")
        monkeypatch.setattr(
            flags, f"DEFINE_{name}", lambda *a, _d=define, **k: _d(*a, flag_values=defined, **k)
        )
    path = Path(__file__).parent.parent.parent / "experiments" / "sweep.py"
    spec = importlib.util.spec_from_file_location("sweep_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FLAGS", defined)
    return module


def test_every_setting_of_a_grid_is_a_flag_with_its_default(sweep_script):
    assert set(f.name for f in dataclasses.fields(Grid)) <= set(sweep_script.FLAGS)
    sweep_script.FLAGS([sys.argv[0], "--out=x"])
    values = sweep_script.axis_values()
    assert Grid(pairs="a:b", **values) == Grid(pairs="a:b")
    sweep_script.FLAGS([sys.argv[0], "--out=x", "--batch_size=0,64", "--optimizer=sgd,adam"])
    values = sweep_script.axis_values()
    assert values["batch_size"] == (0, 64)
    assert values["optimizer"] == ("sgd", "adam")
