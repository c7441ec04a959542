"""True labels and groups of unlabelled rows enter nothing but the ceiling and diagnostics."""

import inspect

import numpy as np

from tests.toy import toy_set
from w2s_jax.heads.training import Batch
from w2s_jax.methods import METHODS, RoundInputs
from w2s_jax.pipeline import StudentStage
from w2s_jax.sweep import Grid, run
from w2s_jax.sweep.planning import draw_request
from w2s_jax.sweep.runner import _Runner

GRID = {
    "eta_l": 0.2,
    "eta_u": 0.4,
    "n_labelled": 60,
    "n_unlabelled": 120,
    "teacher_l2": (0.01, 0.1),
    "student_l2": (0.03, 0.3),
    "keep_fraction": (0.25, 0.6),
    "methods": tuple(METHODS),
    "retrain_targets": ("teacher", "student"),
    "retrain_init": ("zero", "warm"),
    "pseudolabels": ("hard", "soft"),
    "num_steps": 30,
    "batch_size": (0, 50),
    "patience": (0, 1),
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


def test_no_label_reaches_the_student_stage():
    assert "labels" not in inspect.signature(StudentStage).parameters
    assert set(inspect.signature(RoundInputs).parameters) == {
        "teacher_probabilities",
        "logits",
        "valid",
        "hyperparameters",
    }
    assert set(Batch._fields) == {"x", "valid", "inputs", "step"}
