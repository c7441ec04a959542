"""Sums along rows of memory.

On a CPU as products with ones: XLA sums there one number after another, two to three times slower,
and computes anew in the sum what the numbers are made of.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Up to so many ones a float32 counts exactly.
_COUNTED = 2**24


def sum_last(values: Float[Array, "*axes m"]) -> Float[Array, "*axes"]:
    """Sum over the last axis."""
    if jax.default_backend() != "cpu":
        return jnp.sum(values, axis=-1)
    *axes, size = values.shape
    rows = values.reshape(math.prod(axes), size)
    ones = jnp.ones(size, values.dtype)
    return jnp.matmul(rows, ones, precision=jax.lax.Precision.HIGHEST).reshape(axes)


def count_last(flags: Bool[Array, "*axes m"]) -> Int[Array, "*axes"]:
    """How many are true along the last axis."""
    if jax.default_backend() != "cpu" or flags.shape[-1] > _COUNTED:
        return jnp.sum(flags, axis=-1, dtype=jnp.int32)
    return sum_last(flags.astype(jnp.float32)).astype(jnp.int32)
