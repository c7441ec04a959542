"""Two definitions of a method under one name are told apart, and not mixed in one store."""

import dataclasses
import hashlib
import importlib.util
import inspect
import pkgutil
import sys

import pytest

import w2s_jax.methods
from tests.toy import toy_set
from w2s_jax import Grid, run
from w2s_jax.errors import StoreError
from w2s_jax.methods import METHODS
from w2s_jax.methods.definition import _normalised, source_digest

CODE = '''
"""Vanilla on targets that may be reversed."""
import functools
from w2s_jax.methods.rounds import Fit, Method, hard_pseudolabels

SHIFTS = {"by": 0}
UNUSED = 1


def counted(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args[:1])
    return wrapper


@counted
def helper(labels):
    """Shifts labels."""
    return (labels + SHIFTS["by"]) % 2  # two classes


def targets(inputs):
    return helper(hard_pseudolabels(inputs))


def rounds(options):
    return (Fit(targets=targets),)


METHOD = Method("shifted", rounds)
'''


HIDDEN = """
import functools
import jax
from w2s_jax.methods.rounds import Fit, Method, hard_pseudolabels


@jax.jit
def jitted(labels):
    return labels * 1


@functools.lru_cache
def cached(number):
    return number + 0


def plain(labels, by):
    return labels + by


def of_class():
    return 0


def of_property():
    return 0


def outside():
    return 0


part = functools.partial(plain, by=0)
KEPT = {0, 1}


class Rule:
    attribute = (outside,)

    @classmethod
    def of_class(cls):
        return of_class()

    @staticmethod
    @jax.jit
    def static(labels):
        return labels * 3

    @property
    def value(self):
        return of_property()


def targets(inputs):
    found = Rule.static(part(jitted(hard_pseudolabels(inputs)))) + cached(0)
    return found + Rule.of_class() + Rule().value + Rule.attribute[0]() + len(KEPT)


def rounds(options, strength, kind):
    return (Fit(targets=targets),)


METHOD = Method("hidden", functools.partial(rounds, strength=0.5, kind=float))
"""


def method_of(code, path):
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(f"defined_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where `inspect` finds the sources of classes
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


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("labels * 1", "labels * 2"),
        ("number + 0", "number + 1"),
        ("labels + by", "labels - by"),
        ("by=0", "by=1"),
        ("{0, 1}", "{0, 2}"),
        ("def of_class():\n    return 0", "def of_class():\n    return 1"),
        ("def of_property():\n    return 0", "def of_property():\n    return 1"),
        ("def outside():\n    return 0", "def outside():\n    return 1"),
        ("labels * 3", "labels * 4"),
        ("strength=0.5", "strength=0.6"),
        ("partial(plain, by=0)", "partial(max, by=0)"),
    ],
)
def test_nothing_hides_behind_a_decorator_a_partial_a_class_or_a_set(tmp_path, old, new):
    assert old in HIDDEN
    before = method_of(HIDDEN, tmp_path / "before.py").definition
    after = method_of(HIDDEN.replace(old, new), tmp_path / "after.py").definition
    assert before.startswith("source ")
    assert before != after


def test_a_definition_where_nothing_is_hidden_stays_what_it_was(tmp_path):
    assert method_of(CODE, tmp_path / "method.py").definition == "source 7641c10bc5305a53"


def test_sets_have_no_order(tmp_path):
    kept = "{8, 0, ('a', frozenset([8, 0]))}", "{0, 8, ('a', frozenset([0, 8]))}"
    assert repr(frozenset([8, 0])) != repr(frozenset([0, 8]))
    first, second = (
        method_of(HIDDEN.replace("{0, 1}", text), tmp_path / f"{i}.py").definition
        for i, text in enumerate(kept)
    )
    assert first == second


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


# Version and code of every built-in method, and the code that several of them share.
PINNED = {
    "vanilla": "version 1, cf1db995a69f050f",
    "enhanced": "version 1, f51d225f0e6c4191",
    "enhanced_margin": "version 1, b2e82302b21ad6f9",
    "enhanced_teacher": "version 2, 64af7cadca0cf2d2",
    "enhanced_loss": "version 1, c86f33bd044e8163",
    "enhanced_agreement": "version 1, da321d93d35e4508",
    "enhanced_random": "version 1, c682971a7e9a5c2d",
    "enhanced_forgetting": "version 1, 39993fe4df770d2a",
    "product": "version 1, a6a6fe43d3405968",
    "self_training": "version 1, e6c1c1e8876166b2",
    "vanilla_trained": "version 1, 66dff96e262c62a4",
    "confidence": "version 1, 721f09aa994ad3a2",
    "confidence_adaptive": "version 1, f90a61ee6b253ec6",
    "label_smoothing": "version 1, 87defbeb1b938a33",
    "bootstrap_hard": "version 1, 2791feff95e485fa",
    "bootstrap_soft": "version 1, 11a7712e39d60fc2",
    "entropy_minimisation": "version 1, 11e6cb722319263b",
    "forward_correction": "version 1, 93a31d645db5b69a",
    "backward_correction": "version 1, 3724393176acda0e",
    "sinkhorn": "version 1, eef867496290ffc6",
    "teacher_ensemble": "version 1, 1c7dc3945880f920",
    "jtt": "version 1, 5ebc3cb70b222188",
    "lff": "version 2, b87e4f3ce550c6c5",
    "labelled": "version 1, c4e3ceaab24d9d45",
    "labelled_and_pseudo": "version 1, c2a2eb6d76acf2ab",
    "co_training": "version 1, c130c9371c673506",
    "enhanced_oracle": "version 1, 3973afd4c0ba1e72",
    "group_reweighted": "version 1, 65d7a541d6e6dc80",
    "group_subsampled": "version 1, 00f3244cb57c0942",
    "group_dro": "version 1, aac0313194f59ebf",
    "dfr": "version 1, 69839f3fba8ee546",
}
SHARED = {
    "balancing": "7149581cc04efebd",
    "gradient": "eb74539e6f8ee363",
    "noise": "173b5b2befa78563",
    "rounds": "1ff4d0619ce3b79c",
    "selection": "fcbfee7ab83f5591",
}


@pytest.mark.parametrize("name", METHODS)
def test_a_built_in_method_that_changed_has_a_new_version(name):
    found = f"{METHODS[name].definition}, {source_digest(METHODS[name].rounds)}"
    assert found == PINNED.get(name), (
        f"the code of method {name!r} changed: if rows that are stored could come out otherwise, "
        f"raise version=... of its Method, so that stores refuse to mix them; then pin {found!r}"
    )


@pytest.mark.parametrize("name", SHARED)
def test_what_methods_share_changes_knowingly(name):
    source = inspect.getsource(importlib.import_module(f"w2s_jax.methods.{name}"))
    found = hashlib.blake2b(_normalised(source).encode(), digest_size=8).hexdigest()
    assert found == SHARED[name], (
        f"the code of methods/{name}.py changed: if stored rows of a method that uses it could "
        f"come out otherwise, raise version=... of that Method; then pin {found!r}"
    )


def test_all_methods_are_pinned():
    assert set(PINNED) == set(METHODS)
    folder = pkgutil.iter_modules(w2s_jax.methods.__path__)
    own = {METHODS[name].rounds.__module__.rpartition(".")[2] for name in METHODS}
    assert set(SHARED) == {module.name for module in folder} - own - {"definition"}
