"""Losses of a logistic head: functions of (logits, target), written once.

A loss maps the logits of one sample, ``[c]``, and its target, ``[c]`` (summing to one, entries may
be negative as in backward correction), to a scalar. Hyperparameters are traced arrays, one value
for all heads or one per head, so that another value compiles nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from w2s_jax.errors import HeadError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss and its hyperparameters.

    Attributes:
      function: ``(logits [c], target [c], *params) -> scalar``; must be a module-level function,
        because its identity is part of the compiled program's key.
      binary: the same loss for two classes with logits ``(0, z)`` and target ``(1 - t, t)``, as an
        element-wise function ``(z, t, *params)``. Optional; it saves the general form's work.
      params: hyperparameters, each a scalar or ``[h]``.
      name: shown in results and errors.
      convex: whether the head's objective is convex in its weights.
    """

    function: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    binary: Callable[..., Array] | None = dataclasses.field(default=None, metadata={"static": True})
    params: tuple[Array | np.ndarray, ...] = ()
    name: str = dataclasses.field(default="custom", metadata={"static": True})
    convex: bool = dataclasses.field(default=False, metadata={"static": True})


def log_probabilities(logits: Float[Array, " c"]) -> Float[Array, " c"]:
    """Log-softmax whose values stay accurate near 0.

    The logarithm is of 1 + the other classes' share, so that a confident sample's loss does not
    drown in the rounding of 1: a line search has to see it fall.
    """
    below = logits - jax.lax.stop_gradient(jnp.max(logits))
    largest = below == 0
    # On the largest class, exp(u) - 1 to second order at u = 0: its value and its derivatives.
    others = jnp.sum(jnp.where(largest, below + 0.5 * below**2, jnp.exp(below)))
    return below - jnp.log1p(others + (jnp.sum(largest) - 1))


def _cross_entropy(logits: Float[Array, " c"], target: Float[Array, " c"]) -> Float[Array, ""]:
    return -jnp.sum(target * log_probabilities(logits))


def _cross_entropy_binary(z: Array, t: Array) -> Array:
    # softplus(z) - t z, without the cancellation that would hide the loss of confident samples.
    positive = z > 0
    size = jnp.where(positive, z, -z)
    return jnp.log1p(jnp.exp(-size)) + jnp.where(positive, 1 - t, -t) * z


def _generalized_cross_entropy(
    logits: Float[Array, " c"], target: Float[Array, " c"], q: Array | float
) -> Float[Array, ""]:
    return jnp.sum(target * -jnp.expm1(q * log_probabilities(logits))) / q


def _generalized_cross_entropy_binary(z: Array, t: Array, q: Array) -> Array:
    wrong_if_one = -jnp.expm1(-q * jax.nn.softplus(-z))
    wrong_if_zero = -jnp.expm1(-q * jax.nn.softplus(z))
    return (t * wrong_if_one + (1 - t) * wrong_if_zero) / q


def cross_entropy() -> Loss:
    """Cross entropy, ``-sum_c t_c log p_c``; convex in the logits whatever the targets' signs."""
    return Loss(_cross_entropy, _cross_entropy_binary, (), "ce", convex=True)


def gce(q: ArrayLike) -> Loss:
    """Generalized cross entropy, ``sum_c t_c (1 - p_c^q) / q`` with q in (0, 1].

    The stated loss itself, whose gradient is ``p^q`` times that of cross entropy. (Public code
    under this name often differentiates ``q * stop_gradient(p^q) * CE`` instead, which is q times
    the gradient.) q -> 0 is cross entropy, q = 1 mean absolute error. Not convex in the logits.

    Source: Zhang and Sabuncu, NeurIPS 2018, equation 6.

    Args:
      q: exponent, a scalar or one value per head ``[h]``.

    Raises:
      HeadError: if q lies outside (0, 1].

    >>> gce(0.7).name
    'gce'
    """
    values = np.asarray(q, dtype=np.float64)
    if values.ndim > 1:
        raise HeadError(f"gce_q must be a scalar or one value per head, found {values.shape}")
    if not np.all((values > 0) & (values <= 1)):
        raise HeadError(
            f"gce_q must lie in (0, 1], found {values.ravel()[:5]}; q near 0 is cross entropy "
            "(loss='ce'), q = 1 is mean absolute error"
        )
    return Loss(
        _generalized_cross_entropy, _generalized_cross_entropy_binary, (jnp.asarray(q),), "gce"
    )


def as_loss(loss: str | Loss) -> Loss:
    """Turns a name into a `Loss`; a `Loss` passes through.

    >>> as_loss("ce").convex
    True
    """
    if isinstance(loss, Loss):
        return loss
    if loss == "ce":
        return cross_entropy()
    raise HeadError(f"unknown loss {loss!r}; known: 'ce', gce(q), or a Loss of your own")


def has_no_minimum(
    loss: Loss, mass: Float[Array, "h c"], mean: Float[Array, "h c"]
) -> Bool[Array, " h"]:
    """Whether an intercept can lower cross entropy for ever, because of signed targets.

    Lowering the logit of a class everywhere changes the objective by minus its mean target times
    the logit, in the limit: without a positive mean target there is no minimum. (Generalized cross
    entropy is bounded.)

    Args:
      loss: the loss; others than cross entropy are taken to be bounded.
      mass: mean absolute target of each class; a class of no mass is absent.
      mean: mean target of each class.
    """
    if loss.function is not _cross_entropy:
        return jnp.zeros(len(mass), bool)
    return jnp.any((mass > 0) & (mean <= jnp.finfo(mean.dtype).eps * mass), axis=-1)


def loss_per_sample(
    loss: Loss, logits: Float[Array, "h k n"], targets: Array
) -> Float[Array, "h n"]:
    """Evaluates a loss for every head and sample.

    Args:
      loss: the loss, its hyperparameters given per head, ``[h]`` each.
      logits: ``[h, k, n]``, k = 1 for two classes.
      targets: two classes: the target of class 1, ``[h, n]``; more: class indices ``[h, n]``
        (integers) or soft targets ``[h, c, n]``. A leading axis of 1 is shared by all heads.
    """
    shared = [None] * len(loss.params)
    if logits.shape[1] == 1:
        if loss.binary is not None:
            return loss.binary(logits[:, 0], targets, *(p[:, None] for p in loss.params))

        def two_class(z: Array, t: Array, *params: Any) -> Array:
            zeros = jnp.zeros_like(z)
            return loss.function(jnp.stack([zeros, z]), jnp.stack([1 - t, t]), *params)

        targets = jnp.broadcast_to(targets, logits[:, 0].shape)
        return jax.vmap(jax.vmap(two_class, (0, 0, *shared)))(logits[:, 0], targets, *loss.params)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, logits.shape[1], dtype=logits.dtype, axis=1)
    targets = jnp.broadcast_to(targets, logits.shape)
    return jax.vmap(jax.vmap(loss.function, (1, 1, *shared)))(logits, targets, *loss.params)
