"""The benchmark of feature extraction: its arithmetic, and a run beside transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarking import images

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmark.py"


def test_ratios_take_the_faster_layout():
    entry = {
        "task": images.ImageTask("resnet18", 60, 4, 0)._asdict(),
        "solvers": {"engine": {}, "transformers": {}},
    }
    laps = {
        "engine": [{"load": 1.0, "forward": 2.0}, {"load": 3.0, "forward": 2.0}],
        "transformers": [
            {"load": 2.0, "forward": 6.0, "forward_channels_last": 3.0},
            {"load": 2.0, "forward": 4.0, "forward_channels_last": 3.0},
        ],
    }
    images.relate(entry, laps)
    assert entry["solvers"]["transformers"]["fastest_forward"] == "forward_channels_last"
    # Medians of 60 and 20 images a second against 30; of 30 against 20.
    assert entry["engine_is_faster_by"] == pytest.approx({"load": 40 / 30, "forward": 1.5})
    table = images.render({"cases": [entry]}).splitlines()
    assert table[2:] == [
        "| resnet18 | load | 40 (20–60) | 30 (30–30) | 1.33 |",
        "| resnet18 | forward | 30 (30–30) | 20 (20–20) | 1.50 |",
    ]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workloads=images,ridge", "is measured by itself"),
        ("--backbones=vgg", "no reference for 'vgg'; known are clip_vit_b32"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, flag, message):
    command = [sys.executable, SCRIPT, "--workloads=images", f"--out={tmp_path}", flag]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line


@pytest.mark.reference
@pytest.mark.parametrize("backbone", ["resnet18", "vit_s16"])
def test_both_compute_the_same_features(tmp_path, backbone):
    pytest.importorskip("transformers")
    pytest.importorskip("grain")
    flags = ["--num_images=5", "--batch_size=4", "--repeats=1", f"--backbones={backbone}"]
    command = [sys.executable, SCRIPT, "--workloads=images", f"--out={tmp_path}/r.json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "r.json").read_text())["cases"]
    assert case["difference"] < 1e-5  # the partial batch of one image included
    assert set(case["engine_is_faster_by"]) == {"load", "forward"}
    assert all(ratio > 0 for ratio in case["engine_is_faster_by"].values())
