"""A frozen network over batches of one shape, spread over local devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float32, UInt8

from w2s_jax.backbones.loading import Backbone


class Forward:
    """Applies a backbone to up to `batch_size` images at a time.

    Every call has the same shape, so one program is compiled; a smaller batch is padded and the
    padding cut away. Images are split among devices, weights are on all of them.

    Args:
        backbone: The network.
        batch_size: Images a call, over all devices; rounded up to a multiple of their number.
        devices: JAX devices to compute on; default all local ones.
    """

    def __init__(self, backbone: Backbone, batch_size: int, devices: Sequence[Any] | None = None):
        devices = jax.local_devices() if devices is None else list(devices)
        self.batch_size = -(-batch_size // len(devices)) * len(devices)
        mesh = Mesh(np.array(devices), ("images",))
        self._images = NamedSharding(mesh, PartitionSpec("images"))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._backbone = dataclasses.replace(
            backbone, state=jax.device_put(backbone.state, everywhere)
        )

    def __call__(
        self, pixels: UInt8[np.ndarray, "b y x 3"]
    ) -> dict[str, Float32[Array, "batch_size _"]]:
        """Features of at most `batch_size` images; the call does not wait for them.

        Args:
            pixels: [b, y, x, 3] as the backbone's `preprocess` makes them.

        Returns:
            Output name to [batch_size, width], of which the first b rows count.
        """
        missing = self.batch_size - len(pixels)
        if missing:
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        return self._backbone.apply(jax.device_put(pixels, self._images))
