import io

import numpy as np
import pytest

from w2s_jax.backbones.preprocess import (
    CLIP,
    HALF,
    Preprocessing,
    read_image,
)
from w2s_jax.imaging import ImageError, to_rgb

Image = pytest.importorskip("PIL.Image")

CROPPED = Preprocessing(24, 32, "bicubic")
SQUEEZED = Preprocessing(24, None, "bilinear", *HALF)


def photo(width=60, height=45, seed=0):
    """A smooth random colour image."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_decoding_of_modes(tmp_path):
    rgb = photo()
    gray = rgb.convert("L")
    palette = rgb.quantize(16)
    alpha = rgb.copy()
    alpha.putalpha(gray)
    expected = {
        "rgb.png": (rgb, rgb),
        "gray.png": (gray, Image.merge("RGB", [gray] * 3)),
        "palette.png": (palette, palette.convert("RGB")),
        "alpha.png": (alpha, rgb),
        "cmyk.tiff": (rgb.convert("CMYK"), rgb.convert("CMYK").convert("RGB")),
        "bits.png": (gray.convert("1"), gray.convert("1").convert("RGB")),
    }
    for name, (image, wanted) in expected.items():
        image.save(tmp_path / name)
        found = read_image(tmp_path / name)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted), err_msg=name)


def test_sixteen_bit_gray_keeps_its_high_byte(tmp_path):
    values = np.arange(0, 65536, 37, dtype=np.uint16)[: 40 * 44].reshape(40, 44)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = np.asarray(read_image(tmp_path / "deep.png"))
    np.testing.assert_array_equal(found, np.repeat((values >> 8)[..., None], 3, axis=2))
    wide = Image.fromarray(values.astype(np.int32))
    np.testing.assert_array_equal(np.asarray(to_rgb(wide)), found)


def test_values_without_a_range(tmp_path):
    path = tmp_path / "floats.tiff"
    Image.fromarray(np.ones((4, 4), np.float32)).save(path)
    with pytest.raises(ImageError, match=r"floats\.tiff: the range of floating point values"):
        read_image(path)
    with pytest.raises(ImageError, match="gray values from 0 to 70000 do not fit 16 bits"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_orientation_is_applied(tmp_path):
    image = photo()
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    found = read_image(tmp_path / "turned.png")
    assert found.size == (45, 60)
    np.testing.assert_array_equal(np.asarray(found), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(("width", "height"), [(60, 45), (45, 60), (33, 33), (100, 10)])
def test_sizes(width, height):
    image = photo(width, height)
    found = CROPPED(image)
    assert found.shape == (24, 24, 3)
    assert found.dtype == np.uint8
    short = min(width, height)
    sides = [32 if n == short else int(32 * n / short) for n in (width, height)]
    whole = np.asarray(image.resize(sides, Image.Resampling.BICUBIC))
    top, left = (sides[1] - 24) // 2, (sides[0] - 24) // 2
    np.testing.assert_array_equal(found, whole[top : top + 24, left : left + 24])
    squeezed = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(SQUEEZED(image), squeezed)


def test_images_smaller_than_the_crop_get_a_black_border():
    found = Preprocessing(9, 6, "bilinear")(photo(6, 6))
    np.testing.assert_array_equal(found[2:8, 2:8], np.asarray(photo(6, 6)))
    assert found[:2].max() == found[8:].max() == found[:, :2].max() == found[:, 8:].max() == 0


def test_normalisation():
    pixels = CROPPED(photo())
    preprocessing = Preprocessing(24, 24, "bicubic", *CLIP)
    expected = (pixels / 255 - np.array(CLIP[0])) / np.array(CLIP[1])
    found = preprocessing.normalise(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_another_size_keeps_the_share_that_is_cropped():
    assert CROPPED.at_size(48) == Preprocessing(48, 64, "bicubic")
    assert SQUEEZED.at_size(48) == Preprocessing(48, None, "bilinear", *HALF)
    assert CROPPED.describe()["resize"] == 32


def encoded(suffix):
    stream = io.BytesIO()
    photo(200, 150).save(stream, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    return stream.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, share):
    data = encoded(suffix)
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"Image .*half\.{suffix} cannot be decoded"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp"])
def test_damaged_files_give_this_error_or_an_image(tmp_path, suffix):
    data, rng, messages = encoded(suffix), np.random.default_rng(0), []
    path = tmp_path / f"damaged.{suffix}"
    for _ in range(60):
        changed = bytearray(data)
        for position in rng.integers(0, min(len(data), 400), 4):
            changed[position] = rng.integers(256)
        path.write_bytes(bytes(changed))
        try:
            assert read_image(path).mode == "RGB"
        except ImageError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match=r"Image .*no\.png does not exist"):
        read_image(tmp_path / "no.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.png cannot be decoded \(UnidentifiedImageError"):
        CROPPED(tmp_path / "text.png")
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(tmp_path)


def test_bombs_are_refused(tmp_path, monkeypatch):
    photo(300, 300).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="DecompressionBombError"):
        read_image(tmp_path / "large.png")
