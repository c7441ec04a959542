"""Linear heads on frozen features: the fast core, which knows nothing of teachers or students."""

from w2s_jax.heads.logistic import LogisticHeads, fit_logistic, predict_proba
from w2s_jax.heads.losses import Loss, cross_entropy, gce
from w2s_jax.heads.prepared import Prepared, prepare
from w2s_jax.heads.ridge import RidgeHeads, fit_ridge
from w2s_jax.heads.status import STATUS_NAMES

__all__ = [
    "STATUS_NAMES",
    "LogisticHeads",
    "Loss",
    "Prepared",
    "RidgeHeads",
    "cross_entropy",
    "fit_logistic",
    "fit_ridge",
    "gce",
    "predict_proba",
    "prepare",
]
