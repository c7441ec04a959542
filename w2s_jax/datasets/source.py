"""Random access to the images of a benchmark, from its own files or prepared ones."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from w2s_jax.datasets.decoding import decode_image, read_content
from w2s_jax.datasets.images import (
    SPLITS,
    ImageBenchmark,
    ImageRecord,
    minority_of,
)

COLUMNS = ("id", "label", "attribute", "minority", "split", "source_id")


class ImageSource:
    """The images of a benchmark, training images first, then those of val and of test.

    It is picklable, and opens files when an image is read, so that worker processes can share
    the work of decoding.

    Args:
        benchmark: What the benchmark is.
        columns: As the attribute.
        skipped: As the attribute.

    Attributes:
        benchmark: What the benchmark is.
        columns: For every image without decoding it: "id" and "source_id" ("" = none) [n] str,
            "label" (-1 = unlabelled), "attribute" (-1 = none) and "minority" (-1 = unknown) [n]
            int, "split" [n] str.
        skipped: "id: what is wrong" of every image that was left out.
    """

    def __init__(
        self,
        benchmark: ImageBenchmark,
        columns: Mapping[str, np.ndarray],
        skipped: Sequence[str] = (),
    ):
        self.benchmark = benchmark
        self.columns = {name: np.asarray(columns[name]) for name in COLUMNS}
        self.skipped = tuple(skipped)

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __repr__(self) -> str:
        counts = ", ".join(f"{np.sum(self.columns['split'] == name)} {name}" for name in SPLITS)
        return f"{type(self).__name__}({self.benchmark.name!r}, {counts})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image with what is known of it.

        Args:
            index: Row number; negative ones count from the end.

        Returns:
            "image" uint8 [H, W, 3], "index" int, "id" str, "label" int, "attribute" int (-1 =
            none), "minority" int (1, 0, or -1 = unknown), "split" str and "source_id" str
            ("" = none).

        Raises:
            IndexError: There is no such row.
            DatasetError: The image cannot be read any more.
        """
        row = range(len(self))[index]
        values = {name: self.columns[name][row].item() for name in COLUMNS}
        content = self.read(row)
        if isinstance(content, bytes):
            content = decode_image(content, values["id"])
        return {"image": content, "index": row, **values}

    def read(self, index: int) -> bytes | np.ndarray:
        """Encoded content of an image, or its array where it is not stored as a file."""
        raise NotImplementedError


class FileSource(ImageSource):
    """The images of a benchmark, read from its published files.

    Args:
        benchmark: What the benchmark is.
        records: Its images, ordered by split.
        skipped: "id: what is wrong" of every image that was left out.
    """

    def __init__(
        self,
        benchmark: ImageBenchmark,
        records: Sequence[ImageRecord],
        skipped: Sequence[str] = (),
    ):
        super().__init__(benchmark, make_columns(benchmark, records), skipped)
        self._images = [record.image for record in records]

    def read(self, index: int) -> bytes | np.ndarray:
        """Encoded content of an image, or its array where it is stored in a larger file."""
        image = self._images[index]
        return read_content(image) if isinstance(image, str | bytes) else image.load()


def make_columns(
    benchmark: ImageBenchmark, records: Sequence[ImageRecord]
) -> dict[str, np.ndarray]:
    """The columns of an `ImageSource`.

    Args:
        benchmark: What the benchmark is.
        records: Its images, ordered by split.

    Returns:
        Name to array [n], see `ImageSource`.
    """
    minority = functools.partial(minority_of, benchmark)

    def codes(values) -> np.ndarray:
        return np.array([-1 if value is None else int(value) for value in values], np.int64)

    return {
        "id": np.array([record.id for record in records], str),
        "label": codes(record.label for record in records),
        "attribute": codes(record.attribute for record in records),
        "minority": codes(map(minority, records)),
        "split": np.array([record.split for record in records], str),
        "source_id": np.array([record.source_id or "" for record in records], str),
    }
