"""Reading and decoding images with Pillow, and finding those that are missing or damaged."""

import io
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.images import ImageRecord, StoredImage
from w2s_jax.imaging import damaged_image_errors, to_rgb

# Bad images that an error or a warning names, the others are counted.
NAMED_BAD_IMAGES = 5

OnBadImage = Literal["error", "skip"]

_log = logging.getLogger(__name__)


def load_pillow() -> Any:
    """Pillow's Image module.

    Raises:
        DatasetError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DatasetError(
            "Images are decoded by Pillow, which is not installed; run `pip install "
            "'w2s_jax[images]'`."
        ) from None
    return Image


def decode_image(content: bytes, where: str, *, upright: bool = True) -> np.ndarray:
    """An encoded image as RGB, by the rule of `w2s_jax.imaging`.

    Args:
        content: A file that Pillow reads.
        where: Name of the image for errors.
        upright: Whether an orientation tag is applied; False leaves pixels where they are stored.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DatasetError: The content is damaged or no image, or Pillow is not installed.
    """
    problem, image = _try_decode(content, lambda image: np.asarray(to_rgb(image, upright=upright)))
    if image is None:
        raise DatasetError(f"{where} cannot be decoded ({problem}); copy or download it again.")
    return image


def encode_png(image: np.ndarray) -> bytes:
    """An image uint8 [H, W, 3] as PNG, without loss."""
    stream = io.BytesIO()
    load_pillow().fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def read_content(image: str | bytes | StoredImage) -> bytes:
    """Encoded content of a record's image, as it stands in its file; PNG of a stored array.

    Raises:
        DatasetError: The file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, str):
        return encode_png(image.load())
    try:
        with open(image, "rb") as file:
            return file.read()
    except OSError as error:
        raise DatasetError(f"{image} cannot be read ({error.strerror or error}).") from None


def check_images(
    records: Sequence[ImageRecord],
    on_bad_image: OnBadImage = "error",
    *,
    num_threads: int | None = None,
) -> tuple[list[ImageRecord], list[str]]:
    """Reads and decodes every image once; those that cannot be are an error or left out.

    JPEGs are decoded at the smallest scale that their format offers: all of the file is
    still read, at about a third of the time.

    Args:
        records: The images.
        on_bad_image: "error", or "skip" to leave out bad images with a warning.
        num_threads: Images decoded at a time; default the number of cores.

    Returns:
        The good records in their order, and "id: what is wrong" of each bad one.

    Raises:
        DatasetError: Some images are missing or damaged; names the first and counts all.
    """
    if on_bad_image not in ("error", "skip"):
        raise DatasetError(f"on_bad_image is {on_bad_image!r}; known: 'error', 'skip'.")
    load_pillow()
    with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
        problems = list(pool.map(lambda record: _problem(record.image), records))
    bad = [f"{r.id}: {p}" for r, p in zip(records, problems, strict=True) if p]
    if bad:
        rest = len(bad) - NAMED_BAD_IMAGES
        text = (
            f"{len(bad)} of {len(records)} images are missing or damaged: "
            + "; ".join(bad[:NAMED_BAD_IMAGES])
            + (f"; and {rest} more" if rest > 0 else "")
        )
        if on_bad_image == "error":
            raise DatasetError(f"{text}. Repair them, or leave them out with on_bad_image='skip'.")
        _log.warning("%s. They are left out.", text)
    return [r for r, p in zip(records, problems, strict=True) if not p], bad


def _problem(image: str | bytes | StoredImage) -> str:
    if isinstance(image, str) and not os.path.isfile(image):
        return "there is no such file"
    try:
        if not isinstance(image, str | bytes):
            image.load()
            return ""
        content = read_content(image)
    except DatasetError as error:
        return str(error)
    return _try_decode(content, _decode_small)[0]


def _decode_small(image: Any) -> np.ndarray:
    image.draft("RGB", (1, 1))
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        to_rgb(image)  # whose range of values may be unknown
    return np.empty(0)


def _try_decode(
    content: bytes, decode: Callable[[Any], np.ndarray]
) -> tuple[str, np.ndarray | None]:
    """What is wrong with an image, or "" and what `decode` makes of it."""
    pillow = load_pillow()
    if not content:
        return "the file is empty", None
    try:
        with pillow.open(io.BytesIO(content)) as image:
            return "", decode(image)
    except damaged_image_errors(pillow) as error:
        if type(error).__name__ == "UnidentifiedImageError":
            return "no image format that Pillow knows", None
        return str(error) or type(error).__name__, None
