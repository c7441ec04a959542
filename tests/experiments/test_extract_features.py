"""The script as a shell runs it, on images and weights written here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

pytest.importorskip("grain")
from tests.backbones.published import random_checkpoint
from w2s_jax.backbones.registry import BACKBONES
from w2s_jax.features import load_features

SCRIPT = Path(__file__).parents[2] / "experiments" / "extract_features.py"
NUM_IMAGES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images with a table, and random weights of MobileNetV2, the smallest published network."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines = ["filename,y,a,split"]
    for row in range(NUM_IMAGES):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines.append(f"{row}.png,{row % 2},{row // 2 % 2},{'train' if row < 8 else 'test'}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    spec = BACKBONES["mobilenet_v2"]
    checkpoint, _ = random_checkpoint(spec.architecture, spec.config)
    save_file(checkpoint.tensors, folder / "model.safetensors")
    return folder


def run(folder, *flags, **given):
    settings = {
        "benchmark": "image_csv",
        "data_dir": folder,
        "backbone": "mobilenet_v2",
        "weights": folder / "model.safetensors",
        "out": folder / "out",
        "image_size": 32,
        "batch_size": 5,
        "compilation_cache": folder / "compiled",
    } | given
    command = [sys.executable, SCRIPT, *(f"--{k}={v}" for k, v in settings.items()), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_images_to_caches(folder):
    flags = ("--layer=pooled,block_3", "--num_workers=1", "--shard_size=7")
    flags += ("--option=benchmark_name=noise",)
    done = run(folder, *flags)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("'")[1] for line in lines] == [
        "noise/mobilenet_v2_pooled",
        "noise/mobilenet_v2_block_3",
    ]
    path = folder / "out" / "noise" / "mobilenet_v2_pooled"
    features = load_features(path)
    features.verify()
    assert features.features.shape == (NUM_IMAGES, 1280)
    assert features.features.dtype == np.float16
    assert features.ids.tolist() == [f"{row}.png" for row in range(NUM_IMAGES)]
    assert features.minority.tolist() == [row % 2 != row // 2 % 2 for row in range(NUM_IMAGES)]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["provenance"]["extraction"]["preprocessing"]["size"] == 32
    # The same command again changes nothing; another setting in its place is refused.
    assert run(folder, *flags, batch_size=3).stdout == done.stdout
    other = run(folder, *flags, "--precision=bfloat16")
    assert other.returncode == 2
    (line,) = other.stderr.splitlines()
    assert "dtype: 'float32' there, 'bfloat16' now); choose another --out" in line
    # Prepared images are the same.
    prepared = {"prepared_dir": folder / "tfds", "out": folder / "out of tfds"}
    assert run(folder, *flags, **prepared, image_size="mobilenet_v2=32").returncode == 0
    other = load_features(folder / "out of tfds" / "noise" / "mobilenet_v2_pooled")
    assert other.fingerprint == features.fingerprint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"benchmark": "birds"}, "unknown --benchmark=birds; known are waterbirds"),
        ({"data_dir": "nowhere"}, "--data_dir=nowhere is no folder"),
        ({"backbone": "resnet"}, "Unknown backbone 'resnet'; known are clip_vit_b32"),
        ({"layer": "top"}, "Unknown output 'top'; known are"),
        ({"layer": "resnet18=pooled"}, "names 'resnet18', which is not in --backbone=mobilenet_v2"),
        ({"weights": "nothing.bin"}, "--weights of mobilenet_v2: there is no nothing.bin"),
        ({"backbone": "mobilenet_v2,resnet18"}, "which of --weights is for mobilenet_v2?"),
        ({"option": "tabel=x.csv"}, "image_csv has no --option=tabel; known are table"),
        ({"option": "x"}, "--option=x must be name=value"),
        ({"image_size": 3, "backbone": "vit_b16"}, "3 x 3 pixels are not whole patches of 16"),
        ({"image_size": "vit_b16=3", "backbone": "vit_b16"}, "3 x 3 pixels are not whole patches"),
        ({"image_size": "big"}, "--image_size of mobilenet_v2 is big; give one whole number"),
        ({"image_size": "32,64"}, "--image_size of mobilenet_v2 is 32,64; give one whole number"),
    ],
)
def test_bad_flags_are_one_line(folder, given, message):
    done = run(folder, **given)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
