import numpy as np
import pytest

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.compositing import crop_square, paste_object, unit_hash

BACKGROUND = np.full((40, 40, 3), (10, 20, 30), np.uint8)


def red_square(height=60, width=80):
    """A red box of 20 x 10 pixels, and green around it that must not be pasted."""
    image = np.full((height, width, 3), (0, 255, 0), np.uint8)
    mask = np.zeros((height, width), bool)
    mask[30:40, 50:70] = True
    image[mask] = (255, 0, 0)
    return image, mask


@pytest.mark.parametrize(
    ("position", "left", "top"), [((0, 0), 0, 0), ((1, 1), 20, 30), ((0.5, 0.5), 10, 15)]
)
def test_a_box_at_its_own_size_is_copied(position, left, top):
    found, place = paste_object(*red_square(), BACKGROUND, scale=0.5, position=position)
    assert place == (left, top, 20, 10)
    expected = BACKGROUND.copy()
    expected[top : top + 10, left : left + 20] = (255, 0, 0)
    np.testing.assert_array_equal(found, expected)
    assert (BACKGROUND == (10, 20, 30)).all()


@pytest.mark.parametrize("scale", [0.25, 0.6, 1.0])
def test_no_old_background_comes_along(scale):
    image, mask = red_square()
    y, x = np.mgrid[:60, :80]
    mask &= (y - 35) ** 2 * 4 + (x - 60) ** 2 < 100
    image[~mask] = (0, 255, 0)
    found, place = paste_object(image, mask, BACKGROUND, scale=scale)
    assert place.width == round(scale * 40)
    # Every pixel mixes red and background only.
    weight = (found[..., 0].astype(float) - 10) / 245
    np.testing.assert_allclose(found[..., 1], 20 * (1 - weight), atol=1)
    np.testing.assert_allclose(found[..., 2], 30 * (1 - weight), atol=1)
    assert 0.5 < weight.sum() / (np.pi / 4 * place.width * place.height) < 1.2


def test_translucent_masks_mix():
    image, mask = red_square()
    found, _ = paste_object(image, mask * 0.4, BACKGROUND, scale=0.5, position=(0, 0))
    np.testing.assert_allclose(found[3, 3], 0.4 * np.array([255, 0, 0]) + [6, 12, 18], atol=1)
    with pytest.raises(DatasetError, match="mask is empty"):
        paste_object(image, mask & False, BACKGROUND, scale=0.5)


def test_central_square():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 5:25] = 200
    assert (crop_square(image, 8) == 200).all()
    assert (crop_square(image.transpose(1, 0, 2), 33) == 200).all()


def test_hashes_are_fixed_and_spread():
    assert unit_hash(0, "x", 17) == pytest.approx(0.6170817228977, abs=1e-12)
    values = np.array([unit_hash(seed, "x", i) for seed in (0, 1) for i in range(2000)])
    assert abs(values.mean() - 0.5) < 0.02
    assert len(np.unique(values)) == 4000
