"""Choice, intervals, adjusted p-values and diagnostics of ablations, against scipy and by hand."""

import numpy as np
import pandas as pd
import pytest
from report_rows import make_groups, make_rows
from scipy import stats

from w2s_jax.report.ablation import (
    CELL,
    HYPERPARAMETERS,
    RULES,
    TEACHER,
    WORST,
    choose_hyperparameters,
    choose_teachers,
    comparison_table,
    holm,
    p_value,
)
from w2s_jax.report.ablation_diagnostics import diagnostics_table, errors
from w2s_jax.report.ablation_text import answer
from w2s_jax.report.correctness import decode_correct
from w2s_jax.report.frame import ReportError
from w2s_jax.report.statistics import seed_interval, two_way_interval


@pytest.fixture(scope="module")
def rows():
    made = make_rows(seeds=5, eta_u=(0.1, 0.5), teacher_l2=(0.01,), student_l2=(0.01, 0.1, 1.0))
    made["agreement_validation"] = np.random.default_rng(0).uniform(size=len(made))
    return made


def at(chosen, method, **values):
    mask = chosen["method"] == method
    for name, value in values.items():
        mask &= chosen[name] == value
    return chosen[mask].sort_values("seed")


@pytest.mark.parametrize("rule", RULES)
def test_the_choice_is_the_best_mean_and_reads_nothing_else(rows, rule):
    chosen = choose_hyperparameters(rows, rule)
    score = RULES[rule]
    axes = [name for name in HYPERPARAMETERS if name in rows]
    for _, part in rows.groupby(["eta_l", "eta_u", "method"]):
        means = part.groupby(axes, dropna=False)[score].mean()
        mine = chosen.merge(part[["key"]], on="key")
        assert len(mine) == 5
        assert len(mine.drop_duplicates(axes)) == 1
        assert mine[score].mean() == pytest.approx(means.max())
        assert (mine["num_candidates"] == len(means)).all()
    others = [
        name
        for name in rows
        if name.startswith(("teacher_", "student_", "ceiling_", "kept_", "pgr", "agreement"))
        and not name.endswith(("_l2", "_fingerprint"))
        and name != score
    ]
    assert len(others) > 30
    rng = np.random.default_rng(1)
    scrambled = rows.assign(**{name: rng.permutation(rows[name].to_numpy()) for name in others})
    assert choose_hyperparameters(scrambled, rule)["key"].tolist() == chosen["key"].tolist()
    without = rows.drop(columns=others)
    assert choose_hyperparameters(without, rule)["key"].tolist() == chosen["key"].tolist()


def test_ties_go_to_the_larger_penalty(rows):
    even = choose_hyperparameters(rows.assign(student_validation_accuracy=0.7))
    assert set(even["student_l2"]) == {1.0}
    assert not even.duplicated([*CELL, "method", "seed"]).any()


def test_choices_that_cannot_be_made(rows):
    with pytest.raises(ReportError, match="unknown rule 'best' of choice; known: validation"):
        choose_hyperparameters(rows, "best")
    with pytest.raises(ReportError, match="student_validation_accuracy is missing.*n_validation"):
        choose_hyperparameters(rows.assign(student_validation_accuracy=np.nan))
    with pytest.raises(ReportError, match="finish the run"):
        choose_hyperparameters(rows.drop(index=rows.index[rows["method"] == "enhanced"][0]))
    two = make_rows(seeds=2, teacher_l2=(0.01, 0.1), pq=((0.5, 0.5),))
    with pytest.raises(ReportError, match="one teacher_l2"):
        choose_hyperparameters(two)


def test_teachers_are_chosen_by_their_own_column():
    rows = make_rows(seeds=4, teacher_l2=(0.01, 0.1, 1.0), student_l2=(0.1,), pq=((0.5, 0.5),))
    best = choose_teachers(rows, "validation")
    assert len(best) == 2
    for eta_l in (0.1, 0.5):
        part = rows[rows["eta_l"] == eta_l]
        means = part.groupby("teacher_l2")["teacher_validation_accuracy"].mean()
        (found,) = (l2 for key, l2 in best.items() if key[TEACHER.index("eta_l")] == eta_l)
        assert found == means.idxmax()


def test_worst_group_is_the_paired_t_test_of_scipy(rows):
    chosen = choose_hyperparameters(rows)
    table = comparison_table(chosen)
    for eta_u in (0.1, 0.5):
        ours = at(chosen, "enhanced", eta_l=0.1, eta_u=eta_u)["student_worst_group_accuracy"]
        base = at(chosen, "vanilla", eta_l=0.1, eta_u=eta_u)["student_worst_group_accuracy"]
        tested = stats.ttest_rel(ours, base)
        interval = tested.confidence_interval(0.95)
        line = table.set_index(["eta_l", "eta_u", "method", "metric"]).loc[
            (0.1, eta_u, "enhanced", WORST)
        ]
        assert line["p_value"] == pytest.approx(tested.pvalue, rel=1e-9)
        found = line[["difference", "difference_low", "difference_high"]].tolist()
        assert found == pytest.approx([np.mean(ours.to_numpy() - base.to_numpy()), *interval])


def test_averages_pair_by_seed_and_test_row(rows):
    chosen = choose_hyperparameters(rows).sample(frac=1, random_state=0)
    table = comparison_table(chosen).set_index(["eta_l", "eta_u", "method", "metric"])
    groups = make_groups()
    counts = [group["test_count"] for group in groups]
    ours, base = (
        decode_correct(at(chosen, m, eta_l=0.5, eta_u=0.1)["student_correct"], sum(counts)) * 1.0
        for m in ("enhanced", "vanilla")
    )
    owner = np.repeat(np.arange(4), counts)
    weights = np.array(counts) / sum(counts)
    expected = two_way_interval(ours - base, owner, weights)
    line = table.loc[(0.5, 0.1, "enhanced", "average")]
    assert line["difference"] == pytest.approx(ours.mean() - base.mean())
    assert line["difference_low"] == pytest.approx(expected.low)
    assert line["p_value"] == pytest.approx(p_value(expected))
    group = table.loc[(0.5, 0.1, "enhanced", groups[1]["name"])]
    own = owner == 1
    assert group["difference"] == pytest.approx((ours - base)[:, own].mean())
    assert group["accuracy"] == pytest.approx(ours[:, own].mean())
    vanilla = table.loc[(0.5, 0.1, "vanilla", "average")]
    assert vanilla["accuracy"] == pytest.approx(base.mean())
    assert np.isnan(vanilla["difference"])
    assert np.isnan(table.loc[(0.5, 0.1, "ceiling", "average")]["p_holm"])
    shifted = comparison_table(chosen, 0.0).set_index(["eta_l", "eta_u", "method", "metric"])
    majority = at(chosen, "vanilla", eta_l=0.5, eta_u=0.1)["student_majority_accuracy"]
    found = shifted.loc[(0.5, 0.1, "vanilla", "average")]["accuracy"]
    assert found == pytest.approx(majority.mean())


def test_p_values_fit_their_intervals():
    rng = np.random.default_rng(0)
    for confidence in (0.5, 0.95, 0.999):
        values = rng.normal(0.3, 1, 7)
        found = seed_interval(values, confidence)
        inside = found.low < 0 < found.high
        assert (p_value(found) > 1 - confidence) == inside
        assert p_value(found) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert p_value(seed_interval(np.zeros(4))) == 1.0
    assert p_value(seed_interval(np.ones(4))) == 0.0
    assert np.isnan(p_value(seed_interval(np.ones(1))))


def test_holm_by_hand():
    # sorted: .005, .01, .03, .04 times 4, 3, 2, 1 is .02, .03, .06, .04; then the running maximum
    p = np.array([0.03, 0.005, np.nan, 0.04, 0.01])
    np.testing.assert_allclose(holm(p), [0.06, 0.02, np.nan, 0.06, 0.03])
    assert holm(np.array([0.6, 0.9])).tolist() == [1.0, 1.0]
    assert holm(np.array([])).size == 0
    # the family-wise error under independent true nulls, to three standard errors
    uniform = np.random.default_rng(0).uniform(size=(4000, 10))
    rate = np.mean([holm(row).min() < 0.05 for row in uniform])
    assert rate == pytest.approx(1 - 0.995**10, abs=3 * np.sqrt(0.05 / 4000))


def test_families_are_the_columns(rows):
    table = comparison_table(choose_hyperparameters(rows))
    for metric, part in table.groupby("metric"):
        members = part[part["p_value"].notna()]
        assert set(members["method"]) == {"enhanced"}
        assert len(members) == 4, metric
        np.testing.assert_allclose(members["p_holm"], holm(members["p_value"].to_numpy()))


def test_vanilla_must_be_there_with_the_same_seeds(rows):
    chosen = choose_hyperparameters(rows)
    with pytest.raises(ReportError, match="no vanilla rows"):
        comparison_table(chosen[chosen["method"] != "vanilla"])
    lost = (chosen["method"] == "vanilla") & (chosen["seed"] == 3)
    with pytest.raises(ReportError, match="different seeds"):
        comparison_table(chosen[~lost])


def test_errors_by_hand():
    # classes of five rows; the teacher is wrong on the last three
    truth = np.array([0, 1, 2, 0, 1])
    teacher = np.array([[0, 1, 0, 1, 0]])
    student = np.array([[0, 0, 0, 0, 2]])
    agreement = (teacher == student).mean(axis=1)
    found = errors(teacher == truth, student == truth, agreement)
    assert {name: values.tolist() for name, values in found.items()} == {
        "corrected": [pytest.approx(1 / 3)],
        "copied": [pytest.approx(1 / 3)],
        "new_errors": [0.5],
    }
    perfect = errors(truth[None] >= 0, student == truth, np.array([0.4]))
    assert np.isnan(perfect["corrected"]).all()
    assert np.isnan(perfect["copied"]).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_diagnostics_are_means_over_seeds(num_classes):
    groups = make_groups(num_classes, 2)
    rows = make_rows(seeds=4, student_l2=(0.1,), teacher_l2=(0.1,), pq=((0.5, 0.5),), groups=groups)
    total = sum(group["test_count"] for group in groups)
    teacher, student = (
        decode_correct(rows[f"{m}_correct"], total).astype(bool) for m in ("teacher", "student")
    )
    # At three classes every second common error is another wrong class.
    same = teacher == student
    if num_classes > 2:
        same &= teacher | (np.arange(total) % 2 == 0)
    owner = np.repeat(np.arange(len(groups)), [group["test_count"] for group in groups])
    by_group = {
        f"agreement_test_group_{g}": same[:, owner == g].mean(1) for g in range(len(groups))
    }
    kept = {
        "kept_pseudolabel_accuracy_majority": 0.9,
        "kept_pseudolabel_accuracy_minority": 0.2,
    }
    rows = rows.assign(
        agreement_test=same.mean(1), student_calibration_error=0.1, **kept, **by_group
    )
    table = diagnostics_table(choose_hyperparameters(rows))
    keys = at(rows, "enhanced", eta_l=0.1, eta_u=0.3).index
    lines = table.query("method == 'enhanced' and eta_l == 0.1 and eta_u == 0.3").set_index("group")
    for number, name in enumerate(("all", *(group["name"] for group in groups))):
        own = owner == number - 1 if number else owner >= 0
        t, s, both = (bits[keys][:, own] for bits in (teacher, student, same))
        expected = {
            "agreement": both.mean(1),
            "corrected": (~t & s).sum(1) / (~t).sum(1),
            "copied": (~t & both).sum(1) / (~t).sum(1),
            "new_errors": (t & ~s).sum(1) / t.sum(1),
        }
        for key, values in expected.items():
            assert lines.loc[name, key] == pytest.approx(values.mean()), (name, key)
    assert lines.loc["all", "calibration_error"] == pytest.approx(0.1)
    assert lines.loc["all", "kept_pseudolabel_accuracy_majority"] == pytest.approx(0.9)
    assert lines.loc["all", "kept_pseudolabel_accuracy_minority"] == pytest.approx(0.2)
    if num_classes == 2:
        old = rows.drop(columns=["agreement_test", *by_group])
        again = diagnostics_table(choose_hyperparameters(old))
        pd.testing.assert_frame_equal(again, table)


def test_the_answer_claims_only_what_is_clear(rows):
    table = comparison_table(choose_hyperparameters(rows))
    none = answer(table.assign(p_holm=np.where(table["p_value"].notna(), 0.2, np.nan)), ())
    assert none.count("none differs clearly") == 8
    better = table.assign(
        p_holm=np.where(table["p_value"].notna(), 0.01, np.nan), difference=0.0123
    )
    assert answer(better, ["enhanced"]).count("enhanced (oracle) (+1.2) raises it") == 8
