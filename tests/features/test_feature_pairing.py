import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s_jax.errors import FeatureError
from w2s_jax.features import make_feature_set, make_predictions, pair
from w2s_jax.features.ordering import common_rows, sort_order

ROWS = ("labels", "minority", "split", "groups", "attributes", "source_ids")
PER_ROW = ("features", "labels", "attributes", "split", "ids", "minority", "source_ids")


@pytest.fixture(scope="module")
def both(toy):
    def make(teacher_rows=None, student_rows=None, teacher=None, student=None):
        """A teacher and a student of the same rows, each a selection of them, then changed."""
        result = []
        for name, rows, changes in (("t", teacher_rows, teacher), ("s", student_rows, student)):
            arrays = toy(source_ids=[f"source-{i}" for i in range(24)])
            if rows is not None:
                arrays = {k: np.asarray(v)[rows] for k, v in arrays.items() if k in PER_ROW}
            arrays |= changes or {}
            result.append(make_feature_set(**arrays, name=name))
        return tuple(result)

    return make


def changed(array, row, value):
    result = np.array(array)
    result[row] = value
    return result


def assert_consistent(joined):
    for name in ROWS:
        expected = getattr(joined.student, name)[joined.student_index]
        np.testing.assert_array_equal(getattr(joined, name), expected)
    np.testing.assert_array_equal(joined.ids, joined.teacher.ids[joined.teacher_index])
    np.testing.assert_array_equal(joined.ids, joined.student.ids[joined.student_index])
    assert joined.ids.tolist() == sorted(joined.ids.tolist())


def test_same_order(both):
    joined = pair(*both())
    assert_consistent(joined)
    assert (joined.name, joined.num_rows, joined.pool, joined.eta_o) == ("t:s", 24, "train", 0.5)
    assert joined.pool_rows.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert len(joined.test_rows) == len(joined.val_rows) == 8
    assert repr(joined) == "FeaturePair('t:s', 24 rows)"


@settings(max_examples=50, deadline=None)
@given(teacher=st.permutations(range(24)), student=st.permutations(range(24)))
def test_any_file_order_gives_the_same_pair(both, teacher, student):
    base = pair(*both())
    joined = pair(*both(teacher, student))
    assert_consistent(joined)
    np.testing.assert_array_equal(joined.ids, base.ids)
    for name in ROWS:
        np.testing.assert_array_equal(getattr(joined, name), getattr(base, name))
    for side, index in (("teacher", "teacher_index"), ("student", "student_index")):
        a, b = (getattr(p, side).features[getattr(p, index)] for p in (joined, base))
        np.testing.assert_array_equal(a, b)


@settings(max_examples=50, deadline=None)
@given(
    teacher=st.permutations(range(24)).map(lambda p: p[:20]),
    student=st.permutations(range(24)).map(lambda p: p[:20]),
)
def test_inner_join(both, teacher, student):
    joined = pair(*both(teacher, student), join="inner")
    assert_consistent(joined)
    common = sorted(set(teacher) & set(student))
    assert joined.ids.tolist() == [f"row-{i:02d}" for i in common]


def test_ids_on_one_side_only(both):
    teacher, student = both(list(range(20)), list(range(3, 24)))
    with pytest.raises(FeatureError) as error:
        pair(teacher, student)
    words = str(error.value)
    assert "3 ('row-00', 'row-01', 'row-02') only in teacher 't'" in words
    assert "4 ('row-20', 'row-21', 'row-22', ...) only in student 's'" in words
    assert "17 in both" in words
    assert 'join="inner"' in words
    with pytest.raises(FeatureError, match="4 .* only in teacher 't', 0 only in student 's'"):
        pair(both()[0], both(None, list(range(20)))[1])


@pytest.mark.parametrize("join", ["exact", "inner"])
def test_no_common_id(both, join):
    teacher, student = both(teacher={"ids": np.arange(24)})
    with pytest.raises(FeatureError, match="no id in common, for instance '0' and 'row-00'"):
        pair(teacher, student, join=join)


def test_an_inner_join_without_test_rows(both):
    train = [i for i in range(24) if i // 4 % 3 == 0]
    predictions = make_predictions([f"row-{i:02d}" for i in train], [0] * len(train))
    with pytest.raises(FeatureError, match="the test split has no rows"):
        pair(predictions, both()[1], join="inner")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": changed(np.arange(24) % 2, 4, 1)}, "labels differ on 1 rows, first for id"),
        ({"labels": changed(np.arange(24) % 2, 0, -1)}, "-1 in teacher 't', 0 in student 's'"),
        ({"attributes": np.arange(24) % 2}, "attributes differ on 12 rows"),
        ({"minority_cells": "0:1"}, "minority differ on 6 rows, first for id 'row-01': False"),
        (
            {"split": np.array([0, 1, 2])[[1] + [i // 4 % 3 for i in range(1, 24)]]},
            "split differ on 1 rows, first for id 'row-00': 'val' in teacher 't', 'train' in",
        ),
        ({"source_ids": np.arange(24)}, "source_ids differ on 24 rows"),
        ({"pool": "train+val"}, "has the pool 'train\\+val' and student 's' 'train'"),
        (
            {"labels": np.arange(24) % 3, "minority_cells": np.eye(3, 2, dtype=bool)},
            "has 3 classes and student 's' 2",
        ),
    ],
)
def test_sets_that_disagree(both, change, words):
    teacher, student = both(teacher=change)
    order = [5, 3, *[i for i in range(24) if i not in (3, 5)]]
    for other in (student, both(None, order)[1]):
        with pytest.raises(FeatureError, match=words):
            pair(teacher, other)


def test_a_side_without_attributes_or_sources(both):
    teacher, student = both()
    minority = {"attributes": None, "source_ids": None, "minority": student.minority}
    joined = pair(both(teacher=minority)[0], student)
    assert_consistent(joined)
    joined = pair(teacher, both(student=minority)[1])
    assert joined.attributes is None
    np.testing.assert_array_equal(joined.source_ids, teacher.source_ids)
    neither = pair(both(teacher=minority)[0], both(student=minority)[1])
    assert neither.source_ids is None


def test_unknown_join(both):
    with pytest.raises(FeatureError, match="join is 'outer'; known are 'exact' and 'inner'"):
        pair(*both(), join="outer")


def test_predictions_as_a_teacher(both):
    student = both()[1]
    order = np.random.default_rng(0).permutation(24)
    soft = np.random.default_rng(1).dirichlet([1, 1], size=24)
    joined = pair(make_predictions(student.ids[order], probabilities=soft, name="llm"), student)
    assert joined.name == "llm:s"
    np.testing.assert_array_equal(order[joined.teacher_index], joined.student_index)
    np.testing.assert_allclose(
        joined.teacher.probabilities[joined.teacher_index], soft[np.argsort(order)], rtol=1e-6
    )


def test_predicted_classes_are_widened_to_the_students(both):
    three = {"labels": np.arange(24) % 3, "minority_cells": np.eye(3, 2, dtype=bool)}
    student = both(student=three)[1]
    low = make_predictions(student.ids, np.arange(24) % 2, name="llm")
    joined = pair(low, student)
    assert joined.teacher.probabilities.shape == (24, 3)
    assert joined.teacher.fingerprint == low.fingerprint
    with pytest.raises(FeatureError, match="'llm' has predictions for 4 classes, .* has 3"):
        pair(make_predictions(student.ids, np.arange(24) % 4, name="llm"), student)
    with pytest.raises(FeatureError, match="has probabilities of 2 classes, .* has 3"):
        pair(make_predictions(student.ids, probabilities=np.full((24, 2), 0.5)), student)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1), st.booleans())
def test_sort_order_is_pythons(strings, latin):
    if latin:
        strings = [s.encode("latin1", "ignore").decode("latin1") for s in strings]
    strings = [s.rstrip("\0") for s in strings]
    array = np.array(strings, dtype=f"U{max(1, *map(len, strings), 1)}")
    expected = sorted(range(len(strings)), key=lambda i: strings[i])
    assert sort_order(array).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(*[st.sets(st.text("abcé鳥", min_size=1, max_size=3), min_size=1)] * 2)
def test_common_rows_are_those_of_a_dictionary(left, right):
    a, b = np.array(list(left)), np.array(list(right))
    rows = common_rows(a, b, sort_order(a), sort_order(b))
    assert a[rows[0]].tolist() == b[rows[1]].tolist() == sorted(left & right)
