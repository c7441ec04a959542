"""Steps of any optax transformation on a loss."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from w2s_jax.errors import HeadError
from w2s_jax.heads.reductions import sum_last
from w2s_jax.heads.training import Batch, Step, head_logits
from w2s_jax.methods.rounds import RoundInputs

RowFunction = Callable[[Array, RoundInputs, Array], Array]


@dataclasses.dataclass(frozen=True)
class GradientStep(Step):
    """One step of an optax transformation on ``sum_i m_i loss_i / sum_i m_i + (l2 / 2) ||W||^2``.

    The functions of rows get the head's logits ``[k, m]``, its `RoundInputs` for these rows and the
    number of steps taken, so that targets and weights may move during the fit. They must be
    module-level. The intercept is not penalised.

    Attributes:
        loss: loss of each row ``[m]``.
        optimizer: the transformation, from the head's hyperparameters; a learning rate among them
            is traced, so that another value compiles nothing.
        weights: weight of each row ``[m]``, >= 0, a constant to the gradient; None weighs all rows
            alike.
        l2: name of the hyperparameter that is the penalty; None for no penalty.
        reads: hyperparameters that the functions read.
        held_out_loss: loss of each row ``[m]`` by which early stopping scores; None for `loss`,
            without the penalty. A loss that moves during the fit needs one that does not.
        holding: what a round with ``record_every`` records of each row ``[m]``, true or false.
    """

    loss: RowFunction
    optimizer: Callable[[Mapping[str, Array]], optax.GradientTransformation]
    weights: RowFunction | None = None
    l2: str | None = "student_l2"
    reads: tuple[str, ...] = ()
    held_out_loss: RowFunction | None = None
    holding: RowFunction | None = None

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the rule reads."""
        return self.reads if self.l2 is None else (self.l2, *self.reads)

    def init(self, params: Float[Array, "k p"], batch: Batch) -> Any:
        """The transformation's state."""
        return self.optimizer(batch.inputs.hyperparameters).init(params)

    def update(
        self, params: Float[Array, "k p"], state: Any, batch: Batch
    ) -> tuple[Float[Array, "k p"], Any]:
        """One update."""
        value, gradient = jax.value_and_grad(self.objective)(params, batch)
        rule = self.optimizer(batch.inputs.hyperparameters)
        updates, state = optax.with_extra_args_support(rule).update(
            gradient,
            state,
            params,
            value=value,
            grad=gradient,
            value_fn=lambda p: self.objective(p, batch),
        )
        return jnp.asarray(optax.apply_updates(params, updates)), state

    def objective(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """Weighted mean of the loss, with the penalty."""
        value = self._mean(self.loss, params, batch)
        if self.l2 is None:
            return value
        penalty = batch.inputs.hyperparameters[self.l2]
        return value + 0.5 * penalty * jnp.sum(params[:, :-1] ** 2)

    def score(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """Weighted mean of the held-out loss, without the penalty."""
        return self._mean(self.held_out_loss or self.loss, params, batch)

    def holds(self, params: Float[Array, "k p"], batch: Batch) -> Bool[Array, " m"]:
        """`holding` of the rows."""
        if self.holding is None:
            return super().holds(params, batch)
        return self.holding(head_logits(params, batch.x), batch.inputs, batch.step)

    def row_weights(self, params: Float[Array, "k p"], batch: Batch) -> Array:
        """Weights of the rows ``[m]``, zero for padding."""
        return self._weights(head_logits(params, batch.x), batch)

    def _weights(self, logits: Float[Array, "k m"], batch: Batch) -> Float[Array, " m"]:
        weights = jnp.ones(logits.shape[1], logits.dtype)
        if self.weights is not None:
            weights = self.weights(logits, batch.inputs, batch.step).astype(logits.dtype)
            _check_one_a_row("weights", weights, logits)
        return jax.lax.stop_gradient(jnp.where(batch.valid, weights, 0.0))

    def _mean(
        self, loss: RowFunction, params: Float[Array, "k p"], batch: Batch
    ) -> Float[Array, ""]:
        logits = head_logits(params, batch.x)
        weights = self._weights(logits, batch)
        total = sum_last(weights)
        losses = loss(logits, batch.inputs, batch.step)
        _check_one_a_row("loss", losses, logits)
        losses = jnp.where(weights > 0, losses, 0.0)
        return sum_last(weights * losses) / jnp.where(total > 0, total, 1.0)


def _check_one_a_row(name: str, numbers: Array, logits: Float[Array, "k m"]) -> None:
    if numbers.shape != logits.shape[1:]:
        raise HeadError(
            f"its {name} must be one number a row, [m] = {list(logits.shape[1:])}, found shape "
            f"{list(numbers.shape)}"
        )
