"""The on-disk form of a FeatureSet: a directory with manifest.json and one .npy file an array.

Opening reads the manifest and the file headers only; arrays are memory mapped. The manifest is
written last, so what has none is half-written and never opens.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax.errors import FeatureError
from w2s_jax.features import checks
from w2s_jax.features.checks import SPLITS
from w2s_jax.features.feature_set import ARRAY_FIELDS, FeatureSet
from w2s_jax.features.npyfile import canonical_dtype, file_checksum, open_npy
from w2s_jax.version import __version__

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_KINDS = {"labels": "i4", "minority": "b1", "split": "i1", "attributes": "i4"}
_KEYS = {
    "name": str,
    "backbone": str,
    "dtype": str,
    "shape": list,
    "class_names": list,
    "attribute_names": list,
    "minority_cells": (list, type(None)),
    "eta_o": (float, int, type(None)),
    "pool": str,
    "split_sizes": dict,
    "checksums": dict,
    "fingerprint": str,
    "provenance": dict,
    "manifest_checksum": str,
}


def is_cache(path: Path) -> bool:
    """Whether a path is a directory with a cache's manifest."""
    return (path / MANIFEST).is_file()


def load_cache(
    path: str | os.PathLike[str], *, eta_o: float | None = None, pool: str | None = None
) -> FeatureSet:
    """Open a cache directory by memory map, reading its manifest and headers only.

    Args:
        path: directory that `save_features` wrote.
        eta_o: replaces the stored native minority fraction.
        pool: replaces the stored pool.

    Raises:
        FeatureError: no cache, half-written, damaged, or of a newer format.
    """
    path = Path(path)
    for _ in range(10):
        place = _locate(path)
        try:
            feature_set = _open(path, place[0], eta_o, pool)
        except FeatureError:
            if _locate(path) == place:
                raise
        else:
            # Another process may have overwritten the cache between two of its files.
            if _locate(path) == place:
                return feature_set
    raise FeatureError(f"{path} is being overwritten again and again; load it when that is over")


def _locate(path: Path) -> tuple[Path, int]:
    """The directory that holds the cache now, and its inode (0 where there is none)."""
    # A kill between the two renames of an overwrite leaves the old cache whole, but aside.
    for place in (path, previous_path(path)):
        with contextlib.suppress(OSError):
            return place, place.stat().st_ino
    return path, 0


def _open(path: Path, source: Path, eta_o: float | None, pool: str | None) -> FeatureSet:
    manifest = read_manifest(source)
    arrays = _open_arrays(source, manifest)
    sizes = [manifest["split_sizes"][name] for name in SPLITS]
    stored_pool: str = manifest["pool"]
    pool = stored_pool if pool is None else pool
    checks.check_pool(sizes, pool)
    if pool != stored_pool and "source_ids" in arrays:
        checks.check_shared_sources(arrays["source_ids"], arrays["split"], pool)
    stored_eta = manifest["eta_o"]
    feature_set = FeatureSet(
        features=arrays["features"],
        labels=arrays["labels"],
        minority=arrays["minority"],
        split=arrays["split"],
        ids=arrays["ids"],
        attributes=arrays.get("attributes"),
        source_ids=arrays.get("source_ids"),
        minority_cells=_table(manifest),
        name=manifest["name"],
        backbone=manifest["backbone"],
        class_names=tuple(manifest["class_names"]),
        attribute_names=tuple(manifest["attribute_names"]),
        eta_o=stored_eta if eta_o is None else checks.check_eta_o(eta_o),
        pool=pool,
        provenance=manifest["provenance"],
        path=path,
    )
    # Fills the cached property, so that the fingerprint needs no read of the arrays.
    feature_set.__dict__["checksums"] = manifest["checksums"]
    if pool == stored_pool and feature_set.fingerprint != manifest["fingerprint"]:
        raise FeatureError(
            f"{source / MANIFEST} has the fingerprint {manifest['fingerprint'][:12]}..., but its "
            f"content gives {feature_set.fingerprint[:12]}...; write the cache again"
        )
    return feature_set


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest of a cache directory.

    Raises:
        FeatureError: there is none, or it is damaged, edited, or of a newer format.
    """
    file = path / MANIFEST
    if not path.is_dir():
        raise FeatureError(f"there is no feature cache {path}; check the path")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FeatureError(
            f"{path} has no {MANIFEST}: it is not a feature cache, or only half-written; "
            "write it again"
        ) from None
    except OSError as error:
        raise FeatureError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FeatureError(f"{file} is damaged, not UTF-8 text; write the cache again") from None
    try:
        manifest = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FeatureError(
            f"{file} is damaged or truncated, not JSON ({error}); write the cache again"
        ) from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version < 1:
        raise FeatureError(
            f"{file} has format_version {version!r}, so it is not the manifest of a feature "
            "cache; write the cache again"
        )
    if version > FORMAT_VERSION:
        raise FeatureError(
            f"{file} has format_version {version}, newer than {FORMAT_VERSION}, the newest that "
            f"w2s_jax {__version__} reads; upgrade w2s_jax"
        )
    for key, kind in _KEYS.items():
        if key not in manifest:
            raise FeatureError(f"{file} lacks the key {key!r}; write the cache again")
        if not isinstance(manifest[key], kind):
            raise FeatureError(f"{file} has {manifest[key]!r} under {key!r}; write the cache again")
    if manifest["manifest_checksum"] != manifest_checksum(manifest):
        raise FeatureError(
            f"{file} does not match its own checksum: it was edited or damaged; write the cache "
            "again (eta_o and pool can be changed when loading)"
        )
    return manifest


def verify_cache(path: Path) -> None:
    """Compare every file of a cache with the manifest's sha256.

    Raises:
        FeatureError: naming the first file that is missing or damaged.
    """
    path = _locate(path)[0]
    manifest = read_manifest(path)
    _open_arrays(path, manifest)
    for name, expected in manifest["checksums"].items():
        found = file_checksum(path / name)
        if found != expected:
            raise FeatureError(
                f"{path / name} is damaged: its sha256 is {found[:12]}..., the manifest says "
                f"{str(expected)[:12]}...; copy it again or extract the features again"
            )


def _open_arrays(path: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Memory-map the arrays the manifest lists, checked against its shape and dtypes."""
    arrays: dict[str, np.ndarray] = {}
    num_rows = manifest["shape"][0]
    for name in ARRAY_FIELDS:
        file = path / f"{name}.npy"
        if file.name not in manifest["checksums"]:
            if name not in ("attributes", "source_ids"):
                raise FeatureError(f"{path / MANIFEST} does not list {file.name}; write it again")
            continue
        if not file.is_file():
            raise FeatureError(
                f"{file} is missing, though the manifest lists it; copy the whole directory again"
            )
        array = open_npy(file)
        shape = tuple(manifest["shape"]) if name == "features" else (num_rows,)
        kind = canonical_dtype(manifest["dtype"] if name == "features" else _KINDS.get(name, "U"))
        if array.shape != shape or (
            array.dtype.kind != "U" if kind.kind == "U" else array.dtype != kind
        ):
            raise FeatureError(
                f"{file} holds {array.dtype} {list(array.shape)}, but the manifest says "
                f"{'strings' if kind.kind == 'U' else kind} {list(shape)}; write the cache again"
            )
        arrays[name] = array if name == "features" else np.asarray(array)
    return arrays


def _table(manifest: Mapping[str, Any]) -> np.ndarray | None:
    cells = manifest["minority_cells"]
    if cells is None:
        return None
    table = np.array(cells, dtype=bool)
    table.flags.writeable = False
    return table


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's content without this checksum itself."""
    content = {key: value for key, value in manifest.items() if key != "manifest_checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def previous_path(path: Path) -> Path:
    """Where an overwrite keeps the old cache between its two renames."""
    return path.parent / f".{path.name}.previous"
