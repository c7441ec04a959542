"""Losses of a logistic head: functions of (logits, target), written once.

A loss maps the logits of one sample, ``[c]``, and its target, ``[c]`` (summing to one, entries may
be negative as in backward correction), to a scalar. Hyperparameters are traced arrays, one value
for all heads or one per head, so that another value compiles nothing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from w2s_jax.errors import HeadError
from w2s_jax.heads.inputs import as_numbers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss and its hyperparameters.

    Attributes:
      function: ``(logits [c], target [c], *params) -> scalar``; must be a module-level function,
        because its identity is part of the compiled program's key.
      fused: the same loss and its derivative for many heads and samples at once, written by hand:
        ``(logits [h, k, n], targets, *params [h]) -> (loss [h, n], derivative [h, k, n])``, targets
        as in `loss_and_residual`. Optional; it saves the work of differentiating.
      params: hyperparameters, each a scalar or ``[h]``.
      name: shown in results and errors.
      convex: whether the head's objective is convex in its weights.
    """

    function: Callable[..., Array] = dataclasses.field(metadata={"static": True})
    fused: Callable[..., tuple[Array, Array]] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
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


@jax.custom_jvp
def binary_cross_entropy(z: Float[Array, "*axes"], t: Array) -> Float[Array, "*axes"]:
    """Cross entropy of two classes, ``log(1 + exp(z)) - t z``.

    Value and derivatives are in the forms that do not cancel where a row is certain, and first and
    second derivatives at 0 are right.

    Args:
        z: logit of class 1.
        t: target of class 1, any number; of z's shape, or broadcast to it.
    """
    return jnp.log1p(jnp.exp(-jnp.abs(z))) + jnp.where(z > 0, 1 - t, -t) * z


@binary_cross_entropy.defjvp
def _binary_cross_entropy_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, t), (dz, dt) = primals, tangents
    tangent = _binary_residual(z, t) * dz
    return binary_cross_entropy(z, t), tangent if _is_hard(t) else tangent - z * dt


@jax.custom_jvp
def _binary_residual(z: Array, t: Array) -> Array:
    """p1 - t in the form that does not cancel."""
    e = jnp.exp(-jnp.abs(z))
    small = e / (1 + e)  # probability of the less probable class
    return jnp.where(z > 0, (1 - t) - small, small - t)


@_binary_residual.defjvp
def _binary_residual_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, t), (dz, dt) = primals, tangents
    e = jnp.exp(-jnp.abs(z))
    tangent = e / (1 + e) ** 2 * dz
    return _binary_residual(z, t), tangent if _is_hard(t) else tangent - dt


class _Binary(NamedTuple):
    """Two classes, by the logit of class 1: log probabilities and probabilities, none rounded."""

    log_p0: Array
    log_p1: Array
    p0: Array
    p1: Array


def _binary(z: Float[Array, "h n"]) -> _Binary:
    positive = z > 0
    e = jnp.exp(-jnp.abs(z))
    near = jnp.log1p(e)  # what the more probable class lacks
    large, small = 1 / (1 + e), e / (1 + e)
    return _Binary(
        log_p0=-jnp.where(positive, near + z, near),
        log_p1=-jnp.where(positive, near, near - z),
        p0=jnp.where(positive, small, large),
        p1=jnp.where(positive, large, small),
    )


class _Softmax(NamedTuple):
    """Three classes or more, none of it rounded to one or zero where the top class is certain.

    Attributes:
      below: logit minus the largest ``[h, k, n]``.
      is_top: where that is zero.
      p: probabilities.
      rest: 1 - p of a top class ``[h, 1, n]``.
      log_norm: what to subtract from `below` for the log probability ``[h, 1, n]``.
    """

    below: Array
    is_top: Array
    p: Array
    rest: Array
    log_norm: Array


def _softmax(logits: Float[Array, "h k n"]) -> _Softmax:
    below = logits - jnp.max(logits, axis=1, keepdims=True)
    is_top = below == 0
    e = jnp.exp(below)
    others = jnp.sum(jnp.where(is_top, 0, e), axis=1, keepdims=True)
    others = others + (jnp.sum(is_top, axis=1, keepdims=True) - 1)
    scale = 1 / (1 + others)
    return _Softmax(below, is_top, e * scale, others * scale, jnp.log1p(others))


def _is_hard(targets: Array) -> bool:
    return jnp.issubdtype(targets.dtype, jnp.integer)


def _hits(targets: Int[Array, "_ n"], num_classes: int) -> Bool[Array, "_ c n"]:
    return targets[:, None, :] == jnp.arange(num_classes)[:, None]


def _cross_entropy_fused(
    logits: Float[Array, "h k n"], targets: Array
) -> tuple[Float[Array, "h n"], Float[Array, "h k n"]]:
    if logits.shape[1] == 1:
        z = logits[:, 0]
        return binary_cross_entropy(z, targets), _binary_residual(z, targets)[:, None]
    many = _softmax(logits)
    if _is_hard(targets):
        hit = _hits(targets, logits.shape[1])
        own = jnp.sum(jnp.where(hit, many.below, 0), axis=1)
        residual = jnp.where(hit & many.is_top, -many.rest, many.p - hit)
        return many.log_norm[:, 0] - own, residual
    total = jnp.sum(targets, axis=1, keepdims=True)
    value = total * many.log_norm - jnp.sum(targets * many.below, axis=1, keepdims=True)
    top = (total - targets) - total * many.rest
    return value[:, 0], jnp.where(many.is_top, top, total * many.p - targets)


def _generalized_cross_entropy(
    logits: Float[Array, " c"], target: Float[Array, " c"], q: Array | float
) -> Float[Array, ""]:
    return jnp.sum(target * -jnp.expm1(q * log_probabilities(logits))) / q


def _generalized_cross_entropy_fused(
    logits: Float[Array, "h k n"], targets: Array, q: Float[Array, " h"]
) -> tuple[Float[Array, "h n"], Float[Array, "h k n"]]:
    q = q[:, None]
    if logits.shape[1] == 1:
        t, two = targets, _binary(logits[:, 0])
        lost1, lost0 = jnp.expm1(q * two.log_p1), jnp.expm1(q * two.log_p0)  # p^q - 1
        residual = (1 - t) * (1 + lost0) * two.p1 - t * (1 + lost1) * two.p0
        return -(t * lost1 + (1 - t) * lost0) / q, residual[:, None]
    if _is_hard(targets):
        cross_entropy_, residual = _cross_entropy_fused(logits, targets)
        lost = jnp.expm1(-q * cross_entropy_)
        return -lost / q, (1 + lost)[:, None] * residual
    many = _softmax(logits)
    lost = jnp.expm1(q[..., None] * (many.below - many.log_norm))
    weighted = targets * (1 + lost)
    total = jnp.sum(weighted, axis=1, keepdims=True)
    top = (total - weighted) - total * many.rest
    residual = jnp.where(many.is_top, top, total * many.p - weighted)
    return -jnp.sum(targets * lost, axis=1) / q, residual


def cross_entropy() -> Loss:
    """Cross entropy, ``-sum_c t_c log p_c``; convex in the logits whatever the targets' signs."""
    return Loss(_cross_entropy, _cross_entropy_fused, (), "ce", convex=True)


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
    values = as_numbers(q, "gce_q")
    if values.ndim > 1:
        raise HeadError(f"gce_q must be a scalar or one value per head, found {values.shape}")
    if not np.all((values > 0) & (values <= 1)):
        raise HeadError(
            f"gce_q must lie in (0, 1], found {values.ravel()[:5]}; q near 0 is cross entropy "
            "(loss='ce'), q = 1 is mean absolute error"
        )
    return Loss(
        _generalized_cross_entropy, _generalized_cross_entropy_fused, (jnp.asarray(q),), "gce"
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
    """Evaluates a loss for every head and sample; arguments as of `loss_and_residual`."""
    shared = [None] * len(loss.params)
    if logits.shape[1] == 1:

        def two_class(z: Array, t: Array, *params: Any) -> Array:
            zeros = jnp.zeros_like(z)
            return loss.function(jnp.stack([zeros, z]), jnp.stack([1 - t, t]), *params)

        targets = jnp.broadcast_to(targets, logits[:, 0].shape)
        return jax.vmap(jax.vmap(two_class, (0, 0, *shared)))(logits[:, 0], targets, *loss.params)
    if _is_hard(targets):
        targets = jax.nn.one_hot(targets, logits.shape[1], dtype=logits.dtype, axis=1)
    targets = jnp.broadcast_to(targets, logits.shape)
    return jax.vmap(jax.vmap(loss.function, (1, 1, *shared)))(logits, targets, *loss.params)


def loss_and_residual(
    loss: Loss, logits: Float[Array, "h k n"], targets: Array
) -> tuple[Float[Array, "h n"], Float[Array, "h k n"]]:
    """A loss and its derivative in the logits, for every head and sample.

    Args:
      loss: the loss, its hyperparameters given per head, ``[h]`` each.
      logits: ``[h, k, n]``, k = 1 for two classes.
      targets: two classes: the target of class 1, ``[h, n]``; more: class indices ``[h, n]``
        (integers) or soft targets ``[h, c, n]``. A leading axis of 1 is shared by all heads.
    """
    if loss.fused is not None:
        return loss.fused(logits, targets, *loss.params)

    def summed(z: Array) -> tuple[Array, Array]:
        values = loss_per_sample(loss, z, targets)
        return jnp.sum(values), values

    residual, values = jax.grad(summed, has_aux=True)(logits)
    return values, residual
