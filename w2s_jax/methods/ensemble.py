"""A bagged teacher: the student learns the mean probabilities of NUM_MEMBERS teachers.

Each member is a teacher head (teacher_l2, teacher's features) on a bootstrap resample of the rows
that the teacher learned from: as many rows, drawn with replacement by seed and member. So the
ensemble costs no label beyond the single teacher's, with which the student's row is compared.
Averages are of probabilities; hard pseudolabels are the class of the largest mean.

Source: Breiman, Bagging predictors, Machine Learning 1996; for weak teachers in an ensemble, Sang
et al., Improving weak-to-strong generalization with scalable oversight and ensemble learning, 2024
(arXiv 2402.00667).

Traps: an ensemble of teachers on further draws of labels is a teacher with more labels, and no
remedy. A resample may lack a class, whose probability is 0 then, or the few minority rows.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.heads.training import position_bits
from w2s_jax.methods.enhanced import OWN_LABELS
from w2s_jax.methods.labelled import is_labelled, labels_of
from w2s_jax.methods.rounds import Fit, Method, RoundInputs

NUM_MEMBERS = 10


def bootstrap_counts(inputs: RoundInputs) -> Float[Array, " n"]:
    """How often each labelled row is drawn ``[n]``; as many draws as there are labelled rows.

    Rows are numbered among the teacher's own, so that the counts do not depend on whatever other
    rows the round has.
    """
    own = is_labelled(inputs) > 0
    size, num_rows = len(own), jnp.sum(own, dtype=jnp.int32)
    words, member = inputs.hyperparameters["seed"], inputs.hyperparameters["member"]
    bits = position_bits(words, member, size)
    drawn = (bits % jnp.maximum(num_rows, 1).astype(bits.dtype)).astype(jnp.int32)
    counts = jnp.zeros(size, jnp.int32).at[drawn].add(jnp.arange(size) < num_rows)
    number = jnp.cumsum(own) - 1
    return jnp.where(own, counts[number], 0).astype(inputs.logits.dtype)


MEMBERS = Fit(
    targets=labels_of,
    weights=bootstrap_counts,
    l2="teacher_l2",
    reads=("seed",),
    on_labelled=True,
    on_unlabelled=False,
    on_teacher_features=True,
    members=NUM_MEMBERS,
)


def rounds(options: Mapping[str, str]) -> tuple[Fit, Fit]:
    """The members, then one student on all unlabelled rows."""
    return MEMBERS, Fit(targets=OWN_LABELS[options["pseudolabels"]])


TEACHER_ENSEMBLE = Method("teacher_ensemble", rounds, options=("pseudolabels",))
