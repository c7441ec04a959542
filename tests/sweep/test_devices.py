"""The same grid on several devices and on several processes gives the same rows, bit for bit."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax.sweep import devices, evaluate_heads, read_rows
from w2s_jax.sweep.verification import verify_run

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import jax
from absl import app
from tests.toy import toy_set
from w2s_jax.compilation import enable_compilation_cache
from w2s_jax.errors import script
from w2s_jax.sweep import Grid, devices, hosts, run, runner

out, cache, *process = sys.argv[1:]


def main():
    if process:
        hosts.join(process[0], 2, int(process[1]))
    enable_compilation_cache(cache)
    used = set()

    def noting(work, *args):
        def noted(piece):
            rows = piece()
            used.add(str(jax.config.jax_default_device))
            return rows
        pieces = [lambda piece=piece: noted(piece) for piece in work]
        return devices.on_devices(pieces, *args)

    runner.on_devices = noting
    sets = toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)
    run(Grid(pairs=(sets,), eta_l=(0.2, 0.5), eta_u=(0.3, 0.5), n_labelled=60, n_unlabelled=120,
             student_l2=(0.01, 0.1), seeds=range(6)), out=out,
        keep_heads=("student",))
    print(len(used))


script(main)([sys.argv[0]])
"""


def start(out, cache, num_devices, *process):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(out), str(cache), *process],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(num_devices)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return int(out)


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    assert end(start(folder / "run", folder / "cache", 1)) == 1
    return folder


def test_four_devices_share_the_work_and_change_no_bit(single, tmp_path):
    assert end(start(tmp_path / "run", single / "cache", 4)) == 4
    pd.testing.assert_frame_equal(
        read_rows(tmp_path / "run"), read_rows(single / "run"), check_exact=True
    )
    check_heads(tmp_path / "run")  # which their threads wrote


def check_heads(out):
    """The kept heads are those of all rows, and have the stored metrics."""
    found = evaluate_heads(out, toy_set("strong", signal=1.2, seed=2)).set_index("key")
    stored = read_rows(out).set_index("key")
    assert len(found) == len(stored)
    columns = [name for name in found if name.startswith("student_") and name.endswith("accuracy")]
    assert len(columns) == 10
    pd.testing.assert_frame_equal(
        found[columns], stored.loc[found.index, columns], check_exact=True
    )
    assert not list((out / "heads").glob(".*"))


INTERRUPTED = """
import itertools
import jax
import jax.numpy as jnp
from w2s_jax.errors import script
from w2s_jax.sweep.devices import on_devices

def piece():
    print("under way", flush=True)
    for size in itertools.count(10):  # each compiles a program
        jax.block_until_ready(jnp.linalg.eigh(jnp.eye(size) + size))

def main():
    list(on_devices([lambda: None, piece, piece], jax.local_devices()[:1], at_once=2))

script(main)([""])
"""


def test_what_is_under_way_does_not_keep_an_interrupted_process_alive():
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("under way")
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.splitlines()[-1].startswith("interrupted;")


def test_pieces_are_on_the_device_that_the_caller_chose():
    def piece():
        return jax.config.jax_default_device

    one = jax.local_devices()[:1]
    assert list(devices.on_devices([piece] * 3, one, at_once=2)) == [None] * 3
    with jax.default_device(one[0]):
        assert list(devices.on_devices([piece] * 3, one, at_once=2)) == one * 3


def test_a_device_begins_with_one_piece_and_has_two_then():
    lock, running, most = threading.Lock(), [0], []

    def piece(number):
        with lock:
            running[0] += 1
            most.append(running[0])
        time.sleep(0.2)
        with lock:
            running[0] -= 1
        return number

    work = [functools.partial(piece, number) for number in range(5)]
    found = list(devices.on_devices(work, jax.local_devices()[:1], at_once=2))
    assert sorted(found) == list(range(5))
    assert found[0] == 0
    assert most[:2] == [1, 1]
    assert max(most) == 2


def test_what_ran_beside_a_failure_comes_before_it():
    def fails():
        raise ValueError("no")

    found = []

    def take_all():
        work = [lambda: 1, fails, lambda: 2, lambda: 3]
        found.extend(devices.on_devices(work, jax.local_devices()[:1], at_once=2))

    with pytest.raises(ValueError, match="no"):
        take_all()
    assert found[:1] == [1]
    assert 3 not in found or 2 in found


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def test_two_processes_keep_the_heads_of_all_rows(single, tmp_path):
    address = f"localhost:{free_port()}"
    assert all(
        [
            end(p)
            for p in [start(tmp_path / "run", single / "cache", 1, address, str(i)) for i in (0, 1)]
        ]
    )
    pd.testing.assert_frame_equal(
        read_rows(tmp_path / "run"), read_rows(single / "run"), check_exact=True
    )
    check_heads(tmp_path / "run")


@pytest.mark.slow
def test_two_processes_share_the_work_and_one_that_died_is_made_up_for(single, tmp_path):
    out, address = tmp_path / "run", f"localhost:{free_port()}"
    both = [start(out, single / "cache", 2, address, str(i)) for i in range(2)]
    while both[1].poll() is None and len(list(out.glob("rows/*.parquet"))) < 3:
        time.sleep(0.02)
    both[1].kill()
    for process in both:
        process.communicate()
    some = read_rows(out)
    expected = read_rows(single / "run")
    assert len(some) < len(expected)
    address = f"localhost:{free_port()}"
    both = [start(out, single / "cache", 2, address, str(i)) for i in range(2)]
    assert sum(map(end, both)) >= 1
    before = [
        json.loads((out / f"progress{suffix}.json").read_text())["rows_before"]
        for suffix in ("", "-1")
    ]
    assert sum(before) == len(some)  # none of them was computed again
    pd.testing.assert_frame_equal(read_rows(out), expected, check_exact=True)
    assert verify_run(out) == []
    check_heads(out)
