import multiprocessing
import pickle

import numpy as np
import pytest
from image_files import encode, random_image, write_table, write_waterbirds

from w2s_jax.datasets import DatasetError, open_benchmark
from w2s_jax.datasets.waterbirds import BENCHMARK


def test_rows_are_those_of_the_table(tmp_path):
    folder, rows = write_waterbirds(tmp_path)
    source = open_benchmark("waterbirds", folder, check_counts=False)
    assert len(source) == len(rows) == 15
    assert source.benchmark == BENCHMARK
    rows = sorted(rows, key=lambda row: row["split"])
    for index, (found, row) in enumerate(zip(source, rows, strict=True)):
        image = found.pop("image")
        assert found == {
            "index": index,
            "id": row["img_filename"],
            "label": row["y"],
            "attribute": row["place"],
            "minority": int(row["y"] != row["place"]),
            "split": ("train", "val", "test")[row["split"]],
            "source_id": "",
        }
        assert image.dtype == np.uint8
        assert image.shape == (12, 16, 3)
        np.testing.assert_allclose(image, random_image(row["img_id"]), atol=8)
    assert [source[-1][key] for key in ("index", "split")] == [14, "test"]
    with pytest.raises(IndexError):
        source[15]


def test_the_folder_above_serves_as_well(tmp_path):
    folder, _ = write_waterbirds(tmp_path)
    above, below = (open_benchmark("waterbirds", f, check_counts=False) for f in (tmp_path, folder))
    for name, column in above.columns.items():
        np.testing.assert_array_equal(column, below.columns[name])


def test_pickled_sources_read_the_same_in_other_processes(tmp_path):
    source = open_benchmark("waterbirds", write_waterbirds(tmp_path)[0], check_counts=False)
    assert len(pickle.dumps(source)) < 10_000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        images = pool.map(source.__getitem__, range(3))
    for index, found in enumerate(images):
        np.testing.assert_array_equal(found["image"], source[index]["image"])


def test_published_numbers():
    train, val, test = (np.array(BENCHMARK.expected_counts[s]) for s in ("train", "val", "test"))
    assert (train.sum(), val.sum(), test.sum()) == (4795, 1199, 5794)
    assert BENCHMARK.eta_o == train[np.array(BENCHMARK.minority_cells)].sum() / train.sum()


def test_other_numbers_are_an_error_unless_allowed(tmp_path):
    folder, _ = write_waterbirds(tmp_path)
    with pytest.raises(
        DatasetError,
        match=r"train has \[\[3, 1\], \[1, 2\]\], expected \[\[3498, 184\].*check_count",
    ):
        open_benchmark("waterbirds", folder)


def test_missing_folder_column_and_unknown_values(tmp_path):
    with pytest.raises(DatasetError, match=r"Neither .* has 'metadata.csv'; give the folder"):
        open_benchmark("waterbirds", tmp_path)
    folder, rows = write_waterbirds(tmp_path)
    write_table(
        folder / "metadata.csv",
        rows,
        ["img_id", "img_filename", "y", "split", "place", "place_filename"],
    )
    table = folder / "metadata.csv"
    for column in ("img_filename", "y", "split", "place"):
        write_table(table, [{k: v for k, v in row.items() if k != column} for row in rows])
        with pytest.raises(
            DatasetError, match=f"lacks the columns {column}; its columns are img_id"
        ):
            open_benchmark("waterbirds", folder, check_counts=False)
    for column, value in (("y", "2"), ("split", "train"), ("place", "")):
        write_table(table, [rows[0], {**rows[1], column: value}])
        with pytest.raises(DatasetError, match=f"row 2: {column} is '{value}'; known: '0', '1'"):
            open_benchmark("waterbirds", folder, check_counts=False)
    write_table(table, [rows[0], rows[0]])
    with pytest.raises(DatasetError, match="2 images with the id"):
        open_benchmark("waterbirds", folder, check_counts=False)
    write_table(table, rows)
    table.write_text(table.read_text().replace(rows[3]["place_filename"], "a,b"))
    with pytest.raises(DatasetError, match=r"line 5 has 7 fields, its header 6"):
        open_benchmark("waterbirds", folder, check_counts=False)
    table.write_bytes(b"")
    with pytest.raises(DatasetError, match="its columns are none"):
        open_benchmark("waterbirds", folder, check_counts=False)


def test_missing_and_damaged_images_are_named_and_counted(tmp_path, caplog):
    folder, rows = write_waterbirds(tmp_path)
    jpeg = [
        r["img_filename"] for r in rows if r["img_filename"].lower().endswith((".jpg", ".jpeg"))
    ]
    whole = encode(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8), ".jpg")
    (folder / jpeg[0]).unlink()
    (folder / jpeg[1]).write_bytes(whole[:-200])
    (folder / jpeg[2]).write_bytes(b"")
    (folder / jpeg[3]).write_bytes(b"<html>not found</html>")
    with pytest.raises(DatasetError) as error:
        open_benchmark("waterbirds", folder, check_counts=False)
    message = str(error.value)
    assert "4 of 15 images are missing or damaged" in message
    for name, problem in zip(
        jpeg,
        ("there is no such file", "truncated", "the file is empty", "no image format that Pillow"),
        strict=False,
    ):
        assert f"{name}: " in message
        assert problem in message
    source = open_benchmark("waterbirds", folder, check_counts=False, on_bad_image="skip")
    assert len(source) == len(source.columns["id"]) == 11
    assert not set(jpeg[:4]) & set(source.columns["id"])
    assert {problem.split(": ")[0] for problem in source.skipped} == set(jpeg[:4])
    assert "4 of 15 images" in caplog.text
    assert [row["index"] for row in source] == list(range(11))
    with pytest.raises(DatasetError, match="known: 'error', 'skip'"):
        open_benchmark("waterbirds", folder, check_counts=False, on_bad_image="ignore")


def test_an_image_that_breaks_later_is_named(tmp_path):
    folder, _ = write_waterbirds(tmp_path)
    source = open_benchmark("waterbirds", folder, check_counts=False)
    name = source[4]["id"]
    (folder / name).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DatasetError, match=f"{name} cannot be decoded"):
        source[4]
    (folder / name).unlink()
    with pytest.raises(DatasetError, match="cannot be read .No such file"):
        source[4]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "/etc/secret.png",
        "a/../../secret.png",
        "..\\s",
        "C:\\s",
        "link/secret.png",
        "link",
        "",
        ".",
        "a\0",
    ],
)
def test_paths_that_leave_the_folder_are_refused(tmp_path, name):
    folder, rows = write_waterbirds(tmp_path / "data")
    (folder / "link").symlink_to(tmp_path)
    (tmp_path / "secret.png").write_bytes(encode(random_image(1), ".png"))
    write_table(folder / "metadata.csv", [rows[0], {**rows[1], "img_filename": name}])
    for mode in ("error", "skip"):
        with pytest.raises(DatasetError, match="outside of the data folder"):
            open_benchmark("waterbirds", folder, check_counts=False, on_bad_image=mode)


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(DatasetError, match="no benchmark 'waterbird'; known: .*waterbirds"):
        open_benchmark("waterbird", tmp_path)
    with pytest.raises(DatasetError, match="There is no option 'ratio'; known: none"):
        open_benchmark("waterbirds", tmp_path, ratio="1pct")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bffhq", {"ratio": 1}, "option ratio is 1, expected str"),
        ("imagenet9", {"test_variants": "only_fg"}, "option test_variants is 'only_fg', expected"),
        ("imagenet9", {"test_variants": [3]}, r"option test_variants is \[3\], expected"),
        ("imagenet9", {"release_train_share": "0.5"}, "option release_train_share is '0.5'"),
        ("image_csv", {"label_column": 3}, r"option label_column is 3, expected str \| None"),
        ("image_csv", {"eta_o": True}, "option eta_o is True"),
        ("fashion_textures", {"textures_dir": "x", "size": 9.5}, "size is 9.5, expected int"),
        ("fashion_textures", {"textures_dir": "x", "textures": {"a": 1}}, "option textures is {"),
    ],
)
def test_options_of_another_type(tmp_path, name, options, message):
    with pytest.raises(DatasetError, match=message):
        open_benchmark(name, tmp_path, **options)
