"""Objects of a COCO instance annotation file and their masks, without pycocotools."""

import dataclasses
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.decoding import load_pillow


@dataclasses.dataclass(frozen=True)
class CocoObject:
    """One annotated object.

    Attributes:
        id: Of the annotation.
        image_id: Of the photograph.
        file_name: Of the photograph, as annotated.
        height: Of the photograph, pixels.
        width: Of the photograph, pixels.
        category: Name of the object's category.
        area: Of the mask, as annotated, square pixels.
        segmentation: Polygons, or a run-length encoding, as annotated.
    """

    id: int
    image_id: int
    file_name: str
    height: int
    width: int
    category: str
    area: float
    segmentation: Any

    def mask(self) -> np.ndarray:
        """The object's pixels, bool [height, width].

        Raises:
            DatasetError: The segmentation is malformed.
        """
        try:
            return decode_segmentation(self.segmentation, self.height, self.width)
        except DatasetError as error:
            raise DatasetError(f"Annotation {self.id}: {error}") from None


def read_objects(path: str | os.PathLike, categories: Collection[str]) -> list[CocoObject]:
    """Objects of some categories, crowds left out.

    Args:
        path: A file such as `instances_train2017.json`.
        categories: Names of categories.

    Returns:
        The objects in the order of the file.

    Raises:
        DatasetError: The file is malformed, or has no such category.
    """
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        images = {entry["id"]: entry for entry in content["images"]}
        unknown = sorted(set(categories) - set(names.values()))
        if unknown:
            raise DatasetError(
                f"{where} has no categories {', '.join(unknown)}; it has "
                f"{', '.join(sorted(names.values()))}."
            )
        return [
            _read_object(entry, images[entry["image_id"]], names[entry["category_id"]])
            for entry in content["annotations"]
            if names[entry["category_id"]] in categories and not entry.get("iscrowd", 0)
        ]
    except OSError as error:
        raise DatasetError(f"{where} cannot be read ({error.strerror or error}).") from None
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"{where} is no file of COCO instance annotations ({type(error).__name__}: {error})."
        ) from None


def _read_object(entry: Mapping[str, Any], image: Mapping[str, Any], category: str) -> CocoObject:
    return CocoObject(
        id=int(entry["id"]),
        image_id=int(image["id"]),
        file_name=image["file_name"],
        height=int(image["height"]),
        width=int(image["width"]),
        category=category,
        area=float(entry["area"]),
        segmentation=entry["segmentation"],
    )


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A mask from COCO's polygons or run-length encodings.

    Polygons are filled by Pillow: pixels on their border may differ from pycocotools'.

    Args:
        segmentation: List of polygons [x, y, x, y, ...], or {"size": [H, W], "counts": ...} with a
            list of run lengths or a compressed string.
        height: Of the photograph, pixels.
        width: Of the photograph, pixels.

    Returns:
        bool [height, width].

    Raises:
        DatasetError: It is none of these, or of another size.
    """
    if isinstance(segmentation, list) and segmentation:
        pillow = load_pillow()
        from PIL import ImageDraw

        image = pillow.new("1", (width, height))
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise DatasetError("a polygon must be a list of at least three points x, y.")
            ImageDraw.Draw(image).polygon([float(value) for value in polygon], fill=1, outline=1)
        return np.asarray(image, bool)
    if isinstance(segmentation, dict) and list(segmentation.get("size", ())) == [height, width]:
        counts = segmentation.get("counts")
        if isinstance(counts, str | bytes):
            counts = decode_counts(counts)
        return decode_runs(counts or [], height, width)
    raise DatasetError(
        f"the segmentation must be polygons or a run-length encoding of size [{height}, {width}]."
    )


def decode_runs(counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """A mask from lengths of runs down the columns, background first.

    >>> decode_runs([1, 3, 2], 2, 3).astype(int)
    array([[0, 1, 0],
           [1, 1, 0]])
    """
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or np.any(lengths < 0) or lengths.sum() != height * width:
        raise DatasetError(
            f"run lengths must be at least 0 and sum to {height} x {width} = {height * width}."
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def decode_counts(text: str | bytes) -> list[int]:
    """Run lengths from COCO's compressed string.

    A number is written five bits to a character (code 48 and up), lowest first, bit 5 saying that
    more follow and the last one's bit 4 being the sign; from the fourth on, it is the difference
    from the number two before.

    Args:
        text: The string.

    Returns:
        Lengths of runs.

    Raises:
        DatasetError: A character is none of these, or the string ends within a number.
    """
    codes = text if isinstance(text, bytes) else text.encode()
    counts: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise DatasetError(f"{chr(code)!r} does not occur in a compressed run-length encoding.")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise DatasetError("a compressed run-length encoding ends within a number.")
    return counts
