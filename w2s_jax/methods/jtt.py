"""Just train twice: rows that a first student finds hard count for more.

Rows on which the vanilla student's most probable class is not the teacher's have the weight
upweight, the others 1, in a second fit from zero. No group labels.

Source: Liu et al., Just train twice: improving group robustness without training group information,
ICML 2021. Their first model is stopped early; here it is regularised by student_l2, the second by
retrain_l2.

A trap: what is hard are rows where the student disagrees with its *teacher*. These are the minority
where the teacher is right about it, and the teacher's mistakes where the student is.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.methods import vanilla
from w2s_jax.methods.enhanced import own_hard_labels
from w2s_jax.methods.rounds import Fit, Method, RoundInputs, hard_pseudolabels


def upweighted_disagreement(inputs: RoundInputs) -> Float[Array, " n"]:
    """Weight upweight where student and teacher choose different classes, 1 elsewhere."""
    differ = own_hard_labels(inputs) != hard_pseudolabels(inputs)
    weight = inputs.hyperparameters["upweight"]
    return jnp.where(differ, weight, 1.0).astype(inputs.logits.dtype)


def rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then the reweighted fit."""
    second = Fit(
        targets=vanilla.PSEUDOLABELS[options["pseudolabels"]],
        weights=upweighted_disagreement,
        l2="retrain_l2",
        reads=("upweight",),
    )
    return (*vanilla.rounds(options), second)


JTT = Method("jtt", rounds, options=("pseudolabels",))
