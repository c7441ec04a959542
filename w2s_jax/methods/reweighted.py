"""Robustness to groups that nobody named: rows that a first student finds hard count for more.

`jtt`: rows on which the vanilla student's most probable class is not the teacher's have the weight
upweight, the others 1, in a second fit from zero. Source: Liu et al., Just Train Twice, ICML 2021.
Their first model is stopped early; here it is regularised by student_l2, the second by retrain_l2.

`lff`: ``mean_i W_i CE(student, y_i)`` with the relative difficulty ``W = CE_b / (CE_b + CE_d)``,
CE_b the cross entropy of a biased head on the row and CE_d that of the student under training; W is
a constant to the gradient. The biased head is fitted with generalized cross entropy (gce_q), which
dwells on easy rows. Source: Nam et al., Learning from failure, NeurIPS 2020, algorithm 1. Ours is a
variant in two stages: the biased head is fitted first and stays, where theirs is trained alongside;
and it is without their public code's moving averages of losses and scaling by each class's largest.
As there, the sum is divided by the number of rows, not by the weights, so that the penalty weighs
more the smaller the weights.

What both find are rows where the student disagrees with its *teacher*. These are the minority where
the teacher is right about it, and the teacher's mistakes where the student is.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.methods import vanilla
from w2s_jax.methods.enhanced import generalized_cross_entropy, own_hard_labels
from w2s_jax.methods.gradient import GradientStep, RowFunction
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, Train, hard_pseudolabels
from w2s_jax.methods.trained import LOSSES, OPTIMIZERS, cross_entropy_rows


def upweighted_disagreement(inputs: RoundInputs) -> Float[Array, " n"]:
    """Weight upweight where student and teacher choose different classes, 1 elsewhere."""
    differ = own_hard_labels(inputs) != hard_pseudolabels(inputs)
    weight = inputs.hyperparameters["upweight"]
    return jnp.where(differ, weight, 1.0).astype(inputs.logits.dtype)


def jtt_rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then the reweighted fit."""
    second = Fit(
        targets=vanilla.PSEUDOLABELS[options["pseudolabels"]],
        weights=upweighted_disagreement,
        l2="retrain_l2",
        reads=("upweight",),
    )
    return (*vanilla.rounds(options), second)


def relative_difficulty(
    biased: Float[Array, " m"], student: Float[Array, " m"]
) -> Float[Array, " m"]:
    """``biased / (biased + student)`` of losses; one half where both are zero."""
    total = biased + student
    return jnp.where(total > 0, biased / jnp.where(total > 0, total, 1.0), 0.5)


def _difficulty_loss(pseudolabels: Function) -> Callable[[Array, RoundInputs, Array], Array]:
    def loss(logits: Array, inputs: RoundInputs, step: Array) -> Float[Array, " m"]:
        labels = pseudolabels(inputs)
        own = cross_entropy_rows(logits, labels)
        weight = relative_difficulty(cross_entropy_rows(inputs.logits, labels), own)
        return jax.lax.stop_gradient(weight) * own

    return loss


DIFFICULTY_LOSSES: dict[str, RowFunction] = {
    kind: _difficulty_loss(pseudolabels) for kind, pseudolabels in vanilla.PSEUDOLABELS.items()
}


def lff_rounds(options: Mapping[str, str]) -> tuple[Fit, Train]:
    """The biased head, then the student trained on what that finds hard."""
    kind = options["pseudolabels"]
    biased = Fit(
        targets=vanilla.PSEUDOLABELS[kind], loss=generalized_cross_entropy, reads=("gce_q",)
    )
    step = GradientStep(
        loss=DIFFICULTY_LOSSES[kind],
        optimizer=OPTIMIZERS[options["optimizer"]],
        l2="retrain_l2",
        reads=("learning_rate",),
        held_out_loss=LOSSES[kind],
    )
    train = Train(step, "num_steps", batch_size="batch_size", patience="patience")
    return (biased, train)


JTT = Method("jtt", jtt_rounds, options=("pseudolabels",))
LFF = Method("lff", lff_rounds, options=("pseudolabels", "optimizer"))
