"""Auxiliary confidence losses: the student learns its teacher's labels and its own hard ones.

`confidence`: ``(1 - a_t) CE(student, pseudolabel) + a_t CE(student, h)`` with h the student's own
hard label under a balanced threshold: classes are offset so that the share of each among the
hardened labels is its share in the pseudolabels, over the rows of the step (a minibatch, or all).
The weight rises linearly, ``a_t = confidence_weight min(1, t / (warmup_fraction num_steps))`` after
t steps. Burns et al. use weights 0.5 and 0.75 and a warm-up of the first fifth.

Source: Burns et al., Weak-to-strong generalization, 2023 (arXiv 2312.09390), section 4.3.2 and
appendix A.4, for two classes. More than two are our generalisation (see `balanced_labels`).

`confidence_adaptive`: the weight is the row's own, ``a_t(x) = min(1, t / (warmup_fraction
num_steps)) s(x)`` with ``s = exp(CE(student, h) / T) / (exp(CE(student, h) / T) + exp(CE(student,
y) / T))``, h the student's and y the teacher's most probable class, both without balancing, and T
the confidence_temperature (1 in the paper's formula). It is ``sigmoid((z_y - z_h) / T)`` in the
student's logits: one half where student and teacher agree and less the more the student prefers its
own class, so that it never outvotes its teacher.

Source: Guo et al., Vision superalignment: weak-to-strong generalization for vision foundation
models, 2024 (arXiv 2402.03749), with the temperature and the warm-up of their public code.

Hardened labels and weights are constants to the gradient. Early stopping scores by the pseudolabels
alone, because the loss itself moves. A trap: the ramp of much public code is ``a t / num_steps``
until the warm-up ends and then jumps, by a factor 1 / warmup_fraction, to a.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from w2s_jax.methods import vanilla
from w2s_jax.methods.balancing import (
    balanced_labels,
    class_counts,
    class_logits,
    pseudolabel_shares,
)
from w2s_jax.methods.gradient import GradientStep, RowFunction
from w2s_jax.methods.rounds import Method, RoundInputs, Train, hard_pseudolabels
from w2s_jax.methods.trained import LOSSES, OPTIMIZERS, cross_entropy_rows

Weighting = Callable[[Array, RoundInputs], tuple[Array, Array]]


def warmup(inputs: RoundInputs, step: Array) -> Float[Array, ""]:
    """From 0 to 1 over the share warmup_fraction of the steps, then 1."""
    length = inputs.hyperparameters["warmup_fraction"] * inputs.hyperparameters["num_steps"]
    return jnp.where(step < length, step / jnp.where(length > 0, length, 1.0), 1.0)


def balanced(kind: str) -> Weighting:
    """The student's hard labels under the balanced threshold, and the weight that all rows have."""

    def weighting(logits: Array, inputs: RoundInputs) -> tuple[Int[Array, " m"], Float[Array, ""]]:
        shares = pseudolabel_shares(inputs, vanilla.PSEUDOLABELS[kind](inputs))
        counts = class_counts(shares, jnp.sum(inputs.valid, dtype=jnp.int32))
        own = balanced_labels(logits, counts, inputs.valid)
        return own, inputs.hyperparameters["confidence_weight"]

    return weighting


def adaptive(logits: Array, inputs: RoundInputs) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    """The student's most probable classes, and each row's weight."""
    z = class_logits(logits)
    own = jnp.argmax(z, axis=0).astype(jnp.int32)
    taught = jnp.take_along_axis(z, hard_pseudolabels(inputs)[None], axis=0)[0]
    lag = taught - jnp.max(z, axis=0)
    return own, jax.nn.sigmoid(lag / inputs.hyperparameters["confidence_temperature"])


def _confidence_loss(kind: str, weighting: Weighting) -> RowFunction:
    taught = LOSSES[kind]

    def loss(logits: Array, inputs: RoundInputs, step: Array) -> Float[Array, " m"]:
        own, weight = weighting(jax.lax.stop_gradient(logits), inputs)
        weight = weight * warmup(inputs, step)
        return (1 - weight) * taught(logits, inputs, step) + weight * cross_entropy_rows(
            logits, own
        )

    return loss


def _method(name: str, losses: Mapping[str, RowFunction], read: str) -> Method:
    def rounds(options: Mapping[str, str]) -> tuple[Train]:
        step = GradientStep(
            loss=losses[options["pseudolabels"]],
            optimizer=OPTIMIZERS[options["optimizer"]],
            reads=("learning_rate", "num_steps", "warmup_fraction", read),
            held_out_loss=LOSSES[options["pseudolabels"]],
        )
        return (Train(step, "num_steps", batch_size="batch_size", patience="patience"),)

    return Method(name, rounds, options=("pseudolabels", "optimizer"))


# Made once each, so that equal rounds are recognised as equal.
BALANCED_LOSSES = {kind: _confidence_loss(kind, balanced(kind)) for kind in LOSSES}
ADAPTIVE_LOSSES = {kind: _confidence_loss(kind, adaptive) for kind in LOSSES}
CONFIDENCE = _method("confidence", BALANCED_LOSSES, "confidence_weight")
CONFIDENCE_ADAPTIVE = _method("confidence_adaptive", ADAPTIVE_LOSSES, "confidence_temperature")
