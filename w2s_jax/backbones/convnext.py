"""ConvNeXt (Liu et al., CVPR 2022).

Names of outputs: `"pooled"` is the normalised mean over the image after the last stage, what the
published classifiers read; `"stage_1"` … `"stage_4"` are the plain means after each stage.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from w2s_jax.backbones.layers import (
    Conv,
    LayerNorm,
    Linear,
    PatchConv,
    check_outputs,
    gelu,
    linear_sources,
    norm_sources,
    spatial_mean,
)
from w2s_jax.backbones.weights import Source, WeightsError

# Classification heads.
UNUSED_TENSORS = (r"(classifier|head|head\.fc)\.(weight|bias)", r"classifier\.2\..*")


@dataclasses.dataclass(frozen=True)
class ConvNextConfig:
    """Sizes of a ConvNeXt.

    Attributes:
        depths: Blocks a stage.
        widths: Channels a stage.
        epsilon: Of every layer normalisation but the last.
        last_epsilon: Of the one after the mean; Hugging Face has 1e-12 there, others 1e-6.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    epsilon: float = 1e-6
    last_epsilon: float = 1e-12

    def output_sizes(self) -> dict[str, int]:
        """Name of every output to its width."""
        stages = {f"stage_{number}": width for number, width in enumerate(self.widths, start=1)}
        return {"pooled": self.widths[-1]} | stages

    def check_image_size(self, height: int, width: int) -> None:
        """Raise WeightsError where the image vanishes before the last stage.

        Args:
            height: Pixels.
            width: Pixels.
        """
        least = 4 * 2 ** (len(self.depths) - 1)
        if min(height, width) < least:
            raise WeightsError(
                f"Images of {height} x {width} pixels are too small; ConvNeXt needs {least}."
            )


class _Block(nnx.Module):
    """Depthwise 7x7 convolution, normalisation and feed-forward part beside a shortcut."""

    def __init__(self, width: int, epsilon: float, *, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.conv = Conv(width, width, 7, depthwise=True, **options)
        self.conv_bias = nnx.Param(jnp.zeros(width))
        self.norm = LayerNorm(width, epsilon, **options)
        self.inner = Linear(width, 4 * width, **options)
        self.outer = Linear(4 * width, width, **options)
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
        y = self.conv(x) + self.conv_bias[...].astype(x.dtype)
        y = self.outer(gelu(self.inner(self.norm(y))))
        return x + y * self.scale[...].astype(x.dtype)


class _Stage(nnx.Module):
    """Halves the image (not in the first stage), then blocks."""

    def __init__(self, num_in: int, width: int, depth: int, config: ConvNextConfig, **options):
        halves = num_in != 3
        self.norm = LayerNorm(num_in if halves else width, config.epsilon, **options)
        self.down = PatchConv(num_in, width, 2 if halves else 4, **options)
        self.norm_first = halves
        self.blocks = nnx.List([_Block(width, config.epsilon, **options) for _ in range(depth)])

    def __call__(self, x: Float[Array, "b y x i"]) -> Float[Array, "b v u o"]:
        x = self.down(self.norm(x)) if self.norm_first else self.norm(self.down(x))
        for block in self.blocks:
            x = block(x)
        return x


class ConvNext(nnx.Module):
    """ConvNeXt without classification head.

    Args:
        config: Sizes.
        dtype: Of the computation; parameters are float32.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: ConvNextConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        options = {"dtype": dtype, "rngs": rngs}
        widths = (3, *config.widths)
        self.stages = nnx.List(
            [
                _Stage(widths[stage], widths[stage + 1], depth, config, **options)
                for stage, depth in enumerate(config.depths)
            ]
        )
        self.norm = LayerNorm(widths[-1], config.last_epsilon, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self, pixels: Float[Array, "b y x 3"], outputs: Sequence[str] = ("pooled",)
    ) -> dict[str, Float[Array, "b _"]]:
        """Outputs by name; stages that none of them needs are not computed.

        Args:
            pixels: `[b, y, x, 3]` normalised images.
            outputs: Names, see the module's docstring.

        Returns:
            Name to `[b, width]` float32.

        Raises:
            WeightsError: An output does not exist, or the images are too small.
        """
        check_outputs(outputs, self.config.output_sizes())
        self.config.check_image_size(*pixels.shape[1:3])
        num_stages = len(self.config.depths)
        numbers = [
            num_stages if name == "pooled" else int(name.removeprefix("stage_")) for name in outputs
        ]
        x, found = pixels, {}
        for number, stage in enumerate(list(self.stages)[: max(numbers)], start=1):
            x = stage(x)
            found[f"stage_{number}"] = spatial_mean(x)
        if "pooled" in outputs:
            found["pooled"] = self.norm(found[f"stage_{num_stages}"])
        return {name: found[name] for name in outputs}


def convnext_sources(config: ConvNextConfig, tensor_names: Iterable[str]) -> dict[str, Source]:
    """Where each parameter of a `ConvNext` lies.

    In the names of Hugging Face, of the original repository, of timm or of torchvision.

    Args:
        config: Configuration of the network.
        tensor_names: Names in the checkpoint; they tell whose code wrote it.

    Returns:
        Parameter path to source.
    """
    names = _names(set(tensor_names))
    sources = norm_sources("norm", names["norm"])
    for stage, depth in enumerate(config.depths):
        target = f"stages.{stage}"
        norm, conv = names["stem"] if stage == 0 else names["down"](stage)
        sources |= norm_sources(f"{target}.norm", norm)
        sources[f"{target}.down.kernel"] = Source(f"{conv}.weight", "conv")
        sources[f"{target}.down.bias"] = Source(f"{conv}.bias")
        for index in range(depth):
            block = names["block"](stage, index)
            conv, norm, inner, outer, scale = (f"{block}.{name}" for name in names["parts"])
            ours = f"{target}.blocks.{index}"
            sources[f"{ours}.conv.kernel"] = Source(f"{conv}.weight", "conv")
            sources[f"{ours}.conv_bias"] = Source(f"{conv}.bias")
            sources |= norm_sources(f"{ours}.norm", norm)
            sources |= linear_sources(f"{ours}.inner", inner)
            sources |= linear_sources(f"{ours}.outer", outer)
            sources[f"{ours}.scale"] = Source(scale, "squeeze")
    return sources


def _names(tensor_names: set[str]) -> dict:
    if "downsample_layers.0.0.weight" in tensor_names:  # the original repository
        return {
            "norm": "norm",
            "stem": ("downsample_layers.0.1", "downsample_layers.0.0"),
            "down": lambda stage: (f"downsample_layers.{stage}.0", f"downsample_layers.{stage}.1"),
            "block": lambda stage, index: f"stages.{stage}.{index}",
            "parts": ("dwconv", "norm", "pwconv1", "pwconv2", "gamma"),
        }
    if "stem.0.weight" in tensor_names:  # timm
        return {
            "norm": "head.norm",
            "stem": ("stem.1", "stem.0"),
            "down": lambda stage: tuple(f"stages.{stage}.downsample.{part}" for part in (0, 1)),
            "block": lambda stage, index: f"stages.{stage}.blocks.{index}",
            "parts": ("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
        }
    if "features.0.0.weight" in tensor_names:  # torchvision
        return {
            "norm": "classifier.0",
            "stem": ("features.0.1", "features.0.0"),
            "down": lambda stage: (f"features.{2 * stage}.0", f"features.{2 * stage}.1"),
            "block": lambda stage, index: f"features.{2 * stage + 1}.{index}",
            "parts": ("block.0", "block.2", "block.3", "block.5", "layer_scale"),
        }
    prefix = "" if "embeddings.layernorm.weight" in tensor_names else "convnext."
    stages = f"{prefix}encoder.stages"
    return {
        "norm": f"{prefix}layernorm",
        "stem": (f"{prefix}embeddings.layernorm", f"{prefix}embeddings.patch_embeddings"),
        "down": lambda stage: tuple(f"{stages}.{stage}.downsampling_layer.{i}" for i in (0, 1)),
        "block": lambda stage, index: f"{stages}.{stage}.layers.{index}",
        "parts": ("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
    }
