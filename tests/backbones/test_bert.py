import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_bert import CONFIG, hidden_states, random_tensors, write_folder

from w2s_jax.backbones.bert import BertConfig, layer_index, load_bert, masked_mean
from w2s_jax.backbones.weights import WeightsError

NUM_LAYERS = CONFIG["num_hidden_layers"]
TOLERANCE = 5e-6  # float32 through three layers, states of order one


def padded(lengths, length, seed=1):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, CONFIG["vocab_size"], (len(lengths), length))
    mask = (np.arange(length) < np.array(lengths)[:, None]).astype(int)
    return jnp.asarray(tokens), jnp.asarray(mask)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_all_layers_equal_plain_numpy(tmp_path, activation, prefix):
    config = {**CONFIG, "hidden_act": activation}
    tensors = random_tensors(config)
    model, _ = load_bert(write_folder(tmp_path, config=config, prefix=prefix))
    tokens, mask = padded([7, 1, 12], 12)
    for layer in [*range(NUM_LAYERS + 1), "last"]:
        found = model(tokens, mask, layer=layer)
        for row, length in enumerate(mask.sum(1)):
            expected = hidden_states(tokens[row, :length], tensors, config)
            index = NUM_LAYERS if layer == "last" else layer
            np.testing.assert_allclose(found[row, :length], expected[index], rtol=0, atol=TOLERANCE)


def test_word_embeddings_are_the_table_alone(tmp_path):
    model, _ = load_bert(write_folder(tmp_path))
    tokens, mask = padded([5, 3], 5)
    table = random_tensors()["embeddings.word_embeddings.weight"]
    found = model(tokens, mask, layer="word_embeddings")
    np.testing.assert_array_equal(found, table[tokens])


def test_padding_changes_no_token(tmp_path):
    model, _ = load_bert(write_folder(tmp_path))
    tokens, mask = padded([9, 4], 40)
    long = model(tokens, mask)
    short = model(tokens[:, :9], mask[:, :9])
    other = model(jnp.where(mask, tokens, 7), mask)
    for row, length in enumerate((9, 4)):
        np.testing.assert_allclose(long[row, :length], short[row, :length], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(long[row, :length], other[row, :length])


def test_row_without_tokens_is_finite(tmp_path):
    model, _ = load_bert(write_folder(tmp_path))
    tokens, mask = padded([0, 4], 4)
    assert np.isfinite(model(tokens, mask)).all()


def test_every_product_is_in_full_precision(tmp_path):
    graph, state = nnx.split(load_bert(write_folder(tmp_path))[0])
    tokens, mask = padded([4], 8)
    program = jax.jit(lambda s, t, m: nnx.merge(graph, s)(t, m)).lower(state, tokens, mask)
    products = [line for line in program.as_text().splitlines() if "dot_general" in line]
    assert len(products) == 8 * NUM_LAYERS
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_more_tokens_than_positions(tmp_path):
    model, _ = load_bert(write_folder(tmp_path))
    with pytest.raises(WeightsError, match="Texts of 49 tokens are longer than the 48 positions"):
        model(*padded([49], 49))


def test_masked_mean_ignores_padding_and_empty_rows():
    states = jnp.array([[[1.0, 2.0], [3.0, 6.0], [jnp.nan, jnp.inf]], [[jnp.nan] * 2] * 3])
    mask = jnp.array([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(masked_mean(states, mask), [[2.0, 4.0], [0.0, 0.0]])


@pytest.mark.parametrize("layer", [-1, NUM_LAYERS + 1, "first"])
def test_unknown_layer(layer):
    with pytest.raises(WeightsError, match=r"Unknown layer .* 'last' or 0 … 3"):
        layer_index(layer, NUM_LAYERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' positions"),
        ({"hidden_act": "swish"}, "activation 'swish'; known are gelu, gelu_new, relu"),
        ({"num_attention_heads": 5}, "12 is no multiple of num_attention_heads 5"),
    ],
)
def test_config_of_something_else(tmp_path, change, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(WeightsError, match=message):
        BertConfig.from_file(path)


def test_config_without_a_size(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "bert", "vocab_size": 3, "hidden_size": 2}))
    with pytest.raises(WeightsError, match="lacks num_hidden_layers, num_attention_heads, inter"):
        BertConfig.from_file(path)


def test_config_and_weights_of_two_models(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 4}))
    with pytest.raises(WeightsError, match=r"16 missing tensors: encoder\.layer\.3\.attention"):
        load_bert(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 2}))
    with pytest.raises(WeightsError, match=r"16 unexpected tensors: encoder\.layer\.2\.attention"):
        load_bert(folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 41}))
    with pytest.raises(WeightsError, match=r"word_embeddings\.weight \(40, 12\) instead of \(41"):
        load_bert(folder)
