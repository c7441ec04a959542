"""Damage, full disks, signals and second processes: named, and nothing already computed is lost."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax.errors import StoreError
from w2s_jax.sweep import Grid, evaluate_heads, plan_grid, read_rows, run
from w2s_jax.sweep.lock import Lock
from w2s_jax.sweep.runner import remaining
from w2s_jax.sweep.store import Store
from w2s_jax.sweep.verification import count_rows, verify_run

ROOT = Path(__file__).parents[2]
FORMAT_1 = Path(__file__).parent / "format_1"
FORMAT_2 = Path(__file__).parent / "format_2"
SMALL = {"eta_l": 0.2, "eta_u": (0.3, 0.5), "n_labelled": 60, "n_unlabelled": 120}
# A grid in a process of its own: 24 commits after one compilation.
PROGRAM = """
import sys
from w2s_jax import Grid, enable_compilation_cache, run
from w2s_jax.errors import script
from absl import app
from tests.toy import toy_set

def main():
    enable_compilation_cache(sys.argv[2])
    sets = toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)
    run(Grid(pairs=(sets,), eta_l=(0.2, 0.5), eta_u=(0.3, 0.5), n_labelled=60, n_unlabelled=120,
             student_l2=(0.01, 0.1), seeds=range(12)), out=sys.argv[1])

script(main)([sys.argv[0]])
"""


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)


@pytest.fixture(scope="module")
def whole(sets, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def flip(path, position=0.5):
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.6, 0.9999])
def test_one_flipped_bit_is_found_and_costs_its_part_alone(sets, whole, copy, position):
    part = sorted((copy / "rows").iterdir())[1]
    flip(part, position)
    with pytest.raises(StoreError, match=part.name):
        read_rows(copy)
    assert any(part.name in line for line in verify_run(copy))
    others = {p: p.stat().st_mtime_ns for p in (copy / "rows").iterdir() if p != part}
    again = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=copy)
    pd.testing.assert_frame_equal(again, read_rows(whole), check_exact=True)
    assert {p: p.stat().st_mtime_ns for p in others} == others
    assert verify_run(copy) == []
    assert count_rows(copy) == (4, 8, 1)


def test_an_edited_manifest_is_refused(sets, copy):
    path = copy / "sweep.json"
    path.write_text(path.read_text().replace('"float32"', '"float64"'))
    with pytest.raises(StoreError, match="checksum"):
        run(Grid(pairs=(sets,), seeds=0, **SMALL), out=copy)


def test_a_lost_manifest_is_made_anew_from_the_rows(sets, whole, copy, caplog):
    (copy / "sweep.json").unlink()
    parts = {p: p.stat().st_mtime_ns for p in (copy / "rows").iterdir()}
    again = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=copy)
    assert "go on with the same flags" in caplog.text
    pd.testing.assert_frame_equal(again, read_rows(whole), check_exact=True)
    assert {p: p.stat().st_mtime_ns for p in (copy / "rows").iterdir()} == parts
    (copy / "sweep.json").unlink()
    changed = sets[0], toy_set("strong", signal=1.3, seed=2)
    with pytest.raises(StoreError, match="other features"):
        run(Grid(pairs=(changed,), seeds=0, **SMALL), out=copy)


def test_a_disk_that_fails_to_read_is_no_damage(sets, copy, monkeypatch):
    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(StoreError, match=r"cannot read .* Input/output error; try again"):
            run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=copy)
    assert count_rows(copy) == (4, 8, 0)


def test_a_folder_that_may_not_be_read_is_not_empty(sets, copy, monkeypatch):
    grid = Grid(pairs=(sets,), seeds=(0, 1), **SMALL)
    listdir = os.listdir

    def refuses(path):
        if Path(path).name == "rows":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuses)
        for reads in (
            lambda: run(grid, out=copy),
            lambda: read_rows(copy),
            lambda: verify_run(copy),
            lambda: remaining(grid, plan_grid(grid), copy, "float32"),
        ):
            with pytest.raises(StoreError, match=r"cannot list .*rows: Permission denied"):
                reads()
    assert count_rows(copy) == (4, 8, 0)


def test_a_new_directory_survives_a_power_cut(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("w2s_jax.sweep.locations.sync_folder", synced.append)
    Store(tmp_path / "runs" / "new", {}, {}).close()
    assert {tmp_path, tmp_path / "runs", tmp_path / "runs" / "new"} <= set(synced)


def test_rows_of_another_schema_are_not_mixed_in(sets, copy, monkeypatch):
    monkeypatch.setattr("w2s_jax.sweep.store.SCHEMA_VERSION", 2)
    with pytest.raises(StoreError, match="holds rows of schema 1, this w2s_jax computes schema 2"):
        run(Grid(pairs=(sets,), seeds=0, **SMALL), out=copy)


def test_one_process_alone_and_several_exclude_each_other(sets, copy):
    member = Lock(copy, shared=True)
    Lock(copy, shared=True).release()
    with pytest.raises(StoreError, match="in use"):
        run(Grid(pairs=(sets,), seeds=7, **SMALL), out=copy)
    member.release()


def test_a_row_that_is_not_what_its_key_says_is_a_defect(copy):
    from w2s_jax.sweep.parts import write_part

    rows = read_rows(copy).iloc[:2].copy()
    rows["student_l2"] = 7.0
    write_part(copy / "rows", rows)
    defects = verify_run(copy)
    assert sum("its settings give the key" in line for line in defects) == 2
    assert sum("too" in line for line in defects) == 2


def test_a_full_disk_loses_nothing(sets, tmp_path, whole, monkeypatch):
    original, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device; rows written before are safe"):
        run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=tmp_path / "run")
    monkeypatch.setattr(os, "fsync", original)
    assert 0 < len(read_rows(tmp_path / "run")) < 8
    assert not list(tmp_path.rglob("*.tmp"))
    again = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=tmp_path / "run")
    pd.testing.assert_frame_equal(again, read_rows(whole), check_exact=True)


def test_a_store_in_use_is_refused_and_left_alone(sets, copy):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.name != ".lock"}
    lock = Lock(copy)
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()} on "):
        run(Grid(pairs=(sets,), seeds=7, **SMALL), out=copy)
    assert {p: p.read_bytes() for p in before} == before
    lock.release()
    assert len(run(Grid(pairs=(sets,), seeds=7, **SMALL), out=copy)) == 12


def test_a_store_of_format_1_is_read_and_added_to(sets, tmp_path):
    old = read_rows(FORMAT_1)
    assert len(old) == 4
    assert verify_run(FORMAT_1) == []
    copy = Path(shutil.copytree(FORMAT_1, tmp_path / "run"))
    rows = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=copy)
    kept = rows[rows["key"].isin(old["key"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[old.columns], old, check_exact=True)
    # Columns that came later are missing in rows from before.
    assert kept[kept.columns.difference(old.columns)].isna().all(axis=None)
    assert len(rows) == 8
    assert json.loads((copy / "sweep.json").read_text())["format_version"] == 2


def test_a_store_of_format_2_is_read_and_added_to_and_so_are_its_heads(sets, tmp_path):
    old = read_rows(FORMAT_2)
    assert old["method"].tolist() == ["enhanced", "vanilla"]
    assert verify_run(FORMAT_2) == []
    copy = Path(shutil.copytree(FORMAT_2, tmp_path / "run"))
    before = {path: path.read_bytes() for path in copy.rglob("*/*") if path.is_file()}
    # Vanilla alone: a new version of another method would rightly be refused.
    grid = Grid(pairs=(sets,), seeds=(0, 1), methods="vanilla", **{**SMALL, "eta_u": 0.3})
    rows = run(grid, out=copy, keep_heads=["student"])
    assert {path: path.read_bytes() for path in before} == before
    kept = rows[rows["key"].isin(old["key"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept[old.columns], old, check_exact=True)
    assert len(rows) == 3
    rows = rows.set_index("key")
    for model, features in zip(("teacher", "student"), sets, strict=True):
        found = evaluate_heads(copy, features, model=model).set_index("key")
        assert set(found.index) == set(rows.index if model == "student" else old["key"])
        # A prediction may flip where another machine rounds otherwise.
        stored = rows.loc[found.index, f"{model}_accuracy"]
        assert (found[f"{model}_accuracy"] - stored).abs().max() < 0.01


def test_progress_is_on_disk(whole):
    found = json.loads((whole / "progress.json").read_text())
    assert found["rows_total"] == found["rows_done"] == 8
    assert found["rows_per_second"] > 0


def start(out, cache):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), str(cache)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_parts(process, out, number):
    while process.poll() is None and len(list(out.glob("rows/*.parquet"))) < number:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(folder / "run", folder / "cache")
    assert process.wait() == 0, process.stderr and process.stderr.read()
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_commit_and_says_how_to_go_on(uninterrupted, tmp_path, number):
    out = tmp_path / "run"
    process = start(out, uninterrupted / "cache")
    wait_for_parts(process, out, 2)
    process.send_signal(number)
    _, message = process.communicate()
    assert process.returncode == 128 + number
    assert f"stopped by {signal.Signals(number).name} after" in message
    assert "start the same command again" in message
    rows = read_rows(out)
    assert f"{len(rows)} of 192 rows" in message
    assert start(out, uninterrupted / "cache").wait() == 0
    expected = read_rows(uninterrupted / "run")
    pd.testing.assert_frame_equal(read_rows(out), expected, check_exact=True)


def test_a_second_signal_gives_up_what_is_under_way(tmp_path):
    process = start(tmp_path / "run", tmp_path / "cache")  # it compiles, at first
    wait_for_parts(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130, message
    assert "interrupted;" in message or "stopped by SIGINT" in message


@pytest.mark.slow
def test_twenty_kills_change_no_bit(uninterrupted, tmp_path):
    out, moments, start_up, running = tmp_path / "run", random.Random(0), 0.0, 0
    for number in range(20):
        before = len(list(out.glob("rows/*.parquet")))
        began = time.monotonic()
        process = start(out, uninterrupted / "cache")
        if number % 2 == 0:  # within a commit or between two
            wait_for_parts(process, out, min(before + 1, 23))
            start_up = time.monotonic() - began
            time.sleep(moments.uniform(0, 0.15))
        else:  # any time up to then: imports, manifest, keys, first heads
            time.sleep(moments.uniform(0, start_up))
        running += process.poll() is None
        process.kill()
        process.wait()
    assert running >= 15
    assert start(out, uninterrupted / "cache").wait() == 0
    expected = read_rows(uninterrupted / "run")
    pd.testing.assert_frame_equal(read_rows(out), expected, check_exact=True)
    assert verify_run(out) == []
