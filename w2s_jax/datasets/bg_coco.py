"""BG-COCO: COCO objects pasted on scene photographs, most on the scene of their class.

No published recipe is known to us: **this one is ours**, and results on it compare with each other,
not with published ones. Class number k is at home on scene number k. In order:

1. Of every photograph with objects of one class only, the largest object that is no crowd and
   has `min_area` square pixels is a candidate. Candidates and scene photographs are ordered by a
   hash of (seed, name); test takes the first ones, then val, then train. None is used twice.
2. Of a class's n images in a split, floor(n eta + 1/2) are minority, on the other scenes in turn:
   eta is `eta_o` in train and `eta_test` in val and test.
3. A scene's central square is resized to `size`; the object, cut out by its mask, is resized so
   that its longer side is `object_scale` of that, and pasted at a hashed position.

`bg_coco_making.make_bg_coco` writes JPEG files, `manifest.csv` with every pasted pair, and
`recipe.json`; the reader and the TFDS builder take that folder.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import find_folder, path_inside, read_code, read_table

FORMAT = 1
MANIFEST, RECIPE = "manifest.csv", "recipe.json"
COLUMNS: Sequence[str] = (
    "filename class scene split y a coco_image coco_annotation coco_file scene_file left top width "
    "height sha256"
).split()


@dataclasses.dataclass(frozen=True)
class BgCocoRecipe:
    """The parameters of our recipe, see the module's docstring.

    Attributes:
        classes: Class to COCO categories, such as {"cat": ["cat"], "dog": ["dog"]}.
        scenes: Scene to folders of photographs, such as {"indoor": ["l/living_room"], "outdoor":
            ["p/park"]}; the first is that of the first class, and so on.
        eta_o: Minority fraction of train.
        eta_test: Minority fraction of val and test.
        per_class: Images of each class by split.
        size: Side of the images, pixels.
        object_scale: Longer side of an object, as a share of `size`.
        min_area: Least area of an object in its photograph, square pixels.
        seed: Of all choices.

    Raises:
        DatasetError: A parameter makes no sense.
    """

    classes: Mapping[str, Sequence[str]]
    scenes: Mapping[str, Sequence[str]]
    eta_o: float = 0.05
    eta_test: float = 0.5
    per_class: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"train": 1000, "val": 100, "test": 250}
    )
    size: int = 224
    object_scale: float = 0.6
    min_area: float = 10_000
    seed: int = 0

    def __post_init__(self):
        categories = [category for names in self.classes.values() for category in names]
        sizes = f"{len(self.classes)} classes and {len(self.scenes)} scenes"
        for problem, found in {
            "give at least two classes": len(self.classes) < 2,
            f"there are {sizes}; give one scene for each class": (
                len(self.classes) != len(self.scenes)
            ),
            "a category belongs to several classes": len(set(categories)) < len(categories),
            "per_class must have numbers for train, val and test, of 0 and more": (
                set(self.per_class) != {"train", "val", "test"} or min(self.per_class.values()) < 0
            ),
            "eta_o and eta_test must be in [0, 1]": not (
                0 <= self.eta_o <= 1 and 0 <= self.eta_test <= 1
            ),
            "object_scale must be in (0, 1], and size at least 8": not (
                0 < self.object_scale <= 1 and self.size >= 8
            ),
        }.items():
            if found:
                raise DatasetError(f"BG-COCO cannot be made: {problem}.")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in their order."""
        return tuple(self.classes)

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Names of the scenes in their order."""
        return tuple(self.scenes)

    def num_minority(self, split: str) -> int:
        """Minority images of each class in a split."""
        eta = self.eta_o if split == "train" else self.eta_test
        exact = self.per_class[split] * Decimal(str(eta)) + Decimal("0.5")
        return int(exact.to_integral_value(rounding=ROUND_FLOOR))

    def cells(self) -> list[tuple[str, int, int]]:
        """Split, class and scene of every image, test first: it stays the same as train grows."""
        number = len(self.classes)

        def scene(label: int, row: int, split: str) -> int:
            if row >= self.num_minority(split):
                return label
            return (label + 1 + row % (number - 1)) % number

        return [
            (split, label, scene(label, row, split))
            for split in ("test", "val", "train")
            for label in range(number)
            for row in range(self.per_class[split])
        ]


def read_bg_coco(data_dir: str | os.PathLike) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of a folder that `make_bg_coco` wrote.

    Args:
        data_dir: The folder.

    Returns:
        The benchmark and its images in the order of the manifest.

    Raises:
        DatasetError: The manifest or recipe is missing or malformed.
    """
    folder = find_folder(data_dir, "bg_coco", MANIFEST)
    recipe = _read_recipe(Path(folder, RECIPE))
    size = len(recipe.classes)
    codes = {str(code): code for code in range(size)}
    splits = {name: name for name in recipe.per_class}
    records = []
    for number, row in enumerate(read_table(Path(folder, MANIFEST), COLUMNS), start=1):
        where = f"{folder}/{MANIFEST}, row {number}"
        records.append(
            ImageRecord(
                image=path_inside(folder, row["filename"]),
                id=row["filename"],
                label=read_code(row, "y", codes, where),
                split=read_code(row, "split", splits, where),
                attribute=read_code(row, "a", codes, where),
            )
        )
    counts = {split: np.zeros((size, size), int) for split in splits}
    for split, label, scene in recipe.cells():
        counts[split][label, scene] += 1
    benchmark = ImageBenchmark(
        name="bg_coco",
        classes=recipe.class_names,
        attributes=recipe.scene_names,
        minority_cells=tuple(tuple(y != a for a in range(size)) for y in range(size)),
        eta_o=recipe.num_minority("train") / max(recipe.per_class["train"], 1),
        licence="that of the COCO photographs (Flickr's terms) and of the scenes given",
        url="https://cocodataset.org",
        citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; the recipe is "
        "that of w2s_jax",
        expected_counts={
            split: tuple(tuple(int(n) for n in row) for row in table)
            for split, table in counts.items()
        },
        notes="the recipe is ours, not that of a publication: w2s_jax.datasets.bg_coco",
    )
    return benchmark, records


def _read_recipe(path: Path) -> BgCocoRecipe:
    known = {field.name for field in dataclasses.fields(BgCocoRecipe)}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = content["format"]
        recipe = BgCocoRecipe(**{k: v for k, v in content.items() if k in known})
    except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise DatasetError(
            f"{path} cannot be used ({type(error).__name__}: {error}); make the folder with "
            "make_bg_coco."
        ) from None
    if found != FORMAT:
        raise DatasetError(f"{path} has format {found!r}, expected {FORMAT}; make it again.")
    return recipe


class BgCoco(ImageBuilder):
    """TFDS builder of a folder that `make_bg_coco` wrote, see `read_bg_coco`."""

    READER = staticmethod(read_bg_coco)
