import shutil
from collections import Counter

import numpy as np
import pytest
from image_files import assert_prepared_is_the_same, write_image

from w2s_jax.datasets import DatasetError, open_benchmark
from w2s_jax.datasets.imagenet9 import CLASS_FOLDERS, VARIANTS, make_benchmark


def write_imagenet9(folder, variants=("mixed_same", "mixed_rand", "only_fg")):
    """Two objects a class, each on the backgrounds of all variants, in train and in the release."""
    for variant in variants:
        for place, first in ((f"{variant}/train", 100), (f"bg_challenge/{variant}/val", 200)):
            for label, name in enumerate(CLASS_FOLDERS):
                for number in (0, 1):
                    file = f"fg_n0200000{label}_{first + number}_bg_n02999999_{number}"
                    suffix = (".JPEG", ".jpg")[number]
                    write_image(folder / place / name / (file + suffix), label)
    (folder / variants[0] / "train" / CLASS_FOLDERS[0] / ".DS_Store").write_bytes(b"x")
    (folder / variants[0] / "train" / CLASS_FOLDERS[0] / "._fg.JPEG").write_bytes(b"x")
    return folder


def test_variants_are_the_groups_and_objects_the_sources(tmp_path):
    source = open_benchmark("imagenet9", write_imagenet9(tmp_path), check_counts=False)
    assert Counter(source.columns["split"].tolist()) == {"train": 36, "test": 36}
    assert source.benchmark.classes[2] == "wheeled vehicle"
    assert source.benchmark.attributes == ()
    sources = {}
    for row in source:
        split, variant, folder, name = row["id"].split("/")
        assert row["split"] == split
        assert row["label"] == CLASS_FOLDERS.index(folder)
        assert row["minority"] == (variant == "mixed_rand")
        assert row["attribute"] == -1
        assert row["source_id"] == "_".join(name.split("_")[1:3])
        sources.setdefault(row["source_id"], set()).add(row["minority"])
    assert len(sources) == 36
    assert all(groups == {0, 1} for groups in sources.values())


def test_extra_test_sets(tmp_path):
    folder = write_imagenet9(tmp_path)
    options = {"train_variants": (), "test_variants": ("only_fg",), "check_counts": False}
    source = open_benchmark("imagenet9", folder, **options)
    assert source.benchmark.name == "imagenet9-only_fg-test"
    assert set(source.columns["split"].tolist()) == {"test"}
    assert not source.columns["minority"].any()
    inside = open_benchmark("imagenet9", folder / "bg_challenge", **options)
    assert inside.columns["id"].tolist() == source.columns["id"].tolist()


def test_names_without_an_imagenet_id_have_no_source(tmp_path):
    folder = write_imagenet9(tmp_path)
    path = write_image(folder / "mixed_same/train" / CLASS_FOLDERS[6] / "photo 1.JPEG", 5)
    assert path
    source = open_benchmark("imagenet9", folder, check_counts=False)
    row = source.columns["id"].tolist().index(f"train/mixed_same/{CLASS_FOLDERS[6]}/photo 1.JPEG")
    assert source.columns["source_id"][row] == ""


def test_published_numbers():
    counts = make_benchmark().expected_counts["test"]
    assert counts == ((450, 450),) * 9
    only = make_benchmark(test_variants=tuple(VARIANTS)).expected_counts["test"]
    assert np.sum(only) == 8 * 4050


def test_broken_layouts(tmp_path):
    folder = write_imagenet9(tmp_path)
    with pytest.raises(DatasetError, match=r"test has \[\[2, 2\].*expected \[\[450, 450\]"):
        open_benchmark("imagenet9", folder)
    with pytest.raises(DatasetError, match="no variants of ImageNet-9; give a tuple of"):
        open_benchmark("imagenet9", folder, test_variants=("mixed",))
    shutil.rmtree(folder / "mixed_rand" / "train" / "06_musical instrument")
    with pytest.raises(
        DatasetError, match="mixed_rand/train lacks the class folders '06_musical i"
    ):
        open_benchmark("imagenet9", folder, check_counts=False)
    shutil.rmtree(folder / "mixed_rand")
    with pytest.raises(DatasetError, match="There is no folder .*mixed_rand/train"):
        open_benchmark("imagenet9", folder, check_counts=False)


def test_prepared_files_give_the_same(tmp_path):
    folder = write_imagenet9(tmp_path)
    assert_prepared_is_the_same("imagenet9", folder, tmp_path / "tfds")


def test_the_release_alone_can_be_divided_by_objects(tmp_path):
    folder = write_imagenet9(tmp_path)
    options = {"train_variants": (), "release_train_share": 0.5}
    source = open_benchmark("imagenet9", folder, **options)
    assert source.benchmark.name == "imagenet9-release"
    columns = source.columns
    assert len(source) == 36
    objects = [set(columns["source_id"][columns["split"] == s].tolist()) for s in ("train", "test")]
    assert not objects[0] & objects[1]
    assert 4 <= len(objects[0]) <= 14
    for name in objects[0] | objects[1]:
        assert sorted(columns["minority"][columns["source_id"] == name].tolist()) == [0, 1]
    with pytest.raises(DatasetError, match="must lie between 0 and 1"):
        open_benchmark("imagenet9", folder, train_variants=(), release_train_share=1.0)
    write_image(folder / "bg_challenge/mixed_same/val" / CLASS_FOLDERS[3] / "photo.JPEG", 1)
    with pytest.raises(DatasetError, match="photo.JPEG has no ImageNet id in its name"):
        open_benchmark("imagenet9", folder, **options)
