"""Checkpoints of random tensors in published names and layouts, for networks of any size."""

import numpy as np
from flax import nnx

from w2s_jax.backbones.checkpoints import Checkpoint

# One tensor of each published naming, by which the networks tell them apart.
PROBES = {
    "hugging_face": (),
    "timm": ("cls_token", "stem.0.weight"),
    "openai": ("visual.class_embedding",),
    "original": ("downsample_layers.0.0.weight",),
    "torchvision": ("conv1.weight", "features.0.0.weight"),
    "keras": ("model/Conv1/kernel",),
}


def parameters(network, config):
    """Path to abstract array of every parameter and statistic."""
    abstract = nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(abstract))
    return {".".join(map(str, path)): leaf for path, leaf in zip(flat.paths, flat.leaves)}  # noqa: B905


def random_checkpoint(architecture, config, naming="hugging_face", seed=0):
    """Checkpoint of random tensors, and the parameters that they must become."""
    rng = np.random.default_rng(seed)
    sources = architecture.sources(config, PROBES[naming])
    tensors, expected, fused = {}, {}, {}
    for target, leaf in parameters(architecture.network, config).items():
        if target.endswith("var"):
            value = rng.uniform(0.5, 2, leaf.shape)
        elif target.endswith("kernel"):
            value = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        elif target.endswith("scale"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = 0.1 * rng.normal(size=leaf.shape)
        expected[target] = value = value.astype(np.float32)
        name, layout, part = sources[target]
        if layout == "linear":
            value = value.T
        elif layout == "conv":
            value = value.transpose(3, 2, 0, 1)
        elif layout == "depthwise":
            value = value.transpose(0, 1, 3, 2)
        elif layout == "squeeze":
            value = value[None]
        if part is None:
            tensors[name] = np.ascontiguousarray(value)
        else:
            fused.setdefault(name, {})[part[0]] = value
    for name, parts in fused.items():
        tensors[name] = np.concatenate([parts[index] for index in sorted(parts)])
    return Checkpoint(tensors, ()), expected
