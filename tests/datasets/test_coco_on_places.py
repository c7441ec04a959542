import multiprocessing
import pickle
import sys

import numpy as np
import pytest

from w2s_jax.datasets import DatasetError, coco_on_places, open_benchmark

h5py = pytest.importorskip("h5py")


def write_file(path, labels, groups, seed, *, last=False, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shape = (len(labels), 8, 8, 3) if last else (len(labels), 3, 8, 8)
    images = rng.integers(0, 256, shape)
    with h5py.File(path, "w") as file:
        file["images"] = (
            images.astype(np.uint8) if dtype == np.uint8 else (images / 255).astype(dtype)
        )
        file["y"] = np.array(labels, np.int32)
        if groups is not None:
            file["g"] = np.array(groups, np.int32)
    return images if last else images.transpose(0, 2, 3, 1)


@pytest.fixture
def images(tmp_path):
    labels = list(range(9)) * 2
    found = {"train": write_file(tmp_path / "train.h5py", labels, [0] * 12 + [1] * 6, 0)}
    found["validtest"] = write_file(tmp_path / "validtest.hdf5", labels, [0, 1] * 9, 1, last=True)
    found["idtest"] = write_file(tmp_path / "idtest.h5", labels, [0, 1] * 9, 2, dtype=np.uint8)
    found["sgtest"] = write_file(tmp_path / "sgtest.h5py", labels, None, 3)
    found["valsgtest"] = write_file(tmp_path / "valsgtest.h5py", labels, [0] * 18, 4)
    return found


@pytest.mark.parametrize("prepared", [False, True])
def test_arrays_become_images(tmp_path, images, prepared):
    options = {"prepared_dir": tmp_path / "tfds"} if prepared else {}
    source = open_benchmark("coco_on_places", tmp_path, check_counts=False, **options)
    assert source.benchmark.eta_o == 6 / 18
    assert len(source) == 54
    for row in source:
        name, number = row["id"].split("/")
        np.testing.assert_array_equal(row["image"], images[name][int(number)])
        assert row["label"] == int(number) % 9
        assert row["minority"] == row["attribute"]
        expected = int(number) >= 12 if name == "train" else int(number) % 2
        assert row["attribute"] == expected
        assert row["source_id"] == ""
    if not prepared:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            (found,) = pool.map(pickle.loads(pickle.dumps(source)).__getitem__, [40])
        np.testing.assert_array_equal(found["image"], source[40]["image"])


def test_other_scenes_are_minority_and_share_objects(tmp_path, images):
    source = open_benchmark(
        "coco_on_places",
        tmp_path,
        val_files=("valsgtest",),
        test_files=("idtest", "sgtest"),
        check_counts=False,
    )
    columns = source.columns
    other = np.char.startswith(columns["id"], "sgtest") | (columns["split"] == "val")
    assert other.sum() == 36
    assert (columns["attribute"][other] == 1).all()
    test = columns["split"] == "test"
    sources, counts = np.unique(columns["source_id"][test], return_counts=True)
    assert len(sources) == 18
    assert (counts == 2).all()
    np.testing.assert_array_equal(source[18]["image"], images["valsgtest"][0])


def test_broken_files(tmp_path, images, monkeypatch):
    with pytest.raises(DatasetError, match="train has 18, expected 7200; val has 18, expected 900"):
        open_benchmark("coco_on_places", tmp_path)
    with pytest.raises(DatasetError, match="test has no file 'validtest'; known: idtest"):
        open_benchmark("coco_on_places", tmp_path, test_files=("validtest",))
    with pytest.raises(DatasetError, match=r"lacks oodtest.h5py \(or .h5 or .hdf5\)"):
        open_benchmark("coco_on_places", tmp_path, test_files=("oodtest",))
    with pytest.raises(DatasetError, match="has label 8"):
        open_benchmark("coco_on_places", tmp_path, classes=("a",) * 8)

    def check(message, **arrays):
        coco_on_places._open_file.cache_clear()
        labels = np.arange(4)
        with h5py.File(tmp_path / "train.h5py", "w") as file:
            whole = {"images": np.zeros((4, 3, 8, 8)), "y": labels, "g": labels % 2, **arrays}
            for key, value in whole.items():
                if value is not None:
                    file[key] = value
        with pytest.raises(DatasetError, match=message):
            open_benchmark("coco_on_places", tmp_path, check_counts=False)

    check("lacks the arrays g; it has", g=None)
    check("lacks the arrays images, y", images=None, y=None)
    check(r"images of shape \(4, 8, 8\)", images=np.zeros((4, 8, 8)))
    check(r"4 images, y of shape \(3,\)", y=np.arange(3))
    check("1 of 40 images .*train/00002: .* values from 0 to 255", images=_bright(255))
    check("values from nan to nan", images=_bright(np.nan))
    coco_on_places._open_file.cache_clear()
    (tmp_path / "train.h5py").write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 50)
    with pytest.raises(DatasetError, match="cannot be read as HDF5"):
        open_benchmark("coco_on_places", tmp_path, check_counts=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DatasetError, match=r"h5py, which is not .* 'w2s_jax\[images\]'"):
        open_benchmark("coco_on_places", tmp_path, check_counts=False)


def _bright(value):
    images = np.zeros((4, 3, 8, 8))
    images[2, 0, 0, 0] = value
    return images
