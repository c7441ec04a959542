"""Loss correction: the student learns what lies behind pseudolabels of a known noise.

With T the noise matrix, ``T_ij = P(pseudolabel j | class i)``, p the student's probabilities and y
the pseudolabel,

- `forward_correction`: ``-log (T' p)_y`` for hard pseudolabels. With T true its minimum, in
  expectation, is that of the loss on clean labels. Not convex.
- `backward_correction`: ``sum_j (T^-1)_yj CE(p, j)``, which is unbiased for the loss on clean
  labels; with soft pseudolabels, its mean over them. It is cross entropy towards the targets
  ``T^-1' y``, which sum to one and may be negative. It is convex, but where a class's mean target
  is not positive it has no minimum, and the head's status says so (no_minimum: w = 0, b = 0).

T comes from the vanilla student's probabilities at anchor points (see `anchor_matrix`;
anchor_quantile), mixed with the identity: ``(1 - identity_weight) T + identity_weight I``, as
Patrini et al. advise where T is near singular. identity_weight 1 is vanilla; a singular T corrects
nothing (backward). No true label enters.

Source: Patrini et al., Making deep neural networks robust to label noise: a loss correction
approach, CVPR 2017, theorems 1 and 2 and section 4.

Traps: T is transposed in one of the two; rows of T sum to one, columns do not. And the theory asks
for noise that depends on the class alone: hard pseudolabels of a linear teacher depend on the row
with certainty, so that T is a description here, not a model. The forward loss is fitted to the
targets ``T_.y / sum_i T_iy``, which adds the row's constant ``log sum_i T_iy`` to it: the reported
objective contains its mean.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.heads.losses import Loss, log_probabilities
from w2s_jax.methods import vanilla
from w2s_jax.methods.enhanced import own_probabilities
from w2s_jax.methods.noise import anchor_matrix, inverse
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, hard_pseudolabels

READS = ("anchor_quantile", "identity_weight")


def noise_matrix(inputs: RoundInputs) -> Float[Array, "c c"]:
    """Estimate of T, mixed with the identity."""
    p = own_probabilities(inputs)
    share = inputs.hyperparameters["identity_weight"]
    estimate = anchor_matrix(p, inputs.hyperparameters["anchor_quantile"], inputs.valid)
    return (1 - share) * estimate + share * jnp.eye(p.shape[-1], dtype=p.dtype)


def likely_origin(inputs: RoundInputs) -> Float[Array, "n c"]:
    """Column of T of each row's hard pseudolabel, scaled to sum one."""
    columns = noise_matrix(inputs).T
    total = jnp.sum(columns, axis=1, keepdims=True)
    uniform = jnp.full_like(columns, 1 / len(columns))
    return jnp.where(total > 0, columns / jnp.where(total > 0, total, 1.0), uniform)[
        hard_pseudolabels(inputs)
    ]


def _minus_log_dot(logits: Array, target: Array) -> Float[Array, ""]:
    return -jax.nn.logsumexp(log_probabilities(logits), b=target)


def forward_loss(hyperparameters: Mapping[str, Array]) -> Loss:
    """``-log sum_c t_c p_c``: cross entropy for a one-hot target, not convex otherwise."""
    return Loss(_minus_log_dot, name="forward_correction")


def _unmixed(pseudolabels: Function) -> Callable[[RoundInputs], Array]:
    def targets(inputs: RoundInputs) -> Float[Array, "n c"]:
        by_label = inverse(noise_matrix(inputs))
        by_label = jnp.where(jnp.all(jnp.isfinite(by_label)), by_label, jnp.eye(len(by_label)))
        labels = pseudolabels(inputs)
        if labels.ndim == 1:
            return by_label[labels]
        return jnp.matmul(labels, by_label, precision=jax.lax.Precision.HIGHEST)

    return targets


UNMIXED = {kind: _unmixed(pseudolabels) for kind, pseudolabels in vanilla.PSEUDOLABELS.items()}


def forward_rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then the forward-corrected fit; both on hard pseudolabels."""
    corrected = Fit(targets=likely_origin, loss=forward_loss, l2="retrain_l2", reads=READS)
    return (*vanilla.rounds({"pseudolabels": "hard"}), corrected)


def backward_rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then the fit to corrected targets."""
    corrected = Fit(targets=UNMIXED[options["pseudolabels"]], l2="retrain_l2", reads=READS)
    return (*vanilla.rounds(options), corrected)


FORWARD_CORRECTION = Method("forward_correction", forward_rounds)
BACKWARD_CORRECTION = Method("backward_correction", backward_rounds, options=("pseudolabels",))
