"""Residual networks (He et al., CVPR 2016), batch normalisation in inference form.

Names of outputs: `"stage_1"` … `"stage_4"` are the means over the image after each stage;
`"pooled"` is that of the last.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from w2s_jax.backbones.layers import ConvNorm, check_outputs, conv_norm_sources, spatial_mean
from w2s_jax.backbones.weights import Source, WeightsError

# Classification heads and counters.
UNUSED_TENSORS = (r".*\.num_batches_tracked", r"(classifier\.1|fc)\..*")


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a residual network.

    Attributes:
        depths: Blocks a stage.
        widths: Channels after each stage.
        bottleneck: Whether blocks are 1x1, 3x3, 1x1 convolutions with a quarter of the channels
            inside (ResNet50), or two 3x3 convolutions (ResNet18).
        stem_width: Channels of the first convolution.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    stem_width: int = 64

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
        if min(height, width) < 1:
            raise WeightsError(f"Images of {height} x {width} pixels are empty.")


class _Block(nnx.Module):
    """Two or three convolutions beside a shortcut; the stride lies in the (first) 3x3 one."""

    def __init__(self, num_in: int, num_out: int, stride: int, *, bottleneck: bool, **options):
        inside = num_out // 4 if bottleneck else num_out
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        widths = (num_in, *(inside for _ in sizes[1:]), num_out)
        strided = sizes.index(3)
        self.convs = nnx.List(
            [
                ConvNorm(
                    widths[index],
                    widths[index + 1],
                    size,
                    stride=stride if index == strided else 1,
                    activation="none" if index == len(sizes) - 1 else "relu",
                    **options,
                )
                for index, size in enumerate(sizes)
            ]
        )
        self.shortcut = (
            None
            if stride == 1 and num_in == num_out
            else ConvNorm(num_in, num_out, 1, stride=stride, activation="none", **options)
        )

    def __call__(self, x: Float[Array, "b y x i"]) -> Float[Array, "b v u o"]:
        y = x
        for conv in self.convs:
            y = conv(y)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """Residual network without classification head.

    Args:
        config: Sizes.
        dtype: Of the computation; parameters are float32.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: ResNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        options = {"epsilon": 1e-5, "dtype": dtype, "rngs": rngs}
        self.config = config
        self.stem = ConvNorm(3, config.stem_width, 7, stride=2, activation="relu", **options)
        num_in, stages = config.stem_width, []
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(
                    _Block(num_in, width, stride, bottleneck=config.bottleneck, **options)
                )
                num_in = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

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
            WeightsError: An output does not exist.
        """
        check_outputs(outputs, self.config.output_sizes())
        num_stages = len(self.config.depths)
        names = {name: f"stage_{num_stages}" if name == "pooled" else name for name in outputs}
        last = max(int(name.removeprefix("stage_")) for name in names.values())
        x = _max_pool(self.stem(pixels))
        found = {}
        for number, blocks in enumerate(list(self.stages)[:last], start=1):
            for block in blocks:
                x = block(x)
            found[f"stage_{number}"] = spatial_mean(x)
        return {name: found[source] for name, source in names.items()}


def _max_pool(x: Float[Array, "b y x c"]) -> Float[Array, "b v u c"]:
    """Largest value of every 3x3 window, with steps of 2 and one pixel of border."""
    window, steps, border = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, steps, border)


def resnet_sources(config: ResNetConfig, tensor_names: Iterable[str]) -> dict[str, Source]:
    """Where each parameter of a `ResNet` lies, in Hugging Face's or torchvision's (timm's) names.

    Args:
        config: Configuration of the network.
        tensor_names: Names in the checkpoint; they tell whose code wrote it.

    Returns:
        Parameter path to source.
    """
    tensor_names = set(tensor_names)
    torchvision = "conv1.weight" in tensor_names
    bare = "embedder.embedder.convolution.weight" in tensor_names
    prefix = "" if bare else "resnet."

    def hugging_face(target: str, name: str) -> dict[str, Source]:
        name = f"{prefix}{name}"
        return conv_norm_sources(target, f"{name}.convolution", f"{name}.normalization")

    sources = (
        conv_norm_sources("stem", "conv1", "bn1")
        if torchvision
        else hugging_face("stem", "embedder.embedder")
    )
    num_convs = 3 if config.bottleneck else 2
    num_in = config.stem_width
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        for index in range(depth):
            target = f"stages.{stage}.{index}"
            theirs = (
                f"layer{stage + 1}.{index}"
                if torchvision
                else f"encoder.stages.{stage}.layers.{index}"
            )
            for conv in range(num_convs):
                sources |= (
                    conv_norm_sources(
                        f"{target}.convs.{conv}",
                        f"{theirs}.conv{conv + 1}",
                        f"{theirs}.bn{conv + 1}",
                    )
                    if torchvision
                    else hugging_face(f"{target}.convs.{conv}", f"{theirs}.layer.{conv}")
                )
            if index == 0 and (stage or num_in != width):
                down, shortcut = f"{theirs}.downsample", f"{target}.shortcut"
                sources |= (
                    conv_norm_sources(shortcut, f"{down}.0", f"{down}.1")
                    if torchvision
                    else hugging_face(shortcut, f"{theirs}.shortcut")
                )
            num_in = width
    return sources
