"""Image files to arrays of 8-bit RGB, as the published processors make them.

Colour and orientation are those of `w2s_jax.imaging`. Resizing is Pillow's, on 8-bit values.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from w2s_jax.imaging import ImageError, damaged_image_errors, to_rgb

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before a network sees it.

    Attributes:
        size: Side of the square that the network gets, in pixels.
        resize: The shorter side becomes this long; None resizes both sides to `size`, whatever the
            proportions, and crops nothing.
        interpolation: `bilinear` or `bicubic`.
        mean: Of red, green, blue, on the scale from 0 to 1.
        std: By which the difference is divided.
    """

    size: int
    resize: int | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    def at_size(self, size: int) -> "Preprocessing":
        """The same for another input size; the share that is cropped away stays.

        Args:
            size: New side in pixels.

        Returns:
            The preprocessing.
        """
        resize = None if self.resize is None else round(self.resize * size / self.size)
        return dataclasses.replace(self, size=size, resize=resize)

    def describe(self) -> dict[str, Any]:
        """All settings under their names, for provenance; what a cache's key must depend on."""
        return dataclasses.asdict(self)

    def __call__(self, image) -> UInt8[np.ndarray, "y x 3"]:
        """Resize and crop an image.

        Args:
            image: A path, or a `PIL.Image.Image`.

        Returns:
            `[size, size, 3]` 8-bit RGB. Images smaller than the crop are padded with black.

        Raises:
            ImageError: The file is no complete image.
        """
        from PIL import Image

        image = to_rgb(image) if isinstance(image, Image.Image) else read_image(image)
        resample = Image.Resampling[self.interpolation.upper()]
        if self.resize is None:
            return np.asarray(image.resize((self.size, self.size), resample))
        width, height = image.size
        short = min(width, height)
        # The longer side is cut to whole pixels, not rounded, as the published processors do.
        width, height = (
            self.resize if side == short else int(self.resize * side / short)
            for side in (width, height)
        )
        return _center_crop(np.asarray(image.resize((width, height), resample)), self.size)

    def normalise(self, pixels: UInt8[np.ndarray, "*b y x 3"]) -> Float[np.ndarray, "*b y x 3"]:
        """(pixels / 255 - mean) / std in float32, on numpy or JAX arrays.

        Args:
            pixels: `[..., y, x, 3]` 8-bit RGB.

        Returns:
            `[..., y, x, 3]` float32.
        """
        scale = 1 / (255 * np.asarray(self.std))
        shift = -np.asarray(self.mean) / np.asarray(self.std)
        return pixels.astype(np.float32) * np.float32(scale) + np.float32(shift)


def read_image(path: str | Path):
    """Decode an image file completely.

    Args:
        path: The file.

    Returns:
        A `PIL.Image.Image` of mode RGB.

    Raises:
        ImageError: The file does not exist, is truncated, corrupt, too large or no image.
    """
    image_module = _pillow()
    try:
        with image_module.open(path) as image:
            image.load()
            return to_rgb(image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except damaged_image_errors(image_module) as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be decoded"
        raise ImageError(
            f"Image {path} {what} ({type(error).__name__}: {error}); copy it again or leave it out."
        ) from error


def _center_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle, `[size, size, 3]`; black around images that are smaller."""
    missing = [max(size - n, 0) for n in pixels.shape[:2]]
    if any(missing):
        before = [-(-n // 2) for n in missing]
        pads = [(b, n - b) for b, n in zip(before, missing, strict=True)]
        pixels = np.pad(pixels, [*pads, (0, 0)])
    top, left = ((n - size) // 2 for n in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageError("Reading images needs Pillow: pip install 'w2s_jax[images]'.") from error
    return Image
