"""Ridge heads against scikit-learn and the pseudoinverse."""

import numpy as np
import pytest

from tests.heads.reference import sklearn_ridge
from w2s_jax.errors import HeadError
from w2s_jax.heads import STATUS_NAMES, fit_ridge, prepare, ridge
from w2s_jax.heads.ridge_solvers import cheapest_form


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


def spectral_data(decay, offset, d=64, n=400):
    """Float32 features whose j-th eigenvalue is about j^-decay, in random axes, and two targets."""
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = (rng.normal(size=(n, d)) * np.arange(1, d + 1) ** (-decay / 2)) @ axes
    t = x @ axes.T @ rng.normal(size=(d, 2)) + 0.3 * rng.normal(size=(n, 2))
    return (x + offset * rng.normal(size=d)).astype(np.float32), t.astype(np.float32)


def svd_ridge(x, t, l2):
    """Weights, intercept and objective from numpy's SVD in float64."""
    x, t = x.astype(np.float64), t.astype(np.float64)
    a, y = x - x.mean(axis=0), t - t.mean(axis=0)
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    kept = s > np.finfo(float).eps * max(x.shape) * s[0]
    safe = np.where(kept, s, 1)
    w = vt.T @ (np.where(kept, safe / (safe**2 + l2 * len(x)), 0)[:, None] * (u.T @ y))
    objective = np.sum((y - a @ w) ** 2) / (2 * len(x)) + l2 / 2 * np.sum(w**2)
    return w, t.mean(axis=0) - x.mean(axis=0) @ w, objective


def relative_error(x, w, b, expected):
    """Of predictions, relative to the root mean square of the expected ones."""
    x = x.astype(np.float64)
    target = x @ expected[0] + expected[1]
    found = x @ np.asarray(w, np.float64) + np.asarray(b, np.float64)
    return np.sqrt(np.mean((found - target) ** 2) / np.mean(target**2))


L2 = np.array([0, 1e-12, 1e-9, 1e-6, 1e-3, 1, 1e4])


@pytest.mark.parametrize("n", [32, 62, 63, 64, 65, 66, 128])
@pytest.mark.parametrize("decay", [0, 3], ids=["flat", "nasty"])
def test_float32_predictions_equal_a_float64_svd(n, decay):
    # d = 64: interpolation ends at n = 65, where the condition number is at its worst.
    x, t = spectral_data(decay, 1.0)
    together = fit_ridge(x[:n], t[:n], l2=L2)
    for i, l2 in enumerate(L2):
        expected = svd_ridge(x[:n], t[:n], l2)
        assert relative_error(x[200:], together.w[i], together.b[i], expected) < 1e-5
        if l2 in (0, 1e-6, 1):  # Alone, heads are solved in another way.
            alone = fit_ridge(x[:n], t[:n], l2=l2)
            assert relative_error(x[200:], alone.w[0], alone.b[0], expected) < 1e-5


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("n", [64, 65])
def test_condition_numbers_of_a_hundred_million(n):
    # Float32 weights could not hold these heads: rounding them alone costs 1e-3.
    x, t = spectral_data(6, 0.0)
    x = x.astype(np.float64)
    heads = fit_ridge(x[:n], t[:n], l2=L2)
    for i, l2 in enumerate(L2):
        expected = svd_ridge(x[:n], t[:n], l2)
        assert relative_error(x[200:], heads.w[i], heads.b[i], expected) < 1e-5


@pytest.mark.parametrize("n", [200, 700], ids=["dual", "primal"])
def test_factors_in_float32_answer_like_float64(n):
    x, t = spectral_data(1, 1.0, d=300, n=900)
    assert cheapest_form(n, 300, 4, 2, intercept=True, single=True).single
    l2 = np.array([1e-9, 1e-4, 1e-2, 1])  # The first is out of reach for float32 and falls back.
    heads = fit_ridge(x[:n], t[:n], l2=l2)
    for i in range(4):
        expected = svd_ridge(x[:n], t[:n], l2[i])
        assert relative_error(x[700:], heads.w[i], heads.b[i], expected) < 2e-6
        assert float(heads.objective[i]) == pytest.approx(expected[2].sum(), rel=1e-5)
    assert np.asarray(heads.gradient_norm).max() < 1e-8


@pytest.mark.parametrize("n", [200, 700], ids=["dual", "primal"])
@pytest.mark.parametrize("units", [(1e-18, 1e-18), (1e12, 1e-18), (1e18, 1)], ids=str)
def test_factors_in_float32_answer_alike_in_any_units(n, units):
    # Squares of such features, and their products with such targets, leave the range of float32.
    x, t = spectral_data(1, 1.0, d=300, n=900)
    x, t = np.float32(units[0]) * x, np.float32(units[1]) * t
    l2 = np.array([1e-4, 1e-3, 1e-2, 1]) * units[0] ** 2
    heads = fit_ridge(x[:n], t[:n], l2=l2)
    for i in range(4):
        w, b, _ = svd_ridge(x[:n], t[:n], l2[i])
        found = np.asarray(heads.w[i], np.float64)
        assert np.linalg.norm(found - w) < 1e-6 * np.linalg.norm(w)
        assert relative_error(x[700:], heads.w[i], heads.b[i], (w, b)) < 2e-6


@pytest.mark.parametrize("n", [60, 65, 70])
def test_prepared_features_cost_their_rounding(n):
    x, t = spectral_data(1, 1.0)
    heads = fit_ridge(prepare(x), t[:n], rows=np.arange(n), l2=0.0)
    expected = svd_ridge(x[:n], t[:n], 0.0)
    assert relative_error(x[200:], heads.w[0], heads.b[0], expected) < 1e-4


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_l2", [2, 60], ids=["cholesky", "eigenvectors"])
@pytest.mark.parametrize("n", [40, 150], ids=["dual", "primal"])
def test_objective_and_gradient_are_those_of_the_returned_head(n, num_l2):
    x, t = spectral_data(1, 1.0)
    x, weights = x.astype(np.float64), np.random.default_rng(0).random(n)
    heads = fit_ridge(x[:n], t[:n], weights=weights, l2=np.geomspace(1e-5, 1, num_l2))
    share, scale = weights / weights.sum(), np.abs(t).max()
    for i, l2 in enumerate(np.geomspace(1e-5, 1, num_l2)):
        w = np.asarray(heads.w[i])
        error = t[:n] - x[:n] @ w - np.asarray(heads.b[i])
        objective = share @ np.sum(error**2, axis=1) / 2 + l2 / 2 * np.sum(w**2)
        gradient = l2 * w - x[:n].T @ (share[:, None] * error)
        assert float(heads.objective[i]) == pytest.approx(objective, rel=1e-9)
        assert np.linalg.norm(gradient) < 1e-11 * scale
        assert 0 < float(heads.gradient_norm[i]) < 1e-11 * scale
    assert not np.any(heads.gap)


def awkward():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 5)).astype(np.float32)
    constant = x.copy()
    constant[:, 1] = 1e6
    constant[:, 3] = 0
    twins = x.copy()
    twins[:, 4] = x[:, 0]
    return {
        "one row": x[:1],
        "equal rows": np.repeat(x[:1], 12, axis=0),
        "duplicated rows": np.repeat(x[:3], 4, axis=0),
        "constant columns": constant,
        "duplicated columns": twins,
        "huge": x * np.float32(1e15),
        "tiny": x * np.float32(1e-15),
        "mixed scales": x * np.array([1e6, 1, 1e-3, 1e3, 1], np.float32),
    }


@pytest.mark.parametrize("name", awkward())
@pytest.mark.parametrize("together", [True, False])
def test_awkward_features(name, together):
    x = awkward()[name]
    t = np.random.default_rng(1).normal(size=(len(x), 1))
    grid = L2 if together else L2[:2]
    heads = fit_ridge(x, t, l2=grid)
    assert all(np.isfinite(leaf).all() for leaf in heads)
    for i, l2 in enumerate(grid):
        w, b, objective = svd_ridge(x, t, l2)
        assert float(heads.objective[i]) == pytest.approx(objective, rel=1e-5, abs=1e-12)
        assert relative_error(x, heads.w[i], heads.b[i], (w, b)) < 1e-5
    deficient = name not in ("huge", "tiny", "mixed scales")
    assert STATUS_NAMES[int(heads.status[0])] == ("minimum_norm" if deficient else "converged")
    assert set(np.asarray(heads.status[1:])) == {0}


def test_a_head_does_not_depend_on_its_company():
    x, t = spectral_data(1, 1.0)
    rng = np.random.default_rng(0)
    own_rows = np.stack([rng.permutation(400)[:150] for _ in range(5)])
    rows = own_rows[np.arange(60) % 5]
    l2 = np.repeat([1e-4, 1e-2, 1e-1, 1.0], [20, 20, 19, 1])  # Tables of unequal size.
    targets = rng.normal(size=(60, 150, 2)).astype(np.float32)
    weights = rng.integers(0, 2, size=(5, 150))[np.arange(60) % 5] * np.linspace(0.5, 1, 150)
    heads = fit_ridge(x, targets, rows=rows, weights=weights, l2=l2)
    for i in (0, 3, 25, 58, 59):
        alone = fit_ridge(x, targets[i], rows=rows[i], weights=weights[i], l2=l2[i])
        expected = (np.asarray(alone.w[0], np.float64), np.asarray(alone.b[0], np.float64))
        assert relative_error(x, heads.w[i], heads.b[i], expected) < 1e-6
        assert float(heads.objective[i]) == pytest.approx(float(alone.objective[0]), rel=1e-6)
    again = fit_ridge(x, targets, rows=rows, weights=weights, l2=l2)
    assert np.array_equal(heads.w, again.w)


def test_a_small_budget_of_memory_changes_no_head(monkeypatch):
    x, t = spectral_data(1, 1.0)
    targets = np.random.default_rng(0).normal(size=(30, 100, 2))
    l2 = np.repeat([0.1, 1.0, 0.01], 10)
    expected = fit_ridge(x[:100], targets, l2=l2)
    monkeypatch.setattr(ridge, "BATCH_BYTES", 8 * 2 * (2 * 100 + 4 * 64) * 4)  # Four heads.
    heads = fit_ridge(x[:100], targets, l2=l2)
    np.testing.assert_allclose(heads.w, expected.w, rtol=1e-5, atol=1e-6)


def test_other_sizes_within_a_bucket_compile_nothing(count_compilations):
    x, t = spectral_data(1, 1.0)
    rng = np.random.default_rng(0)

    def fit(num_sets, n, l2):
        rows = np.stack([rng.permutation(400)[:n] for _ in range(num_sets)])
        rows = np.repeat(rows, len(l2), axis=0)
        return fit_ridge(x, t[rows, :1], rows=rows, l2=np.tile(l2, num_sets))

    fit(3, 100, [0.1, 0.2, 0.3])
    count_compilations.clear()
    fit(5, 108, [1.0, 2.0, 4.0])
    assert not count_compilations


def test_six_targets_and_a_thousand_penalties_share_one_factorisation():
    x, t = spectral_data(1, 1.0)
    targets = np.concatenate([t, t**2, t**3], axis=1)
    l2 = np.geomspace(1e-4, 1e2, 1000)
    heads = fit_ridge(x, targets, l2=l2)
    assert heads.w.shape == (1000, 64, 6)
    for i in (0, 500, 999):
        expected = svd_ridge(x, targets, l2[i])
        assert relative_error(x, heads.w[i], heads.b[i], expected) < 1e-6


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
        (["a"] * 20, {}, "ridge targets must be numbers"),
        (np.ones(20), {"l2": -1.0}, "l2 must be"),
        (np.ones(20), {"l2": [1.0, 2.0], "weights": np.ones((3, 20))}, "heads"),
    ],
)
def test_bad_input_is_explained(targets, arguments, message):
    with pytest.raises(HeadError, match=message):
        fit_ridge(data(20, 3)[0], targets, **arguments)
