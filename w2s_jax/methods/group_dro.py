"""Group DRO, an upper bound that knows the groups: the worst group's loss is minimised.

Each step raises the weight of every group by the factor ``exp(group_step loss)``, normalises, and
moves the head down the gradient of the weighted sum of the groups' mean losses and the penalty
(Sagawa et al., Distributionally robust neural networks for group shifts, ICLR 2020, algorithm 1,
whose step size is 0.01). The labels are the teacher's pseudolabels, the groups the true ones.
Groups without rows in a batch keep their weight. Traps: with a small student_l2 all groups can be
fitted, as they describe, and the weights hardly matter; and over few steps so small a group_step
hardly moves them (at most by the factor ``exp(group_step num_steps loss)``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from w2s_jax.heads.training import Batch, Step, head_logits
from w2s_jax.methods.gradient import RowFunction
from w2s_jax.methods.group_balance import groups_of
from w2s_jax.methods.rounds import Method, Train
from w2s_jax.methods.trained import LOSSES, OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class GroupDROStep(Step):
    """A step on head and group weights.

    Attributes:
        loss: loss of each row.
        optimizer: name of the optimizer.
    """

    loss: RowFunction
    optimizer: str

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the rule reads."""
        return "student_l2", "learning_rate", "group_step"

    def init(self, params: Float[Array, "k p"], batch: Batch) -> Any:
        """The optimizer's state, and equal weights of the groups that have rows."""
        present = jnp.any(groups_of(batch.inputs) & batch.valid, axis=1)
        weights = present / jnp.maximum(jnp.sum(present), 1)
        return self._rule(batch).init(params), weights.astype(params.dtype)

    def update(
        self, params: Float[Array, "k p"], state: Any, batch: Batch
    ) -> tuple[Float[Array, "k p"], Any]:
        """One step of both."""
        inner, weights = state
        losses = self._losses(params, batch)
        weights = weights * jnp.exp(batch.inputs.hyperparameters["group_step"] * losses)
        weights = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
        gradient = jax.grad(self._weighted)(params, weights, batch)
        updates, inner = self._rule(batch).update(gradient, inner, params)
        return jnp.asarray(params + updates), (inner, weights)

    def objective(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """The worst group's mean loss, with the penalty."""
        return jnp.max(self._losses(params, batch)) + self._penalty(params, batch)

    def score(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """The worst group's mean loss."""
        return jnp.max(self._losses(params, batch))

    def _rule(self, batch: Batch) -> Any:
        return OPTIMIZERS[self.optimizer](batch.inputs.hyperparameters)

    def _losses(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, " g"]:
        """Mean loss of each group; 0 for one without rows."""
        in_group = groups_of(batch.inputs) & batch.valid
        rows = self.loss(head_logits(params, batch.x), batch.inputs, batch.step)
        sizes = jnp.maximum(jnp.sum(in_group, axis=1), 1)
        return jnp.sum(jnp.where(in_group, rows, 0.0), axis=1) / sizes

    def _penalty(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        return 0.5 * batch.inputs.hyperparameters["student_l2"] * jnp.sum(params[:, :-1] ** 2)

    def _weighted(
        self, params: Float[Array, "k p"], weights: Float[Array, " g"], batch: Batch
    ) -> Float[Array, ""]:
        return jnp.sum(weights * self._losses(params, batch)) + self._penalty(params, batch)


def rounds(options: Mapping[str, str]) -> tuple[Train]:
    """One training on all unlabelled rows."""
    step = GroupDROStep(LOSSES[options["pseudolabels"]], options["optimizer"])
    return (Train(step, "num_steps", batch_size="batch_size", oracle=True),)


GROUP_DRO = Method("group_dro", rounds, options=("pseudolabels", "optimizer"))
