"""Small networks and images for the tests of image extraction; also run as a process of its own."""

import argparse
import dataclasses
import io
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tests.backbones.published import random_checkpoint
from w2s_jax.backbones import registry
from w2s_jax.backbones.loading import load_backbone
from w2s_jax.backbones.preprocess import Preprocessing
from w2s_jax.backbones.vit import ViTConfig
from w2s_jax.datasets import ImageBenchmark, ImageSource

_MOBILE = registry.BACKBONES["mobilenet_v2"]
SPECS = {
    "tiny_vit": registry.BackboneSpec(
        registry._VIT, ViTConfig(16, 2, 2, 32, 8, 16), Preprocessing(16, 20, "bicubic"), "cls"
    ),
    "tiny_net": dataclasses.replace(
        _MOBILE,
        config=dataclasses.replace(_MOBILE.config, blocks=_MOBILE.config.blocks[:2], head_width=24),
        preprocessing=Preprocessing(24, None, "bilinear"),
        repository=None,
    ),
}


def register():
    """Make the small networks known by their names."""
    registry.BACKBONES.update(SPECS)  # pyright: ignore[reportAttributeAccessIssue]


def write_weights(folder, name, seed=0):
    """Random weights of a small network."""
    spec = SPECS[name]
    checkpoint, _ = random_checkpoint(spec.architecture, spec.config, seed=seed)
    path = Path(folder) / f"{name}_{seed}.safetensors"
    save_file(checkpoint.tensors, path)
    return path


class MemorySource(ImageSource):
    """Encoded images of many sizes in memory; `delay` seconds each."""

    def __init__(self, num_images, delay=0.0, bad=None, sources=False):
        rng = np.random.default_rng(0)
        self._content, self._delay, self._bad = [], delay, bad
        for _ in range(num_images):
            height, width = rng.integers(20, 60, 2)
            low = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            stream = io.BytesIO()
            low.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG")
            self._content.append(stream.getvalue())
        benchmark = ImageBenchmark(
            "squares",
            ("no", "yes"),
            ("left", "right"),
            ((False, True), (True, False)),
            eta_o=0.25,
            licence="none",
        )
        row = np.arange(num_images)
        label, attribute = row % 2, row // 2 % 2
        columns = {
            "id": np.array([f"image{i}.jpg" for i in row]),
            "label": label,
            "attribute": attribute,
            "minority": (label != attribute).astype(int),
            "split": np.where(row < num_images - 8, "train", "test"),
            "source_id": np.array([f"s{i}" if sources and i > 3 else "" for i in row]),
        }
        super().__init__(benchmark, columns)

    def read(self, index):
        time.sleep(self._delay)
        if index == self._bad:
            return self._content[index][:40]
        return self._content[index]


def main():
    """Extract as the flags say, without absl."""
    import jax

    from w2s_jax.extraction import extract_image_features

    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--num_images", type=int, default=41)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--num_devices", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    settings = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", settings.num_devices)
    register()
    made = extract_image_features(
        MemorySource(settings.num_images, settings.delay),
        load_backbone("tiny_vit", settings.weights, layers=("cls", "mean")),
        settings.out,
        batch_size=6,
        shard_size=10,
        num_workers=settings.num_workers,
    )
    sys.stdout.write(f"{len(jax.devices())} {made[0].fingerprint}\n")


if __name__ == "__main__":
    main()
