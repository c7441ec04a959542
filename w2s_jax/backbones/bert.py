"""BERT encoder (Devlin et al., NAACL 2019), any layer as output; MiniLM has the same form.

Names of outputs: `"word_embeddings"` is the token table alone, before positions, segments and
normalisation; 0 is the normalised sum of word, position and segment embeddings; 1 … L are the
hidden states after each layer; `"last"` is L.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from w2s_jax.backbones.weights import (
    Source,
    WeightsError,
    load_weights,
    read_json,
    read_safetensors,
)

HIGHEST = jax.lax.Precision.HIGHEST
Layer = int | str

# Buffers and heads of published checkpoints that no hidden state depends on.
UNUSED_TENSORS = (r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\.dense\..*", r"cls\..*")

_ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT encoder, under the names its config.json uses."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_file(cls, path: Path) -> "BertConfig":
        """Read a config.json.

        Args:
            path: The file.

        Returns:
            The configuration.

        Raises:
            WeightsError: The file is absent or malformed, or describes another architecture.
        """
        raw = read_json(path)
        kind = raw.get("model_type")
        position = raw.get("position_embedding_type", "absolute")
        if kind != "bert" or position != "absolute":
            raise WeightsError(
                f"{path} describes model_type {kind!r} with {position!r} positions; "
                "only 'bert' with 'absolute' positions can be loaded."
            )
        fields = {field.name: field for field in dataclasses.fields(cls)}
        missing = [
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and name not in raw
        ]
        if missing:
            raise WeightsError(f"{path} lacks {', '.join(missing)}; use the published config.json.")
        config = cls(**{name: raw[name] for name in fields if name in raw})
        if config.hidden_act not in _ACTIVATIONS:
            raise WeightsError(
                f"{path} asks for activation {config.hidden_act!r}; "
                f"known are {', '.join(_ACTIVATIONS)}."
            )
        if config.hidden_size % config.num_attention_heads:
            raise WeightsError(
                f"{path}: hidden_size {config.hidden_size} is no multiple of "
                f"num_attention_heads {config.num_attention_heads}."
            )
        return config


class _Embeddings(nnx.Module):
    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        size = config.hidden_size
        self.word = nnx.Embed(config.vocab_size, size, rngs=rngs)
        self.position = nnx.Embed(config.max_position_embeddings, size, rngs=rngs)
        self.segment = nnx.Embed(config.type_vocab_size, size, rngs=rngs)
        self.norm = _layer_norm(config, rngs)

    def __call__(self, tokens: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        num_tokens, num_positions = tokens.shape[1], self.position.num_embeddings
        if num_tokens > num_positions:
            raise WeightsError(
                f"Texts of {num_tokens} tokens are longer than the {num_positions} positions that "
                "the network knows; cut them."
            )
        positions = self.position.embedding[:num_tokens]
        return self.norm(self.word(tokens) + positions + self.segment.embedding[0])


class _Block(nnx.Module):
    """Self-attention and feed-forward, each normalised after its residual sum."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        size, inner = config.hidden_size, config.intermediate_size
        linear = partial(nnx.Linear, precision=HIGHEST, rngs=rngs)
        self.num_heads = config.num_attention_heads
        self.activation = config.hidden_act
        self.query, self.key, self.value = (linear(size, size) for _ in range(3))
        self.attention_out = linear(size, size)
        self.attention_norm = _layer_norm(config, rngs)
        self.inner = linear(size, inner)
        self.outer = linear(inner, size)
        self.norm = _layer_norm(config, rngs)

    def __call__(
        self, x: Float[Array, "b t d"], attention_mask: Int[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        query, key, value = (self._heads(p(x)) for p in (self.query, self.key, self.value))
        scores = jnp.einsum("bthe,bshe->bhts", query, key, precision=HIGHEST)
        scores = scores / np.sqrt(query.shape[-1])
        # The smallest number, not -inf: a row without tokens must not turn into NaN.
        blocked = jnp.finfo(scores.dtype).min
        scores = jnp.where(attention_mask[:, None, None, :] > 0, scores, blocked)
        mixed = jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(scores), value, precision=HIGHEST)
        x = self.attention_norm(x + self.attention_out(mixed.reshape(x.shape)))
        return self.norm(x + self.outer(_ACTIVATIONS[self.activation](self.inner(x))))

    def _heads(self, x: Float[Array, "b t d"]) -> Float[Array, "b t h e"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1)


def _layer_norm(config: BertConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # E[x²] - E[x]² cancels in float32; the two-pass variance does not.
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, rngs=rngs
    )


class Bert(nnx.Module):
    """BERT encoder without pooler and heads.

    Args:
        config: Sizes.
        rngs: Random keys of the initial parameters.
    """

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs):
        self.embeddings = _Embeddings(config, rngs=rngs)
        self.layers = nnx.List([_Block(config, rngs=rngs) for _ in range(config.num_hidden_layers)])

    def __call__(
        self, tokens: Int[Array, "b t"], attention_mask: Int[Array, "b t"], *, layer: Layer = "last"
    ) -> Float[Array, "b t d"]:
        """Hidden states of one layer; later layers are not computed.

        Args:
            tokens: `[b, t]` token ids, padding included.
            attention_mask: `[b, t]`, 1 for tokens and 0 for padding.
            layer: `"word_embeddings"`, 0 … L or `"last"`, as in the module's docstring.

        Returns:
            `[b, t, d]` states, arbitrary at padding.

        Raises:
            WeightsError: The layer does not exist.
        """
        index = layer_index(layer, len(self.layers))
        if index < 0:
            return self.embeddings.word(tokens)
        x = self.embeddings(tokens)
        for block in list(self.layers)[:index]:
            x = block(x, attention_mask)
        return x


def layer_index(layer: Layer, num_layers: int) -> int:
    """Number of transformer layers an output name asks for; -1 for the word embeddings.

    Args:
        layer: `"word_embeddings"`, 0 … L or `"last"`.
        num_layers: L.

    Returns:
        -1 … L.

    Raises:
        WeightsError: The name or number is unknown.

    >>> layer_index("word_embeddings", 6), layer_index(2, 6), layer_index("last", 6)
    (-1, 2, 6)
    """
    if layer == "word_embeddings":
        return -1
    if layer == "last":
        return num_layers
    if isinstance(layer, int) and 0 <= layer <= num_layers:
        return layer
    raise WeightsError(
        f"Unknown layer {layer!r}; use 'word_embeddings', 'last' or 0 … {num_layers}."
    )


def masked_mean(states: Float[Array, "b t d"], mask: Int[Array, "b t"]) -> Float[Array, "b d"]:
    """Mean over the tokens whose mask is 1; zero where there are none.

    Args:
        states: `[b, t, d]`.
        mask: `[b, t]` of 0 and 1.

    Returns:
        `[b, d]` means.
    """
    weights = mask.astype(states.dtype)
    # where, not a product: padding may hold anything.
    kept = jnp.where(mask[..., None] > 0, states, 0)
    safe_count = jnp.maximum(weights.sum(-1, keepdims=True), 1)
    return kept.sum(1) / safe_count


def load_bert(folder: Path) -> tuple[Bert, BertConfig]:
    """Load a published BERT encoder.

    Args:
        folder: Holds `config.json` and `model.safetensors`.

    Returns:
        The network and its configuration.

    Raises:
        WeightsError: A file is absent or malformed, or the tensors do not fit the configuration.
    """
    config = BertConfig.from_file(folder / "config.json")
    tensors = read_safetensors(folder / "model.safetensors")
    prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""
    abstract = nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0)))
    sources = bert_sources(config.num_hidden_layers, prefix)
    return load_weights(abstract, tensors, sources, unused=UNUSED_TENSORS), config


def bert_sources(num_layers: int, prefix: str = "") -> dict[str, Source]:
    """Where each parameter of `Bert` lies in a published checkpoint.

    Args:
        num_layers: L.
        prefix: What the checkpoint puts before every name: nothing, or `bert.`.

    Returns:
        Parameter path to source.
    """
    sources = {}

    def norm(target: str, name: str) -> None:
        sources[f"{target}.scale"] = Source(f"{prefix}{name}.weight")
        sources[f"{target}.bias"] = Source(f"{prefix}{name}.bias")

    def linear(target: str, name: str) -> None:
        sources[f"{target}.kernel"] = Source(f"{prefix}{name}.weight", "linear")
        sources[f"{target}.bias"] = Source(f"{prefix}{name}.bias")

    for ours, theirs in (("word", "word"), ("position", "position"), ("segment", "token_type")):
        sources[f"embeddings.{ours}.embedding"] = Source(
            f"{prefix}embeddings.{theirs}_embeddings.weight"
        )
    norm("embeddings.norm", "embeddings.LayerNorm")
    for index in range(num_layers):
        target, name = f"layers.{index}", f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            linear(f"{target}.{part}", f"{name}.attention.self.{part}")
        linear(f"{target}.attention_out", f"{name}.attention.output.dense")
        norm(f"{target}.attention_norm", f"{name}.attention.output.LayerNorm")
        linear(f"{target}.inner", f"{name}.intermediate.dense")
        linear(f"{target}.outer", f"{name}.output.dense")
        norm(f"{target}.norm", f"{name}.output.LayerNorm")
    return sources
