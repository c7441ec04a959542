"""Calibration and agreement against plain numpy, and that older rows without them stay usable."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from tests.toy import toy_set
from w2s_jax.features import make_predictions
from w2s_jax.heads import prepare
from w2s_jax.pipeline import Heads
from w2s_jax.sweep import Grid, plan_grid, read_rows, resolve_pairs, run
from w2s_jax.sweep.scoring import predict

NEW = ("agreement_", "_negative_log_likelihood", "_calibration_error")
SMALL = {"eta_l": 0.2, "eta_u": 0.3, "n_labelled": 60, "n_unlabelled": 120, "n_validation": 20}


def table_of(params):
    rest = [np.zeros(len(params))] * 3 + [np.zeros(len(params), np.int64)] * 2
    return Heads(params, *rest)


def probabilities(params, x):
    logits = np.einsum("hkp,np->hnk", params[..., :-1], x) + params[..., -1][:, None]
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    return np.exp(log_softmax(logits, axis=-1))


def calibration_error(p, labels):
    """Guo et al.'s definition, bin by bin."""
    confidence, right = p.max(-1), p.argmax(-1) == labels
    edges, total = np.linspace(0, 1, 16), 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            gap = abs(confidence[inside].mean() - right[inside].mean())
            total += inside.mean() * gap
    return total


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("budget", [None, 1])
def test_predictions_and_calibration_by_hand(num_classes, budget):
    rng = np.random.default_rng(0)
    prepared = prepare(rng.normal(size=(300, 5)).astype(np.float32))
    x = np.asarray(prepared.x, np.float64)
    labels = rng.integers(0, num_classes, 300)
    k = 1 if num_classes == 2 else num_classes
    params = rng.normal(size=(11, k, x.shape[1] + 1)).astype(np.float32)
    rows = rng.permutation(300)[:150]
    found = predict(prepared, table_of(params), rows, labels, 100, budget)
    p = probabilities(params, x[rows])
    np.testing.assert_array_equal(found.classes, p.argmax(-1))
    own = labels[rows[:100]]
    loss = -np.log(p[:, np.arange(100), own]).mean(axis=1)
    np.testing.assert_allclose(found.negative_log_likelihood, loss, rtol=2e-6)
    by_hand = [calibration_error(one, own) for one in p[:, :100]]
    np.testing.assert_allclose(found.calibration_error, by_hand, atol=2e-6)


def test_certainty_that_is_wrong_stays_finite():
    prepared = prepare(np.linspace(-1, 1, 64, dtype=np.float32)[:, None])
    params = np.zeros((1, 1, prepared.x.shape[1] + 1), np.float32)
    params[..., -1] = 1e30
    found = predict(prepared, table_of(params), np.arange(64), np.zeros(64, int), 64)
    limit = -np.log(np.finfo(np.float32).tiny)
    np.testing.assert_allclose(found.negative_log_likelihood, limit, rtol=1e-6)
    np.testing.assert_allclose(found.calibration_error, 1.0)


@pytest.fixture(scope="module", params=[2, 3])
def sets(request):
    options = {"num_classes": request.param, "rows_per_cell": 140}
    return toy_set("weak", signal=0.5, seed=1, **options), toy_set("strong", seed=2, **options)


def bits(rows, model):
    total = int(rows.filter(regex="^test_count_group").iloc[0].sum())
    packed = np.stack([np.frombuffer(b, np.uint8) for b in rows[f"{model}_correct"]])
    return np.unpackbits(packed, axis=1)[:, :total].astype(bool)


def test_agreement_follows_from_bits_at_two_classes(sets):
    rows = run(Grid(pairs=(sets,), **SMALL, seeds=(0, 1)))
    teacher, student = bits(rows, "teacher"), bits(rows, "student")
    same = (teacher == student).mean(axis=1)
    if sets[0].num_classes == 2:
        np.testing.assert_allclose(rows["agreement_test"], same)
    else:
        assert (rows["agreement_test"] < same).any()
        assert (rows["agreement_test"] >= (teacher & student).mean(axis=1)).all()
    counts = rows.filter(regex="^test_count_group").to_numpy()
    by_group = rows.filter(regex="^agreement_test_group").to_numpy()
    assert by_group.shape == counts.shape
    weighted = (by_group * counts).sum(axis=1) / counts.sum(axis=1)
    np.testing.assert_allclose(weighted, rows["agreement_test"])
    for name in ("agreement_validation", "agreement_unlabelled"):
        assert rows[name].between(0, 1).all()
    assert (rows["student_calibration_error"] < 1).all()


def test_agreement_with_a_teacher_from_elsewhere():
    student = toy_set("strong", seed=2)
    guessed = np.where(np.arange(len(student.labels)) % 5 == 0, 0, student.labels)
    predictions = make_predictions(student.ids, guessed, name="llm")
    grid = Grid(pairs=((predictions, student),), eta_u=0.3, n_unlabelled=120, seeds=0)
    rows = run(grid)
    assert rows["teacher_calibration_error"].isna().all()
    assert rows["agreement_validation"].isna().all()
    expected = (bits(rows, "teacher") == bits(rows, "student")).mean(axis=1)
    np.testing.assert_allclose(rows["agreement_test"], expected)


def test_rows_from_before_are_read_and_added_to(sets, tmp_path):
    grid = Grid(pairs=(sets,), **SMALL, seeds=0)
    fresh = run(grid, out=tmp_path)
    newer = [name for name in fresh if any(part in name for part in NEW)]
    assert len(newer) == 3 + 2 * 3 + sets[0].num_classes ** 2
    for number, part in enumerate(sorted((tmp_path / "rows").glob("*.parquet"))):
        old = pd.read_parquet(part).drop(columns=newer)
        part.unlink()
        old.to_parquet(part.with_name(f"{number:024}.parquet"))  # as format 1 named them
    prints = {name: pair.fingerprints for name, pair in resolve_pairs(grid.pairs).items()}
    configs = [c for g in plan_grid(grid).groups for chunk in g.chunks for c in chunk.configs]
    assert {c.key(prints) for c in configs} == set(read_rows(tmp_path)["key"])
    both = run(Grid(pairs=(sets,), **SMALL, seeds=(0, 1)), out=tmp_path)
    assert both.loc[both["seed"] == 0, newer].isna().all().all()
    assert both.loc[both["seed"] == 1, newer].notna().all().all()
