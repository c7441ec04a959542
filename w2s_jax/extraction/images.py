"""Images of a benchmark and frozen networks into feature caches, in one pass.

    pass over the missing shards:  decode once -> preprocess for each network -> forward -> commit
    afterwards:                    shards -> FeatureSet -> cache directory

Features are written by row index and depend neither on batch size, workers nor devices, but for
rounding: at most 1e-5 of a feature set's largest value in float32 computation, beside the rounding
of the storage dtype.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax.backbones.loading import Backbone
from w2s_jax.errors import FeatureError
from w2s_jax.extraction import metadata
from w2s_jax.extraction.metadata import ImageSource
from w2s_jax.extraction.passes import Output, run_pass
from w2s_jax.extraction.shards import ExtractionError, ShardFolder, refuse_other_settings
from w2s_jax.features import FeatureSet, load_features, make_feature_set, save_features
from w2s_jax.features.cache import is_cache
from w2s_jax.interruption import Interruption

STORAGE = ("float16", "float32")


def extract_image_features(
    source: ImageSource,
    backbones: Backbone | Sequence[Backbone],
    out: str | Path,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    storage: str = "float16",
    shard_size: int = 1024,
    devices: Sequence[Any] | None = None,
    progress: bool = False,
) -> list[FeatureSet]:
    """Extract the features of all images, or go on where an earlier call stopped.

    Args:
        source: The images.
        backbones: Frozen networks; every output they were loaded with becomes a feature set. They
            share the decoding of images.
        out: Folder; caches are written to `out/<benchmark>/<backbone>_<layer>`.
        batch_size: Images a call of a network, over all devices.
        num_workers: Processes that decode, see `w2s_jax.extraction.loading.load_blocks`.
        storage: float16 or float32.
        shard_size: Rows that are committed together.
        devices: JAX devices to compute on; default all local ones.
        progress: Whether to show a bar with images per second.

    Returns:
        The feature sets as opened from their caches, backbone by backbone, layer by layer. One
        that was there already is returned as it is.

    Raises:
        ExtractionError: A setting is bad, features of other settings are in the way, a feature is
            not finite or does not fit the storage, or the disk refuses.
        Interrupted: Ctrl-C or SIGTERM came; the shard under way was finished, and the same call
            goes on after it.
        W2SError: An image cannot be read or the rows are inconsistent.
    """
    if isinstance(backbones, Backbone):
        backbones = [backbones]
    _check_settings(source, backbones, batch_size, num_workers, storage, shard_size)
    rows = metadata.row_fields(source)
    plans, found = _plan(source, backbones, Path(out), storage, shard_size)
    outputs: list[Output] = []
    try:
        for backbone, layer, path, job in plans:
            shards = ShardFolder(
                metadata.working_folder(path),
                job,
                num_rows=len(source),
                num_features=backbone.sizes[layer],
                dtype=np.dtype(storage),
                shard_size=shard_size,
            )
            outputs.append(Output(backbone, layer, path, job, shards))
        with Interruption() as interruption:
            run_pass(
                source,
                outputs,
                batch_size=batch_size,
                num_workers=num_workers,
                storage=storage,
                devices=devices,
                progress=progress,
                interruption=interruption,
            )
        for output in outputs:
            made = make_feature_set(
                output.shards.assemble(),
                name=metadata.set_name(source.benchmark, output.backbone, output.layer),
                backbone=f"{output.backbone.name}_{output.layer}",
                provenance=metadata.provenance(source, output.backbone, output.layer, output.job),
                check_finite=False,
                **rows,
            )
            found[output.path] = save_features(made, output.path)
            output.shards.remove()
    finally:
        for output in outputs:
            output.shards.release()
    return [
        found[metadata.cache_path(out, source.benchmark, backbone, layer)]
        for backbone in backbones
        for layer in backbone.outputs
    ]


def _check_settings(
    source: ImageSource,
    backbones: Sequence[Backbone],
    batch_size: int,
    num_workers: int,
    storage: str,
    shard_size: int,
) -> None:
    if storage not in STORAGE:
        raise ExtractionError(f"unknown storage {storage!r}; known are {', '.join(STORAGE)}")
    least = {"batch_size": (batch_size, 1), "num_workers": (num_workers, 0)}
    for name, (value, limit) in (least | {"shard_size": (shard_size, 1)}).items():
        if value < limit:
            raise ExtractionError(f"{name} is {value}; give at least {limit}")
    if not len(source):
        raise ExtractionError(f"{source.benchmark.name} has no images; check --data_dir")
    names = [(backbone.name, layer) for backbone in backbones for layer in backbone.outputs]
    twice = sorted({":".join(name) for name in names if names.count(name) > 1})
    if twice or not names:
        what = f"{', '.join(twice)} is asked for twice" if twice else "no backbone is given"
        raise ExtractionError(f"{what}; give every backbone and layer once")


def _plan(
    source: ImageSource,
    backbones: Sequence[Backbone],
    out: Path,
    storage: str,
    shard_size: int,
) -> tuple[list[tuple[Backbone, str, Path, dict[str, Any]]], dict[Path, FeatureSet]]:
    """What has to be made, and what is there already."""
    plans, found = [], {}
    rows = metadata.rows_fingerprint(source)
    for backbone in backbones:
        for layer in backbone.outputs:
            path = metadata.cache_path(out, source.benchmark, backbone, layer)
            job = metadata.describe_job(source, rows, backbone, layer, storage, shard_size)
            if is_cache(path):
                found[path] = _existing(path, job)
            elif path.exists():
                raise ExtractionError(
                    f"{path} is there and is no feature cache; move it away or choose another --out"
                )
            else:
                plans.append((backbone, layer, path, job))
    return plans, found


def _existing(path: Path, job: dict[str, Any]) -> FeatureSet:
    """A finished cache, if it was made with the settings that are asked for."""
    loaded = load_features(path)
    there = loaded.provenance.get("extraction")
    if not isinstance(there, dict):
        raise FeatureError(
            f"{path} was not made by an extraction of images; choose another --out or move it away"
        )
    # Where shards were cut changes no feature by more than the stated rounding.
    there, wanted = ({**job, "shard_size": None} for job in (there, job))
    refuse_other_settings(path, there, wanted, "choose another --out, or move the old one away")
    return loaded
