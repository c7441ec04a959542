import pytest
from image_files import assert_prepared_is_the_same, write_image, write_table

from w2s_jax.datasets import DatasetError, open_benchmark

ROWS = [("a b.jpg", 0, 0, 0), ("c.PNG", 0, 1, 1), ("d/e.jpeg", 1, 0, 2), ("f.jpg", 1, 1, "valid")]


def write_rows(folder, columns=("filename", "y", "a", "split"), rows=ROWS, table="metadata.csv"):
    for number, row in enumerate(rows):
        write_image(folder / row[0], number)
    write_table(folder / table, [dict(zip(columns, row, strict=True)) for row in rows])
    return folder


@pytest.mark.parametrize(
    "columns", [("filename", "y", "a", "split"), ("img_filename", "y", "place", "split")]
)
def test_columns_that_occur(tmp_path, columns):
    source = open_benchmark("image_csv", write_rows(tmp_path, columns))
    found = [(r["id"], r["label"], r["attribute"], r["minority"], r["split"]) for r in source]
    assert found == [
        ("a b.jpg", 0, 0, 0, "train"),
        ("c.PNG", 0, 1, 1, "val"),
        ("f.jpg", 1, 1, 0, "val"),
        ("d/e.jpeg", 1, 0, 1, "test"),
    ]
    assert source.benchmark.classes == ("y0", "y1")


def test_names_ids_sources_and_cells(tmp_path):
    columns = ("file", "kind", "where", "set", "key", "object")
    rows = [
        ("1.png", "cat", "sea", "train", "k1", "o1"),
        ("2.png", "dog", "sky", "train", "k2", "o1"),
        ("3.png", "cat", "land", "test", "k3", "o2"),
        ("4.png", "", "", "train", "k4", ""),
        ("5.png", "-1", "sea", "train", "k5", ""),
    ]
    source = open_benchmark(
        "image_csv",
        write_rows(tmp_path, columns, rows, "list of images.csv"),
        table="list of images.csv",
        **dict(zip(("path_column", "label_column", "attribute_column"), columns, strict=False)),
        split_column="set",
        id_column="key",
        source_column="object",
        minority_cells="0:2, 1:1",
        attributes=("land", "sea", "sky"),
        eta_o=0.1,
        pool="train+val",
        benchmark_name="pets",
    )
    assert source.benchmark.classes == ("cat", "dog")
    assert source.benchmark.minority_cells == ((False, False, True), (False, True, False))
    assert (source.benchmark.name, source.benchmark.eta_o) == ("pets", 0.1)
    columns = {key: column.tolist() for key, column in source.columns.items()}
    assert columns["id"] == ["k1", "k2", "k4", "k5", "k3"]
    assert columns["label"] == [0, 1, -1, -1, 0]
    assert columns["attribute"] == [1, 2, -1, 1, 0]
    assert columns["minority"] == [0, 0, -1, -1, 0]
    assert columns["source_id"] == ["o1", "o1", "", "", "o2"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("y", "cat", "row 2: y is '0'; known: 'cat'"),
        ("split", "dev", "row 1: split is 'dev'; known: 'train'"),
        ("a", "", "row 1 has the label '0' but no attribute"),
        ("filename", "../x.jpg", "outside of the data folder"),
        ("filename", "c.PNG", "2 images with the id 'c.PNG'"),
        ("filename", "none.jpg", "1 of 4 images are missing or damaged: none.jpg: there is no"),
    ],
)
def test_values_that_cannot_be_used(tmp_path, column, value, message):
    columns = ("filename", "y", "a", "split")
    rows = [dict(zip(columns, row, strict=True)) for row in ROWS]
    write_rows(tmp_path)
    rows[0][column] = value
    write_table(tmp_path / "metadata.csv", rows)
    options = {"classes": ("cat", "dog")} if value == "cat" else {}
    with pytest.raises(DatasetError, match=message):
        open_benchmark("image_csv", tmp_path, **options)


def test_columns_and_cells_that_must_be_given(tmp_path):
    write_rows(tmp_path, ("filename", "y", "background", "split"))
    with pytest.raises(DatasetError, match="lacks a or place or attribute; say which column it is"):
        open_benchmark("image_csv", tmp_path)
    with pytest.raises(DatasetError, match="lacks the columns bg; its columns are filename, y"):
        open_benchmark("image_csv", tmp_path, attribute_column="bg")
    rows = [(*row, row[1]) for row in ROWS]
    write_rows(tmp_path, ("filename", "y", "a", "split", "label"), rows)
    with pytest.raises(DatasetError, match="has the columns y, label; say which"):
        open_benchmark("image_csv", tmp_path)
    write_rows(tmp_path, rows=[*ROWS, ("g.jpg", 2, 1, 0)])
    with pytest.raises(DatasetError, match="3 classes and 2 attributes, and minority means"):
        open_benchmark("image_csv", tmp_path)
    for cells in ("0:2", "3:1", "0-1"):
        with pytest.raises(DatasetError, match=f"minority_cells has '{cells}', which is not"):
            open_benchmark("image_csv", tmp_path, minority_cells=cells)
    with pytest.raises(DatasetError, match="label 2, but there are|y is '2'; known: '0', '1'"):
        open_benchmark("image_csv", tmp_path, classes=("a", "b"))
    with pytest.raises(DatasetError, match="metadata.csv cannot be read"):
        open_benchmark("image_csv", tmp_path / "none")


def test_prepared_files_give_the_same(tmp_path):
    folder = write_rows(tmp_path)
    assert_prepared_is_the_same("image_csv", folder, tmp_path / "tfds")
