"""Enhanced-W2S with another score in place of the entropy: what the masking pass owes to it.

All keep the share keep_fraction of the unlabelled rows and retrain with generalized cross entropy
on the teacher's labels, from zero; only the score differs. `enhanced_random` is the control that
shows what training on fewer rows does by itself. At two classes the student's margin orders rows as
its entropy does.

`enhanced_loss` keeps the rows on which the student agrees most with the pseudolabel, the usual
reading of a small loss as a clean label (Han et al., Co-teaching, NeurIPS 2018);
`enhanced_agreement` those on which student and teacher have the closest probabilities, by
Jensen-Shannon divergence. `enhanced_oracle` knows the truth: right pseudolabels come first, by
entropy among themselves. No score can select better labels, which bounds what selection can do.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.methods import vanilla
from w2s_jax.methods.enhanced import generalized_cross_entropy, own_probabilities
from w2s_jax.methods.labelled import labels_of
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, hard_pseudolabels
from w2s_jax.methods.selection import entropy_score, keep_lowest, margin
from w2s_jax.methods.trained import cross_entropy_rows


def keeps_lowest(score: Function, tie_break: Function | None = None) -> Function:
    """Weight 1 for the rows of lowest score, 0 for the others; ties by tie_break, draw order."""

    def weights(inputs: RoundInputs) -> Array:
        keep_count = inputs.hyperparameters["keep_count"]
        ties = None if tie_break is None else tie_break(inputs)
        kept = keep_lowest(score(inputs), keep_count, inputs.valid, ties)
        return kept.astype(inputs.logits.dtype)

    return weights


def student_margin(inputs: RoundInputs) -> Float[Array, " n"]:
    """Distance of the student's two largest logits, largest first."""
    return -margin(inputs.logits)


def teacher_uncertainty(inputs: RoundInputs) -> Float[Array, " n"]:
    """One minus the teacher's largest probability, as the sum of the others: it does not round."""
    p = inputs.teacher_probabilities
    is_top = jnp.arange(p.shape[-1]) == jnp.argmax(p, axis=-1)[:, None]
    return jnp.sum(jnp.where(is_top, 0.0, p), axis=-1)


def student_loss(inputs: RoundInputs) -> Float[Array, " n"]:
    """The student's cross entropy towards the teacher's most probable class."""
    return cross_entropy_rows(inputs.logits, hard_pseudolabels(inputs))


def disagreement(inputs: RoundInputs) -> Float[Array, " n"]:
    """Jensen-Shannon divergence of teacher's and student's probabilities, in nats."""
    teacher, student = inputs.teacher_probabilities, own_probabilities(inputs)
    middle = (teacher + student) / 2

    def divergence(p: Array) -> Array:
        safe_p, safe_middle = (jnp.where(p > 0, q, 1.0) for q in (p, middle))
        return jnp.sum(p * (jnp.log(safe_p) - jnp.log(safe_middle)), axis=-1)

    return (divergence(teacher) + divergence(student)) / 2


def draw_order(inputs: RoundInputs) -> Float[Array, " n"]:
    """The place in the draw, which is random."""
    return jnp.arange(inputs.logits.shape[1]).astype(inputs.logits.dtype)


def is_wrong(inputs: RoundInputs) -> Float[Array, " n"]:
    """1 where the pseudolabel is wrong, 0 where it is right."""
    return (hard_pseudolabels(inputs) != labels_of(inputs)).astype(inputs.logits.dtype)


def student_entropy(inputs: RoundInputs) -> Float[Array, " n"]:
    """A number that orders rows as the student's predictive entropy does."""
    return entropy_score(inputs.logits)


def _method(
    name: str, weights: Function, oracle: bool = False, version: int | None = None
) -> Method:
    def rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
        retraining = Fit(
            targets=vanilla.PSEUDOLABELS[options["pseudolabels"]],
            weights=weights,
            loss=generalized_cross_entropy,
            l2="retrain_l2",
            reads=("keep_fraction", "gce_q"),
            oracle=oracle,
        )
        return (*vanilla.rounds(options), retraining)

    return Method(name, rounds, options=("pseudolabels",), version=version)


# Version 1 of `enhanced_teacher` rounded the teacher's confidence to one.
SELECTED = tuple(
    _method(f"enhanced_{name}", keeps_lowest(score), version=2 if name == "teacher" else None)
    for name, score in {
        "margin": student_margin,
        "teacher": teacher_uncertainty,
        "loss": student_loss,
        "agreement": disagreement,
        "random": draw_order,
    }.items()
)
ENHANCED_ORACLE = _method(
    "enhanced_oracle", keeps_lowest(is_wrong, tie_break=student_entropy), oracle=True
)
