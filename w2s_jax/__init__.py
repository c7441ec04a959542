"""w2s_jax: thousands of linear-probe heads in parallel for weak-to-strong generalization.

Everything a user calls is here; it is imported on first use, so that ``import w2s_jax`` costs next
to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from w2s_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from w2s_jax.backbones.loading import load_backbone as load_backbone
    from w2s_jax.compilation import enable_compilation_cache as enable_compilation_cache
    from w2s_jax.datasets import open_benchmark as open_benchmark
    from w2s_jax.errors import W2SError as W2SError
    from w2s_jax.extraction import extract_image_features as extract_image_features
    from w2s_jax.features import FeatureSet as FeatureSet
    from w2s_jax.features import load_features as load_features
    from w2s_jax.features import load_predictions as load_predictions
    from w2s_jax.features import make_feature_set as make_feature_set
    from w2s_jax.features import make_predictions as make_predictions
    from w2s_jax.features import pair as pair
    from w2s_jax.features import save_features as save_features
    from w2s_jax.features import shipped_names as shipped_names
    from w2s_jax.heads import Loss as Loss
    from w2s_jax.heads import cross_entropy as cross_entropy
    from w2s_jax.heads import fit_logistic as fit_logistic
    from w2s_jax.heads import fit_ridge as fit_ridge
    from w2s_jax.heads import gce as gce
    from w2s_jax.heads import predict_proba as predict_proba
    from w2s_jax.heads import prepare as prepare
    from w2s_jax.metrics import accuracy_at as accuracy_at
    from w2s_jax.report import format_table as format_table
    from w2s_jax.report import select_l2 as select_l2
    from w2s_jax.report import write_report as write_report
    from w2s_jax.sweep import Config as Config
    from w2s_jax.sweep import Grid as Grid
    from w2s_jax.sweep import evaluate_heads as evaluate_heads
    from w2s_jax.sweep import read_rows as read_rows
    from w2s_jax.sweep import resolve_pairs as resolve_pairs
    from w2s_jax.sweep import run as run
    from w2s_jax.theory import GaussianProblem as GaussianProblem
    from w2s_jax.theory import risks as risks
    from w2s_jax.theory import simulate as simulate

_HOMES = {
    "w2s_jax.backbones.loading": ("load_backbone",),
    "w2s_jax.compilation": ("enable_compilation_cache",),
    "w2s_jax.datasets": ("open_benchmark",),
    "w2s_jax.errors": ("W2SError",),
    "w2s_jax.extraction": ("extract_image_features",),
    "w2s_jax.features": (
        "FeatureSet",
        "load_features",
        "load_predictions",
        "make_feature_set",
        "make_predictions",
        "pair",
        "save_features",
        "shipped_names",
    ),
    "w2s_jax.heads": (
        "Loss",
        "cross_entropy",
        "fit_logistic",
        "fit_ridge",
        "gce",
        "predict_proba",
        "prepare",
    ),
    "w2s_jax.metrics": ("accuracy_at",),
    "w2s_jax.report": ("format_table", "select_l2", "write_report"),
    "w2s_jax.sweep": ("Config", "Grid", "evaluate_heads", "read_rows", "resolve_pairs", "run"),
    "w2s_jax.theory": ("GaussianProblem", "risks", "simulate"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'w2s_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
