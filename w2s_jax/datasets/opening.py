"""Opening an image benchmark by its name."""

import importlib
import os
from typing import Any

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.checks import read_listing, reader_options
from w2s_jax.datasets.decoding import OnBadImage, check_images
from w2s_jax.datasets.source import FileSource, ImageSource

# Name to module and TFDS builder; modules are imported when they are needed.
_BUILDERS = {
    "waterbirds": ("waterbirds", "Waterbirds"),
    "bffhq": ("bffhq", "Bffhq"),
    "imagenet9": ("imagenet9", "ImageNet9"),
    "bg_coco": ("bg_coco", "BgCoco"),
    "fashion_textures": ("fashion_textures", "FashionTextures"),
    "coco_on_places": ("coco_on_places", "CocoOnPlaces"),
    "image_csv": ("image_csv", "ImageCsv"),
}


def benchmark_names() -> tuple[str, ...]:
    """Names that `open_benchmark` knows."""
    return tuple(_BUILDERS)


def benchmark_options(name: str) -> dict[str, Any]:
    """Options of a benchmark with their defaults.

    Args:
        name: One of `benchmark_names()`.

    Returns:
        Keyword of `open_benchmark` to default; `inspect.Parameter.empty` where it must be given.

    Raises:
        DatasetError: The name is unknown.
    """
    return reader_options(_find_builder(name).READER)


def open_benchmark(
    name: str,
    data_dir: str | os.PathLike,
    *,
    prepared_dir: str | os.PathLike | None = None,
    on_bad_image: OnBadImage = "error",
    check_counts: bool = True,
    num_threads: int | None = None,
    **options: Any,
) -> ImageSource:
    """The images of a benchmark with all that is known of each, from local files.

    Nothing is downloaded. Without `prepared_dir` nothing is copied or converted either; every image
    is decoded once to find damaged ones. With it, the images are written there by the benchmark's
    TFDS builder, as they stand, unless they are there already.

    Args:
        name: One of `benchmark_names()`.
        data_dir: Folder with the published layout, see the benchmark's reader.
        prepared_dir: Folder of TFDS for prepared benchmarks; None reads the published files.
        on_bad_image: "error", or "skip" to leave out missing and damaged images with a warning.
        check_counts: Whether numbers of images that differ from the published ones are an error.
        num_threads: Images checked at a time; default the number of cores.
        **options: Of the benchmark, see `benchmark_options`.

    Returns:
        Random access by row: training images first, then those of val and of test.

    Raises:
        DatasetError: The name or an option is unknown, or files are missing, malformed or damaged;
            says which.
    """
    builder_class = _find_builder(name)
    if prepared_dir is None:
        benchmark, records = read_listing(
            builder_class.READER, data_dir, options, check_numbers=check_counts
        )
        records, skipped = check_images(records, on_bad_image, num_threads=num_threads)
        return FileSource(benchmark, records, skipped)
    from w2s_jax.datasets.prepared import prepare

    builder = builder_class(
        data_dir,
        options=options,
        on_bad_image=on_bad_image,
        check_counts=check_counts,
        num_threads=num_threads,
        data_dir=os.fspath(prepared_dir),
    )
    return prepare(builder)


def open_prepared(folder: str | os.PathLike) -> ImageSource:
    """The images of a benchmark that was prepared before, without its published files.

    Args:
        folder: That of the prepared version, which holds `dataset_info.json`.

    Returns:
        As `open_benchmark` with `prepared_dir`.

    Raises:
        DatasetError: The folder was not prepared by a builder of this package, or is damaged.
    """
    from w2s_jax.datasets.prepared import PreparedSource

    return PreparedSource(folder)


def _find_builder(name: str) -> Any:
    if name not in _BUILDERS:
        raise DatasetError(f"There is no benchmark {name!r}; known: {', '.join(_BUILDERS)}.")
    module, builder = _BUILDERS[name]
    return getattr(importlib.import_module(f"w2s_jax.datasets.{module}"), builder)
