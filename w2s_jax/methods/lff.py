"""Learning from failure: rows that a biased head finds hard count for more. No group labels.

Two heads are trained side by side, from zero and on the same batches, with the same optimizer and
the penalty student_l2. The biased one lowers generalized cross entropy (gce_q), which dwells on
easy rows; the student lowers ``mean_i W_i CE(student, y_i)`` with the relative difficulty ``W =
CE_b / (CE_b + CE_d)``, where CE_b and CE_d are the cross entropies of biased head and student on
the row before the step, and W is a constant to the gradient. At the start all W are one half.

Source: Nam et al., Learning from failure: de-biasing classifier from biased classifier,
NeurIPS 2020, algorithm 1. Their public code takes W from moving averages of each row's losses,
divided by each class's largest; ours is the algorithm as printed.

The sum is divided by the number of rows, not by the weights, so that the penalty weighs more the
smaller the weights. The reported objective and early stopping are of the student's plain cross
entropy, for W moves. A trap: what the biased head finds hard are rows where it disagrees with the
*teacher*: the minority where the teacher is right about it, else the teacher's mistakes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.heads.losses import log_probabilities
from w2s_jax.heads.training import Batch, Step, head_logits
from w2s_jax.methods import vanilla
from w2s_jax.methods.balancing import class_logits
from w2s_jax.methods.rounds import Method, Train, as_probabilities
from w2s_jax.methods.trained import LOSSES, OPTIMIZERS


def relative_difficulty(
    biased: Float[Array, " m"], student: Float[Array, " m"]
) -> Float[Array, " m"]:
    """``biased / (biased + student)`` of losses; one half where both are zero."""
    total = biased + student
    return jnp.where(total > 0, biased / jnp.where(total > 0, total, 1.0), 0.5)


@dataclasses.dataclass(frozen=True)
class LearningFromFailureStep(Step):
    """A step of the student and of the biased head, which is part of the state.

    Attributes:
        pseudolabels: "hard" or "soft".
        optimizer: name of the optimizer of both.
    """

    pseudolabels: str
    optimizer: str

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the rule reads."""
        return "student_l2", "learning_rate", "gce_q"

    def init(self, params: Float[Array, "k p"], batch: Batch) -> Any:
        """The optimizer's state for the student, the biased head, and the state for that."""
        state = self._rule(batch).init(params)
        return state, params, state

    def update(
        self, params: Float[Array, "k p"], state: Any, batch: Batch
    ) -> tuple[Float[Array, "k p"], Any]:
        """One step of both heads."""
        own_state, biased, biased_state = state
        difficulty = relative_difficulty(self._losses(biased, batch), self._losses(params, batch))

        def student(params: Array) -> Array:
            return self._mean(difficulty * self._losses(params, batch), params, batch)

        def other(params: Array) -> Array:
            return self._mean(self._generalized(params, batch), params, batch)

        rule = self._rule(batch)
        updates, own_state = rule.update(jax.grad(student)(params), own_state, params)
        biased_updates, biased_state = rule.update(jax.grad(other)(biased), biased_state, biased)
        state = own_state, jnp.asarray(biased + biased_updates), biased_state
        return jnp.asarray(params + updates), state

    def objective(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """The student's mean cross entropy, with the penalty."""
        return self._mean(self._losses(params, batch), params, batch)

    def score(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """The student's mean cross entropy."""
        return self._mean(self._losses(params, batch), jnp.zeros_like(params), batch)

    def _rule(self, batch: Batch) -> Any:
        return OPTIMIZERS[self.optimizer](batch.inputs.hyperparameters)

    def _losses(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, " m"]:
        """Cross entropy of each row."""
        return LOSSES[self.pseudolabels](head_logits(params, batch.x), batch.inputs, batch.step)

    def _generalized(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, " m"]:
        """Generalized cross entropy of each row, ``sum_c t_c (1 - p_c^q) / q``."""
        q = batch.inputs.hyperparameters["gce_q"]
        log_p = jax.vmap(log_probabilities, 1)(class_logits(head_logits(params, batch.x)))
        labels = vanilla.PSEUDOLABELS[self.pseudolabels](batch.inputs)
        return -jnp.sum(as_probabilities(labels, batch.inputs) * jnp.expm1(q * log_p), axis=1) / q

    def _mean(
        self, losses: Float[Array, " m"], params: Float[Array, "k p"], batch: Batch
    ) -> Float[Array, ""]:
        """Mean over the rows, with the penalty."""
        total = jnp.sum(jnp.where(batch.valid, losses, 0.0)) / jnp.maximum(jnp.sum(batch.valid), 1)
        penalty = batch.inputs.hyperparameters["student_l2"]
        return total + 0.5 * penalty * jnp.sum(params[:, :-1] ** 2)


def rounds(options: Mapping[str, str]) -> tuple[Train]:
    """One training of both on all unlabelled rows."""
    step = LearningFromFailureStep(options["pseudolabels"], options["optimizer"])
    return (Train(step, "num_steps", batch_size="batch_size", patience="patience"),)


# Version 1 fitted the biased head first.
LFF = Method("lff", rounds, options=("pseudolabels", "optimizer"), version=2)
