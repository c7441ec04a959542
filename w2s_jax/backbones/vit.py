"""Vision transformer (Dosovitskiy et al., ICLR 2021), for CLIP, DINOv2, MAE and ImageNet models.

Names of outputs: `"cls"` and `"mean"` are the class token and the mean of the patch tokens after
the final normalisation, `"projected"` is CLIP's class token in the space it shares with texts;
`"block_3_cls"` and `"block_3_mean"` are those of the residual stream after the third block. CLIP's
pooled output is its `"cls"`; it normalises no patch token, so it has no `"mean"` but
`"block_12_mean"`.
"""

import dataclasses
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from w2s_jax.backbones.interpolation import resize_grid
from w2s_jax.backbones.layers import (
    ACTIVATIONS,
    HIGHEST,
    LayerNorm,
    Linear,
    PatchConv,
    check_outputs,
)
from w2s_jax.backbones.weights import WeightsError


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes and variants of a vision transformer.

    Attributes:
        hidden_size: Width of the residual stream.
        num_layers: Blocks.
        num_heads: Attention heads a block.
        mlp_size: Width inside the feed-forward parts.
        patch_size: Side of a patch in pixels.
        image_size: Side of the image for which the position embeddings are; they are resampled for
            other sizes.
        activation: `gelu` or `quick_gelu`.
        epsilon: Of the layer normalisations.
        clip: CLIP's form: no bias at the patches, a normalisation before the first block, and after
            the last one on the class token only.
        layer_scale: Whether every residual branch ends in one factor a channel (DINOv2).
        projection_size: Width of `"projected"`; None where there is none.
        position_offset: As `offset` in `w2s_jax.backbones.interpolation.resize_grid`.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    patch_size: int
    image_size: int = 224
    activation: str = "gelu"
    epsilon: float = 1e-6
    clip: bool = False
    layer_scale: bool = False
    projection_size: int | None = None
    position_offset: float = 0.0

    def output_sizes(self) -> dict[str, int]:
        """Name of every output to its width."""
        sizes = {"cls": self.hidden_size}
        if not self.clip:
            sizes["mean"] = self.hidden_size
        if self.projection_size is not None:
            sizes["projected"] = self.projection_size
        for number in range(1, self.num_layers + 1):
            sizes |= {f"block_{number}_{part}": self.hidden_size for part in ("cls", "mean")}
        return sizes

    def check_image_size(self, height: int, width: int) -> None:
        """Raise WeightsError where whole patches do not fill the image.

        Args:
            height: Pixels.
            width: Pixels.
        """
        if height % self.patch_size or width % self.patch_size or not height * width:
            raise WeightsError(
                f"Images of {height} x {width} pixels are not whole patches of {self.patch_size}; "
                f"use multiples of {self.patch_size}."
            )


class _Block(nnx.Module):
    """Attention and feed-forward part, each on a normalised copy of the residual stream."""

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        size = config.hidden_size
        options = {"dtype": dtype, "rngs": rngs}
        self.num_heads = config.num_heads
        self.activation = config.activation
        self.attention_norm = LayerNorm(size, config.epsilon, **options)
        self.query, self.key, self.value = (Linear(size, size, **options) for _ in range(3))
        self.attention_out = Linear(size, size, **options)
        self.norm = LayerNorm(size, config.epsilon, **options)
        self.inner = Linear(size, config.mlp_size, **options)
        self.outer = Linear(config.mlp_size, size, **options)
        scaled = config.layer_scale
        self.attention_scale = nnx.Param(jnp.ones(size)) if scaled else None
        self.scale = nnx.Param(jnp.ones(size)) if scaled else None

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        y = self.attention_norm(x)
        query, key, value = (self._heads(p(y)) for p in (self.query, self.key, self.value))
        query = query * np.asarray(query.shape[-1] ** -0.5, query.dtype)
        scores = jnp.einsum("bthe,bshe->bhts", query, key, precision=HIGHEST)
        shares = jax.nn.softmax(scores.astype(jnp.float32)).astype(value.dtype)
        mixed = jnp.einsum("bhts,bshe->bthe", shares, value, precision=HIGHEST)
        x = x + _scaled(self.attention_out(mixed.reshape(x.shape)), self.attention_scale)
        inner = ACTIVATIONS[self.activation](self.inner(self.norm(x)))
        return x + _scaled(self.outer(inner), self.scale)

    def _heads(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h e"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)


def _scaled(x: Float[Array, "b t d"], scale) -> Float[Array, "b t d"]:
    return x if scale is None else x * scale[...].astype(x.dtype)


class ViT(nnx.Module):
    """Vision transformer without classification head.

    Args:
        config: Sizes and variants.
        dtype: Of the computation; parameters are float32.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: ViTConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        size = config.hidden_size
        options = {"dtype": dtype, "rngs": rngs}
        self.config = config
        self.patches = PatchConv(3, size, config.patch_size, use_bias=not config.clip, **options)
        num_patches = (config.image_size // config.patch_size) ** 2
        table = nnx.initializers.normal(0.02)(rngs.params(), (num_patches + 1, size))
        self.positions = nnx.Param(table)
        self.cls = nnx.Param(jnp.zeros(size))
        self.first_norm = LayerNorm(size, config.epsilon, **options) if config.clip else None
        self.blocks = nnx.List([_Block(config, **options) for _ in range(config.num_layers)])
        self.last_norm = LayerNorm(size, config.epsilon, **options)
        self.projection = (
            None
            if config.projection_size is None
            else Linear(size, config.projection_size, use_bias=False, **options)
        )

    def __call__(
        self, pixels: Float[Array, "b y x 3"], outputs: Sequence[str] = ("cls",)
    ) -> dict[str, Float[Array, "b _"]]:
        """Outputs by name; blocks that none of them needs are not computed.

        Args:
            pixels: `[b, y, x, 3]` normalised images; y and x are multiples of the patch size.
            outputs: Names, see the module's docstring.

        Returns:
            Name to `[b, width]` float32.

        Raises:
            WeightsError: An output does not exist, or patches do not fill the images.
        """
        config = self.config
        check_outputs(outputs, config.output_sizes())
        config.check_image_size(*pixels.shape[1:3])
        numbers = [re.fullmatch(r"block_(\d+)_.*", name) for name in outputs]
        last = max(config.num_layers if m is None else int(m[1]) for m in numbers)
        x, found = self._embed(pixels), {}
        for number, block in enumerate(list(self.blocks)[:last], start=1):
            x = block(x)
            found[f"block_{number}_cls"] = x[:, 0]
            found[f"block_{number}_mean"] = x[:, 1:].mean(1, dtype=jnp.float32)
        if last == config.num_layers:
            x = self.last_norm(x)
            found["cls"], found["mean"] = x[:, 0], x[:, 1:].mean(1, dtype=jnp.float32)
            if self.projection is not None:
                found["projected"] = self.projection(x[:, 0])
        return {name: found[name].astype(jnp.float32) for name in outputs}

    def _embed(self, pixels: Float[Array, "b y x 3"]) -> Float[Array, "b t d"]:
        x = self.patches(pixels)
        num_images, height, width, size = x.shape
        table = self.positions[...]
        grid = resize_grid(table[1:], height, width, offset=self.config.position_offset)
        x = x.reshape(num_images, -1, size) + grid.astype(x.dtype)
        first = (self.cls[...] + table[0]).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(first, (num_images, 1, size)), x], axis=1)
        return x if self.first_norm is None else self.first_norm(x)
