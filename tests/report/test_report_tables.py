import numpy as np
import pandas as pd
import pytest
from report_rows import PQ, make_groups, make_rows

from w2s_jax.report import (
    ReportError,
    accuracy_at,
    format_table,
    oracle_improvement,
    relative_improvement,
    select_l2,
    setting_table,
)
from w2s_jax.report.frame import check_rows, conditions, methods, middle
from w2s_jax.report.statistics import seed_interval
from w2s_jax.report.tables import averages_table, group_table, improvement_map, kept_table, l2_map

SIZES = ((200, 2000), (400, 2000), (400, 4000))
ONE = {"teacher_l2": (0.1,), "student_l2": (1.0,)}


@pytest.fixture(scope="module")
def rows():
    return make_rows(pairs=("a:b", "c:d"), sizes=SIZES, eta_u=(0.1, 0.5), seeds=3, **ONE)


def of(rows, line, **more):
    """Rows of a table line's pair, setting and (p, q)."""
    part = rows
    for name, value in {**{n: line[n] for n in ("pair", "eta_l", "eta_u")}, **more}.items():
        part = part[part[name] == value]
    return part


def test_relative_improvement_is_on_seed_means_then_over_sizes(rows):
    table = relative_improvement(rows, metric=0.5, keep_fraction=0.6, gce_q=0.7)
    assert len(table) == 8
    for _, line in table.iterrows():
        mine = of(rows, line, method="enhanced", keep_fraction=0.6, gce_q=0.7)
        vanilla = of(rows, line, method="vanilla")
        ratios = []
        for n, big in SIZES:
            a, b = (
                accuracy_at(part[(part.n_labelled == n) & (part.n_unlabelled == big)], 0.5).mean()
                for part in (mine, vanilla)
            )
            ratios.append(100 * (a - b) / b)
        assert line["improvement"] == pytest.approx(np.mean(ratios))
        assert line["improvement_low"] < line["improvement"] < line["improvement_high"]
        assert (line["num_seeds"], line["num_sizes"]) == (3, 3)


def test_setting_table_averages_and_pairs(rows):
    table = setting_table(rows, metrics=("accuracy", 0.1), keep_fraction=0.2, gce_q=0.3)
    assert len(table) == 2 * 2 * 8
    for _, line in table[table["metric"] == "accuracy"].iterrows():
        vanilla = of(rows, line, method="vanilla")
        assert line["vanilla"] == pytest.approx(vanilla["student_accuracy"].mean())
        assert line["teacher"] == pytest.approx(vanilla["teacher_accuracy"].mean())
        assert line["gain"] == pytest.approx(line["vanilla"] - line["teacher"])
        room = line["ceiling"] - line["teacher"]
        if room > 1 / 200:
            assert line["pgr"] == pytest.approx(line["gain"] / room)
        if line["variant"] == "enhanced":
            mine = of(rows, line, method="enhanced", keep_fraction=0.2, gce_q=0.3)
            assert line["method_accuracy"] == pytest.approx(mine["student_accuracy"].mean())
            assert line["effect"] == pytest.approx(line["method_accuracy"] - line["vanilla"])
            assert line["method_gain"] == pytest.approx(line["effect"] + line["gain"])


def test_paired_interval_is_narrower_than_unpaired(rows):
    table = setting_table(rows, metrics=(0.5,))
    width = (table["gain_high"] - table["gain_low"]).mean()
    apart = [(table[f"{m}_high"] - table[f"{m}_low"]).mean() for m in ("teacher", "vanilla")]
    assert width < np.hypot(*apart)


def test_pgr_is_missing_without_a_lead_and_has_no_interval_where_it_is_unclear():
    rows = make_rows(seeds=3, pq=(), eta_l=(0.5,), eta_u=(0.1,), **ONE)
    names = [name for name in rows if name.startswith("teacher_") and name != "teacher_l2"]
    swapped = rows.copy()
    for name in names:
        other = name.replace("teacher_", "ceiling_")
        if other in rows:
            swapped[name], swapped[other] = rows[other], rows[name]
    better = rows["ceiling_accuracy"].mean() > rows["teacher_accuracy"].mean()
    behind = setting_table(swapped if better else rows)
    assert np.isnan(behind["pgr"]).all()
    lead = setting_table(rows if better else swapped)
    unclear = lead["pgr_low"].isna()
    assert np.isfinite(lead["pgr"]).all()
    assert unclear.all() or (lead["pgr_low"] < lead["pgr_high"]).all()


def test_seeds_that_a_size_lacks_are_left_out():
    rows = make_rows(sizes=SIZES[:2], seeds=4, pq=(), eta_l=(0.1,), eta_u=(0.1,), **ONE)
    part = rows[~((rows["n_labelled"] == 400) & (rows["seed"] == 3))]
    line = setting_table(part).iloc[0]
    assert line["num_seeds"] == 3
    expected = part[part["seed"] < 3]["student_accuracy"].mean()
    assert line["vanilla"] == pytest.approx(expected)
    apart = rows[(rows["n_labelled"] == 400) == (rows["seed"] < 2)]
    with pytest.raises(ReportError, match="no seed of .* at all 2 sizes"):
        setting_table(apart)


def test_oracle_takes_the_best_on_test(rows):
    oracle = oracle_improvement(rows, metric=0.5)
    every = improvement_map(rows, metrics=(0.5,))
    for _, line in oracle.iterrows():
        mine = of(every, line)
        assert line["improvement"] == mine["improvement"].max()
        assert line["num_candidates"] == len(PQ)
    declared = relative_improvement(rows, metric=0.5, keep_fraction=0.6, gce_q=0.7)
    assert (oracle["improvement"].to_numpy() >= declared["improvement"].to_numpy()).all()


def test_maps_hold_every_value():
    rows = make_rows(seeds=2, eta_u=(0.1, 0.5))
    gains = l2_map(rows, metrics=(0.5, "accuracy"))
    assert len(gains) == 2 * 2 * 4 * 2
    line = gains[gains["metric"] == "accuracy"].iloc[0]
    part = of(rows, line, method="vanilla")
    part = part[(part.teacher_l2 == line.teacher_l2) & (part.student_l2 == line.student_l2)]
    assert line["gain"] == pytest.approx((part.student_accuracy - part.teacher_accuracy).mean())
    assert len(improvement_map(select_l2(rows))) == 4 * len(PQ)


def test_several_l2_in_one_setting_are_refused_by_name():
    rows = make_rows(seeds=2)
    with pytest.raises(ReportError, match=r"teacher_l2 \(0.01, 0.1\).*select_l2"):
        setting_table(rows)


def test_kept_rows_average_over_q_and_use_vanilla_for_all_rows():
    rows = make_rows(seeds=3, eta_u=(0.5,), pq=((0.2, 0.3), (0.2, 0.7)), **ONE)
    table = kept_table(rows)
    assert table["keep_fraction"].tolist() == [0.2, 1.0] * 2
    part = of(rows, table.iloc[0], method="enhanced")
    by_seed = part.groupby("seed")["kept_minority_fraction"].mean()
    expected = seed_interval(by_seed.to_numpy())
    assert table["kept_minority_fraction"][0] == pytest.approx(expected.value)
    assert table["kept_minority_fraction_low"][0] == pytest.approx(expected.low)
    whole = of(rows, table.iloc[1], method="vanilla")["kept_pseudolabel_accuracy"].mean()
    assert table["kept_pseudolabel_accuracy"][1] == pytest.approx(whole)


def test_groups_and_averages(rows):
    groups = group_table(rows, keep_fraction=0.6, gce_q=0.7)
    line = groups[(groups["model"] == "method") & (groups["group"] == "class 1, attribute 0")].iloc[
        0
    ]
    part = of(rows, line, method="enhanced", keep_fraction=0.6, gce_q=0.7)
    assert line["accuracy"] == pytest.approx(part["student_group_2_accuracy"].mean())
    assert bool(line["minority"])
    averages = averages_table(rows, keep_fraction=0.6, gce_q=0.7)
    assert averages["model"].unique().tolist() == ["teacher", "vanilla", "ceiling", "enhanced"]
    line = averages[averages["model"] == "enhanced"].iloc[0]
    part = of(rows, line, method="enhanced", keep_fraction=0.6, gce_q=0.7)
    assert line["worst_group_accuracy"] == pytest.approx(
        part["student_worst_group_accuracy"].mean()
    )


def test_undeclared_pq_is_the_middle_of_the_grid(rows):
    table = relative_improvement(rows)
    assert set(table["keep_fraction"]) == {0.6}
    assert set(table["gce_q"]) == {0.7}
    assert middle([1, 2, 3]) == 2
    with pytest.raises(
        ReportError, match="no row has keep_fraction = 0.5; the rows have 0.2, 0.6, 1"
    ):
        relative_improvement(rows, keep_fraction=0.5)
    ragged = rows[rows["gce_q"].isna() | ((rows["gce_q"] == 0.3) == (rows["keep_fraction"] > 0.5))]
    assert set(relative_improvement(ragged)["gce_q"]) == {0.3}  # the only q at the middle p
    assert set(relative_improvement(ragged, gce_q=0.7)["keep_fraction"]) == {0.2}
    with pytest.raises(ReportError, match="no row has gce_q = 0.7 at keep_fraction = 0.6"):
        relative_improvement(ragged, keep_fraction=0.6, gce_q=0.7)
    close = relative_improvement(rows, keep_fraction=0.2 + 0.4, gce_q=0.7)
    assert set(close["keep_fraction"]) == {0.6}


def test_retraining_choices_make_variants():
    rows = make_rows(seeds=2, eta_u=(0.1,), **ONE)
    warm = rows[rows["method"] == "enhanced"].assign(retrain_init="warm", retrain_l2=0.3)
    warm["key"] += "warm"
    table = check_rows(pd.concat([rows, warm]))
    names = methods(table)
    assert names == [
        "enhanced, retrain_l2 = 0.3, retrain_init = warm",
        "enhanced, retrain_l2 = student_l2, retrain_init = zero",
    ]
    found = setting_table(table)
    assert set(found["variant"]) == {"vanilla", *names}


def test_a_method_without_an_axis_shares_the_condition_of_its_vanilla_row():
    rows = make_rows(seeds=2, eta_u=(0.1,), **ONE)
    other = rows[rows["method"] == "enhanced"].drop_duplicates("vanilla_key")
    other = other.assign(
        method="other", pseudolabels=None, keep_fraction=np.nan, gce_q=np.nan, retrain_l2=np.nan
    )
    other["key"] += "other"
    table = check_rows(pd.concat([rows, other]))
    assert [label for label, _ in conditions(table)] == [""]
    assert methods(table) == ["enhanced", "other"]
    assert "other" in set(setting_table(table)["variant"])


def test_conditions_name_what_varies():
    rows = pd.concat([make_rows(seeds=2), make_rows(seeds=2, feature_scaling="none")])
    parts = conditions(check_rows(rows))
    assert [label for label, _ in parts] == ["feature_scaling = none", "feature_scaling = rms"]
    with pytest.raises(ReportError, match=r"feature_scaling \(none, rms\)"):
        setting_table(select_l2(rows).assign(teacher_l2=0.1, student_l2=0.1))


def test_rows_that_are_not_a_sweep_are_refused():
    rows = make_rows(seeds=1, **ONE)
    with pytest.raises(ReportError, match="no result rows"):
        check_rows(rows.iloc[:0])
    with pytest.raises(ReportError, match=r"lack the column\(s\) key, eta_u"):
        check_rows(rows.drop(columns=["key", "eta_u"]))
    with pytest.raises(ReportError, match="1 row\\(s\\) occur more than once"):
        check_rows(pd.concat([rows, rows.iloc[:1]]))
    with pytest.raises(ReportError, match="keep the vanilla rows"):
        check_rows(rows[rows["method"] == "enhanced"])
    shuffled = rows.assign(student_correct=rows["teacher_correct"].to_numpy())
    with pytest.raises(ReportError, match="student_correct gives student_accuracy"):
        setting_table(shuffled)


def test_text_table_is_readable_and_narrow(rows):
    text = format_table(rows, keep_fraction=0.6, gce_q=0.7)
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    assert "a:b: accuracy (%) at eta_t = 0.1; 3 seeds; (n, N) = (200, 2000), (400, 2000)" in text
    line = setting_table(rows, metrics=(0.5,), keep_fraction=0.6, gce_q=0.7)
    line = line[(line["variant"] == "enhanced") & (line["pair"] == "c:d")].iloc[-1]
    row = [row for row in text.splitlines() if row.startswith("  0.5    0.5")][-1].split()
    assert float(row[3]) == pytest.approx(100 * line["vanilla"], abs=0.051)
    assert float(row[6]) == pytest.approx(100 * line["gain"], abs=0.0051)


def test_text_table_of_poor_rows():
    rows = make_rows(
        seeds=1, unlabelled=True, outside_teacher=True, pq=(), n_validation=0,
        groups=make_groups(9, 9, 10),
    )  # fmt: skip
    text = format_table(rows, eta_t=0.5)
    assert "middle of the grid" in text
    assert "one seed" in text
    assert "enhanced" not in text
    assert max(map(len, text.splitlines())) <= 100
