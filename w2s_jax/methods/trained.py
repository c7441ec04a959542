"""Vanilla weak-to-strong trained for given steps: the recipe of those who fine-tune a head.

The student learns the teacher's pseudolabels with cross entropy and the penalty of the vanilla fit,
by an optimizer, from zero, on all rows or in minibatches, and with early stopping on request. Many
steps end at the vanilla student; few steps are a regulariser of their own.
"""

from collections.abc import Mapping

import optax
from jaxtyping import Array, Float, Int

from w2s_jax.heads.losses import binary_cross_entropy, cross_entropy, loss_per_sample
from w2s_jax.methods import vanilla
from w2s_jax.methods.gradient import GradientStep
from w2s_jax.methods.rounds import Method, RoundInputs, Train, hard_pseudolabels, soft_pseudolabels


def cross_entropy_rows(
    logits: Float[Array, "k m"], targets: Int[Array, " m"] | Float[Array, "m c"]
) -> Float[Array, " m"]:
    """Cross entropy of each row, for class indices or soft targets."""
    if logits.shape[0] == 1:
        of_class_1 = targets if targets.ndim == 1 else targets[:, 1]
        return binary_cross_entropy(logits[0], of_class_1.astype(logits.dtype))
    if targets.ndim == 2:
        targets = targets.T
    return loss_per_sample(cross_entropy(), logits[None], targets[None])[0]


def hard_loss(logits: Array, inputs: RoundInputs, step: Array) -> Float[Array, " m"]:
    """Cross entropy towards the teacher's most probable class."""
    return cross_entropy_rows(logits, hard_pseudolabels(inputs))


def soft_loss(logits: Array, inputs: RoundInputs, step: Array) -> Float[Array, " m"]:
    """Cross entropy towards the teacher's probabilities."""
    return cross_entropy_rows(logits, soft_pseudolabels(inputs))


def adam(hyperparameters: Mapping[str, Array]) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, ICLR 2015)."""
    return optax.adam(hyperparameters["learning_rate"])


def sgd(hyperparameters: Mapping[str, Array]) -> optax.GradientTransformation:
    """Gradient descent, stochastic with minibatches."""
    return optax.sgd(hyperparameters["learning_rate"])


def momentum(hyperparameters: Mapping[str, Array]) -> optax.GradientTransformation:
    """Gradient descent with momentum 0.9."""
    return optax.sgd(hyperparameters["learning_rate"], momentum=0.9)


OPTIMIZERS = {"adam": adam, "sgd": sgd, "momentum": momentum}
LOSSES = {"hard": hard_loss, "soft": soft_loss}


def rounds(options: Mapping[str, str]) -> tuple[Train]:
    """One training on all unlabelled rows."""
    step = GradientStep(
        loss=LOSSES[options["pseudolabels"]],
        optimizer=OPTIMIZERS[options["optimizer"]],
        reads=("learning_rate",),
    )
    return (Train(step, "num_steps", batch_size="batch_size", patience="patience"),)


VANILLA_TRAINED = Method("vanilla_trained", rounds, options=(*vanilla.VANILLA.options, "optimizer"))
