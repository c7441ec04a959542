"""Students that learn from the teacher's labelled rows: what pseudolabels are to be compared with.

`labelled` trains on these rows alone, with their true labels: a strong student with weak data. It
depends on the teacher through its rows only. `labelled_and_pseudo` trains on them and on the
pseudolabelled rows together, every row with the same weight, as self-training does (Lee,
Pseudo-Label, ICML workshop 2013, with a weight of one).
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from w2s_jax.methods import vanilla
from w2s_jax.methods.rounds import Fit, Method, RoundInputs, as_probabilities


def labels_of(inputs: RoundInputs) -> Array:
    """The labels that the round sees ``[n]``, -1 elsewhere."""
    if inputs.labels is None:
        raise TypeError("the round sees no labels; set on_labelled or oracle")
    return inputs.labels


def is_labelled(inputs: RoundInputs) -> Array:
    """Weight 1 for rows that the teacher learned from, 0 for the others ``[n]``."""
    if inputs.labelled is None:
        raise TypeError("the round sees no labelled rows; set on_labelled")
    return inputs.labelled.astype(inputs.logits.dtype)


def _labels_or_hard(inputs: RoundInputs) -> Array:
    labels = labels_of(inputs)
    return jnp.where(labels >= 0, labels, vanilla.PSEUDOLABELS["hard"](inputs))


def _labels_or_soft(inputs: RoundInputs) -> Array:
    labels, soft = labels_of(inputs), vanilla.PSEUDOLABELS["soft"](inputs)
    return jnp.where((labels >= 0)[:, None], as_probabilities(labels, inputs), soft)


def labelled_rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on the labelled rows."""
    return (Fit(targets=labels_of, on_labelled=True, on_unlabelled=False),)


BOTH = {"hard": _labels_or_hard, "soft": _labels_or_soft}


def both_rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on labelled and pseudolabelled rows."""
    return (Fit(targets=BOTH[options["pseudolabels"]], on_labelled=True),)


LABELLED = Method("labelled", labelled_rounds)
LABELLED_AND_PSEUDO = Method("labelled_and_pseudo", both_rounds, options=("pseudolabels",))
