"""Writing a BG-COCO folder from local COCO and scene photographs; `bg_coco` tells the recipe."""

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.bg_coco import COLUMNS, FORMAT, MANIFEST, RECIPE, BgCocoRecipe
from w2s_jax.datasets.coco_masks import CocoObject, read_objects
from w2s_jax.datasets.compositing import crop_square, paste_object, unit_hash
from w2s_jax.datasets.decoding import (
    OnBadImage,
    check_images,
    decode_image,
    load_pillow,
    read_content,
)
from w2s_jax.datasets.images import ImageRecord
from w2s_jax.datasets.layout import list_images, path_inside

JPEG_QUALITY = 95

T = TypeVar("T")


class Pair(NamedTuple):
    """An object and the scene photograph that it is pasted on."""

    split: str
    label: int
    scene: int
    object: CocoObject
    scene_file: str


class Folders(NamedTuple):
    """Where photographs are."""

    images: str | os.PathLike
    scenes: str | os.PathLike


def make_bg_coco(
    out_dir: str | os.PathLike,
    recipe: BgCocoRecipe,
    *,
    annotations: str | os.PathLike,
    images_dir: str | os.PathLike,
    scenes_dir: str | os.PathLike,
    on_bad_image: OnBadImage = "error",
    num_threads: int | None = None,
) -> Path:
    """Writes a BG-COCO folder by our recipe; nothing is left where it fails.

    Args:
        out_dir: Folder to make; must not exist.
        recipe: Its parameters.
        annotations: COCO instance annotations, such as `instances_train2017.json`.
        images_dir: Folder with their photographs.
        scenes_dir: Folder with the folders of scene photographs that the recipe names.
        on_bad_image: "skip" takes the next photograph for a missing or damaged one.
        num_threads: Images at a time; default the number of cores.

    Returns:
        The folder.

    Raises:
        DatasetError: The folder exists, or files are missing, malformed or too few; says which.
    """
    out, folders = Path(out_dir), Folders(images_dir, scenes_dir)
    if out.exists():
        raise DatasetError(f"{out} exists already; give another folder or delete it.")
    pairs = _choose_pairs(recipe, annotations, folders, on_bad_image, num_threads)
    part = out.with_name(out.name + ".incomplete")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for pair in pairs:
            (part / _file_name(recipe, pair)).parent.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as threads:
            rows = list(threads.map(lambda pair: _write_pair(part, recipe, pair, folders), pairs))
        with (part / MANIFEST).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([COLUMNS, *([row[column] for column in COLUMNS] for row in rows)])
        content = {
            "format": FORMAT,
            "recipe": "w2s_jax.datasets.bg_coco: our own, not that of a publication",
            **dataclasses.asdict(recipe),
            "jpeg_quality": JPEG_QUALITY,
            "pillow": load_pillow().__version__,
            "annotations_sha256": hashlib.sha256(Path(annotations).read_bytes()).hexdigest(),
        }
        (part / RECIPE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _choose_pairs(
    recipe: BgCocoRecipe,
    annotations: str | os.PathLike,
    folders: Folders,
    on_bad_image: OnBadImage,
    num_threads: int | None,
) -> list[Pair]:
    cells = recipe.cells()
    class_needs = Counter(label for _, label, _ in cells)
    scene_needs = Counter(scene for _, _, scene in cells)
    objects = _choose_objects(recipe, read_objects(annotations, _categories(recipe)))

    def take(
        what: str, number: int, pool: Sequence[T], file_of: Callable[[T], str], folder: Any
    ) -> list[T]:
        """The first good entries of a pool in hashed order."""
        ordered = sorted(pool, key=lambda entry: unit_hash(recipe.seed, what, file_of(entry)))
        good: list[T] = []
        start = 0
        while len(good) < number and start < len(ordered):
            batch = ordered[start : start + number - len(good)]
            start += len(batch)
            records = [
                ImageRecord(path_inside(folder, file_of(entry)), file_of(entry), 0, "train")
                for entry in batch
            ]
            kept, _ = check_images(records, on_bad_image, num_threads=num_threads)
            names = {record.id for record in kept}
            good += [entry for entry in batch if file_of(entry) in names]
        if len(good) < number:
            raise DatasetError(
                f"BG-COCO needs {number} photographs for {what}, found {len(good)} that serve; "
                "lower per_class or min_area, or give more categories or folders."
            )
        return good

    objects_left = {
        label: iter(
            take(f"class {name}", class_needs[label], objects[name], _coco_file, folders.images)
        )
        for label, name in enumerate(recipe.class_names)
    }
    scenes_left = {
        scene: iter(
            take(
                f"scene {name}",
                scene_needs[scene],
                _list_scenes(recipe.scenes[name], folders),
                str,
                folders.scenes,
            )
        )
        for scene, name in enumerate(recipe.scene_names)
    }
    return [
        Pair(split, label, scene, next(objects_left[label]), next(scenes_left[scene]))
        for split, label, scene in cells
    ]


def _categories(recipe: BgCocoRecipe) -> dict[str, str]:
    """COCO category to class."""
    return {category: name for name, names in recipe.classes.items() for category in names}


def _choose_objects(
    recipe: BgCocoRecipe, objects: Sequence[CocoObject]
) -> Mapping[str, list[CocoObject]]:
    """The largest object of each photograph that has objects of one class only."""
    class_of = _categories(recipe)
    photographs = defaultdict(list)
    for obj in objects:
        photographs[obj.image_id].append(obj)
    chosen: dict[str, list[CocoObject]] = {name: [] for name in recipe.classes}
    for found in photographs.values():
        largest = max(found, key=lambda obj: (obj.area, -obj.id))
        one_class = len({class_of[obj.category] for obj in found}) == 1
        if one_class and largest.area >= recipe.min_area:
            chosen[class_of[largest.category]].append(largest)
    return chosen


def _list_scenes(names: Sequence[str], folders: Folders) -> list[str]:
    return [
        f"{name}/{file}"
        for name in names
        for file in list_images(path_inside(folders.scenes, name))
    ]


def _coco_file(obj: CocoObject) -> str:
    return obj.file_name


def _file_name(recipe: BgCocoRecipe, pair: Pair) -> str:
    folder = f"{pair.label:02d}_{re.sub(r'[^A-Za-z0-9]', '_', recipe.class_names[pair.label])}"
    return f"{pair.split}/{folder}/{pair.object.image_id:012d}_{pair.scene:02d}.jpg"


def _write_pair(out: Path, recipe: BgCocoRecipe, pair: Pair, folders: Folders) -> dict[str, Any]:
    """Writes a composite; returns its row of the manifest."""
    obj, scene_path = pair.object, path_inside(folders.scenes, pair.scene_file)
    content = read_content(path_inside(folders.images, obj.file_name))
    # Masks count pixels as they are stored.
    photograph = decode_image(content, obj.file_name, upright=False)
    height, width, _ = photograph.shape
    if (height, width) != (obj.height, obj.width):
        raise DatasetError(
            f"{obj.file_name} is {width} x {height} pixels, its annotation {obj.width} x "
            f"{obj.height}; use the photographs that belong to the annotations."
        )
    try:
        image, placement = paste_object(
            photograph,
            obj.mask(),
            crop_square(decode_image(read_content(scene_path), pair.scene_file), recipe.size),
            scale=recipe.object_scale,
            position=(
                unit_hash(recipe.seed, "x", obj.image_id),
                unit_hash(recipe.seed, "y", obj.image_id),
            ),
        )
    except DatasetError as error:
        raise DatasetError(f"{obj.file_name}, annotation {obj.id}: {error}") from None
    name = _file_name(recipe, pair)
    load_pillow().fromarray(image).save(out / name, quality=JPEG_QUALITY)
    return {
        "filename": name,
        "class": recipe.class_names[pair.label],
        "scene": recipe.scene_names[pair.scene],
        "split": pair.split,
        "y": pair.label,
        "a": pair.scene,
        "coco_image": obj.image_id,
        "coco_annotation": obj.id,
        "coco_file": obj.file_name,
        "scene_file": pair.scene_file,
        **placement._asdict(),
        "sha256": hashlib.sha256((out / name).read_bytes()).hexdigest(),
    }
