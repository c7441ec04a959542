import dataclasses

import numpy as np
import pytest

from w2s_jax.errors import FeatureError
from w2s_jax.features import make_feature_set

N = 24


def changed(array, row, value):
    result = np.array(array)
    result[row] = value
    return result


ROW = np.arange(N)
X = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
MINORITY = (ROW % 2) != (ROW // 2 % 2)

# name: (changed arguments, words of the error). Everything else is a valid set.
DEFECTS = {
    "features 1-D": ({"features": X[0]}, "features has 1 dimensions"),
    "features 3-D": ({"features": X[:, :, None]}, "has 3 dimensions, shape [24, 5, 1]"),
    "no rows": ({"features": X[:0]}, "features is empty, shape [0, 5]"),
    "no columns": ({"features": X[:, :0]}, "features is empty, shape [24, 0]"),
    "ragged": ({"features": [[1.0], [1.0, 2.0]]}, "features is not a rectangular array"),
    "int features": ({"features": X.astype(int)}, "dtype int64, but must be float16"),
    "complex features": ({"features": X.astype(complex)}, "dtype complex128"),
    "string features": ({"features": X.astype(str)}, "features has dtype <U"),
    "object features": ({"features": X.astype(object)}, "features has dtype object"),
    "longdouble": ({"features": X.astype(np.longdouble)}, "must be float16, float32 or float64"),
    "masked": ({"features": np.ma.masked_greater(X, 2.0)}, "masked values"),
    "nan": ({"features": changed(X, 3, np.nan)}, "5 NaN and 0 infinite values among 24 x 5"),
    "nan row": ({"features": changed(X, 3, np.nan)}, "first in row 3"),
    "inf": ({"features": changed(X, (7, 1), -np.inf)}, "0 NaN and 1 infinite"),
    "short labels": ({"labels": ROW[:9] % 2}, "labels has 9 rows, but features has 24"),
    "2-D labels": ({"labels": np.zeros((N, 2), int)}, "labels has shape [24, 2]"),
    "float labels": ({"labels": (ROW % 2).astype(float)}, "labels has dtype float64"),
    "bool labels": ({"labels": ROW % 2 == 0}, "labels has dtype bool"),
    "string labels": ({"labels": np.full(N, "dog")}, "labels has dtype <U3"),
    "negative label": ({"labels": changed(ROW % 2, 5, -2)}, "labels has the negative value -2"),
    "huge label": ({"labels": changed(ROW % 2, 5, 2**40)}, "labels has the value 1099511627776"),
    "gap": ({"labels": ROW % 2 * 2}, "labels has the values 0, 2, so 1 is missing"),
    "no zero": ({"labels": ROW % 2 + 1}, "labels has the values 1, 2, so 0 is missing"),
    "one class": ({"labels": np.zeros(N, int)}, "labels has only the class 0"),
    "no labels": ({"labels": np.full(N, -1)}, "labels has no labelled row"),
    "unlabelled test": ({"labels": changed(ROW % 2, 8, -1)}, "-1 (unlabelled) on 1 test rows"),
    "short attributes": ({"attributes": ROW[:9] % 2}, "attributes has 9 rows"),
    "float attributes": ({"attributes": np.zeros(N)}, "attributes has dtype float64"),
    "negative attribute": ({"attributes": changed(ROW % 2, 1, -1)}, "negative on 1 labelled rows"),
    "attribute -2": ({"attributes": changed(ROW % 2, 1, -2)}, "the negative value -2 in row 1"),
    "attribute gap": ({"attributes": ROW % 2 * 3}, "attributes has the values 0, 3, so 1 is"),
    "three attributes": ({"attributes": ROW % 3}, "2 classes and 3 attributes"),
    "no groups": ({"attributes": None}, "neither attributes nor minority"),
    "minority and attributes": (
        {"minority": changed(MINORITY, 0, True)},
        "with label 0 and attribute 0, 1 are marked as minority",
    ),
    "minority and cells": (
        {"minority": MINORITY, "minority_cells": "0:0"},
        "minority and minority_cells disagree on 18 rows, first in row 0",
    ),
    "minority values": (
        {"attributes": None, "minority": ROW},
        "minority has dtype int64 with values such as [0, 1, 2]",
    ),
    "float minority": ({"attributes": None, "minority": np.zeros(N)}, "minority has dtype float"),
    "short minority": ({"attributes": None, "minority": MINORITY[:3]}, "minority has 3 rows"),
    "unlabelled minority": (
        {
            "attributes": None,
            "minority": changed(MINORITY, 0, True),
            "labels": changed(ROW % 2, 0, -1),
        },
        "minority is set on 1 unlabelled rows, first in row 0",
    ),
    "cells without attributes": (
        {"attributes": None, "minority": MINORITY, "minority_cells": "0:1"},
        "without attributes",
    ),
    "cells shape": ({"minority_cells": np.eye(3, dtype=bool)}, "minority_cells has shape [3, 3]"),
    "cells narrow": ({"minority_cells": [[True], [False]]}, "describe only 1 attributes"),
    "cells dtype": ({"minority_cells": [[0.5, 1], [1, 0]]}, "minority_cells has dtype float64"),
    "cells text": ({"minority_cells": "0-1"}, "'0-1', which is not label:attribute"),
    "cells outside": ({"minority_cells": "2:0"}, "the cell 2:0, but labels run from 0 to 1"),
    "split typo": (
        {"split": changed(np.full(N, "train"), [0, 5], ["tets", "test"])},
        "unknown value 'tets' (did you mean 'test'?) in 1 rows, first in row 0",
    ),
    "split case": ({"split": np.full(N, "TRAIN")}, "did you mean 'train'?"),
    "split code": ({"split": ROW % 4}, "unknown value '3' in 6 rows, first in row 3"),
    "split dtype": ({"split": np.zeros(N)}, "split has dtype float64"),
    "short split": ({"split": [0, 2]}, "split has 2 rows"),
    "no train": ({"split": ROW % 2 + 1}, "the pool (train) has no rows"),
    "no test": ({"split": ROW % 2}, "the test split has no rows, split has 12 train, 12 val"),
    "pool": ({"pool": "train+vla"}, "pool is 'train+vla' (did you mean 'train+val'?)"),
    "duplicate ids": (
        {"ids": changed(ROW, 9, 4)},
        "1 duplicates, for instance '4' in rows 4 and 9",
    ),
    "empty id": (
        {"ids": changed(ROW.astype(str), 6, "")},
        "ids is empty in 1 rows, first in row 6",
    ),
    "float ids": ({"ids": ROW.astype(float)}, "ids has dtype float64"),
    "object ids": ({"ids": np.array([None] * N)}, "ids has dtype object"),
    "bytes ids": ({"ids": np.array([b"\xff%d" % i for i in ROW])}, "ids is not UTF-8"),
    "short ids": ({"ids": ROW[:5]}, "ids has 5 rows"),
    "shared source": ({"source_ids": ROW % 7}, "sources have rows both in the pool (train) and"),
    "empty source": ({"source_ids": np.full(N, "")}, "source_id is empty in 24 rows"),
    "class names": ({"class_names": ["cat"]}, "class_names has 1 names (cat), but there are 2"),
    "same names": ({"class_names": ["cat", "cat"]}, "class_names repeats a name"),
    "attribute names": ({"attribute_names": ["land"]}, "describe only 1 attributes"),
    "eta_o": ({"eta_o": 1.5}, "eta_o is 1.5, but must be a fraction"),
    "eta_o text": ({"eta_o": "few"}, "eta_o is 'few'"),
    "provenance": ({"provenance": {"net": X}}, "provenance cannot be stored as JSON"),
}


def make(toy, **changes):
    return make_feature_set(**toy(**changes))


@pytest.mark.parametrize("defect", DEFECTS)
def test_defect_has_an_error_of_its_own(toy, defect):
    changes, words = DEFECTS[defect]
    with pytest.raises(FeatureError) as error:
        make(toy, **changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_defaults(toy):
    s = make(toy, ids=None)
    assert s.labels.dtype == np.int32
    assert s.split.dtype == np.int8
    assert s.ids.tolist() == [str(i) for i in range(N)]
    np.testing.assert_array_equal(s.minority, MINORITY)
    np.testing.assert_array_equal(s.groups, s.labels * 2 + s.attributes)
    assert s.group_names == ("y0/a0", "y0/a1", "y1/a0", "y1/a1")
    assert s.group_labels.tolist() == [0, 0, 1, 1]
    assert s.group_minority.tolist() == [False, True, True, False]
    assert (s.num_rows, s.num_features, s.num_classes, s.num_groups) == (N, 5, 2, 4)
    assert s.pool_rows.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert s.val_rows.tolist() == [4, 5, 6, 7, 16, 17, 18, 19]
    assert len(s.test_rows) == 8
    s.verify()


def test_pool_may_include_val(toy):
    assert len(make(toy, pool="train+val").pool_rows) == 16


def test_groups_without_attributes(toy):
    s = make(toy, attributes=None, minority=MINORITY, class_names=("cat", "dog"))
    np.testing.assert_array_equal(s.groups, s.labels * 2 + MINORITY)
    assert s.group_names == ("cat/majority", "cat/minority", "dog/majority", "dog/minority")
    assert s.group_minority.tolist() == [False, True, False, True]
    assert s.minority_cells is None
    assert s.attribute_names == ()


def test_unlabelled_rows(toy):
    labels = changed(ROW % 2, [0, 12], -1)
    s = make(toy, labels=labels, attributes=changed(ROW // 2 % 2, 0, -1))
    assert s.groups[[0, 12]].tolist() == [-1, -1]
    assert not s.minority[[0, 12]].any()
    assert {0, 12} <= set(s.pool_rows.tolist())
    assert s.eta_o == pytest.approx(MINORITY[[1, 2, 3, 13, 14, 15]].mean())


def test_a_pool_without_any_label_is_valid(toy):
    labels = np.where(ROW // 4 % 3 == 0, -1, ROW % 2)
    assert make(toy, labels=labels).eta_o is None


@pytest.mark.parametrize(
    "cells", ["1:2, 0:0", [[1, 0, 0], [0, 0, 1]], np.array([[True, False, False], [0, 0, 1]])]
)
def test_minority_cells(toy, cells):
    s = make(toy, attributes=ROW % 3, minority_cells=cells)
    expected = np.array([[True, False, False], [False, False, True]])
    np.testing.assert_array_equal(s.minority_cells, expected)
    np.testing.assert_array_equal(s.minority, expected[s.labels, s.attributes])


def test_minority_gives_the_table_where_attributes_exist(toy):
    attributes = ROW % 3
    s = make(toy, attributes=attributes, minority=(ROW % 2 == 1) & (attributes == 1))
    assert s.minority_cells.tolist() == [[False] * 3, [False, True, False]]


def test_names_or_table_may_announce_attributes_without_rows(toy):
    names = {"attribute_names": ["land", "water", "sky"], "minority_cells": "0:1,1:0"}
    assert make(toy, **names).num_groups == 6


def test_eta_o(toy):
    assert make(toy).eta_o == 0.5
    assert make(toy, eta_o=0.05).eta_o == 0.05
    assert make(toy, eta_o=None).eta_o is None
    nothing = np.zeros(N, bool)
    assert make(toy, attributes=None, minority=nothing).eta_o is None


@pytest.mark.parametrize("kind", ["names", "codes", "digits", "bytes", "objects"])
def test_split_forms(toy, kind):
    names = toy()["split"]
    codes = np.searchsorted(["test", "train", "val"], names)
    codes = np.array([2, 0, 1])[codes]
    forms = {
        "names": names.tolist(),
        "codes": codes.astype(np.uint8),
        "digits": codes.astype(str),
        "bytes": names.astype(bytes),
        "objects": names.astype(object),
    }
    np.testing.assert_array_equal(make(toy, split=forms[kind]).split, codes)


def test_ids_of_any_script(toy):
    ids = [f"Vögel/{i}-鳥-\U0001f426" for i in range(N)]
    s = make(toy, ids=ids)
    assert s.ids.tolist() == ids
    np.testing.assert_array_equal(make(toy, ids=np.array(ids).astype(object)).ids, s.ids)
    encoded = [i.encode() for i in ids]
    np.testing.assert_array_equal(make(toy, ids=encoded).ids, s.ids)


def test_features_are_not_copied_and_arrays_are_read_only(toy):
    arrays = toy()
    s = make_feature_set(**arrays)
    assert np.shares_memory(s.features, arrays["features"])
    assert arrays["features"].flags.writeable
    for name in ("features", "labels", "minority", "split", "ids", "attributes"):
        assert not getattr(s, name).flags.writeable


def test_byte_order_does_not_matter(toy):
    big = {"features": X.astype(">f4"), "labels": (ROW % 2).astype(">i8")}
    s = make(toy, **big)
    assert s.features.dtype.isnative
    assert s.fingerprint == make(toy, features=X).fingerprint


def test_fingerprint_is_of_the_content(toy):
    base = make(toy)
    same = {
        "features": np.asfortranarray(toy()["features"]),
        "ids": toy()["ids"].astype("U40"),
        "split": np.array([0, 1, 2])[ROW // 4 % 3],
        "minority": base.minority,
        "name": "other",
        "eta_o": 0.25,
        "class_names": ["cat", "dog"],
        "provenance": {"from": "here"},
    }
    for key, value in same.items():
        assert make(toy, **{key: value}).fingerprint == base.fingerprint, key
    different = {
        "features": changed(toy()["features"], (0, 0), 9),
        "labels": changed(ROW % 2, 0, 1),
        "attributes": changed(ROW // 2 % 2, 0, 1),
        "split": changed(toy()["split"], 0, "val"),
        "ids": changed(toy()["ids"], 0, "new"),
        "source_ids": toy()["ids"],
        "minority_cells": "0:1",
        "pool": "train+val",
    }
    prints = {make(toy, **{key: value}).fingerprint for key, value in different.items()}
    assert len(prints | {base.fingerprint}) == len(different) + 1


def test_replace_gives_a_new_fingerprint(toy):
    s = make(toy)
    before = s.fingerprint
    assert dataclasses.replace(s, pool="train+val").fingerprint != before
    assert "24 rows x 5 float32" in repr(s)
