"""The Python blocks of README.md and BUILD.md run, in order and in one namespace a file."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import w2s_jax
from w2s_jax.methods import METHODS

ROOT = Path(__file__).parent.parent


def python_blocks(name):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.M | re.S)


@pytest.mark.parametrize(("name", "num_blocks"), [("README.md", 4), ("BUILD.md", 7)])
def test_blocks_run(name, num_blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = METHODS.copy()
    blocks = python_blocks(name)
    assert len(blocks) == num_blocks
    namespace = {"__name__": "docs"}
    try:
        for block in blocks:
            exec(compile(block, name, "exec"), namespace)
    finally:
        METHODS.clear()
        METHODS.update(known)
    if name == "README.md":
        check_columns(namespace["rows"])


def check_columns(rows):
    """Every column of some rows is documented."""
    table = (ROOT / "README.md").read_text().split("## Result rows")[1].split("## More")[0]
    assert len(rows)
    for column in rows.columns:
        name = re.sub(r"^(teacher|ceiling|student)_(?!l2|fingerprint)", "m_", column)
        name = re.sub(r"group_\d+", "group_0", name)
        name = re.sub(r"^kept_pseudolabel_accuracy_m", "..._m", name)
        assert f"`{name}`" in table, column


@pytest.mark.reference
def test_data_frames_and_duckdb_merge_runs_alike(tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    for name, kept in (("a", "format_1"), ("b", "format_2")):  # of other columns, and of one grid
        shutil.copytree(ROOT / "tests" / "sweep" / kept, tmp_path / "runs" / name)
    readme = (ROOT / "README.md").read_text()
    (call,) = re.findall(r"`(pandas\.concat\(.*?)`", readme)
    merged = eval(call, {"pandas": pd, "w2s_jax": w2s_jax})
    (query,) = re.findall(r"^```sql\n(.*?)^```", readme, re.M | re.S)
    found = duckdb.sql(query).fetchall()
    groups = merged.groupby("method")["student_accuracy"]
    assert [(m, n) for m, _, n in found] == list(groups.size().items())
    assert [mean for _, mean, _ in found] == pytest.approx(groups.mean().tolist())
    assert len(merged) < len(w2s_jax.read_rows("runs/a")) + len(w2s_jax.read_rows("runs/b"))


def test_scripts_that_the_docs_name_exist():
    for name in ("README.md", "BUILD.md"):
        for script in re.findall(r"experiments/\w+\.py", (ROOT / name).read_text()):
            assert (ROOT / script).is_file(), script
