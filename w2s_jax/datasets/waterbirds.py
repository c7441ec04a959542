"""Waterbirds: birds of CUB pasted on backgrounds of Places, most on the one that suits the bird."""

import os
from pathlib import Path

from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import find_folder, path_inside, read_code, read_table

FOLDER = "waterbird_complete95_forest2water2"
TABLE = "metadata.csv"

BENCHMARK = ImageBenchmark(
    name="waterbirds",
    classes=("landbird", "waterbird"),
    attributes=("land", "water"),
    minority_cells=((False, True), (True, False)),
    eta_o=240 / 4795,
    # The 240 minority images of train alone barely serve large fractions.
    pool="train+val",
    licence="images of CUB-200-2011 and Places: non-commercial research and education only",
    url="https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
    citation="Sagawa, Koh, Hashimoto and Liang, Distributionally Robust Neural Networks for Group "
    "Shifts, ICLR 2020",
    # Train as published, val and test from memory; no archive was at hand to count.
    expected_counts={
        "train": ((3498, 184), (56, 1057)),
        "val": ((467, 466), (133, 133)),
        "test": ((2255, 2255), (642, 642)),
    },
    notes="val and test are balanced between places within each class; the literature often "
    "quotes an average accuracy weighted by the groups of train",
)


def read_waterbirds(data_dir: str | os.PathLike) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of Waterbirds.

    Args:
        data_dir: The extracted folder `waterbird_complete95_forest2water2`, or the one above.

    Returns:
        The benchmark and its images in the order of `metadata.csv`.

    Raises:
        DatasetError: `metadata.csv` is missing or malformed, or names a file outside.
    """
    folder = find_folder(data_dir, FOLDER, TABLE)
    path = Path(folder, TABLE)
    records = []
    rows = read_table(path, ("img_filename", "y", "split", "place"))
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        name = row["img_filename"]
        records.append(
            ImageRecord(
                image=path_inside(folder, name),
                id=name,
                label=read_code(row, "y", {"0": 0, "1": 1}, where),
                split=read_code(row, "split", {"0": "train", "1": "val", "2": "test"}, where),
                attribute=read_code(row, "place", {"0": 0, "1": 1}, where),
            )
        )
    return BENCHMARK, records


class Waterbirds(ImageBuilder):
    """TFDS builder of Waterbirds, see `read_waterbirds`."""

    READER = staticmethod(read_waterbirds)
