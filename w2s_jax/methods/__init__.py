"""Ways to train a student on pseudolabels, one a file."""

import difflib

from w2s_jax.errors import GridError
from w2s_jax.methods.bootstrapped import BOOTSTRAP_HARD, BOOTSTRAP_SOFT, ENTROPY_MINIMISATION
from w2s_jax.methods.co_training import CO_TRAINING
from w2s_jax.methods.confidence import CONFIDENCE, CONFIDENCE_ADAPTIVE
from w2s_jax.methods.corrected import BACKWARD_CORRECTION, FORWARD_CORRECTION
from w2s_jax.methods.enhanced import ENHANCED
from w2s_jax.methods.ensemble import TEACHER_ENSEMBLE
from w2s_jax.methods.forgetting import ENHANCED_FORGETTING
from w2s_jax.methods.gradient import GradientStep
from w2s_jax.methods.group_balance import DFR, GROUP_REWEIGHTED, GROUP_SUBSAMPLED
from w2s_jax.methods.group_dro import GROUP_DRO
from w2s_jax.methods.jtt import JTT
from w2s_jax.methods.labelled import LABELLED, LABELLED_AND_PSEUDO
from w2s_jax.methods.lff import LFF
from w2s_jax.methods.rounds import Fit, Method, RoundInputs, Train
from w2s_jax.methods.selected import ENHANCED_ORACLE, SELECTED
from w2s_jax.methods.self_training import PRODUCT, SELF_TRAINING
from w2s_jax.methods.sinkhorn import SINKHORN
from w2s_jax.methods.smoothed import LABEL_SMOOTHING
from w2s_jax.methods.trained import VANILLA_TRAINED
from w2s_jax.methods.vanilla import VANILLA

METHODS = {
    method.name: method
    for method in (
        VANILLA,
        ENHANCED,
        *SELECTED,
        ENHANCED_FORGETTING,
        PRODUCT,
        SELF_TRAINING,
        VANILLA_TRAINED,
        CONFIDENCE,
        CONFIDENCE_ADAPTIVE,
        LABEL_SMOOTHING,
        BOOTSTRAP_HARD,
        BOOTSTRAP_SOFT,
        ENTROPY_MINIMISATION,
        FORWARD_CORRECTION,
        BACKWARD_CORRECTION,
        SINKHORN,
        TEACHER_ENSEMBLE,
        JTT,
        LFF,
        LABELLED,
        LABELLED_AND_PSEUDO,
        CO_TRAINING,
        ENHANCED_ORACLE,
        GROUP_REWEIGHTED,
        GROUP_SUBSAMPLED,
        GROUP_DRO,
        DFR,
    )
}


def get_method(name: str) -> Method:
    """The method of a name.

    Raises:
        GridError: for an unknown name; it lists the known ones.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise GridError(f"unknown method {name!r}; {hint}known: {', '.join(METHODS)}")
    return METHODS[name]


__all__ = ["METHODS", "Fit", "GradientStep", "Method", "RoundInputs", "Train", "get_method"]
