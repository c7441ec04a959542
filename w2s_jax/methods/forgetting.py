"""Enhanced-W2S on the rows that a student forgets last when it goes on to learn other rows.

The unlabelled rows are split in two halves. A student is fitted to the pseudolabels of the first
half (to the minimum at student_l2) and then trained on the second half alone for num_steps full
steps. The *second-split forgetting time* of a row of the first half is the first checkpoint from
which on its prediction is never again its pseudolabel: 0 where it never is, num_steps + 1 where it
is at the end. A checkpoint follows every step, and one is before the first. The halves change
roles, so that every row has its time. Wrong labels are forgotten soon, because what is learned from
other rows contradicts them, rare examples late. The share keep_fraction of latest times is kept
(ties by draw order, which is random), and a head is fitted to it as in Enhanced-W2S.

Source: Maini et al., Characterizing datapoints via second-split forgetting, NeurIPS 2022.

Traps: their networks fit every row of the first split, wrong labels too, before they forget; a
penalised linear head leaves some unlearned, which are the first to go. Most rows
are never forgotten: where they are more than are kept, the score chooses among them at random.
Epochs of minibatches are full steps here. And the label that is forgotten is the teacher's: where
it is wrong in the same way on a whole group, the other half says nothing against it.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.methods import vanilla
from w2s_jax.methods.balancing import class_logits
from w2s_jax.methods.enhanced import generalized_cross_entropy
from w2s_jax.methods.gradient import GradientStep
from w2s_jax.methods.rounds import Fit, Method, Round, RoundInputs, Train, hard_pseudolabels
from w2s_jax.methods.selected import keeps_lowest
from w2s_jax.methods.trained import LOSSES, OPTIMIZERS


def half_of(inputs: RoundInputs) -> Int[Array, " n"]:
    """The half that each row belongs to, 0 or 1: every second row of the draw."""
    return jnp.arange(inputs.logits.shape[1]) % 2


def first_half(inputs: RoundInputs) -> Float[Array, " n"]:
    """Weight 1 for the half that the member fits first, 0 for the other."""
    return (half_of(inputs) == inputs.hyperparameters["member"]).astype(inputs.logits.dtype)


def second_half(logits: Array, inputs: RoundInputs, step: Array) -> Float[Array, " n"]:
    """Weight 1 for the half that the member goes on to learn, 0 for the other."""
    return 1 - first_half(inputs)


def is_pseudolabel(logits: Array, inputs: RoundInputs, step: Array) -> Bool[Array, " n"]:
    """Whether the student's most probable class is the teacher's."""
    return jnp.argmax(class_logits(logits), axis=0) == hard_pseudolabels(inputs)


def forgetting_time(inputs: RoundInputs) -> Int[Array, " n"]:
    """Second-split forgetting time of every row, in checkpoints."""
    if inputs.last_held is None:
        raise TypeError("the round before recorded nothing; set record_every")
    member = half_of(inputs)[None]
    return jnp.take_along_axis(inputs.last_held, member, axis=0)[0] + 1


def soon_forgotten(inputs: RoundInputs) -> Float[Array, " n"]:
    """Minus the forgetting time."""
    return -forgetting_time(inputs).astype(inputs.logits.dtype)


LAST_FORGOTTEN = keeps_lowest(soon_forgotten)


def rounds(options: Mapping[str, str]) -> tuple[Round, ...]:
    """Both halves fitted, each followed by the other, then the retraining."""
    kind = options["pseudolabels"]
    targets = vanilla.PSEUDOLABELS[kind]
    learn = Fit(targets=targets, weights=first_half, members=2)
    step = GradientStep(
        loss=LOSSES[kind],
        optimizer=OPTIMIZERS[options["optimizer"]],
        weights=second_half,
        reads=("learning_rate",),
        holding=is_pseudolabel,
    )
    forget = Train(step, "num_steps", warm_start=True, members=2, record_every=1)
    retraining = Fit(
        targets=targets,
        weights=LAST_FORGOTTEN,
        loss=generalized_cross_entropy,
        l2="retrain_l2",
        reads=("keep_fraction", "gce_q"),
    )
    return learn, forget, retraining


ENHANCED_FORGETTING = Method("enhanced_forgetting", rounds, options=("pseudolabels", "optimizer"))
