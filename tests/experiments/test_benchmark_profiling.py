"""The benchmark's profile, at a small scale."""

import json

import w2s_jax.pipeline
from experiments.benchmarking import profiling


def test_profile(tmp_path):
    fit_rows = w2s_jax.pipeline.fit_rows
    result, path = profiling.measure(1, 0.02, 0, str(tmp_path / "p.json"), lambda text: None)
    assert w2s_jax.pipeline.fit_rows is fit_rows  # timers are gone
    assert json.loads(path.read_text())["cases"] == result["cases"]
    (grid,) = [case for case in result["cases"] if case["case"] == "grid_10000"]
    parts = grid["parts"]
    assert all(parts[name] > 0 for name in profiling.PARTS), parts
    counted = sum(parts[name] for name in (*profiling.PARTS, "rest"))
    assert abs(counted - parts["total"]) < 1e-9


def test_render():
    parts = {"fits": 3.0, "rest": 1.0, "total": 4.0, "unit": "s"}
    table = profiling.render({"cases": [{"case": "grid", "parts": parts}]})
    assert "| grid | fits | 3 s | 75 % |" in table
