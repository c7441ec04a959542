"""Vanilla weak-to-strong: the student learns the teacher's pseudolabels with cross entropy."""

from collections.abc import Mapping

from w2s_jax.methods.rounds import Fit, Method, hard_pseudolabels, soft_pseudolabels

PSEUDOLABELS = {"hard": hard_pseudolabels, "soft": soft_pseudolabels}


def rounds(options: Mapping[str, str]) -> tuple[Fit, ...]:
    """One fit on all unlabelled rows."""
    return (Fit(targets=PSEUDOLABELS[options["pseudolabels"]]),)


VANILLA = Method("vanilla", rounds, options=("pseudolabels",))
