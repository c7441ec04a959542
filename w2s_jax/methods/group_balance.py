"""Upper bounds that know the groups: every group weighs the same.

`group_reweighted` gives each row of the vanilla fit the inverse of its group's size;
`group_subsampled` keeps as many rows of each group as the smallest has, the first ones of the draw
(Idrissi et al., Simple data balancing achieves competitive worst-group-accuracy, CLeaR 2022). Both
learn the teacher's pseudolabels: what worst-group accuracy they lack is due to these. `dfr`
retrains the head on the teacher's labelled rows, subsampled likewise, with their true labels
(Kirichenko et al., Last layer re-training is sufficient for robustness to spurious correlations,
ICLR 2023; there on held-out rows and averaged over subsamples). A trap: a small labelled set with a
small minority fraction leaves it a handful of rows.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from w2s_jax.methods import vanilla
from w2s_jax.methods.labelled import labels_of
from w2s_jax.methods.rounds import Fit, Method, RoundInputs


def groups_of(inputs: RoundInputs) -> Bool[Array, "g n"]:
    """Whether each row belongs to each group."""
    if inputs.in_group is None:
        raise TypeError("the round sees no groups; set oracle")
    return inputs.in_group


def inverse_group_size(inputs: RoundInputs) -> Float[Array, " n"]:
    """One over the number of rows of the row's group."""
    in_group = groups_of(inputs)
    sizes = jnp.sum(in_group, axis=1, keepdims=True)
    return jnp.sum(in_group / jnp.maximum(sizes, 1), axis=0)


def first_of_each_group(in_group: Bool[Array, "g n"]) -> Bool[Array, " n"]:
    """As many rows of each group as the smallest one has; groups without rows do not count."""
    sizes = jnp.sum(in_group, axis=1)
    least = jnp.min(jnp.where(sizes > 0, sizes, in_group.shape[1]))
    return jnp.any(in_group & (jnp.cumsum(in_group, axis=1) <= least), axis=0)


def subsampled(inputs: RoundInputs) -> Float[Array, " n"]:
    """Weight 1 for the kept rows, 0 for the others."""
    return first_of_each_group(groups_of(inputs)).astype(inputs.logits.dtype)


def reweighted_rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on all unlabelled rows."""
    targets = vanilla.PSEUDOLABELS[options["pseudolabels"]]
    return (Fit(targets=targets, weights=inverse_group_size, oracle=True),)


def subsampled_rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on the kept unlabelled rows."""
    targets = vanilla.PSEUDOLABELS[options["pseudolabels"]]
    return (Fit(targets=targets, weights=subsampled, oracle=True),)


def dfr_rounds(options: Mapping[str, str]) -> tuple[Fit]:
    """One fit on the kept labelled rows."""
    fit = Fit(
        targets=labels_of,
        weights=subsampled,
        on_labelled=True,
        on_unlabelled=False,
        oracle=True,
    )
    return (fit,)


GROUP_REWEIGHTED = Method("group_reweighted", reweighted_rounds, options=("pseudolabels",))
GROUP_SUBSAMPLED = Method("group_subsampled", subsampled_rounds, options=("pseudolabels",))
DFR = Method("dfr", dfr_rounds)
