"""What a method of one's own is told where it is wrong: its name, the round, and what to do."""

import jax.numpy as jnp
import pytest

from tests.toy import toy_set
from w2s_jax.errors import W2SError
from w2s_jax.heads import gce
from w2s_jax.methods import METHODS, GradientStep, Method
from w2s_jax.methods.enhanced import most_confident
from w2s_jax.methods.rounds import Fit, Train, hard_pseudolabels, soft_pseudolabels
from w2s_jax.methods.trained import adam, hard_loss
from w2s_jax.sweep import Grid, run

FIRST = Fit(hard_pseudolabels)


def right(inputs):
    return jnp.where(inputs.valid & (inputs.labels == hard_pseudolabels(inputs)), 1.0, 0.0)


def weighted(function):
    return Fit(hard_pseudolabels, weights=function)


def trained(loss, **settings):
    return Train(GradientStep(loss, adam, reads=("learning_rate",)), num_steps=2, **settings)


def nothing(inputs):
    """As where the return is forgotten."""


MISTAKES = {
    "labels": ([weighted(right)], "round 1: it looks at labels, which .* oracle=True"),
    "groups": ([weighted(lambda i: i.in_group[0])], "looks at in_group, .* give it oracle=True"),
    "labelled": ([weighted(lambda i: i.labelled)], "give it on_labelled=True"),
    "recorded": ([FIRST, weighted(lambda i: i.last_held[0])], "a Train with record_every before"),
    "labels of a step": ([trained(lambda z, i, _: z[0] * i.labels)], "looks at labels"),
    "keep_fraction": ([FIRST, weighted(most_confident)], "round 2: .* name 'keep_fraction' among"),
    "loss": ([Fit(hard_pseudolabels, loss=lambda v: gce(v["gce_q"]))], "name 'gce_q' among"),
    "step": ([Train(GradientStep(hard_loss, adam), 2)], "name 'learning_rate' among"),
    "reads": ([Fit(hard_pseudolabels, reads=("keep",))], "reads keep, which is no axis"),
    "targets' shape": ([Fit(lambda i: i.teacher_probabilities[:, 1])], r"found float32 of shape"),
    "weights' shape": ([weighted(lambda i: jnp.float32(1))], r"weights must be one a row, .* \[\]"),
    "loss's shape": ([trained(lambda z, i, _: jnp.mean(z))], "loss must be one number a row"),
    "NaN": ([Fit(lambda i: soft_pseudolabels(i) / 0)], "targets are NaN or infinite"),
    "sum": ([Fit(lambda i: 2 * soft_pseudolabels(i))], "do not sum to one"),
    "class": ([Fit(lambda i: hard_pseudolabels(i) + 1)], "outside 0..c-1"),
    "weights": ([weighted(lambda i: -1.0 * i.valid)], "weights are negative, NaN or infinite"),
    "one row": ([weighted(lambda i: 1 / jnp.arange(i.valid.size))], "negative, NaN or infinite"),
    "no array": ([Fit(nothing)], "must be arrays, found None"),
    "nothing recorded": ([trained(hard_loss, record_every=1)], "has nothing to record"),
    "no round": (["fit"], "must be a tuple of Fit and Train"),
}


@pytest.fixture(scope="module")
def pairs():
    return ((toy_set("weak"), toy_set("strong", seed=1)),)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake, pairs, monkeypatch):
    rounds, message = MISTAKES[mistake]
    monkeypatch.setitem(METHODS, "mine", Method("mine", lambda options: tuple(rounds)))
    grid = Grid(pairs, methods="mine", eta_u=0.3, n_labelled=40, n_unlabelled=60, seeds=0)
    with pytest.raises(W2SError, match=f"method 'mine'.*{message}") as caught:
        run(grid)
    assert "\n" not in str(caught.value)
