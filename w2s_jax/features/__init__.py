"""Feature sets: frozen features of one backbone on one benchmark, checked, stored and paired."""

from w2s_jax.features.checks import SPLITS
from w2s_jax.features.feature_set import FeatureSet, make_feature_set
from w2s_jax.features.loading import load_features, shipped_names
from w2s_jax.features.pairing import FeaturePair, pair
from w2s_jax.features.predictions import Predictions, load_predictions, make_predictions
from w2s_jax.features.saving import save_features

__all__ = [
    "SPLITS",
    "FeaturePair",
    "FeatureSet",
    "Predictions",
    "load_features",
    "load_predictions",
    "make_feature_set",
    "make_predictions",
    "pair",
    "save_features",
    "shipped_names",
]
