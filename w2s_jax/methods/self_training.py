"""Students that come to believe themselves: soft labels shared with the teacher, and self-training.

`product`: the student is retrained on the normalised product of the teacher's and its own
probabilities, a product of two experts (Hinton, 2002).

`self_training`: three rounds on the student's own most probable classes, each row weighted by one
minus its entropy over log c, as in COSINE (Yu et al., NAACL 2021), whose contrastive part has no
counterpart for a linear head. A trap: with hard labels and no weights the first round would change
nothing but the margins.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from w2s_jax.methods import vanilla
from w2s_jax.methods.enhanced import own_hard_labels, own_probabilities
from w2s_jax.methods.rounds import Fit, Method, RoundInputs

NUM_ROUNDS = 3


def product_of_experts(inputs: RoundInputs) -> Float[Array, "n c"]:
    """Teacher's times student's probabilities, normalised."""
    smallest = jnp.finfo(inputs.logits.dtype).tiny
    both = (inputs.teacher_probabilities, own_probabilities(inputs))
    teacher, student = (jnp.log(jnp.maximum(p, smallest)) for p in both)
    return jax.nn.softmax(teacher + student, axis=-1)


def confidence(inputs: RoundInputs) -> Float[Array, " n"]:
    """One minus the student's entropy as a share of the largest possible."""
    p = own_probabilities(inputs)
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)
    return jnp.clip(1 - entropy / np.log(p.shape[-1]), 0.0, 1.0)


def product_rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then a fit to the product."""
    return (*vanilla.rounds(options), Fit(targets=product_of_experts))


def self_training_rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then rounds on its own labels, weighted by confidence."""
    own = Fit(targets=own_hard_labels, weights=confidence)
    return (*vanilla.rounds(options), *[own] * NUM_ROUNDS)


PRODUCT = Method("product", product_rounds, options=("pseudolabels",))
SELF_TRAINING = Method("self_training", self_training_rounds, options=("pseudolabels",))
