"""Enhanced-W2S: the vanilla student is retrained on its own most confident rows.

The unlabelled rows are ranked by the student's predictive entropy, the lowest share keep_fraction
is kept, and a head is trained on it with generalized cross entropy. No group labels anywhere.

Source: Liu, Dong and Lei, Does Weak-to-strong Generalization Happen under Spurious Correlations?,
ICLR 2026. The published text leaves room for the options: targets from the teacher or from the
student itself, a start from zero or from the vanilla student.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array

from w2s_jax.heads.logistic import probabilities_of
from w2s_jax.heads.losses import Loss, gce
from w2s_jax.methods import vanilla
from w2s_jax.methods.rounds import Fit, Method, RoundInputs
from w2s_jax.methods.selection import entropy_score, keep_lowest, margin


def most_confident(inputs: RoundInputs) -> Array:
    """Weight 1 for the rows of lowest entropy, 0 for the others ``[n]``."""
    kept = keep_lowest(
        entropy_score(inputs.logits),
        inputs.hyperparameters["keep_count"],
        inputs.valid,
        None if inputs.logits.shape[0] == 1 else margin(inputs.logits),
    )
    return kept.astype(inputs.logits.dtype)


def own_hard_labels(inputs: RoundInputs) -> Array:
    """The student's most probable class of each row ``[n]``."""
    return jnp.argmax(own_probabilities(inputs), axis=-1).astype(jnp.int32)


def own_probabilities(inputs: RoundInputs) -> Array:
    """The student's probabilities ``[n, c]``."""
    return probabilities_of(inputs.logits[None])[0]


def generalized_cross_entropy(hyperparameters: Mapping[str, Array]) -> Loss:
    """GCE at each head's gce_q."""
    return gce(hyperparameters["gce_q"])


OWN_LABELS = {"hard": own_hard_labels, "soft": own_probabilities}


def rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then the retraining."""
    by_source = {"teacher": vanilla.PSEUDOLABELS, "student": OWN_LABELS}
    retraining = Fit(
        targets=by_source[options["retrain_targets"]][options["pseudolabels"]],
        weights=most_confident,
        loss=generalized_cross_entropy,
        l2="retrain_l2",
        reads=("keep_fraction", "gce_q"),
        warm_start=options["retrain_init"] == "warm",
    )
    return (*vanilla.rounds(options), retraining)


ENHANCED = Method("enhanced", rounds, options=("pseudolabels", "retrain_targets", "retrain_init"))
