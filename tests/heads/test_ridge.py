"""Ridge heads against scikit-learn and the pseudoinverse."""

import numpy as np
import pytest

from tests.heads.reference import sklearn_ridge
from w2s_jax.errors import HeadError
from w2s_jax.heads import STATUS_NAMES, fit_ridge, prepare


def data(n, d, k=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.5 + rng.normal(size=d)
    return x, x @ rng.normal(size=(d, k)) + rng.normal(size=(n, k)), rng.random(n) + 0.1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(80, 10), (20, 50)], ids=["n>d", "n<d"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_coefficients_equal_scikit_learns(shape, fit_intercept, weighted):
    x, t, weights = data(*shape)
    weights = weights if weighted else None
    l2 = np.array([1e-6, 1e-2, 1.0, 100.0])
    heads = fit_ridge(x, t, weights=weights, l2=l2, fit_intercept=fit_intercept)
    for i, penalty in enumerate(l2):
        w, b = sklearn_ridge(x, t, penalty, weights, fit_intercept)
        np.testing.assert_allclose(heads.w[i], w, atol=1e-6)
        np.testing.assert_allclose(heads.b[i], b, atol=1e-6)
    assert np.asarray(heads.gradient_norm).max() < 1e-9


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("shape", [(80, 10), (20, 50), (30, 30)], ids=["n>d", "n<d", "n=d"])
def test_ridgeless_is_the_minimum_norm_solution(shape):
    x, t, _ = data(*shape)
    heads = fit_ridge(x, t, l2=0.0)
    centred, mean = x - x.mean(axis=0), t.mean(axis=0)
    w = np.linalg.pinv(centred) @ (t - mean)
    np.testing.assert_allclose(heads.w[0], w, atol=1e-8 * np.abs(w).max())
    np.testing.assert_allclose(heads.b[0], mean - x.mean(axis=0) @ w, atol=1e-7)
    full_rank = shape[0] > shape[1]
    assert STATUS_NAMES[int(heads.status[0])] == ("converged" if full_rank else "minimum_norm")


@pytest.mark.parametrize("n", [190, 199, 200, 201, 202, 210])
def test_float32_features_near_interpolation(n):
    # n rows, d = 200: near n = d + 1 the condition number is at its worst.
    x, t, _ = data(n + 500, 200, 1)
    x, t = x.astype(np.float32), t.astype(np.float32)
    heads = fit_ridge(x[:n], t[:n], l2=0.0)
    train = x[:n].astype(np.float64)
    w = np.linalg.pinv(train - train.mean(axis=0)) @ (t[:n] - t[:n].astype(np.float64).mean(axis=0))
    expected = (x[n:] - train.mean(axis=0)) @ w + t[:n].astype(np.float64).mean(axis=0)
    found = x[n:].astype(np.float64) @ np.asarray(heads.w[0], np.float64) + np.asarray(heads.b[0])
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert error < 1e-5 if abs(n - 201) > 2 else error < 1e-3


@pytest.mark.usefixtures("float64")
def test_heads_of_one_call_equal_single_fits():
    x, t, _ = data(60, 8)
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(60)[:40] for _ in range(3)])[[0, 1, 0, 2]]
    targets = rng.normal(size=(4, 40, 2))
    weights = rng.random((4, 40))
    l2 = np.array([0.0, 0.1, 1.0, 0.01])
    together = fit_ridge(prepare(x, dtype=np.float64), targets, rows=rows, weights=weights, l2=l2)
    for i in range(4):
        alone = fit_ridge(x[rows[i]], targets[i], weights=weights[i], l2=l2[i])
        np.testing.assert_allclose(together.w[i], alone.w[0], atol=1e-9)
        np.testing.assert_allclose(together.b[i], alone.b[0], atol=1e-9)
        assert float(together.objective[i]) == pytest.approx(float(alone.objective[0]))


def test_all_weights_zero_is_a_stated_result():
    x, t, _ = data(20, 3)
    heads = fit_ridge(x.astype(np.float32), t, weights=np.zeros(20), l2=0.0)
    assert STATUS_NAMES[int(heads.status[0])] == "no_weight"
    assert not np.any(heads.w)


@pytest.mark.parametrize(
    ("targets", "arguments", "message"),
    [
        (np.full(20, np.nan), {}, "finite"),
        (np.ones((2, 2, 20, 1)), {}, "ridge targets"),
        (np.ones(19), {}, "19 samples"),
        (np.ones(20), {"l2": -1.0}, "l2 must be"),
        (np.ones(20), {"l2": [1.0, 2.0], "weights": np.ones((3, 20))}, "heads"),
    ],
)
def test_bad_input_is_explained(targets, arguments, message):
    with pytest.raises(HeadError, match=message):
        fit_ridge(data(20, 3)[0], targets, **arguments)
