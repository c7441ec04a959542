import csv
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from image_files import assert_prepared_is_the_same, write_image
from PIL import Image

from w2s_jax.datasets import DatasetError, open_benchmark
from w2s_jax.datasets.bg_coco import BgCocoRecipe
from w2s_jax.datasets.bg_coco_making import make_bg_coco

RECIPE = BgCocoRecipe(
    classes={"cat": ["cat"], "big animal": ["horse", "cow"]},
    scenes={"indoor": ["l/living room"], "outdoor": ["p/park", "f/field"]},
    eta_o=0.25,
    per_class={"train": 4, "val": 2, "test": 2},
    size=32,
    min_area=90,
)
CATEGORIES = {"cat": 17, "horse": 19, "cow": 21, "dog": 18}
COLOURS = {"cat": (250, 0, 0), "horse": (0, 250, 0), "cow": (0, 250, 0)}


def write_coco(folder):
    """Photographs with a coloured 10 x 10 object, grey scenes, and photographs not to use."""
    images, annotations = [], []

    def add(category, box, image_id, **extra):
        left, top, width, height = box
        polygon = [left, top, left + width, top, left + width, top + height, left, top + height]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": CATEGORIES[category],
                "area": width * height,
                "segmentation": [polygon],
                "iscrowd": 0,
                **extra,
            }
        )

    for number in range(26):
        name = f"train 2017/{number:012d}.{'jpg' if number % 2 else 'png'}"
        category = ("cat", "horse", "cow")[number % 3] if number % 2 else "cat"
        pixels = np.full((24, 30, 3), 128, np.uint8)
        pixels[5:16, 5:16] = COLOURS[category]
        path = folder / "coco" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(
            path, **({"quality": 100, "subsampling": 0} if number % 2 else {})
        )
        images.append({"id": number, "file_name": name, "height": 24, "width": 30})
        add(category, (5, 5, 10, 10), number)
        add(category, (20, 5, 5, 5), number)
    # Both classes, too small, a crowd, and another category.
    for number, (category, size, crowd) in enumerate(
        (("cat", 10, 0), ("cat", 4, 0), ("horse", 10, 1), ("dog", 10, 0)), start=100
    ):
        write_image(folder / "coco" / f"{number}.png", number, height=24, width=30)
        images.append({"id": number, "file_name": f"{number}.png", "height": 24, "width": 30})
        add(category, (5, 5, size, size), number, iscrowd=crowd)
    add("cow", (0, 0, 3, 3), 100)
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": code, "name": name} for name, code in CATEGORIES.items()]
    (folder / "instances.json").write_text(json.dumps(content))
    for place, grey in (("l/living room", 40), ("p/park", 200), ("f/field", 200)):
        for number in range(12):
            path = folder / "places" / place / f"{number:08d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 40, 3), grey, np.uint8)).save(path)
    return {
        "annotations": folder / "instances.json",
        "images_dir": folder / "coco",
        "scenes_dir": folder / "places",
    }


@pytest.fixture
def sources(tmp_path):
    return write_coco(tmp_path / "sources")


def read_manifest(folder):
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_images_are_what_the_manifest_says(tmp_path, sources):
    folder = make_bg_coco(tmp_path / "bg coco", RECIPE, **sources)
    assert not (tmp_path / "bg coco.incomplete").exists()
    source = open_benchmark("bg_coco", folder)
    rows = {row["filename"]: row for row in read_manifest(folder)}
    assert len(source) == len(rows) == 16
    for found in source:
        row, image = rows[found["id"]], found["image"].astype(int)
        assert image.shape == (32, 32, 3)
        assert (str(found["label"]), str(found["attribute"])) == (row["y"], row["a"])
        assert found["minority"] == (found["label"] != found["attribute"])
        top, left = int(row["top"]), int(row["left"])
        assert max(int(row["width"]), int(row["height"])) == round(0.6 * 32)
        inside = image[top + 4 : top + 15, left + 4 : left + 15]
        colour = COLOURS["cat" if row["class"] == "cat" else "cow"]
        assert np.abs(inside - colour).max() < 20
        outside = image.copy()
        outside[max(top - 8, 0) : top + 28, max(left - 8, 0) : left + 28] = 0
        grey = 40 if row["scene"] == "indoor" else 200
        kept = outside[outside.any(axis=-1)]
        assert kept.size == 0 or np.abs(kept - grey).max() < 12
        assert row["scene_file"].startswith("l/" if row["scene"] == "indoor" else ("p/", "f/"))
        assert hashlib.sha256((folder / row["filename"]).read_bytes()).hexdigest() == row["sha256"]
    for column in ("coco_image", "scene_file"):
        assert len({row[column] for row in rows.values()}) == 16
    assert not {int(row["coco_image"]) for row in rows.values()} & {100, 101, 102, 103}
    counts = Counter(zip(*(source.columns[c].tolist() for c in ("split", "minority")), strict=True))
    assert counts == {
        ("train", 0): 6,
        ("train", 1): 2,
        ("val", 0): 2,
        ("val", 1): 2,
        ("test", 0): 2,
        ("test", 1): 2,
    }
    assert source.benchmark.eta_o == 0.25
    assert "ours" in source.benchmark.notes
    assert "our own" in (folder / "recipe.json").read_text()


def test_the_same_seed_gives_the_same_files_whatever_the_order(tmp_path, sources):
    first = make_bg_coco(tmp_path / "a", RECIPE, **sources)
    content = json.loads(sources["annotations"].read_text())
    for key in ("images", "annotations"):
        content[key].reverse()
    sources["annotations"].write_text(json.dumps(content))
    second = make_bg_coco(tmp_path / "b", RECIPE, num_threads=1, **sources)
    assert (first / "manifest.csv").read_bytes() == (second / "manifest.csv").read_bytes()
    other = make_bg_coco(tmp_path / "c", dataclasses.replace(RECIPE, seed=1), **sources)
    pairs = [
        [(row["coco_image"], row["scene_file"]) for row in read_manifest(folder)]
        for folder in (first, other)
    ]
    assert pairs[0] != pairs[1]


def test_val_and_test_stay_the_same_as_train_grows(tmp_path, sources):
    small = dataclasses.replace(RECIPE, per_class={"train": 2, "val": 2, "test": 2})
    rows = [
        [row for row in read_manifest(folder) if row["split"] != "train"]
        for folder in (
            make_bg_coco(tmp_path / "small", small, **sources),
            make_bg_coco(tmp_path / "large", RECIPE, **sources),
        )
    ]
    assert len(rows[0]) == 8
    assert rows[0] == rows[1]


def test_three_classes_take_the_other_scenes_in_turn():
    recipe = BgCocoRecipe(
        classes={"a": ["a"], "b": ["b"], "c": ["c"]},
        scenes={"x": ["x"], "y": ["y"], "z": ["z"]},
        eta_o=0.25,
        per_class={"train": 10, "val": 0, "test": 4},
    )
    cells = Counter(recipe.cells())
    assert [cells["train", 0, scene] for scene in range(3)] == [7, 2, 1]
    assert [cells["train", 2, scene] for scene in range(3)] == [2, 1, 7]
    assert [cells["test", 1, scene] for scene in range(3)] == [1, 2, 1]
    assert recipe.num_minority("train") == 3


def test_bad_photographs(tmp_path, sources):
    used = read_manifest(make_bg_coco(tmp_path / "whole", RECIPE, **sources))
    (sources["images_dir"] / used[0]["coco_file"]).unlink()
    path = sources["scenes_dir"] / used[1]["scene_file"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DatasetError, match="1 of .* images are missing or damaged"):
        make_bg_coco(tmp_path / "error", RECIPE, **sources)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sources", "whole"]
    rows = read_manifest(make_bg_coco(tmp_path / "skip", RECIPE, on_bad_image="skip", **sources))
    assert len(rows) == 16
    names = {row["coco_file"] for row in rows} | {row["scene_file"] for row in rows}
    assert not names & {used[0]["coco_file"], used[1]["scene_file"]}


def test_wrong_sizes_paths_and_too_few(tmp_path, sources):
    content = json.loads(sources["annotations"].read_text())

    def attempt(message, recipe=RECIPE, **changes):
        with pytest.raises(DatasetError, match=message):
            make_bg_coco(tmp_path / "out", recipe, **{**sources, **changes})
        assert not (tmp_path / "out").exists()

    per_class = {"train": 30, "val": 2, "test": 2}
    attempt(
        "needs 34 photographs for class cat, found",
        dataclasses.replace(RECIPE, per_class=per_class),
    )
    attempt("found 0 that serve; lower", dataclasses.replace(RECIPE, min_area=1e4))
    attempt(
        "There is no folder .*l/none",
        dataclasses.replace(RECIPE, scenes={"indoor": ["l/none"], "outdoor": ["p/park"]}),
    )
    attempt(
        "outside of the data folder",
        dataclasses.replace(RECIPE, scenes={"indoor": ["../coco"], "outdoor": ["p/park"]}),
    )
    for key, value, message in (
        ("width", 31, "is 30 x 24 pixels, its annotation 31 x 24"),
        ("file_name", "../instances.json", "outside of the data folder"),
    ):
        changed = {**content, "images": [{**image, key: value} for image in content["images"]]}
        path = tmp_path / "changed.json"
        path.write_text(json.dumps(changed))
        attempt(message, annotations=path)
    changed = {
        **content,
        "annotations": [{**a, "segmentation": []} for a in content["annotations"]],
    }
    path.write_text(json.dumps(changed))
    attempt("annotation .*must be polygons", annotations=path)
    folder = make_bg_coco(tmp_path / "done", RECIPE, **sources)
    with pytest.raises(DatasetError, match="exists already"):
        make_bg_coco(folder, RECIPE, **sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"cat": ["cat"]}}, "at least two classes"),
        ({"scenes": {"indoor": ["l"]}}, "2 classes and 1 scenes; give one"),
        ({"classes": {"a": ["cat"], "b": ["cat"]}}, "belongs to several"),
        ({"per_class": {"train": 5}}, "per_class must have numbers"),
        ({"per_class": {"train": 5, "val": -1, "test": 1}}, "per_class must have numbers"),
        ({"eta_o": 1.5}, "must be in"),
        ({"object_scale": 0}, "object_scale must be"),
    ],
)
def test_parameters_that_make_no_sense(changes, message):
    with pytest.raises(DatasetError, match=message):
        dataclasses.replace(RECIPE, **changes)


def test_broken_folders(tmp_path, sources):
    with pytest.raises(DatasetError, match="has 'manifest.csv'"):
        open_benchmark("bg_coco", tmp_path)
    folder = make_bg_coco(tmp_path / "bg_coco", RECIPE, **sources)
    recipe = json.loads((folder / "recipe.json").read_text())
    manifest = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(manifest.rsplit("\n", 2)[0])
    with pytest.raises(DatasetError, match=r"train has .*, expected \[\[3, 1\], \[1, 3\]\]"):
        open_benchmark("bg_coco", tmp_path)
    (folder / "manifest.csv").write_text(manifest.replace("sha256", "md5", 1))
    with pytest.raises(DatasetError, match="lacks the columns sha256"):
        open_benchmark("bg_coco", tmp_path)
    (folder / "manifest.csv").write_text(manifest)
    for text in ("{", "[]", json.dumps({**recipe, "format": 2}), json.dumps({"format": 1})):
        (folder / "recipe.json").write_text(text)
        with pytest.raises(DatasetError, match="recipe.json (cannot be used|has format 2)"):
            open_benchmark("bg_coco", tmp_path)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    shutil.rmtree(folder / "val")
    with pytest.raises(DatasetError, match="4 of 16 images are missing or damaged"):
        open_benchmark("bg_coco", tmp_path)


def test_prepared_files_give_the_same(tmp_path, sources):
    folder = make_bg_coco(tmp_path / "bg coco", RECIPE, **sources)
    assert_prepared_is_the_same("bg_coco", folder, tmp_path / "tfds")


def test_script_makes_the_same_folder(tmp_path):
    places = write_coco(tmp_path)
    recipe = tmp_path / "recipe.json"
    script = Path(__file__).parents[2] / "experiments" / "make_bg_coco.py"

    def call(content, out):
        recipe.write_text(content)
        flags = {**places, "recipe": recipe, "out": tmp_path / out}
        command = [sys.executable, script, *(f"--{name}={value}" for name, value in flags.items())]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = call(json.dumps(dataclasses.asdict(RECIPE)), "by script")
    assert done.returncode == 0, done.stderr
    expected = make_bg_coco(tmp_path / "by library", RECIPE, **places) / "manifest.csv"
    assert (tmp_path / "by script" / "manifest.csv").read_bytes() == expected.read_bytes()
    for content, message in (
        ("{", "cannot be read"),
        ('{"class": {}}', "with some of classes, scenes, eta_o"),
        ('{"classes": {}}', "lacks classes or scenes"),
        ('{"classes": {"a": ["b"]}, "scenes": 3}', "has a value of the wrong type"),
    ):
        bad = call(content, "never")
        assert bad.returncode == 2
        assert message in bad.stderr
        assert len(bad.stderr.splitlines()) == 1
    shipped = script.parent / "configs" / "bg_coco_recipe.json"
    assert set(BgCocoRecipe(**json.loads(shipped.read_text())).per_class) == {
        "train",
        "val",
        "test",
    }
