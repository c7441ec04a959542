"""One pass over images: decode once, preprocess and forward for each network, commit shards.

A batch never straddles a shard, so that what is in a batch does not depend on which shards were
there before: a resumed extraction repeats the bits of an uninterrupted one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from w2s_jax.backbones.loading import Backbone
from w2s_jax.extraction.forward import Forward
from w2s_jax.extraction.loading import BLOCK_IMAGES, Block, Geometry, geometry_of, load_blocks
from w2s_jax.extraction.metadata import ImageSource
from w2s_jax.extraction.shards import ExtractionError, ShardFolder
from w2s_jax.interruption import Interruption


@dataclasses.dataclass(frozen=True, eq=False)
class Output:
    """One feature set to be made.

    Attributes:
        backbone: The network.
        layer: Which of its outputs.
        path: Where the cache will lie.
        job: All that its features depend on.
        shards: Where they are kept until they are complete.
    """

    backbone: Backbone
    layer: str
    path: Path
    job: dict[str, Any]
    shards: ShardFolder


class _Batch(NamedTuple):
    """Images that go through networks in one call.

    Attributes:
        rows: Their row numbers.
        outputs: The feature sets that lack them.
    """

    rows: np.ndarray
    outputs: tuple[Output, ...]


def run_pass(
    source: ImageSource,
    outputs: Sequence[Output],
    *,
    batch_size: int,
    num_workers: int,
    storage: str,
    devices: Sequence[Any] | None,
    progress: bool,
    interruption: Interruption,
) -> None:
    """Computes all shards that any output lacks, decoding each image once.

    Args:
        source: The images.
        outputs: What is made; their shards have the same rows.
        batch_size: Images a call of a network.
        num_workers: As in `load_blocks`.
        storage: float16 or float32.
        devices: JAX devices to compute on; default all local ones.
        progress: Whether to show a bar.
        interruption: Asked after every shard.

    Raises:
        Interrupted: A signal came; the shards before are committed.
        ExtractionError: A feature cannot be stored, or the disk refuses.
        W2SError: An image cannot be read.
    """
    if not outputs:
        return
    shards = outputs[0].shards
    missing = {
        shard: tuple(output for output in outputs if shard not in output.shards.done)
        for shard in range(shards.num_shards)
    }
    missing = {shard: needed for shard, needed in missing.items() if needed}
    forwards: dict[str, Forward] = {}
    for output in outputs:
        if any(output in needed for needed in missing.values()):
            name = output.backbone.name
            forwards.setdefault(name, Forward(output.backbone, batch_size, devices))
    batches = {
        shard: list(_batches(shards.rows(shard), needed, batch_size))
        for shard, needed in missing.items()
    }
    blocks = [block for some in batches.values() for batch in some for block in _blocks(batch)]
    left = sum(len(shards.rows(shard)) for shard in missing)
    loaded = load_blocks(source, blocks, num_workers)
    bar = tqdm(
        total=len(source),
        initial=len(source) - left,
        unit="image",
        smoothing=0.05,
        disable=None if progress else True,  # None: quiet where stderr is no terminal
    )
    try:
        for shard, needed in missing.items():
            rows = shards.rows(shard)
            features = {
                output.path: np.empty((len(rows), output.backbone.sizes[output.layer]), np.float32)
                for output in needed
            }
            for batch, values in _features(batches[shard], loaded, forwards):
                for output in batch.outputs:
                    found = values[output.backbone.name][output.layer]
                    features[output.path][batch.rows - rows.start] = found
                bar.update(len(batch.rows))
            for output in needed:
                check_storable(features[output.path], rows, source, output.path.name, storage)
            for output in needed:
                output.shards.commit(shard, features[output.path])
            left -= len(rows)
            if left:
                interruption.check(f"{len(source) - left} of {len(source)} images")
    finally:
        bar.close()
        loaded.close()


def _batches(rows: range, needed: tuple[Output, ...], batch_size: int) -> Iterator[_Batch]:
    for start in range(rows.start, rows.stop, batch_size):
        yield _Batch(np.arange(start, min(start + batch_size, rows.stop)), needed)


def _geometries(batch: _Batch) -> tuple[Geometry, ...]:
    steps = (output.backbone.preprocessing for output in batch.outputs)
    return tuple(dict.fromkeys(geometry_of(step) for step in steps))


def _blocks(batch: _Batch) -> Iterator[Block]:
    for start in range(0, len(batch.rows), BLOCK_IMAGES):
        yield Block(batch.rows[start : start + BLOCK_IMAGES], _geometries(batch))


def _features(
    batches: Sequence[_Batch], loaded: Iterator[dict[str, Any]], forwards: Mapping[str, Forward]
) -> Iterator[tuple[_Batch, dict[str, dict[str, np.ndarray]]]]:
    """Features of batches, by backbone and layer; one batch computes while the next is loaded."""
    previous = None
    for batch in batches:
        parts = [next(loaded) for _ in _blocks(batch)]
        rows = np.concatenate([part["rows"] for part in parts])
        if not np.array_equal(rows, batch.rows):
            raise ExtractionError(f"rows {rows[0]} ... came in place of {batch.rows[0]} ...")
        pixels = {
            geometry: np.concatenate([part["pixels"][number] for part in parts])
            for number, geometry in enumerate(_geometries(batch))
        }
        steps = {output.backbone.name: output.backbone.preprocessing for output in batch.outputs}
        started = {
            name: forwards[name](pixels[geometry_of(preprocessing)])
            for name, preprocessing in steps.items()
        }
        if previous is not None:
            yield _wait(*previous)
        previous = batch, started
    if previous is not None:
        yield _wait(*previous)


def _wait(
    batch: _Batch, started: Mapping[str, Mapping[str, jax.Array]]
) -> tuple[_Batch, dict[str, dict[str, np.ndarray]]]:
    count = len(batch.rows)
    return batch, {
        name: {layer: np.asarray(value)[:count] for layer, value in values.items()}
        for name, values in started.items()
    }


def check_storable(
    features: np.ndarray, rows: range, source: ImageSource, name: str, storage: str
) -> None:
    """Refuses NaN, infinity, and values beyond the storage dtype.

    Args:
        features: [len(rows), d] float32.
        rows: Their row numbers.
        source: The images, for their ids.
        name: Of the feature set.
        storage: float16 or float32.

    Raises:
        ExtractionError: Names the first row with such a value, and the way out.
    """
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(features.astype(storage))
    if not bad.any():
        return
    position, column = np.argwhere(bad)[0]
    value = features[position, column]
    where = (
        f"{name}: feature {column} of row {rows[position]} "
        f"({source.columns['id'][rows[position]]}) is {value:.6g}"
    )
    if np.isfinite(value):
        raise ExtractionError(
            f"{where}, beyond {np.finfo(storage).max:.6g}, the limit of {storage}; give "
            "--storage=float32"
        )
    raise ExtractionError(
        f"{where}; the weights are damaged or the network overflows: try --precision=float32, or "
        "another file of weights"
    )
