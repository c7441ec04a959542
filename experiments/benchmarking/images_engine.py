"""w2s_jax on a folder of images."""

import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from w2s_jax.backbones.loading import load_backbone
from w2s_jax.extraction.forward import Forward
from w2s_jax.extraction.loading import BLOCK_IMAGES, Block, geometry_of, load_blocks

from .solvers import Solver


class Photos:
    """The JPEG files of a folder, by number."""

    def __init__(self, folder: Path):
        self._paths = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict:
        """The decoded image of a row."""
        with Image.open(self._paths[index]) as image:
            return {"image": np.asarray(image.convert("RGB")), "index": index, "id": str(index)}


class Engine(Solver):
    """Grain in threads, and the jitted network."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        task = np.load(folder / "task.npz")
        backbone = load_backbone(str(task["backbone"]), folder / "weights")
        self._layer = backbone.outputs[0]
        self._forward = Forward(backbone, int(task["batch_size"]))
        self._pixels = np.load(folder / "pixels.npy")
        self._photos = Photos(folder / "photos")
        geometry = geometry_of(backbone.preprocessing)
        rows = np.arange(len(self._photos))
        self._blocks = [
            Block(rows[start : start + BLOCK_IMAGES], (geometry,))
            for start in range(0, len(rows), BLOCK_IMAGES)
        ]
        self._features = np.empty(0)

    def solve(self) -> dict[str, float]:
        """Loads all images, then computes the features of all preprocessed ones."""
        start = time.perf_counter()
        for _ in load_blocks(self._photos, self._blocks):
            pass
        loaded = time.perf_counter()
        size, found = self._forward.batch_size, []
        for first in range(0, len(self._pixels), size):
            found.append(self._forward(self._pixels[first : first + size])[self._layer])
        found = jax.device_get(found)
        done = time.perf_counter()
        self._features = np.concatenate(found)[: len(self._pixels)]
        return {"load": loaded - start, "forward": done - loaded}

    def solution(self) -> dict[str, np.ndarray]:
        """The features."""
        return {"features": self._features}
