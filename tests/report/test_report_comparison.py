"""Measured improvements beside the published ranges."""

import re

import numpy as np
import pandas as pd
import pytest
from report_rows import make_rows

from w2s_jax.report import album, comparison, format_table, relative_improvement, write_report
from w2s_jax.report.comparison import compare, weak_to_strong
from w2s_jax.report.frame import check_rows
from w2s_jax.report.published import RANGES, find_published

ETA_O = 0.0500521376434
A, B, C = (f"waterbirds/{name}" for name in ("a", "b", "c"))
ONE = {"teacher_l2": (0.1,), "student_l2": (1.0,), "seeds": 2, "eta_l": (ETA_O, 0.5)}
PAIRS = (f"{A}:{B}", f"{B}:{A}", f"{A}:{C}", f"{C}:{A}", f"{B}:{C}")
PQ = ((0.5, 0.3), (0.5, 0.7))


def set_accuracy(rows, pair, model, value, **where):
    """Overwrites the accuracy of a pair's true-label model; what is compared reads only that."""
    part = rows["pair"] == pair
    for axis, at in where.items():
        part &= rows[axis] == at
    rows.loc[part, f"{model}_accuracy"] = value


@pytest.fixture(scope="module")
def rows():
    return make_rows(
        pairs=PAIRS, eta_u=(ETA_O, 0.5), pq=PQ, sizes=((200, 2000), (400, 4000)), **ONE
    )


@pytest.fixture
def able(rows):
    """Rows in which A is ahead of C, and C of B, on true labels everywhere."""
    rows = rows.copy()
    ability = {A: 0.9, B: 0.7, C: 0.8}
    for pair in PAIRS:
        teacher, student = pair.split(":")
        for model, side in (("teacher", teacher), ("ceiling", student)):
            set_accuracy(rows, pair, model, ability[side])
    return rows


def test_the_side_that_is_ahead_on_the_same_true_labels_is_the_student(able):
    vanilla = able[able["method"] == "vanilla"].copy()
    counted, left_out = weak_to_strong(vanilla)
    assert counted == [f"{B}:{A}", f"{C}:{A}"]
    assert left_out == [f"{B}:{C} (not run the other way round)"]
    # Behind at one eta_u only: the pair does not count.
    set_accuracy(vanilla, f"{C}:{A}", "ceiling", 0.7, eta_u=0.5)
    counted, left_out = weak_to_strong(vanilla)
    assert counted == [f"{B}:{A}"]
    assert f"{A}:{C} (which side is ahead on true labels varies)" in left_out
    # So it is at one (eta_l, n) of the teachers.
    set_accuracy(vanilla, f"{B}:{A}", "teacher", 0.95, eta_l=0.5, n_labelled=400)
    assert weak_to_strong(vanilla)[0] == []


def test_improvements_are_those_of_the_main_table(able):
    table, counted = check_rows(able), [f"{B}:{A}", f"{C}:{A}"]
    (found,) = compare(table, 0.5, 0.3)
    expected = relative_improvement(able, keep_fraction=0.5, gce_q=0.3)
    assert len(found.improvements) == 2 * len(counted)
    for setting, (eta_l, eta_u) in enumerate(((0.5, ETA_O), (ETA_O, 0.5))):
        here = np.isclose(expected["eta_l"], eta_l) & np.isclose(expected["eta_u"], eta_u)
        part = expected[here & expected["pair"].isin(counted)]
        mine = found.improvements[found.improvements["setting"] == setting]
        columns = ["pair", "improvement", "improvement_low", "improvement_high"]
        pd.testing.assert_frame_equal(
            mine[columns].reset_index(drop=True), part[columns].reset_index(drop=True)
        )
        assert (mine["oracle"] >= mine["improvement"]).all()
        low, high = part["improvement"].min(), part["improvement"].max()
        text = found.measured(setting).replace("−", "-")
        assert text == f"{low:+.2f} to {high:+.2f} ({len(part)} pairs)"


def test_page_and_terminal_show_both(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(album, "save", lambda figure, path: path.touch())
    counted = [f"{B}:{A}"], [f"{A}:{C} (which side is ahead on true labels varies)"]
    monkeypatch.setattr(comparison, "weak_to_strong", lambda vanilla: counted)
    source = write_report(rows, tmp_path).read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", source))
    assert "Beside the published ranges" in text
    assert "published +0.77 to +16.68 +1.32 to +14.54" in text
    assert "arXiv 2509.24005" in text
    printed = format_table(rows)
    (line,) = [line for line in printed.splitlines() if line.startswith("eta_l = eta_o, eta_u")]
    assert re.search(r"[+-].* to [+-].* \(1 pair\) +\+1.32 to \+14.54$", line)
    assert "Pairs left out: waterbirds/a:waterbirds/c (which" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_nothing_is_laid_beside_other_benchmarks(rows):
    for pairs in (("toy/a:toy/b", "toy/b:toy/a"), (f"{A}:toy/b", f"toy/b:{A}")):
        other = make_rows(pairs=pairs, eta_u=(ETA_O, 0.5), pq=PQ, **ONE)
        assert compare(check_rows(other)) == []
    only_vanilla = rows[rows["method"] == "vanilla"]
    assert compare(check_rows(only_vanilla)) == []


def test_eta_o_must_be_clear():
    three = {**ONE, "eta_l": (0.1, 0.2, 0.5)}
    rows = make_rows(pairs=PAIRS[:2], eta_u=(0.1, 0.5), pq=PQ, **three)
    (found,) = compare(check_rows(rows))
    assert found.left_out == ["all, as eta_l takes 2 values besides 0.5 and eta_o is one"]
    assert found.measured(0) == found.measured(1) == "–"


def test_ranges_are_in_order():
    assert set(RANGES) == {"waterbirds", "bffhq", "imagenet9", "bg_coco"}
    for published in RANGES.values():
        for ends in (published.balanced_labels, published.balanced_unlabelled):
            assert ends is None or 0 < ends[0] < ends[1] < 25
    assert find_published("imagenet9-release") is RANGES["imagenet9"]
    assert find_published("waterbirds") is RANGES["waterbirds"]


@pytest.mark.parametrize(
    "name", ["reviews_vs_tweets", "imagenet9-only_fg-test", "bffhq-0.5pct-conflict", "bffhq"]
)
def test_nothing_is_published_of_other_test_sets(name):
    assert find_published(name) is None
