"""What a feature set from images is called, where it lies, and what it says of itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from w2s_jax.backbones.loading import Backbone
from w2s_jax.extraction.shards import ExtractionError
from w2s_jax.features import make_feature_set
from w2s_jax.features.npyfile import array_checksum

COLUMNS = ("id", "label", "attribute", "minority", "split", "source_id")


class ImageSource(Protocol):
    """What is extracted; `w2s_jax.datasets.ImageSource` is one."""

    @property
    def benchmark(self) -> Any:
        """As `w2s_jax.datasets.ImageBenchmark`."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """What is known of every row without decoding, by the names in `COLUMNS`, [n] each.

        -1 is a label of unlabelled rows, an attribute where there is none, and an unknown minority;
        "" is no source.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: "image" uint8 [H, W, 3], "index", and the columns."""
        ...


def set_name(benchmark, backbone: Backbone, layer: str) -> str:
    """`<benchmark>/<backbone>_<layer>`."""
    return f"{benchmark.name}/{backbone.name}_{layer}"


def cache_path(out: str | Path, benchmark, backbone: Backbone, layer: str) -> Path:
    """Where a feature set's cache lies."""
    return Path(out) / set_name(benchmark, backbone, layer)


def working_folder(path: Path) -> Path:
    """Where the shards of a cache lie while it is made."""
    return path.with_name(f".{path.name}.extracting")


def rows_fingerprint(source: ImageSource) -> str:
    """Hash of every row's id, label, attribute, minority, split and source."""
    digests = {name: array_checksum(np.asarray(source.columns[name])) for name in COLUMNS}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def describe_job(
    source: ImageSource, rows: str, backbone: Backbone, layer: str, storage: str, shard_size: int
) -> dict[str, Any]:
    """All that features depend on, as JSON holds it.

    Args:
        source: The images.
        rows: Their `rows_fingerprint`.
        backbone: The network; its weights enter by the hashes of their files.
        layer: Which of its outputs.
        storage: Type that features are kept in.
        shard_size: Rows a shard.
    """
    job = {
        **backbone.describe(),
        "layer": layer,
        "benchmark": source.benchmark.name,
        "num_rows": len(source),
        "rows_sha256": rows,
        "storage": storage,
        "shard_size": shard_size,
    }
    return json.loads(json.dumps(job))


def row_fields(source: ImageSource) -> dict[str, Any]:
    """What `make_feature_set` takes beside the features, checked before any image is read.

    Args:
        source: The images.

    Returns:
        Keyword arguments.

    Raises:
        FeatureError: The rows are inconsistent.
        ExtractionError: A column is missing or of another length.
    """
    benchmark, columns = source.benchmark, {}
    for column in COLUMNS:
        values = source.columns.get(column)
        if values is None or len(values) != len(source):
            raise ExtractionError(
                f"the source's columns have {0 if values is None else len(values)} values for "
                f"{column!r} and {len(source)} images; give one for each"
            )
        columns[column] = np.asarray(values)
    fields: dict[str, Any] = {
        "labels": columns["label"],
        "split": columns["split"],
        "ids": columns["id"],
        "class_names": benchmark.classes,
        "eta_o": benchmark.eta_o,
        "pool": benchmark.pool,
    }
    if benchmark.attributes:
        cells = benchmark.minority_cells
        fields |= {
            "attributes": columns["attribute"],
            "attribute_names": benchmark.attributes,
            "minority_cells": cells if cells is None else np.array(cells, bool),
        }
    else:
        unknown = np.flatnonzero((columns["minority"] < 0) & (columns["label"] >= 0))
        if len(unknown):
            raise ExtractionError(
                f"{len(unknown)} labelled rows of {benchmark.name}, such as "
                f"{str(columns['id'][unknown[0]])!r}, have no attribute and are not said to be "
                "minority or not; give one of both"
            )
        fields["minority"] = columns["minority"] > 0
    sources = columns["source_id"]
    if (sources != "").any():
        # A row without a source shares it with no other row.
        fields["source_ids"] = np.where(
            sources == "", np.char.add("only ", columns["id"]), np.char.add("source ", sources)
        )
    make_feature_set(np.zeros((len(source), 1), np.float16), **fields)
    return fields


def provenance(
    source: ImageSource, backbone: Backbone, layer: str, job: dict[str, Any]
) -> dict[str, Any]:
    """Facts for the manifest: benchmark and licence, weights, preprocessing, versions."""
    notes = ("name", "licence", "url", "citation", "checksums", "notes")
    return {
        "benchmark": {key: getattr(source.benchmark, key, None) for key in notes},
        "weights_sha256": dict(backbone.fingerprints),
        "preprocessing": backbone.preprocessing.describe(),
        "layer": layer,
        "extraction": job,
        "computed_with": f"jax {jax.__version__} on {jax.default_backend()}",
    }
