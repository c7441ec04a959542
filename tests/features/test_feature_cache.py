import dataclasses
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s_jax.errors import FeatureError
from w2s_jax.features import cache as cache_module
from w2s_jax.features import (
    load_features,
    make_feature_set,
    npyfile,
    save_features,
    saving,
    shipped_names,
)

ARRAYS = ("features", "labels", "minority", "split", "ids", "attributes", "source_ids")


@pytest.fixture
def saved(toy, tmp_path):
    """A cache on disk, with every optional part."""
    s = make_feature_set(
        **toy(),
        source_ids=[f"s{i}" for i in range(24)],
        class_names=["cat", "dog"],
        attribute_names=["indoor", "über"],
        name="toy",
        backbone="net",
        eta_o=0.05,
        provenance={"weights": "abc", "nested": [1, {"x": None}]},
    )
    save_features(s, tmp_path / "cache")
    return tmp_path / "cache"


def assert_same(left, right, *, same_path=False):
    for field in dataclasses.fields(left):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if field.name == "path" and not same_path:
            continue
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype, field.name
        else:
            assert a == b, field.name
    assert left.fingerprint == right.fingerprint


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("groups", ["attributes", "minority"])
def test_round_trip(toy, tmp_path, dtype, groups):
    changes = {"features": np.random.default_rng(1).normal(size=(24, 5)).astype(dtype)}
    if groups == "minority":
        changes |= {"attributes": None, "minority": np.arange(24) % 3 == 0}
    s = make_feature_set(**toy(**changes), backbone="net", provenance={"a": 1})
    returned = save_features(s, tmp_path / "deep" / "cache")
    opened = load_features(tmp_path / "deep" / "cache")
    assert_same(s, opened)
    assert_same(returned, opened, same_path=True)
    opened.verify()
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["cache"]


def test_everything_is_kept(saved):
    s = load_features(saved)
    assert (s.name, s.backbone, s.eta_o, s.pool) == ("toy", "net", 0.05, "train")
    assert s.attribute_names == ("indoor", "über")
    assert s.provenance == {"weights": "abc", "nested": [1, {"x": None}]}
    assert s.path == saved
    assert s.source_ids is not None


def test_unmarked_minority_table_is_kept(toy, tmp_path):
    s = make_feature_set(**toy(), minority=np.zeros(24, bool))
    opened = save_features(s, tmp_path / "cache")
    assert_same(s, opened)
    assert opened.group_minority.tolist() == [False] * 4


def test_opening_maps_memory_and_reads_no_array(saved, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("an array was read")

    for name in ("row_blocks", "array_checksum", "file_checksum", "read_npy"):
        monkeypatch.setattr(npyfile, name, read)
    monkeypatch.setattr(cache_module, "file_checksum", read)
    monkeypatch.setattr("w2s_jax.features.feature_set.array_checksum", read)
    s = load_features(saved)
    assert isinstance(s.features, np.memmap)
    for name in ARRAYS:
        array = getattr(s, name)
        assert not array.flags.writeable
        assert isinstance(array if name == "features" else array.base, np.memmap)
    assert len(s.fingerprint) == 64


def test_a_huge_sparse_cache_opens(saved):
    """30 GB of features that were never written, so nothing can have read them."""
    manifest = json.loads((saved / "manifest.json").read_text())
    shape = (24, 300_000_000)
    header = npyfile.canonical_header(np.dtype("float32"), shape)
    with (saved / "features.npy").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 4 * 24 * 300_000_000)
    manifest["shape"] = list(shape)
    rewrite(saved, manifest)
    assert load_features(saved).num_features == 300_000_000


def rewrite(path, manifest):
    """Write a manifest whose own checksum is right, with the fingerprint its content gives."""
    content = {k: manifest[k] for k in ("checksums", "minority_cells", "pool") if k in manifest}
    text = json.dumps(content, sort_keys=True).encode()
    manifest["fingerprint"] = manifest.get("fingerprint") and hashlib.sha256(text).hexdigest()
    manifest["manifest_checksum"] = cache_module.manifest_checksum(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_files_are_plain_npy_with_their_checksum(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    assert sorted(manifest["checksums"]) == sorted(f"{name}.npy" for name in ARRAYS)
    for name, checksum in manifest["checksums"].items():
        assert hashlib.sha256((saved / name).read_bytes()).hexdigest() == checksum
        np.load(saved / name, allow_pickle=False)
    assert manifest["split_sizes"] == {"train": 8, "val": 8, "test": 8}


def test_format_version_1_stays_readable():
    """The committed cache and its fingerprint never change: a change makes stored results stale."""
    committed = load_features(Path(__file__).parent / "format_1")
    committed.verify()
    row = np.arange(12)
    made = make_feature_set(
        (row[:, None] / np.array([1, 2, 4])).astype(np.float16),
        np.where(row == 0, -1, row % 2),
        attributes=np.where(row == 0, -1, row // 2 % 2),
        split=row // 3 % 3,
        ids=[f"café/{i}" for i in row],
        source_ids=row // 3,
        class_names=["cat", "dog"],
        attribute_names=["indoor", "outdoor"],
        eta_o=0.05,
        name="committed",
        backbone="none",
        provenance={"made_by": "this test"},
    )
    assert_same(committed, made)
    assert committed.fingerprint == (
        "116754e2c98e8a260f96c72e4042b8da169579968b69557aa251d43986b173c1"
    )


@pytest.mark.parametrize("position", [0.1, 0.4, 0.6, 0.999])
@pytest.mark.parametrize("name", ["features.npy", "ids.npy", "minority.npy"])
def test_a_flipped_bit_is_found(saved, name, position):
    data = bytearray((saved / name).read_bytes())
    data[int(len(data) * position)] ^= 4
    (saved / name).write_bytes(data)
    with pytest.raises(FeatureError) as error:
        load_features(saved).verify()
    assert name in str(error.value)


def test_a_flipped_bit_in_the_data_is_reported_as_such(saved):
    data = bytearray((saved / "labels.npy").read_bytes())
    data[-1] ^= 1
    (saved / "labels.npy").write_bytes(data)
    with pytest.raises(FeatureError, match=r"labels\.npy is damaged: its sha256 is"):
        load_features(saved).verify()


@pytest.mark.parametrize("name", [f"{name}.npy" for name in ARRAYS])
def test_a_missing_file(saved, name):
    opened = load_features(saved)
    (saved / name).unlink()
    with pytest.raises(FeatureError, match=f"{name} is missing"):
        load_features(saved)
    with pytest.raises(FeatureError, match=f"{name} is missing"):
        opened.verify()


@pytest.mark.parametrize("name", ["features.npy", "ids.npy", "split.npy"])
@pytest.mark.parametrize("change", [-1, 1, -60])
def test_a_file_of_the_wrong_size(saved, name, change):
    size = (saved / name).stat().st_size
    os.truncate(saved / name, size + change)
    words = ".* truncated" if change < 0 else "has bytes after its array"
    with pytest.raises(FeatureError, match=f"{name} {words}"):
        load_features(saved)


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("features", np.zeros((24, 4), np.float32), r"float32 \[24, 4\], but .* \[24, 5\]"),
        ("features", np.zeros((24, 5), np.float16), r"float16 \[24, 5\], but .* float32"),
        ("labels", np.zeros(23, np.int32), r"int32 \[23\], but .* \[24\]"),
        ("labels", np.zeros(24, np.int64), "int64"),
        ("ids", np.arange(24), r"int64 \[24\], but the manifest says strings"),
    ],
)
def test_a_file_of_another_array(saved, name, array, words):
    np.save(saved / f"{name}.npy", array)
    with pytest.raises(FeatureError, match=words):
        load_features(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "newer than 1.*upgrade w2s_jax"),
        ({"format_version": "1"}, "format_version '1', so it is not"),
        ({"format_version": None}, "format_version None"),
        ({"name": None}, "None under 'name'"),
        ({"shape": "big"}, "'big' under 'shape'"),
        ({"fingerprint": "0" * 64}, "does not match its own checksum"),
        ({"eta_o": 0.5}, "edited or damaged"),
    ],
)
def test_a_wrong_manifest(saved, change, words):
    file = saved / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(FeatureError, match=words):
        load_features(saved)


@pytest.mark.parametrize("key", ["shape", "checksums", "pool", "fingerprint"])
def test_a_manifest_that_lacks_a_key(saved, key):
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest[key]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FeatureError, match=f"lacks the key '{key}'"):
        load_features(saved)


def test_a_manifest_that_lists_too_little(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["checksums"]["split.npy"]
    rewrite(saved, manifest)
    with pytest.raises(FeatureError, match=r"does not list split\.npy"):
        load_features(saved)


def test_a_manifest_with_a_foreign_fingerprint(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["fingerprint"] = "0" * 64
    manifest["manifest_checksum"] = cache_module.manifest_checksum(manifest)
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FeatureError, match="has the fingerprint 000000000000"):
        load_features(saved)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "damaged or truncated, not JSON"),
        (b'{"format_version": 1, "na', "damaged or truncated, not JSON"),
        (b"[" * 100_000, "damaged or truncated, not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "format_version None"),
        (b"{}", "format_version None"),
    ],
)
def test_a_damaged_manifest(saved, text, words):
    (saved / "manifest.json").write_bytes(text)
    with pytest.raises(FeatureError, match=words):
        load_features(saved)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_damage_to_any_file_goes_unnoticed(data, toy):
    """Any byte of any file, changed or cut off: opening and verifying gives one clear error."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cache"
        save_features(make_feature_set(**toy()), path)
        file = data.draw(st.sampled_from(sorted(path.iterdir())))
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            del content[at:]
        before = json.loads((path / "manifest.json").read_text())
        file.write_bytes(content)
        try:
            load_features(path).verify()
        except FeatureError:
            return
        # White space of the manifest is all that may change.
        assert json.loads((path / "manifest.json").read_text()) == before


@pytest.mark.parametrize("index", range(7))
def test_an_interrupted_save_leaves_nothing_that_opens(toy, tmp_path, monkeypatch, index):
    """A kill during the write of any file: no cleanup runs, and the target does not exist."""
    s = make_feature_set(**toy())
    written = []
    write = saving.write_npy

    def killed(path, *args):
        if len(written) == index:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, *args)

    def kill_manifest(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "write_npy", killed)
    monkeypatch.setattr(saving, "_write_manifest", kill_manifest)
    monkeypatch.setattr(saving.shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(KeyboardInterrupt):
        save_features(s, tmp_path / "cache")
    monkeypatch.undo()
    with pytest.raises(FeatureError, match="no feature set"):
        load_features(tmp_path / "cache")
    (partial,) = tmp_path.iterdir()
    assert len(list(partial.iterdir())) == len(written) == min(index, 6)
    with pytest.raises(FeatureError, match="half-written"):
        load_features(partial)
    assert_same(save_features(s, tmp_path / "cache"), s)


def test_a_failed_save_cleans_up(toy, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "_write_manifest", full)
    with pytest.raises(FeatureError, match="No space left on device.*unchanged"):
        save_features(make_feature_set(**toy()), tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_not_replaced(saved, toy):
    before = load_features(saved).fingerprint
    other = make_feature_set(**toy(), pool="train+val")
    with pytest.raises(FeatureError, match="already exists.*overwrite=True"):
        save_features(other, saved)
    assert load_features(saved).fingerprint == before
    assert_same(save_features(other, saved, overwrite=True), other)
    assert [p.name for p in saved.parent.iterdir()] == ["cache"]


def test_overwrite_only_replaces_a_cache(toy, tmp_path):
    s = make_feature_set(**toy())
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(FeatureError, match="is not a feature cache"):
            save_features(s, tmp_path / name, overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()
    with pytest.raises(FeatureError, match="no name for a new directory"):
        save_features(s, ".")


def test_a_cache_can_replace_itself(saved):
    opened = load_features(saved)
    again = save_features(opened, saved, overwrite=True)
    assert_same(opened, again)
    again.verify()


def test_overwrite_behind_a_symbolic_link(saved, toy):
    link = saved.with_name("link")
    link.symlink_to(saved)
    other = make_feature_set(**toy(), pool="train+val")
    save_features(other, link, overwrite=True)
    assert link.is_symlink()
    assert load_features(saved).fingerprint == other.fingerprint


@pytest.mark.parametrize("num_renames", [0, 1, 2])
def test_a_killed_overwrite_leaves_the_old_or_the_new(saved, toy, monkeypatch, num_renames):
    old = load_features(saved).fingerprint
    new = make_feature_set(**toy(), pool="train+val")
    renames = []
    rename = os.rename

    def killed(*args):
        if len(renames) == num_renames:
            raise KeyboardInterrupt
        renames.append(args)
        rename(*args)
        if len(renames) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(saving.os, "rename", killed)
    monkeypatch.setattr(saving.shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(KeyboardInterrupt):
        save_features(new, saved, overwrite=True)
    monkeypatch.undo()
    expected = new.fingerprint if num_renames == 2 else old
    opened = load_features(saved)
    assert opened.fingerprint == expected
    opened.verify()
    with pytest.raises(FeatureError, match="already exists"):
        save_features(new, saved)
    assert load_features(saved).fingerprint == expected
    assert save_features(new, saved, overwrite=True).fingerprint == new.fingerprint
    assert not cache_module.previous_path(saved).exists()


def test_a_failed_rename_puts_the_old_cache_back(saved, toy, monkeypatch):
    old = load_features(saved).fingerprint
    rename = os.rename

    def refused(source, target):
        if str(source).endswith(".partial"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr(saving.os, "rename", refused)
    with pytest.raises(FeatureError, match="Permission denied"):
        save_features(make_feature_set(**toy(), pool="train+val"), saved, overwrite=True)
    assert load_features(saved).fingerprint == old
    assert [p.name for p in saved.parent.iterdir()] == ["cache"]


def test_opening_during_an_overwrite_never_mixes_two_caches(saved, toy, monkeypatch):
    """The overwrite happens after the manifest was read and before the arrays are opened."""
    new = make_feature_set(**toy(labels=(np.arange(24) + 1) % 2))
    open_arrays = cache_module._open_arrays
    calls = []

    def slow(*args):
        calls.append(args)
        if len(calls) == 1:
            save_features(new, saved, overwrite=True)
        return open_arrays(*args)

    monkeypatch.setattr(cache_module, "_open_arrays", slow)
    opened = load_features(saved)
    assert opened.fingerprint == new.fingerprint
    np.testing.assert_array_equal(opened.labels, new.labels)


def test_storage_dtype(toy, tmp_path):
    s = make_feature_set(**toy())
    half = save_features(s, tmp_path / "half", dtype="float16")
    assert half.features.dtype == np.float16
    np.testing.assert_array_equal(half.features, s.features.astype(np.float16))
    assert half.fingerprint != s.fingerprint
    for dtype in ("int8", "no such", complex, np.longdouble):
        with pytest.raises(FeatureError, match="choose float16, float32 or float64"):
            save_features(s, tmp_path / "other", dtype=dtype)


@pytest.mark.parametrize(("wide", "narrow"), [("float32", "float16"), ("float64", "float32")])
def test_overflow_is_an_error(toy, tmp_path, wide, narrow):
    x = toy()["features"].astype(wide)
    x[17, 3] = -1.5 * float(np.finfo(narrow).max)
    s = make_feature_set(**toy(features=x))
    with pytest.raises(FeatureError, match=f"do not fit {narrow}: row 17 .* in column 3"):
        save_features(s, tmp_path / "cache", dtype=narrow)
    assert list(tmp_path.iterdir()) == []


def test_save_checks_a_set_made_by_hand(toy, tmp_path):
    s = make_feature_set(**toy())
    bad = dataclasses.replace(s, labels=np.zeros(24, np.int32))
    with pytest.raises(FeatureError, match="only the class 0"):
        save_features(bad, tmp_path / "cache")
    x = toy()["features"].copy()
    x[2, 2] = np.nan
    unread = make_feature_set(**toy(features=x), check_finite=False)
    with pytest.raises(FeatureError, match="1 NaN .* first in row 2"):
        save_features(unread, tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_large_features_are_written_in_blocks(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(npyfile, "_BLOCK_BYTES", 50)
    x = np.asfortranarray(toy()["features"])
    s = make_feature_set(**toy(features=x))
    opened = save_features(s, tmp_path / "cache")
    np.testing.assert_array_equal(opened.features, x)
    monkeypatch.undo()
    assert opened.fingerprint == make_feature_set(**toy(features=x)).fingerprint
    x = x.copy()
    x[23, 0] = np.inf
    monkeypatch.setattr(npyfile, "_BLOCK_BYTES", 50)
    with pytest.raises(FeatureError, match="first in row 23"):
        make_feature_set(**toy(features=x))


def test_eta_o_and_pool_can_be_replaced_on_loading(saved):
    base = load_features(saved)
    changed = load_features(saved, eta_o=0.25, pool="train+val")
    assert (changed.eta_o, changed.pool) == (0.25, "train+val")
    assert len(changed.pool_rows) == 16
    assert changed.fingerprint != base.fingerprint
    assert load_features(saved, eta_o=0.25).fingerprint == base.fingerprint
    with pytest.raises(FeatureError, match="eta_o is -1"):
        load_features(saved, eta_o=-1)
    with pytest.raises(FeatureError, match="pool is 'test'"):
        load_features(saved, pool="test")
    with pytest.raises(FeatureError, match="part of a feature cache"):
        load_features(saved, minority_cells="0:1")


def test_a_wider_pool_is_checked_for_shared_sources(toy, tmp_path):
    sources = np.where(np.arange(24) // 4 % 3 == 0, np.arange(24), 99)
    save_features(make_feature_set(**toy(), source_ids=sources), tmp_path / "cache")
    with pytest.raises(FeatureError, match=r"1 sources have rows both in the pool \(train\+val\)"):
        load_features(tmp_path / "cache", pool="train+val")


def test_an_unknown_name_lists_the_known(tmp_path, monkeypatch, toy):
    monkeypatch.setattr("w2s_jax.features.loading._DATA", tmp_path)
    with pytest.raises(FeatureError, match="ship with the package are none"):
        load_features("reviews/minilm")
    save_features(make_feature_set(**toy()), tmp_path / "reviews" / "minilm")
    save_features(make_feature_set(**toy()), tmp_path / "reviews" / "bert")
    assert shipped_names() == ("reviews/bert", "reviews/minilm")
    with pytest.raises(FeatureError) as error:
        load_features("reviews/minilmm")
    assert "(did you mean 'reviews/minilm'?)" in str(error.value)
    assert "are reviews/bert, reviews/minilm" in str(error.value)
    assert load_features("reviews/minilm").num_rows == 24


def test_a_directory_that_is_no_cache(tmp_path):
    with pytest.raises(FeatureError, match=r"has no manifest\.json"):
        load_features(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    num_rows=st.integers(3, 40),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    num_classes=st.integers(2, 3),
    num_attributes=st.integers(2, 4),
    ids=st.sets(st.text(min_size=1).filter(lambda s: "\0" not in s), min_size=40, max_size=40),
    with_sources=st.booleans(),
)
def test_npz_to_cache_and_back(
    num_rows, seed, dtype, num_classes, num_attributes, ids, with_sources
):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_rows)
    split = rng.integers(0, 3, num_rows)
    labels[:num_classes] = np.arange(num_classes)[:num_rows]
    split[:2] = [0, 2]
    unlabelled = (split == 0) & (rng.random(num_rows) < 0.3) & (np.arange(num_rows) > 2)
    arrays = {
        "features": rng.normal(size=(num_rows, 3)).astype(dtype),
        "labels": np.where(unlabelled, -1, labels),
        "attributes": np.where(unlabelled, -1, rng.integers(0, num_attributes, num_rows)),
        "split": split,
        "ids": np.array(sorted(ids)[:num_rows])[rng.permutation(num_rows)],
        "minority_cells": rng.random((num_classes, num_attributes)) < 0.5,
    }
    if with_sources:
        arrays["source_id"] = np.char.add(split.astype(str), "s")
    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(f"{folder}/toy.npz", **arrays)
        imported = load_features(f"{folder}/toy.npz")
        opened = save_features(imported, f"{folder}/cache")
        assert_same(imported, opened)
        opened.verify()
        np.testing.assert_array_equal(imported.features, arrays["features"])
        assert imported.ids.tolist() == arrays["ids"].tolist()
