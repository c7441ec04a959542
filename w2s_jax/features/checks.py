"""Checks of a feature set's arrays; each returns the array in its stored form or raises."""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from w2s_jax.errors import FeatureError
from w2s_jax.features.npyfile import row_blocks
from w2s_jax.features.ordering import sort_order

SPLITS = ("train", "val", "test")
POOLS = {"train": (0,), "train+val": (0, 1)}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error, empty where nothing is close.

    >>> did_you_mean("lables", ["labels", "split"])
    " (did you mean 'labels'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path, or a FeatureError where there is none."""
    if not isinstance(path, str | os.PathLike) or not str(path):
        raise FeatureError(f"features and predictions are named by a path, found {path!r:.60}")
    return Path(path)


def as_array(name: str, values: ArrayLike) -> np.ndarray:
    """`values` as an array; FeatureError where they are ragged or masked."""
    if isinstance(values, np.memmap):
        return values  # Stays recognisable as one.
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise FeatureError(
            f"{name} has {np.ma.count_masked(values)} masked values; fill or remove them"
        )
    try:
        return np.asarray(values)
    except ValueError as error:
        raise FeatureError(
            f"{name} is not a rectangular array ({error}); give every row the same length"
        ) from None


def check_features(features: ArrayLike) -> np.ndarray:
    """Features [n, d] as float16, float32 or float64, not copied where already so."""
    array = as_array("features", features)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise FeatureError(
            f"features has dtype {array.dtype}, but must be float16, float32 or float64; "
            "convert it, for instance with features.astype('float32')"
        )
    if array.ndim != 2:
        raise FeatureError(
            f"features has {array.ndim} dimensions, shape {list(array.shape)}, but must have two, "
            "[rows, features]; flatten or pool the others"
        )
    if 0 in array.shape:
        raise FeatureError(
            f"features is empty, shape {list(array.shape)}; give at least one row and one column"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def check_finite(blocks: Iterable[np.ndarray], num_columns: int) -> None:
    """Read features block by block and refuse NaN and infinity."""
    num_nan = num_inf = start = 0
    first = -1
    for block in blocks:
        bad = ~np.isfinite(block)
        if bad.any():
            if first < 0:
                first = start + int(np.flatnonzero(bad.any(axis=1))[0])
            nan = int(np.isnan(block).sum())
            num_nan += nan
            num_inf += int(bad.sum()) - nan
        start += len(block)
    if first >= 0:
        raise FeatureError(
            f"features has {num_nan} NaN and {num_inf} infinite values among {start} x "
            f"{num_columns}, first in row {first} (counting from 0); remove or repair these rows"
        )


def check_features_finite(features: np.ndarray) -> None:
    """`check_finite` over an array that may be memory mapped and larger than memory."""
    check_finite(row_blocks(features), features.shape[1])


def check_length(name: str, array: np.ndarray, num_rows: int, other: str = "features has") -> None:
    """Refuse an array of another shape than [num_rows]."""
    if array.ndim != 1:
        raise FeatureError(
            f"{name} has shape {list(array.shape)}, but must have one dimension, one value a row"
        )
    if len(array) != num_rows:
        raise FeatureError(
            f"{name} has {len(array)} rows, but {other} {num_rows}; "
            "they must describe the same rows in the same order"
        )


def check_integers(name: str, values: ArrayLike, num_rows: int) -> np.ndarray:
    """Integers [n] as int32. Floats are refused even where whole: NaN would hide among them."""
    array = as_array(name, values)
    check_length(name, array, num_rows)
    if array.dtype.kind not in "iu":
        raise FeatureError(
            f"{name} has dtype {array.dtype}, but must be integers counted from 0; "
            f"convert it, for instance with {name}.astype(int), after mapping names to numbers"
        )
    low, high = int(array.min()), int(array.max())
    if low < -1:
        row = int(np.flatnonzero(array < -1)[0])
        raise FeatureError(
            f"{name} has the negative value {array[row]} in row {row}; "
            "count from 0, and use -1 only for unlabelled rows"
        )
    if high > np.iinfo(np.int32).max:
        raise FeatureError(f"{name} has the value {high}, which is too large; count from 0")
    return np.asarray(array, dtype=np.int32)


def check_labels(labels: ArrayLike, num_rows: int) -> tuple[np.ndarray, int]:
    """Labels [n] as int32 with -1 = unlabelled, and the number of classes (two or more)."""
    array = check_integers("labels", labels, num_rows)
    values = np.unique(array[array >= 0])
    if len(values) < 2:
        found = f"only the class {values[0]}" if len(values) else "no labelled row"
        raise FeatureError(f"labels has {found}; at least two classes are needed")
    _check_gaps("labels", values)
    return array, len(values)


def check_attributes(
    attributes: ArrayLike, labels: np.ndarray, num_attributes: int | None
) -> tuple[np.ndarray, int]:
    """Attributes [n] as int32 and their number; -1 only on unlabelled rows.

    `num_attributes`, where known from names or a table, allows values that no row has.
    """
    array = check_integers("attributes", attributes, len(labels))
    unknown = np.flatnonzero((array < 0) & (labels >= 0))
    if len(unknown):
        raise FeatureError(
            f"attributes is negative on {len(unknown)} labelled rows, first in row {unknown[0]}; "
            "-1 (unknown) is allowed only where the label is -1"
        )
    values = np.unique(array[array >= 0])
    if num_attributes is None:
        _check_gaps("attributes", values)
        return array, len(values)
    if values[-1] >= num_attributes:
        raise FeatureError(
            f"attributes has the value {values[-1]}, but attribute_names or minority_cells "
            f"describe only {num_attributes} attributes (0 to {num_attributes - 1})"
        )
    return array, num_attributes


def _check_gaps(name: str, values: np.ndarray) -> None:
    missing = np.flatnonzero(values != np.arange(len(values)))
    if len(missing):
        found = ", ".join(map(str, values[:10])) + (", ..." if len(values) > 10 else "")
        raise FeatureError(
            f"{name} has the values {found}, so {missing[0]} is missing; "
            f"number them without a gap, 0 to {len(values) - 1}"
        )


def check_split(split: ArrayLike, num_rows: int) -> np.ndarray:
    """Split [n] given by name or by code (0, 1, 2) as int8 codes into SPLITS."""
    array = as_array("split", split)
    check_length("split", array, num_rows)
    codes = np.full(num_rows, -1, np.int8)
    if array.dtype.kind in "iu":
        known = (array >= 0) & (array < len(SPLITS))
        codes[known] = array[known]
    else:
        array = as_strings("split", array, num_rows)
        for code, name in enumerate(SPLITS):
            codes[(array == name) | (array == str(code))] = code
    unknown = np.flatnonzero(codes < 0)
    if len(unknown):
        value = str(array[unknown[0]])
        raise FeatureError(
            f"split has the unknown value {value!r}{did_you_mean(value.lower(), SPLITS)} in "
            f"{len(unknown)} rows, first in row {unknown[0]}; known are train, val, test or 0, 1, 2"
        )
    return codes


def check_pool(split_sizes: Sequence[int], pool: str) -> None:
    """Refuse an unknown pool, an empty one and an empty test split."""
    if pool not in POOLS:
        raise FeatureError(
            f"pool is {pool!r}{did_you_mean(str(pool), POOLS)}; known are {', '.join(POOLS)}"
        )
    found = ", ".join(f"{size} {name}" for name, size in zip(SPLITS, split_sizes, strict=True))
    if not sum(split_sizes[code] for code in POOLS[pool]):
        raise FeatureError(
            f"the pool ({pool}) has no rows, split has {found}; mark the rows to train on as train"
        )
    if not split_sizes[2]:
        raise FeatureError(
            f"the test split has no rows, split has {found}; mark the rows to test on as test"
        )


def check_test_labels(labels: np.ndarray, split: np.ndarray) -> None:
    """Refuse test rows without a label: they could not be scored."""
    rows = np.flatnonzero((split == 2) & (labels < 0))
    if len(rows):
        raise FeatureError(
            f"labels is -1 (unlabelled) on {len(rows)} test rows, first in row {rows[0]}; "
            "remove these rows or mark them as train"
        )


def as_strings(name: str, values: ArrayLike, num_rows: int) -> np.ndarray:
    """Strings, bytes (UTF-8) or integers [n] as unicode of the smallest width that holds them."""
    array = as_array(name, values)
    check_length(name, array, num_rows)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array):
        array = np.array(array.tolist(), dtype=np.str_)
    elif array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise FeatureError(f"{name} is not UTF-8: {error}; encode it again") from None
    if array.dtype.kind not in "iuUT":
        raise FeatureError(
            f"{name} has dtype {array.dtype}, but must be strings or integers; "
            f"convert it, for instance with {name}.astype(str)"
        )
    array = np.asarray(array, dtype=np.str_)
    width = max(1, int(np.strings.str_len(array).max()))
    return np.asarray(array, dtype=f"=U{width}")


def check_ids(ids: ArrayLike, num_rows: int) -> np.ndarray:
    """Ids [n] as unicode: not empty, no two alike."""
    array = as_strings("ids", ids, num_rows)
    _check_not_empty("ids", array)
    ordered = array[sort_order(array)]
    repeats = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(repeats):
        twin = ordered[repeats[0]]
        rows = np.flatnonzero(array == twin)
        raise FeatureError(
            f"ids has {len(repeats)} duplicates, for instance {str(twin)!r} in rows {rows[0]} and "
            f"{rows[1]}; give every row an id of its own"
        )
    return array


def check_source_ids(source_ids: ArrayLike, num_rows: int) -> np.ndarray:
    """Source ids [n] as unicode, not empty."""
    array = as_strings("source_id", source_ids, num_rows)
    _check_not_empty("source_id", array)
    return array


def check_shared_sources(source_ids: np.ndarray, split: np.ndarray, pool: str) -> None:
    """Refuse sources with rows both in the pool and in the test split."""
    in_pool = np.isin(split, POOLS[pool])
    shared = np.intersect1d(source_ids[in_pool], source_ids[split == 2])
    if len(shared):
        raise FeatureError(
            f"{len(shared)} sources have rows both in the pool ({pool}) and in the test split, "
            f"for instance source_id {str(shared[0])!r}; put all rows of a source in one split"
        )


def _check_not_empty(name: str, array: np.ndarray) -> None:
    empty = np.flatnonzero(array == "")
    if len(empty):
        raise FeatureError(
            f"{name} is empty in {len(empty)} rows, first in row {empty[0]}; fill them in"
        )


def check_names(
    kind: str, names: Sequence[str] | None, number: int, prefix: str
) -> tuple[str, ...]:
    """Names of classes or attributes, distinct, one for each; default prefix + number."""
    if names is None or len(names) == 0:
        return tuple(f"{prefix}{i}" for i in range(number))
    result = tuple(str(name) for name in names)
    if len(result) != number:
        raise FeatureError(
            f"{kind} has {len(result)} names ({', '.join(result[:10])}), but there are {number} "
            "in the data; give one name for each"
        )
    if len(set(result)) < len(result):
        raise FeatureError(f"{kind} repeats a name: {', '.join(result[:10])}; make them distinct")
    return result


def check_eta_o(eta_o: float) -> float:
    """A minority fraction in [0, 1]."""
    try:
        value = float(eta_o)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value <= 1:
        raise FeatureError(f"eta_o is {eta_o!r}, but must be a fraction between 0 and 1")
    return value
