"""Two definitions of a method under one name are told apart, and not mixed in one store."""

import dataclasses
import importlib.util

import pytest

from tests.toy import toy_set
from w2s_jax import Grid, run
from w2s_jax.errors import StoreError
from w2s_jax.methods import METHODS

CODE = '''
"""Vanilla on targets that may be reversed."""
from w2s_jax.methods.rounds import Fit, Method, hard_pseudolabels

SHIFTS = {"by": 0}
UNUSED = 1


def helper(labels):
    """Shifts labels."""
    return (labels + SHIFTS["by"]) % 2  # two classes


def targets(inputs):
    return helper(hard_pseudolabels(inputs))


def rounds(options):
    return (Fit(targets=targets),)


METHOD = Method("shifted", rounds)
'''


def method_of(code, path):
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.METHOD


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"by": 0', '"by": 1', False),
        ("labels + SHIFTS", "1 - labels + SHIFTS", False),
        ("helper(hard_pseudolabels(inputs))", "hard_pseudolabels(inputs)", False),
        ("# two classes", "# 2 classes", True),
        ("Shifts labels.", "Adds to labels.", True),
        ("UNUSED = 1", "UNUSED = 2", True),
    ],
)
def test_what_changes_a_definition(tmp_path, old, new, same):
    assert old in CODE
    before = method_of(CODE, tmp_path / "before.py").definition
    after = method_of(CODE.replace(old, new), tmp_path / "after.py").definition
    assert before.startswith("source ")
    assert (before == after) == same


def test_versions_speak_for_themselves(tmp_path):
    method = method_of(CODE, tmp_path / "method.py")
    assert dataclasses.replace(method, version=3).definition == "version 3"
    assert METHODS["enhanced"].definition == "version 1"
    unknown = eval("lambda options: ()", {"__name__": "nowhere"})  # as typed into a prompt
    assert dataclasses.replace(method, rounds=unknown).definition is None


def test_a_store_does_not_mix_definitions(tmp_path, monkeypatch):
    sets = toy_set("weak", signal=0.5, seed=1), toy_set("strong", signal=1.2, seed=2)
    axes = {"eta_l": 0.2, "eta_u": 0.3, "n_labelled": 60, "n_unlabelled": 120}
    method = method_of(CODE, tmp_path / "method.py")
    monkeypatch.setitem(METHODS, "shifted", method)
    grid = Grid(pairs=(sets,), methods="shifted", seeds=0, **axes)
    run(grid, out=tmp_path / "run")
    other = method_of(CODE.replace("% 2", "% 2 * 1"), tmp_path / "other.py")
    monkeypatch.setitem(METHODS, "shifted", other)
    with pytest.raises(StoreError) as error:
        run(grid, out=tmp_path / "run")
    assert method.definition in str(error.value)
    assert other.definition in str(error.value)
    assert "give the method another name" in str(error.value)
    # Other methods go on there.
    run(Grid(pairs=(sets,), methods="vanilla", seeds=1, **axes), out=tmp_path / "run")
