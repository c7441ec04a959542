"""BFFHQ: age of faces (label), whose gender (attribute) goes with the age in most of train."""

import os
import re
from pathlib import Path

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import find_folder, list_images, path_inside

FOLDER = "bffhq"
# Published ratio to the share of bias-conflicting (minority) images in train.
RATIOS = {"0.5pct": 0.005, "1pct": 0.01, "2pct": 0.02, "5pct": 0.05}
TESTS = ("all", "conflict")
_NAME = re.compile(r"(.+)_([01])_([01])\.[A-Za-z]+")


def make_benchmark(ratio: str = "0.5pct", test: str = "all") -> ImageBenchmark:
    """What BFFHQ is at one of its ratios.

    Args:
        ratio: One of `RATIOS`.
        test: "all" test images, or the bias-"conflict"-ing ones only.

    Returns:
        The benchmark.
    """
    return ImageBenchmark(
        name=f"bffhq-{ratio}" + ("" if test == "all" else f"-{test}"),
        # Which number is which age and gender the published files do not say.
        classes=("age 0", "age 1"),
        attributes=("gender 0", "gender 1"),
        minority_cells=((False, True), (True, False)),
        eta_o=RATIOS[ratio],
        licence="images of FFHQ: CC BY-NC-SA 4.0 and the licence of each photograph on Flickr",
        url="https://github.com/kakaoenterprise/Learning-Debiased-Disentangled",
        citation="Kim, Lee and Choo, BiaSwap, ICCV 2021; Lee, Kim, Lee, Lee and Choo, Learning "
        "Debiased Representation via Disentangled Feature Augmentation, NeurIPS 2021",
        expected_counts=_expected_counts(ratio, test),
        notes="the literature tests on all test images or on the bias-conflicting ones only: tell "
        "which, and report the accuracy of both; the published files do not say which number "
        "stands for which age and gender",
    )


def _expected_counts(ratio: str, test: str) -> dict[str, int]:
    # From memory of papers, by split only and for the one ratio that all of them use; no archive
    # was at hand to count.
    if ratio != "0.5pct":
        return {}
    return {"train": 19200, "val": 1000, **({"test": 1000} if test == "all" else {})}


def read_bffhq(
    data_dir: str | os.PathLike, *, ratio: str = "0.5pct", test: str = "all"
) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of BFFHQ at one of its ratios.

    Args:
        data_dir: The extracted folder `bffhq`, or the one above.
        ratio: Folder with the training images: "0.5pct", "1pct", "2pct" or "5pct".
        test: "all" test images, or the bias-"conflict"-ing ones only, as some papers have it.

    Returns:
        The benchmark and its images.

    Raises:
        DatasetError: A folder is missing, or the name of an image does not fit its folder.
    """
    if ratio not in RATIOS:
        raise DatasetError(f"BFFHQ has no ratio {ratio!r}; known: {', '.join(RATIOS)}.")
    if test not in TESTS:
        raise DatasetError(f"test is {test!r}; known: {', '.join(TESTS)}.")
    folder = find_folder(data_dir, FOLDER, ratio)
    records = []
    for kind in ("align", "conflict"):
        for label in (0, 1):
            place = f"{ratio}/{kind}/{label}"
            for record in _list(folder, place, "train"):
                if (record.label, record.label != record.attribute) != (label, kind == "conflict"):
                    raise DatasetError(
                        f"{record.id} has label {record.label} and attribute {record.attribute} by "
                        f"its name, which do not belong in {place}; use the published folder."
                    )
                records.append(record)
    records += _list(folder, "valid", "val")
    tests = _list(folder, "test", "test")
    records += [r for r in tests if test == "all" or r.label != r.attribute]
    return make_benchmark(ratio, test), records


def _list(folder: str, place: str, split: str) -> list[ImageRecord]:
    records = []
    for name in list_images(Path(folder, place)):
        match = _NAME.fullmatch(name)
        if match is None:
            raise DatasetError(
                f"{place}/{name} is not named <id>_<label>_<attribute>.png, 0 or 1 for both; "
                "use the published files."
            )
        records.append(
            ImageRecord(
                image=path_inside(folder, f"{place}/{name}"),
                id=f"{place}/{name}",
                label=int(match[2]),
                split=split,
                attribute=int(match[3]),
            )
        )
    return records


class Bffhq(ImageBuilder):
    """TFDS builder of BFFHQ, see `read_bffhq`."""

    READER = staticmethod(read_bffhq)
