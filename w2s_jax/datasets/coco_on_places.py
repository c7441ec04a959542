"""COCO-on-Places: COCO objects on scenes of Places, as HDF5 files made by the authors' script.

Arrays of a file: `images` [n, 3, 64, 64] (or channels last) in 0 … 1 or uint8, `y` [n] class and
`g` [n], 0 for a scene that most of the class's training images have and 1 for another one.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import path_inside

CLASSES = ("boat", "airplane", "truck", "dog", "zebra", "horse", "bird", "train", "bus")
SUFFIXES = (".h5py", ".h5", ".hdf5")
VAL_FILES = ("validtest", "valoodtest", "valsgtest")
TEST_FILES = ("idtest", "oodtest", "sgtest")
# Their scenes are unseen ones, or those of other classes; their `g` is absent or means nothing.
OTHER_SCENES = ("valoodtest", "valsgtest", "oodtest", "sgtest")


@dataclasses.dataclass(frozen=True)
class Hdf5Image:
    """One image of an HDF5 file, which is opened once in a process.

    Attributes:
        path: The file.
        row: Index into its array `images`.
    """

    path: str
    row: int

    def load(self) -> np.ndarray:
        """The image uint8 [H, W, 3]; values in 0 … 1 are rounded to 256 levels.

        Raises:
            DatasetError: The file cannot be read, or values are not in 0 … 1.
        """
        where = f"{self.path}, image {self.row}"
        try:
            image = np.asarray(_open_file(self.path, os.getpid())["images"][self.row])
        except (OSError, KeyError, ValueError, IndexError) as error:
            raise DatasetError(f"{where} cannot be read ({error}).") from None
        if image.shape[0] == 3 and image.shape[-1] != 3:
            image = image.transpose(1, 2, 0)
        if image.dtype == np.uint8:
            return np.ascontiguousarray(image)
        # Resampling overshoots by rounding errors.
        if not (image.min() >= -1e-3 and image.max() <= 1 + 1e-3):
            raise DatasetError(
                f"{where} has values from {image.min():g} to {image.max():g}, expected 0 to 1."
            )
        return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def read_coco_on_places(
    data_dir: str | os.PathLike,
    *,
    val_files: Sequence[str] = ("validtest",),
    test_files: Sequence[str] = ("idtest",),
    classes: Sequence[str] = CLASSES,
) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of COCO-on-Places.

    Args:
        data_dir: Folder with `train.h5py`, `validtest.h5py`, `idtest.h5py` and so on (also
            `.h5` or `.hdf5`).
        val_files: Some of `VAL_FILES`.
        test_files: Some of `TEST_FILES`; "sgtest" and "oodtest" have the objects of "idtest" on
            scenes of other classes and on unseen ones, all of them minority.
        classes: Names of the classes in the order of `y`.

    Returns:
        The benchmark and its images. Images of val (or test) with one row number share their object
        and are one source.

    Raises:
        DatasetError: A file or array is missing or malformed, or h5py is not installed.
    """
    records: list[ImageRecord] = []
    for split, files, known in (
        ("train", ("train",), ("train",)),
        ("val", tuple(val_files), VAL_FILES),
        ("test", tuple(test_files), TEST_FILES),
    ):
        for name in files:
            if name not in known:
                raise DatasetError(f"{split} has no file {name!r}; known: {', '.join(known)}.")
            records += _list(data_dir, name, split, shared=len(files) > 1)
    in_train = [record.attribute for record in records if record.split == "train"]
    benchmark = ImageBenchmark(
        name="coco_on_places",
        classes=tuple(classes),
        attributes=("own scenes", "other scenes"),
        minority_cells=((False, True),) * len(classes),
        eta_o=sum(attribute == 1 for attribute in in_train) / max(len(in_train), 1),
        licence="images of COCO (Flickr's terms) and Places (non-commercial research, education)",
        url="https://github.com/Faruk-Ahmed/predictive_group_invariance",
        citation="Ahmed, Bengio, van Seijen and Courville, Systematic Generalisation with Group "
        "Invariant Predictions, ICLR 2021",
        # From memory of the authors' script; no files of it were at hand to count.
        expected_counts={
            "train": 800 * len(CLASSES),
            "val": 100 * len(CLASSES) * len(val_files),
            "test": 100 * len(CLASSES) * len(test_files),
        },
        notes=f"val: {', '.join(val_files)}; test: {', '.join(test_files)}",
    )
    return benchmark, records


def _list(data_dir: str | os.PathLike, name: str, split: str, shared: bool) -> list[ImageRecord]:
    paths = [path_inside(data_dir, name + suffix) for suffix in SUFFIXES]
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        raise DatasetError(
            f"{os.fspath(data_dir)} lacks {name}.h5py (or {' or '.join(SUFFIXES[1:])}); give the "
            "folder that the authors' script wrote."
        )
    try:
        file = _open_file(path, os.getpid())
        arrays: dict[str, Any] = {key: file[key] for key in ("images", "y", "g") if key in file}
    except OSError as error:
        raise DatasetError(f"{path} cannot be read as HDF5 ({error}); copy it again.") from None
    other = name in OTHER_SCENES
    missing = [
        key for key in ("images", "y", "g") if key not in arrays and (key, other) != ("g", True)
    ]
    if missing:
        raise DatasetError(f"{path} lacks the arrays {', '.join(missing)}; it has {list(file)}.")
    shape = arrays["images"].shape
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise DatasetError(f"{path} has images of shape {shape}, expected [n, 3, H, W].")
    labels = np.asarray(arrays["y"])
    codes = np.ones(len(labels), int) if other else np.asarray(arrays["g"])
    if not labels.shape == codes.shape == shape[:1]:
        raise DatasetError(
            f"{path} has {shape[0]} images, y of shape {labels.shape} and g of {codes.shape}."
        )
    return [
        ImageRecord(
            image=Hdf5Image(path, row),
            id=f"{name}/{row:05d}",
            label=int(label),
            split=split,
            attribute=int(code),
            source_id=f"{split}/{row:05d}" if shared else None,
        )
        for row, (label, code) in enumerate(zip(labels, codes, strict=True))
    ]


@functools.lru_cache(maxsize=16)
def _open_file(path: str, process: int) -> Any:
    """An open HDF5 file; `process` keeps a fork from reading through its parent's handle."""
    del process
    try:
        import h5py
    except ImportError:
        raise DatasetError(
            "HDF5 files are read by h5py, which is not installed; run `pip install "
            "'w2s_jax[images]'`."
        ) from None
    return h5py.File(path, "r")


class CocoOnPlaces(ImageBuilder):
    """TFDS builder of COCO-on-Places, see `read_coco_on_places`."""

    READER = staticmethod(read_coco_on_places)
