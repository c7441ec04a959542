"""A run directory in object stores: fsspec's in memory, and one that is spoken to as to S3."""

import json
import logging
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax.errors import GridError, StoreError
from w2s_jax.sweep import Grid, evaluate_heads, lock, read_rows, run
from w2s_jax.sweep.hosts import Process
from w2s_jax.sweep.locations import create, location, read
from w2s_jax.sweep.store import Store
from w2s_jax.sweep.verification import count_rows, verify_run

SMALL = {"eta_l": 0.2, "eta_u": (0.3, 0.5), "n_labelled": 60, "n_unlabelled": 120}


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)


@pytest.fixture(scope="module")
def s3_server():
    """A server of S3's protocol on this machine, and where its clients find it."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        location("s3://bucket").fs.mkdir("bucket")
        yield
    server.stop()


@pytest.fixture
def s3(s3_server):
    return f"s3://bucket/{uuid.uuid4().hex}/run"


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.reference)])
def url(request):
    if request.param == "s3":
        return request.getfixturevalue("s3")
    return f"memory://{uuid.uuid4().hex}/run"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "RENEWED_AFTER", 0.05)
    monkeypatch.setattr(lock, "DEAD_AFTER", 1.0)


@pytest.fixture(scope="module")
def whole(sets, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=path)
    return path


def contents(url):
    fs = location(url).fs
    return {path: fs.cat_file(path) for path in fs.find(location(url).path)}


def test_a_run_and_its_continuation_equal_those_in_a_directory(sets, whole, url):
    first = run(Grid(pairs=(sets,), seeds=0, **SMALL), out=url, notes={"flags.txt": "--seeds=0"})
    before = contents(url)
    assert sorted(path.rsplit("/run/")[1].split("/")[0] for path in before) == [
        "flags.txt", "progress.json", "rows", "rows", "sweep.json",
    ]  # fmt: skip
    again = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=url, notes={"flags.txt": "more"})
    pd.testing.assert_frame_equal(again, read_rows(whole), check_exact=True)
    assert len(first) == 4
    after = contents(url)
    parts = {path: data for path, data in before.items() if "/rows/" in path}
    assert parts.items() <= after.items()
    assert any(path.endswith("flags-2.txt") for path in after)
    assert verify_run(url) == []
    assert count_rows(url) == (4, 8, 0)
    columns = ["method", "student_accuracy"]
    pd.testing.assert_frame_equal(read_rows(url, columns), read_rows(whole, columns))


def test_damage_costs_its_part_alone(sets, whole, url):
    run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=url)
    part = next(path for path in contents(url) if "/rows/" in path)
    location(url).fs.pipe_file(part, contents(url)[part][:-1])
    with pytest.raises(StoreError, match="is damaged: its content does not match its name"):
        read_rows(url)
    again = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=url)
    pd.testing.assert_frame_equal(again, read_rows(whole), check_exact=True)
    assert count_rows(url) == (4, 8, 1)


def test_changed_features_are_refused(sets, url):
    run(Grid(pairs=(sets,), seeds=0, **SMALL), out=url)
    changed = sets[0], toy_set("strong", signal=1.3, seed=2)
    with pytest.raises(StoreError, match="other features"):
        run(Grid(pairs=(changed,), seeds=0, **SMALL), out=url)
    location(url).fs.rm(location(url).path, recursive=True)
    location(url).fs.pipe_file(location(url).path + "/thesis.tex", b"do not touch")
    with pytest.raises(StoreError, match="holds no sweep; choose another"):
        run(Grid(pairs=(sets,), seeds=0, **SMALL), out=url)
    assert list(contents(url).values()) == [b"do not touch"]


def test_a_store_that_fails_loses_nothing(sets, whole, url, monkeypatch):
    fs, calls = location(url).fs, []
    original = fs.pipe_file

    def fails(path, value, **options):
        calls.append(path)
        if sum("/rows/" in path for path in calls) > 2:
            raise RuntimeError("503 Slow Down")
        original(path, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "pipe_file", fails)
        with pytest.raises(StoreError, match="503 Slow Down; rows written before are safe"):
            run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=url)
    assert len(read_rows(url)) == 4
    again = run(Grid(pairs=(sets,), seeds=(0, 1), **SMALL), out=url)
    pd.testing.assert_frame_equal(again, read_rows(whole), check_exact=True)


@pytest.mark.parametrize(
    ("first", "second", "excluded"),
    [
        (Process(0, 1), Process(0, 1), True),
        (Process(0, 1), Process(0, 2), True),
        (Process(0, 2), Process(0, 1), True),
        (Process(0, 2), Process(0, 2), True),
        (Process(0, 2), Process(1, 2), False),
    ],
)
def test_who_excludes_whom(url, impatient, first, second, excluded):
    with Store(url, {}, {}, first):
        if excluded:
            with pytest.raises(StoreError, match="in use by process"):
                Store(url, {}, {}, second)
        else:
            Store(url, {}, {}, second).close()
    Store(url, {}, {}, second if not excluded else first).close()
    assert not [path for path in contents(url) if ".lock" in path]


def test_a_dead_process_is_outlived_and_one_that_was_replaced_stops(sets, url, impatient):
    store = Store(url, {}, {})
    rows = run(Grid(pairs=(sets,), seeds=0, **SMALL))
    path = location(url) / ".lock"
    holder = json.loads(location(url).fs.cat_file(path.path))
    location(url).fs.pipe_file(path.path, json.dumps({**holder, "token": "other"}).encode())
    store._locks[0]._thread.join(10)  # it looks at the next renewal
    with pytest.raises(StoreError, match="was taken over by another process"):
        store.add(rows)
    store.close()
    assert path.exists()  # it is the other's, who does not renew it
    assert len(run(Grid(pairs=(sets,), seeds=0, **SMALL), out=url)) == 4
    assert not path.exists()


def test_what_is_not_supported_says_so(sets, url):
    with pytest.raises(GridError, match="local directories only"):
        run(Grid(pairs=(sets,), seeds=0, **SMALL), out=url, keep_heads=["student"])
    with pytest.raises(StoreError, match="where no heads are kept"):
        evaluate_heads(url, sets[1])
    with pytest.raises(StoreError, match="cannot open nothing://run"):
        read_rows("nothing://run")
    with pytest.raises(StoreError, match="holds no sweep"):
        read_rows(url)


@pytest.mark.reference
def test_one_of_many_creates_an_object(s3):
    path = location(s3) / "one"

    def attempt(number):
        try:
            create(path, str(number).encode())
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        (winner,) = [n for n in threads.map(attempt, range(8)) if n is not None]
    assert read(path) == str(winner).encode()


PROGRAM = """
import sys
from w2s_jax import Grid, enable_compilation_cache, run
from w2s_jax.errors import script
from w2s_jax.sweep import lock
from tests.toy import toy_set

lock.RENEWED_AFTER, lock.DEAD_AFTER = 0.2, 3.0

def main():
    enable_compilation_cache(sys.argv[2])
    sets = toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)
    run(Grid(pairs=(sets,), eta_l=0.2, eta_u=(0.3, 0.5), n_labelled=60, n_unlabelled=120,
             seeds=range(12)), out=sys.argv[1])

script(main)([sys.argv[0]])
"""


def start(out, cache):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), str(cache)],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_parts(process, url, number):
    while process.poll() is None and len(location(url).fs.glob(f"{url}/rows/*")) < number:
        time.sleep(0.02)


@pytest.mark.reference
def test_of_two_processes_one_refuses_and_a_killed_one_is_outlived(s3, tmp_path):
    both = [start(s3, tmp_path / "cache") for _ in range(2)]
    wait_for_parts(both[0], s3, 2)
    refused, killed = both if both[0].poll() is not None else reversed(both)
    _, message = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert f"is in use by process {killed.pid} on" in message
    wait_for_parts(killed, s3, 3)
    killed.kill()
    killed.communicate()
    some = read_rows(s3)
    assert 0 < len(some) < 48
    again = start(s3, tmp_path / "cache")
    _, message = again.communicate(timeout=120)
    assert again.returncode == 0, message
    assert "is alive" in message  # it watched the lease of the dead one
    whole = start(tmp_path / "run", tmp_path / "cache")
    assert whole.wait() == 0
    pd.testing.assert_frame_equal(read_rows(s3), read_rows(tmp_path / "run"), check_exact=True)
    assert verify_run(s3) == []
    assert count_rows(s3) == (24, 48, 0)
