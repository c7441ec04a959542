import io

import numpy as np
import pytest
from image_files import random_image
from PIL import Image

from w2s_jax.backbones.preprocess import read_image
from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.decoding import check_images, decode_image, encode_png, read_content
from w2s_jax.datasets.images import ImageRecord

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def encode(image, format_, **options):
    stream = io.BytesIO()
    image.save(stream, format=format_, **options)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format_", FORMATS)
def test_damaged_bytes_are_dataset_errors_or_images(format_):
    whole = encode(Image.fromarray(random_image(3, 20, 30)), format_)
    assert decode_image(whole, "x").shape == (20, 30, 3)
    rng = np.random.default_rng(0)
    for trial in range(300):
        damaged = bytearray(whole)
        for position in rng.integers(0, len(whole), 1 + trial % 4):
            damaged[position] = rng.integers(256)
        if trial % 3 == 0:
            damaged = damaged[: rng.integers(len(whole))]
        content = bytes(damaged)
        try:
            image = decode_image(content, "broken")
        except DatasetError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3


@pytest.mark.parametrize("format_", ["BMP", "JPEG", "PNG", "PPM"])
def test_a_shortened_file_is_bad_unless_its_pixels_are_complete(format_):
    image = random_image(3, 20, 30)
    whole = encode(Image.fromarray(image), format_)
    reference = decode_image(whole, "whole")
    num_bad = 0
    for size in range(len(whole)):
        record = ImageRecord(whole[:size], "a", 0, "train")
        kept, bad = check_images([record], "skip", num_threads=1)
        num_bad += len(bad)
        if kept:
            np.testing.assert_array_equal(decode_image(whole[:size], "kept"), reference)
    # The last bytes are a checksum and an end mark in PNG, padding in BMP.
    assert num_bad == len(whole) - {"PNG": 21, "BMP": 2}.get(format_, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_other_colour_modes_become_rgb(mode):
    grey = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8), (4, 3)))
    if mode == "I;16":
        content = encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG")
    elif mode in ("CMYK", "YCbCr"):
        content = encode(grey.convert("RGB").convert(mode), "TIFF")
    else:
        content = encode(grey.convert("RGB").convert(mode), "PNG")
    found = decode_image(content, mode)
    assert found.shape == (4, 6, 3)
    np.testing.assert_allclose(found, np.asarray(grey)[..., None].repeat(3, -1), atol=2)


def test_one_rule_of_orientation_for_benchmarks_and_single_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # show rotated by 90 degrees clockwise
    image = random_image(1, 8, 16)
    content = encode(Image.fromarray(image), "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(content)
    found = decode_image(content, "x")
    np.testing.assert_array_equal(found, np.rot90(image, -1))
    np.testing.assert_array_equal(found, np.asarray(read_image(tmp_path / "turned.png")))
    np.testing.assert_array_equal(decode_image(content, "x", upright=False), image)


def test_tags_that_cannot_be_read_turn_nothing():
    image = Image.fromarray(random_image(1, 8, 16))
    plain = decode_image(encode(image, "JPEG"), "x")
    content = encode(image, "JPEG", exif=b"Exif\0\0no tags at all")
    np.testing.assert_array_equal(decode_image(content, "x"), plain)


def test_values_without_a_range_are_found_before_extraction():
    content = encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(DatasetError, match="a: the range of floating point values is unknown"):
        check_images([ImageRecord(content, "a", 0, "train")])


def test_png_is_without_loss():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(image), "x"), image)
    assert read_content(b"abc") == b"abc"


def test_many_bad_images_are_counted_and_few_named():
    records = [ImageRecord(b"" if i % 2 else b"x", f"image {i}", 0, "train") for i in range(9)]
    with pytest.raises(DatasetError) as error:
        check_images(records)
    assert str(error.value).startswith("9 of 9 images are missing or damaged: image 0: no image")
    assert "image 4: " in str(error.value)
    assert "image 5: " not in str(error.value)
    assert "and 4 more" in str(error.value)


def test_a_huge_image_is_refused():
    content = bytearray(encode(Image.new("1", (8, 8)), "BMP"))
    content[18:26] = np.array([60000, 60000], "<i4").tobytes()
    with pytest.raises(DatasetError, match="exceeds limit"):
        decode_image(bytes(content), "x")
