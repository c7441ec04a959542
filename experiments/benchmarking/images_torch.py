"""transformers on a folder of images, with random weights that are saved in published names."""

import importlib
import importlib.util
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax.backbones.registry import find_spec

from .solvers import Solver

# Network to model class, configuration class, its settings, and where the features are.
_VIT_S = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
_DINO = {"image_size": 518, "patch_size": 14}
_CLIP = ("CLIPVisionModelWithProjection", "CLIPVisionConfig")
_CLIP_L = _VIT_L | {"patch_size": 14, "intermediate_size": 4096, "projection_dim": 768}
_RESNET18 = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
_CONVNEXT_L = {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]}
MODELS: dict[str, tuple[tuple[str, str], dict[str, Any], str]] = {
    "clip_vit_b32": (_CLIP, {"patch_size": 32}, "image_embeds"),
    "clip_vit_b16": (_CLIP, {"patch_size": 16}, "image_embeds"),
    "clip_vit_l14": (_CLIP, _CLIP_L, "image_embeds"),
    "dinov2_vits14": (("Dinov2Model", "Dinov2Config"), _DINO | _VIT_S, "cls"),
    "dinov2_vitb14": (("Dinov2Model", "Dinov2Config"), _DINO, "cls"),
    "dinov2_vitl14": (("Dinov2Model", "Dinov2Config"), _DINO | _VIT_L, "cls"),
    "vit_s16": (("ViTModel", "ViTConfig"), _VIT_S, "cls"),
    "vit_b16": (("ViTModel", "ViTConfig"), {}, "cls"),
    "resnet18": (("ResNetModel", "ResNetConfig"), _RESNET18, "pooler_output"),
    "resnet50": (("ResNetModel", "ResNetConfig"), {}, "pooler_output"),
    "convnext_tiny": (("ConvNextModel", "ConvNextConfig"), {}, "pooler_output"),
    "convnext_large": (("ConvNextModel", "ConvNextConfig"), _CONVNEXT_L, "pooler_output"),
    "mobilenet_v2": (("MobileNetV2Model", "MobileNetV2Config"), {}, "pooler_output"),
}


def check_known(backbones: Sequence[str]) -> None:
    """Refuses networks without a reference, and an environment without the reference.

    Raises:
        ValueError: Says which, or what to install.
    """
    for name in backbones:
        if name not in MODELS:
            raise ValueError(f"no reference for {name!r}; known are {', '.join(MODELS)}")
    for package in ("torch", "transformers", "sklearn"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"{package} is not installed; run pip install torch==2.13.0, then "
                "pip install '.[reference,images]'"
            )


def _model(name: str) -> Any:
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    (model, config), settings, _ = MODELS[name]
    return getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()


def save_random(folder: Path, name: str, seed: int) -> None:
    """Saves a network with random weights, as transformers initialises them."""
    torch: Any = importlib.import_module("torch")
    torch.manual_seed(seed)
    _model(name).save_pretrained(folder)


class Transformers(Solver):
    """torch's DataLoader with the published processor, and the model in both layouts."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._torch: Any = importlib.import_module("torch")
        data: Any = importlib.import_module("torch.utils.data")
        task = np.load(folder / "task.npz")
        name, self._batch = str(task["backbone"]), int(task["batch_size"])
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        # Products in full precision, as ours are.
        self._torch.backends.cudnn.allow_tf32 = False
        self._output = MODELS[name][2]
        self._model = type(_model(name)).from_pretrained(folder / "weights").eval()
        self._model.to(self._device)
        spec = find_spec(name).preprocessing
        normal = spec.normalise(np.load(folder / "pixels.npy")).transpose(0, 3, 1, 2)
        self._pixels = self._torch.from_numpy(np.ascontiguousarray(normal))
        self._loader = data.DataLoader(
            _Photos(sorted((folder / "photos").glob("*.jpg")), _processor(spec)),
            batch_size=self._batch,
            num_workers=len(os.sched_getaffinity(0)),
            persistent_workers=True,
        )
        self._features = np.empty(0)

    def solve(self) -> dict[str, float]:
        """Loads all images, then computes features of all preprocessed ones, in both layouts."""
        start = time.perf_counter()
        for _ in self._loader:
            pass
        laps = {"load": time.perf_counter() - start}
        for part, layout in (
            ("forward", self._torch.contiguous_format),
            ("forward_channels_last", self._torch.channels_last),
        ):
            self._model.to(memory_format=layout)
            pixels = self._pixels.to(memory_format=layout)
            start = time.perf_counter()
            with self._torch.inference_mode():
                found = [self._apply(batch) for batch in pixels.split(self._batch)]
                self._features = self._torch.cat(found).cpu().numpy()
            laps[part] = time.perf_counter() - start
        return laps

    def _apply(self, pixels: Any) -> Any:
        out = self._model(pixels.to(self._device))
        if self._output == "cls":
            return out.last_hidden_state[:, 0]
        return getattr(out, self._output).flatten(1)

    def solution(self) -> dict[str, np.ndarray]:
        """The features."""
        return {"features": self._features}


def _processor(spec: Any) -> Any:
    """The published processor with a network's settings; Pillow's form of it, as ours is."""
    transformers: Any = importlib.import_module("transformers")
    resample = {"bilinear": 2, "bicubic": 3}[spec.interpolation]
    common = {"image_mean": list(spec.mean), "image_std": list(spec.std), "resample": resample}
    if spec.resize is None:
        size = {"height": spec.size, "width": spec.size}
        return transformers.ViTImageProcessorPil(size=size, **common)
    crop = {"height": spec.size, "width": spec.size}
    size = {"shortest_edge": spec.resize}
    return transformers.BitImageProcessorPil(size=size, crop_size=crop, **common)


class _Photos:
    """Preprocessed images by number, as a DataLoader takes them."""

    def __init__(self, paths: Sequence[Path], processor: Any):
        self._paths, self._processor = paths, processor

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        with Image.open(self._paths[index]) as image:
            found = self._processor(image.convert("RGB"), return_tensors="pt")
        return found["pixel_values"][0]
