import jax.numpy as jnp
import numpy as np
import pytest

from w2s_jax.backbones.interpolation import bicubic_weights, resize_grid


@pytest.mark.parametrize(("num_in", "num_out"), [(7, 4), (4, 9), (16, 37), (1, 3)])
def test_constants_stay_constant(num_in, num_out):
    np.testing.assert_allclose(bicubic_weights(num_in, num_out).sum(1), 1, rtol=0, atol=1e-14)


def test_same_size_is_the_identity():
    np.testing.assert_array_equal(bicubic_weights(5, 5), np.eye(5))
    table = jnp.arange(18.0).reshape(9, 2)
    assert resize_grid(table, 3, 3) is table


def test_weights_by_hand():
    # Doubling: samples lie 1/4 and 3/4 between neighbours; a = -0.75.
    near = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
    weights = bicubic_weights(6, 12)
    np.testing.assert_allclose(weights[5], [0, *near, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(weights[6], [0, *near[::-1], 0], rtol=0, atol=1e-15)
    # At the border the outermost sample is repeated.
    np.testing.assert_allclose(weights[0, 0], sum(near[::-1][:3]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize(("height", "width"), [(5, 5), (3, 8), (4, 6)])
def test_rows_and_columns(height, width, offset):
    rng = np.random.default_rng(0)
    table = rng.normal(size=(16, 3)).astype(np.float32)
    found = resize_grid(jnp.asarray(table), height, width, offset=offset)
    rows = bicubic_weights(4, height, 4 / (height + offset))
    columns = bicubic_weights(4, width, 4 / (width + offset))
    expected = np.einsum("yi,xj,ijd->yxd", rows, columns, table.reshape(4, 4, 3)).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize(("side", "height", "width"), [(37, 16, 16), (7, 10, 5), (14, 24, 24)])
def test_as_torch_computes_it(side, height, width):
    import torch

    rng = np.random.default_rng(0)
    table = rng.normal(size=(side * side, 8)).astype(np.float32)
    image = torch.from_numpy(table.reshape(1, side, side, 8)).permute(0, 3, 1, 2)

    def resized(**size):
        out = torch.nn.functional.interpolate(image, mode="bicubic", align_corners=False, **size)
        return out.permute(0, 2, 3, 1).reshape(-1, 8).numpy()

    # torch computes the positions of samples in float32.
    found = resize_grid(jnp.asarray(table), height, width)
    np.testing.assert_allclose(found, resized(size=(height, width)), rtol=0, atol=2e-5)
    # DINOv2's original code: an offset, so that the size comes out right in spite of rounding.
    factors = ((height + 0.1) / side, (width + 0.1) / side)
    found = resize_grid(jnp.asarray(table), height, width, offset=0.1)
    np.testing.assert_allclose(found, resized(scale_factor=factors), rtol=0, atol=2e-5)
