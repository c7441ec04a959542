"""The whole chain against a slow one written with scikit-learn and scipy, and its invariants."""

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

import w2s_jax
from tests.toy import toy_set
from w2s_jax.features import make_predictions
from w2s_jax.sweep import Config, Grid, plan_grid, resolve_pairs, run
from w2s_jax.sweep.chunks import draw_request

COMMON = {
    "eta_l": (0.2,),
    "eta_u": (0.3, 0.5),
    "n_labelled": 60,
    "n_unlabelled": 120,
    "n_validation": 20,
    "teacher_l2": (0.01, 0.1),
    "student_l2": (0.03, 0.3),
    "keep_fraction": (0.25, 0.6),
    "gce_q": (0.3, 0.9),
    "seeds": (0, 1),
}


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)


@pytest.fixture(scope="module")
def rows(sets):
    return run(Grid(pairs=(sets,), **COMMON))


def scaled(feature_set, data, index):
    x = feature_set.features[index].astype(np.float64)
    x = x - x[data.pool_rows].mean(axis=0)
    return x / np.sqrt(np.mean(x[data.pool_rows] ** 2))


def sk_fit(x, y, l2):
    model = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-10, max_iter=10_000).fit(x, y)
    return model.coef_[0], model.intercept_[0]


def gce_fit(x, y, l2, q):
    sign = 2.0 * y - 1

    def objective(theta):
        z = sign * (x @ theta[:-1] + theta[-1])
        p = 1 / (1 + np.exp(-z))
        slope = -(p**q) * (1 - p) * sign / len(y)
        value = np.mean((1 - p**q) / q) + l2 / 2 * theta[:-1] @ theta[:-1]
        return value, np.append(x.T @ slope + l2 * theta[:-1], slope.sum())

    start = np.zeros(x.shape[1] + 1)
    found = minimize(objective, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return found.x[:-1], found.x[-1]


def slow_chain(pair, config):
    """One configuration, step by step, with other people's solvers."""
    data = pair.data
    draw = pair.pool(config.class_prior).draw(config.seed, draw_request(config))
    weak = scaled(data.teacher, data, data.teacher_index)
    strong = scaled(data.student, data, data.student_index)
    w, b = sk_fit(weak[draw.labelled], data.labels[draw.labelled], config.teacher_l2)
    pseudolabels = (weak[draw.unlabelled] @ w + b > 0).astype(int)
    out = {"teacher": weak @ w + b}
    x = strong[draw.unlabelled]
    w, b = sk_fit(x, data.labels[draw.unlabelled], config.student_l2)
    out["ceiling"] = strong @ w + b
    w, b = sk_fit(x, pseudolabels, config.student_l2)
    kept = np.arange(len(x))
    if config.method == "enhanced":
        count = max(1, int(np.floor(config.keep_fraction * len(x) + 0.5)))
        kept = np.argsort(-np.abs(x @ w + b), kind="stable")[:count]
        w, b = gce_fit(x[kept], pseudolabels[kept], config.retrain_l2, config.gce_q)
    out["student"] = strong @ w + b
    right = {name: (z > 0).astype(int) == data.labels for name, z in out.items()}
    minority = data.minority[draw.unlabelled][kept]
    own_right = (pseudolabels == data.labels[draw.unlabelled])[kept]
    return data, draw, right, minority, own_right


def test_every_row_agrees_with_the_slow_chain(sets, rows):
    pairs = resolve_pairs([sets])
    plan = plan_grid(Grid(pairs=(sets,), **COMMON), pairs)
    by_key = rows.set_index("key")
    configs = [c for group in plan.groups for chunk in group.chunks for c in chunk.configs]
    assert len(configs) == len(rows) == 2 * 2 * 2 * 2 * (1 + 4)
    flips = []
    for config in configs[::3]:
        row = by_key.loc[config.key({pair.name: pair.fingerprints for pair in pairs.values()})]
        data, draw, right, minority, own_right = slow_chain(pairs[config.pair], config)
        test = data.test_rows
        for model, correct in right.items():
            flips.append(abs(row[f"{model}_accuracy"] - correct[test].mean()) * len(test))
            for g in range(4):
                group = test[data.groups[test] == g]
                assert row[f"{model}_group_{g}_accuracy"] == pytest.approx(
                    correct[group].mean(), abs=1.5 / len(group)
                )
            assert row[f"{model}_validation_accuracy"] == pytest.approx(
                correct[draw.validation].mean(), abs=1.01 / 20
            )
        assert row["kept_count"] == len(minority)
        assert row["kept_minority_fraction"] == pytest.approx(
            minority.mean(), abs=1.01 / len(minority)
        )
        assert row["kept_pseudolabel_accuracy"] == pytest.approx(
            own_right.mean(), abs=1.01 / len(minority)
        )
    # A prediction may flip where a logit is zero to rounding; nearly none does.
    assert max(flips) <= 1 + 1e-9
    assert np.mean(flips) < 0.05


def test_columns_are_consistent(rows):
    assert rows["key"].is_unique
    vanilla = rows[rows["method"] == "vanilla"]
    assert (vanilla["key"] == vanilla["vanilla_key"]).all()
    assert set(rows["vanilla_key"]) == set(vanilla["key"])
    assert vanilla[["keep_fraction", "gce_q", "retrain_l2"]].isna().all().all()
    enhanced = rows[rows["method"] == "enhanced"]
    assert (enhanced["retrain_l2"] == enhanced["student_l2"]).all()
    for model in ("teacher", "ceiling", "student"):
        assert (rows[f"{model}_status"] == "converged").all()
        counts = rows[[f"test_count_group_{g}" for g in range(4)]].to_numpy()
        groups = rows[[f"{model}_group_{g}_accuracy" for g in range(4)]].to_numpy()
        bits = np.unpackbits(
            np.stack([np.frombuffer(b, np.uint8) for b in rows[f"{model}_correct"]]), axis=1
        )[:, : counts[0].sum()]
        by_group = [part.mean(axis=1) for part in np.split(bits, counts[0].cumsum()[:-1], axis=1)]
        np.testing.assert_allclose(groups, np.stack(by_group, 1))
        np.testing.assert_allclose(rows[f"{model}_accuracy"], bits.mean(axis=1))
        np.testing.assert_allclose(rows[f"{model}_worst_group_accuracy"], groups.min(axis=1))


def test_stages_are_deduplicated(sets):
    heads = plan_grid(Grid(pairs=(sets,), **COMMON)).heads
    # 2 seeds x 2 teacher_l2; students: 2 seeds x 2 eta_u x 2 x 2 penalties, vanilla + 4 (p, q);
    # ceilings: 2 seeds x 2 eta_u x 2 student_l2.
    assert heads == {"teachers": 4, "students": 16 * 5, "ceilings": 8}
    alone = plan_grid(Grid(pairs=(sets,), **COMMON, methods="enhanced")).heads
    assert alone["students"] == 16 * 5


def strip(rows):
    return rows.drop(columns=["student_fingerprint", "teacher_fingerprint", "key", "vanilla_key"])


def test_file_order_changes_no_result(sets, rows):
    rng = np.random.default_rng(3)
    shuffled = (
        toy_set("weak", signal=0.5, seed=1, order=rng.permutation(560)),
        toy_set("strong", signal=1.2, seed=2, order=rng.permutation(560)),
    )
    again = run(Grid(pairs=(shuffled,), **COMMON))
    pd.testing.assert_frame_equal(strip(rows), strip(again), check_exact=True)


def test_a_configuration_does_not_depend_on_its_grid(sets, rows):
    pairs = resolve_pairs([sets])
    plan = plan_grid(Grid(pairs=(sets,), **COMMON), pairs)
    config = plan.groups[1].chunks[1].configs[7]
    alone = run([config], pairs=pairs)
    same = rows[rows["key"] == alone["key"][0]].reset_index(drop=True)
    exact = [c for c in rows if c.endswith(("accuracy", "_correct")) or c.startswith("kept")]
    pd.testing.assert_frame_equal(alone[exact], same[exact], check_dtype=False)
    np.testing.assert_allclose(alone["student_objective"], same["student_objective"], rtol=1e-5)


def test_several_pairs_share_their_teacher_and_ceilings(sets):
    third = toy_set("third", signal=0.8, seed=5)
    small = {**COMMON, "seeds": (0,), "methods": "vanilla"}
    both = run(Grid(pairs=(sets, (sets[0], third)), **small))
    single = run(Grid(pairs=((sets[0], third),), **small))
    part = both[both["student"] == "third"].reset_index(drop=True)
    pd.testing.assert_frame_equal(strip(part), strip(single), check_exact=True)
    first, second = (both[both["student"] == name] for name in ("strong", "third"))
    assert first["teacher_accuracy"].tolist() == second["teacher_accuracy"].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"pseudolabels": "soft"},
        {"retrain_targets": "student"},
        {"retrain_init": "warm"},
        {"feature_scaling": "standardize"},
        {"feature_scaling": "none", "class_prior": "pool"},
        {"retrain_l2": (0.05, None)},
    ],
)
def test_options_change_what_they_should(sets, rows, options):
    small = {**COMMON, "seeds": (0,)}
    other = run(Grid(pairs=(sets,), **{**small, **options}))
    base = rows[rows["seed"] == 0]
    assert np.isfinite(other["student_accuracy"]).all()
    vanilla = [r[r["method"] == "vanilla"]["student_accuracy"].to_numpy() for r in (base, other)]
    enhanced = [r[r["method"] == "enhanced"]["student_objective"].to_numpy() for r in (base, other)]
    only_retraining = set(options) <= {"retrain_targets", "retrain_init", "retrain_l2"}
    assert np.array_equal(*vanilla) == only_retraining
    if options == {"retrain_init": "warm"}:
        # Another start of a non-convex fit: a minimum as good, up to local ones.
        assert np.mean(enhanced[1] <= enhanced[0] * 1.01) > 0.9
    else:
        assert not np.array_equal(*enhanced)


def test_a_student_learns_nothing_new_from_its_own_probabilities(sets):
    # Cross entropy (q -> 0) towards one's own probabilities, without a penalty, is minimal there.
    own = {"retrain_targets": "student", "pseudolabels": "soft", "retrain_l2": 1e-7}
    grid = Grid(pairs=(sets,), **{**COMMON, **own, "gce_q": 1e-4, "keep_fraction": 1.0})
    rows = run(grid)
    enhanced = rows[rows["method"] == "enhanced"]
    vanilla = rows.set_index("key").loc[enhanced["vanilla_key"]]
    for name in ("student_accuracy", "student_minority_accuracy", "student_group_0_accuracy"):
        # A test row next to the boundary may change sides; the smallest group has 34.
        apart = np.abs(enhanced[name].to_numpy() - vanilla[name].to_numpy())
        assert apart.max() <= 1 / 34
        assert np.sum(apart > 0.015) <= 1


def test_more_classes_agree_with_scikit_learn():
    pair = (
        toy_set("weak4", num_classes=4, rows_per_cell=70, signal=0.8, seed=1),
        toy_set("strong4", num_classes=4, rows_per_cell=70, signal=1.5, seed=2),
    )
    grid = Grid(pairs=(pair,), **{**COMMON, "n_labelled": 40, "seeds": (0,)})
    pairs = resolve_pairs(grid.pairs)
    rows = run(grid)
    # A subset of the most confident rows may well miss a class.
    assert set(rows["student_status"]) <= {"converged", "absent_class"}
    data = pairs["weak4:strong4"].data
    weak = scaled(data.teacher, data, data.teacher_index)
    strong = scaled(data.student, data, data.student_index)
    prints = {"weak4:strong4": pairs["weak4:strong4"].fingerprints}
    for config in list(grid.configs(pairs))[::7]:
        draw = pairs["weak4:strong4"].pool("equal").draw(config.seed, draw_request(config))

        def fit(x, y, l2):
            return LogisticRegression(C=1 / (l2 * len(y)), tol=1e-9, max_iter=10_000).fit(x, y)

        row = rows[rows["key"] == config.key(prints)].iloc[0]
        teacher = fit(weak[draw.labelled], data.labels[draw.labelled], config.teacher_l2)
        pseudolabels = teacher.predict(weak[draw.unlabelled])
        ceiling = fit(strong[draw.unlabelled], data.labels[draw.unlabelled], config.student_l2)
        student = fit(strong[draw.unlabelled], pseudolabels, config.student_l2)
        test = data.test_rows
        scores = {
            "teacher": teacher.predict(weak[test]),
            "ceiling": ceiling.predict(strong[test]),
        }
        if config.method == "vanilla":
            scores["student"] = student.predict(strong[test])
        for model, predicted in scores.items():
            expected = np.mean(predicted == data.labels[test])
            assert row[f"{model}_accuracy"] == pytest.approx(expected, abs=1.01 / len(test))
        if config.method == "enhanced":
            p = student.predict_proba(strong[draw.unlabelled])
            count = round(config.keep_fraction * 120)
            kept = np.argsort((-p * np.log(p)).sum(axis=1), kind="stable")[:count]
            assert row["kept_count"] == count
            expected = np.mean((pseudolabels == data.labels[draw.unlabelled])[kept])
            assert row["kept_pseudolabel_accuracy"] == pytest.approx(expected, abs=1.01 / count)
    by_group = rows[[f"student_group_{g}_accuracy" for g in range(16)]].to_numpy()
    np.testing.assert_allclose(rows["student_worst_group_accuracy"], np.nanmin(by_group, axis=1))


def test_truly_unlabelled_rows_have_no_ceiling(sets):
    pair = tuple(toy_set(n, seed=s, num_unlabelled=100) for n, s in (("w", 1), ("s", 2)))
    rows = run(Grid(pairs=(pair,), **{**COMMON, "eta_u": "unlabelled", "n_unlabelled": 80}))
    assert rows["eta_u"].isna().all()
    assert rows[["ceiling_accuracy", "pgr", "kept_minority_fraction"]].isna().all().all()
    assert (rows["student_accuracy"] > 0.5).all()
    assert set(rows["kept_count"]) == {80, 20, 48}


def test_a_teacher_from_elsewhere(sets):
    _, strong = sets
    rng = np.random.default_rng(0)
    wrong = rng.random(strong.num_rows) < 0.2
    predictions = make_predictions(
        strong.ids, np.where(wrong, 1 - strong.labels, strong.labels), name="llm"
    )
    rows = run(Grid(pairs=((predictions, strong),), **COMMON))
    assert len(rows) == 2 * 2 * 2 * 5  # no labelled axes: seeds x eta_u x student_l2 x methods
    assert rows["teacher_l2"].isna().all()
    test = strong.split == 2
    assert rows["teacher_accuracy"].unique() == pytest.approx([1 - wrong[test].mean()])
    assert (rows["student_accuracy"] > rows["teacher_accuracy"]).mean() > 0.5
    assert rows["n_labelled"].isna().all()


def test_a_config_needs_what_its_method_reads(sets):
    config = Config("weak:strong", "enhanced", 0, 0.2, 0.3, 60, 120, 0, 0.01, 0.03)
    with pytest.raises(w2s_jax.W2SError, match="needs retrain_targets, retrain_init"):
        run([config], pairs=resolve_pairs([sets]))


def test_float64_end_to_end(sets, rows):
    with jax.enable_x64(True):
        wide = run(Grid(pairs=(sets,), **{**COMMON, "seeds": (0,)}), dtype=np.float64)
    narrow = rows[rows["seed"] == 0].reset_index(drop=True)
    assert wide["key"].tolist() == narrow["key"].tolist()
    close = np.isclose(wide["student_objective"], narrow["student_objective"], rtol=1e-4)
    # Where two rows are about equally confident, float32 may keep the other one of the 30 or 72.
    kept = [name for name in wide.columns if name.startswith("kept_")]
    same = (wide[kept].fillna(-1) == narrow[kept].fillna(-1)).all(axis=1)
    assert close[same].all()
    assert same[wide["method"] == "vanilla"].all()
    assert same.mean() >= 0.9
    assert (wide["student_gap"] <= 1.1e-10 * wide["student_objective"] + 1e-17).all()
    with pytest.raises(w2s_jax.W2SError, match="jax_enable_x64"):
        run(Grid(pairs=(sets,), **COMMON), dtype=np.float64)
