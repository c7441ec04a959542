import json

import numpy as np
import pytest
from tiny_bert import CONFIG, WORDS, hidden_states, make_tokenizer, random_tensors, write_folder

from w2s_jax.backbones import text as text_module
from w2s_jax.backbones.bert import load_bert
from w2s_jax.backbones.text import TextEncoder
from w2s_jax.backbones.weights import WeightsError

CLS, SEP = 2, 3


@pytest.fixture
def encoder(tmp_path):
    return TextEncoder.from_folder(write_folder(tmp_path / "model"))


def make_texts(lengths=(1, 14, 15, 16, 30, 31, 46, 2, 14, 9, 46)):
    rng = np.random.default_rng(2)
    return [" ".join(rng.choice(WORDS, length)) for length in lengths]


def ids_of(text):
    return [CLS, *(WORDS.index(word) + 4 for word in text.split()), SEP]


def test_tokens_ignore_padding_and_truncation_of_the_file(encoder):
    texts = make_texts()
    for text, tokens in zip(texts, encoder.tokenize(texts), strict=True):
        assert tokens.ids.tolist() == ids_of(text)
        assert tokens.special.tolist() == [1] + [0] * len(text.split()) + [1]


@pytest.mark.parametrize("pool_special_tokens", [True, False])
@pytest.mark.parametrize("layer", ["word_embeddings", 0, 2, "last"])
def test_features_are_means_over_tokens(encoder, layer, pool_special_tokens):
    texts, tensors = make_texts(), random_tensors()
    found = encoder.encode(texts, layer=layer, pool_special_tokens=pool_special_tokens)
    assert found.dtype == np.float32
    for row, text in enumerate(texts):
        if layer == "word_embeddings":
            states = tensors["embeddings.word_embeddings.weight"][ids_of(text)]
        else:
            states = hidden_states(ids_of(text), tensors)[-1 if layer == "last" else layer]
        expected = (states if pool_special_tokens else states[1:-1]).mean(0)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("layer", ["word_embeddings", "last"])
def test_batch_size_and_neighbours_do_not_matter(encoder, layer):
    texts = make_texts()
    whole = encoder.encode(texts, layer=layer)
    for batch_size in (1, 3):
        features = encoder.encode(texts, layer=layer, batch_size=batch_size)
        np.testing.assert_allclose(features, whole, rtol=0, atol=2e-6)
    order = np.random.default_rng(3).permutation(len(texts))
    shuffled = encoder.encode([texts[row] for row in order], layer=layer)
    np.testing.assert_array_equal(shuffled, whole[order])


def test_long_texts_are_cut(encoder):
    assert encoder.max_length == CONFIG["max_position_embeddings"]
    text = " ".join(WORDS * 2)
    (tokens,) = encoder.tokenize([text])
    assert tokens.ids.tolist() == [*ids_of(text)[:47], SEP]


def test_second_call_compiles_nothing(encoder):
    encoder.encode(make_texts())
    compiled = text_module._encode._cache_size()
    encoder.encode(make_texts((3, 20, 40, 5, 12)))
    assert text_module._encode._cache_size() == compiled


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, CONFIG["hidden_size"])


def test_text_without_tokens(encoder):
    assert np.isfinite(encoder.encode(["", "w1"])).all()
    with pytest.raises(WeightsError, match="2 texts have no token to average, the first at row 1"):
        encoder.encode(["w1", "", " "], pool_special_tokens=False)


def test_bad_arguments(encoder):
    with pytest.raises(WeightsError, match="batch_size must be at least 1, found 0"):
        encoder.encode(["w1"], batch_size=0)
    with pytest.raises(WeightsError, match="Unknown layer 'top'"):
        encoder.encode(["w1"], layer="top")


def test_fingerprints_name_each_file(encoder):
    assert set(encoder.fingerprints) == {"model.safetensors", "config.json", "tokenizer.json"}
    assert all(len(digest) == 64 for digest in encoder.fingerprints.values())


def test_maximal_length_of_sentence_transformers(tmp_path):
    folder = write_folder(tmp_path)
    path = folder / "sentence_bert_config.json"
    path.write_text(json.dumps({"max_seq_length": 10}))
    assert TextEncoder.from_folder(folder).max_length == 10
    path.write_text(json.dumps({"max_seq_length": 4096}))
    assert TextEncoder.from_folder(folder).max_length == 48
    path.write_text(json.dumps({"max_seq_length": None}))
    assert TextEncoder.from_folder(folder).max_length == 48
    path.write_text(json.dumps({"max_seq_length": "ten"}))
    with pytest.raises(WeightsError, match="max_seq_length 'ten'"):
        TextEncoder.from_folder(folder)
    path.write_text(json.dumps({"max_seq_length": 2}))
    with pytest.raises(WeightsError, match="max_length must lie in 3 … 48, found 2"):
        TextEncoder.from_folder(folder)


def test_incomplete_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"lacks model\.safetensors, config\.json, tokenizer"):
        TextEncoder.from_folder(tmp_path / "nothing")
    folder = write_folder(tmp_path / "model")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(WeightsError, match="has no tokenizer model"):
        TextEncoder.from_folder(folder)


def test_tokenizer_of_another_model(tmp_path):
    model, config = load_bert(write_folder(tmp_path))
    tokenizer = make_tokenizer([*WORDS, "one", "more"])
    with pytest.raises(WeightsError, match="tokenizer has 42 tokens, the word-embedding table 40"):
        TextEncoder(model, config, tokenizer, max_length=16)
