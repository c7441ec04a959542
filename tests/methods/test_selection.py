import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s_jax.methods.selection import entropy_score, keep_count, keep_lowest, margin


def exact_log_entropy(logits):
    """In extended precision, from the definition."""
    z = np.asarray(logits, np.longdouble)
    gaps = z - z.max(axis=0)
    rest = np.sort(np.exp(gaps), axis=0)[:-1].sum(axis=0)
    log_partition = np.log1p(rest)
    p = np.exp(gaps - log_partition)
    return np.log((p * (log_partition - gaps)).sum(axis=0))


@pytest.mark.parametrize("num_classes", [3, 9])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_entropy_score_is_the_log_entropy(num_classes, scale):
    logits = np.random.default_rng(0).normal(size=(num_classes, 500)).astype(np.float32) * scale
    score = np.asarray(entropy_score(jnp.asarray(logits)))
    np.testing.assert_allclose(score, exact_log_entropy(logits), rtol=1e-5, atol=1e-5)


def test_entropy_score_does_not_saturate():
    # All three probabilities round to (1, 0, 0); their order is still told.
    logits = jnp.array([[0.0, 0.0, 0.0], [-100.0, -101.0, -150.0], [-200.0, -200.0, -200.0]])
    score = np.asarray(entropy_score(logits))
    assert score[0] > score[1] > score[2]
    two = np.asarray(entropy_score(jnp.array([[40.0, -41.0, 39.0]])))
    assert two.argsort().tolist() == [1, 0, 2]


def test_two_classes_order_as_the_entropy():
    z = np.random.default_rng(1).normal(size=200) * 3
    score = np.asarray(entropy_score(jnp.asarray(z[None], jnp.float32)))
    entropy = exact_log_entropy(np.stack([np.zeros_like(z), z]))
    assert np.array_equal(np.argsort(score), np.argsort(entropy.astype(float)))


@given(
    scores=st.lists(
        st.sampled_from([-3.5, -1.0, -0.0, 0.0, 0.25, 2.0, 7.0]), min_size=1, max_size=40
    ),
    data=st.data(),
)
def test_keep_lowest_equals_a_stable_sort(scores, data):
    n = len(scores)
    ties = data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=n, max_size=n))
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    valid[0] = True
    k = data.draw(st.integers(1, int(valid.sum())))
    mask = np.asarray(
        keep_lowest(
            jnp.array(scores, jnp.float32),
            jnp.int32(k),
            jnp.array(valid),
            jnp.array(ties, jnp.float32),
        )
    )
    order = [i for i in sorted(range(n), key=lambda i: (scores[i] + 0.0, ties[i], i)) if valid[i]]
    expected = np.zeros(n, bool)
    expected[order[:k]] = True
    assert mask.tolist() == expected.tolist()
    assert mask.sum() == k


def test_keep_lowest_by_position_where_everything_ties():
    mask = keep_lowest(jnp.zeros(7), jnp.int32(3), jnp.ones(7, bool))
    assert np.asarray(mask).tolist() == [True] * 3 + [False] * 4


def test_keep_lowest_in_float64_and_vmapped():
    with jax.enable_x64(True):
        rng = np.random.default_rng(2)
        scores = rng.normal(size=(6, 101))
        scores[:, 50:] = scores[:, :51] + 1e-12  # differ only in float64
        k = jnp.array([1, 5, 50, 51, 100, 101], jnp.int32)
        masks = jax.vmap(keep_lowest, (0, 0, None))(jnp.asarray(scores), k, jnp.ones(101, bool))
        for row, count, mask in zip(scores, k, np.asarray(masks), strict=True):
            expected = np.zeros(101, bool)
            expected[np.argsort(row, kind="stable")[: int(count)]] = True
            assert np.array_equal(mask, expected)


def test_margin():
    logits = jnp.array([[1.0, -2.0], [3.0, -5.0], [0.5, -2.5]])
    np.testing.assert_allclose(margin(logits), [2.0, 0.5])
    np.testing.assert_allclose(margin(jnp.array([[-3.0, 2.0]])), [3.0, 2.0])


@given(p=st.decimals("0.001", 1, places=3), n=st.integers(1, 5000))
def test_keep_count(p, n):
    k = keep_count(float(p), n)
    assert 1 <= k <= n
    assert k == 1 or abs(k - p * n) <= 0.5
