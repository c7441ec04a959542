"""Methods that see labels or groups, against slow implementations from their definitions alone."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from tests.methods.test_remedies import fit, probabilities, run_chain
from tests.toy import toy_set
from w2s_jax.errors import GridError
from w2s_jax.features import make_predictions
from w2s_jax.methods.group_balance import first_of_each_group
from w2s_jax.sweep import Config, Grid, run

NAMES = (
    "labelled",
    "labelled_and_pseudo",
    "enhanced_oracle",
    "group_reweighted",
    "group_subsampled",
    "group_dro",
    "dfr",
)
TRAINING = {"num_steps": 60, "learning_rate": 0.05, "optimizer": "sgd", "group_step": 0.3}


@pytest.fixture(scope="module", params=[2, 3], ids=["2 classes", "3 classes"])
def chains(request):
    return run_chain(request.param, NAMES, **TRAINING)


def balanced(rows, groups):
    """The first rows of each group, as many as the smallest has."""
    least = min(np.sum(groups[rows] == g) for g in np.unique(groups[rows]))
    kept = [rows[groups[rows] == g][:least] for g in np.unique(groups[rows])]
    return rows[np.isin(rows, np.concatenate(kept))]


def slow(name, chain):
    """The head of a method and the unlabelled rows of positive weight."""
    data, draw, x = chain.data, chain.draw, chain.strong
    eye = np.eye(chain.teacher.shape[1])
    pseudo = np.full(len(x), -1)
    pseudo[draw.unlabelled] = chain.teacher.argmax(axis=1)
    labelled, unlabelled = np.sort(draw.labelled), draw.unlabelled
    groups = data.groups
    if name == "labelled":
        return fit(x[labelled], eye[data.labels[labelled]], 0.2), []
    if name == "labelled_and_pseudo":
        both = np.concatenate([unlabelled, labelled])
        targets = eye[np.concatenate([pseudo[unlabelled], data.labels[labelled]])]
        return fit(x[both], targets, 0.2), unlabelled
    if name == "dfr":
        rows = balanced(labelled, groups)
        return fit(x[rows], eye[data.labels[rows]], 0.2), []
    if name == "group_subsampled":
        rows = balanced(unlabelled, groups)
        return fit(x[rows], eye[pseudo[rows]], 0.2), rows
    if name == "group_reweighted":
        sizes = np.bincount(groups[unlabelled], minlength=groups.max() + 1)
        weights = 1 / sizes[groups[unlabelled]]
        return fit(x[unlabelled], eye[pseudo[unlabelled]], 0.2, weights=weights), unlabelled
    vanilla = fit(x[unlabelled], eye[pseudo[unlabelled]], 0.2)
    p = probabilities(vanilla(x[unlabelled]))
    wrong = pseudo[unlabelled] != data.labels[unlabelled]
    order = np.lexsort((-np.sum(p * np.log(p), axis=1), wrong))
    rows = unlabelled[order[:48]]
    return fit(x[rows], eye[pseudo[rows]], 0.2, q=0.6), rows


@pytest.mark.parametrize("name", [name for name in NAMES if name != "group_dro"])
def test_a_sighted_method_agrees_with_its_slow_form(chains, name):
    row = chains.rows.loc[name]
    head, kept = slow(name, chains)
    assert row["student_objective"] == pytest.approx(head.objective, rel=1e-5)
    test = chains.data.test_rows
    chosen = probabilities(head(chains.strong[test])).argmax(axis=1)
    accuracy = np.mean(chosen == chains.data.labels[test])
    assert abs(row["student_accuracy"] - accuracy) * len(test) < 1 + 1e-9
    assert row["kept_count"] == len(kept)
    if len(kept):
        minority = chains.data.minority[kept].mean()
        assert row["kept_minority_fraction"] == pytest.approx(minority, abs=1e-9)


def test_group_dro_agrees_with_a_loop(chains):
    data, rows = chains.data, chains.draw.unlabelled
    x, labels = chains.strong[rows], chains.teacher.argmax(axis=1)
    num_classes = chains.teacher.shape[1]
    k = 1 if num_classes == 2 else num_classes
    groups, sizes = np.unique(data.groups[rows], return_inverse=True)[1], None
    sizes = np.bincount(groups)
    w, b = np.zeros((x.shape[1], k)), np.zeros(k)
    weights = np.full(len(sizes), 1 / len(sizes))

    def evaluate():
        z = x @ w + b
        log_p = log_softmax(np.concatenate([np.zeros_like(z), z], 1) if k == 1 else z, axis=1)
        losses = -log_p[np.arange(len(x)), labels]
        return np.bincount(groups, weights=losses) / sizes, np.exp(log_p)

    for _ in range(TRAINING["num_steps"]):
        losses, p = evaluate()
        weights = weights * np.exp(TRAINING["group_step"] * losses)
        weights /= weights.sum()
        slope = (weights / sizes)[groups][:, None] * (p - np.eye(num_classes)[labels])
        slope = slope[:, -k:]
        w, b = (
            w - TRAINING["learning_rate"] * (x.T @ slope + 0.2 * w),
            b - TRAINING["learning_rate"] * slope.sum(axis=0),
        )
    losses, _ = evaluate()
    row = chains.rows.loc["group_dro"]
    assert row["student_objective"] == pytest.approx(losses.max() + 0.1 * np.sum(w * w), rel=1e-9)
    assert row["student_iterations"] == TRAINING["num_steps"]


def test_group_dro_lowers_the_worst_groups_loss(chains):
    """Long training approaches the worst group's minimum, which plain fits do not aim at."""
    data, rows = chains.data, chains.draw.unlabelled
    x, eye = chains.strong[rows], np.eye(chains.teacher.shape[1])
    labels, groups = chains.teacher.argmax(axis=1), data.groups[rows]
    num_classes = len(eye)
    axes = TRAINING | {"num_steps": 4000, "learning_rate": 0.2, "group_step": 0.01}
    objective = run_chain(num_classes, ("group_dro",), **axes).rows["student_objective"][
        "group_dro"
    ]
    head = fit(x, eye[labels], 0.2)
    losses = -np.log(probabilities(head(x)))[np.arange(len(x)), labels]
    worst = max(losses[groups == g].mean() for g in np.unique(groups))
    assert objective < worst + 0.1 * np.sum(head.w**2) - 1e-4


def test_subsampling_ignores_empty_groups():
    in_group = np.zeros((3, 7), bool)
    in_group[0, [0, 2, 3, 5]] = True
    in_group[2, [1, 4]] = True
    kept = first_of_each_group(jax.numpy.asarray(in_group))
    assert np.flatnonzero(kept).tolist() == [0, 1, 2, 4]


def test_a_resumed_run_pads_labelled_rows_as_the_first_one_did(tmp_path):
    sets = toy_set("weak", seed=1), toy_set("strong", seed=2)
    axes = {"eta_l": (0.2, 0.5), "eta_u": 0.4, "n_labelled": (40, 60), "n_unlabelled": 100}
    grid = Grid(pairs=(sets,), methods=("labelled_and_pseudo", "dfr"), seeds=0, **axes)
    whole = run(grid, out=tmp_path / "whole")
    run(
        Grid(pairs=(sets,), methods=("labelled_and_pseudo",), seeds=0, **axes), out=tmp_path / "two"
    )
    parts = run(grid, out=tmp_path / "two")
    for column in ("key", "student_objective", "student_correct"):
        assert whole[column].equals(parts[column]), column


def test_a_teacher_from_elsewhere_has_no_labelled_rows():
    strong = toy_set("strong", seed=2)
    p = np.full((len(strong.ids), 2), 0.5)
    teacher = make_predictions(strong.ids, probabilities=p, name="elsewhere")
    grid = Grid(pairs=((teacher, strong),), methods="labelled", eta_u=0.4, n_unlabelled=50, seeds=0)
    with pytest.raises(GridError, match="comes from elsewhere; leave the method out"):
        run(grid)


def test_an_oracle_needs_the_truth():
    sets = tuple(toy_set(name, num_unlabelled=60) for name in ("weak", "strong"))
    axes = {"eta_l": 0.2, "eta_u": "unlabelled", "n_labelled": 40, "n_unlabelled": 50, "seeds": 0}
    with pytest.raises(GridError, match="is an oracle that sees true labels"):
        run(Grid(pairs=(sets,), methods="group_reweighted", **axes))


def test_methods_on_labelled_rows_leave_other_keys_alone():
    config = Config(
        pair="a:b",
        method="labelled",
        seed=0,
        eta_l=0.1,
        eta_u=0.5,
        n_labelled=10,
        n_unlabelled=20,
        n_validation=0,
        teacher_l2=0.1,
        student_l2=0.2,
        pseudolabels="soft",
    ).canonical()
    assert config.pseudolabels is None
