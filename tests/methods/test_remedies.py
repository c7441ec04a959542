"""Every remedy against a slow implementation on scipy, from the methods' definitions alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tests.toy import toy_set
from w2s_jax.features import FeaturePair, FeatureSet
from w2s_jax.methods import RoundInputs
from w2s_jax.methods.selected import teacher_uncertainty
from w2s_jax.splits import Draw
from w2s_jax.sweep import Grid, resolve_pairs, run
from w2s_jax.sweep.chunks import draw_request
from w2s_jax.sweep.planning import plan_grid

COMMON = {
    "eta_l": 0.2,
    "eta_u": 0.4,
    "n_labelled": 60,
    "n_unlabelled": 120,
    "teacher_l2": 0.05,
    "student_l2": 0.2,
    "keep_fraction": 0.4,
    "gce_q": 0.6,
    "seeds": 0,
}


def scaled(x, pool):
    x = x.astype(np.float64) - x[pool].mean(axis=0, dtype=np.float64)
    return x / np.sqrt(np.mean(x[pool] ** 2))


class Head(NamedTuple):
    w: np.ndarray
    b: np.ndarray
    objective: float

    def __call__(self, rows):
        return rows @ self.w + self.b


def fit(x, targets, l2, weights=None, q=None):
    """Minimises the stated objective of a two-class head (one logit) or of a softmax head."""
    num_classes = targets.shape[1]
    k = 1 if num_classes == 2 else num_classes
    weights = np.ones(len(x)) if weights is None else weights
    share = weights / weights.sum()

    def logits(theta):
        z = x @ theta[:-k].reshape(-1, k) + theta[-k:]
        return np.concatenate([np.zeros_like(z), z], axis=1) if k == 1 else z

    def objective(theta):
        log_p = log_softmax(logits(theta), axis=1)
        if q is None:
            loss = -np.sum(targets * log_p, axis=1)
            slope = targets.sum(axis=1, keepdims=True) * np.exp(log_p) - targets
        else:
            loss = np.sum(targets * (1 - np.exp(q * log_p)) / q, axis=1)
            pulls = targets * np.exp(q * log_p)
            slope = pulls.sum(axis=1, keepdims=True) * np.exp(log_p) - pulls
        slope = (share[:, None] * slope)[:, -k:]
        gradient = (x.T @ slope + l2 * theta[:-k].reshape(-1, k)).ravel()
        value = share @ loss + l2 / 2 * theta[:-k] @ theta[:-k]
        return value, np.append(gradient, slope.sum(axis=0))

    start = np.zeros((x.shape[1] + 1) * k)
    options = {"gtol": 1e-10, "ftol": 1e-15, "maxiter": 5000}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return Head(found.x[:-k].reshape(-1, k), found.x[-k:], found.fun)


def probabilities(z):
    return softmax(np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z, axis=1)


def scores(name, teacher, student, labels):
    rows = np.arange(len(labels))
    ordered = np.sort(student, axis=1)
    middle = (teacher + student) / 2

    def divergence(p):
        return np.sum(p * np.log(p / middle), axis=1)

    return {
        "enhanced_margin": -np.log(ordered[:, -1] / ordered[:, -2]),
        "enhanced_teacher": -teacher.max(axis=1),
        "enhanced_loss": -np.log(student[rows, labels]),
        "enhanced_agreement": divergence(teacher) + divergence(student),
        "enhanced_random": rows,
    }[name]


def remedy(name, x, teacher, l2):
    """The last head of a method and the rows of positive weight."""
    eye = np.eye(teacher.shape[1])
    labels = teacher.argmax(axis=1)
    head = fit(x, eye[labels], l2)
    student = probabilities(head(x))
    if name.startswith("enhanced"):
        kept = np.argsort(scores(name, teacher, student, labels), kind="stable")[:48]
        return fit(x[kept], eye[labels[kept]], l2, q=0.6), kept
    if name == "product":
        product = teacher * student
        return fit(x, product / product.sum(axis=1, keepdims=True), l2), np.arange(len(x))
    for _ in range(3):
        entropy = -np.sum(student * np.log(student), axis=1)
        weights = 1 - entropy / np.log(student.shape[1])
        head = fit(x, eye[student.argmax(axis=1)], l2, weights=weights)
        student = probabilities(head(x))
    return head, np.arange(len(x))


class Chain(NamedTuple):
    """The result rows of some methods, and what slow ones start from."""

    rows: pd.DataFrame
    data: FeaturePair
    draw: Draw
    strong: np.ndarray
    teacher: np.ndarray
    everywhere: np.ndarray


def run_chain(num_classes, methods, **axes):
    """Runs methods, and fits the teacher slowly."""
    sets = tuple(
        toy_set(name, num_classes=num_classes, rows_per_cell=100, signal=signal, seed=seed)
        for name, signal, seed in (("weak", 0.5, 1), ("strong", 1.2, 2))
    )
    pairs = resolve_pairs([sets])
    grid = Grid(pairs=(sets,), methods=methods, **COMMON, **axes)
    # A round's targets may come from the head before, so that its error adds to this one's.
    with jax.enable_x64(True):
        rows = run(grid, pairs=pairs, dtype=np.float64).set_index("method")
    (pair,) = pairs.values()
    config = plan_grid(grid, pairs).groups[0].chunks[0].configs[0]
    draw = pair.pool("equal").draw(0, draw_request(config))
    data = pair.data
    assert isinstance(data.teacher, FeatureSet)
    weak = scaled(data.teacher.features[data.teacher_index], data.pool_rows)
    strong = scaled(data.student.features[data.student_index], data.pool_rows)
    eye = np.eye(num_classes)
    teacher = fit(weak[draw.labelled], eye[data.labels[draw.labelled]], 0.05)
    everywhere = probabilities(teacher(weak))
    return Chain(rows, data, draw, strong, everywhere[draw.unlabelled], everywhere)


@pytest.fixture(scope="module", params=[2, 3], ids=["2 classes", "3 classes"])
def chains(request):
    return run_chain(request.param, NAMES)


NAMES = (
    "enhanced_margin",
    "enhanced_teacher",
    "enhanced_loss",
    "enhanced_agreement",
    "enhanced_random",
    "product",
    "self_training",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_remedy_agrees_with_its_slow_form(chains, name):
    rows, data, draw, strong, teacher, _ = chains
    row = rows.loc[name]
    head, kept = remedy(name, strong[draw.unlabelled], teacher, 0.2)
    tolerance = 1e-4 if name == "self_training" else 1e-5  # four fits, one upon the other
    assert row["student_objective"] == pytest.approx(head.objective, rel=tolerance)
    chosen = probabilities(head(strong[data.test_rows])).argmax(axis=1)
    accuracy = np.mean(chosen == data.labels[data.test_rows])
    assert abs(row["student_accuracy"] - accuracy) * len(data.test_rows) < 1 + 1e-9
    assert row["kept_count"] == len(kept)
    right = teacher.argmax(axis=1) == data.labels[draw.unlabelled]
    assert row["kept_pseudolabel_accuracy"] == pytest.approx(right[kept].mean(), abs=1e-9)
    minority = data.minority[draw.unlabelled][kept].mean()
    assert row["kept_minority_fraction"] == pytest.approx(minority, abs=1e-9)


def test_remedies_differ_from_vanilla_and_from_each_other(chains):
    rows = chains[0]
    objectives = rows.loc[["vanilla", *NAMES], "student_objective"].round(6)
    # At two classes the margin keeps what the entropy keeps; no two of these are alike.
    assert objectives.is_unique


def test_the_teachers_confidence_orders_rows_that_round_to_certain():
    p = jnp.array([[1, 1e-9, 0], [1e-12, 1, 1e-12], [0.2, 0.1, 0.7]], jnp.float32)
    inputs = RoundInputs(p, jnp.zeros((3, 3)), jnp.ones(3, bool), {})
    np.testing.assert_allclose(teacher_uncertainty(inputs), [1e-9, 2e-12, 0.3], rtol=1e-6)
