"""ImageNet-9 of the backgrounds challenge: objects on backgrounds of their own or of any class."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.compositing import unit_hash
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import list_folders, list_images, path_inside

TEST_FOLDER = "bg_challenge"
CLASS_FOLDERS = (
    "00_dog",
    "01_bird",
    "02_wheeled vehicle",
    "03_reptile",
    "04_carnivore",
    "05_insect",
    "06_musical instrument",
    "07_primate",
    "08_fish",
)
# Variant to whether its background is one of another class: mixed_rand's is of a random class (the
# object's own by chance, one time in nine), mixed_next's of the next one. Where there is
# no background, or the object's own, nothing contradicts the label.
VARIANTS = {
    "original": False,
    "mixed_same": False,
    "mixed_rand": True,
    "mixed_next": True,
    "only_fg": False,
    "no_fg": False,
    "only_bg_b": False,
    "only_bg_t": False,
}
# About as many by its authors, exactly so from memory; no archive was at hand to count.
TEST_IMAGES_PER_CLASS = 450
_IMAGENET_ID = re.compile(r"n\d{8}_\d+")


def make_benchmark(
    train_variants: Sequence[str] = ("mixed_same", "mixed_rand"),
    test_variants: Sequence[str] = ("mixed_same", "mixed_rand"),
    release_train_share: float = 0.0,
) -> ImageBenchmark:
    """What ImageNet-9 is with the given variants.

    Args:
        train_variants: In train.
        test_variants: In test.
        release_train_share: Share of the release's objects that are in train.

    Returns:
        The benchmark.
    """
    share = release_train_share > 0
    default = tuple(test_variants) == ("mixed_same", "mixed_rand")
    name = "imagenet9" if default else f"imagenet9-{'-'.join(test_variants)}"
    sizes = [sum(VARIANTS[v] == m for v in test_variants) for m in (False, True)]
    counts = tuple(TEST_IMAGES_PER_CLASS * size for size in sizes)
    return ImageBenchmark(
        name=name + ("-release" if share else "" if train_variants else "-test"),
        classes=tuple(folder[3:] for folder in CLASS_FOLDERS),
        # Both variants have as many training images: no fraction between them is natural.
        eta_o=None,
        licence="images of ImageNet: non-commercial research and education only",
        url="https://github.com/MadryLab/backgrounds_challenge/releases",
        citation="Xiao, Engstrom, Ilyas and Madry, Noise or Signal: The Role of Image Backgrounds "
        "in Object Recognition, ICLR 2021",
        # How a hash divides the release among splits is not known beforehand.
        expected_counts={} if release_train_share else {"test": (counts,) * len(CLASS_FOLDERS)},
        notes="minority: the background is not chosen to agree with the label; that of mixed_rand "
        "agrees by chance in one image of nine, and its names do not tell in which"
        + (f"; {release_train_share} of the release's objects are in train" * share),
    )


def read_imagenet9(
    data_dir: str | os.PathLike,
    *,
    train_variants: Sequence[str] = ("mixed_same", "mixed_rand"),
    test_variants: Sequence[str] = ("mixed_same", "mixed_rand"),
    release_train_share: float = 0.0,
) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of ImageNet-9.

    The training archives' own val folders are not used: their authors say to ignore them.

    Args:
        data_dir: Folder with the extracted archives: `<variant>/train/<class>/` of the training
            archives, `bg_challenge/<variant>/val/<class>/` of the release.
        train_variants: Training archives to use; () for none, to open an extra test set.
        test_variants: Test sets to use, such as ("only_fg",).
        release_train_share: Share of the release's objects whose images become train, chosen by a
            hash; for use without the training archives (our own division, not a published one).

    Returns:
        The benchmark and its images. The source of an image is the ImageNet photograph that its
        object is from, the first ImageNet id in its name; images on other backgrounds share it.

    Raises:
        DatasetError: A variant is unknown, the folder of a variant or class is missing, or a name
            does not tell its object where the release is divided.
    """
    for variants in (train_variants, test_variants):
        for variant in variants:
            if variant not in VARIANTS:
                raise DatasetError(
                    f"{variants!r} are no variants of ImageNet-9; give a tuple of some of "
                    f"{', '.join(VARIANTS)}."
                )
    folder, records = os.fspath(data_dir), []
    for variant in train_variants:
        records += _list(folder, f"{variant}/train", variant, "train")
    inner = TEST_FOLDER if Path(folder, TEST_FOLDER).is_dir() else ""
    for variant in test_variants:
        place = "/".join(filter(None, (inner, variant, "val")))
        records += _list(folder, place, variant, "test")
    if release_train_share:
        records = [_divide(record, release_train_share) for record in records]
    return make_benchmark(train_variants, test_variants, release_train_share), records


def _divide(record: ImageRecord, share: float) -> ImageRecord:
    """Moves an image of the release to train by a hash of its object."""
    if not 0 < share < 1:
        raise DatasetError(f"release_train_share is {share}, but must lie between 0 and 1.")
    if record.source_id is None:
        raise DatasetError(
            f"{record.id} has no ImageNet id in its name, so its object could be in train as "
            "well as in test; use the training archives, and no release_train_share."
        )
    move = record.split == "test" and unit_hash(0, "imagenet9", record.source_id) < share
    return record._replace(split="train") if move else record


def _list(folder: str, place: str, variant: str, split: str) -> list[ImageRecord]:
    found = list_folders(Path(folder, place))
    missing = [name for name in CLASS_FOLDERS if name not in found]
    if missing:
        raise DatasetError(
            f"{folder}/{place} lacks the class folders {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, found)) or 'none'}."
        )
    records = []
    for label, class_folder in enumerate(CLASS_FOLDERS):
        for name in list_images(Path(folder, place, class_folder)):
            source = _IMAGENET_ID.search(name)
            records.append(
                ImageRecord(
                    image=path_inside(folder, f"{place}/{class_folder}/{name}"),
                    id=f"{split}/{variant}/{class_folder}/{name}",
                    label=label,
                    split=split,
                    minority=VARIANTS[variant],
                    source_id=source[0] if source else None,
                )
            )
    return records


class ImageNet9(ImageBuilder):
    """TFDS builder of ImageNet-9, see `read_imagenet9`."""

    name = "imagenet9"
    READER = staticmethod(read_imagenet9)
