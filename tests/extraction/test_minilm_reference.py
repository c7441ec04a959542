"""Our features against those of the published model run by transformers on torch.

`tests/data/minilm_reference.npz` holds sixteen texts of the benchmark with torch's outputs. To make
it anew, with the `reference` extra installed and vaderSentiment-3.3.2.tar.gz at hand:

    W2S_TEXTS=vaderSentiment-3.3.2.tar.gz W2S_WRITE_REFERENCE=1 \
        pytest -m reference tests/extraction/test_minilm_reference.py
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from w2s_jax.backbones.text import TextEncoder
from w2s_jax.backbones.weights import WeightsError
from w2s_jax.extraction import extract_reviews_vs_tweets, find_minilm_weights
from w2s_jax.features import load_features

REFERENCE = Path(__file__).parents[1] / "data" / "minilm_reference.npz"
# Lengths 3 to 80 tokens with the edges of the length buckets, all four groups, both splits, letters
# with accents, dashes, HTML entities, addresses, names and emoticons.
IDS = (
    *("r6324", "t40", "r74", "r10", "r79", "t4153", "r437", "r5230"),
    *("t44", "r22", "r675", "r2247", "t47", "t235", "r9562", "t169"),
)
NUM_LAYERS = 6
# At most 1.7e-6 was seen, on states up to 4.
TOLERANCE = 5e-6


def half_ulp(values):
    """Largest change that rounding to float16 makes, elementwise."""
    return np.spacing(np.abs(np.asarray(values)).astype(np.float16)).astype(np.float64) / 2


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def weights():
    try:
        return find_minilm_weights()
    except WeightsError as error:
        pytest.skip(f"the published weights are not installed: {error}")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    if "W2S_TEXTS" in os.environ:
        return Path(os.environ["W2S_TEXTS"])
    folder = tmp_path_factory.mktemp("texts")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*command, "-d", str(folder), "vaderSentiment==3.3.2"], check=True)
    return folder


def test_shipped_rows_equal_the_published_model(reference):
    for name, expected in (
        ("minilm_embeddings", reference["word_embeddings"]),
        ("minilm_last", reference["hidden_states"][:, -1]),
    ):
        shipped = load_features(f"reviews_vs_tweets/{name}")
        rows = [np.flatnonzero(shipped.ids == identifier)[0] for identifier in IDS]
        found = shipped.features[rows].astype(np.float64)
        assert (np.abs(found - expected) <= half_ulp(expected) + TOLERANCE).all()


def test_our_encoder_equals_the_published_model(reference, weights):
    encoder = TextEncoder.from_folder(weights)
    texts = reference["texts"].tolist()
    tokens = encoder.tokenize(texts)
    for row, text in enumerate(tokens):
        np.testing.assert_array_equal(text.ids, reference["tokens"][row, : len(text.ids)])
        assert not reference["tokens"][row, len(text.ids) :].any()
    found = encoder.encode(texts, layer="word_embeddings", pool_special_tokens=False)
    np.testing.assert_allclose(found, reference["word_embeddings"], rtol=0, atol=1e-7)
    for layer in (0, 1, 3, "last"):
        expected = reference["hidden_states"][:, NUM_LAYERS if layer == "last" else layer]
        found = encoder.encode(texts, layer=layer, batch_size=16)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    for batch_size in (1, 5):
        again = encoder.encode(texts, batch_size=batch_size)
        np.testing.assert_allclose(again, found, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.reference
def test_reference_file_is_what_torch_computes(weights, request):
    if os.environ.get("W2S_WRITE_REFERENCE"):
        np.savez_compressed(REFERENCE, **run_torch(weights, request.getfixturevalue("texts")))
    with np.load(REFERENCE, allow_pickle=False) as file:
        stored = dict(file)
    computed = run_torch(weights, stored["texts"].tolist())
    assert tuple(stored["ids"]) == IDS
    np.testing.assert_array_equal(computed["tokens"], stored["tokens"])
    for name in ("word_embeddings", "hidden_states"):
        np.testing.assert_allclose(computed[name], stored[name], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.reference
def test_regenerated_features_equal_the_shipped_ones(weights, texts):
    for features in extract_reviews_vs_tweets(texts, weights, batch_size=48):
        shipped = load_features(features.name)
        for field in ("ids", "labels", "attributes", "minority", "split"):
            np.testing.assert_array_equal(getattr(features, field), getattr(shipped, field))
        difference = np.abs(features.features - shipped.features.astype(np.float64))
        assert (difference <= half_ulp(features.features) + TOLERANCE).all()
        assert features.provenance["texts_sha256"] == shipped.provenance["texts_sha256"]
        assert features.provenance["sha256"] == shipped.provenance["sha256"]


def run_torch(weights, texts):
    """Means over tokens by transformers, of the texts themselves or those of IDS in the source."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    if isinstance(texts, Path):
        from w2s_jax.datasets.reviews_vs_tweets import keep_rated

        by_id = {text.id: text.text for text in keep_rated(texts)}
        texts = [by_id[identifier] for identifier in IDS]
    tokenizer = AutoTokenizer.from_pretrained(str(weights))
    model = AutoModel.from_pretrained(str(weights)).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    tokens, mask = batch["input_ids"], batch["attention_mask"][..., None].double()
    words = (tokens != tokenizer.cls_token_id) & (tokens != tokenizer.sep_token_id)
    words = words[..., None] * mask
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states
        table = model.embeddings.word_embeddings(tokens)
    return {
        "ids": np.array(IDS),
        "texts": np.array(texts),
        "tokens": tokens.numpy().astype(np.int32),
        "word_embeddings": ((table * words).sum(1) / words.sum(1)).float().numpy(),
        "hidden_states": torch.stack([(x * mask).sum(1) / mask.sum(1) for x in states], 1)
        .float()
        .numpy(),
    }
