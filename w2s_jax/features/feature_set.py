"""FeatureSet: the features of one backbone on one benchmark, with the metadata of every row."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from w2s_jax.errors import FeatureError
from w2s_jax.features import checks
from w2s_jax.features import minority as minorities
from w2s_jax.features.checks import POOLS, SPLITS
from w2s_jax.features.npyfile import array_checksum
from w2s_jax.features.ordering import sort_order

# The arrays a cache directory may hold, by field; the optional ones are left out where None.
ARRAY_FIELDS = ("features", "labels", "minority", "split", "ids", "attributes", "source_ids")


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Frozen features of n rows with labels, groups, splits and ids; arrays are read-only.

    Make one with `make_feature_set` or `load_features`, which validate; the constructor does not.

    Attributes:
        features: [n, d] float16, float32 or float64, possibly memory mapped.
        labels: [n] int32, classes from 0; -1 = truly unlabelled.
        minority: [n] bool; False where the label is -1.
        split: [n] int8 codes into SPLITS.
        ids: [n] unicode, unique.
        attributes: [n] int32 or None; -1 = unknown, on unlabelled rows only.
        minority_cells: [c, a] bool, True where (label, attribute) is minority; None without
            attributes.
        source_ids: [n] unicode or None; rows that share one stay in one role within a draw.
        name: of the set, as it appears in results.
        backbone: network that computed the features.
        class_names: one for each class.
        attribute_names: one for each attribute, empty without attributes.
        eta_o: native minority fraction of the train split; None where there is no natural one.
        pool: "train" or "train+val", the rows that draws may take.
        provenance: free-form JSON (weights fingerprint, preprocessing, licence).
        path: cache directory or file it was loaded from.
    """

    features: np.ndarray
    labels: np.ndarray
    minority: np.ndarray
    split: np.ndarray
    ids: np.ndarray
    attributes: np.ndarray | None
    minority_cells: np.ndarray | None
    source_ids: np.ndarray | None
    name: str
    backbone: str
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    eta_o: float | None
    pool: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __repr__(self) -> str:
        return (
            f"FeatureSet({self.name!r}, {self.num_rows} rows x {self.num_features} "
            f"{self.features.dtype}, {self.num_classes} classes, {self.num_groups} groups, "
            f"pool {self.pool!r})"
        )

    @property
    def num_rows(self) -> int:
        """Number of rows n."""
        return self.features.shape[0]

    @property
    def num_features(self) -> int:
        """Number of features d."""
        return self.features.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes c."""
        return len(self.class_names)

    @property
    def num_groups(self) -> int:
        """Number of groups: every (label, attribute), or (label, minority), cell, filled or not."""
        return self.num_classes * self._group_width

    @property
    def _group_width(self) -> int:
        return 2 if self.minority_cells is None else self.minority_cells.shape[1]

    @cached_property
    def groups(self) -> np.ndarray:
        """Group index [n] int32, label-major: label * a + attribute; -1 on unlabelled rows."""
        inner = self.minority if self.attributes is None else self.attributes
        return np.where(self.labels >= 0, self.labels * self._group_width + inner, -1).astype(
            np.int32
        )

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names [g] such as "waterbird/land", or "dog/minority" without attributes."""
        inner = self.attribute_names or ("majority", "minority")
        return tuple(f"{label}/{name}" for label in self.class_names for name in inner)

    @property
    def group_labels(self) -> np.ndarray:
        """The label [g] int of each group."""
        return np.repeat(np.arange(self.num_classes), self._group_width)

    @property
    def group_minority(self) -> np.ndarray:
        """Whether each group [g] is minority, bool."""
        if self.minority_cells is None:
            return np.tile([False, True], self.num_classes)
        return self.minority_cells.reshape(-1).copy()

    @cached_property
    def pool_rows(self) -> np.ndarray:
        """Indices of the rows that draws may take, unlabelled ones included."""
        return np.flatnonzero(np.isin(self.split, POOLS[self.pool]))

    @cached_property
    def test_rows(self) -> np.ndarray:
        """Indices of the test rows."""
        return np.flatnonzero(self.split == SPLITS.index("test"))

    @cached_property
    def val_rows(self) -> np.ndarray:
        """Indices of the rows of the val split, whether in the pool or not."""
        return np.flatnonzero(self.split == SPLITS.index("val"))

    @cached_property
    def id_order(self) -> np.ndarray:
        """Indices [n] that sort the rows by id."""
        return sort_order(self.ids)

    @cached_property
    def checksums(self) -> Mapping[str, str]:
        """The sha256 of each array's file in a cache, e.g. {"features.npy": ...}.

        Taken from the manifest where loaded from a cache, otherwise computed on first use.
        """
        arrays = {name: getattr(self, name) for name in ARRAY_FIELDS}
        return {f"{k}.npy": array_checksum(v) for k, v in arrays.items() if v is not None}

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of all that draws and fits depend on: the arrays, minority table and pool.

        The same for the same content whether loaded from a cache or from arrays; names, eta_o and
        provenance do not enter. The order and the dtype of the features do.
        """
        cells = None if self.minority_cells is None else self.minority_cells.tolist()
        content = {"checksums": dict(self.checksums), "minority_cells": cells, "pool": self.pool}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def verify(self) -> None:
        """Read every file of the cache again and compare it with the manifest's checksums.

        A set that was not loaded from a cache was checked when it was made; nothing is done then.

        Raises:
            FeatureError: naming the first missing or damaged file.
        """
        from w2s_jax.features.cache import verify_cache

        if self.path is not None and not self.path.is_file():
            verify_cache(self.path)


def make_feature_set(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    attributes: ArrayLike | None = None,
    minority: ArrayLike | None = None,
    split: ArrayLike,
    ids: ArrayLike | None = None,
    source_ids: ArrayLike | None = None,
    minority_cells: ArrayLike | str | None = None,
    class_names: Sequence[str] | None = None,
    attribute_names: Sequence[str] | None = None,
    eta_o: float | None | Literal["native"] = "native",
    pool: str = "train",
    name: str = "features",
    backbone: str = "",
    provenance: Mapping[str, Any] | None = None,
    path: Path | None = None,
    check_finite: bool = True,
) -> FeatureSet:
    """Build a FeatureSet from arrays, after checking everything about them.

    Features are not copied where they already are float16, float32 or float64.

    Args:
        features: [n, d] float16, float32 or float64, finite; may be memory mapped.
        labels: [n] integers 0 ... c - 1, at least two classes; -1 = unlabelled (not in test).
        attributes: [n] integers from 0; -1 = unknown, on unlabelled rows only.
        minority: [n] bool; needed without attributes, and must agree with them where both exist.
        split: [n] "train", "val", "test" or 0, 1, 2.
        ids: [n] unique strings or integers; default the row numbers.
        source_ids: [n] strings or integers; a source may not be in the pool and in test.
        minority_cells: [c, a] bool table, or text such as "0:1,1:0" (label:attribute). Default:
            what `minority` says, or label != attribute where both have exactly two values.
        class_names: c names; default "y0", "y1", ...
        attribute_names: a names; default "a0", "a1", ...
        eta_o: native minority fraction. "native" (default) takes the minority share of the
            labelled train rows, or None where these are all minority or all majority; None
            says that the benchmark has no natural one.
        pool: "train" or "train+val".
        name: of the set, as it appears in results.
        backbone: network that computed the features.
        provenance: anything that JSON can hold.
        path: where the arrays came from.
        check_finite: False leaves the features unread, for arrays that `save_features` will read
            and check anyway.

    Raises:
        FeatureError: saying which array is wrong, what was found and what to do.

    >>> x = np.zeros((4, 3), np.float32)
    >>> s = make_feature_set(x, [0, 1, 0, 1], attributes=[0, 0, 0, 1], split=[0, 0, 0, 2])
    >>> s.minority.tolist(), s.groups.tolist(), s.group_names[1]
    ([False, True, False, False], [0, 2, 0, 3], 'y0/a1')
    """
    x = checks.check_features(features)
    n = len(x)
    y, num_classes = checks.check_labels(labels, n)
    split_codes = checks.check_split(split, n)
    checks.check_pool(np.bincount(split_codes, minlength=3).tolist(), pool)
    checks.check_test_labels(y, split_codes)

    m = None if minority is None else minorities.check_minority(minority, y)
    a = table = None
    num_attributes = 0
    if attributes is not None:
        a, num_attributes = checks.check_attributes(
            attributes, y, _num_attributes(minority_cells, attribute_names)
        )
        if m is not None and minority_cells is None:
            table = minorities.cells_from_minority(m, y, a, num_classes, num_attributes)
        else:
            table = minorities.check_minority_cells(minority_cells, num_classes, num_attributes)
        from_table = minorities.minority_from_cells(table, y, a)
        if m is not None and not np.array_equal(m, from_table):
            row = int(np.flatnonzero(m != from_table)[0])
            raise FeatureError(
                f"minority and minority_cells disagree on {int((m != from_table).sum())} rows, "
                f"first in row {row} (label {y[row]}, attribute {a[row]}); give only one of them"
            )
        m = from_table
    elif m is None:
        raise FeatureError(
            "neither attributes nor minority is given, so groups are unknown; give attributes "
            "(one integer a row) or minority (one bool a row)"
        )
    elif minority_cells is not None or (attribute_names is not None and len(attribute_names)):
        raise FeatureError(
            "minority_cells or attribute_names is given without attributes; give attributes as "
            "well, or minority alone"
        )

    id_array = checks.check_ids(np.arange(n) if ids is None else ids, n)
    sources = None
    if source_ids is not None:
        sources = checks.check_source_ids(source_ids, n)
        checks.check_shared_sources(sources, split_codes, pool)
    if eta_o == "native":
        eta_o = _native_eta(m, y, split_codes)
    elif eta_o is not None:
        eta_o = checks.check_eta_o(eta_o)
    names = checks.check_names("class_names", class_names, num_classes, "y")
    inner_names = checks.check_names("attribute_names", attribute_names, num_attributes, "a")
    json_provenance = _json_copy(provenance or {})
    if check_finite:
        checks.check_features_finite(x)
    return FeatureSet(
        features=_read_only(x),
        labels=_read_only(y),
        minority=_read_only(m),
        split=_read_only(split_codes),
        ids=_read_only(id_array),
        attributes=None if a is None else _read_only(a),
        minority_cells=None if table is None else _read_only(table),
        source_ids=None if sources is None else _read_only(sources),
        name=str(name),
        backbone=str(backbone),
        class_names=names,
        attribute_names=inner_names,
        eta_o=eta_o,
        pool=pool,
        provenance=json_provenance,
        path=path,
    )


def _num_attributes(
    minority_cells: ArrayLike | str | None, attribute_names: Sequence[str] | None
) -> int | None:
    """How many attributes the table or the names announce; None where neither does."""
    if attribute_names is not None and len(attribute_names):
        return len(attribute_names)
    if minority_cells is None or isinstance(minority_cells, str):
        return None
    table = checks.as_array("minority_cells", minority_cells)
    return table.shape[1] if table.ndim == 2 else None


def _native_eta(minority: np.ndarray, labels: np.ndarray, split: np.ndarray) -> float | None:
    train = minority[(split == 0) & (labels >= 0)]
    share = float(train.mean()) if len(train) else 0.0
    return share if 0 < share < 1 else None


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _json_copy(provenance: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(provenance), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FeatureError(
            f"provenance cannot be stored as JSON: {error}; use strings, numbers, lists and dicts"
        ) from None
