"""Images of a benchmark that was prepared by its TFDS builder."""

import importlib.util
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import METADATA_FORMAT
from w2s_jax.datasets.images import SPLITS, ImageBenchmark
from w2s_jax.datasets.source import ImageSource


class PreparedSource(ImageSource):
    """The images of a benchmark, read from the array_record files of its TFDS builder.

    The published files are not needed any more.

    Args:
        folder: That of the prepared version (it holds `dataset_info.json`).

    Raises:
        DatasetError: The folder was not prepared by a builder of this package, or is damaged.
    """

    def __init__(self, folder: str | os.PathLike):
        _check_array_record()
        self.folder = os.fspath(folder)
        try:
            builder = tfds.builder_from_directory(self.folder)
            metadata = dict(builder.info.metadata or {})
        except (OSError, ValueError, AttributeError, tfds.core.DatasetNotFoundError) as error:
            raise DatasetError(
                f"{self.folder} has no prepared benchmark ({error}); give the folder that holds "
                "dataset_info.json, or prepare the benchmark."
            ) from None
        if metadata.get("format") != METADATA_FORMAT:
            raise DatasetError(
                f"{self.folder} has metadata of format {metadata.get('format')!r}, expected "
                f"{METADATA_FORMAT}; prepare the benchmark again with this version."
            )
        super().__init__(
            ImageBenchmark.from_json(metadata["benchmark"]),
            {name: np.array(column) for name, column in metadata["rows"].items()},
            metadata["skipped"],
        )
        splits = self.columns["split"]
        self._starts = {name: int(np.argmax(splits == name)) for name in SPLITS if name in splits}
        for name in self._starts:
            found, expected = builder.info.splits[name].num_examples, int(np.sum(splits == name))
            if found != expected:
                raise DatasetError(
                    f"{self.folder} has {found} {name} images, its metadata {expected}; prepare "
                    "the benchmark again."
                )
        self._open_sources: tuple[int, dict[str, Any]] = (os.getpid(), {})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_sources": (-1, {})}

    def read(self, index: int) -> bytes:
        """Encoded content of an image, as it stood in its file."""
        split = str(self.columns["split"][index])
        # Readers are not shared between a process and its forks.
        if self._open_sources[0] != os.getpid():
            self._open_sources = (os.getpid(), {})
        sources = self._open_sources[1]
        try:
            if split not in sources:
                builder: Any = tfds.builder_from_directory(self.folder)
                sources[split] = builder.as_data_source(
                    split=split, decoders={"image": tfds.decode.SkipDecoding()}
                )
            example = sources[split][index - self._starts[split]]
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise DatasetError(
                f"Image {self.columns['id'][index]!r} cannot be read from {self.folder} ({error}); "
                "prepare the benchmark again."
            ) from error
        if example["id"].decode() != self.columns["id"][index]:
            raise DatasetError(
                f"{self.folder} has the image {example['id'].decode()!r} where its metadata has "
                f"{str(self.columns['id'][index])!r}; prepare the benchmark again."
            )
        return example["image"]


def prepare(builder: Any) -> PreparedSource:
    """The prepared images of a builder, prepared now where they are not yet.

    Args:
        builder: An `ImageBuilder`.

    Returns:
        Random access to them.

    Raises:
        DatasetError: Images are missing or damaged, now or when they were prepared, and the builder
            does not skip them.
    """
    _check_array_record()
    builder.download_and_prepare()
    source = PreparedSource(builder.data_dir)
    if source.skipped and builder.on_bad_image == "error":
        raise DatasetError(
            f"{source.folder} was prepared without {len(source.skipped)} bad images, such as "
            f"{source.skipped[0]}; repair them and delete that folder, or accept it with "
            "on_bad_image='skip'."
        )
    return source


def _check_array_record() -> None:
    # TFDS requires it on Linux only.
    if importlib.util.find_spec("array_record") is None:
        raise DatasetError(
            "Prepared benchmarks are array_record files, and array_record is not installed; run "
            "`pip install 'w2s_jax[images]'`, or read the published files (no prepared_dir)."
        )
