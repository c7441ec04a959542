"""Checks of a benchmark's listing: ids, labels, attributes, splits and numbers of images."""

import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.images import SPLITS, ImageBenchmark, ImageRecord, SplitCount, minority_of

# Takes the folder and keyword options.
Reader = Callable[..., tuple[ImageBenchmark, list[ImageRecord]]]


def check_records(benchmark: ImageBenchmark, records: Sequence[ImageRecord]) -> None:
    """That ids are unique and labels, attributes and splits are those of the benchmark.

    Raises:
        DatasetError: naming the first record that is wrong.
    """
    if not records:
        raise DatasetError(f"{benchmark.name} has no images; give the folder that holds them.")
    id_, count = Counter(record.id for record in records).most_common(1)[0]
    if count > 1:
        raise DatasetError(f"{benchmark.name} has {count} images with the id {id_!r}.")
    for record in records:
        if record.split not in SPLITS:
            problem = f"split {record.split!r}; known: {', '.join(SPLITS)}"
        elif not -1 <= record.label < len(benchmark.classes):
            problem = f"label {record.label}, but there are {len(benchmark.classes)} classes"
        elif not 0 <= (record.attribute or 0) < max(len(benchmark.attributes), 1):
            problem = (
                f"attribute {record.attribute}, known are 0 to {len(benchmark.attributes) - 1}"
            )
        else:
            continue
        raise DatasetError(f"{benchmark.name}: {record.id!r} has {problem}.")


def check_counts(benchmark: ImageBenchmark, records: Sequence[ImageRecord]) -> None:
    """That every split has its expected number of images, by group where that is known.

    Raises:
        DatasetError: A number differs; tells both.
    """
    wrong = []
    for split, expected in benchmark.expected_counts.items():
        rows = [record for record in records if record.split == split]
        found = len(rows) if isinstance(expected, int) else _count_groups(benchmark, rows)
        if found != expected:
            wrong.append(f"{split} has {_show(found)}, expected {_show(expected)}")
    if wrong:
        groups = "(label, attribute)" if benchmark.attributes else "(label, minority)"
        raise DatasetError(
            f"{benchmark.name}: numbers of images (a table is by {groups}) differ: "
            f"{'; '.join(wrong)}. Use the published files, or accept others with "
            "check_counts=False."
        )


def _count_groups(
    benchmark: ImageBenchmark, records: Sequence[ImageRecord]
) -> tuple[tuple[int, ...], ...]:
    width = len(benchmark.attributes) or 2
    table = np.zeros((len(benchmark.classes), width), int)
    for record in records:
        inner = record.attribute if benchmark.attributes else minority_of(benchmark, record)
        if record.label >= 0 and inner is not None:
            table[record.label, int(inner)] += 1
    return tuple(tuple(int(n) for n in row) for row in table)


def _show(count: SplitCount) -> str:
    return str(count) if isinstance(count, int) else str([list(row) for row in count])


def read_listing(
    reader: Reader,
    source_dir: str | os.PathLike,
    options: Mapping[str, Any],
    *,
    check_numbers: bool = True,
) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """A benchmark and all of its images, checked, without opening an image.

    Args:
        reader: Of the benchmark.
        source_dir: Folder with the published layout.
        options: Keywords of the reader.
        check_numbers: Whether unexpected numbers of images are an error.

    Returns:
        The benchmark, and its images: those of train first, then those of val and of test.

    Raises:
        DatasetError: An option is unknown or missing, or the files are missing or malformed.
    """
    known = reader_options(reader)
    for option in options:
        if option not in known:
            raise DatasetError(
                f"There is no option {option!r}; known: {', '.join(known) or 'none'}."
            )
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            raise DatasetError(f"The option {option!r} must be given.")
    for option, value in options.items():
        annotation = inspect.signature(reader).parameters[option].annotation
        if not _fits(value, annotation):
            expected = getattr(annotation, "__name__", annotation)
            raise DatasetError(f"The option {option} is {value!r}, expected {expected}.")
    benchmark, records = reader(source_dir, **options)
    check_records(benchmark, records)
    if check_numbers:
        check_counts(benchmark, records)
    return benchmark, sorted(records, key=lambda record: SPLITS.index(record.split))


def reader_options(reader: Reader) -> dict[str, Any]:
    """Keyword to default of a reader, `inspect.Parameter.empty` where it must be given."""
    parameters = list(inspect.signature(reader).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def _fits(value: Any, annotation: Any) -> bool:
    """Whether an option's value, which may come from a flag, is what its annotation says."""
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(annotation))
    if origin is not None:
        inner = value.values() if isinstance(value, Mapping) else value
        container = isinstance(value, origin) and not isinstance(value, str)
        return container and all(_fits(item, get_args(annotation)[-1]) for item in inner)
    if annotation in (int, float):
        kinds = (int, float) if annotation is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, annotation)
