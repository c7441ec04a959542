"""Extraction in a process of its own that never parses absl flags, and that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("grain")
from tests.extraction import tiny

CACHES = ("tiny_vit_cls", "tiny_vit_mean")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny.write_weights(tmp_path_factory.mktemp("weights"), "tiny_vit")


def start(out, weights, *flags):
    command = [sys.executable, "-m", "tests.extraction.tiny", str(out), "--weights", str(weights)]
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def files(out):
    """Every byte of the caches."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file()
    }


def children(pid):
    """Processes that one has started."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _parent(entry) == pid
    ]


def _parent(entry):
    try:
        return int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_then_resumed_equals_uninterrupted(weights, tmp_path):
    out, err = finish(start(tmp_path / "whole", weights))
    assert not err  # quiet where stderr is no terminal
    killed = tmp_path / "killed"
    shards = 0
    for _ in range(2):
        process = start(killed, weights, "--num_workers=2", "--delay=0.2")
        folder = killed / "squares" / ".tiny_vit_cls.extracting"
        wait_until(lambda folder=folder, n=shards: len(list(folder.glob("shard-*.npy"))) > n)
        workers = children(process.pid)
        assert len(workers) >= 2
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        # Nobody is left that would decode for a process that is gone.
        wait_until(lambda workers=workers: not any(map(_alive, workers)))
        shards = len(list(folder.glob("shard-*.npy")))
        assert 0 < shards < 5
        assert not (killed / "squares" / "tiny_vit_cls").exists()
    assert finish(start(killed, weights, "--num_workers=2")) == (out, "")
    found, expected = files(killed), files(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert found == expected
    assert {name.split("/")[1] for name in found} == set(CACHES)


def _alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs flock")
def test_second_process_refuses_to_start(weights, tmp_path):
    first = start(tmp_path, weights, "--delay=0.1")
    folder = tmp_path / "squares" / ".tiny_vit_mean.extracting"
    wait_until(lambda: (folder / "job.json").exists())
    second = start(tmp_path, weights)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another process extracts into" in err
    finish(first)
