"""Benchmark and frozen backbone into feature sets; the only room that knows both.

Names are imported on first use: processes that only decode images load neither JAX nor Flax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2s_jax.extraction.images import extract_image_features as extract_image_features
    from w2s_jax.extraction.shards import ExtractionError as ExtractionError
    from w2s_jax.extraction.texts import MINILM_EMBEDDINGS as MINILM_EMBEDDINGS
    from w2s_jax.extraction.texts import MINILM_LAST as MINILM_LAST
    from w2s_jax.extraction.texts import MINILM_PACKAGE as MINILM_PACKAGE
    from w2s_jax.extraction.texts import TextOutput as TextOutput
    from w2s_jax.extraction.texts import extract_reviews_vs_tweets as extract_reviews_vs_tweets
    from w2s_jax.extraction.texts import extract_text_features as extract_text_features
    from w2s_jax.extraction.texts import find_minilm_weights as find_minilm_weights

_HOMES = {
    "w2s_jax.extraction.images": ("extract_image_features",),
    "w2s_jax.extraction.shards": ("ExtractionError",),
    "w2s_jax.extraction.texts": (
        "MINILM_EMBEDDINGS",
        "MINILM_LAST",
        "MINILM_PACKAGE",
        "TextOutput",
        "extract_reviews_vs_tweets",
        "extract_text_features",
        "find_minilm_weights",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'w2s_jax.extraction' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
