r"""Extracts the features of a benchmark's images with frozen networks, as feature caches.

    python experiments/extract_features.py --benchmark=waterbirds --data_dir=data/waterbirds \
        --backbone=resnet18,dinov2_vitl14 --weights=dinov2_vitl14=weights/dinov2-large \
        --out=features

Several backbones and layers share one pass over the images. Shards of rows are committed as they
finish; started again with the same flags, it goes on where it stopped. The caches are
OUT/BENCHMARK/BACKBONE_LAYER, ready for experiments/sweep.py.
"""

import json
import logging
from pathlib import Path
from typing import Any

from absl import flags

from w2s_jax.errors import W2SError, run_script

flags.DEFINE_string("benchmark", None, "name of an image benchmark", required=True)
flags.DEFINE_string("data_dir", None, "folder with its published files", required=True)
flags.DEFINE_multi_string("option", [], "of the benchmark, name=value; value is JSON or text")
flags.DEFINE_enum("on_bad_image", "error", ["error", "skip"], "skip leaves damaged images out")
flags.DEFINE_bool("check_counts", True, "refuse numbers of images that are not the published ones")
flags.DEFINE_string("prepared_dir", None, "folder of TFDS: images are copied there and read there")
flags.DEFINE_list("backbone", None, "networks, such as clip_vit_b32", required=True)
flags.DEFINE_list(
    "weights", [], "file or folder of weights, or BACKBONE=PATH each; default package or hub"
)
flags.DEFINE_list("layer", [], "outputs of every backbone, or BACKBONE=LAYER; default its own")
flags.DEFINE_list("image_size", [], "side in pixels, or BACKBONE=SIDE; default the published one")
flags.DEFINE_integer("batch_size", 64, "images a call of a network, over all devices", 1)
flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the computation")
flags.DEFINE_enum("storage", "float16", ["float16", "float32"], "type of the stored features")
flags.DEFINE_integer("num_workers", 0, "processes that decode; 0: threads of this one", 0)
flags.DEFINE_integer("shard_size", 1024, "images whose features are committed together", 1)
flags.DEFINE_string("compilation_cache", None, "folder of compiled programs; default in ~/.cache")
flags.DEFINE_string("out", None, "folder for the caches", required=True)
FLAGS = flags.FLAGS


def by_backbone(flag: str) -> dict[str, list[str]]:
    """Values of a flag for every backbone: those named BACKBONE=VALUE, or else the bare ones."""
    values: dict[str, list[str]] = {name: [] for name in FLAGS.backbone}
    bare = []
    for text in FLAGS[flag].value or ():
        name, equals, value = text.partition("=")
        if not equals:
            bare.append(text)
        elif name in values:
            values[name].append(value)
        else:
            raise W2SError(
                f"--{flag}={text} names {name!r}, which is not in --backbone="
                f"{','.join(FLAGS.backbone)}"
            )
    return {name: some or bare for name, some in values.items()}


def options() -> dict[str, Any]:
    """Options of the benchmark."""
    found = {}
    for text in FLAGS.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise W2SError(f"--option={text} must be name=value")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def image_sizes() -> dict[str, int | None]:
    """Side of the images of every backbone; None is the published one."""
    sizes: dict[str, int | None] = {}
    for name, sides in by_backbone("image_size").items():
        if len(sides) > 1 or not all(side.isdecimal() for side in sides):
            raise W2SError(f"--image_size of {name} is {','.join(sides)}; give one whole number")
        sizes[name] = int(sides[0]) if sides else None
    return sizes


def check_flags() -> tuple[dict[str, Path | None], dict[str, list[str]]]:
    """Weights and layers of every backbone, after checking all that needs no file's content."""
    from w2s_jax.backbones.layers import check_outputs
    from w2s_jax.backbones.registry import find_spec
    from w2s_jax.datasets import benchmark_names, benchmark_options

    if FLAGS.benchmark not in benchmark_names():
        known = ", ".join(benchmark_names())
        raise W2SError(f"unknown --benchmark={FLAGS.benchmark}; known are {known}")
    for name in options():
        if name not in benchmark_options(FLAGS.benchmark):
            known = ", ".join(benchmark_options(FLAGS.benchmark)) or "none"
            raise W2SError(f"{FLAGS.benchmark} has no --option={name}; known are {known}")
    if not Path(FLAGS.data_dir).is_dir():
        raise W2SError(f"--data_dir={FLAGS.data_dir} is no folder; give the benchmark's folder")
    if Path(FLAGS.out).is_file():
        raise W2SError(f"--out={FLAGS.out} is a file; give a folder")
    layers, weights = by_backbone("layer"), {}
    for name, paths in by_backbone("weights").items():
        spec = find_spec(name)
        check_outputs(tuple(layers[name] or (spec.output,)), spec.output_sizes())
        if len(paths) > 1 or (paths and len(FLAGS.backbone) > 1 and paths[0] in FLAGS.weights):
            raise W2SError(f"which of --weights is for {name}? give {name}=PATH")
        weights[name] = Path(paths[0]) if paths else None
        if paths and not Path(paths[0]).exists():
            raise W2SError(f"--weights of {name}: there is no {paths[0]}; check the path")
    return weights, layers


def main() -> None:
    """Checks the flags, loads networks and listing, extracts, and prints where the caches are."""
    # TFDS tells of everything that it loads, through this logger.
    logging.getLogger("absl").setLevel(logging.ERROR)
    weights, layers = check_flags()
    sizes = image_sizes()
    from w2s_jax.backbones.loading import load_backbone
    from w2s_jax.compilation import enable_compilation_cache
    from w2s_jax.datasets import open_benchmark
    from w2s_jax.extraction import extract_image_features

    backbones = [
        load_backbone(
            name,
            weights[name],
            layers=layers[name] or None,
            dtype=FLAGS.precision,
            image_size=sizes[name],
        )
        for name in FLAGS.backbone
    ]
    source = open_benchmark(
        FLAGS.benchmark,
        FLAGS.data_dir,
        prepared_dir=FLAGS.prepared_dir,
        on_bad_image=FLAGS.on_bad_image,
        check_counts=FLAGS.check_counts,
        **options(),
    )
    enable_compilation_cache(FLAGS.compilation_cache)
    made = extract_image_features(
        source,
        backbones,
        FLAGS.out,
        batch_size=FLAGS.batch_size,
        num_workers=FLAGS.num_workers,
        storage=FLAGS.storage,
        shard_size=FLAGS.shard_size,
        progress=True,
    )
    for features in made:
        print(f"{features} in {features.path}, fingerprint {features.fingerprint[:12]}")


if __name__ == "__main__":
    run_script(main)
