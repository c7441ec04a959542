"""Label smoothing: pseudolabels are mixed with the uniform distribution.

Cross entropy towards ``(1 - s) y + s / c``, y the pseudolabel (hard or soft) and s the smoothing,
in [0, 1]. A trap: others divide the mass s among the c - 1 classes that are not the label's; their
s is (c - 1) / c times this one.

Source: Szegedy et al., Rethinking the Inception architecture, CVPR 2016, section 7; for noisy
labels Lukasik et al., Does label smoothing mitigate label noise?, ICML 2020.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Array, Float

from w2s_jax.methods import vanilla
from w2s_jax.methods.rounds import Fit, Function, Method, RoundInputs, as_probabilities


def _smoothed(pseudolabels: Function) -> Callable[[RoundInputs], Array]:
    def targets(inputs: RoundInputs) -> Float[Array, "n c"]:
        labels = as_probabilities(pseudolabels(inputs), inputs)
        smoothing = inputs.hyperparameters["smoothing"]
        return (1 - smoothing) * labels + smoothing / labels.shape[-1]

    return targets


SMOOTHED = {kind: _smoothed(pseudolabels) for kind, pseudolabels in vanilla.PSEUDOLABELS.items()}


def rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on all unlabelled rows."""
    return (Fit(targets=SMOOTHED[options["pseudolabels"]], reads=("smoothing",)),)


LABEL_SMOOTHING = Method("label_smoothing", rounds, options=("pseudolabels",))
