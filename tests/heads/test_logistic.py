"""Cross-entropy heads against scikit-learn and scipy, and identities between fits."""

import jax
import numpy as np
import pytest

from tests.heads.reference import objective, one_hot, problem, scipy_minimum, sklearn_logistic
from w2s_jax.errors import HeadError
from w2s_jax.heads import STATUS_NAMES, fit_logistic, gce, predict_proba, prepare

TIGHT = {"rtol": 1e-15, "atol": 1e-18}


def statuses(heads):
    return [STATUS_NAMES[code] for code in np.asarray(heads.status).tolist()]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize(
    ("fit_intercept", "weighted"), [(True, True), (True, False), (False, True)]
)
@pytest.mark.parametrize("shape", [(300, 10), (40, 90)], ids=["n>d", "n<d"])
def test_coefficients_equal_scikit_learns(num_classes, fit_intercept, weighted, shape):
    x, y = problem(*shape, num_classes)
    weights = np.random.default_rng(1).integers(0, 4, len(y)) / 3.0 if weighted else None
    if weighted:
        weights[:num_classes] = 1.0
    l2 = np.array([1e-4, 1e-2, 1.0])
    heads = fit_logistic(x, y, weights=weights, l2=l2, fit_intercept=fit_intercept, **TIGHT)
    for i, penalty in enumerate(l2):
        w, b = sklearn_logistic(x, y, penalty, weights, fit_intercept)
        np.testing.assert_allclose(heads.w[i], w, atol=1e-6 * max(1, np.abs(w).max()))
        if num_classes > 2:  # softmax intercepts are determined up to a constant
            b = b - b.mean()
        own = np.asarray(heads.b[i])
        own = own - own.mean() if num_classes > 2 else own
        np.testing.assert_allclose(own, b, atol=1e-6 * max(1, np.abs(b).max()))
        p = np.asarray(predict_proba(heads, x))[i]
        _, by_w, by_b = objective(
            heads.w[i], heads.b[i], x, one_hot(y, num_classes), penalty, weights
        )
        assert np.abs(by_w).max() < 1e-7
        assert not fit_intercept or np.abs(by_b).max() < 1e-7
        assert fit_intercept or not np.any(heads.b[i])
        np.testing.assert_allclose(p.sum(axis=1), 1)


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("noise", [0.1, 1.0, 5.0])
def test_float32_reaches_the_minimum_to_1e_5(num_classes, noise):
    x, y = problem(400, 30, num_classes, noise, decay=1.0)
    l2 = np.logspace(-6, 2, 9)
    heads = fit_logistic(x.astype(np.float32), y, l2=l2)
    assert heads.w.dtype == np.float32
    targets = one_hot(y, num_classes)
    for i, penalty in enumerate(l2):
        value = objective(heads.w[i], heads.b[i], x.astype(np.float32), targets, penalty)[0]
        w, b = sklearn_logistic(x.astype(np.float32).astype(np.float64), y, penalty)
        best = objective(w, b, x.astype(np.float32), targets, penalty)[0]
        assert (value - best) / best < 1e-5
        # What the head reports of itself is true.
        assert float(heads.objective[i]) == pytest.approx(value, rel=2e-5)
        assert value - best < 10 * float(heads.gap[i]) + 5e-6 * best


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_classes", [2, 4])
def test_soft_targets(num_classes):
    x, y = problem(150, 8, num_classes)
    targets = np.random.default_rng(0).dirichlet(np.ones(num_classes), size=len(y))
    heads = fit_logistic(x, targets, l2=0.02, **TIGHT)
    w, _, value = scipy_minimum(x, targets, 0.02)
    np.testing.assert_allclose(heads.w[0], w, atol=1e-6)
    assert float(heads.objective[0]) == pytest.approx(value, rel=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("num_classes", [2, 3])
def test_signed_targets(num_classes):
    # Backward correction of 20 % symmetric noise: entries are negative, sums are one.
    x, y = problem(300, 6, num_classes)
    noise = np.full((num_classes, num_classes), 0.2 / (num_classes - 1))
    np.fill_diagonal(noise, 0.8)
    targets = np.linalg.inv(noise)[y]
    assert targets.min() < 0
    heads = fit_logistic(x, targets, l2=0.1, **TIGHT)
    w, _, value = scipy_minimum(x, targets, 0.1)
    np.testing.assert_allclose(heads.w[0], w, atol=1e-6)
    assert float(heads.objective[0]) == pytest.approx(value, rel=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_class_without_weight_leaves_the_softmax():
    x, y = problem(200, 6, 4)
    keep = y != 2
    renumbered = np.where(y > 2, y - 1, y)[keep]
    w, _ = sklearn_logistic(x[keep], renumbered, 0.05)
    for targets, weights, rows in (
        (y[keep], None, np.flatnonzero(keep)),
        (y, keep.astype(float), None),
    ):
        heads = fit_logistic(
            x, targets, weights=weights, rows=rows, l2=0.05, num_classes=4, **TIGHT
        )
        assert statuses(heads) == ["absent_class"]
        centred = w - w.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(np.asarray(heads.w[0])[:, [0, 1, 3]], centred, atol=2e-6)
        assert not np.any(np.asarray(heads.w[0])[:, 2])
        p = np.asarray(predict_proba(heads, x))[0]
        assert np.all(p[:, 2] == 0)
        np.testing.assert_allclose(p.sum(axis=1), 1)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("only", [0, 1])
def test_a_single_class_gives_a_constant_predictor(num_classes, only):
    x, _ = problem(50, 4)
    heads = fit_logistic(
        x.astype(np.float32), np.full(50, only), l2=[0.1, 1.0], num_classes=num_classes
    )
    assert statuses(heads) == ["constant"] * 2
    assert not np.any(heads.w)
    assert np.array_equal(predict_proba(heads, x)[0], one_hot(np.full(50, only), num_classes))


def test_all_weights_zero_is_a_stated_result():
    x, y = problem(50, 4)
    weights = np.stack([np.zeros(50), np.ones(50)])
    heads = fit_logistic(x.astype(np.float32), y, weights=weights, l2=0.1)
    assert statuses(heads) == ["no_weight", "converged"]
    assert not np.any(heads.w[0])
    assert np.isfinite(heads.w).all()
    np.testing.assert_allclose(predict_proba(heads, x)[0], 0.5)


@pytest.mark.usefixtures("float64")
def test_rows_weights_and_copies_say_the_same():
    x, y = problem(120, 7, 3)
    rows = np.random.default_rng(0).choice(120, 60, replace=False)
    mask = np.isin(np.arange(120), rows).astype(float)
    by_rows = fit_logistic(x, y[rows], rows=rows, l2=0.03, **TIGHT)
    by_weights = fit_logistic(x, y, weights=mask, l2=0.03, **TIGHT)
    by_copy = fit_logistic(x[rows], y[rows], l2=0.03, **TIGHT)
    np.testing.assert_allclose(by_rows.w, by_weights.w, atol=1e-7)
    np.testing.assert_allclose(by_rows.w, by_copy.w, atol=1e-7)
    doubled = fit_logistic(np.repeat(x, 2, axis=0), np.repeat(y, 2), l2=0.03, **TIGHT)
    twice = fit_logistic(x, y, weights=np.full(120, 2e6), l2=0.03, **TIGHT)
    np.testing.assert_allclose(doubled.w, twice.w, atol=1e-7)


@pytest.mark.usefixtures("float64")
def test_many_heads_at_once_equal_one_at_a_time():
    x, y = problem(90, 6, 2)
    rng = np.random.default_rng(0)
    h = 40
    rows = np.stack([rng.permutation(90)[:50] for _ in range(5)])[rng.integers(0, 5, h)]
    targets = rng.integers(0, 2, (h, 50))
    weights = rng.random((h, 50))
    l2 = 10 ** rng.uniform(-3, 1, h)
    together = fit_logistic(x, targets, rows=rows, weights=weights, l2=l2)
    for i in range(0, h, 7):
        alone = fit_logistic(x, targets[i], rows=rows[i], weights=weights[i], l2=l2[i])
        np.testing.assert_allclose(together.w[i], alone.w[0], atol=1e-9)
        assert int(together.iterations[i]) == int(alone.iterations[0])


def test_a_head_does_not_depend_on_its_company():
    """To the tolerance of the gap: neither where heads queue nor along a path of penalties."""
    x, y = problem(64, 5, 2)
    x = x.astype(np.float32)
    rng = np.random.default_rng(0)
    l2 = 10 ** rng.uniform(-3, 1, 2100)
    flipped = rng.random((3, 64)) < 0.1
    targets = np.where(flipped[rng.integers(0, 3, 2100)], 1 - y, y)
    together = fit_logistic(x, targets, l2=l2)
    part = np.arange(500, 560)
    few = fit_logistic(x, targets[part], l2=l2[part])
    assert set(statuses(together)) == {"converged"}
    # Members of a path start beside their minimum, and so take fewer passes.
    assert np.mean(np.asarray(together.iterations)[part]) < np.mean(few.iterations)
    difference = np.asarray(together.objective)[part] / np.asarray(few.objective) - 1
    assert np.abs(difference).max() < 2e-6
    p, q = predict_proba(together, x)[part], predict_proba(few, x)
    assert np.abs(p - q).max() < 3e-3


@pytest.mark.usefixtures("float64")
def test_paths_of_penalties_end_at_each_minimum():
    x, y = problem(60, 5, 3)
    targets = np.stack([y, (y + (np.arange(60) < 6)) % 3])[np.arange(600) % 2]
    l2 = np.geomspace(1e-5, 10, 300).repeat(2)
    together = fit_logistic(x, targets, l2=l2, **TIGHT)
    for i in (0, 1, 250, 451, 599):
        alone = fit_logistic(x, targets[i], l2=l2[i], **TIGHT)
        np.testing.assert_allclose(together.w[i], alone.w[0], atol=1e-6)
        assert float(together.objective[i]) == pytest.approx(float(alone.objective[0]), rel=1e-10)


@pytest.mark.usefixtures("float64")
def test_prepared_features_and_warm_starts_reach_the_same_minimum():
    x, y = problem(150, 9, 3)
    raw = fit_logistic(x, y, l2=[0.01, 0.1], **TIGHT)
    prepared = prepare(x, dtype=np.float64)
    np.testing.assert_allclose(
        fit_logistic(prepared, y, l2=[0.01, 0.1], **TIGHT).w, raw.w, atol=1e-9
    )
    warm = fit_logistic(x, y, l2=[0.012, 0.12], init=raw, **TIGHT)
    cold = fit_logistic(x, y, l2=[0.012, 0.12], **TIGHT)
    np.testing.assert_allclose(warm.w, cold.w, atol=1e-7)
    assert np.all(np.asarray(warm.initial_objective) < np.asarray(cold.initial_objective))
    assert np.asarray(cold.initial_objective) == pytest.approx(np.log(3))
    restarted = fit_logistic(x, y, l2=[0.01, 0.1], init=raw)
    assert np.asarray(restarted.iterations).tolist() == [1, 1]  # the evaluation of their start


def test_statistics_rows_leave_test_rows_out():
    x, y = problem(100, 6)
    x[80:] += 100.0  # never seen by mean and axes
    prepared = prepare(x.astype(np.float32), statistics_rows=np.arange(80))
    inside = fit_logistic(prepared, y[:80], rows=np.arange(80), l2=0.1)
    alone = fit_logistic(x[:80].astype(np.float32), y[:80], l2=0.1)
    np.testing.assert_allclose(inside.w, alone.w, atol=1e-4)


def test_the_same_call_is_bit_identical():
    x, y = problem(200, 20, 3)
    first, second = (fit_logistic(x.astype(np.float32), y, l2=np.logspace(-4, 0, 20)) for _ in "ab")
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


HARD = {
    "separable": lambda: (
        np.concatenate([-np.ones((20, 3)), np.ones((20, 3))]),
        np.repeat([0, 1], 20),
    ),
    "one row a class": lambda: (np.array([[1.0, 2.0], [2.0, -1.0]]), np.array([0, 1])),
    "duplicated rows": lambda: tuple(np.repeat(a, 30, axis=0) for a in problem(10, 4)),
    "constant feature": lambda: (
        np.concatenate([problem(60, 4)[0], np.full((60, 1), 7.0)], axis=1),
        problem(60, 4)[1],
    ),
    "huge scale": lambda: (1e6 * problem(60, 4)[0], problem(60, 4)[1]),
    "tiny scale": lambda: (1e-6 * problem(60, 4)[0], problem(60, 4)[1]),
    "n < d": lambda: problem(20, 60),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_problems_end_at_their_minimum_and_never_in_nan(name):
    x, y = HARD[name]()
    x = x.astype(np.float32)
    l2 = np.logspace(-8, 4, 13)
    heads = fit_logistic(x, y, l2=l2)
    assert np.isfinite(heads.w).all()
    assert np.isfinite(heads.objective).all()
    assert set(statuses(heads)) <= {"converged", "stalled"}
    targets = one_hot(y, 2)
    for i, penalty in enumerate(l2):
        value = objective(heads.w[i], heads.b[i], x, targets, penalty)[0]
        scale = np.sqrt(np.mean((x - x.mean(axis=0)) ** 2))
        w, b, _ = scipy_minimum(
            (x.astype(np.float64) - x.mean(axis=0)) / scale, targets, penalty / scale**2
        )
        best = objective(
            w / scale, b - x.mean(axis=0).astype(np.float64) @ w / scale, x, targets, penalty
        )[0]
        assert value - best <= 2e-5 * best + 1e-7, penalty


@pytest.mark.parametrize(
    "num_classes", [2, pytest.param(3, marks=[pytest.mark.slow, pytest.mark.exhaustive])]
)
@pytest.mark.parametrize("name", HARD)
def test_hard_problems_of_generalized_cross_entropy_only_descend(name, num_classes):
    x, y = HARD[name]()
    y = y if num_classes == 2 else np.where(np.arange(len(y)) % 3 == 2, 2, y)
    l2 = np.logspace(-8, 4, 13)
    start = fit_logistic(x, y, l2=l2, num_classes=num_classes)
    heads = fit_logistic(x, y, l2=l2, loss=gce(0.7), init=start, num_classes=num_classes)
    assert np.isfinite(heads.w).all()
    assert set(statuses(heads)) <= {"converged", "stalled", "absent_class"}
    assert (heads.objective <= heads.initial_objective * (1 + 1e-6)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e4, 1e6])
@pytest.mark.parametrize("left_out", ["rows", "weights", "weights of one head"])
def test_a_row_far_away_that_a_head_does_not_train_on(dtype, scale, left_out):
    x, y = problem(300, 20, noise=0.7)
    x = np.concatenate([x, scale * np.ones((1, 20)) / np.sqrt(20)]).astype(np.float32)
    y, targets = np.append(y, 0), one_hot(y, 2)
    weights = np.ones((2, 301))
    weights[0, -1] = 0
    chosen = {
        "rows": {"rows": np.arange(300)},
        "weights": {"weights": weights[0]},
        "weights of one head": {"weights": weights},
    }[left_out]
    with jax.enable_x64(dtype == "float64"):
        prepared = prepare(x, dtype=dtype)
        for l2 in (1.0, 1e-3):
            heads = fit_logistic(prepared, y[:300] if left_out == "rows" else y, l2=l2, **chosen)
            best = scipy_minimum(x[:300], targets, l2)[-1]
            value = objective(heads.w[0], heads.b[0], x[:300], targets, l2)[0]
            assert statuses(heads)[0] == "converged"
            assert value - best <= {"float32": 2e-6, "float64": 1e-9}[dtype] * best


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("distance", [1e2, 1e4])
def test_heads_on_a_cluster_far_from_the_rest(dtype, distance):
    x, y = problem(600, 20, noise=0.7)
    x[300:] += distance * np.ones(20) / np.sqrt(20)
    x, targets, far = x.astype(np.float32), one_hot(y, 2), np.arange(300, 600)
    own = x[far].astype(np.float64)
    own -= own.mean(axis=0)
    with jax.enable_x64(dtype == "float64"):
        prepared = prepare(x, dtype=dtype)
        for l2 in (1.0, 1e-3):
            heads = fit_logistic(prepared, y[far], rows=far, l2=l2)
            best = scipy_minimum(own, targets[far], l2)[-1]
            b = np.asarray(heads.b[0], np.float64) + x[far].mean(axis=0, dtype=np.float64) @ (
                np.asarray(heads.w[0], np.float64)
            )
            value = objective(heads.w[0], b, own, targets[far], l2)[0]
            assert statuses(heads) == ["converged"]
            assert value - best <= {"float32": 5e-6, "float64": 1e-9}[dtype] * best


@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_one_feature_of_a_far_larger_scale_in_float32(scale):
    x, y = problem(300, 8, noise=0.7)
    x = (x * np.array([scale] + 7 * [1])).astype(np.float32)
    for l2 in (1.0, 1e-2, 1e-4):
        heads = fit_logistic(x, y, l2=l2)
        best = objective(*sklearn_logistic(x.astype(np.float64), y, l2), x, one_hot(y, 2), l2)[0]
        value = objective(heads.w[0], heads.b[0], x, one_hot(y, 2), l2)[0]
        assert statuses(heads) == ["converged"]
        assert value - best <= 2e-6 * best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.array([[np.nan, 1.0], [0.0, 1.0]])}, "NaN or infinite"),
        ({"x": np.ones(3)}, "matrix"),
        ({"x": np.ones((2, 2), int)}, "floating point"),
        ({"targets": np.array([0, -1])}, r"class indices 0\.\.1, found -1"),
        ({"targets": np.array([[0.5, 0.5], [0.5, 0.6]])}, "sum to one .* of 1.1 in row 1"),
        ({"targets": np.array([0.0, 1.0])}, "class indices must be integers"),
        ({"targets": np.array(["a", "b"])}, "encode class names"),
        ({"targets": np.array([0, 1, 0])}, "3 samples"),
        ({"weights": np.array([-1.0, 1.0])}, ">= 0"),
        ({"weights": np.array([np.nan, 1.0])}, "NaN"),
        ({"weights": np.ones(3)}, "weights must be"),
        ({"l2": -1.0}, "l2 must be finite"),
        ({"l2": np.ones((2, 2))}, "scalar or one value per head"),
        ({"l2": np.ones(3), "weights": np.ones((2, 2))}, "heads"),
        ({"rows": np.array([0, 5])}, r"0\.\.1"),
        ({"rows": np.array([True, False])}, "flatnonzero"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"num_classes": 1, "targets": np.array([0, 0])}, "at least two classes"),
        ({"init": (np.zeros((1, 3, 1)), np.zeros((1, 1)))}, "init must be"),
        ({"x": [[0.0, 1.0], [1.0]]}, "rows of unequal length"),
        ({"targets": [[0], [0, 1]]}, "rows of different length"),
        ({"l2": "small"}, "l2 must be numbers, found 'small'"),
        ({"weights": ["a", "b"]}, "weights must be numbers"),
        ({"rtol": -1.0}, "rtol must be a number >= 0"),
        ({"atol": np.nan}, "atol must be a number >= 0"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"memory_budget": "lots"}, "a size such as 2GiB"),
    ],
)
def test_bad_input_is_explained(arguments, message):
    given = {"x": np.array([[0.0, 1.0], [1.0, 0.0]]), "targets": np.array([0, 1]), **arguments}
    with pytest.raises(HeadError, match=message):
        fit_logistic(given.pop("x"), given.pop("targets"), **given)


def test_an_intercept_needs_centred_features():
    x, y = problem(30, 3)
    with pytest.raises(HeadError, match="center=True"):
        fit_logistic(prepare(x, center=False), y, l2=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": np.float64}, "jax_enable_x64"),
        ({"dtype": "foo"}, "float32 or float64, found 'foo'"),
        ({"statistics_rows": np.array([3])}, "rows of the 3 features"),
    ],
)
def test_what_cannot_be_prepared(arguments, message):
    with pytest.raises(HeadError, match=message):
        prepare(np.eye(3), **arguments)


def test_probabilities_need_numbers():
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(HeadError, match="floating point, found dtype <U1"):
        predict_proba(fit_logistic(x, np.array([0, 1, 1])), np.full((1, 3), "a"))


def test_other_values_and_sizes_compile_nothing(count_compilations):
    x, y = problem(130, 6)
    x = x.astype(np.float32)
    prepared = prepare(x)
    rng = np.random.default_rng(0)

    def fit(n, h, l2=None):
        rows = rng.permutation(130)[:n]
        l2 = 10 ** rng.uniform(-5, 1, h) if l2 is None else l2
        return fit_logistic(prepared, y[rows], rows=rows, l2=l2, weights=rng.random(n))

    fit(120, 30)
    fit(120, 7)
    del count_compilations[:]
    for n, h in ((121, 31), (118, 25), (127, 29)):
        fit(n, h)
    # Slices to h heads.
    small = {f"jit({name})" for name in ("_first", "_from_prepared")}
    assert set(count_compilations) <= small, count_compilations
    assert len(count_compilations) <= 2 * 3
    # Heads that all end at once, and heads that end one after another.
    del count_compilations[:]
    fit(120, 29, np.full(29, 1e4))
    fit(120, 29, np.logspace(-8, 4, 29))
    assert not count_compilations
