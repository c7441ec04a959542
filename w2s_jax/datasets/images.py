"""What every image benchmark says of itself and of each image.

A benchmark's reader turns its published layout into an `ImageBenchmark` and a list of
`ImageRecord`s without opening an image; images are checked, decoded and stored from those.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

SPLITS = ("train", "val", "test")
# A total, or a table [classes, attributes], or [classes, majority and minority] without attributes.
SplitCount = int | tuple[tuple[int, ...], ...]


class StoredImage(Protocol):
    """An image inside of a larger file; must be picklable and open that file when it loads."""

    def load(self) -> np.ndarray:
        """The image, uint8 [H, W, 3]."""
        ...


class ImageRecord(NamedTuple):
    """One image of a benchmark.

    Attributes:
        image: Path of the file, its encoded content, or a place in a larger file.
        id: Unique name, stable across machines (a path relative to the benchmark's folder).
        label: Class from 0; -1 = unlabelled.
        split: "train", "val" or "test".
        attribute: From 0; None where there is none or it is unknown.
        minority: None follows from the benchmark's minority cells, or is unknown.
        source_id: What several images share, such as a foreground; None = nothing.
    """

    image: str | bytes | StoredImage
    id: str
    label: int
    split: str
    attribute: int | None = None
    minority: bool | None = None
    source_id: str | None = None


@dataclasses.dataclass(frozen=True)
class ImageBenchmark:
    """What a benchmark is, as opened: with the options that it was opened with.

    Attributes:
        name: Short name, options that change the images included ("bffhq-0.5pct").
        classes: Name of each class.
        attributes: Name of each attribute; empty where there is none.
        minority_cells: [classes, attributes], True where (label, attribute) is minority; None
            without attributes.
        eta_o: Native minority fraction of the training split; None where there is none.
        pool: "train" or "train+val", the images that draws may take.
        licence: Terms of the images as far as they are known.
        url: Where it is published.
        citation: Whom to cite.
        checksums: Published file to "md5:..." or "sha256:...", where known.
        expected_counts: Split to its number of images, in total or by group, where known.
        notes: What a reader of results must know; options that were set.
    """

    name: str
    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    minority_cells: tuple[tuple[bool, ...], ...] | None = None
    eta_o: float | None = None
    pool: str = "train"
    licence: str = "unknown"
    url: str = ""
    citation: str = ""
    checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expected_counts: Mapping[str, SplitCount] = dataclasses.field(default_factory=dict)
    notes: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ImageBenchmark":
        """The benchmark that `to_json` wrote, after a trip through JSON or not."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: _to_tuples(value) for name, value in fields.items() if name in known})


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_to_tuples(item) for item in value)
    return {k: _to_tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def minority_of(benchmark: ImageBenchmark, record: ImageRecord) -> bool | None:
    """Whether an image is minority; None where neither record nor cells say so."""
    if record.minority is not None or benchmark.minority_cells is None:
        return record.minority
    if record.attribute is None or record.label < 0:
        return None
    return benchmark.minority_cells[record.label][record.attribute]
