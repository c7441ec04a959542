"""A user's own arrays: an .npz archive, or a .npy array with a CSV table beside it."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from w2s_jax.errors import FeatureError
from w2s_jax.features.feature_set import FeatureSet, make_feature_set
from w2s_jax.features.npyfile import open_npy
from w2s_jax.features.tables import as_integers, naming, read_csv, read_npz, require_keys

NPZ_KEYS = (
    "features",
    "labels",
    "attributes",
    "minority",
    "split",
    "ids",
    "source_id",
    "minority_cells",
    "class_names",
    "attribute_names",
)
CSV_COLUMNS = {
    "ids": ("id", "ids"),
    "labels": ("label", "labels", "y"),
    "attributes": ("attribute", "attributes", "a", "place"),
    "minority": ("minority",),
    "split": ("split",),
    "source_ids": ("source_id", "source_ids"),
}


def import_npz(
    path: str | os.PathLike[str],
    *,
    minority_cells: ArrayLike | str | None = None,
    eta_o: float | None = None,
    pool: str = "train",
) -> FeatureSet:
    """Read a feature set from an .npz archive.

    Keys: `features`, `labels`, `split`, `attributes` or `minority`; optional `ids`, `source_id`,
    `minority_cells`, `class_names`, `attribute_names`. See `make_feature_set` for what they hold
    and for the other arguments; `eta_o` None means the share in the train rows.

    Raises:
        FeatureError: saying what is wrong with the file and what to do.
    """
    path = Path(path)
    arrays = read_npz(path, NPZ_KEYS)
    require_keys(path, arrays, ["features", "labels", "split"])
    if "attributes" not in arrays and "minority" not in arrays:
        raise FeatureError(
            f"{path} has neither attributes nor minority; found {', '.join(arrays)}, "
            "add one of the two"
        )
    with naming(path):
        return make_feature_set(
            arrays["features"],
            arrays["labels"],
            attributes=arrays.get("attributes"),
            minority=arrays.get("minority"),
            split=arrays["split"],
            ids=arrays.get("ids"),
            source_ids=arrays.get("source_id"),
            minority_cells=arrays.get("minority_cells")
            if minority_cells is None
            else minority_cells,
            class_names=_names(arrays, "class_names"),
            attribute_names=_names(arrays, "attribute_names"),
            eta_o="native" if eta_o is None else eta_o,
            pool=pool,
            name=path.stem,
            provenance={"imported_from": path.name},
            path=path,
        )


def import_npy(
    path: str | os.PathLike[str],
    csv: str | os.PathLike[str] | None = None,
    *,
    minority_cells: ArrayLike | str | None = None,
    eta_o: float | None = None,
    pool: str = "train",
) -> FeatureSet:
    """Read a feature set from a .npy array, memory mapped, and a CSV with a line for each row.

    Columns: `label` (or `y`), `attribute` (or `a`, `place`) or `minority`, `split`; optional `id`
    and `source_id`. Other columns are ignored. The CSV is by default the file beside the array
    with the same name. See `make_feature_set` for the other arguments; `eta_o` None means the
    share in the train rows.

    Raises:
        FeatureError: saying what is wrong with the files and what to do.
    """
    path = Path(path)
    features = open_npy(path)
    table = path.with_suffix(".csv") if csv is None else Path(csv)
    if csv is None and not table.exists():
        raise FeatureError(
            f"{path} needs labels and splits from a CSV, and there is no {table.name} beside it; "
            "put it there or give csv"
        )
    columns = read_csv(table, CSV_COLUMNS)
    shown = [{"labels": "label", "ids": "id", "attributes": "attribute"}.get(c, c) for c in columns]
    require_keys(table, shown, ["label", "split"], "column")
    if "attributes" not in columns and "minority" not in columns:
        raise FeatureError(
            f"{table} has neither an attribute nor a minority column; found {', '.join(shown)}"
        )
    if "minority" in columns:
        columns["minority"] = _truth(columns["minority"])
    integers = {
        name: as_integers(table, name, columns[name])
        for name in ("labels", "attributes", "minority")
        if name in columns
    }
    with naming(path, table):
        return make_feature_set(
            features,
            integers["labels"],
            attributes=integers.get("attributes"),
            minority=integers.get("minority"),
            split=[value.strip() for value in columns["split"]],
            ids=columns.get("ids"),
            source_ids=columns.get("source_ids"),
            minority_cells=minority_cells,
            eta_o="native" if eta_o is None else eta_o,
            pool=pool,
            name=path.stem,
            provenance={"imported_from": [path.name, table.name]},
            path=path,
        )


def _names(arrays: dict[str, np.ndarray], key: str) -> list[str] | None:
    if key not in arrays:
        return None
    if arrays[key].ndim != 1 or arrays[key].dtype.kind != "U":
        raise FeatureError(
            f"{key} has dtype {arrays[key].dtype} and shape {list(arrays[key].shape)}, but must be "
            "a list of strings"
        )
    return arrays[key].tolist()


def _truth(column: list[str]) -> list[str]:
    """Spell True and False, in any case, as 1 and 0."""
    spelled = {"true": "1", "false": "0"}
    return [spelled.get(value.strip().lower(), value) for value in column]
