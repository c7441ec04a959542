"""House rules: what is public, which way imports point, and that imports stay cheap."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import w2s_jax

PACKAGE = Path(w2s_jax.__file__).parent

# What each room may import, besides errors and version and itself. Data flows the other way.
MAY_IMPORT = {
    "compilation": set(),
    "errors": set(),
    "imaging": set(),
    "interruption": set(),
    "version": set(),
    "features": set(),
    "splits": set(),
    "metrics": set(),
    "heads": set(),
    "methods": {"heads"},
    "pipeline": {"heads", "methods"},
    "sweep": {"features", "heads", "interruption", "metrics", "methods", "pipeline", "splits"},
    "theory": {"features", "heads"},
    "report": {"sweep", "metrics", "theory"},
    "backbones": {"imaging"},
    "datasets": {"imaging"},
    "extraction": {"backbones", "datasets", "features", "imaging", "interruption"},
}


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts[0]


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {path}"
        for name in names:
            if name.startswith("w2s_jax."):
                yield name.split(".")[1]


def test_imports_point_one_way():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path, room in rooms()
        for other in imported_rooms(path)
        if other != room and other not in MAY_IMPORT[room] | {"errors", "version"}
    ]
    assert not wrong


def test_every_room_has_its_rule():
    assert {room for _, room in rooms()} == set(MAY_IMPORT)


def test_no_module_imports_torch_or_tensorflow():
    for path, _ in rooms():
        assert not re.search(
            r"^\s*(import|from) (torch|tensorflow|transformers)\b", path.read_text(), re.M
        )


def test_public_names():
    assert w2s_jax.__all__ == [
        "Config",
        "FeatureSet",
        "GaussianProblem",
        "Grid",
        "Loss",
        "W2SError",
        "__version__",
        "accuracy_at",
        "cross_entropy",
        "enable_compilation_cache",
        "evaluate_heads",
        "extract_image_features",
        "fit_logistic",
        "fit_ridge",
        "format_table",
        "gce",
        "load_backbone",
        "load_features",
        "load_predictions",
        "make_feature_set",
        "make_predictions",
        "open_benchmark",
        "pair",
        "predict_proba",
        "prepare",
        "read_rows",
        "resolve_pairs",
        "risks",
        "run",
        "save_features",
        "select_l2",
        "shipped_names",
        "simulate",
        "write_report",
    ]


@pytest.mark.parametrize("name", w2s_jax.__all__)
def test_every_public_name_resolves_and_says_what_it_is(name):
    assert getattr(w2s_jax, name).__doc__


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        w2s_jax.runn  # noqa: B018


def modules_after(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


HEAVY = {"flax", "matplotlib", "tensorflow", "tensorflow_datasets", "torch", "tokenizers"}


def test_importing_the_package_imports_nothing_heavy():
    assert not modules_after("import w2s_jax") & (HEAVY | {"pandas", "pyarrow", "jax"})


def test_training_needs_no_plotting_and_no_backbone():
    assert not modules_after("from w2s_jax import Grid, run, load_features, fit_logistic") & HEAVY
