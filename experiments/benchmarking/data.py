"""Synthetic problems: features with a power-law spectrum, labels from a noisy linear rule."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Which penalties the first heads of a subset have: any even number of them lies symmetric.
SYMMETRIC = (1, 6, 3, 4, 0, 7, 2, 5)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a synthetic problem is made; all of it is in the JSON.

    Gaussian features with noisy labels would be too easy: every head's Hessian would be a multiple
    of their covariance, which is what the engine's preconditioner takes it to be. Hence rows of
    different length, as real ones have (the shipped student features' lengths vary by 48 %), and
    labels clean enough that curvature differs from row to row.

    Attributes:
        seed: of everything random.
        decay: the j-th eigenvalue of the features' covariance is proportional to j^-decay.
        row_spread: standard deviation of the logarithm of a row's length.
        noise: standard deviation of what is added to each class's score, in units of the score's
            own, before the largest score becomes the label; drawn anew for every head.
        l2_low: smallest penalty.
        l2_high: largest penalty; penalties are log-spaced and dealt out to the heads in turn.
        num_l2: distinct penalties.
        pool_factor: rows in the pool for each row of a set, where there are several sets.
    """

    seed: int = 0
    decay: float = 1.0
    row_spread: float = 0.5
    noise: float = 0.25
    l2_low: float = 1e-4
    l2_high: float = 1.0
    num_l2: int = 8
    pool_factor: int = 2

    def penalties(self) -> np.ndarray:
        """The distinct penalties, ascending."""
        return np.geomspace(self.l2_low, self.l2_high, self.num_l2)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a problem of many heads.

    Attributes:
        n: rows that a head trains on.
        d: features.
        classes: of logistic heads; 0 for ridge.
        sets: distinct sets of rows.
        per_set: logistic heads, or ridge penalties, on each set.
        targets: ridge targets for each set and penalty.
        steps: of Adam, for heads that are trained step by step and not to their minimum.
        batch: rows of a step; 0 for all.
    """

    n: int
    d: int
    classes: int = 2
    sets: int = 1
    per_set: int = 1
    targets: int = 1
    steps: int = 0
    batch: int = 0

    @property
    def logits(self) -> int:
        """Columns of a head's weights."""
        return self.targets if self.classes == 0 else 1 if self.classes == 2 else self.classes

    @property
    def units(self) -> int:
        """Fits: distinct (set of rows, penalty, labels)."""
        return self.sets * self.per_set

    @property
    def heads(self) -> int:
        """Distinct trained heads; every ridge target is one."""
        return self.units * (self.targets if self.classes == 0 else 1)

    def scaled(self, scale: float) -> "Shape":
        """A smaller problem of the same kind, for a smoke test."""
        if scale == 1:
            return self

        def shrink(size: int, least: int) -> int:
            return min(size, max(least, round(size * scale)))

        return dataclasses.replace(
            self,
            n=shrink(self.n, 40 * max(self.classes, 1)),
            d=shrink(self.d, 8),
            sets=shrink(self.sets, 4),
            per_set=shrink(self.per_set, 8),
            targets=shrink(self.targets, 4),
            steps=shrink(self.steps, 20),
            batch=shrink(self.batch, 16),
        )


@dataclasses.dataclass(frozen=True)
class Problem:
    """Many heads on sets of rows of one feature matrix, as it lies in a folder.

    Attributes:
        folder: where it lies.
        shape: its sizes.
        x: features of the pool ``[p, d]`` float32, memory mapped.
        rows: of each set ``[s, n]``.
        targets: class indices of each unit ``[u, n]``, or ridge targets of each set ``[s, n, t]``.
        l2: penalty of each unit ``[u]``; unit u trains on set u // per_set.
        order: units so that the first few are a random subset with all penalties alike ``[u]``.
    """

    folder: Path
    shape: Shape
    x: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    l2: np.ndarray
    order: np.ndarray

    def set_of(self, units: Any) -> Any:
        """The set of rows of some units."""
        return units // self.shape.per_set

    def training(self, unit: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of one unit: ``[n, d]``, and ``[n]`` or ``[n, t]``."""
        own = int(self.set_of(unit))
        x = self.x if self.shape.sets == 1 else self.x[self.rows[own]]
        targets = self.targets[own] if self.shape.classes == 0 else self.targets[unit]
        return np.asarray(x, dtype), targets


def make_features(
    rng: np.random.Generator, num_rows: int, num_features: int, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[p, d]`` of root mean square 1, and their principal axes scaled ``[d, d]``."""
    root = np.arange(1, num_features + 1) ** (-recipe.decay / 2)
    root *= np.sqrt(num_features / np.sum(root**2))
    axes, _ = np.linalg.qr(rng.normal(size=(num_features, num_features)))
    mixing = (axes * root).astype(np.float32)
    latent = rng.standard_normal((num_rows, num_features), dtype=np.float32)
    spread = recipe.row_spread * rng.standard_normal((num_rows, 1), dtype=np.float32)
    latent *= np.exp(spread - recipe.row_spread**2)
    return latent @ mixing.T, mixing


def scores_of_rule(
    rng: np.random.Generator, x: np.ndarray, mixing: np.ndarray, columns: int
) -> np.ndarray:
    """Scores ``[p, columns]`` of a random linear rule, each column of standard deviation 1."""
    num_features = x.shape[1]
    rule = mixing @ rng.normal(size=(num_features, columns)) / num_features
    scores = x @ rule.astype(np.float32)
    return (scores - scores.mean(axis=0)) / scores.std(axis=0)


def noisy_labels(rng: np.random.Generator, scores: np.ndarray, noise: float) -> np.ndarray:
    """Labels ``[n]`` from scores ``[n]`` (two classes) or ``[n, c]``."""
    noisy = scores + noise * rng.standard_normal(scores.shape, dtype=np.float32)
    labels = noisy > 0 if scores.ndim == 1 else noisy.argmax(axis=1)
    return labels.astype(np.int32)


def subset_order(rng: np.random.Generator, level: np.ndarray) -> np.ndarray:
    """Indices in an order whose first m are a random subset that takes all levels in turn.

    Args:
        rng: decides among those of one level.
        level: level of each, 0, 1, ... ``[u]``.

    >>> level = np.array([0, 1, 2, 0, 1, 2])
    >>> level[subset_order(np.random.default_rng(0), level)].tolist()
    [1, 0, 2, 1, 0, 2]
    """
    shuffled = rng.permutation(len(level))
    turn = np.empty(len(level), int)
    for value in np.unique(level):
        members = shuffled[level[shuffled] == value]
        turn[members] = np.arange(len(members))
    preference = np.argsort(SYMMETRIC) if level.max() < 8 else np.arange(level.max() + 1)
    return np.lexsort((preference[level], turn))


def write_problem(folder: Path, shape: Shape, recipe: Recipe) -> None:
    """Makes a problem of logistic or ridge heads and writes it into a folder."""
    rng = np.random.default_rng([recipe.seed, shape.n, shape.d, shape.sets])
    num_rows = shape.n if shape.sets == 1 else recipe.pool_factor * shape.n
    x, mixing = make_features(rng, num_rows, shape.d, recipe)
    rows = np.arange(shape.n)[None]
    if shape.sets > 1:
        rows = np.stack([rng.permutation(num_rows)[: shape.n] for _ in range(shape.sets)])
    set_of = np.repeat(np.arange(shape.sets), shape.per_set)
    if shape.classes == 0:
        l2 = np.geomspace(recipe.l2_low, recipe.l2_high, shape.per_set)
        level = np.tile(np.arange(shape.per_set), shape.sets)
        l2, scores = l2[level], scores_of_rule(rng, x, mixing, shape.targets)[rows]
        noise = rng.standard_normal(scores.shape, dtype=np.float32)
        targets = (scores + recipe.noise * noise).astype(np.float32)
    else:
        scores = scores_of_rule(rng, x, mixing, shape.logits)
        scores = scores[:, 0] if shape.classes == 2 else scores
        targets = np.stack([noisy_labels(rng, scores[rows[s]], recipe.noise) for s in set_of])
        # A single head gets a penalty from the middle, not the hardest.
        level = (np.arange(shape.units) + (recipe.num_l2 // 2 if shape.units == 1 else 0)) % (
            recipe.num_l2
        )
        l2 = recipe.penalties()[level]
    np.save(folder / "x.npy", x)
    np.savez(
        folder / "problem.npz",
        rows=rows.astype(np.int32),
        targets=targets,
        l2=l2,
        order=subset_order(rng, level),
    )
    (folder / "shape.json").write_text(json.dumps(dataclasses.asdict(shape)))


def read_problem(folder: Path) -> Problem:
    """Opens what `write_problem` wrote; features stay on disk until they are used."""
    shape = Shape(**json.loads((folder / "shape.json").read_text()))
    with np.load(folder / "problem.npz") as arrays:
        rest = {name: arrays[name] for name in arrays.files}
    return Problem(folder, shape, np.load(folder / "x.npy", mmap_mode="r"), **rest)


def units_of(problem: Problem, count: int) -> np.ndarray:
    """The first `count` units in subset order, or all of them in their own order."""
    return np.arange(problem.shape.units) if count >= len(problem.order) else problem.order[:count]


def describe(recipe: Recipe, shape: Shape) -> dict[str, Any]:
    """What the JSON says about a problem."""
    l2: Sequence[float] = recipe.penalties().tolist()
    if shape.classes == 0:
        l2 = [recipe.l2_low, recipe.l2_high]
    return {"recipe": dataclasses.asdict(recipe), "l2": l2, "shape": dataclasses.asdict(shape)}
