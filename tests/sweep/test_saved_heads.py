"""Heads are kept beside their rows, and evaluated again exactly."""

import dataclasses
import shutil
import signal

import numpy as np
import pytest

from tests.toy import toy_set
from w2s_jax.errors import GridError, StoreError
from w2s_jax.features import make_feature_set
from w2s_jax.sweep import Grid, evaluate_heads, head_writer, read_rows, run

METRICS = (
    "accuracy",
    "group_balanced_accuracy",
    "train_weighted_accuracy",
    "worst_group_accuracy",
    "majority_accuracy",
    "minority_accuracy",
    "group_0_accuracy",
    "group_3_accuracy",
)
ALL = ("student", "teacher", "ceiling")


@pytest.fixture(scope="module", params=[2, 3], ids=["2 classes", "3 classes"])
def kept(request, tmp_path_factory):
    """A run that kept its heads, its sets and its grid."""
    out = tmp_path_factory.mktemp("run")
    sets = tuple(
        toy_set(name, num_classes=request.param, seed=seed) for name, seed in (("w", 1), ("s", 2))
    )
    grid = Grid(
        pairs=(sets,),
        eta_l=(0.2, 0.5),
        eta_u=0.4,
        n_labelled=60,
        n_unlabelled=120,
        keep_fraction=(0.3, 0.6),
        methods=("vanilla", "enhanced", "product"),
        feature_scaling=("rms", "standardize"),
        seeds=(0, 1),
    )
    run(grid, out=out, keep_heads=ALL)
    return out, sets, grid


@pytest.mark.parametrize("model", ALL)
def test_on_the_same_features_every_metric_is_the_stored_one(kept, model):
    out, (weak, strong), _ = kept
    found = evaluate_heads(out, weak if model == "teacher" else strong, model=model)
    stored = read_rows(out).set_index("key").loc[found["key"]]
    assert len(found) == len(read_rows(out))
    for name in METRICS:
        column = f"{model}_{name}"
        assert np.array_equal(found[column], stored[column], equal_nan=True), column
    assert found["method"].tolist() == stored["method"].tolist()


def test_another_order_of_rows_changes_nothing_and_other_rows_do(kept):
    out, (_, strong), _ = kept
    found = evaluate_heads(out, strong)
    order = np.random.default_rng(0).permutation(len(strong.ids))
    shuffled = make_feature_set(
        strong.features[order],
        strong.labels[order],
        attributes=strong.attributes[order],
        split=np.array(["train", "val", "test"])[strong.split[order]],
        ids=strong.ids[order],
        minority_cells=strong.minority_cells,
        name="shuffled",
    )
    again = evaluate_heads(out, shuffled)
    assert found["student_accuracy"].equals(again["student_accuracy"])
    train = evaluate_heads(out, strong, split="train")
    assert not found["student_accuracy"].equals(train["student_accuracy"])


def test_a_shift_of_all_features_is_felt(kept):
    out, (_, strong), _ = kept
    moved = dataclasses.replace(strong, features=strong.features + 100)
    accuracy = [evaluate_heads(out, each)["student_accuracy"] for each in (strong, moved)]
    assert np.mean(accuracy[1]) < np.mean(accuracy[0]) - 0.1


def test_requests_share_the_teachers_that_are_kept(kept):
    from w2s_jax.sweep.saved_heads import _chunks

    (chunk, *_) = _chunks(kept[0] / "heads", "teacher")
    assert len(chunk.params) == 2  # one an eta_l, for all methods of a draw


def test_features_of_the_other_side_are_refused(kept):
    out, (weak, strong), _ = kept
    for features, model in ((weak, "student"), (strong, "teacher")):
        with pytest.raises(GridError, match=f"the {model} heads take"):
            evaluate_heads(out, features, model=model)


def test_rows_without_heads_are_announced_where_they_get_none(kept, tmp_path, caplog):
    _, _, grid = kept
    few = dataclasses.replace(grid, seeds=0)
    total = len(run(few, out=tmp_path / "run"))
    run(few, out=tmp_path / "run", keep_heads=("student",))
    assert f"{total} rows are in {tmp_path / 'run'} already: they get no heads now" in caplog.text


def test_a_resumed_run_has_the_heads_of_all_rows(kept, tmp_path):
    _, (_, strong), grid = kept
    out = tmp_path / "resumed"
    run(dataclasses.replace(grid, seeds=0), out=out, keep_heads=("student",))
    run(grid, out=out, keep_heads=("student",))
    assert set(evaluate_heads(out, strong)["key"]) == set(read_rows(out)["key"])
    with pytest.raises(
        StoreError, match="no teacher heads; run the sweep with --save_heads=teacher"
    ):
        evaluate_heads(out, strong, model="teacher")


def test_a_signal_to_the_child_that_writes_does_not_end_it(tmp_path, capfd):
    arrays, child = {"x": np.ones(3)}, head_writer._writer()
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            child.send_signal(number)  # while it starts, and between two commits
            path = tmp_path / number.name
            head_writer.write_elsewhere(path, tmp_path / ".tmp", arrays, {})
            assert (path / "arrays").is_dir()
    finally:
        head_writer._writer.cache_clear()
        child.communicate(timeout=60)  # it ends with its standard input
    assert child.returncode == 0
    assert "RuntimeWarning" not in capfd.readouterr().err


def test_a_damaged_checkpoint_is_named(kept, tmp_path):
    out = shutil.copytree(kept[0], tmp_path / "damaged")
    chunk = sorted((out / "heads").glob("chunk-*"))[0]
    for path in (chunk / "arrays").rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(StoreError, match=f"{chunk.name} cannot be read"):
        evaluate_heads(out, kept[1][1])


def test_wrong_requests_are_refused_before_anything_is_computed(kept, tmp_path):
    out, (_, strong), grid = kept
    with pytest.raises(
        GridError, match="unknown model 'students'; known: teacher, ceiling, student"
    ):
        run(grid, out=tmp_path / "none", keep_heads=("students",))
    with pytest.raises(GridError, match="give out"):
        run(grid, keep_heads=("student",))
    assert not (tmp_path / "none").exists()
    narrow = dataclasses.replace(strong, features=strong.features[:, :5])
    with pytest.raises(GridError, match="take 12 features, s has 5"):
        evaluate_heads(out, narrow)
    with pytest.raises(GridError, match="unknown split 'tests'"):
        evaluate_heads(out, strong, split="tests")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(StoreError, match="holds no student heads"):
        evaluate_heads(empty, strong)
