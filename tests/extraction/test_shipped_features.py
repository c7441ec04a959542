from pathlib import Path

import numpy as np
import pytest

from w2s_jax.datasets.reviews_vs_tweets import (
    ATTRIBUTE_NAMES,
    CLASS_NAMES,
    MINORITY_CELLS,
    SPLIT_COUNTS,
    TEST_FRACTION,
    _unit_hash,
)
from w2s_jax.features import SPLITS, load_features, pair

NAMES = ("reviews_vs_tweets/minilm_embeddings", "reviews_vs_tweets/minilm_last")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_set(name):
    features = load_features(name)
    features.verify()
    assert features.name == name
    assert features.features.dtype == np.float16
    assert features.features.shape == (9702, 384)
    assert np.isfinite(features.features).all()
    assert features.class_names == CLASS_NAMES
    assert features.attribute_names == ATTRIBUTE_NAMES
    assert features.minority_cells is not None
    assert features.minority_cells.tolist() == [list(row) for row in MINORITY_CELLS]
    assert (features.eta_o, features.pool) == (None, "train")
    for (label, attribute), counts in SPLIT_COUNTS.items():
        cell = (features.labels == label) & (features.attributes == attribute)
        found = [int((cell & (features.split == SPLITS.index(s))).sum()) for s in ("train", "test")]
        assert found == list(counts)


def test_shipped_sets_pair_row_by_row():
    teacher, student = map(load_features, NAMES)
    pairs = pair(teacher, student)
    np.testing.assert_array_equal(pairs.teacher_index, pairs.student_index)
    assert len(pairs.ids) == 9702


def test_shipped_ids_say_attribute_and_split():
    features = load_features(NAMES[1])
    for identifier, attribute, split in zip(
        features.ids, features.attributes, features.split, strict=True
    ):
        assert identifier[0] == "rt"[attribute]
        if attribute == 0:  # No review is a variant of another, so its own hash decides.
            assert (_unit_hash("split", identifier) < TEST_FRACTION) == (SPLITS[split] == "test")


def test_two_columns_of_the_student_are_constant():
    # What makes it a test of feature scaling: float32 keeps 2e-9 of one column, float16 nothing.
    student = load_features(NAMES[1]).features
    assert int((student == student[0]).all(0).sum()) == 2


def test_size_and_notice():
    paths = [load_features(name).path for name in NAMES]
    folder = Path(str(paths[0])).parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    notice = (folder / "NOTICE.md").read_text(encoding="utf-8")
    for phrase in ("Copyright (c) 2016 C.J. Hutto", "Permission is hereby granted", "Apache"):
        assert phrase in notice
    for (label, attribute), (train, test) in SPLIT_COUNTS.items():
        rows = [line for line in notice.splitlines() if f"| {train} | {test} |" in line]
        assert rows[0].startswith(f"| {CLASS_NAMES[label]} {ATTRIBUTE_NAMES[attribute]}s")
