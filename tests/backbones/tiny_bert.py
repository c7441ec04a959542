"""A random little BERT in the published file layout, and BERT once more in plain float64 numpy."""

import json
from math import sqrt

import numpy as np
from safetensors.numpy import save_file
from scipy.special import erf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

CONFIG = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
WORDS = [f"w{index}" for index in range(36)]


def random_tensors(config=CONFIG, seed=0):
    """Every tensor of a published checkpoint, the unused ones included."""
    rng = np.random.default_rng(seed)
    size, inner = config["hidden_size"], config["intermediate_size"]
    tensors = {
        "embeddings.word_embeddings.weight": rng.normal(size=(config["vocab_size"], size)),
        "embeddings.position_embeddings.weight": rng.normal(
            size=(config["max_position_embeddings"], size)
        ),
        "embeddings.token_type_embeddings.weight": rng.normal(size=(2, size)),
    }

    def linear(name, num_in, num_out):
        tensors[f"{name}.weight"] = rng.normal(size=(num_out, num_in)) / sqrt(num_in)
        tensors[f"{name}.bias"] = rng.normal(size=num_out)

    def norm(name):
        tensors[f"{name}.weight"] = rng.uniform(0.5, 1.5, size=size)
        tensors[f"{name}.bias"] = rng.normal(size=size)

    norm("embeddings.LayerNorm")
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", size, size)
        linear(f"{layer}.attention.output.dense", size, size)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", size, inner)
        linear(f"{layer}.output.dense", inner, size)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", size, size)
    tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
    tensors["embeddings.position_ids"] = np.arange(config["max_position_embeddings"])[None]
    return tensors


def make_tokenizer(words=WORDS):
    """Words split at white space, between [CLS] and [SEP]; pads and cuts, as published files do."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(5)
    return tokenizer


def write_folder(folder, *, config=CONFIG, tensors=None, prefix=""):
    """A model folder as published: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = random_tensors(config) if tensors is None else tensors
    save_file(
        {prefix + name: value for name, value in tensors.items()}, folder / "model.safetensors"
    )
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
}


def hidden_states(tokens, tensors, config=CONFIG):
    """States of one text [t]: the embeddings, then each layer, float64 [L + 1, t, d]."""
    w = {name: np.asarray(value, np.float64) for name, value in tensors.items()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][tokens]
    x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm("embeddings.LayerNorm", x + w["embeddings.token_type_embeddings.weight"][0])
    states = [x]
    width = config["hidden_size"] // config["num_attention_heads"]
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        q, k, v = (linear(f"{layer}.attention.self.{p}", x) for p in ("query", "key", "value"))
        mixed = []
        for head in range(config["num_attention_heads"]):
            part = slice(head * width, (head + 1) * width)
            scores = np.exp(q[:, part] @ k[:, part].T / sqrt(width))
            mixed.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        attended = linear(f"{layer}.attention.output.dense", np.concatenate(mixed, 1))
        x = norm(f"{layer}.attention.output.LayerNorm", x + attended)
        inner = ACTIVATIONS[config["hidden_act"]](linear(f"{layer}.intermediate.dense", x))
        x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
        states.append(x)
    return np.stack(states)
