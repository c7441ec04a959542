"""Image benchmarks as TFDS builders: array_record files that hold the images as they stand.

Neither preparing nor reading needs TensorFlow (`as_data_source`; `prepared.PreparedSource`).
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.checks import Reader, read_listing
from w2s_jax.datasets.decoding import OnBadImage, check_images, read_content
from w2s_jax.datasets.images import SPLITS, ImageRecord, StoredImage
from w2s_jax.datasets.source import COLUMNS, make_columns

METADATA_FORMAT = 1


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders of image benchmarks; a subclass names its reader.

    The configuration's name has a hash of the options, the benchmark's facts and the listing (ids,
    labels, groups, splits and sizes of files), so that a changed folder is prepared anew.

    Args:
        source_dir: Folder with the published layout.
        options: Keywords of the reader.
        on_bad_image: "error", or "skip" to leave out missing and damaged images with a warning.
        check_counts: Whether numbers of images that differ from the published ones are an error.
        num_threads: Images checked at a time; default the number of cores.
        **kwargs: Of `tfds.core.DatasetBuilder`, such as `data_dir`.

    Raises:
        DatasetError: The listing is missing or malformed.
    """

    VERSION = tfds.core.Version("1.0.0")
    # There are no download checksums, and to look for them TFDS 4.9.10 imports
    # importlib_resources, which it does not depend on.
    code_path = None
    READER: ClassVar[Reader]

    def __init__(
        self,
        source_dir: str | os.PathLike,
        *,
        options: Mapping[str, Any] | None = None,
        on_bad_image: OnBadImage = "error",
        check_counts: bool = True,
        num_threads: int | None = None,
        **kwargs: Any,
    ):
        self.on_bad_image: OnBadImage = on_bad_image
        self.num_threads = num_threads
        self.benchmark, self.records = read_listing(
            type(self).READER, source_dir, options or {}, check_numbers=check_counts
        )
        kind = re.sub(r"[^\w.-]", "_", self.benchmark.name)
        config = tfds.core.BuilderConfig(name=f"{kind}-{self._listing_hash()[:12]}")
        super().__init__(**{"file_format": "array_record", "config": config, **kwargs})

    def _listing_hash(self) -> str:
        rows = {name: column.tolist() for name, column in self._columns(self.records).items()}
        images = [_describe(record.image) for record in self.records]
        content = json.dumps([self.benchmark.to_json(), rows, images], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _columns(self, records: Sequence[ImageRecord]) -> dict[str, np.ndarray]:
        return make_columns(self.benchmark, records)

    def _info(self) -> tfds.core.DatasetInfo:
        benchmark, code = self.benchmark, tfds.features.Scalar(np.int64)
        names = list(benchmark.attributes)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{type(self).__doc__}\n\n{benchmark.notes}".strip(),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "id": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(benchmark.classes)),
                    "attribute": tfds.features.ClassLabel(names=names) if names else code,
                    "minority": code,
                    "source_id": tfds.features.Text(),
                }
            ),
            homepage=benchmark.url or None,
            citation=benchmark.citation or None,
            license=benchmark.licence,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        del dl_manager
        records, skipped = check_images(
            self.records, self.on_bad_image, num_threads=self.num_threads
        )
        if not records:
            raise DatasetError(f"{self.benchmark.name}: no image is left.")
        columns = self._columns(records)
        metadata = self.info.metadata
        assert isinstance(metadata, dict)
        metadata.update(
            format=METADATA_FORMAT,
            benchmark=self.benchmark.to_json(),
            rows={name: column.tolist() for name, column in columns.items()},
            skipped=skipped,
        )
        splits = set(columns["split"].tolist())
        return {
            name: self._generate_examples(records, columns, name)
            for name in SPLITS
            if name in splits
        }

    def _generate_examples(
        self, records: Sequence[ImageRecord], columns: Mapping[str, np.ndarray], split: str
    ) -> Iterator:
        for row in np.flatnonzero(columns["split"] == split).tolist():
            values = {name: columns[name][row].item() for name in COLUMNS if name != "split"}
            yield row, {"image": io.BytesIO(read_content(records[row].image)), **values}


def _describe(image: str | bytes | StoredImage) -> int | str:
    """What may change of an image though its listing stays: its size, or its place in a file."""
    if isinstance(image, str):
        return os.path.getsize(image) if os.path.isfile(image) else -1
    return hashlib.sha256(image).hexdigest() if isinstance(image, bytes) else repr(image)
