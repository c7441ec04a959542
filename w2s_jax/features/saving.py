"""Writing a FeatureSet as a cache directory, whole or not at all.

Everything is written into a temporary directory beside the target and flushed, the manifest last,
and then renamed to its place. An overwrite moves the old cache aside first; a reader that comes
between the two renames is served the old one from there.
"""

import contextlib
import dataclasses
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
from w2s_jax.features.cache import (
    FORMAT_VERSION,
    MANIFEST,
    is_cache,
    load_cache,
    manifest_checksum,
    previous_path,
)
from w2s_jax.features.checks import SPLITS
from w2s_jax.features.feature_set import ARRAY_FIELDS, FeatureSet, make_feature_set
from w2s_jax.features.npyfile import canonical_dtype, row_blocks, write_npy
from w2s_jax.version import __version__


def save_features(
    feature_set: FeatureSet,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    overwrite: bool = False,
) -> FeatureSet:
    """Write a feature set as a cache directory, whole or not at all.

    A kill in the middle leaves a hidden directory "*.partial" beside `path`, to be removed by
    hand; it is never taken for a cache.

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
    path = _target(Path(path))
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
            sync_directory(temporary)
            _put_in_place(temporary, path, overwrite)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FeatureError(
            f"cannot write the feature cache {path}: {error.strerror or error}; "
            "what was there is unchanged; free space or choose another path"
        ) from error
    return load_cache(path)


def _recheck(s: FeatureSet) -> FeatureSet:
    """Validate again: a FeatureSet may have been constructed or altered by hand."""
    return make_feature_set(
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
        check_finite=False,
    )


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
    return manifest | {"manifest_checksum": manifest_checksum(manifest)}


def _checked_blocks(features: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Row blocks in the storage dtype, refusing NaN, infinity and overflow on the way."""
    start = 0
    for block in row_blocks(features):
        with np.errstate(over="ignore"):
            narrow = block.astype(canonical_dtype(dtype), copy=False)
        bad = ~np.isfinite(narrow)
        if bad.any():
            checks.check_features_finite(features)  # Where NaN or infinity were there before.
            row, column = np.argwhere(bad)[0]
            raise FeatureError(
                f"features do not fit {dtype.name}: row {start + row} (counting from 0) has the "
                f"value {block[row, column]:.6g} in column {column}, the limit is "
                f"{np.finfo(dtype).max:.6g}; store them as float32 or scale them"
            )
        yield narrow
        start += len(block)


def _write_manifest(manifest: Mapping[str, Any], file: Path) -> None:
    with file.open("x", encoding="utf-8") as stream:
        json.dump(manifest, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _target(path: Path) -> Path:
    """The directory to create or replace, behind a symbolic link if there is one."""
    path = path.resolve() if path.is_symlink() else path
    if path.name in ("", ".."):
        raise FeatureError(f"{str(path)!r} is no name for a new directory; choose another path")
    return path


def _check_target(path: Path, overwrite: bool) -> None:
    previous = previous_path(path)
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
    previous = previous_path(path)
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
    sync_directory(path.parent)
    shutil.rmtree(previous, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Flushes a directory, so that renames in it survive a power cut."""
    # Some file systems cannot flush a directory; the renames are then ordered by the system.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
