r"""Writes a BG-COCO folder from local COCO and scene photographs, by our own recipe.

    python experiments/make_bg_coco.py --recipe=experiments/configs/bg_coco_recipe.json \
        --annotations=coco/annotations/instances_train2017.json --images_dir=coco/train2017 \
        --scenes_dir=places365/train --out=data/bg_coco

The recipe is a JSON object with the fields of w2s_jax.datasets.bg_coco.BgCocoRecipe. The folder has
the images, manifest.csv with every pasted pair, and recipe.json; extract_features.py reads it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from absl import flags

from w2s_jax.errors import W2SError, run_script

flags.DEFINE_string("recipe", None, "JSON file of the recipe", required=True)
flags.DEFINE_string("annotations", None, "COCO instance annotations", required=True)
flags.DEFINE_string("images_dir", None, "folder with their photographs", required=True)
flags.DEFINE_string("scenes_dir", None, "folder with the recipe's scene folders", required=True)
flags.DEFINE_enum("on_bad_image", "error", ["error", "skip"], "skip takes the next photograph")
flags.DEFINE_string("out", None, "folder to make", required=True)
FLAGS = flags.FLAGS


def read_recipe(path: str) -> Any:
    """The recipe that a file holds."""
    from w2s_jax.datasets.bg_coco import BgCocoRecipe

    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise W2SError(f"--recipe={path} cannot be read: {error}") from None
    known = [field.name for field in dataclasses.fields(BgCocoRecipe)]
    if not isinstance(given, dict) or set(given) - set(known):
        raise W2SError(f"--recipe={path} must be an object with some of {', '.join(known)}")
    if not {"classes", "scenes"} <= set(given):
        raise W2SError(f"--recipe={path} lacks classes or scenes; see BgCocoRecipe")
    try:
        return BgCocoRecipe(**given)
    except (AttributeError, TypeError) as error:
        raise W2SError(f"--recipe={path} has a value of the wrong type: {error}") from None


def main() -> None:
    """Reads the recipe, makes the folder, prints where it is."""
    recipe = read_recipe(FLAGS.recipe)
    from w2s_jax.datasets.bg_coco_making import make_bg_coco

    folder = make_bg_coco(
        FLAGS.out,
        recipe,
        annotations=FLAGS.annotations,
        images_dir=FLAGS.images_dir,
        scenes_dir=FLAGS.scenes_dir,
        on_bad_image=FLAGS.on_bad_image,
    )
    print(f"{folder} holds the images and manifest.csv")


if __name__ == "__main__":
    run_script(main)
