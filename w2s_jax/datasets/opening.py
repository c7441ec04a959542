"""Opening an image benchmark by its name."""

import importlib
import inspect
import os
from collections.abc import Callable
from typing import Any

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.checks import check_counts as check_expected_counts
from w2s_jax.datasets.checks import check_records
from w2s_jax.datasets.decoding import OnBadImage, check_images
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.source import FileSource, ImageSource, sort_by_split

Reader = Callable[..., tuple[ImageBenchmark, list[ImageRecord]]]

_READERS = {
    "waterbirds": "w2s_jax.datasets.waterbirds:read_waterbirds",
}


def benchmark_names() -> tuple[str, ...]:
    """Names that `open_benchmark` knows."""
    return tuple(_READERS)


def benchmark_options(name: str) -> dict[str, Any]:
    """Options of a benchmark with their defaults.

    Args:
        name: One of `benchmark_names()`.

    Returns:
        Keyword of `open_benchmark` to default; `inspect.Parameter.empty` where it must be given.

    Raises:
        DatasetError: The name is unknown.
    """
    parameters = list(inspect.signature(_find_reader(name)).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def open_benchmark(
    name: str,
    data_dir: str | os.PathLike,
    *,
    on_bad_image: OnBadImage = "error",
    check_counts: bool = True,
    num_threads: int | None = None,
    **options: Any,
) -> ImageSource:
    """The images of a benchmark with all that is known of each, from local files.

    Nothing is downloaded, copied or converted. Every image is decoded once to find damaged ones.

    Args:
        name: One of `benchmark_names()`.
        data_dir: Folder with the published layout, see the benchmark's reader.
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
    reader = _find_reader(name)
    known = benchmark_options(name)
    for option in options:
        if option not in known:
            raise DatasetError(
                f"{name} has no option {option!r}; known: {', '.join(known) or 'none'}."
            )
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            raise DatasetError(f"{name} needs the option {option!r}.")
    benchmark, records = reader(data_dir, **options)
    check_records(benchmark, records)
    if check_counts:
        check_expected_counts(benchmark, records)
    records, skipped = check_images(sort_by_split(records), on_bad_image, num_threads=num_threads)
    return FileSource(benchmark, records, skipped)


def _find_reader(name: str) -> Reader:
    if name not in _READERS:
        raise DatasetError(f"There is no benchmark {name!r}; known: {', '.join(_READERS)}.")
    module, function = _READERS[name].split(":")
    return getattr(importlib.import_module(module), function)
