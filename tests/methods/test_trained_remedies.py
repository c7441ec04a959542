"""Remedies that are trained step by step, against gradient descent written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax

from tests.methods.slow import (
    Head,
    cross_entropy,
    descend,
    generalized_cross_entropy,
    hardened,
    make_problem,
    objective,
)
from w2s_jax.methods import METHODS, RoundInputs
from w2s_jax.methods.balancing import balanced_labels, class_counts
from w2s_jax.methods.confidence import BALANCED_LOSSES, warmup
from w2s_jax.methods.lff import relative_difficulty

L2, NUM_STEPS, LEARNING_RATE = 0.1, 60, 0.5
NAMES = ("confidence", "confidence_adaptive", "lff")


@pytest.fixture(scope="module", params=[2, 3], ids=["2 classes", "3 classes"])
def problem(request):
    return make_problem(
        request.param,
        methods=("vanilla_trained", *NAMES),
        student_l2=L2,
        pseudolabels=("hard", "soft"),
        optimizer="sgd",
        learning_rate=LEARNING_RATE,
        num_steps=NUM_STEPS,
        confidence_weight=(0.0, 0.6),
        warmup_fraction=(0.0, 0.5),
        confidence_temperature=0.5,
        gce_q=0.6,
    )


def only(rows, **settings):
    for name, value in settings.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def ramp(step, fraction):
    return 1.0 if step >= fraction * NUM_STEPS else step / (fraction * NUM_STEPS)


def mixed(first, second, weight):
    """``(1 - weight) first + weight second``, for each row."""

    def loss(z):
        (a, slope_a), (b, slope_b) = first(z), second(z)
        w = np.broadcast_to(weight, len(z))
        return (1 - w) * a + w * b, (1 - w)[:, None] * slope_a + w[:, None] * slope_b

    return loss


def best_assignment(z, counts):
    """The labels of largest summed logit at given class counts."""
    seats = np.repeat(np.arange(len(counts)), counts)
    return seats[linear_sum_assignment(-z[:, seats])[1]]


def rounded_counts(shares, total):
    ends = np.floor(np.cumsum(shares) * total + 0.5).astype(int)
    return np.diff(ends, prepend=0)


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_confidence(problem, kind, fraction):
    row = only(
        problem.rows,
        method="confidence",
        pseudolabels=kind,
        warmup_fraction=fraction,
        confidence_weight=0.6,
    )
    targets = problem.labels(kind)
    counts, eye = rounded_counts(targets.mean(axis=0), len(targets)), np.eye(targets.shape[1])

    def loss_at(step):
        def loss(z):
            # At the start all logits tie: the lower class has them.
            own = best_assignment(z, counts) if z.any() else np.zeros(len(z), int)
            both = cross_entropy(targets), cross_entropy(eye[own])
            return mixed(*both, 0.6 * ramp(step, fraction))(z)

        return loss

    head = descend(problem.x, loss_at, L2, problem.num_classes, NUM_STEPS, LEARNING_RATE)
    problem.assert_is(row, head, 1e-6)
    assert row["student_status"] == "trained"


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_confidence_adaptive(problem, kind, fraction):
    row = only(
        problem.rows, method="confidence_adaptive", pseudolabels=kind, warmup_fraction=fraction
    )
    taught = cross_entropy(problem.labels(kind))

    def loss_at(step):
        def loss(z):
            own, teachers = cross_entropy(hardened(z)), cross_entropy(hardened(problem.teacher))
            ours, theirs = (np.exp(f(z)[0] / 0.5) for f in (own, teachers))
            return mixed(taught, own, ramp(step, fraction) * ours / (ours + theirs))(z)

        return loss

    head = descend(problem.x, loss_at, L2, problem.num_classes, NUM_STEPS, LEARNING_RATE)
    problem.assert_is(row, head, 1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_learning_from_failure(problem, kind):
    row = only(problem.rows, method="lff", pseudolabels=kind)
    x, num_classes, targets = problem.x, problem.num_classes, problem.labels(kind)
    k = 1 if num_classes == 2 else num_classes
    plain, biased_loss = cross_entropy(targets), generalized_cross_entropy(targets, 0.6)
    student = biased = np.zeros((x.shape[1] + 1) * k)

    def as_head(theta):
        return Head(theta[:-k].reshape(-1, k), theta[-k:], np.nan)

    for _ in range(NUM_STEPS):
        theirs, ours = (plain(as_head(theta)(x))[0] for theta in (biased, student))
        weight = theirs / (theirs + ours)

        def weighted(z, weight=weight):
            values, slope = plain(z)
            return weight * values, weight[:, None] * slope

        slopes = [
            objective(theta, x, loss, L2, None, k)[1]
            for theta, loss in ((student, weighted), (biased, biased_loss))
        ]
        student, biased = (
            theta - LEARNING_RATE * slope
            for theta, slope in zip((student, biased), slopes, strict=True)
        )
    assert np.ptp(weight) > 0.2  # the two have come apart
    head = as_head(student)._replace(objective=objective(student, x, plain, L2, None, k)[0])
    problem.assert_is(row, head, 1e-6)
    assert row["kept_count"] == len(targets)


def test_without_weight_on_itself_the_student_is_vanilla_trained(problem):
    vanilla = problem.rows[problem.rows["method"] == "vanilla_trained"].set_index("pseudolabels")
    rows = problem.rows[problem.rows["confidence_weight"] == 0.0]
    assert len(rows) == 4
    for _, row in rows.iterrows():
        same = vanilla.loc[row["pseudolabels"]]
        assert row["student_objective"] == pytest.approx(same["student_objective"], rel=1e-12)
        assert row["student_correct"] == same["student_correct"]


def test_methods_differ(problem):
    rows = problem.rows[problem.rows["confidence_weight"] != 0.0]
    assert rows["student_objective"].round(9).is_unique


def test_the_warmup_ends_where_it_arrives():
    def at(step, fraction, num_steps=100):
        values = {"warmup_fraction": jnp.float32(fraction), "num_steps": jnp.float32(num_steps)}
        inputs = RoundInputs(jnp.ones((1, 2)) / 2, jnp.zeros((1, 1)), jnp.ones(1, bool), values)
        return float(warmup(inputs, jnp.int32(step)))

    np.testing.assert_allclose([at(s, 0.2) for s in (0, 5, 10, 20, 99)], [0, 0.25, 0.5, 1, 1])
    # It does not jump, neither in between nor at its end.
    np.testing.assert_allclose(np.diff([at(s, 0.2) for s in range(21)]), 0.05, rtol=1e-5)
    assert at(0, 0.0) == 1.0
    assert at(99, 1.0) == pytest.approx(0.99)


@given(
    shares=st.lists(st.integers(0, 20), min_size=2, max_size=5).filter(any),
    total=st.integers(1, 500),
)
def test_class_counts_add_up_and_are_within_one(shares, total):
    shares = np.array(shares) / sum(shares)
    counts = np.asarray(class_counts(jnp.asarray(shares, jnp.float32), jnp.int32(total)))
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (abs(counts - shares * total) <= 1 + 1e-3).all()


@pytest.mark.parametrize("num_classes", [2, 3, 5, 9])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_balanced_labels_are_the_best_assignment(num_classes, scale):
    rng = np.random.default_rng(num_classes)
    z = scale * (rng.normal(size=(160, num_classes)) + 2 * rng.normal(size=num_classes))
    counts = rounded_counts(rng.dirichlet(np.full(num_classes, 2.0)), 120)
    z[120:, 0] += 50.0  # padding, which must not matter
    logits = z.T if num_classes > 2 else (z[:, 1:] - z[:, :1]).T
    found = jax.jit(balanced_labels)(
        jnp.asarray(logits, jnp.float32), jnp.asarray(counts), jnp.arange(160) < 120
    )
    assert np.bincount(found[:120], minlength=num_classes).tolist() == counts.tolist()
    np.testing.assert_array_equal(found[:120], best_assignment(z[:120], counts))


@pytest.mark.parametrize("counts", [[0, 6], [6, 0], [0, 6, 0], [6, 0, 0], [3, 0, 3]])
def test_classes_may_be_without_rows(counts):
    logits = np.random.default_rng(0).normal(size=(1 if len(counts) == 2 else len(counts), 6))
    found = balanced_labels(jnp.asarray(logits, jnp.float32), jnp.array(counts), jnp.ones(6, bool))
    assert np.bincount(found, minlength=len(counts)).tolist() == counts


def test_hardened_labels_are_constants_to_the_gradient():
    rng = np.random.default_rng(0)
    teacher, z = rng.dirichlet(np.ones(3), size=20), rng.normal(size=(20, 3))
    values = {
        "warmup_fraction": jnp.float32(0),
        "num_steps": jnp.float32(10),
        "confidence_weight": jnp.float32(0.7),
    }
    inputs = RoundInputs(
        jnp.asarray(teacher, jnp.float32), jnp.zeros((3, 20)), jnp.ones(20, bool), values
    )
    slope = jax.grad(lambda z: jnp.sum(BALANCED_LOSSES["soft"](z, inputs, jnp.int32(0))))(
        jnp.asarray(z.T, jnp.float32)
    )
    own = np.eye(3)[best_assignment(z, rounded_counts(teacher.mean(axis=0), 20))]
    expected = softmax(z, axis=1) - 0.3 * teacher - 0.7 * own
    np.testing.assert_allclose(np.asarray(slope).T, expected, atol=1e-6)


def test_relative_difficulty():
    found = relative_difficulty(jnp.array([0.0, 1.0, 3.0, 0.0]), jnp.array([0.0, 1.0, 1.0, 2.0]))
    np.testing.assert_allclose(found, [0.5, 0.5, 0.75, 0.0])


def test_early_stopping_scores_by_the_pseudolabels():
    for name in ("confidence", "confidence_adaptive"):
        options = {"pseudolabels": "hard", "optimizer": "sgd"}
        step = METHODS[name].rounds(options)[-1].step
        vanilla = METHODS["vanilla_trained"].rounds(options)[0].step
        assert step.held_out_loss is vanilla.loss
