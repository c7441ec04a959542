"""Fashion-MNIST garments on texture photographs, each kind of garment mostly on its texture.

The recipe is ours. Garments of the training file are train, those of the test file are test. Of a
class's n images, floor(n eta + 1/2) are minority, on the other class's texture: eta is `eta_o` in
train and `eta_test` in test. A background is a square cut from a photograph at a hashed place,
turned and mirrored by a hash; train's lie in the left part of the photograph and test's in the
right part, so that no pixel is in both. Garments keep their greys, and their black surroundings
are cut away. Images are composed when they are read.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Decimal

import numpy as np

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.builder import ImageBuilder
from w2s_jax.datasets.compositing import paste_object, unit_hash
from w2s_jax.datasets.decoding import decode_image, read_content
from w2s_jax.datasets.idx import read_idx
from w2s_jax.datasets.images import ImageBenchmark, ImageRecord
from w2s_jax.datasets.layout import path_inside

GARMENTS: tuple[str, ...] = tuple(
    "t-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split()
)
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
# Of the uncompressed files: packages compress them anew.
CHECKSUMS = {
    "train-images-idx3-ubyte": (
        "sha256:c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    ),
    "train-labels-idx1-ubyte": (
        "sha256:bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
    ),
    "t10k-images-idx3-ubyte": (
        "sha256:5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
    ),
    "t10k-labels-idx1-ubyte": (
        "sha256:0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
    ),
}
# Share of a photograph's columns, from the left, that train's backgrounds come from.
TRAIN_SHARE = 0.7
# A garment is opaque from this grey on.
OPAQUE_FROM = 32


@dataclasses.dataclass(frozen=True)
class Composite:
    """A garment on a square of a texture; composed when it is loaded.

    Attributes:
        garments: IDX file of garments.
        row: Index into it.
        texture: File of the texture photograph.
        left: First column of the square.
        top: First row of the square.
        size: Side of the square and of the image, pixels.
        turns: Quarter turns of the square; 4 and more: mirrored before.
        scale: Longer side of the garment, as a share of `size`.
        position: Of the garment in the room that is left, x and y.
    """

    garments: str
    row: int
    texture: str
    left: int
    top: int
    size: int
    turns: int
    scale: float
    position: tuple[float, float]

    def load(self) -> np.ndarray:
        """The image, uint8 [size, size, 3].

        Raises:
            DatasetError: A file cannot be read, or the garment is empty.
        """
        photograph = _read_texture(self.texture)
        rows, columns = (slice(start, start + self.size) for start in (self.top, self.left))
        square = photograph[rows, columns]
        square = np.rot90(square[:, ::-1] if self.turns >= 4 else square, self.turns % 4)
        garment = _read_idx(self.garments)[self.row]
        image, _ = paste_object(
            np.repeat(garment[..., None], 3, axis=-1),
            np.minimum(garment / OPAQUE_FROM, 1),
            square,
            scale=self.scale,
            position=self.position,
        )
        return image


def read_fashion_textures(
    data_dir: str | os.PathLike,
    *,
    textures_dir: str,
    textures: Mapping[str, str] | None = None,
    classes: Sequence[str] = ("pullover", "coat"),
    eta_o: float = 0.05,
    eta_test: float = 0.5,
    train_per_class: int = 5000,
    test_per_class: int = 1000,
    size: int = 96,
    object_scale: float = 0.6,
    seed: int = 0,
) -> tuple[ImageBenchmark, list[ImageRecord]]:
    """The listing of garments on textures.

    Args:
        data_dir: Folder with Fashion-MNIST's four `.gz` files.
        textures_dir: Folder with the texture photographs.
        textures: Name to file of the texture of each class in turn; default
            {"grass": "grass.png", "gravel": "gravel.png"}, as scikit-image ships them.
        classes: Two or more of `GARMENTS`.
        eta_o: Minority fraction of train.
        eta_test: Minority fraction of test.
        train_per_class: Training images of each class.
        test_per_class: Test images of each class.
        size: Side of the images, pixels.
        object_scale: Longer side of a garment, as a share of `size`.
        seed: Of all choices.

    Returns:
        The benchmark and its images.

    Raises:
        DatasetError: A file is missing, damaged or too small, or a parameter makes no sense.
    """
    chosen = dict(textures or {"grass": "grass.png", "gravel": "gravel.png"})
    unknown = [name for name in classes if name not in GARMENTS]
    if unknown or len(set(classes)) < len(classes) or not 2 <= len(classes) == len(chosen):
        raise DatasetError(
            f"classes are {tuple(classes)} and textures {tuple(chosen)}; give two or more "
            f"different ones of {', '.join(GARMENTS)}, and a texture for each."
        )
    if not (0 <= eta_o <= 1 and 0 <= eta_test <= 1 and 0 < object_scale <= 1 and size >= 8):
        raise DatasetError("eta_o, eta_test and object_scale are shares, and size is at least 8.")
    files = [path_inside(textures_dir, file) for file in chosen.values()]
    records: list[ImageRecord] = []
    for split, number, eta in (
        ("train", train_per_class, eta_o),
        ("test", test_per_class, eta_test),
    ):
        images, labels = (path_inside(data_dir, file) for file in FILES[split])
        garments, kinds = _read_idx(images), _read_idx(labels)
        if garments.ndim != 3 or kinds.shape != garments.shape[:1]:
            raise DatasetError(
                f"{images} has shape {garments.shape} and {labels} {kinds.shape}; give the "
                "published files."
            )
        minority = _round_half_up(number * Decimal(str(eta)))
        for label, name in enumerate(classes):
            found = np.flatnonzero(kinds == GARMENTS.index(name)).tolist()
            if len(found) < number:
                raise DatasetError(f"{images} has {len(found)} of {name}, {number} are asked for.")
            found.sort(key=lambda row: unit_hash(seed, split, row))
            for order, row in enumerate(found[:number]):
                shift = 1 + order % (len(classes) - 1) if order < minority else 0
                attribute = (label + shift) % len(classes)
                records.append(
                    ImageRecord(
                        image=_compose(
                            images, row, files[attribute], split, size, object_scale, seed
                        ),
                        id=f"{split}/{row:05d}",
                        label=label,
                        split=split,
                        attribute=attribute,
                    )
                )
    cells = tuple(tuple(y != a for a in range(len(classes))) for y in range(len(classes)))
    benchmark = ImageBenchmark(
        name="fashion_textures",
        classes=tuple(classes),
        attributes=tuple(chosen),
        minority_cells=cells,
        eta_o=_round_half_up(train_per_class * Decimal(str(eta_o))) / max(train_per_class, 1),
        licence="Fashion-MNIST: MIT; textures: that of the photographs (scikit-image's are CC0)",
        url="https://github.com/zalandoresearch/fashion-mnist",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017; the recipe is that of w2s_jax",
        checksums=CHECKSUMS,
        expected_counts={
            "train": train_per_class * len(classes),
            "test": test_per_class * len(classes),
        },
        notes="a composite by our own recipe: w2s_jax.datasets.fashion_textures; "
        f"size {size}, object_scale {object_scale}, eta_test {eta_test}, seed {seed}",
    )
    return benchmark, records


def _compose(
    garments: str, row: int, texture: str, split: str, size: int, scale: float, seed: int
) -> Composite:
    height, width, _ = _read_texture(texture).shape
    border = int(width * TRAIN_SHARE)
    first, last = (0, border) if split == "train" else (border, width)
    if min(height, last - first) < size:
        raise DatasetError(
            f"{texture} is {width} x {height} pixels, too small: {split} takes squares of {size} "
            f"from columns {first} to {last}."
        )

    def unit(what: str) -> float:
        return unit_hash(seed, what, split, row)

    return Composite(
        garments,
        row,
        texture,
        left=first + int(unit("left") * (last - first - size + 1)),
        top=int(unit("top") * (height - size + 1)),
        size=size,
        turns=int(unit("turns") * 8),
        scale=scale,
        position=(unit("x"), unit("y")),
    )


def _round_half_up(value: Decimal) -> int:
    return int((value + Decimal("0.5")).to_integral_value(rounding=ROUND_FLOOR))


_read_idx = functools.lru_cache(maxsize=4)(read_idx)


@functools.lru_cache(maxsize=16)
def _read_texture(path: str) -> np.ndarray:
    return decode_image(read_content(path), path)


class FashionTextures(ImageBuilder):
    """TFDS builder of garments on textures, see `read_fashion_textures`."""

    READER = staticmethod(read_fashion_textures)
