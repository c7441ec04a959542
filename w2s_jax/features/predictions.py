"""A teacher's predictions from elsewhere: any model's, or a language model's."""

import dataclasses
import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from w2s_jax.errors import FeatureError
from w2s_jax.features import checks
from w2s_jax.features.npyfile import array_checksum
from w2s_jax.features.ordering import sort_order
from w2s_jax.features.tables import (
    as_integers,
    naming,
    read_csv,
    read_header,
    read_npz,
    require_keys,
)

# Rounding to two decimals passes, percentages and logits do not.
_SUM_TOLERANCE = 0.02
_MAX_CLASSES = 10_000


@dataclass(frozen=True, eq=False)
class Predictions:
    """Class probabilities that stand in for a teacher.

    Attributes:
        name: of the teacher, as it appears in results.
        ids: [n] unicode, unique.
        probabilities: [n, c] float32, rows summing to one; one-hot where classes were given.
        fingerprint: hex sha256 of ids and probabilities.
        hard: whether classes were given; columns of higher classes may then be missing.
    """

    name: str
    ids: np.ndarray
    probabilities: np.ndarray
    fingerprint: str
    hard: bool = False

    @property
    def num_rows(self) -> int:
        """Number of rows n."""
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """Number of columns c."""
        return self.probabilities.shape[1]

    @cached_property
    def id_order(self) -> np.ndarray:
        """Indices [n] that sort the rows by id."""
        return sort_order(self.ids)

    def with_num_classes(self, num_classes: int) -> "Predictions":
        """The same predictions with one column for each of `num_classes` classes.

        Raises:
            FeatureError: there are more columns, or fewer probabilities, than classes.
        """
        missing = num_classes - self.num_classes
        if missing == 0:
            return self
        if missing < 0 or not self.hard:
            what = "predictions for" if self.hard else "probabilities of"
            raise FeatureError(
                f"teacher {self.name!r} has {what} {self.num_classes} classes, but the student's "
                f"set has {num_classes}; number the classes alike"
            )
        wider = np.pad(self.probabilities, ((0, 0), (0, missing)))
        return dataclasses.replace(self, probabilities=wider)


def load_predictions(path: str | os.PathLike[str]) -> Predictions:
    """Read a teacher's predictions from an .npz or a CSV file.

    An .npz has `ids` and either `predictions` [n], classes counted from 0, or `probabilities`
    [n, c]. A CSV has the columns `id` and either `prediction` or `probability_0`,
    `probability_1`, ... The file's name without its ending becomes the teacher's name.

    Raises:
        FeatureError: saying what is wrong with the file and what to do.
    """
    path = checks.as_path(path)
    if path.suffix == ".npz":
        arrays = read_npz(path, ("ids", "predictions", "probabilities"))
    elif path.suffix == ".csv":
        arrays = _from_csv(path)
    else:
        raise FeatureError(f"predictions come from .npz or .csv files, not from {path}")
    require_keys(path, arrays, ["ids"])
    if ("predictions" in arrays) == ("probabilities" in arrays):
        raise FeatureError(
            f"{path} has {', '.join(arrays)}; give exactly one of predictions (a class a row) and "
            "probabilities (a column a class)"
        )
    with naming(path):
        return make_predictions(**arrays, name=path.stem)


def make_predictions(
    ids: ArrayLike,
    predictions: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    *,
    name: str = "predictions",
) -> Predictions:
    """Predictions from arrays, checked.

    Args:
        ids: [n] unique strings or integers.
        predictions: [n] integers, classes counted from 0; or give
        probabilities: [n, c], not negative, rows summing to one within 0.02 (then normalised).
        name: of the teacher.

    Raises:
        FeatureError: naming the array and the first row that is wrong.

    >>> make_predictions(["a", "b"], [1, 0]).probabilities.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    if (predictions is None) == (probabilities is None):
        raise FeatureError("give exactly one of predictions and probabilities")
    if predictions is not None:
        count = len(checks.as_array("predictions", predictions).reshape(-1))
        if not count:
            raise FeatureError("predictions has 0 rows; give at least one")
        classes = checks.check_integers("predictions", predictions, count)
        if classes.min() < 0:
            row = int(np.argmin(classes))
            raise FeatureError(
                f"predictions is {classes[row]} in row {row}; leave rows without a prediction out"
            )
        if classes.max() >= _MAX_CLASSES:
            row = int(np.argmax(classes))
            raise FeatureError(
                f"predictions is {classes[row]} in row {row}, but classes are counted from 0 and "
                f"at most {_MAX_CLASSES}; number them without gaps"
            )
        matrix = np.eye(max(2, int(classes.max()) + 1), dtype=np.float32)[classes]
    elif probabilities is not None:
        matrix = _check_probabilities(checks.as_array("probabilities", probabilities))
    id_array = checks.as_array("ids", ids)
    checks.check_length("ids", id_array, len(matrix), "the predictions have")
    id_array = checks.check_ids(id_array, len(matrix))
    content = array_checksum(id_array) + array_checksum(matrix)
    return Predictions(
        name=name,
        ids=id_array,
        probabilities=matrix,
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        hard=predictions is not None,
    )


def _check_probabilities(matrix: np.ndarray) -> np.ndarray:
    if matrix.ndim != 2 or matrix.shape[0] < 1 or matrix.shape[1] < 2:
        raise FeatureError(
            f"probabilities has shape {list(matrix.shape)}, but must be [rows, classes] with two "
            "classes or more"
        )
    if matrix.dtype.kind != "f":
        raise FeatureError(
            f"probabilities has dtype {matrix.dtype}, but must be floating point; "
            "give classes as predictions instead"
        )
    matrix = matrix.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1) | (matrix < 0).any(axis=1))
    if len(bad):
        raise FeatureError(
            f"probabilities is negative, NaN or infinite in {len(bad)} rows, first in row "
            f"{bad[0]}: {matrix[bad[0]].tolist()}; give probabilities, not logits"
        )
    total = matrix.sum(axis=1)
    off = np.flatnonzero(np.abs(total - 1) > _SUM_TOLERANCE)
    if len(off):
        raise FeatureError(
            f"probabilities does not sum to one in {len(off)} rows, first in row {off[0]}: the sum "
            f"is {total[off[0]]:.6g}; normalise the rows"
        )
    return (matrix / total[:, None]).astype(np.float32)


def _from_csv(path: Path) -> dict[str, np.ndarray]:
    pattern = re.compile(r"(?:probability|prob|p)_?(\d+)")
    numbered = {}
    for column in read_header(path):
        match = pattern.fullmatch(column)
        if match:
            numbered[int(match[1])] = column
    wanted = {"ids": ("id", "ids"), "predictions": ("prediction", "predictions")}
    columns = read_csv(path, wanted | {name: (name,) for name in numbered.values()})
    if ("predictions" in columns) == bool(numbered):
        raise FeatureError(
            f"{path} has the columns {', '.join(read_header(path))}; give either prediction (a "
            "class a row) or probability_0, probability_1, ... (one a class)"
        )
    require_keys(path, [*columns] if "ids" not in columns else ["id"], ["id"], "column")
    arrays = {"ids": np.array(columns["ids"], dtype=np.str_)}
    if "predictions" in columns:
        arrays["predictions"] = as_integers(path, "prediction", columns["predictions"])
    if numbered:
        if sorted(numbered) != list(range(len(numbered))):
            raise FeatureError(
                f"{path} has probabilities of the classes {sorted(numbered)}; "
                "number the columns from 0 without a gap"
            )
        try:
            matrix = [[float(v) for v in columns[numbered[k]]] for k in sorted(numbered)]
        except ValueError as error:
            raise FeatureError(f"{path} has a probability that is no number: {error}") from None
        arrays["probabilities"] = np.array(matrix).T
    return arrays
