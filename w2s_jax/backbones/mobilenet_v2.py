"""MobileNetV2 (Sandler et al., CVPR 2018): sizes, and where its parameters lie."""

from collections.abc import Iterable

from w2s_jax.backbones.depthwise import Padding
from w2s_jax.backbones.inverted_residual import BlockSizes, MobileConfig, round_channels
from w2s_jax.backbones.layers import conv_norm_sources
from w2s_jax.backbones.weights import Source

# Classification heads and counters; the optimizer's state in files that Keras wrote while training.
UNUSED_TENSORS = (
    r".*\.num_batches_tracked",
    r"(classifier|classifier\.1)\.(weight|bias)",
    r"(.*/)?(dense|predictions)/.*|optimizer_weights/.*",
)

# Expansion, channels, repeats, stride of the first; the paper's table 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2_config(
    multiplier: float = 1.0, *, padding: Padding = "same", epsilon: float = 1e-3
) -> MobileConfig:
    """Sizes of a MobileNetV2.

    Args:
        multiplier: Of the channels; the last convolution never has fewer than 1280.
        padding: `same` for weights from TensorFlow (Hugging Face, Keras), `symmetric` for those of
            torchvision.
        epsilon: Of the batch normalisations: 1e-3 in the former, 1e-5 in the latter.

    Returns:
        The configuration.
    """
    blocks, num_in = [], round_channels(32 * multiplier)
    stem_width = num_in
    for expansion, channels, repeats, stride in _STAGES:
        num_out = round_channels(channels * multiplier)
        for index in range(repeats):
            step = 1 if index else stride
            blocks.append(BlockSizes(num_in, num_out, 3, step, expansion))
            num_in = num_out
    head_width = round_channels(1280 * max(multiplier, 1.0))
    return MobileConfig(stem_width, tuple(blocks), head_width, padding, epsilon)


def mobilenet_v2_sources(config: MobileConfig, tensor_names: Iterable[str]) -> dict[str, Source]:
    """Where each parameter lies, in the names of Hugging Face, torchvision or Keras.

    Args:
        config: Configuration of the network.
        tensor_names: Names in the checkpoint; they tell whose code wrote it.

    Returns:
        Parameter path to source.
    """
    tensor_names = set(tensor_names)
    keras = next((name for name in tensor_names if name.endswith("Conv1/kernel")), None)
    if keras is not None:
        return _keras_sources(config, keras.removesuffix("Conv1/kernel"))
    if "features.0.0.weight" in tensor_names:
        return _torchvision_sources(config)
    prefix = "" if "conv_1x1.convolution.weight" in tensor_names else "mobilenet_v2."

    def layer(target: str, name: str) -> dict[str, Source]:
        name = f"{prefix}{name}"
        return conv_norm_sources(target, f"{name}.convolution", f"{name}.normalization")

    sources = layer("stem", "conv_stem.first_conv") | layer("head", "conv_1x1")
    for index, block in enumerate(config.blocks):
        target, name = f"blocks.{index}", f"layer.{index - 1}" if index else "conv_stem"
        if block.expansion != 1:
            sources |= layer(f"{target}.expand", f"{name}.expand_1x1")
        sources |= layer(f"{target}.filter", f"{name}.conv_3x3")
        sources |= layer(f"{target}.project", f"{name}.reduce_1x1")
    return sources


def _torchvision_sources(config: MobileConfig) -> dict[str, Source]:
    last = f"features.{len(config.blocks) + 1}"
    sources = conv_norm_sources("stem", "features.0.0", "features.0.1")
    sources |= conv_norm_sources("head", f"{last}.0", f"{last}.1")
    for index, block in enumerate(config.blocks):
        target, name = f"blocks.{index}", f"features.{index + 1}.conv"
        parts = (["expand"] if block.expansion != 1 else []) + ["filter"]
        for position, part in enumerate(parts):
            conv, norm = f"{name}.{position}.0", f"{name}.{position}.1"
            sources |= conv_norm_sources(f"{target}.{part}", conv, norm)
        conv, norm = f"{name}.{len(parts)}", f"{name}.{len(parts) + 1}"
        sources |= conv_norm_sources(f"{target}.project", conv, norm)
    return sources


def _keras_sources(config: MobileConfig, prefix: str) -> dict[str, Source]:
    def layer(target: str, conv: str, norm: str) -> dict[str, Source]:
        layout = "depthwise" if target.endswith("filter") else "same"
        names = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
        return {f"{target}.conv.kernel": Source(f"{prefix}{conv}/kernel", layout)} | {
            f"{target}.norm.{ours}": Source(f"{prefix}{norm}/{theirs}")
            for ours, theirs in names.items()
        }

    sources = layer("stem", "Conv1", "bn_Conv1") | layer("head", "Conv_1", "Conv_1_bn")
    for index, block in enumerate(config.blocks):
        target, name = f"blocks.{index}", f"block_{index}" if index else "expanded_conv"
        parts = {"expand": "expand", "filter": "depthwise", "project": "project"}
        if block.expansion == 1:
            del parts["expand"]
        for ours, theirs in parts.items():
            sources |= layer(f"{target}.{ours}", f"{name}_{theirs}", f"{name}_{theirs}_BN")
    return sources
