"""Pasting an object on a background, and seeded choices blind to the order of files."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.decoding import load_pillow


class Placement(NamedTuple):
    """Where an object lies in its composite, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


def unit_hash(seed: int, *names: str | int) -> float:
    """Hash of a seed and names as a number in [0, 1)."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def crop_square(background: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image, resized.

    Args:
        background: uint8 [H, W, 3].
        size: Pixels of its side afterwards.

    Returns:
        uint8 [size, size, 3].
    """
    pillow = load_pillow()
    height, width, _ = background.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = pillow.fromarray(background[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), pillow.Resampling.BICUBIC))


def paste_object(
    image: np.ndarray,
    mask: np.ndarray,
    background: np.ndarray,
    *,
    scale: float,
    position: tuple[float, float] = (0.5, 0.5),
) -> tuple[np.ndarray, Placement]:
    """An object cut out of its image by a mask, resized and pasted on a background.

    Args:
        image: uint8 [H, W, 3].
        mask: bool [H, W], or float in 0 … 1 where the object is translucent.
        background: uint8 [S, S, 3].
        scale: Longer side of the object's box, as a share of S.
        position: Of the object's box within the room that is left, x and y in [0, 1].

    Returns:
        uint8 [S, S, 3] and where the object is.

    Raises:
        DatasetError: The mask is empty.
    """
    pillow: Any = load_pillow()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise DatasetError("The object's mask is empty.")
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    cut, alpha = image[box], np.asarray(mask[box], np.float32)
    size = background.shape[0]
    factor = scale * size / max(alpha.shape)
    height, width = (min(size, max(1, round(side * factor))) for side in alpha.shape)

    def resize(channel: np.ndarray) -> np.ndarray:
        return np.asarray(
            pillow.fromarray(channel).resize((width, height), pillow.Resampling.BILINEAR)
        )

    weight = resize(alpha)
    # Colours are averaged over the object alone, so that no rim of its old background comes along.
    colours = np.stack([resize(cut[..., i] * alpha) for i in range(3)], axis=-1)
    left, top = (
        round((size - side) * p) for side, p in zip((width, height), position, strict=True)
    )
    region = (slice(top, top + height), slice(left, left + width))
    result = background.astype(np.float32)
    result[region] = result[region] * (1 - weight[..., None]) + colours
    pixels = np.rint(np.clip(result, 0, 255)).astype(np.uint8)
    return pixels, Placement(left, top, width, height)
