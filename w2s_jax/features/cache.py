"""The on-disk form of a FeatureSet: a directory with manifest.json and one .npy file an array.

A save writes into a temporary directory beside the target and renames it when every file is
flushed, the manifest last; so what has no manifest is half-written and never opens. Opening reads
the manifest and the file headers only; arrays are memory mapped.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from w2s_jax.errors import FeatureError
from w2s_jax.features import checks
from w2s_jax.features.checks import SPLITS
from w2s_jax.features.feature_set import ARRAY_FIELDS, FeatureSet, build_feature_set
from w2s_jax.features.npyfile import (
    canonical_dtype,
    file_checksum,
    open_npy,
    row_blocks,
    write_npy,
)
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


def save_features(
    feature_set: FeatureSet,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    overwrite: bool = False,
) -> FeatureSet:
    """Write a feature set as a cache directory, whole or not at all.

    Args:
        feature_set: what to write; it is checked again.
        path: directory to create, with its parents.
        dtype: float16, float32 or float64 to store the features in; default as they are.
        overwrite: replace a cache that is already there. Readers see the old one or the new one.

    Returns:
        The cache, opened.

    Raises:
        FeatureError: the set is not valid, a value does not fit `dtype`, the path exists, or the
            disk refuses.
    """
    path = Path(path)
    out_dtype = _storage_dtype(feature_set, dtype)
    checked = _recheck(feature_set)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_target(path, overwrite)
        temporary.mkdir()
        try:
            manifest = _write_arrays(checked, temporary, out_dtype)
            _write_manifest(manifest, temporary / MANIFEST)
            _sync_directory(temporary)
            _put_in_place(temporary, path, overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FeatureError(
            f"cannot write the feature cache {path}: {error.strerror or error}; "
            "nothing was left there, free space or choose another path"
        ) from error
    return load_cache(path)


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
    source = path
    if not path.exists() and is_cache(_previous(path)):
        # A kill between the two renames of an overwrite leaves the old cache whole, but aside.
        source = _previous(path)
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
        path=source,
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
    if manifest["manifest_checksum"] != _manifest_checksum(manifest):
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


def _storage_dtype(feature_set: FeatureSet, dtype: DTypeLike | None) -> np.dtype:
    try:
        result = np.dtype(feature_set.features.dtype if dtype is None else dtype)
    except TypeError:
        result = None
    if result is None or result.kind != "f" or result.itemsize not in (2, 4, 8):
        raise FeatureError(
            f"features cannot be stored as {dtype}; choose float16, float32 or float64"
        )
    return result


def _recheck(s: FeatureSet) -> FeatureSet:
    """Validate again: a FeatureSet may have been constructed or altered by hand."""
    return build_feature_set(
        s.features,
        s.labels,
        attributes=s.attributes,
        minority=s.minority,
        split=s.split,
        ids=s.ids,
        source_ids=s.source_ids,
        minority_cells=s.minority_cells,
        class_names=s.class_names,
        attribute_names=s.attribute_names,
        eta_o=s.eta_o,
        pool=s.pool,
        name=s.name,
        backbone=s.backbone,
        provenance=s.provenance,
        path=s.path,
    )


def _write_arrays(feature_set: FeatureSet, directory: Path, dtype: np.dtype) -> dict[str, Any]:
    """Write the arrays and return the manifest that describes them."""
    checksums = {}
    for name in ARRAY_FIELDS:
        array = getattr(feature_set, name)
        if array is None:
            continue
        blocks, kind = row_blocks(array), array.dtype
        if name == "features":
            blocks, kind = _checked_blocks(array, dtype), dtype
        checksums[f"{name}.npy"] = write_npy(directory / f"{name}.npy", blocks, kind, array.shape)
    stored = dataclasses.replace(feature_set)
    stored.__dict__["checksums"] = checksums
    cells = feature_set.minority_cells
    manifest = {
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "name": feature_set.name,
        "backbone": feature_set.backbone,
        "dtype": dtype.name,
        "shape": list(feature_set.features.shape),
        "class_names": list(feature_set.class_names),
        "attribute_names": list(feature_set.attribute_names),
        "minority_cells": None if cells is None else cells.tolist(),
        "eta_o": feature_set.eta_o,
        "pool": feature_set.pool,
        "split_sizes": dict(
            zip(SPLITS, np.bincount(feature_set.split, minlength=3).tolist(), strict=True)
        ),
        "checksums": checksums,
        "fingerprint": stored.fingerprint,
        "provenance": dict(feature_set.provenance),
    }
    return manifest | {"manifest_checksum": _manifest_checksum(manifest)}


def _checked_blocks(features: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Row blocks in the storage dtype, refusing NaN, infinity and overflow on the way."""
    # Row blocks differ in length between dtypes, so the narrowed block is cut from the wide one.
    num_columns = features.shape[1]
    for block in row_blocks(features):
        with np.errstate(over="ignore"):
            narrow = block.astype(canonical_dtype(dtype), copy=False)
        if not np.isfinite(narrow).all():
            checks.check_features_finite(features)
            largest = float(np.abs(block).max())
            num_bad = int((~np.isfinite(narrow)).sum())
            raise FeatureError(
                f"features do not fit {dtype.name}: {num_bad} or more values overflow, the "
                f"largest found is {largest:.6g} and the limit {np.finfo(dtype).max:.6g} "
                f"({num_columns} columns); store them as float32 or scale them"
            )
        yield narrow


def _write_manifest(manifest: Mapping[str, Any], file: Path) -> None:
    with file.open("x", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _manifest_checksum(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "manifest_checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _previous(path: Path) -> Path:
    """Where an overwrite keeps the old cache between its two renames."""
    return path.with_name(f".{path.name}.previous")


def _check_target(path: Path, overwrite: bool) -> None:
    previous = _previous(path)
    if not path.exists() and is_cache(previous):
        os.rename(previous, path)  # An earlier overwrite was killed between its renames.
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise FeatureError(
            f"{path} already exists; choose another path, or give overwrite=True to replace it"
        )
    if not is_cache(path):
        raise FeatureError(
            f"{path} is not a feature cache (it has no {MANIFEST}), so it is not replaced even "
            "with overwrite=True; remove it or choose another path"
        )


def _put_in_place(temporary: Path, path: Path, overwrite: bool) -> None:
    """Rename the finished directory to its place, keeping the old one until that is done."""
    _check_target(path, overwrite)
    previous = _previous(path)
    if path.exists():
        shutil.rmtree(previous, ignore_errors=True)
        os.rename(path, previous)
        try:
            os.rename(temporary, path)
        except OSError:
            os.rename(previous, path)
            raise
    else:
        os.rename(temporary, path)
    _sync_directory(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    # Some file systems cannot flush a directory; the renames are then ordered by the system.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
