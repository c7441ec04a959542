"""Small feature sets for tests: a class direction, an attribute direction, and noise."""

import numpy as np

from w2s_jax.features import FeatureSet, make_feature_set


def toy_set(
    name: str,
    *,
    num_classes: int = 2,
    num_features: int = 12,
    rows_per_cell: int = 140,
    signal: float = 1.0,
    seed: int = 0,
    num_unlabelled: int = 0,
    order: np.ndarray | None = None,
) -> FeatureSet:
    """A set whose attribute is as visible as its class; rows are the same whatever the name."""
    rng = np.random.default_rng(0)
    cells = [(y, a) for y in range(num_classes) for a in range(num_classes)]
    labels = np.repeat([y for y, _ in cells], rows_per_cell)
    attributes = np.repeat([a for _, a in cells], rows_per_cell)
    split = np.where(rng.random(len(labels)) < 0.3, "test", "train")
    hidden = np.arange(len(labels)) < 0
    if num_unlabelled:
        hidden = np.zeros(len(labels), bool)
        hidden[rng.choice(np.flatnonzero(split == "train"), num_unlabelled, replace=False)] = True
    rng = np.random.default_rng((1, seed))
    directions = rng.normal(size=(2, num_classes, num_features))
    features = signal * directions[0][labels] + directions[1][attributes]
    features = (features + 1.5 * rng.normal(size=features.shape)).astype(np.float32)
    minority = (labels != attributes) & ~hidden
    order = np.arange(len(labels)) if order is None else order
    return make_feature_set(
        features[order],
        np.where(hidden, -1, labels)[order],
        minority=minority[order] if num_unlabelled else None,
        attributes=None if num_unlabelled else attributes[order],
        minority_cells=None if num_unlabelled else ~np.eye(num_classes, dtype=bool),
        split=split[order],
        ids=np.array([f"row {i}" for i in range(len(labels))])[order],
        name=name,
    )
