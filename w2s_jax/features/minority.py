"""Which rows are minority: by a [classes, attributes] table, or row by row."""

import re

import numpy as np
from numpy.typing import ArrayLike

from w2s_jax.errors import FeatureError
from w2s_jax.features.checks import as_array, check_length


def parse_minority_cells(text: str, num_classes: int, num_attributes: int) -> np.ndarray:
    """Read a table of minority cells from text, label:attribute pairs joined by commas.

    Returns:
        Bool [num_classes, num_attributes].

    Raises:
        FeatureError: a pair cannot be read or lies outside the table.

    >>> parse_minority_cells("0:1, 1:0", 2, 2)
    array([[False,  True],
           [ True, False]])
    """
    table = np.zeros((num_classes, num_attributes), bool)
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", item)
        if match is None:
            raise FeatureError(
                f"minority_cells has {item.strip()!r}, which is not label:attribute; "
                "write for instance '0:1,1:0'"
            )
        label, attribute = int(match[1]), int(match[2])
        if label >= num_classes or attribute >= num_attributes:
            raise FeatureError(
                f"minority_cells names the cell {label}:{attribute}, but labels run from 0 to "
                f"{num_classes - 1} and attributes from 0 to {num_attributes - 1}"
            )
        table[label, attribute] = True
    return table


def check_minority_cells(
    cells: ArrayLike | str | None, num_classes: int, num_attributes: int
) -> np.ndarray:
    """The table [c, a] from a bool array, from text, or (two by two only) label != attribute."""
    if cells is None:
        if (num_classes, num_attributes) != (2, 2):
            raise FeatureError(
                f"there are {num_classes} classes and {num_attributes} attributes, and minority "
                "means label != attribute only where both are two; give minority_cells, a bool "
                "table [classes, attributes] or text such as '0:1,1:0' (label:attribute)"
            )
        return ~np.eye(2, dtype=bool)
    if isinstance(cells, str):
        table = parse_minority_cells(cells, num_classes, num_attributes)
    else:
        table = _as_bool("minority_cells", as_array("minority_cells", cells))
    if table.shape != (num_classes, num_attributes):
        raise FeatureError(
            f"minority_cells has shape {list(table.shape)}, but there are {num_classes} classes "
            f"and {num_attributes} attributes; give a table [{num_classes}, {num_attributes}]"
        )
    return table


def minority_from_cells(
    cells: np.ndarray, labels: np.ndarray, attributes: np.ndarray
) -> np.ndarray:
    """Minority [n] of each row's cell, False on unlabelled rows."""
    return cells[np.maximum(labels, 0), np.maximum(attributes, 0)] & (labels >= 0)


def check_minority(minority: ArrayLike, labels: np.ndarray) -> np.ndarray:
    """Minority [n] as bool, given as bool or as 0 and 1; False on unlabelled rows."""
    array = as_array("minority", minority)
    check_length("minority", array, len(labels))
    array = _as_bool("minority", array)
    unlabelled = np.flatnonzero(array & (labels < 0))
    if len(unlabelled):
        raise FeatureError(
            f"minority is set on {len(unlabelled)} unlabelled rows, first in row {unlabelled[0]}; "
            "minority is a relation of label and attribute: set it to False there"
        )
    return array


def cells_from_minority(
    minority: np.ndarray,
    labels: np.ndarray,
    attributes: np.ndarray,
    num_classes: int,
    num_attributes: int,
) -> np.ndarray:
    """The table [c, a] that row-wise minority follows; cells without rows are majority."""
    rows = labels >= 0
    cell = labels[rows] * num_attributes + attributes[rows]
    size = num_classes * num_attributes
    count = np.bincount(cell, minlength=size)
    marked = np.bincount(cell, weights=minority[rows], minlength=size)
    mixed = np.flatnonzero((marked > 0) & (marked < count))
    if len(mixed):
        label, attribute = divmod(int(mixed[0]), num_attributes)
        raise FeatureError(
            f"minority and attributes disagree: of the {count[mixed[0]]} rows with label {label} "
            f"and attribute {attribute}, {int(marked[mixed[0]])} are marked as minority; "
            "give only one of minority and attributes, or repair them"
        )
    return (marked > 0).reshape(num_classes, num_attributes)


def _as_bool(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu" and not np.any((array != 0) & (array != 1)):
        array = array.astype(bool)
    if array.dtype.kind != "b":
        raise FeatureError(
            f"{name} has dtype {array.dtype} with values such as "
            f"{array.reshape(-1)[:3].tolist()}, but must be True and False (or 0 and 1)"
        )
    return np.asarray(array)
