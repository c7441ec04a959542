import gzip
import multiprocessing
import struct

import numpy as np
import pytest
from PIL import Image

from w2s_jax.datasets import DatasetError, fashion_textures, open_benchmark
from w2s_jax.datasets.idx import read_idx

SMALL = {"train_per_class": 8, "test_per_class": 4, "size": 32, "eta_o": 0.25}


def write_idx(path, array, packed=True):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture
def folders(tmp_path):
    """Garments that are a box of the grey 100 + 10 * kind, on columns of known greys."""
    garments, textures = tmp_path / "garments", tmp_path / "textures"
    garments.mkdir()
    textures.mkdir()
    for part, number in (("train", 100), ("t10k", 50)):
        labels = np.arange(number) % 10
        images = np.zeros((number, 28, 28))
        images[:, 4:24, 9:19] = 100 + 10 * labels[:, None, None]
        write_idx(garments / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(garments / f"{part}-labels-idx1-ubyte.gz", labels)
    # Left 70 % (train) and right 30 % (test) of each photograph differ.
    for name, (left, right) in (("grass", (10, 20)), ("gravel", (210, 220))):
        photograph = np.full((60, 200), left, np.uint8)
        photograph[:, 140:] = right
        Image.fromarray(photograph).save(textures / f"{name}.png")
    for cache in (fashion_textures._read_idx, fashion_textures._read_texture):
        cache.cache_clear()
    return garments, str(textures)


def test_garments_lie_on_their_textures(folders):
    source = open_benchmark("fashion_textures", folders[0], textures_dir=folders[1], **SMALL)
    assert source.benchmark.classes == ("pullover", "coat")
    assert source.benchmark.eta_o == 0.25
    places = set()
    for row in source:
        grey = {("train", 0): 10, ("test", 0): 20, ("train", 1): 210, ("test", 1): 220}
        background = grey[row["split"], row["attribute"]]
        image = row["image"].astype(int)
        garment = image[..., 0] == (120, 140)[row["label"]]
        assert 100 < garment.sum() < 230
        rows, columns = (np.flatnonzero(garment.any(axis=axis)) for axis in (1, 0))
        places.add((rows[0], columns[0]))
        image[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2] = background
        far = np.ones(image.shape[:2], bool)
        far[max(rows[0] - 2, 0) : rows[-1] + 3, max(columns[0] - 2, 0) : columns[-1] + 3] = False
        assert (image[far] == background).all()
        assert row["minority"] == (row["label"] != row["attribute"])
    assert len(places) > 10
    columns = source.columns
    for split, expected in (("train", 4), ("test", 4)):
        rows = columns["split"] == split
        assert columns["minority"][rows].sum() == expected
    assert len(set(columns["id"].tolist())) == len(source) == 24
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(source.__getitem__, [5])
    np.testing.assert_array_equal(found["image"], source[5]["image"])


def test_seeds_and_preparation(folders, tmp_path):
    options = {"textures_dir": folders[1], **SMALL}
    one, two = (open_benchmark("fashion_textures", folders[0], seed=s, **options) for s in (0, 1))
    assert set(one.columns["id"].tolist()) != set(two.columns["id"].tolist())
    prepared = open_benchmark(
        "fashion_textures", folders[0], prepared_dir=tmp_path / "tfds", **options
    )
    for row, other in zip(one, prepared, strict=True):
        np.testing.assert_array_equal(row["image"], other["image"])
        assert row["id"] == other["id"]


def test_squares_of_train_and_test_share_no_pixel(folders):
    _, records = fashion_textures.read_fashion_textures(
        folders[0], textures_dir=folders[1], **{**SMALL, "train_per_class": 10, "test_per_class": 5}
    )
    for record in records:
        image = record.image
        assert isinstance(image, fashion_textures.Composite)
        assert 0 <= image.top <= 60 - 32
        if record.split == "train":
            assert 0 <= image.left <= 140 - 32
        else:
            assert 140 <= image.left <= 200 - 32
    assert len({record.image.turns for record in records}) > 4


def test_three_classes(folders):
    source = open_benchmark(
        "fashion_textures",
        folders[0],
        textures_dir=folders[1],
        textures={"a": "grass.png", "b": "gravel.png", "c": "grass.png"},
        classes=("bag", "boot", "dress"),
        **SMALL,
    )
    train = source.columns["split"] == "train"
    pairs = np.stack([source.columns[c][train] for c in ("label", "attribute")])
    table = np.zeros((3, 3), int)
    np.add.at(table, tuple(pairs), 1)
    assert table.tolist() == [[6, 1, 1], [1, 6, 1], [1, 1, 6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_per_class": 11}, "has 10 of pullover, 11 are asked for"),
        ({"size": 64}, "g.*png is 200 x 60 pixels, too small: train takes squares of 64"),
        ({"classes": ("hat", "coat")}, "give two or more different ones of t-shirt"),
        ({"classes": ("coat", "coat")}, "give two or more different ones of t-shirt"),
        ({"classes": ("bag", "coat", "boot")}, "and a texture for each"),
        ({"textures": {"a": "../x.png", "b": "grass.png"}}, "outside of the data folder"),
        ({"textures": {"a": "none.png", "b": "grass.png"}}, "none.png cannot be read"),
        ({"eta_o": -0.1}, "are shares"),
    ],
)
def test_what_cannot_be_made(folders, options, message):
    with pytest.raises(DatasetError, match=message):
        open_benchmark(
            "fashion_textures", folders[0], **{"textures_dir": folders[1], **SMALL, **options}
        )
    with pytest.raises(DatasetError, match="option 'textures_dir' must be given"):
        open_benchmark("fashion_textures", folders[0])


@pytest.mark.parametrize("packed", [True, False])
def test_idx_round_trip(tmp_path, packed):
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 7))
    write_idx(tmp_path / "a", array, packed)
    np.testing.assert_array_equal(read_idx(tmp_path / "a"), array)


def test_damaged_idx_files(tmp_path, folders):
    path = folders[0] / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    plain = gzip.decompress(whole)
    for content, message in (
        (whole[:-20], "cannot be read"),
        (whole[:30] + b"\0" * 20 + whole[50:], "cannot be read|its header says"),
        (plain[:-1], "has 78399 values, its header says .100, 28, 28."),
        (plain + b"\0", "has 78401 values"),
        (plain[:9], "ends within its header"),
        (b"\0\0\x0d" + plain[3:], "is no IDX file of bytes"),
        (b"", "is no IDX file of bytes"),
    ):
        path.write_bytes(content)
        fashion_textures._read_idx.cache_clear()
        with pytest.raises(DatasetError, match=message):
            open_benchmark("fashion_textures", folders[0], textures_dir=folders[1], **SMALL)
    path.unlink()
    with pytest.raises(DatasetError, match="cannot be read .*No such file"):
        open_benchmark("fashion_textures", folders[0], textures_dir=folders[1], **SMALL)
