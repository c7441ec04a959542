from collections import Counter

import pytest
from image_files import assert_prepared_is_the_same, write_image

from w2s_jax.datasets import DatasetError, open_benchmark
from w2s_jax.datasets.bffhq import RATIOS


def write_bffhq(folder, ratio="0.5pct"):
    """Five aligned and one conflicting image a class in train, two of each group elsewhere."""
    number = 0
    for y in (0, 1):
        for count, kind, bias in ((5, "align", y), (1, "conflict", 1 - y)):
            for _ in range(count):
                write_image(
                    folder / "bffhq" / ratio / kind / str(y) / f"{number}_{y}_{bias}.png", number
                )
                number += 1
        for split in ("valid", "test"):
            for bias in (0, 1, 0, 1):
                write_image(folder / "bffhq" / split / f"{number:05d}_{y}_{bias}.PNG", number)
                number += 1
    return folder / "bffhq"


@pytest.mark.parametrize("ratio", RATIOS)
def test_rows_follow_the_names(tmp_path, ratio):
    folder = write_bffhq(tmp_path, ratio)
    source = open_benchmark("bffhq", folder, ratio=ratio, check_counts=False)
    assert source.benchmark.eta_o == float(ratio.removesuffix("pct")) / 100
    assert source.benchmark.name == f"bffhq-{ratio}"
    for row in source:
        name = row["id"].split("/")[-1].lower().removesuffix(".png").split("_")
        assert [row["label"], row["attribute"]] == [int(name[1]), int(name[2])]
        assert row["minority"] == (name[1] != name[2])
        assert (row["minority"] == 1) == ("conflict" in row["id"]) or row["split"] != "train"
    assert Counter(source.columns["split"].tolist()) == {"train": 12, "val": 8, "test": 8}
    above = open_benchmark("bffhq", tmp_path, ratio=ratio, check_counts=False)
    assert above.columns["id"].tolist() == source.columns["id"].tolist()


def test_conflicting_test_images_only(tmp_path):
    write_bffhq(tmp_path)
    source = open_benchmark("bffhq", tmp_path, test="conflict", check_counts=False)
    test = source.columns["split"] == "test"
    assert test.sum() == 4
    assert source.columns["minority"][test].all()
    assert "test" not in source.benchmark.expected_counts
    assert source.benchmark.name == "bffhq-0.5pct-conflict"


def test_broken_layouts(tmp_path):
    with pytest.raises(DatasetError, match="has no ratio '10pct'; known: 0.5pct"):
        open_benchmark("bffhq", tmp_path, ratio="10pct")
    with pytest.raises(DatasetError, match="test is 'aligned'"):
        open_benchmark("bffhq", tmp_path, test="aligned")
    folder = write_bffhq(tmp_path)
    with pytest.raises(
        DatasetError, match="train has 12, expected 19200; val has 8, expected 1000"
    ):
        open_benchmark("bffhq", tmp_path)
    with pytest.raises(DatasetError, match="has '1pct'"):
        open_benchmark("bffhq", tmp_path, ratio="1pct")
    (folder / "valid" / "notes_0.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="valid/notes_0.png is not named <id>_<label>_<attri"):
        open_benchmark("bffhq", tmp_path, check_counts=False)
    (folder / "valid" / "notes_0.png").unlink()
    write_image(folder / "0.5pct" / "align" / "0" / "99_0_1.png", 1)
    with pytest.raises(DatasetError, match="99_0_1.png has label 0 and attribute 1 by its name"):
        open_benchmark("bffhq", tmp_path, check_counts=False)
    (folder / "0.5pct" / "align" / "0" / "99_0_1.png").rename(folder / "valid" / "99_0_1.png")
    for path in (folder / "0.5pct" / "conflict" / "1").iterdir():
        path.unlink()
    (folder / "0.5pct" / "conflict" / "1").rmdir()
    with pytest.raises(DatasetError, match="There is no folder .*conflict/1"):
        open_benchmark("bffhq", tmp_path, check_counts=False)


def test_prepared_files_give_the_same(tmp_path):
    folder = write_bffhq(tmp_path)
    assert_prepared_is_the_same("bffhq", folder, tmp_path / "tfds", test="conflict")
