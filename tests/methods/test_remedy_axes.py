"""The axes of remedies: who reads them, what they may be, and that rows carry them."""

import pytest

from tests.toy import toy_set
from w2s_jax.errors import GridError
from w2s_jax.sweep import Config, Grid, plan_grid, resolve_pairs, run
from w2s_jax.sweep.axes import METHOD_NUMBERS, METHOD_OPTIONS

TRAINED = {"num_steps", "learning_rate", "batch_size", "patience", "pseudolabels", "optimizer"}
READ = {
    "confidence": {*TRAINED, "confidence_weight", "warmup_fraction"},
    "confidence_adaptive": {*TRAINED, "confidence_temperature", "warmup_fraction"},
    "label_smoothing": {"pseudolabels", "smoothing"},
    "bootstrap_hard": {"pseudolabels", "bootstrap_weight"},
    "bootstrap_soft": {"pseudolabels", "bootstrap_weight", "retrain_init"},
    "entropy_minimisation": {"pseudolabels", "entropy_weight", "retrain_init"},
    "forward_correction": {"retrain_l2", "anchor_quantile", "identity_weight"},
    "backward_correction": {"pseudolabels", "retrain_l2", "anchor_quantile", "identity_weight"},
    "sinkhorn": {"pseudolabels", "sinkhorn_prior", "sinkhorn_steps"},
    "jtt": {"pseudolabels", "retrain_l2", "upweight"},
    "lff": {*TRAINED, "gce_q"},
    "teacher_ensemble": {"pseudolabels"},
    "co_training": {"keep_fraction"},
    "enhanced_forgetting": {
        *("pseudolabels", "optimizer", "num_steps", "learning_rate"),
        *("keep_fraction", "gce_q", "retrain_l2"),
    },
    "group_dro": {*TRAINED, "group_step"} - {"patience"},
}
SMALL = {"eta_l": 0.2, "eta_u": 0.4, "n_labelled": 60, "n_unlabelled": 120, "seeds": 0}


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", seed=1), toy_set("strong", seed=2)


@pytest.fixture(scope="module")
def rows(sets):
    # Sizes of test_blindness, whose compiled programs serve here too, or these there.
    steps = {"num_steps": 20, "batch_size": 50, "patience": 1}
    return run(Grid(pairs=(sets,), methods=tuple(READ), **steps, **SMALL))


@pytest.mark.parametrize("name", READ)
def test_a_row_carries_the_axes_that_its_method_reads(rows, name):
    (row,) = rows[rows["method"] == name].to_dict("records")
    axes = {axis.name for axis in (*METHOD_NUMBERS, *METHOD_OPTIONS)}
    assert {axis for axis in axes if row[axis] is not None and row[axis] == row[axis]} == READ[name]
    assert row["student_status"] in {"converged", "trained"}
    assert 0 < row["student_accuracy"] <= 1


def test_a_row_gives_back_its_configuration(sets, rows):
    prints = {name: pair.fingerprints for name, pair in resolve_pairs([sets]).items()}
    for _, row in rows.iterrows():
        assert Config.from_row(row).canonical().key(prints) == row["key"]


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("confidence", {"confidence_weight": 1.2}, r"confidence_weight .* in \[0, 1\]; found 1.2"),
        ("confidence", {"warmup_fraction": -0.1}, r"warmup_fraction .* in \[0, 1\]; found -0.1"),
        ("confidence_adaptive", {"confidence_temperature": 0}, r"in \(0, inf\); found 0"),
        ("label_smoothing", {"smoothing": 1.01}, r"smoothing .* in \[0, 1\]; found 1.01"),
        ("bootstrap_soft", {"bootstrap_weight": 2}, r"bootstrap_weight .* in \[0, 1\]; found 2"),
        ("entropy_minimisation", {"entropy_weight": -1}, r"in \[0, inf\); found -1"),
        ("forward_correction", {"anchor_quantile": 0}, r"anchor_quantile .* in \(0, 1\]; found 0"),
        ("backward_correction", {"identity_weight": 1.5}, r"identity_weight .* found 1.5"),
        ("sinkhorn", {"sinkhorn_steps": 2.5}, "sinkhorn_steps must be a whole number"),
        ("sinkhorn", {"sinkhorn_prior": "equal"}, "'equal'; known: uniform, pseudolabels"),
        ("group_dro", {"group_step": -1}, r"group_step must be a number in \[0, inf\); found -1"),
        ("jtt", {"upweight": 0}, r"upweight must be a number in \(0, inf\); found 0"),
    ],
)
def test_impossible_settings_fail_before_anything_is_computed(sets, method, change, message):
    with pytest.raises(GridError, match=message):
        plan_grid(Grid(pairs=(sets,), methods=method, **SMALL, **change))


def test_an_axis_multiplies_only_the_methods_that_read_it(sets):
    grid = Grid(pairs=(sets,), methods=tuple(READ), smoothing=(0.1, 0.2, 0.3), **SMALL)
    configs = list(grid.configs(resolve_pairs([sets])))
    assert len(configs) == 1 + len(READ) + 2
    assert sum(c.method == "label_smoothing" for c in configs) == 3
