"""True labels and groups of unlabelled rows enter nothing but the ceiling and diagnostics."""

import itertools

import jax
import numpy as np
import pytest

from tests.toy import toy_set
from w2s_jax.heads import prepare
from w2s_jax.methods import METHODS, Fit, Method
from w2s_jax.methods.rounds import hard_pseudolabels
from w2s_jax.pipeline import Known, Request, StudentStage
from w2s_jax.sweep import Grid, run
from w2s_jax.sweep.axes import METHOD_OPTIONS
from w2s_jax.sweep.chunks import draw_request
from w2s_jax.sweep.runner import _Runner

OPTIONS = {axis.name: axis.choices for axis in METHOD_OPTIONS if axis.choices is not None}


def settings(method):
    """All values of a method's options."""
    return [
        dict(zip(method.options, values, strict=True))
        for values in itertools.product(*(OPTIONS[name] for name in method.options))
    ]


ORACLES = {"enhanced_oracle", "group_reweighted", "group_subsampled", "group_dro", "dfr"}
GRID = {
    "eta_l": 0.2,
    "eta_u": 0.4,
    "n_labelled": 60,
    "n_unlabelled": 120,
    "teacher_l2": (0.01, 0.1),
    "student_l2": (0.03, 0.3),
    "keep_fraction": (0.25, 0.6),
    "methods": tuple(name for name in METHODS if name not in ORACLES),
    "retrain_targets": ("teacher", "student"),
    "retrain_init": ("zero", "warm"),
    "pseudolabels": ("hard", "soft"),
    "num_steps": 30,
    "batch_size": 50,
    "patience": 1,  # held-out rows are scored against pseudolabels
    "seeds": 0,
}


def test_permuting_true_labels_and_groups_leaves_every_student_as_it_is(monkeypatch):
    sets = toy_set("weak", seed=1), toy_set("strong", seed=2)
    rows = run(Grid(pairs=(sets,), **GRID))

    # The same draw, but what is known of its unlabelled rows is shuffled before the students.
    original = _Runner._chunk

    def shuffled(self, group, chunk, shared):
        data = shared.pair.data
        unlabelled = shared.draws[draw_request(chunk.configs[0])].unlabelled
        order = np.random.default_rng(0).permutation(len(unlabelled))
        labels, minority, groups = data.labels.copy(), data.minority.copy(), data.groups.copy()
        for array in (labels, minority, groups):
            array[unlabelled] = array[unlabelled][order]
        assert not np.array_equal(labels, data.labels)
        for name, array in (("labels", labels), ("minority", minority), ("groups", groups)):
            object.__setattr__(data, name, array)
        return original(self, group, chunk, shared)

    monkeypatch.setattr(_Runner, "_chunk", shuffled)
    again = run(Grid(pairs=(sets,), **GRID))
    students = [c for c in rows if c.startswith("student_") and c != "student_fingerprint"]
    teachers = [c for c in rows if c.startswith("teacher_") and c != "teacher_fingerprint"]
    for column in students + teachers:
        assert rows[column].equals(again[column]), column
    # ... while the diagnostics and the ceiling did notice.
    assert not rows["kept_pseudolabel_accuracy"].equals(again["kept_pseudolabel_accuracy"])
    assert not rows["ceiling_accuracy"].equals(again["ceiling_accuracy"])


def test_the_oracles_are_those_that_are_called_so():
    for method in METHODS.values():
        for options in settings(method):
            assert method.is_oracle(options) == (method.name in ORACLES), method.name


@pytest.mark.parametrize(
    ("on_labelled", "on_unlabelled"), [(False, True), (True, True), (True, False)]
)
@pytest.mark.parametrize("oracle", [False, True])
def test_a_round_sees_what_it_says_it_sees(on_labelled, on_unlabelled, oracle):
    seen = {}

    def note(**values):
        seen.update({name: np.asarray(value) for name, value in values.items()})

    def look(inputs):
        fields = {name: vars(inputs)[name] for name in ("labelled", "labels", "in_group")}
        jax.debug.callback(
            note, valid=inputs.valid, **{k: v for k, v in fields.items() if v is not None}
        )
        return hard_pseudolabels(inputs)

    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 40), rng.integers(0, 4, 40)
    labelled, unlabelled = np.array([3, 5, 8]), np.arange(10, 30)
    known = Known(
        labelled=labelled,
        of_teacher=np.array([[True, False, True]]),
        teacher_probabilities=np.full((1, 3, 2), 0.5),
        labels=labels,
        groups=groups,
        num_groups=4,
    )
    stage = StudentStage(
        prepare(rng.standard_normal((40, 6))), unlabelled, np.full((1, 20, 2), 0.5), known=known
    )
    fit = Fit(targets=look, on_labelled=on_labelled, on_unlabelled=on_unlabelled, oracle=oracle)
    method = Method("look", lambda _: (fit,))
    request = Request(method, {}, np.array([0]), {"student_l2": np.array([0.1])})
    (trained,) = stage.train([request])
    assert trained.kept.tolist() == [[on_unlabelled] * 20]
    jax.effects_barrier()

    names = {"valid"} | ({"labelled"} if on_labelled else set())
    names |= {"labels"} if on_labelled or oracle else set()
    assert set(seen) == names | ({"in_group"} if oracle else set())
    # The second labelled row is another teacher's.
    count = 20 if on_unlabelled else 0
    own = np.ones(count, bool)
    if on_labelled:
        own = np.append(own, [True, False, True])
    size = len(own)
    assert np.array_equal(seen["valid"], np.pad(own, (0, len(seen["valid"]) - size)))
    rows = np.concatenate([unlabelled[:count], labelled])[:size]
    if on_labelled:
        assert np.flatnonzero(seen["labelled"]).tolist() == [count, count + 2]
    if on_labelled or oracle:
        visible = own if oracle else seen["labelled"][:size]
        assert np.array_equal(seen["labels"][:size], np.where(visible, labels[rows], -1))
        assert (seen["labels"][size:] == -1).all()
    if oracle:
        expected = (groups[rows] == np.arange(4)[:, None]) & own
        assert np.array_equal(seen["in_group"][:, :size], expected)
        assert not seen["in_group"][:, size:].any()
