import importlib.util
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_files import write_waterbirds

from w2s_jax.datasets import DatasetError, open_benchmark, open_prepared
from w2s_jax.datasets.waterbirds import Waterbirds


@pytest.fixture
def folder(tmp_path):
    return write_waterbirds(tmp_path)[0]


def assert_same(one, two):
    assert one.benchmark == two.benchmark
    assert len(one) == len(two)
    for row, other in zip(one, two, strict=True):
        np.testing.assert_array_equal(row.pop("image"), other.pop("image"))
        assert row == other


def test_prepared_and_published_files_give_the_same(folder, tmp_path):
    source = open_benchmark("waterbirds", folder, check_counts=False)
    prepared = open_benchmark(
        "waterbirds", folder, prepared_dir=tmp_path / "tfds", check_counts=False
    )
    assert_same(source, prepared)
    for index in range(len(source)):
        content = (folder / source[index]["id"]).read_bytes()
        assert source.read(index) == prepared.read(index) == content
    shutil.rmtree(folder)
    (path,) = (tmp_path / "tfds").rglob("dataset_info.json")
    assert_same(open_prepared(path.parent), prepared)
    unpickled = pickle.loads(pickle.dumps(prepared))
    assert_same(unpickled, prepared)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(prepared.__getitem__, [7])
    np.testing.assert_array_equal(found["image"], prepared[7]["image"])


def test_forked_readers_open_their_own_files(folder, tmp_path):
    prepared = open_benchmark(
        "waterbirds", folder, prepared_dir=tmp_path / "tfds", check_counts=False
    )
    prepared[0]
    state = prepared._open_sources
    prepared._open_sources = (state[0] + 1, state[1])
    prepared[0]
    assert prepared._open_sources[1] is not state[1]


def test_a_second_opening_writes_nothing_and_a_changed_folder_is_prepared_anew(folder, tmp_path):
    options = {"prepared_dir": tmp_path / "tfds", "check_counts": False}
    first = open_benchmark("waterbirds", folder, **options)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "tfds").rglob("*") if p.is_file()}
    open_benchmark("waterbirds", folder, **options)
    assert before == {
        p: p.stat().st_mtime_ns for p in (tmp_path / "tfds").rglob("*") if p.is_file()
    }
    table = folder / "metadata.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:-1]))
    second = open_benchmark("waterbirds", folder, **options)
    assert (len(first), len(second)) == (15, 14)
    assert second.folder != first.folder


def test_tfds_itself_serves_the_examples(folder, tmp_path):
    builder = Waterbirds(folder, check_counts=False, data_dir=tmp_path / "tfds")
    builder.download_and_prepare()
    source = open_benchmark("waterbirds", folder, check_counts=False)
    examples = builder.as_data_source(split="test")
    start = int(np.argmax(source.columns["split"] == "test"))
    for index in range(len(examples)):
        expected = source[start + index]
        assert examples[index]["id"].decode() == expected["id"]
        for key in ("image", "label", "attribute", "minority"):
            np.testing.assert_array_equal(examples[index][key], expected[key])
    assert builder.info.features["label"].names == ["landbird", "waterbird"]
    assert "Places" in builder.info.redistribution_info.license
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD


def test_bad_images_are_not_forgotten(folder, tmp_path):
    options = {"prepared_dir": tmp_path / "tfds", "check_counts": False}
    source = open_benchmark("waterbirds", folder, check_counts=False)
    (folder / source[2]["id"]).write_bytes(b"")
    with pytest.raises(DatasetError, match="1 of 15 images are missing or damaged"):
        open_benchmark("waterbirds", folder, **options)
    skipping = open_benchmark("waterbirds", folder, on_bad_image="skip", **options)
    assert len(skipping) == 14
    assert skipping.skipped == (f"{source.columns['id'][2]}: the file is empty",)
    with pytest.raises(
        DatasetError, match="prepared without 1 bad images, such as .*empty; repair"
    ):
        open_benchmark("waterbirds", folder, **options)


def test_folders_that_are_not_prepared_or_damaged(folder, tmp_path):
    with pytest.raises(DatasetError, match="has no prepared benchmark"):
        open_prepared(tmp_path)
    prepared = open_benchmark(
        "waterbirds", folder, prepared_dir=tmp_path / "tfds", check_counts=False
    )
    path = Path(prepared.folder, "metadata.json")
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "format": 2}))
    with pytest.raises(DatasetError, match="metadata of format 2, expected 1"):
        open_prepared(prepared.folder)
    rows = {name: column[:-1] for name, column in whole["rows"].items()}
    path.write_text(json.dumps({**whole, "rows": rows}))
    with pytest.raises(DatasetError, match="has 4 test images, its metadata 3"):
        open_prepared(prepared.folder)
    rows = {**whole["rows"], "id": whole["rows"]["id"][::-1]}
    path.write_text(json.dumps({**whole, "rows": rows}))
    with pytest.raises(DatasetError, match="where its metadata has"):
        open_prepared(prepared.folder)[0]
    path.write_text(json.dumps(whole))
    for shard in Path(prepared.folder).glob("*train*array_record*"):
        shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DatasetError, match="cannot be read from .* prepare the benchmark again"):
        open_prepared(prepared.folder)[0]


def test_preparing_and_reading_import_no_tensorflow(folder, tmp_path):
    code = (
        "import sys; from w2s_jax.datasets import open_benchmark; "
        f"s = open_benchmark('waterbirds', {str(folder)!r}, check_counts=False, "
        f"prepared_dir={str(tmp_path / 'tfds')!r}); s[3]; print('tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[-1] == "False"


def test_without_array_record_or_pillow_the_error_says_what_to_install(
    folder, tmp_path, monkeypatch
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "array_record" else find_spec(n)
    )
    for open_ in (
        lambda: open_prepared(tmp_path),
        lambda: open_benchmark(
            "waterbirds", folder, prepared_dir=tmp_path / "tfds", check_counts=False
        ),
    ):
        with pytest.raises(DatasetError, match=r"pip install 'w2s_jax\[images\]'"):
            open_()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DatasetError, match=r"Pillow, which is not .* 'w2s_jax\[images\]'"):
        open_benchmark("waterbirds", folder, check_counts=False)
