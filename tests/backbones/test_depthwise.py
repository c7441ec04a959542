import jax
import jax.numpy as jnp
import numpy as np
import pytest

from w2s_jax.backbones import depthwise
from w2s_jax.backbones.depthwise import depthwise_conv, explicit_padding


def arrays(height, width, channels, size, num_images=2):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_images, height, width, channels)).astype(np.float32)
    return x, rng.normal(size=(size, size, 1, channels)).astype(np.float32)


def convolved(x, kernel, stride, padding):
    """The definition, in float64."""
    size = kernel.shape[0]
    pads = explicit_padding(x.shape[1:3], size, stride, padding)
    x = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("byxcij,ijc->byxc", windows[:, ::stride, ::stride], kernel[:, :, 0])


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width", "size"), [(9, 6, 3), (8, 8, 5), (3, 5, 7), (1, 1, 3)])
@pytest.mark.parametrize("method", ["taps", "conv"])
def test_formulations_equal_the_definition(height, width, size, stride, padding, method):
    x, kernel = arrays(height, width, 5, size)
    found = depthwise_conv(x, kernel, stride=stride, padding=padding, method=method)
    expected = convolved(x, kernel, stride, padding)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_large_images_one_at_a_time_are_the_same(monkeypatch):
    x, kernel = arrays(12, 10, 4, 3, num_images=5)
    whole = depthwise_conv(x, kernel, method="taps")
    monkeypatch.setattr(depthwise, "_BYTES_FOR_ONE_IMAGE_AT_A_TIME", 1)
    jaxpr = str(jax.make_jaxpr(lambda a, b: depthwise_conv(a, b, method="taps"))(x, kernel))
    assert "scan" in jaxpr
    found = depthwise_conv(x, kernel, method="taps")
    np.testing.assert_allclose(found, whole, rtol=0, atol=5e-6)


def test_the_backend_decides(monkeypatch):
    x, kernel = arrays(6, 6, 3, 3)

    def primitives():
        return str(jax.make_jaxpr(lambda *operands: depthwise_conv(*operands))(x, kernel))

    assert "conv_general_dilated" not in primitives()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "feature_group_count=3" in primitives()
    assert "Precision.HIGHEST" in primitives()


def test_gradients_and_low_precision():
    x, kernel = arrays(7, 7, 3, 3)
    taps, conv = (
        jax.grad(lambda k, m=method: depthwise_conv(x, k, method=m).sum())(jnp.asarray(kernel))
        for method in ("taps", "conv")
    )
    np.testing.assert_allclose(taps, conv, rtol=1e-4, atol=1e-4)
    low = depthwise_conv(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), method="taps")
    assert low.dtype == jnp.bfloat16
