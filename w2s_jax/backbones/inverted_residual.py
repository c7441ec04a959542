"""The block of MobileNetV2 (Sandler et al., CVPR 2018): widen, filter each channel, narrow."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from w2s_jax.backbones.depthwise import Padding
from w2s_jax.backbones.layers import ConvNorm, check_outputs, spatial_mean
from w2s_jax.backbones.weights import WeightsError


def round_channels(channels: float, divisor: int = 8) -> int:
    """Nearest multiple of the divisor that is not more than a tenth smaller.

    Args:
        channels: Wanted number.
        divisor: Of the result.

    Returns:
        The number of channels.

    >>> round_channels(24 * 1.1), round_channels(16 * 0.35)
    (24, 8)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


@dataclasses.dataclass(frozen=True)
class BlockSizes:
    """Sizes of one block.

    Attributes:
        num_in: Channels in.
        num_out: Channels out.
        kernel: Side of the depthwise kernel.
        stride: Its step.
        expansion: Factor by which the first convolution widens; 1 leaves it out.
    """

    num_in: int
    num_out: int
    kernel: int
    stride: int
    expansion: int


@dataclasses.dataclass(frozen=True)
class MobileConfig:
    """A network of such blocks between two convolutions.

    Attributes:
        stem_width: Channels of the first convolution.
        blocks: The blocks.
        head_width: Channels of the last convolution.
        padding: As in `w2s_jax.backbones.depthwise`: `same` in TensorFlow's models, `symmetric` in
            torchvision's.
        epsilon: Of the batch normalisations.
    """

    stem_width: int
    blocks: tuple[BlockSizes, ...]
    head_width: int
    padding: Padding = "same"
    epsilon: float = 1e-3

    def output_sizes(self) -> dict[str, int]:
        """Name of every output to its width."""
        blocks = {f"block_{n}": block.num_out for n, block in enumerate(self.blocks, start=1)}
        return {"pooled": self.head_width} | blocks

    def check_image_size(self, height: int, width: int) -> None:
        """Raise WeightsError for images without pixels.

        Args:
            height: Pixels.
            width: Pixels.
        """
        if min(height, width) < 1:
            raise WeightsError(f"Images of {height} x {width} pixels are empty.")


class InvertedResidual(nnx.Module):
    """One block; inputs are added to outputs where their shapes agree.

    Args:
        sizes: Its sizes.
        **options: As in `ConvNorm`.
    """

    def __init__(self, sizes: BlockSizes, **options):
        inside = sizes.num_in * sizes.expansion
        self.expand = (
            None
            if sizes.expansion == 1
            else ConvNorm(sizes.num_in, inside, 1, activation="relu6", **options)
        )
        self.filter = ConvNorm(
            inside,
            inside,
            sizes.kernel,
            stride=sizes.stride,
            depthwise=True,
            activation="relu6",
            **options,
        )
        self.project = ConvNorm(inside, sizes.num_out, 1, activation="none", **options)
        self.residual = sizes.stride == 1 and sizes.num_in == sizes.num_out

    def __call__(self, x: Float[Array, "b y x i"]) -> Float[Array, "b v u o"]:
        """Apply the block to images `[b, y, x, i]`."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.filter(y))
        return x + y if self.residual else y


class MobileNet(nnx.Module):
    """MobileNetV2 and EfficientNet-Lite without classification head.

    Names of outputs: `"pooled"` is the mean over the image after the last convolution, `"block_1"`
    … are those after each block, which ends in no activation.

    Args:
        config: Sizes.
        dtype: Of the computation; parameters are float32.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: MobileConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        options = {
            "padding": config.padding,
            "epsilon": config.epsilon,
            "dtype": dtype,
            "rngs": rngs,
        }
        self.config = config
        self.stem = ConvNorm(3, config.stem_width, 3, stride=2, activation="relu6", **options)
        self.blocks = nnx.List([InvertedResidual(sizes, **options) for sizes in config.blocks])
        num_in = config.blocks[-1].num_out
        self.head = ConvNorm(num_in, config.head_width, 1, activation="relu6", **options)

    def __call__(
        self, pixels: Float[Array, "b y x 3"], outputs: Sequence[str] = ("pooled",)
    ) -> dict[str, Float[Array, "b _"]]:
        """Outputs by name; blocks that none of them needs are not computed.

        Args:
            pixels: `[b, y, x, 3]` normalised images.
            outputs: Names, see the class's docstring.

        Returns:
            Name to `[b, width]` float32.

        Raises:
            WeightsError: An output does not exist.
        """
        check_outputs(outputs, self.config.output_sizes())
        num_blocks = len(self.config.blocks)
        numbers = [
            num_blocks if name == "pooled" else int(name.removeprefix("block_")) for name in outputs
        ]
        x, found = self.stem(pixels), {}
        for number, block in enumerate(list(self.blocks)[: max(numbers)], start=1):
            x = block(x)
            found[f"block_{number}"] = spatial_mean(x)
        if "pooled" in outputs:
            found["pooled"] = spatial_mean(self.head(x))
        return {name: found[name] for name in outputs}
