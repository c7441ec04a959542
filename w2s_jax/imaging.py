"""Decoded images to upright 8-bit RGB: one rule for benchmarks and for single files.

The EXIF orientation is applied where it can be read; palettes and gray values become RGB, CMYK by
Pillow's plain formula without colour profiles; of 16-bit gray the high byte is kept, which is what
Pillow does with 16-bit colour; an alpha channel is dropped, not blended.
"""

import contextlib
import struct
import zlib
from typing import Any

import numpy as np

from w2s_jax.errors import W2SError


class ImageError(W2SError):
    """An image file cannot be decoded."""


def to_rgb(image, *, upright: bool = True):
    """An 8-bit RGB image.

    Args:
        image: A `PIL.Image.Image` of any mode.
        upright: Whether its orientation tag is applied.

    Returns:
        A `PIL.Image.Image` of mode RGB.

    Raises:
        ImageError: The image has no fixed range of values (floats, or integers beyond 16 bits).
    """
    from PIL import Image, ImageOps

    image.load()
    # Pixels are whole now; of tags that cannot be read there is nothing to apply.
    if upright:
        with contextlib.suppress(*damaged_image_errors(Image)):
            image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"gray values from {values.min()} to {values.max()} do not fit 16 bits; "
                "convert the image to 8 bits."
            )
        image = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("the range of floating point values is unknown; convert to 8 bits.")
    return image.convert("RGB")


def damaged_image_errors(pillow: Any) -> tuple[type[Exception], ...]:
    """What Pillow's readers raise on damaged files.

    Args:
        pillow: its Image module.
    """
    return (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
        struct.error,
        zlib.error,
        pillow.DecompressionBombError,
    )
