"""Accuracy by group, its averages, and what weak-to-strong training gains."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from w2s_jax.errors import W2SError

AVERAGES = (
    "accuracy",
    "group_balanced_accuracy",
    "train_weighted_accuracy",
    "worst_group_accuracy",
    "majority_accuracy",
    "minority_accuracy",
)


@dataclasses.dataclass(frozen=True)
class GroupedTest:
    """The test rows by group, and what weighs the groups against one another.

    Attributes:
        rows: test rows ordered by (group, id) ``[n]``.
        counts: test rows of each group ``[g]``.
        names: group names ``[g]``.
        labels: class of each group ``[g]``.
        minority: whether the group is a minority ``[g]``.
        prior: class prior of the draws ``[c]``.
        train_share: share of each group in the training split ``[g]``.
    """

    rows: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " g"]
    names: tuple[str, ...]
    labels: Int[np.ndarray, " g"]
    minority: Bool[np.ndarray, " g"]
    prior: Float[np.ndarray, " c"]
    train_share: Float[np.ndarray, " g"]

    def group_accuracies(self, correct: Bool[np.ndarray, "h n"]) -> Float[np.ndarray, "h g"]:
        """Accuracy of every head in every group; NaN where a group has no test rows.

        Args:
            correct: whether each head is right on each test row, in the order of `rows`.
        """
        edges = np.concatenate([[0], np.cumsum(self.counts)])
        groups = itertools.pairwise(edges)
        hits = np.stack([np.count_nonzero(correct[:, a:b], axis=1) for a, b in groups], axis=1)
        return np.where(self.counts > 0, hits / np.maximum(self.counts, 1), np.nan)

    def averages(self, by_group: Float[np.ndarray, "h g"]) -> dict[str, Float[np.ndarray, " h"]]:
        """The averages of `AVERAGES` from the accuracies by group.

        accuracy weighs groups by test rows (plain), group_balanced_accuracy equally,
        train_weighted_accuracy by their share of the training split; all over groups with test
        rows. majority_accuracy and minority_accuracy are sum_y pi_y acc(y, .) with the class prior
        pi of the draws: the accuracy at a minority fraction eta_t lies linearly between them
        (`accuracy_at`). They are NaN where a class has no such test rows.
        """
        seen = self.counts > 0
        filled = np.where(seen, by_group, 0.0)

        def weighted(weights: np.ndarray) -> np.ndarray:
            weights = np.where(seen, weights, 0.0)
            total = weights.sum()
            # A sum a row: a matrix product's last bits would depend on the number of rows.
            sums = np.sum(filled * weights, axis=1)
            return sums / total if total > 0 else np.full(len(by_group), np.nan)

        def side(minority: bool) -> np.ndarray:
            total = np.zeros(len(by_group))
            for label, share in enumerate(self.prior):
                if share > 0:
                    cell = (self.labels == label) & (self.minority == minority)
                    total = total + share * weighted(self.counts * cell)
            return total

        return {
            "accuracy": weighted(self.counts),
            "group_balanced_accuracy": weighted(np.ones(len(seen))),
            "train_weighted_accuracy": weighted(self.train_share),
            "worst_group_accuracy": np.min(np.where(seen, by_group, np.inf), axis=1),
            "majority_accuracy": side(minority=False),
            "minority_accuracy": side(minority=True),
        }


def grouped_test(
    groups: Int[np.ndarray, " n"],
    test_rows: Int[np.ndarray, " t"],
    train_rows: Int[np.ndarray, " r"],
    *,
    names: tuple[str, ...],
    labels: Int[np.ndarray, " g"],
    minority: Bool[np.ndarray, " g"],
    prior: Float[np.ndarray, " c"],
) -> GroupedTest:
    """Orders the test rows by group and counts both splits.

    Args:
        groups: group of every row, -1 where unlabelled; rows are in id order.
        test_rows: rows of the test split.
        train_rows: rows of the training split.
        names: group names.
        labels: class of each group.
        minority: whether each group is a minority.
        prior: class prior of the draws.
    """
    order = test_rows[np.argsort(groups[test_rows], kind="stable")]
    train = groups[train_rows]
    train_counts = np.bincount(train[train >= 0], minlength=len(names))
    return GroupedTest(
        rows=order,
        counts=np.bincount(groups[order], minlength=len(names)),
        names=names,
        labels=labels,
        minority=minority,
        prior=prior,
        train_share=train_counts / max(train_counts.sum(), 1),
    )


def accuracy_at(
    eta_t: float, majority: Float[np.ndarray, " h"], minority: Float[np.ndarray, " h"]
) -> Float[np.ndarray, " h"]:
    """Accuracy on test data of minority fraction eta_t.

    sum_y pi_y [(1 - eta_t) acc(y, majority) + eta_t acc(y, minority)], linear in eta_t.

    >>> accuracy_at(0.25, np.array([0.9]), np.array([0.5])).tolist()
    [0.8]
    """
    if not 0 <= eta_t <= 1:
        raise W2SError(f"eta_t must lie in [0, 1], found {eta_t}")
    return (1 - eta_t) * majority + eta_t * minority


def pgr(
    student: Float[np.ndarray, " h"],
    teacher: Float[np.ndarray, " h"],
    ceiling: Float[np.ndarray, " h"],
    num_test: int,
) -> Float[np.ndarray, " h"]:
    """Performance gap recovered, (student - teacher) / (ceiling - teacher).

    NaN where ceiling - teacher is at most one test row, 1 / num_test: the ratio is noise there.

    Source: Burns et al., Weak-to-Strong Generalization, 2023.

    >>> pgr(np.array([0.8]), np.array([0.7]), np.array([0.9]), 100).round(3).tolist()
    [0.5]
    """
    room = ceiling - teacher
    defined = room > (1 + 1e-9) / num_test
    return np.where(defined, (student - teacher) / np.where(defined, room, 1.0), np.nan)
