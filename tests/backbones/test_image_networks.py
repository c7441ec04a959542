import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from published import PROBES, parameters, random_checkpoint

from w2s_jax.backbones import registry
from w2s_jax.backbones.convnext import ConvNextConfig
from w2s_jax.backbones.efficientnet_lite import efficientnet_lite_config
from w2s_jax.backbones.loading import build_network
from w2s_jax.backbones.mobilenet_v2 import mobilenet_v2_config
from w2s_jax.backbones.registry import BACKBONES, find_spec
from w2s_jax.backbones.resnet import ResNetConfig
from w2s_jax.backbones.vit import ViTConfig
from w2s_jax.backbones.weights import WeightsError


def first_blocks(config):
    """Four blocks and a narrow head: every kind of block, quickly compiled."""
    return dataclasses.replace(config, blocks=config.blocks[:4], head_width=32)


CLIP = ViTConfig(24, 2, 3, 40, 8, 32, "quick_gelu", 1e-5, clip=True, projection_size=10)
DINOV2 = ViTConfig(24, 2, 3, 40, 8, 32, layer_scale=True)
PLAIN = ViTConfig(24, 2, 3, 40, 8, 32)
SMALL = {
    "clip": (registry._VIT, CLIP, ("hugging_face", "openai")),
    "dinov2": (registry._VIT, DINOV2, ("hugging_face", "timm")),
    "vit": (registry._VIT, PLAIN, ("hugging_face", "timm")),
    "resnet_basic": (
        registry._RESNET,
        ResNetConfig((1, 2), (8, 16), bottleneck=False, stem_width=8),
        ("hugging_face", "torchvision"),
    ),
    "resnet_bottleneck": (
        registry._RESNET,
        ResNetConfig((1, 2), (16, 32), bottleneck=True, stem_width=8),
        ("hugging_face", "torchvision"),
    ),
    "convnext": (
        registry._CONVNEXT,
        ConvNextConfig((1, 2), (8, 16)),
        ("hugging_face", "timm", "original", "torchvision"),
    ),
    "mobilenet": (
        registry._MOBILENET,
        first_blocks(mobilenet_v2_config(0.25)),
        ("hugging_face", "torchvision", "keras"),
    ),
    "lite": (
        registry._LITE,
        first_blocks(efficientnet_lite_config(0.25, 0.5)),
        ("hugging_face",),
    ),
}
CASES = [(name, naming) for name, (_, _, namings) in SMALL.items() for naming in namings]

# Trained parameters without the classification head, from the papers' code: 22,050,664 - 385,000
# for ViT-S/16 and so on; DINOv2's mask token (1024) is left out.
PUBLISHED_SIZES = {
    "resnet18": 11_176_512,
    "resnet50": 23_508_032,
    "convnext_tiny": 27_820_128,
    "convnext_large": 196_230_336,
    "vit_s16": 21_665_664,
    "mae_vit_b16": 85_798_656,
    "clip_vit_b32": 87_849_216,
    "dinov2_vitl14": 304_368_640 - 1024,
    "mobilenet_v2": 2_223_872,
    "efficientnet_lite0": 3_371_008,
    "efficientnet_lite2": 4_811_072,
}


def images(height=64, width=48, num_images=2, seed=0):
    shape = (num_images, height, width, 3)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(name, naming="hugging_face", dtype=jnp.float32):
    architecture, config, _ = SMALL[name]
    checkpoint, expected = random_checkpoint(architecture, config, naming)
    spec = dataclasses.replace(BACKBONES["resnet18"], architecture=architecture, config=config)
    return build_network(spec, checkpoint, dtype), expected


def run(network, pixels, outputs):
    return jax.jit(lambda x: network(x, outputs))(pixels)


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_number_of_parameters(name):
    spec = find_spec(name)
    trained = nnx.state(
        nnx.eval_shape(lambda: spec.architecture.network(spec.config, rngs=nnx.Rngs(0))), nnx.Param
    )
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained)) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize(
    "name",
    ["clip_vit_b32", "dinov2_vits14", "mae_vit_b16", "resnet18", "resnet50", "convnext_tiny"]
    + ["mobilenet_v2_dogs", "efficientnet_lite2"],
)
def test_every_output_of_every_backbone_has_its_size(name):
    spec = find_spec(name)
    sizes = spec.output_sizes()
    assert spec.output in sizes
    side = spec.preprocessing.size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    found = nnx.eval_shape(
        lambda x: spec.architecture.network(spec.config, rngs=nnx.Rngs(0))(x, tuple(sizes)), pixels
    )
    assert {key: value.shape for key, value in found.items()} == {
        key: (1, size) for key, size in sizes.items()
    }


@pytest.mark.parametrize(("name", "naming"), CASES)
def test_every_tensor_lands_where_it_belongs(name, naming):
    network, expected = build(name, naming)
    flat = nnx.to_flat_state(nnx.state(network))
    found = {".".join(map(str, path)): leaf for path, leaf in zip(flat.paths, flat.leaves)}  # noqa: B905
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value)


NAMES = {
    ("clip", "hugging_face"): {
        "vision_model.embeddings.position_embedding.weight": (17, 24),
        "vision_model.pre_layrnorm.weight": (24,),
        "vision_model.encoder.layers.1.self_attn.q_proj.weight": (24, 24),
        "vision_model.encoder.layers.1.mlp.fc1.weight": (40, 24),
        "visual_projection.weight": (10, 24),
    },
    ("clip", "openai"): {
        "visual.conv1.weight": (24, 3, 8, 8),
        "visual.transformer.resblocks.1.attn.in_proj_weight": (72, 24),
        "visual.transformer.resblocks.1.attn.in_proj_bias": (72,),
        "visual.transformer.resblocks.1.mlp.c_proj.weight": (24, 40),
        "visual.ln_post.bias": (24,),
        "visual.proj": (24, 10),
    },
    ("dinov2", "hugging_face"): {
        "embeddings.patch_embeddings.projection.weight": (24, 3, 8, 8),
        "encoder.layer.1.attention.attention.value.bias": (24,),
        "encoder.layer.1.layer_scale2.lambda1": (24,),
        "layernorm.weight": (24,),
    },
    ("dinov2", "timm"): {
        "patch_embed.proj.bias": (24,),
        "blocks.1.attn.qkv.weight": (72, 24),
        "blocks.1.ls1.gamma": (24,),
        "norm.weight": (24,),
    },
    ("vit", "hugging_face"): {
        "encoder.layer.1.layernorm_before.weight": (24,),
        "encoder.layer.1.intermediate.dense.weight": (40, 24),
        "encoder.layer.1.output.dense.weight": (24, 40),
    },
    ("resnet_basic", "hugging_face"): {
        "resnet.embedder.embedder.convolution.weight": (8, 3, 7, 7),
        "resnet.encoder.stages.1.layers.0.shortcut.normalization.running_var": (16,),
        "resnet.encoder.stages.1.layers.1.layer.1.convolution.weight": (16, 16, 3, 3),
    },
    ("resnet_bottleneck", "torchvision"): {
        "conv1.weight": (8, 3, 7, 7),
        "bn1.running_mean": (8,),
        "layer1.0.downsample.0.weight": (16, 8, 1, 1),
        "layer2.1.conv3.weight": (32, 8, 1, 1),
        "layer2.1.bn3.running_var": (32,),
    },
    ("convnext", "hugging_face"): {
        "convnext.embeddings.patch_embeddings.weight": (8, 3, 4, 4),
        "convnext.encoder.stages.1.downsampling_layer.1.weight": (16, 8, 2, 2),
        "convnext.encoder.stages.1.layers.1.dwconv.weight": (16, 1, 7, 7),
        "convnext.encoder.stages.1.layers.1.layer_scale_parameter": (16,),
    },
    ("convnext", "original"): {
        "downsample_layers.1.1.weight": (16, 8, 2, 2),
        "stages.1.1.pwconv1.weight": (64, 16),
        "stages.1.1.gamma": (16,),
    },
    ("convnext", "timm"): {
        "stem.1.weight": (8,),
        "stages.1.downsample.0.weight": (8,),
        "stages.1.blocks.1.conv_dw.bias": (16,),
        "head.norm.weight": (16,),
    },
    ("convnext", "torchvision"): {
        "features.2.1.weight": (16, 8, 2, 2),
        "features.3.1.block.3.weight": (64, 16),
        "classifier.0.bias": (16,),
    },
    ("mobilenet", "hugging_face"): {
        "mobilenet_v2.conv_stem.conv_3x3.convolution.weight": (8, 1, 3, 3),
        "mobilenet_v2.layer.2.expand_1x1.convolution.weight": (48, 8, 1, 1),
        "mobilenet_v2.conv_1x1.normalization.running_mean": (32,),
    },
    ("mobilenet", "torchvision"): {
        "features.1.conv.0.0.weight": (8, 1, 3, 3),
        "features.1.conv.1.weight": (8, 8, 1, 1),
        "features.4.conv.2.weight": (8, 48, 1, 1),
        "features.5.1.running_var": (32,),
    },
    ("mobilenet", "keras"): {
        "model/expanded_conv_depthwise/kernel": (3, 3, 8, 1),
        "model/block_3_project_BN/moving_variance": (8,),
        "model/Conv_1_bn/gamma": (32,),
    },
    ("lite", "hugging_face"): {
        "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
        "_blocks.1._bn0.running_var": (48,),
        "_blocks.2._depthwise_conv.weight": (48, 1, 5, 5),
    },
}


@pytest.mark.parametrize(("name", "naming"), NAMES)
def test_published_names_and_shapes(name, naming):
    architecture, config, _ = SMALL[name]
    tensors = random_checkpoint(architecture, config, naming)[0].tensors
    found = {key: tensors[key].shape for key in NAMES[name, naming] if key in tensors}
    squeezed = {key: tuple(n for n in shape if n > 1) for key, shape in found.items()}
    expected = NAMES[name, naming]
    assert squeezed == {key: tuple(n for n in s if n > 1) for key, s in expected.items()}


@pytest.mark.parametrize("name", SMALL)
def test_neither_neighbours_nor_other_outputs_nor_precision_matter(name):
    network, _ = build(name)
    sizes = SMALL[name][1].output_sizes()
    pixels = images()
    together = run(network, pixels, tuple(sizes))
    assert {key: value.shape[1] for key, value in together.items()} == sizes
    first, last = list(sizes)[0], list(sizes)[-1]
    alone = {key: run(network, pixels[1:], (key,)) for key in (first, last)}
    for key, found in alone.items():
        assert set(found) == {key}
        assert found[key].dtype == jnp.float32
        scale = np.abs(together[key]).max()
        np.testing.assert_allclose(found[key][0], together[key][1], rtol=0, atol=3e-6 * scale)
    exact = alone[first][first]
    low = run(build(name, dtype=jnp.bfloat16)[0], pixels[1:], (first,))[first]
    assert low.dtype == jnp.float32
    error = np.linalg.norm(low - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 3e-2  # eight bits of mantissa, and really used


@pytest.mark.parametrize("name", SMALL)
def test_every_product_is_in_full_precision(name):
    network, _ = build(name)
    graph, state = nnx.split(network)
    key = next(iter(SMALL[name][1].output_sizes()))
    program = jax.jit(lambda s, x: nnx.merge(graph, s)(x, (key,))).lower(state, images())
    lines = program.as_text().splitlines()
    products = [line for line in lines if "dot_general" in line or "stablehlo.convolution" in line]
    assert products
    highest = ("precision = [HIGHEST, HIGHEST]", "precision_config = [#stablehlo<precision HIGHEST")
    assert all(any(mark in line for mark in highest) for line in products)


def test_position_embeddings_are_resampled():
    network, _ = build("vit")
    shifted = nnx.clone(network)
    shifted.config = dataclasses.replace(PLAIN, position_offset=0.1)
    own, other = images(32, 32), images(64, 48)
    (a, b), (c, d) = (
        [run(net, x, ("cls",))["cls"] for x in (own, other)] for net in (network, shifted)
    )
    np.testing.assert_array_equal(a, c)
    difference = np.abs(b - d).max()
    assert 1e-5 < difference < 0.2


def test_bad_requests():
    network, _ = build("clip")
    with pytest.raises(WeightsError, match="Unknown output 'pooled'; known are cls, projected, bl"):
        network(images(), ("pooled",))
    with pytest.raises(WeightsError, match="No output was asked for"):
        network(images(), ())
    with pytest.raises(WeightsError, match="Images of 60 x 64 pixels are not whole patches of 8"):
        network(images(60, 64))
    with pytest.raises(WeightsError, match="Images of 4 x 64 pixels are too small; ConvNeXt nee"):
        build("convnext")[0](images(4, 64))
    with pytest.raises(WeightsError, match="Images of 0 x 8 pixels are empty"):
        mobilenet_v2_config().check_image_size(0, 8)
    with pytest.raises(WeightsError, match="Unknown backbone 'resnet'; known are clip_vit_b32, "):
        find_spec("resnet")


@pytest.mark.parametrize("name", SMALL)
def test_defects_are_named(name):
    architecture, config, _ = SMALL[name]
    checkpoint, _ = random_checkpoint(architecture, config)
    spec = dataclasses.replace(BACKBONES["resnet18"], architecture=architecture, config=config)
    tensors = dict(checkpoint.tensors)
    missing, wrong = sorted(tensors)[0], sorted(tensors)[-1]
    del tensors[missing]
    tensors[wrong] = tensors[wrong][..., :-1]
    tensors["surprise.weight"] = np.zeros(3, np.float32)
    with pytest.raises(WeightsError) as caught:
        build_network(spec, checkpoint._replace(tensors=tensors))
    for part in (
        f"missing tensors: {missing}",
        "unexpected tensors: surprise.weight",
        f"{wrong} (",
    ):
        assert part in str(caught.value)


def test_probes_are_names_of_tensors():
    for name, naming in CASES:
        architecture, config, _ = SMALL[name]
        tensors = random_checkpoint(architecture, config, naming)[0].tensors
        assert naming == "hugging_face" or set(PROBES[naming]) & tensors.keys()


def test_batch_statistics_are_parameters_of_the_file():
    architecture, config, _ = SMALL["mobilenet"]
    paths = parameters(architecture.network, config)
    assert {path.rsplit(".", 1)[1] for path in paths} == {"kernel", "scale", "bias", "mean", "var"}
