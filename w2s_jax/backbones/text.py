"""Texts to feature vectors: tokenisation, batches of bucketed length, encoder and masked mean."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from w2s_jax.backbones.bert import Bert, BertConfig, Layer, layer_index, load_bert, masked_mean
from w2s_jax.backbones.weights import WeightsError, file_sha256, read_json

# A text is padded to the first of these that holds it: six programs serve every text.
LENGTH_BUCKETS = (16, 32, 64, 128, 256, 512)
WEIGHTS_FILES = ("model.safetensors", "config.json", "tokenizer.json")


class Tokens(NamedTuple):
    """One text's tokens: `ids` `[t]`, and `special` `[t]`, 1 at [CLS] and [SEP]."""

    ids: np.ndarray
    special: np.ndarray


class TextEncoder:
    """A frozen BERT encoder with its tokenizer.

    A text's padded length depends on that text alone, and batches are filled to `batch_size` rows,
    so neither the batch size nor the neighbours change a text's features beyond float32 rounding
    (at most 5e-6 on all-MiniLM-L6-v2's features of order one, by test; 1.5e-6 was seen on a CPU).

    Args:
        model: The encoder.
        config: Its configuration.
        tokenizer: A `tokenizers.Tokenizer`; padding and truncation settings in it are replaced.
        max_length: Longer texts are cut to this number of tokens, special ones included.
        fingerprints: File name to SHA-256, kept for provenance.
    """

    def __init__(
        self,
        model: Bert,
        config: BertConfig,
        tokenizer,
        *,
        max_length: int,
        fingerprints: dict[str, str] | None = None,
    ):
        limit = min(config.max_position_embeddings, LENGTH_BUCKETS[-1])
        if not 2 < max_length <= limit:
            raise WeightsError(f"max_length must lie in 3 … {limit}, found {max_length}.")
        size = tokenizer.get_vocab_size()
        if size > config.vocab_size:
            raise WeightsError(
                f"The tokenizer has {size} tokens, the word-embedding table {config.vocab_size}; "
                "use tokenizer.json and weights of one published model."
            )
        self.graph, self.state = nnx.split(model)
        self.config = config
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.fingerprints = fingerprints or {}
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "TextEncoder":
        """Load encoder and tokenizer from a published model's folder.

        Args:
            folder: Holds `config.json`, `model.safetensors` and `tokenizer.json`; the maximal
                length is that of `sentence_bert_config.json` or else the position table's.

        Returns:
            The encoder.

        Raises:
            WeightsError: A file is absent or malformed, or the files do not fit each other.
        """
        folder = Path(folder)
        missing = [name for name in WEIGHTS_FILES if not (folder / name).is_file()]
        if missing:
            raise WeightsError(
                f"{folder} lacks {', '.join(missing)}; give the folder of a published BERT model "
                f"with {', '.join(WEIGHTS_FILES)}."
            )
        model, config = load_bert(folder)
        limit = min(config.max_position_embeddings, LENGTH_BUCKETS[-1])
        return cls(
            model,
            config,
            _read_tokenizer(folder / "tokenizer.json"),
            max_length=_read_max_length(folder / "sentence_bert_config.json", limit),
            fingerprints={name: file_sha256(folder / name) for name in WEIGHTS_FILES},
        )

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of texts, special tokens included, cut to the maximal length.

        Args:
            texts: The texts.

        Returns:
            One `Tokens` a text.
        """
        return [
            Tokens(np.asarray(e.ids, np.int32), np.asarray(e.special_tokens_mask, np.int32))
            for e in self.tokenizer.encode_batch(list(texts))
        ]

    def encode(
        self,
        texts: Sequence[str],
        *,
        layer: Layer = "last",
        pool_special_tokens: bool = True,
        batch_size: int = 64,
    ) -> Float32[np.ndarray, "n d"]:
        """Features of texts: the mean of one layer's states over the tokens.

        Args:
            texts: The texts.
            layer: `"word_embeddings"`, 0 … L or `"last"`, see `w2s_jax.backbones.bert`.
            pool_special_tokens: Whether the states at [CLS] and [SEP] enter the mean. They take
                part in attention in any case.
            batch_size: Texts per call of the network.

        Returns:
            `[n, d]` float32, rows as in `texts`.

        Raises:
            WeightsError: The layer does not exist, the batch size is not positive, or a text has no
                token to average.
        """
        layer_index(layer, self.config.num_hidden_layers)
        if batch_size < 1:
            raise WeightsError(f"batch_size must be at least 1, found {batch_size}.")
        tokens = self.tokenize(texts)
        lengths = np.array([len(t.ids) for t in tokens], np.int64)
        pooled = lengths if pool_special_tokens else [int((1 - t.special).sum()) for t in tokens]
        empty = np.flatnonzero(np.asarray(pooled) == 0)
        if empty.size:
            raise WeightsError(
                f"{empty.size} texts have no token to average, the first at row {empty[0]}: "
                f"{texts[int(empty[0])]!r}; remove them."
            )
        features = np.empty((len(tokens), self.config.hidden_size), np.float32)
        buckets = np.searchsorted(LENGTH_BUCKETS, lengths)
        for bucket in np.unique(buckets):
            length = min(LENGTH_BUCKETS[bucket], self.config.max_position_embeddings)
            members = np.flatnonzero(buckets == bucket)
            for start in range(0, members.size, batch_size):
                rows = members[start : start + batch_size]
                ids, attention, special = _pad([tokens[row] for row in rows], length, batch_size)
                pooling = attention if pool_special_tokens else attention * (1 - special)
                means = _encode(self.state, ids, attention, pooling, graph=self.graph, layer=layer)
                features[rows] = np.asarray(means)[: rows.size]
        return features


@partial(jax.jit, static_argnames=("graph", "layer"))
def _encode(
    state,
    ids: Int[Array, "b t"],
    attention: Int[Array, "b t"],
    pooling: Int[Array, "b t"],
    *,
    graph,
    layer: Layer,
) -> Float[Array, "b d"]:
    return masked_mean(nnx.merge(graph, state)(ids, attention, layer=layer), pooling)


def _pad(tokens: Sequence[Tokens], length: int, num_rows: int) -> np.ndarray:
    """Ids, attention mask and special-token mask `[3, num_rows, length]`, zero where padded."""
    batch = np.zeros((3, num_rows, length), np.int32)
    for row, (ids, special) in enumerate(tokens):
        batch[:, row, : len(ids)] = ids, np.ones_like(ids), special
    return batch


def _read_tokenizer(path: Path):
    from tokenizers import Tokenizer

    # The library raises a bare Exception for a malformed file, so the form is checked first.
    if "model" not in read_json(path):
        raise WeightsError(f"{path} has no tokenizer model; use the published tokenizer.json.")
    return Tokenizer.from_file(str(path))


def _read_max_length(path: Path, limit: int) -> int:
    if not path.is_file():
        return limit
    length = read_json(path).get("max_seq_length") or limit
    if not isinstance(length, int):
        raise WeightsError(f"{path} has max_seq_length {length!r}, expected a whole number.")
    return min(length, limit)
