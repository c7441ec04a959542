"""Any images listed in a CSV file: a path, a label, an attribute and a split for each."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.images import SPLITS, ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import path_inside, read_code, read_table

# Names of columns that occur, in the order in which they are looked for.
PATH_COLUMNS = ("filename", "img_filename", "path", "image")
LABEL_COLUMNS = ("y", "label")
ATTRIBUTE_COLUMNS = ("a", "place", "attribute")
SPLIT_COLUMNS = ("split",)
SPLIT_VALUES = {
    **{name: name for name in SPLITS},
    **{str(code): name for code, name in enumerate(SPLITS)},
    "valid": "val",
    "validation": "val",
}
# Written where a label or attribute is not known.
UNKNOWN = ("", "-1")


def read_image_csv(
    data_dir: str | os.PathLike,
    *,
    table: str = "metadata.csv",
    path_column: str | None = None,
    label_column: str | None = None,
    attribute_column: str | None = None,
    split_column: str | None = None,
    id_column: str | None = None,
    source_column: str | None = None,
    classes: Sequence[str] | None = None,
    attributes: Sequence[str] | None = None,
    minority_cells: str | None = None,
    benchmark_name: str = "image_csv",
    eta_o: float | None = None,
    pool: str = "train",
    licence: str = "unknown",
) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of images that a CSV file names.

    Labels and attributes are numbers from 0 (names "y0", "a0", ... unless given), or names (in
    alphabetical order unless given); empty or -1 where unknown.

    Args:
        data_dir: Folder that paths in the table are relative to.
        table: The CSV file, relative to `data_dir`, with a header.
        path_column: Path of the image; None looks for `filename`, `img_filename`, `path`, `image`.
        label_column: Label; None looks for `y`, `label`.
        attribute_column: Attribute; None looks for `a`, `place`, `attribute`.
        split_column: Split, as "train", "val" ("valid", "validation"), "test" or 0, 1, 2; None
            looks for `split`.
        id_column: Unique id; None takes the path.
        source_column: What several images share; None for nothing.
        classes: Names of the classes in their order.
        attributes: Names of the attributes in their order.
        minority_cells: Minority (label, attribute) cells by number, such as "0:1,1:0"; None means
            label != attribute where both have two values, and is an error otherwise.
        benchmark_name: Name of the benchmark.
        eta_o: Native minority fraction; None where there is none.
        pool: "train" or "train+val", the images that draws may take.
        licence: Of the images.

    Returns:
        The benchmark and its images in the order of the table.

    Raises:
        DatasetError: A column is missing, or a value or path cannot be used; says where.
    """
    if pool not in ("train", "train+val"):
        raise DatasetError(f"pool is {pool!r}; known: 'train', 'train+val'.")
    path = path_inside(data_dir, table)
    given = (path_column, label_column, attribute_column, split_column, id_column, source_column)
    rows = read_table(path, [column for column in given if column is not None])
    header = list(rows[0]) if rows else []
    path_column = _find(path, header, path_column, PATH_COLUMNS)
    label_column = _find(path, header, label_column, LABEL_COLUMNS)
    attribute_column = _find(path, header, attribute_column, ATTRIBUTE_COLUMNS)
    split_column = _find(path, header, split_column, SPLIT_COLUMNS)
    class_names, labels = _codes([row[label_column] for row in rows], classes, "y")
    attribute_names, codes = _codes([row[attribute_column] for row in rows], attributes, "a")
    records = []
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        label = read_code(row, label_column, labels, where)
        attribute = read_code(row, attribute_column, codes, where)
        if attribute < 0 <= label:
            raise DatasetError(f"{where} has the label {row[label_column]!r} but no attribute.")
        records.append(
            ImageRecord(
                image=path_inside(data_dir, row[path_column]),
                id=row[id_column or path_column],
                label=label,
                split=read_code(row, split_column, SPLIT_VALUES, where),
                attribute=None if attribute < 0 else attribute,
                source_id=row[source_column] if source_column else None,
            )
        )
    benchmark = ImageBenchmark(
        name=benchmark_name,
        classes=class_names,
        attributes=attribute_names,
        minority_cells=_parse_cells(minority_cells, len(class_names), len(attribute_names)),
        eta_o=eta_o,
        pool=pool,
        licence=licence,
        notes=f"listed in {Path(table).name}",
    )
    return benchmark, records


def _find(path: str, header: list[str], given: str | None, known: Sequence[str]) -> str:
    if given is not None:
        return given
    found = [column for column in known if column in header]
    if len(found) == 1:
        return found[0]
    problem = f"has the columns {', '.join(found)}" if found else f"lacks {' or '.join(known)}"
    raise DatasetError(
        f"{path} {problem}; say which column it is. Its columns are {', '.join(header) or 'none'}."
    )


def _codes(
    values: list[str], names: Sequence[str] | None, prefix: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names by code, and the code of each value that may occur."""
    unknown = dict.fromkeys(UNKNOWN, -1)
    found = sorted(set(values) - set(UNKNOWN))
    if all(re.fullmatch(r"\d{1,6}", value) for value in found):
        size = max(map(int, found), default=-1) + 1
        chosen = tuple(names or (f"{prefix}{code}" for code in range(size)))
        numbers = {value: int(value) for value in found if int(value) < len(chosen)}
        return chosen, {**numbers, **unknown}
    chosen = tuple(names or found)
    return chosen, {**{name: code for code, name in enumerate(chosen)}, **unknown}


def _parse_cells(
    text: str | None, num_classes: int, num_attributes: int
) -> tuple[tuple[bool, ...], ...]:
    if text is None:
        if (num_classes, num_attributes) != (2, 2):
            raise DatasetError(
                f"There are {num_classes} classes and {num_attributes} attributes, and minority "
                "means label != attribute only where both are two; give minority_cells, such as "
                "'0:1,1:0' (label:attribute)."
            )
        return ((False, True), (True, False))
    cells = set()
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", item)
        cell = (int(match[1]), int(match[2])) if match else (-1, -1)
        if match is None or cell[0] >= num_classes or cell[1] >= num_attributes:
            raise DatasetError(
                f"minority_cells has {item.strip()!r}, which is not label:attribute with labels "
                f"below {num_classes} and attributes below {num_attributes}."
            )
        cells.add(cell)
    return tuple(tuple((y, a) in cells for a in range(num_attributes)) for y in range(num_classes))


class ImageCsv(ImageBuilder):
    """TFDS builder of images listed in a CSV file, see `read_image_csv`."""

    READER = staticmethod(read_image_csv)
