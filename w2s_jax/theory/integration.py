"""Gaussian points: a fixed scrambled Sobol rule with exact first and second moments."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy import stats

SEED = 20250924
# Points of each block, half of them mirror images, and blocks. The mean over blocks is the result,
# their spread its error.
NUM_POINTS = 2**12
NUM_BLOCKS = 4


@functools.lru_cache(maxsize=64)
def gaussian_points(
    dim: int, num_points: int = NUM_POINTS, num_blocks: int = NUM_BLOCKS
) -> np.ndarray:
    """Points ``[num_blocks, num_points, dim]`` that stand for N(0, I), each block on its own.

    Consecutive blocks of one scrambled Sobol sequence through the normal quantile, then their
    mirror images, then whitened: means, odd moments and covariances are exact, so that second
    moments of features are as well. A block is a net of its own and all together a finer one, so
    the standard error that blocks show is a cautious one.

    Args:
      dim: of the Gaussian; 0 needs one point.
      num_points: of each block, a power of two; more where so few have no regular covariance.
      num_blocks: a power of two as well.

    >>> points = gaussian_points(3, num_points=256)
    >>> points.shape, bool(np.allclose(np.cov(points[0].T, bias=True), np.eye(3)))
    ((4, 256, 3), True)
    """
    if not dim:
        return np.zeros((num_blocks, 1, 0))
    half = max(num_points, 2 ** int(np.ceil(np.log2(4 * dim)))) // 2
    generator = np.random.default_rng(SEED)
    # Named rng from SciPy 1.15 on, which takes the older name as well.
    options: Any = {"seed": generator}
    sequence = stats.qmc.Sobol(dim, scramble=True, **options)
    uniform = np.clip(sequence.random(num_blocks * half), 1e-12, 1 - 1e-12)
    points = stats.norm.ppf(uniform).reshape(num_blocks, half, dim)
    points = np.concatenate([points, -points], axis=1)
    covariance = np.einsum("bni,bnj->bij", points, points) / (2 * half)
    factor = np.linalg.cholesky(covariance)
    points = np.linalg.solve(factor, points.transpose(0, 2, 1)).transpose(0, 2, 1)
    points.setflags(write=False)
    return points


def mixture_features(
    points: Float[Array, "n k"], mu: Float[Array, " k"], sigma: Float[Array, ""] | float
) -> Float[Array, "m p"]:
    """Features [1; xi] at all points, of the majority first, then of the minority ``[2 n, k + 1]``.

    Args:
      points: standard normal points.
      mu: mean of the minority.
      sigma: standard deviation.
    """
    group = jnp.repeat(jnp.arange(2.0), len(points))[:, None]
    xi = group * mu + sigma * jnp.tile(points, (2, 1))
    return jnp.concatenate([jnp.ones_like(group), xi], axis=1)


def mixture_weights(eta: Float[Array, ""] | float, num_points: int) -> Float[Array, " m"]:
    """Weights of the rows of `mixture_features`: (1 - eta) for the majority, eta for the rest."""
    return jnp.repeat(jnp.stack([1 - eta, 0 + eta]), num_points) / num_points
