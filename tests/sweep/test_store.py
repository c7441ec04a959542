import json

import jax
import numpy as np
import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax.errors import StoreError
from w2s_jax.sweep import Grid, read_rows, run
from w2s_jax.sweep.progress import Progress
from w2s_jax.sweep.store import Store, merged

SMALL = {
    "eta_l": 0.2,
    "eta_u": (0.3, 0.5),
    "n_labelled": 60,
    "n_unlabelled": 120,
    "seeds": (0, 1),
}


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)


def test_rows_from_disk_equal_rows_in_memory(sets, tmp_path):
    grid = Grid(pairs=(sets,), **SMALL)
    stored, direct = run(grid, out=tmp_path / "run"), run(grid)
    pd.testing.assert_frame_equal(stored, direct, check_exact=True)
    pd.testing.assert_frame_equal(read_rows(tmp_path / "run"), direct, check_exact=True)
    manifest = json.loads((tmp_path / "run" / "sweep.json").read_text())
    assert manifest["pairs"]["weak:strong"]["student"] == sets[1].fingerprint
    assert manifest["runs"][0]["grid"]["eta_u"] == [0.3, 0.5]
    assert manifest["runs"][0]["devices"] == ["cpu:cpu"]


def test_what_exists_is_not_computed_again(sets, tmp_path, monkeypatch):
    run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    parts = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()}
    fitted = []
    from w2s_jax import pipeline

    original = pipeline.fit_rows
    monkeypatch.setattr(pipeline, "fit_rows", lambda *a, **k: fitted.append(1) or original(*a, **k))
    run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    assert not fitted
    rows = run(Grid(pairs=(sets,), **{**SMALL, "seeds": (0, 1, 2)}), out=tmp_path)
    assert fitted
    assert sorted(rows["seed"].unique()) == [0, 1, 2]
    assert rows["key"].is_unique
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "rows").iterdir()}
    assert parts.items() <= after.items()


def test_an_interrupted_run_goes_on(sets, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    original, calls = Store.add, []

    def stops(self, rows):
        if len(calls) == 2:
            raise Stop
        calls.append(1)
        original(self, rows)

    monkeypatch.setattr(Store, "add", stops)
    with pytest.raises(Stop):
        run(Grid(pairs=(sets,), **SMALL), out=tmp_path / "cut")
    monkeypatch.setattr(Store, "add", original)
    assert len(read_rows(tmp_path / "cut")) == 4
    resumed = run(Grid(pairs=(sets,), **SMALL), out=tmp_path / "cut")
    whole = run(Grid(pairs=(sets,), **SMALL), out=tmp_path / "whole")
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_changed_features_are_refused_with_both_fingerprints(sets, tmp_path):
    run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    changed = sets[0], toy_set("strong", signal=1.3, seed=2)
    with pytest.raises(StoreError, match=sets[1].fingerprint[:12]) as error:
        run(Grid(pairs=(changed,), **SMALL), out=tmp_path)
    assert changed[1].fingerprint[:12] in str(error.value)


def test_rows_say_their_precision(sets):
    assert set(run(Grid(pairs=(sets,), **SMALL))["precision"]) == {"float32"}


def test_progress_in_a_line(monkeypatch):
    times = iter((100.0, 100.0, 105.0, 159.0, 160.0, 161.0))
    monkeypatch.setattr("time.time", times.__next__)
    progress = Progress(total=30, done=10)
    assert progress.line() == "10 of 30 rows"
    progress.add(10)
    assert progress.line() == "20 of 30 rows; 2 a second, 5 s left"
    assert [progress.is_due() for _ in range(3)] == [False, True, False]


def test_precisions_are_not_mixed(sets, tmp_path):
    run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    with (
        jax.enable_x64(True),
        pytest.raises(StoreError, match="in float32, this run is in float64"),
    ):
        run(Grid(pairs=(sets,), **SMALL), out=tmp_path, dtype=np.float64)


def test_a_run_that_ended_before_its_first_rows_binds_no_other(sets, tmp_path):
    pinned = {"weak:strong": {"teacher": "t", "student": "s"}}
    folder = tmp_path / "run"
    with Store(folder, {"weak:strong": ("t", "s")}, {"methods": {"mine": "source 1"}}):
        pass  # its method failed
    runs = [{"methods": {"mine": "source 2"}}]
    assert merged(folder, pinned, runs[0]) == (pinned, runs)
    (folder / "rows" / "some.parquet").touch()
    with pytest.raises(StoreError, match="another method 'mine': stored source 1, now source 2"):
        merged(folder, pinned, runs[0])


def test_a_directory_that_is_something_else_is_left_alone(sets, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(StoreError, match="choose another --out"):
        run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StoreError, match="a run directory is a path or a URL, found ''"):
        run(Grid(pairs=(sets,), **SMALL), out="")
    with pytest.raises(StoreError, match="is a file"):
        run(Grid(pairs=(sets,), **SMALL), out=tmp_path / "thesis.tex")


def test_damage_is_named(sets, tmp_path):
    run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    part = sorted((tmp_path / "rows").iterdir())[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(StoreError, match=part.name):
        read_rows(tmp_path)
    part.unlink()
    assert len(run(Grid(pairs=(sets,), **SMALL), out=tmp_path)) == 8
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        read_rows(tmp_path)
    (tmp_path / "sweep.json").write_text('{"format_version": 99, "pairs": {}, "runs": []}')
    with pytest.raises(StoreError, match="upgrade"):
        read_rows(tmp_path)


def test_no_sweep_and_no_rows(tmp_path):
    with pytest.raises(StoreError, match="holds no sweep"):
        read_rows(tmp_path)
    Store(tmp_path / "new", {}, {})
    with pytest.raises(StoreError, match="no rows yet"):
        read_rows(tmp_path / "new")
    (tmp_path / "new" / "rows" / "seen.parquet").symlink_to("gone")
    with pytest.raises(StoreError, match="went away while it was read"):
        read_rows(tmp_path / "new")


def test_some_columns_only(sets, tmp_path):
    run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    rows = read_rows(tmp_path, columns=["method", "student_accuracy"])
    assert rows.columns.tolist() == ["method", "student_accuracy"]
    assert np.isfinite(rows["student_accuracy"]).all()


def test_a_start_that_could_not_write_does_not_lock_the_directory(sets, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / ".sweep.json.1.tmp").write_text("{")
    assert len(run(Grid(pairs=(sets,), **SMALL), out=tmp_path)) == 8


def test_rows_that_two_processes_computed_count_once(sets, tmp_path):
    rows = run(Grid(pairs=(sets,), **SMALL), out=tmp_path)
    Store(tmp_path, {}, {"dtype": "float32"}).add(rows.iloc[2:5])
    pd.testing.assert_frame_equal(read_rows(tmp_path), rows, check_exact=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"format_version": "1", "pairs": {}, "runs": []}',
        '{"format_version": 1, "pairs": [], "runs": []}',
        "[]",
    ],
)
def test_a_manifest_of_wrong_types(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(StoreError, match="damaged"):
        read_rows(tmp_path)
