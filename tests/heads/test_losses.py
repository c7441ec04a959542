"""Generalized cross entropy is the stated loss; fast forms equal general ones; own losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.heads.reference import objective, one_hot, problem, scipy_minimum
from w2s_jax.errors import HeadError
from w2s_jax.heads import STATUS_NAMES, Loss, cross_entropy, fit_logistic, gce
from w2s_jax.heads.losses import binary_cross_entropy, loss_and_residual

TIGHT = {"rtol": 1e-15, "atol": 1e-18}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("q", [0.05, 0.5, 1.0])
def test_the_gradient_is_that_of_the_stated_loss(q):
    logits = jnp.array([0.3, -1.2, 0.8])
    target = jnp.array([0.0, 1.0, 0.0])
    loss = gce(q)
    gradient = jax.grad(lambda z: loss.function(z, target, q))(logits)
    p = jax.nn.softmax(logits)
    assert float(loss.function(logits, target, q)) == pytest.approx((1 - p[1] ** q) / q)
    # p^q times the gradient of cross entropy; public code under this name has q p^q times it.
    np.testing.assert_allclose(gradient, p[1] ** q * (p - target), rtol=1e-12)
    step = 1e-6
    for j in range(3):
        up, down = (loss.function(logits.at[j].add(s), target, q) for s in (step, -step))
        assert float(gradient[j]) == pytest.approx(float(up - down) / (2 * step), abs=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("q", [0.2, 0.7, 1.0])
def test_gce_descends_to_scipys_minimum_from_the_same_start(num_classes, q):
    x, y = problem(200, 6, num_classes, noise=0.7)
    targets = one_hot(y, num_classes)
    ce = fit_logistic(x, y, l2=0.02, **TIGHT)
    for start in (None, ce):
        heads = fit_logistic(x, y, l2=0.02, loss=gce(q), init=start, **TIGHT)
        given = None if start is None else (np.asarray(start.w[0]), np.asarray(start.b[0]))
        w, _, value = scipy_minimum(x, targets, 0.02, given, q=q)
        assert float(heads.objective[0]) == pytest.approx(value, rel=1e-8)
        np.testing.assert_allclose(heads.w[0], w, atol=1e-5)
        reached, by_w, by_b = objective(heads.w[0], heads.b[0], x, targets, 0.02, q=q)
        assert max(np.abs(by_w).max(), np.abs(by_b).max()) < 1e-7
        assert reached == pytest.approx(float(heads.objective[0]), rel=1e-12)
        assert float(heads.objective[0]) <= float(heads.initial_objective[0])


@pytest.mark.usefixtures("float64")
def test_gce_tends_to_cross_entropy():
    x, y = problem(100, 5)
    ce = fit_logistic(x, y, l2=0.05, **TIGHT)
    heads = fit_logistic(x, y, l2=0.05, loss=gce([1e-6, 1e-3]), **TIGHT)
    distance = np.abs(np.asarray(heads.w) - np.asarray(ce.w)).max(axis=(1, 2))
    assert distance[0] < 1e-5
    assert distance[0] < distance[1] < 1e-2


@pytest.mark.usefixtures("float64")
def test_one_exponent_a_head():
    x, y = problem(100, 5)
    together = fit_logistic(x, y, l2=0.05, loss=gce([0.1, 0.5, 0.9]), **TIGHT)
    for i, q in enumerate((0.1, 0.5, 0.9)):
        alone = fit_logistic(x, y, l2=0.05, loss=gce(q), **TIGHT)
        np.testing.assert_allclose(together.w[i], alone.w[0], atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loss", [cross_entropy(), gce(0.4)], ids=["ce", "gce"])
@pytest.mark.parametrize("kind", ["two classes", "hard", "soft", "signed"])
def test_the_form_written_by_hand_equals_the_general_one(loss, kind):
    rng = np.random.default_rng(0)
    if kind == "two classes":
        z = jnp.array([[[-40.0, -3.0, -0.1, 0.0, 0.2, 5.0, 60.0]]])
        targets = [jnp.full((1, 7), t) for t in (0.0, 1.0, 0.3, -0.25, 1.25)]
    else:
        z = jnp.array(rng.normal(size=(2, 4, 50)) * np.geomspace(0.1, 30, 50))
        z = z.at[:, :, 0].set(0.0).at[:, :2, 1].set(9.0)  # ties at the top
        soft = rng.dirichlet(np.ones(4), size=(2, 50))
        soft = 2 * soft - 0.25 if kind == "signed" else soft
        hard = rng.integers(0, 4, size=(1, 50), dtype=np.int32)
        targets = [jnp.array(hard if kind == "hard" else np.swapaxes(soft, 1, 2))]
    params = tuple(jnp.broadcast_to(p, (len(z),)) for p in loss.params)
    by_hand, general = (Loss(loss.function, f, params) for f in (loss.fused, None))
    for t in targets:
        (value, slope), expected = (loss_and_residual(form, z, t) for form in (by_hand, general))
        np.testing.assert_allclose(value, expected[0], rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(slope, expected[1], rtol=1e-9, atol=1e-14)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("t", [0, 1, 0.3])
def test_binary_cross_entropy_has_its_derivatives_at_zero_too(t):
    def general(z):
        return cross_entropy().function(jnp.stack([0 * z, z]), jnp.stack([1.0 - t, t]))

    t = jnp.asarray(t)
    for z in jnp.array([0.0, -1.3, 2.1]):
        p = jax.nn.sigmoid(z)
        expected = [p - t, p * (1 - p), p * (1 - p) * (1 - 2 * p)]
        by_z = binary_cross_entropy
        for value in expected:
            by_z = jax.grad(by_z)
            assert float(by_z(z, t)) == pytest.approx(float(value), abs=1e-12)
        assert float(jax.grad(jax.grad(general))(z)) == pytest.approx(float(expected[1]))
    by_t = jax.grad(binary_cross_entropy, argnums=1)
    assert float(by_t(jnp.array(0.7), jnp.array(0.3))) == pytest.approx(-0.7)


@pytest.mark.parametrize("num_logits", [1, 3])
def test_certain_rows_keep_loss_and_derivative_in_float32(num_logits):
    """A row that is right by 20 has a loss and a derivative of exp(-20), not of 0."""
    z = jnp.zeros((1, num_logits, 1)).at[0, 0, 0].set(20.0)
    target = jnp.ones((1, 1)) if num_logits == 1 else jnp.zeros((1, 1), jnp.int32)
    others = max(1, num_logits - 1)
    for loss in (cross_entropy(), Loss(gce(0.5).function, gce(0.5).fused, (jnp.ones(1) / 2,))):
        value, slope = loss_and_residual(loss, z, target)
        assert float(value[0, 0]) == pytest.approx(others * np.exp(-20), rel=1e-5)
        assert float(slope[0, 0, 0]) == pytest.approx(-others * np.exp(-20), rel=1e-5)


def plain_cross_entropy(logits, target):
    return -jnp.sum(target * jax.nn.log_softmax(logits))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_loss_of_ones_own(num_classes):
    x, y = problem(100, 5, num_classes)
    own = fit_logistic(x, y, l2=0.05, loss=Loss(plain_cross_entropy, convex=True), **TIGHT)
    np.testing.assert_allclose(own.w, fit_logistic(x, y, l2=0.05, **TIGHT).w, atol=1e-7)


def not_a_number(logits, target, after):
    """Cross entropy that is NaN as soon as the logits leave a ball."""
    value = plain_cross_entropy(logits, target)
    return jnp.where(jnp.sum(logits**2) > after, jnp.nan, value)


@pytest.mark.parametrize("after", [-1.0, 0.1], ids=["start", "later"])
def test_a_head_whose_loss_is_nan_says_so_and_touches_no_other(after):
    x, y = problem(100, 5, 3)
    x = x.astype(np.float32)
    bounds = np.array([np.inf, after, np.inf])
    heads = fit_logistic(x, y, l2=0.05, loss=Loss(not_a_number, params=(bounds,)))
    sound = fit_logistic(x, y, l2=0.05, loss=Loss(not_a_number, params=(np.full(3, np.inf),)))
    names = [STATUS_NAMES[code] for code in np.asarray(heads.status).tolist()]
    assert names == ["converged", "stalled", "converged"]
    assert np.isfinite(heads.w).all()
    assert float(heads.gap[1]) > 1e-3  # What it reports is no minimum.
    for got, expected in zip(heads, sound, strict=True):
        assert np.array_equal(np.asarray(got)[[0, 2]], np.asarray(expected)[[0, 2]])


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, np.nan, [0.5, 2.0]])
def test_impossible_exponents(q):
    with pytest.raises(HeadError, match=r"\(0, 1\]"):
        gce(q)


def test_an_exponent_is_a_number():
    with pytest.raises(HeadError, match="gce_q must be numbers, found 'a'"):
        gce("a")
