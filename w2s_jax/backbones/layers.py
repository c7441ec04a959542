"""Layers that the image networks share: NHWC, float32 parameters, products in full precision."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from w2s_jax.backbones.depthwise import Padding, depthwise_conv, explicit_padding
from w2s_jax.backbones.weights import Source, WeightsError

HIGHEST = jax.lax.Precision.HIGHEST
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Gaussian error linear unit, exact; by erf, which is cheaper than erfc on CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5).astype(x.dtype)))


def quick_gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The sigmoid approximation of gelu that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "none": lambda x: x,
}


class Linear(nnx.Linear):
    """`nnx.Linear` in full precision."""

    def __init__(self, num_in: int, num_out: int, *, dtype: DTypeLike, rngs, use_bias: bool = True):
        super().__init__(
            num_in, num_out, use_bias=use_bias, dtype=dtype, precision=HIGHEST, rngs=rngs
        )


class LayerNorm(nnx.LayerNorm):
    """`nnx.LayerNorm` with the two-pass variance: E[x²] - E[x]² cancels in float32."""

    def __init__(self, size: int, epsilon: float, *, dtype: DTypeLike, rngs):
        super().__init__(size, epsilon=epsilon, dtype=dtype, use_fast_variance=False, rngs=rngs)


class Conv(nnx.Module):
    """Convolution without bias.

    Args:
        num_in: Channels in.
        num_out: Channels out.
        size: Height and width of the kernel.
        stride: Step in both directions.
        padding: As in `w2s_jax.backbones.depthwise`.
        depthwise: Whether each channel has its own filter; then channels in and out are equal.
        dtype: Of the computation.
        rngs: Random keys of the initial kernel.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        size: int,
        *,
        stride: int = 1,
        padding: Padding = "symmetric",
        depthwise: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, 1 if depthwise else num_in, num_out)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        self.stride, self.depthwise = stride, depthwise
        self.padding: Padding = padding
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b y x i"]) -> Float[Array, "b v u o"]:
        """Convolve images `[b, y, x, i]`."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if self.depthwise:
            return depthwise_conv(x, kernel, stride=self.stride, padding=self.padding)
        if kernel.shape[:2] == (1, 1):  # a product of matrices is faster than a convolution
            x = x[:, :: self.stride, :: self.stride]
            return jnp.dot(x, kernel[0, 0], precision=HIGHEST)
        pads = explicit_padding(x.shape[1:3], kernel.shape[0], self.stride, self.padding)
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            pads,
            dimension_numbers=_DIMENSIONS,
            precision=HIGHEST,
        )


class PatchConv(nnx.Module):
    """Convolution whose stride is its kernel's size: one product of matrices over patches.

    Rows and columns that fill no patch are left out, as a convolution leaves them out.

    Args:
        num_in: Channels in.
        num_out: Channels out.
        size: Side of a patch.
        use_bias: Whether there is a bias.
        dtype: Of the computation.
        rngs: Random keys of the initial kernel.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        size: int,
        *,
        use_bias: bool = True,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (size, size, num_in, num_out)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_out)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b y x i"]) -> Float[Array, "b v u o"]:
        """Convolve images `[b, y, x, i]`."""
        kernel = self.kernel[...].astype(self.dtype)
        size, _, num_in, num_out = kernel.shape
        height, width = x.shape[1] // size, x.shape[2] // size
        x = x[:, : height * size, : width * size].astype(self.dtype)
        x = x.reshape(-1, height, size, width, size, num_in).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, height, width, size * size * num_in)
        out = jnp.dot(x, kernel.reshape(-1, num_out), precision=HIGHEST)
        return out if self.bias is None else out + self.bias[...].astype(self.dtype)


class FrozenBatchNorm(nnx.Module):
    """Batch normalisation by stored statistics, (x - mean) · scale / √(var + epsilon) + bias.

    Args:
        size: Channels.
        epsilon: Added to the variance.
    """

    def __init__(self, size: int, epsilon: float):
        self.scale, self.var = nnx.Param(jnp.ones(size)), nnx.BatchStat(jnp.ones(size))
        self.bias, self.mean = nnx.Param(jnp.zeros(size)), nnx.BatchStat(jnp.zeros(size))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
        """Normalise the last axis."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        shift = self.bias[...] - self.mean[...] * factor
        return x * factor.astype(x.dtype) + shift.astype(x.dtype)


class ConvNorm(nnx.Module):
    """Convolution, batch normalisation, activation.

    Args:
        num_in: Channels in.
        num_out: Channels out.
        size: Height and width of the kernel.
        activation: A name of `ACTIVATIONS`.
        epsilon: Of the normalisation.
        rngs: Random keys of the initial kernel.
        **conv: As in `Conv`.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        size: int,
        *,
        activation: str,
        epsilon: float,
        rngs: nnx.Rngs,
        **conv,
    ):
        self.conv = Conv(num_in, num_out, size, rngs=rngs, **conv)
        self.norm = FrozenBatchNorm(num_out, epsilon)
        self.activation = activation

    def __call__(self, x: Float[Array, "b y x i"]) -> Float[Array, "b v u o"]:
        """Apply all three to images `[b, y, x, i]`."""
        return ACTIVATIONS[self.activation](self.norm(self.conv(x)))


def spatial_mean(x: Float[Array, "b y x c"]) -> Float[Array, "b c"]:
    """Mean over the image, in float32.

    Args:
        x: `[b, y, x, c]`.

    Returns:
        `[b, c]` float32.
    """
    return x.mean((1, 2), dtype=jnp.float32)


def check_outputs(outputs: Sequence[str], known: dict[str, int]) -> None:
    """Raise WeightsError unless there is an output and all are known.

    Args:
        outputs: Names that were asked for.
        known: Names that exist, to their widths.
    """
    unknown = [name for name in outputs if name not in known]
    if unknown or not outputs:
        what = f"Unknown output {unknown[0]!r}" if unknown else "No output was asked for"
        raise WeightsError(f"{what}; known are {', '.join(known)}.")


def norm_sources(target: str, name: str) -> dict[str, Source]:
    """Sources of a layer normalisation's `scale` and `bias`.

    Args:
        target: Path of the layer in the network.
        name: Its name in the published file.
    """
    return {f"{target}.scale": Source(f"{name}.weight"), f"{target}.bias": Source(f"{name}.bias")}


def batch_norm_sources(target: str, name: str) -> dict[str, Source]:
    """Sources of a `FrozenBatchNorm`, in torch's names.

    Args:
        target: Path of the layer in the network.
        name: Its name in the published file.
    """
    return norm_sources(target, name) | {
        f"{target}.mean": Source(f"{name}.running_mean"),
        f"{target}.var": Source(f"{name}.running_var"),
    }


def conv_norm_sources(target: str, conv: str, norm: str) -> dict[str, Source]:
    """Sources of a `ConvNorm`, in torch's names and layouts.

    Args:
        target: Path of the layer in the network.
        conv: Name of the convolution in the published file.
        norm: Name of the normalisation there.
    """
    kernel = {f"{target}.conv.kernel": Source(f"{conv}.weight", "conv")}
    return kernel | batch_norm_sources(f"{target}.norm", norm)


def linear_sources(
    target: str, name: str, *, part: tuple[int, int] | None = None
) -> dict[str, Source]:
    """Sources of a `Linear`'s `kernel` and `bias`, in torch's names and layout.

    Args:
        target: Path of the layer in the network.
        name: Its name in the published file.
        part: As in `Source`.
    """
    return {
        f"{target}.kernel": Source(f"{name}.weight", "linear", part),
        f"{target}.bias": Source(f"{name}.bias", part=part),
    }
