"""What a run is said to take, what is refused, and what it lets go of."""

import collections
import dataclasses
import functools
import gc
import weakref

import numpy as np
import pandas as pd
import pytest

from tests.toy import toy_set
from w2s_jax import pipeline
from w2s_jax.errors import GridError, HeadError, StoreError
from w2s_jax.heads import costs
from w2s_jax.pipeline import batches
from w2s_jax.sweep import Grid, plan_grid, predict, run, runner, scoring
from w2s_jax.sweep.prediction import batch_bytes, choose_at_once, feature_bytes
from w2s_jax.sweep.runner import remaining

SMALL = {"eta_l": 0.2, "eta_u": (0.3, 0.5), "n_labelled": 60, "n_unlabelled": 120}


@pytest.fixture(scope="module")
def sets():
    return [toy_set(name, signal=0.5 + i / 4, seed=i) for i, name in enumerate("abcd")]


def test_features_count_from_first_to_last_use(sets):
    a, b, c, d = sets
    one = len(a.labels) * a.features.shape[1] * 4
    for pairs, scaling, most in (
        ([(a, b)], "rms", 2),
        ([(a, b), (c, d)], "rms", 2),
        ([(a, b), (c, d), (a, d)], "rms", 3),
        ([(a, b)], ("rms", "none"), 2),
        ([(a, b), (c, d)], ("rms", "none"), 2),
    ):
        plan = plan_grid(Grid(pairs=pairs, feature_scaling=scaling, seeds=(0, 1), **SMALL))
        assert feature_bytes(plan) == most * one
        assert feature_bytes(plan, np.float64) == 2 * most * one


def test_features_are_let_go_after_their_last_use(sets, monkeypatch):
    made, alive = [], []

    def noting(*args, **kwargs):
        prepared = original(*args, **kwargs)
        made.append(weakref.ref(prepared))
        return prepared

    original, chunk = runner.prepare_in, runner._Runner._chunk

    def counting(self, *args):
        gc.collect()
        alive.append(sum(ref() is not None for ref in made))
        return chunk(self, *args)

    monkeypatch.setattr(runner, "prepare_in", noting)
    monkeypatch.setattr(runner._Runner, "_chunk", counting)
    monkeypatch.setattr(runner, "choose_at_once", lambda *args: 1)
    a, b, c, d = sets
    run(Grid(pairs=[(a, b), (c, d)], seeds=(0, 1), **SMALL))
    assert len(made) == 4
    assert max(alive) == 2


def test_how_many_chunks_are_at_work_changes_no_bit(sets, monkeypatch):
    a, b, c, d = sets
    grid, frames = Grid(pairs=[(a, b), (c, d)], seeds=range(3), **SMALL), []
    for at_once in (1, 2):
        monkeypatch.setattr(runner, "choose_at_once", lambda *args, n=at_once: n)
        frames.append(run(grid))
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_a_small_budget_predicts_in_smaller_batches(sets, monkeypatch):
    sizes = collections.defaultdict(set)

    def noting(module, params, batch):
        sizes[module].add(batch)
        return batches(params, batch)

    for module in (pipeline, scoring):
        monkeypatch.setattr(module, "batches", functools.partial(noting, module))
    found = []
    for budget in (None, "600KiB"):
        sizes.clear()
        run(Grid(pairs=[sets[:2]], seeds=(0,), **SMALL), memory_budget=budget)
        found.append({module: max(batch) for module, batch in sizes.items()})
    assert all(found[1][module] < found[0][module] for module in (pipeline, scoring)), found
    assert [pipeline.batch_within(b, 10, 512) for b in (1, 80, 170, 5120)] == [8, 8, 16, 512]


def test_a_device_has_two_chunks_at_a_time_where_memory_holds_what_they_need(sets, monkeypatch):
    a, b, c, d = sets
    plan = plan_grid(Grid(pairs=[(a, b), (c, d)], seeds=(0, 1), **SMALL))
    both = feature_bytes(plan, together=True)
    assert both == 2 * feature_bytes(plan)
    assert choose_at_once(plan) == 2
    assert choose_at_once(plan, row_shards=2) == 1
    monkeypatch.setattr("w2s_jax.sweep.prediction.device_memory", lambda: both + 1000)
    assert choose_at_once(plan, memory_budget=1000) == 2
    assert choose_at_once(plan, memory_budget=1001) == 1
    one_pair = plan_grid(Grid(pairs=[(a, b)], seeds=(0, 1), **SMALL))
    assert choose_at_once(one_pair, memory_budget=1 << 40) == 2


def test_labelled_rows_count_where_a_method_sees_them(sets):
    grid = Grid(
        pairs=[(sets[0], sets[1])],
        eta_l=(0.2, 0.3),
        eta_u=0.3,
        n_labelled=100,
        n_unlabelled=60,
        methods="labelled_and_pseudo",
    )
    plain = dataclasses.replace(grid, methods="enhanced")
    with_labelled, without = (batch_bytes(plan_grid(g), 1 << 30) for g in (grid, plain))
    assert with_labelled > 2 * without
    with pytest.raises(
        HeadError, match=r"8 heads in each of 2 draws need .* MiB; raise memory_budget"
    ):
        batch_bytes(plan_grid(grid), 1000)


def test_features_that_do_not_fit_are_refused(sets, monkeypatch):
    grid = Grid(pairs=[(sets[0], sets[1])], seeds=0, **SMALL)
    monkeypatch.setattr("w2s_jax.sweep.prediction.device_memory", lambda: 1000)
    for refused in (lambda: run(grid), lambda: predict(plan_grid(grid))):
        with pytest.raises(GridError, match=r"on each device, which has .*\(a 560 x 12, b 560"):
            refused()


def test_devices_share_the_draws(sets, monkeypatch):
    monkeypatch.setattr("w2s_jax.sweep.prediction.gemm_flops", lambda: 1e11)
    plan = plan_grid(Grid(pairs=[(sets[0], sets[1])], seeds=(0, 1, 2), **SMALL))
    alone, several = predict(plan), predict(plan, num_devices=4)
    assert several.flops == alone.flops
    assert several.describe().endswith("on 4 device(s)")
    assert several.seconds == pytest.approx(alone.seconds / 3)  # of six draws one gets two


def test_what_is_there_is_not_planned(sets, tmp_path):
    grid = Grid(pairs=[(sets[0], sets[1])], seeds=(0, 1), **SMALL)
    plan, out = plan_grid(grid), tmp_path / "run"
    assert remaining(grid, plan, out, "float32") is plan
    assert not out.exists()
    run(Grid(pairs=[(sets[0], sets[1])], seeds=0, **SMALL), out=out)
    before = sorted(out.rglob("*"))
    assert remaining(grid, plan, out, "float32").num_configs == 4
    assert sorted(out.rglob("*")) == before
    with pytest.raises(StoreError, match="in float32, this run is in float64"):
        remaining(grid, plan, out, "float64")


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/job/step\n", {"job/memory.max": "5000", "job/step/memory.max": "max"}, 5000),
        ("0::/job/step\n", {"memory.max": "7000", "job/step/memory.max": "6000"}, 6000),
        ("4:cpu:/x\n3:memory:/job\n", {"memory/job/memory.limit_in_bytes": "4000"}, 4000),
        ("0::/not/seen\n", {"memory.max": "3000"}, 3000),
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/\n", {"memory.max": str(2**62)}, None),
        (None, {}, None),
    ],
)
def test_control_groups_bound_the_memory(tmp_path, groups, limits, expected):
    listed, root = tmp_path / "cgroup", tmp_path / "limits"
    if groups is not None:
        listed.write_text(groups)
    for name, text in limits.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    whole = costs.host_memory(str(tmp_path / "nothing"))
    assert costs.host_memory(str(listed), str(root)) == (expected or whole)
