import numpy as np
import pandas as pd
import pytest
from report_rows import make_rows

from w2s_jax.report import ReportError, select_l2
from w2s_jax.report.selection import has_validation

AXES = ["pair", "seed", "eta_l", "n_labelled", "eta_u", "n_unlabelled"]


@pytest.fixture(scope="module")
def rows():
    return make_rows(
        pairs=("a:b", "c:d"), seeds=3, teacher_l2=(0.01, 0.1, 1.0), student_l2=(0.01, 0.1, 1.0),
        pq=((0.5, 0.5),), sizes=((200, 2000), (400, 2000)),
    )  # fmt: skip


def by_hand(rows):
    """The rule in plain loops."""
    keys = []
    vanilla = rows[rows["method"] == "vanilla"]
    for _, draw in vanilla.groupby(AXES[:4]):
        best = draw["teacher_validation_accuracy"].max()
        l2 = draw[draw["teacher_validation_accuracy"] == best]["teacher_l2"].max()
        for _, part in draw[draw["teacher_l2"] == l2].groupby(AXES[4:]):
            top = part[
                part["student_validation_accuracy"] == part["student_validation_accuracy"].max()
            ]
            keys.append(top.sort_values("student_l2")["key"].iloc[-1])
    return keys


def test_rule_matches_plain_loops(rows):
    chosen = select_l2(rows)
    vanilla = chosen[chosen["method"] == "vanilla"]
    assert sorted(vanilla["key"]) == sorted(by_hand(rows))
    assert not vanilla.duplicated(AXES).any()
    others = chosen[chosen["method"] != "vanilla"]
    assert set(others["vanilla_key"]) == set(vanilla["key"])
    assert len(others) == len(vanilla)
    assert list(chosen.columns) == list(rows.columns)
    pd.testing.assert_frame_equal(chosen, rows.loc[chosen.index])


def test_only_validation_columns_are_read(rows):
    chosen = select_l2(rows)
    names = [
        name
        for name in rows
        if name.startswith(("teacher_", "student_", "ceiling_", "kept_", "pgr"))
        and not name.endswith(("_l2", "_validation_accuracy", "_fingerprint"))
    ]
    assert len(names) > 30
    assert select_l2(rows.drop(columns=names)).index.equals(chosen.index)
    scrambled = rows.copy()
    rng = np.random.default_rng(0)
    for name in names:
        scrambled[name] = rng.permutation(scrambled[name].to_numpy())
    assert select_l2(scrambled).index.equals(chosen.index)
    # a method's own validation accuracy is no part of the rule either
    retrained = rows["method"] != "vanilla"
    scrambled.loc[retrained, "student_validation_accuracy"] = 0.0
    scrambled["ceiling_validation_accuracy"] = np.nan
    assert select_l2(scrambled).index.equals(chosen.index)


def test_ties_go_to_the_larger_l2(rows):
    even = rows.assign(teacher_validation_accuracy=0.7, student_validation_accuracy=0.6)
    chosen = select_l2(even)
    assert set(chosen["teacher_l2"]) == {1.0}
    assert set(chosen["student_l2"]) == {1.0}


def test_a_failed_head_is_not_chosen(rows):
    failed = rows.copy()
    failed.loc[failed["student_l2"] == 1.0, "student_validation_accuracy"] = np.nan
    assert 1.0 not in set(select_l2(failed)["student_l2"])


def test_rows_without_validation_are_refused(rows):
    without = rows.assign(teacher_validation_accuracy=np.nan)
    with pytest.raises(
        ReportError, match="teacher_validation_accuracy is missing for pair [ac]:[bd], seed"
    ):
        select_l2(without)
    with pytest.raises(ReportError, match="student_validation_accuracy is missing"):
        select_l2(rows.drop(columns="student_validation_accuracy"))
    with pytest.raises(ReportError, match="unknown rule 'test'.*known: validation, middle"):
        select_l2(rows, rule="test")
    assert has_validation(rows)
    assert not has_validation(without)


def test_middle_reads_nothing(rows):
    chosen = select_l2(
        rows.drop(columns=[n for n in rows if n.endswith("accuracy")]), rule="middle"
    )
    assert set(chosen["teacher_l2"]) == {0.1}
    assert set(chosen["student_l2"]) == {0.1}
    upper = select_l2(rows[rows["student_l2"] > 0.01], rule="middle")
    assert set(upper["student_l2"]) == {1.0}


def test_a_teacher_from_elsewhere_has_no_l2():
    rows = make_rows(seeds=2, outside_teacher=True, pq=((0.5, 0.5),))
    rows["teacher_validation_accuracy"] = np.nan
    chosen = select_l2(rows)
    vanilla = chosen[chosen["method"] == "vanilla"]
    assert has_validation(rows)
    assert len(vanilla) == 2 * 3
    assert select_l2(rows, rule="middle")["teacher_l2"].isna().all()
