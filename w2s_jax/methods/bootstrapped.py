"""Bootstrapping and entropy minimisation: objectives in which the student's own belief counts.

With p the student's probabilities, y the pseudolabel (hard or soft) and w the bootstrap_weight,

- `bootstrap_hard`: ``(1 - w) CE(p, y) + w CE(p, z)``, z the student's most probable class,
- `bootstrap_soft`: ``(1 - w) CE(p, y) + w H(p)``, H the entropy in nats,
- `entropy_minimisation`: ``CE(p, y) + entropy_weight H(p)``, which is bootstrap_soft at ``w =
  entropy_weight / (1 + entropy_weight)`` under the penalty ``l2 / (1 + entropy_weight)``.

Sources: Reed et al., Training deep neural networks on noisy labels with bootstrapping, ICLR 2015
workshop, section 3.2, whose beta is 1 - w (0.8 for hard, 0.95 for soft); Grandvalet and Bengio,
Semi-supervised learning by entropy minimization, NeurIPS 2004, where labelled rows carry the first
term and unlabelled rows the second. Here every row has a pseudolabel and carries both.

None is convex. The hard form has a kink wherever a row changes its class, and many minima: it is
fitted in rounds from the vanilla student, each to the minimum with z as the round before has it. No
round raises the objective, for CE(p, z) is least at the student's own z; few change a z after the
second. The soft forms are smooth losses of the logits, each a fit from zero or from the vanilla
student (retrain_init). A trap: their gradient passes through both p of H; with the target held
constant it is zero, and nothing is bootstrapped.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.heads.losses import Loss, log_probabilities
from w2s_jax.methods import vanilla
from w2s_jax.methods.enhanced import own_hard_labels
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, as_probabilities

NUM_ROUNDS = 4


def _mixed_with_own(pseudolabels: Function) -> Callable[[RoundInputs], Array]:
    def targets(inputs: RoundInputs) -> Float[Array, "n c"]:
        labels = as_probabilities(pseudolabels(inputs), inputs)
        own = as_probabilities(own_hard_labels(inputs), inputs)
        weight = inputs.hyperparameters["bootstrap_weight"]
        return (1 - weight) * labels + weight * own

    return targets


MIXED = {kind: _mixed_with_own(pseudolabels) for kind, pseudolabels in vanilla.PSEUDOLABELS.items()}


def hard_rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """The vanilla round, then rounds on pseudolabels mixed with the student's last hard labels."""
    mixed = Fit(targets=MIXED[options["pseudolabels"]], reads=("bootstrap_weight",))
    return (*vanilla.rounds(options), *[mixed] * NUM_ROUNDS)


def _taught_and_entropy(logits: Array, target: Array, taught: Array, own: Array) -> Array:
    log_p = log_probabilities(logits)
    return -taught * jnp.sum(target * log_p) - own * jnp.sum(jnp.exp(log_p) * log_p)


def bootstrap_soft_loss(hyperparameters: Mapping[str, Array]) -> Loss:
    """``(1 - w) CE + w H``."""
    weight = hyperparameters["bootstrap_weight"]
    return Loss(_taught_and_entropy, params=(1 - weight, weight), name="taught_and_entropy")


def entropy_loss(hyperparameters: Mapping[str, Array]) -> Loss:
    """``CE + entropy_weight H``."""
    weight = hyperparameters["entropy_weight"]
    params = (jnp.ones_like(weight), weight)
    return Loss(_taught_and_entropy, params=params, name="taught_and_entropy")


def _method(name: str, loss: Callable[[Mapping[str, Array]], Loss], read: str) -> Method:
    def rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
        warm = options["retrain_init"] == "warm"
        targets = vanilla.PSEUDOLABELS[options["pseudolabels"]]
        fit = Fit(targets=targets, loss=loss, reads=(read,), warm_start=warm)
        return (*vanilla.rounds(options), fit) if warm else (fit,)

    return Method(name, rounds, options=("pseudolabels", "retrain_init"))


BOOTSTRAP_HARD = Method("bootstrap_hard", hard_rounds, options=("pseudolabels",))
BOOTSTRAP_SOFT = _method("bootstrap_soft", bootstrap_soft_loss, "bootstrap_weight")
ENTROPY_MINIMISATION = _method("entropy_minimisation", entropy_loss, "entropy_weight")
