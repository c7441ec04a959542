import io
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s_jax.errors import FeatureError
from w2s_jax.features import load_features, make_feature_set
from w2s_jax.features.npyfile import open_npy

N = 24


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def npz(toy, tmp_path):
    def write(**changes):
        np.savez(tmp_path / "mine.npz", **toy(**changes))
        return tmp_path / "mine.npz"

    return write


@pytest.fixture
def npy(toy, tmp_path):
    """Writes features.npy and a CSV of the given columns, lists of strings."""

    def write(rows=None, **changes):
        arrays = toy()
        np.save(tmp_path / "mine.npy", arrays["features"])
        columns = {
            "id": arrays["ids"],
            "label": arrays["labels"],
            "attribute": arrays["attributes"],
            "split": arrays["split"],
        }
        columns = {k: v for k, v in (columns | changes).items() if v is not None}
        values = zip(*columns.values(), strict=True)
        lines = [",".join(columns), *(",".join(map(str, row)) for row in values)]
        (tmp_path / "mine.csv").write_text("\n".join(lines if rows is None else rows) + "\n")
        return tmp_path / "mine.npy"

    return write


def changed(array, row, value, dtype=None):
    result = np.array(array, dtype=dtype)
    result[row] = value
    return result


def test_npz_equals_the_arrays(npz, toy):
    s = load_features(npz())
    assert s.fingerprint == make_feature_set(**toy()).fingerprint
    assert (s.name, s.eta_o, s.provenance) == ("mine", 0.5, {"imported_from": "mine.npz"})
    s.verify()


def test_npz_options(npz):
    minority = np.arange(N) % 3 == 0
    path = npz(attributes=None, ids=None, minority=minority, class_names=["cat", "dog"])
    s = load_features(path, eta_o=0.05, pool="train+val")
    assert (s.eta_o, s.pool, s.class_names) == (0.05, "train+val", ("cat", "dog"))
    assert s.ids.tolist() == [str(i) for i in range(N)]
    path = npz(attributes=np.arange(N) % 3, minority_cells=np.eye(2, 3, dtype=bool))
    assert load_features(path).minority_cells.tolist() == np.eye(2, 3, dtype=bool).tolist()
    assert load_features(path, minority_cells="0:1").minority_cells.sum() == 1
    sources = load_features(npz(source_id=np.arange(N))).source_ids
    assert sources.tolist() == [str(i) for i in range(N)]


def test_npy_equals_the_arrays(npy, toy):
    s = load_features(npy())
    assert isinstance(s.features, np.memmap)
    assert s.fingerprint == make_feature_set(**toy()).fingerprint
    assert s.provenance == {"imported_from": ["mine.npy", "mine.csv"]}


@pytest.mark.parametrize(
    "names",
    [
        {"y": "label", "place": "attribute"},
        {"labels": "label", "a": "attribute"},
        {"attributes": "attribute"},
    ],
)
def test_csv_aliases(npy, toy, names):
    renamed = {new: toy()[f"{old}s"] for new, old in names.items()}
    dropped = dict.fromkeys(names.values())
    expected = make_feature_set(**toy()).fingerprint
    assert load_features(npy(**dropped, **renamed)).fingerprint == expected


def test_csv_forms(npy, toy, tmp_path):
    codes = toy()["split"] == "test"
    extra = {"filename": [f'"a, {i}.jpg"' for i in range(N)]}
    path = npy(split=[f" {int(c) * 2}" for c in codes], attribute=None, id=None, **extra)
    with pytest.raises(FeatureError, match="neither an attribute nor a minority column"):
        load_features(path)
    path = npy(
        attribute=None, minority=["TRUE", "false"] * 12, source_id=[f"s{i}" for i in range(N)]
    )
    text = "\ufeff" + (tmp_path / "mine.csv").read_text().replace("\n", "\r\n") + "\r\n\r\n"
    (tmp_path / "other.csv").write_text(text, newline="")
    s = load_features(path, csv=tmp_path / "other.csv")
    np.testing.assert_array_equal(s.minority, np.arange(N) % 2 == 0)
    assert s.source_ids is not None


NPZ_DEFECTS = {
    "unknown key": ({"lables": np.zeros(N)}, "unknown key 'lables' (did you mean 'labels'?)"),
    "far key": ({"zzz": np.zeros(N)}, "unknown key 'zzz'; found features, labels"),
    "no features": ({"features": None}, "lacks the key 'features'; found labels, attributes"),
    "no labels": ({"labels": None}, "lacks the key 'labels'"),
    "no split": ({"split": None}, "needed are features, labels, split"),
    "no groups": ({"attributes": None}, "has neither attributes nor minority; found features"),
    "object labels": ({"labels": np.array([0, None] * 12)}, "labels in {path} holds Python"),
    "object ids": ({"ids": np.array(["a", "b"] * 12, object)}, "a pickle), which is never loaded"),
    "records": ({"labels": np.zeros(N, [("y", "i4")])}, "structured records"),
    "rows": ({"labels": np.arange(3) % 2}, "{path}: labels has 3 rows, but features has 24"),
    "whole floats": ({"labels": np.arange(N) % 2.0}, "labels has dtype float64"),
    "names": ({"class_names": np.array([1, 2])}, "class_names has dtype int64 and shape [2]"),
    "name": ({"class_names": np.array("cat")}, "class_names has dtype <U3 and shape []"),
    "dates": ({"labels": np.zeros(N, "M8[ns]")}, "labels has dtype datetime64[ns]"),
    "scalar": ({"labels": np.array(1)}, "labels has shape [], but must have one dimension"),
    "scalar features": ({"features": np.array(1.0)}, "features has 0 dimensions"),
    "empty": ({"features": np.zeros((0, 4))}, "features is empty, shape [0, 4]"),
}


@pytest.mark.parametrize("defect", NPZ_DEFECTS)
def test_npz_defects(npz, defect):
    changes, words = NPZ_DEFECTS[defect]
    path = npz(**changes)
    with pytest.raises(FeatureError) as error:
        load_features(path)
    assert words.format(path=path) in str(error.value)
    assert str(path) in str(error.value)


def column(values, row, value):
    return changed(values, row, value, dtype="U20")


CSV_DEFECTS = {
    "no label": ({"label": None}, "lacks the column 'label'; found id, attribute, split"),
    "misspelt": ({"label": None, "lable": [0] * N}, "'lable' (did you mean 'label'?)"),
    "misspelt optional": ({"sorce_id": [0] * N}, "'sorce_id' (did you mean 'source_id'?)"),
    "no split": ({"split": None}, "lacks the column 'split'"),
    "two labels": ({"y": [0] * N}, "the columns label and y, which all mean labels"),
    "float label": ({"label": column([0, 1] * 12, 3, "1.0")}, "labels in {csv} is '1.0' in row 3"),
    "text label": ({"label": ["cat"] * N}, "is 'cat' in row 0 (counting from 0), not an integer"),
    "no value": ({"attribute": column([0, 1] * 12, 23, "")}, "attributes in {csv} is '' in row 23"),
    "huge label": ({"label": column([0, 1] * 12, 2, 10**30)}, "not an integer"),
    "minority": ({"minority": ["yes"] * N}, "minority in {csv} is 'yes'"),
    "split": ({"split": ["train"] * 20 + ["tset"] * 4}, "'tset' (did you mean 'test'?) in 4 rows"),
    "duplicate id": ({"id": ["x", "y"] * 12}, "22 duplicates"),
    "repeated column": ({"rows": ["label,split,label"]}, "repeats the column 'label'"),
    "ragged": ({"rows": ["id,label,a,split", "x,0,1,2", "x,0"]}, "has 2 values in line 3, but 4"),
    "empty": ({"rows": []}, "is empty; its first line must name the columns"),
    "short": ({"rows": ["label,a,split", "0,1,0"]}, "labels has 1 rows, but features has 24"),
    "no rows": ({"rows": ["label,a,split"]}, "labels has 0 rows, but features has 24"),
    "quote": ({"rows": ["label,a,split", '"0,1,0']}, "is not a UTF-8 CSV file"),
}


@pytest.mark.parametrize("defect", CSV_DEFECTS)
def test_csv_defects(npy, defect):
    changes, words = CSV_DEFECTS[defect]
    path = npy(**changes)
    with pytest.raises(FeatureError) as error:
        load_features(path)
    assert words.format(csv=path.with_suffix(".csv")) in str(error.value)
    assert str(path.with_suffix(".csv")) in str(error.value)


def test_csv_that_is_not_text(npy, tmp_path):
    path = npy()
    (tmp_path / "mine.csv").write_bytes(b"id,label\n\xff\xfe,1\n")
    with pytest.raises(FeatureError, match="not a UTF-8 CSV"):
        load_features(path)
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(FeatureError, match=r"there is no mine\.csv beside it"):
        load_features(path)
    with pytest.raises(FeatureError, match=r"cannot read .*other\.csv: No such file"):
        load_features(path, csv=tmp_path / "other.csv")


@pytest.mark.parametrize("name", ["none.npz", "none.npy", "none"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FeatureError, match=f"no feature set '.*{name}'.*no such file"):
        load_features(tmp_path / name)


def test_files_of_unknown_kind(npz, tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(FeatureError, match=r"unknown kind '\.pkl'"):
        load_features(tmp_path / "x.pkl")
    for nothing in ("", None, 3):
        with pytest.raises(FeatureError, match="are named by a path, found"):
            load_features(nothing)
    with pytest.raises(FeatureError, match=r"csv goes with a \.npy file"):
        load_features(npz(), csv="x.csv")


def test_nothing_is_ever_unpickled(toy, tmp_path):
    """Pickles in every place where numpy could meet one: none of them runs."""
    bomb = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.save(tmp_path / "object.npy", bomb, allow_pickle=True)
    np.savez(tmp_path / "object.npz", **toy(features=bomb), allow_pickle=True)
    raw = pickle.dumps(Bomb(tmp_path / "exploded"))
    for name in ("raw.npy", "raw.npz"):
        (tmp_path / name).write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "member.npz", "w") as archive:
        archive.writestr("features.npy", raw)
    for name in ("object.npy", "object.npz", "raw.npy", "raw.npz", "member.npz"):
        (tmp_path / name).with_suffix(".csv").write_text("id,label,a,split\n")
        with pytest.raises(FeatureError):
            load_features(tmp_path / name)
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(FeatureError, match="Python objects"):
        load_features(tmp_path / "object.npy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a .npy array (0 bytes"),
        (b"\x93NUMPY", "not a .npy array"),
        (b"PK\x03\x04" * 9, "not a .npy array"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 99, "format version 9.0"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "damaged or truncated .npy header"),
        (b"\x93NUMPY\x01\x00\x02\x00[]", "damaged"),
        (b"\x93NUMPY\x01\x00\x02\x00((", "damaged"),
    ],
)
def test_damaged_npy(tmp_path, content, words):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(FeatureError) as error:
        open_npy(tmp_path / "x.npy")
    assert words in str(error.value)


@pytest.mark.parametrize(
    "field",
    [
        {"descr": 3},
        {"descr": "i4,i4"},
        {"descr": "<q77"},
        {"shape": [2]},
        {"shape": (-2,)},
        {"shape": (True,)},
        {"fortran_order": 0},
    ],
)
def test_npy_headers_that_make_no_sense(tmp_path, field):
    header = repr({"descr": "<i4", "fortran_order": False, "shape": (2,)} | field).encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(FeatureError, match="damaged"):
        open_npy(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6, dtype=">i2"),
        np.array(["a", "鳥"]),
        np.zeros((0, 7)),
        np.zeros(3, "U0"),
        np.array(2.5),
        np.arange(3).astype("M8[D]"),
    ],
)
def test_open_npy_reads_what_numpy_writes(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    found = open_npy(tmp_path / "x.npy")
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_truncated_files(npz, npy, kind, share):
    path = {"npz": npz, "npy": npy}[kind]()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FeatureError, match="truncated|not a .npy array"):
        load_features(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), compressed=st.booleans())
def test_damaged_npz_gives_an_error_or_the_same_arrays(toy, data, compressed):
    """Whatever bytes are changed, only a FeatureError comes out, never another exception."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **toy())
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        path.write_bytes(content)
        try:
            s = load_features(path)
        except FeatureError:
            return
    assert s.fingerprint == make_feature_set(**toy(ids=s.ids)).fingerprint


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120))
def test_arbitrary_headers(tail):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(tail).to_bytes(2, "little") + tail)
        with pytest.raises(FeatureError):
            open_npy(path)
