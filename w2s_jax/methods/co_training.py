"""Co-training of teacher and student: two views of the same rows that teach each other.

Teacher's and student's features are the views. Both sides know the rows that the teacher learned
from, with their labels. In turn, each side labels the unlabelled rows, and the other is fitted,
from zero and with cross entropy, to the labelled rows and to those pseudolabels of which the first
side is most confident, every row with the same weight:

    teacher -> student -> (teacher -> student) NUM_ROUNDS times

A side is confident of the rows of lowest entropy; the share keep_fraction of all unlabelled rows is
taken from each predicted class in proportion to its predicted rows. Teachers have the penalty
teacher_l2, students student_l2.

Source: Blum and Mitchell, Combining labeled and unlabeled data with co-training, COLT 1998, where a
few rows of each class join the labelled set for good in each of many rounds. Here pseudolabels are
given anew in every round, as in Nigam and Ghani, Analyzing the effectiveness and applicability of
co-training, CIKM 2000 (their co-EM), but hard, and of confident rows only.

Traps: the theory asks for views that are independent given the class, which two encoders of one
text or image are not: both see the spurious attribute. Taking the most confident rows whatever
their class feeds one class alone where a side is biased. And the student profits from the labelled
rows as such: `labelled_and_pseudo` is what it has to be compared with, not vanilla.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from w2s_jax.methods.balancing import class_counts
from w2s_jax.methods.enhanced import own_hard_labels
from w2s_jax.methods.labelled import is_labelled, labels_of
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, hard_pseudolabels
from w2s_jax.methods.selection import entropy_score, keep_lowest

NUM_ROUNDS = 2


def teacher_entropy(inputs: RoundInputs) -> Float[Array, " n"]:
    """The teacher's predictive entropy, in nats."""
    p = inputs.teacher_probabilities
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)


def previous_entropy(inputs: RoundInputs) -> Float[Array, " n"]:
    """A number that orders rows as the predictive entropy of the other side does."""
    return entropy_score(inputs.logits)


def most_confident_of_each_class(
    score: Float[Array, " n"], labels: Int[Array, " n"], inputs: RoundInputs
) -> Array:
    """The unlabelled rows of lowest score in each predicted class, keep_count in all ``[n]``."""
    unlabelled = inputs.valid & (is_labelled(inputs) == 0)
    predicted = labels == jnp.arange(inputs.teacher_probabilities.shape[-1])[:, None]
    predicted = predicted & unlabelled
    shares = jnp.sum(predicted, axis=1) / jnp.maximum(jnp.sum(unlabelled), 1)
    counts = class_counts(shares, inputs.hyperparameters["keep_count"])
    return jnp.any(jax.vmap(keep_lowest, (None, 0, 0))(score, counts, predicted), axis=0)


def _taught_by(labels: Function) -> Function:
    def targets(inputs: RoundInputs) -> Int[Array, " n"]:
        known = labels_of(inputs)
        return jnp.where(known >= 0, known, labels(inputs))

    return targets


def _confident(labels: Function, score: Function) -> Callable[[RoundInputs], Array]:
    def weights(inputs: RoundInputs) -> Float[Array, " n"]:
        kept = most_confident_of_each_class(score(inputs), labels(inputs), inputs)
        return is_labelled(inputs) + kept

    return weights


FIRST = Fit(
    targets=_taught_by(hard_pseudolabels),
    weights=_confident(hard_pseudolabels, teacher_entropy),
    reads=("keep_fraction",),
    on_labelled=True,
)
STUDENT = Fit(
    targets=_taught_by(own_hard_labels),
    weights=_confident(own_hard_labels, previous_entropy),
    reads=("keep_fraction",),
    on_labelled=True,
)
TEACHER = Fit(
    targets=STUDENT.targets,
    weights=STUDENT.weights,
    l2="teacher_l2",
    reads=("keep_fraction",),
    on_labelled=True,
    on_teacher_features=True,
)


def rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """A student on the teacher's confident labels, then both sides in turn."""
    return (FIRST, *[TEACHER, STUDENT] * NUM_ROUNDS)


CO_TRAINING = Method("co_training", rounds)
