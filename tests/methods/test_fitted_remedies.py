"""Remedies that are fits, against slow students and in the limits where they are vanilla."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.methods.slow import cross_entropy, fit, hardened, make_problem
from w2s_jax.methods import RoundInputs
from w2s_jax.methods.corrected import UNMIXED
from w2s_jax.methods.noise import anchor_matrix, inverse
from w2s_jax.methods.sinkhorn import sinkhorn

L2, RETRAIN_L2 = 0.2, 0.1
SETTINGS = {
    "smoothing": 0.3,
    "bootstrap_weight": 0.35,
    "entropy_weight": 0.4,
    "anchor_quantile": 0.9,
    "identity_weight": 0.25,
    "sinkhorn_steps": 3,
    "upweight": 2.5,
}
# Values at which a method is vanilla.
LIMITS = {
    "label_smoothing": {"smoothing": 0.0},
    "bootstrap_hard": {"bootstrap_weight": 0.0},
    "bootstrap_soft": {"bootstrap_weight": 0.0},
    "entropy_minimisation": {"entropy_weight": 0.0},
    "forward_correction": {"identity_weight": 1.0},
    "backward_correction": {"identity_weight": 1.0},
    "sinkhorn": {"sinkhorn_steps": 0},
    "jtt": {"upweight": 1.0},
}


@pytest.fixture(scope="module", params=[2, 3], ids=["2 classes", "3 classes"])
def problem(request):
    limits = {name: value for values in LIMITS.values() for name, value in values.items()}
    return make_problem(
        request.param,
        methods=tuple(LIMITS),
        student_l2=L2,
        retrain_l2=(None, RETRAIN_L2),
        pseudolabels=("hard", "soft"),
        retrain_init=("zero", "warm"),
        sinkhorn_prior=("uniform", "pseudolabels"),
        **{name: (value, limits.get(name, value)) for name, value in SETTINGS.items()},
    )


def selected(problem, method, **settings):
    """Rows of a method at its settings, each at the test's value where no other is given."""
    rows = problem.rows[problem.rows["method"] == method]
    for name, value in {**SETTINGS, **settings}.items():
        if rows[name].notna().any():
            rows = rows[rows[name] == value]
    return rows


def only(rows):
    assert len(rows) == 1
    return rows.iloc[0]


def with_entropy(targets, taught_weight, entropy_weight):
    taught = cross_entropy(targets)

    def loss(z):
        log_p, (values, slope) = log_softmax(z, axis=1), taught(z)
        entropy = -np.sum(np.exp(log_p) * log_p, axis=1)
        entropy_slope = -np.exp(log_p) * (log_p + entropy[:, None])
        values = taught_weight * values + entropy_weight * entropy
        return values, taught_weight * slope + entropy_weight * entropy_slope

    return loss


def slow_noise_matrix(p, quantile, identity_weight):
    rank = int(np.floor(quantile * len(p) + 0.5))
    anchors = [np.argsort(column, kind="stable")[rank - 1] for column in p.T]
    return (1 - identity_weight) * p[anchors] + identity_weight * np.eye(p.shape[1])


def slow_sinkhorn(p, prior, num_steps):
    scaled = p.copy()
    for _ in range(num_steps):
        scaled = scaled * (prior / scaled.mean(axis=0))
        scaled = scaled / scaled.sum(axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_label_smoothing(problem, kind):
    row = only(selected(problem, "label_smoothing", pseudolabels=kind))
    targets = 0.7 * problem.labels(kind) + 0.3 / problem.num_classes
    head = fit(problem.x, cross_entropy(targets), L2, problem.num_classes)
    problem.assert_is(row, head, 1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_bootstrap_hard(problem, kind):
    row = only(selected(problem, "bootstrap_hard", pseudolabels=kind))
    taught = cross_entropy(problem.labels(kind))
    head = fit(problem.x, taught, L2, problem.num_classes)
    objectives = []
    for _ in range(4):
        own = cross_entropy(hardened(head(problem.x)))

        def loss(z, own=own):
            pairs = zip(taught(z), own(z), strict=True)
            return tuple(0.65 * ours + 0.35 * theirs for ours, theirs in pairs)

        head = fit(problem.x, loss, L2, problem.num_classes)
        z = head(problem.x)
        values = 0.65 * taught(z)[0] + 0.35 * cross_entropy(hardened(z))(z)[0]
        objectives.append(values.mean() + L2 / 2 * np.sum(head.w**2))
    problem.assert_is(row, head, 1e-6)
    # The rounds have arrived at a minimum of the stated objective.
    assert (np.diff(objectives) < 1e-9).all()
    assert row["student_objective"] == pytest.approx(objectives[-1], rel=1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("start", ["zero", "warm"])
@pytest.mark.parametrize(
    ("name", "weights"), [("bootstrap_soft", (0.65, 0.35)), ("entropy_minimisation", (1, 0.4))]
)
def test_entropy_in_the_loss(problem, name, weights, start, kind):
    row = only(selected(problem, name, pseudolabels=kind, retrain_init=start))
    targets = problem.labels(kind)
    vanilla = fit(problem.x, cross_entropy(targets), L2, problem.num_classes)
    loss, first = with_entropy(targets, *weights), vanilla if start == "warm" else None
    head = fit(problem.x, loss, L2, problem.num_classes, start=first)
    problem.assert_is(row, head, 1e-6)


@pytest.mark.parametrize("l2", [L2, RETRAIN_L2])
def test_forward_correction(problem, l2):
    row = only(selected(problem, "forward_correction", retrain_l2=l2))
    labels = problem.labels("hard")
    vanilla = fit(problem.x, cross_entropy(labels), L2, problem.num_classes)
    noise = slow_noise_matrix(softmax(vanilla(problem.x), axis=1), 0.9, 0.25)

    def loss(z):
        p = softmax(z, axis=1)
        origins = p * noise[:, labels.argmax(axis=1)].T
        observed = origins.sum(axis=1)
        return -np.log(observed), p - origins / observed[:, None]

    head = fit(problem.x, loss, l2, problem.num_classes)
    constant = np.mean(np.log(noise.sum(axis=0))[labels.argmax(axis=1)])
    problem.assert_is(row, head._replace(objective=head.objective + constant), 1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("l2", [L2, RETRAIN_L2])
def test_backward_correction(problem, kind, l2):
    row = only(selected(problem, "backward_correction", pseudolabels=kind, retrain_l2=l2))
    labels = problem.labels(kind)
    vanilla = fit(problem.x, cross_entropy(labels), L2, problem.num_classes)
    noise = slow_noise_matrix(softmax(vanilla(problem.x), axis=1), 0.9, 0.25)
    targets = labels @ np.linalg.inv(noise)
    assert kind == "soft" or (targets < 0).any()
    if (targets.mean(axis=0) <= 0).any():
        assert row["student_status"] == "no_minimum"
        return
    head = fit(problem.x, cross_entropy(targets), l2, problem.num_classes)
    # The inverse magnifies what the first round's tolerance leaves.
    problem.assert_is(row, head, 5e-5)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("prior", ["uniform", "pseudolabels"])
def test_sinkhorn(problem, kind, prior):
    row = only(selected(problem, "sinkhorn", pseudolabels=kind, sinkhorn_prior=prior))
    shares = np.full(problem.num_classes, 1 / problem.num_classes)
    if prior == "pseudolabels":
        shares = problem.labels("hard").mean(axis=0)
    targets = slow_sinkhorn(problem.teacher, shares, 3)
    targets = hardened(targets) if kind == "hard" else targets
    head = fit(problem.x, cross_entropy(targets), L2, problem.num_classes)
    problem.assert_is(row, head, 1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("l2", [L2, RETRAIN_L2])
def test_jtt(problem, kind, l2):
    row = only(selected(problem, "jtt", pseudolabels=kind, retrain_l2=l2))
    loss = cross_entropy(problem.labels(kind))
    vanilla = fit(problem.x, loss, L2, problem.num_classes)
    differ = vanilla(problem.x).argmax(axis=1) != problem.teacher.argmax(axis=1)
    assert 0 < differ.sum() < len(differ)
    head = fit(problem.x, loss, l2, problem.num_classes, weights=np.where(differ, 2.5, 1.0))
    problem.assert_is(row, head, 1e-6)
    assert row["kept_count"] == len(differ)


@pytest.mark.parametrize("name", LIMITS)
def test_in_its_limit_a_remedy_is_vanilla(problem, name):
    rows = selected(problem, name, **LIMITS[name])
    if "retrain_l2" in rows and rows["retrain_l2"].notna().any():
        rows = rows[rows["retrain_l2"] == L2]
    assert len(rows)
    vanilla = problem.rows.set_index("key").loc[rows["vanilla_key"]]
    np.testing.assert_allclose(rows["student_objective"], vanilla["student_objective"], rtol=1e-8)
    assert rows["student_correct"].tolist() == vanilla["student_correct"].tolist()


def test_remedies_differ_from_vanilla_and_from_each_other(problem):
    rows = [problem.rows[problem.rows["method"] == "vanilla"]]
    rows += [selected(problem, name, retrain_l2=L2, pseudolabels="soft") for name in LIMITS]
    objectives = np.concatenate([part["student_objective"].round(6).unique() for part in rows])
    assert len(np.unique(objectives)) == len(objectives) >= len(LIMITS) + 1


def test_anchors_are_rows_of_rank_among_the_valid():
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=50).astype(np.float32)
    valid = np.arange(50) < 37
    p[~valid, 0] = 2.0  # padding that would win
    for quantile in (0.01, 0.5, 0.97, 1.0):
        rank = max(1, int(np.floor(quantile * 37 + 0.5)))
        expected = [p[:37][np.argsort(p[:37, i])[rank - 1]] for i in range(4)]
        found = anchor_matrix(jnp.asarray(p), jnp.float32(quantile), jnp.asarray(valid))
        np.testing.assert_array_equal(found, expected)


def test_where_correction_leaves_a_class_without_pseudolabels_there_is_no_minimum():
    # The noise is read off at mediocre rows, so that little of it explains all labels of a class.
    problem = make_problem(
        3,
        methods="backward_correction",
        student_l2=L2,
        anchor_quantile=(0.4, 0.6, 0.8, 1.0),
        identity_weight=0.0,
    )
    rows = problem.rows[problem.rows["method"] == "backward_correction"]
    labels = problem.labels("hard")
    vanilla = fit(problem.x, cross_entropy(labels), L2, 3)
    p = softmax(vanilla(problem.x), axis=1)
    for _, row in rows.iterrows():
        targets = labels @ np.linalg.inv(slow_noise_matrix(p, row["anchor_quantile"], 0.0))
        none = (targets.mean(axis=0) <= 0).any()
        assert (row["student_status"] == "no_minimum") == none
        assert (row["student_gradient_norm"] < 1e-4) == (not none)
    assert 0 < (rows["student_status"] == "no_minimum").sum() < len(rows)


def test_inverse_agrees_with_lapack():
    rng = np.random.default_rng(0)
    matrices = rng.dirichlet(np.ones(5), size=(20, 5))
    matrices[0] = np.eye(5)[[1, 2, 3, 4, 0]]  # no pivot on the diagonal
    with jax.enable_x64(True):
        found = jax.vmap(inverse)(jnp.asarray(matrices))
    np.testing.assert_allclose(found, np.linalg.inv(matrices), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_singular_noise_matrix_corrects_nothing(num_classes):
    p = np.random.default_rng(0).dirichlet(np.ones(num_classes), size=8).astype(np.float32)
    inputs = RoundInputs(
        teacher_probabilities=jnp.asarray(p),
        logits=jnp.zeros((1 if num_classes == 2 else num_classes, 8)),  # a constant student
        valid=jnp.ones(8, bool),
        hyperparameters={"anchor_quantile": jnp.float32(0.9), "identity_weight": jnp.float32(0)},
    )
    np.testing.assert_array_equal(UNMIXED["hard"](inputs), hardened(p))
    np.testing.assert_allclose(UNMIXED["soft"](inputs), p, rtol=1e-6)


def test_sinkhorn_meets_the_prior_on_the_valid_rows():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3) / 2, size=80).astype(np.float32)
    p[:3] = np.eye(3)  # certain rows stay as they are
    prior, valid = jnp.array([0.5, 0.3, 0.2]), jnp.arange(80) < 60
    balanced = np.asarray(sinkhorn(jnp.asarray(p), prior, jnp.float32(300), valid))
    np.testing.assert_allclose(balanced[:60].mean(axis=0), prior, atol=1e-5)
    np.testing.assert_allclose(balanced.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(balanced[:3], np.eye(3), atol=1e-6)
    again = sinkhorn(jnp.asarray(p).at[60:].set(0.1), prior, jnp.float32(300), valid)
    np.testing.assert_array_equal(again[:60], balanced[:60])


def test_sinkhorn_without_a_class():
    p = jnp.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]])
    balanced = sinkhorn(p, jnp.array([0.5, 0.5, 0.0]), jnp.float32(50), jnp.ones(2, bool))
    assert np.isfinite(balanced).all()
    np.testing.assert_allclose(balanced[:, 2], 0, atol=1e-6)
