"""Bicubic resampling of tables of position embeddings, as torch computes it.

`jax.image.resize` has other cubic weights (a = -0.5, torch a = -0.75), smooths where it shrinks and
treats borders differently; a network's features change by more than rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_CUBIC_A = -0.75


def bicubic_weights(
    num_in: int, num_out: int, scale: float | None = None
) -> Float[np.ndarray, "num_out num_in"]:
    """Matrix that resamples a line of samples like torch's bicubic `interpolate`.

    Without smoothing, `align_corners=False`, borders repeated (Keys, 1981, with a = -0.75).

    Args:
        num_in: Samples in.
        num_out: Samples out.
        scale: Distance of output samples in units of input samples; None is num_in / num_out.
            torch takes the reciprocal of a `scale_factor` that it is given, whatever the sizes.

    Returns:
        `[num_out, num_in]` float64 weights whose rows sum to one.
    """
    scale = num_in / num_out if scale is None else scale
    centre = (np.arange(num_out) + 0.5) * scale - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((num_out, num_in))
    for tap in range(4):
        distance = np.abs(centre - (first + tap))
        near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
        far = _CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
        index = np.clip(first + tap, 0, num_in - 1)
        np.add.at(weights, (np.arange(num_out), index), np.where(distance <= 1, near, far))
    return weights


def resize_grid(
    table: Float[Array, "p d"], height: int, width: int, *, offset: float = 0.0
) -> Float[Array, "q d"]:
    """A square grid of embeddings at another size.

    Args:
        table: `[side², d]` embeddings, row by row.
        height: New rows.
        width: New columns.
        offset: DINOv2's original code asks torch for the factor (size + offset) / side, with 0.1,
            so that samples lie slightly closer than the sizes say; 0 is Hugging Face's convention.

    Returns:
        `[height · width, d]`, the table itself where the size is its own.
    """
    side = int(np.sqrt(len(table)))
    if (height, width) == (side, side):
        return table
    rows, columns = (
        jnp.asarray(bicubic_weights(side, n, side / (n + offset)), table.dtype)
        for n in (height, width)
    )
    grid = table.reshape(side, side, -1)
    highest = jax.lax.Precision.HIGHEST
    grid = jnp.einsum("yi,xj,ijd->yxd", rows, columns, grid, precision=highest)
    return grid.reshape(height * width, -1)
