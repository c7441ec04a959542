"""Pseudolabels whose classes have given shares, by Sinkhorn-Knopp scaling.

The teacher's probabilities are scaled by class and by row, ``P_ic exp(a_i + b_c)``, until rows sum
to one and classes to n times their prior: of all that do, the closest to P in relative entropy.
sinkhorn_steps pairs of scalings are made, in log space, the rows' last, so that targets always
sum to one and class shares are met in the limit. The student is fitted to the result (soft), or to
its most probable class (hard).

sinkhorn_prior "uniform" gives all classes the same share, which the draws have at class_prior
"equal"; "pseudolabels" the shares of the teacher's most probable classes. A trap: the mean of the
teacher's probabilities would be no prior to balance to, for they have it already.

Sources: Sinkhorn and Knopp, Pacific Journal of Mathematics 1967; for pseudolabels Asano et al.,
Self-labelling via simultaneous clustering and representation learning, ICLR 2020, and Caron et al.,
SwAV, NeurIPS 2020, whose temperature is 1 here.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from w2s_jax.methods.balancing import pseudolabel_shares
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, hard_pseudolabels


def sinkhorn(
    probabilities: Float[Array, "n c"],
    prior: Float[Array, " c"],
    num_steps: Array,
    valid: Bool[Array, " n"],
) -> Float[Array, "n c"]:
    """Probabilities scaled to class shares `prior` over the valid rows, each row summing to one."""
    smallest = jnp.finfo(probabilities.dtype).tiny
    log_p, log_prior = (jnp.log(jnp.maximum(p, smallest)) for p in (probabilities, prior))
    log_total = jnp.log(jnp.sum(valid))

    def scale(_: Array, offsets: Array) -> Array:
        rows = jax.nn.log_softmax(log_p + offsets, axis=-1)
        log_mass = jax.nn.logsumexp(jnp.where(valid[:, None], rows, -jnp.inf), axis=0)
        return offsets + log_prior - (log_mass - log_total)

    offsets = jax.lax.fori_loop(0, num_steps.astype(jnp.int32), scale, jnp.zeros_like(log_prior))
    return jax.nn.softmax(log_p + offsets, axis=-1)


def uniform_prior(inputs: RoundInputs) -> Float[Array, " c"]:
    """The same share for every class."""
    num_classes = inputs.teacher_probabilities.shape[-1]
    return jnp.full(num_classes, 1 / num_classes, inputs.logits.dtype)


def pseudolabel_prior(inputs: RoundInputs) -> Float[Array, " c"]:
    """Shares of the teacher's most probable classes."""
    return pseudolabel_shares(inputs, hard_pseudolabels(inputs))


PRIORS = {"uniform": uniform_prior, "pseudolabels": pseudolabel_prior}


def _targets(prior: Function, kind: str) -> Callable[[RoundInputs], Array]:
    def targets(inputs: RoundInputs) -> Array:
        num_steps = inputs.hyperparameters["sinkhorn_steps"]
        balanced = sinkhorn(inputs.teacher_probabilities, prior(inputs), num_steps, inputs.valid)
        return balanced if kind == "soft" else jnp.argmax(balanced, axis=-1).astype(jnp.int32)

    return targets


TARGETS = {
    (name, kind): _targets(prior, kind)
    for name, prior in PRIORS.items()
    for kind in ("hard", "soft")
}


def rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on all unlabelled rows."""
    targets = TARGETS[options["sinkhorn_prior"], options["pseudolabels"]]
    return (Fit(targets=targets, reads=("sinkhorn_steps",)),)


SINKHORN = Method("sinkhorn", rounds, options=("pseudolabels", "sinkhorn_prior"))
