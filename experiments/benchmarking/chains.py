"""Whole chains: a grid for the engine, and the same distinct heads as single jobs for the peers."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import w2s_jax

from .data import Recipe, make_features, noisy_labels, scores_of_rule, subset_order

KINDS = ("teacher", "ceiling", "student", "retrained")
EMBEDDED = ("reviews_vs_tweets/minilm_embeddings", "reviews_vs_tweets/minilm_last")
# Jobs of each kind whose objective and accuracy are compared.
JUDGED = 16


@dataclasses.dataclass(frozen=True)
class ChainShape:
    """A grid of whole chains.

    Attributes:
        embedded: on the shipped benchmark instead of synthetic features.
        classes: of the task.
        d_teacher: teacher's features.
        d_student: student's features.
        n_labelled: rows the teacher learns from.
        n_unlabelled: rows the student learns from.
        num_seeds: draws.
        axes: further axes of the grid by name.
        sample: jobs of each kind that peers are timed on.
    """

    embedded: bool = False
    classes: int = 2
    d_teacher: int = 256
    d_student: int = 512
    n_labelled: int = 500
    n_unlabelled: int = 5000
    num_seeds: int = 4
    axes: dict[str, Any] = dataclasses.field(default_factory=dict)
    sample: int = 16

    def scaled(self, scale: float) -> "ChainShape":
        """A smaller chain of the same kind, for a smoke test."""
        if scale == 1:
            return self
        least = 15 * self.classes
        return dataclasses.replace(
            self,
            d_teacher=max(8, round(self.d_teacher * scale)),
            d_student=max(8, round(self.d_student * scale)),
            n_labelled=max(least, round(self.n_labelled * scale)),
            n_unlabelled=max(2 * least, round(self.n_unlabelled * scale)),
            num_seeds=1,
            axes={name: values[:2] for name, values in self.axes.items()},
            sample=4,
        )


@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain problem as it lies in a folder.

    Attributes:
        shape: its sizes.
        pair: teacher and student, as names or paths of feature sets.
        counts: distinct heads of the whole grid by kind.
        weak: teacher's scaled features of all rows ``[m, d]``, memory mapped.
        strong: student's ``[m, d]``, memory mapped.
        labels: of all rows ``[m]``.
        minority: of all rows ``[m]``.
        groups: of all rows ``[m]``.
        test: test rows.
        jobs: by kind, arrays of the sampled jobs: ``rows`` ``[j, n]`` and ``l2``; ``teacher`` (of a
            student) and ``student`` (of a retraining) index the samples; ``q``, ``count``.
        configs: of the sampled students and retrainings, as field dictionaries.
    """

    shape: ChainShape
    pair: tuple[str, str]
    counts: dict[str, int]
    weak: np.ndarray
    strong: np.ndarray
    labels: np.ndarray
    minority: np.ndarray
    groups: np.ndarray
    test: np.ndarray
    jobs: dict[str, dict[str, np.ndarray]]
    configs: dict[str, list[dict[str, Any]]]

    @property
    def logits(self) -> int:
        """Columns of a head's weights."""
        return 1 if self.shape.classes == 2 else self.shape.classes

    def size(self, kind: str) -> int:
        """Sampled jobs of a kind."""
        return len(self.jobs[kind]["l2"])


def engine_grid(shape: ChainShape, pair: tuple[str, str]) -> w2s_jax.Grid:
    """The grid that the engine runs."""
    return w2s_jax.Grid(
        pairs=(pair,),
        n_labelled=shape.n_labelled,
        n_unlabelled=shape.n_unlabelled,
        seeds=tuple(range(shape.num_seeds)),
        methods=("vanilla", "enhanced"),
        **shape.axes,
    )


def _synthetic_pair(folder: Path, shape: ChainShape, recipe: Recipe) -> tuple[str, str]:
    """Feature sets of a spurious attribute that shifts the features of half the rows."""
    rng = np.random.default_rng([recipe.seed, shape.n_unlabelled, shape.classes])
    num_pool = 3 * (shape.n_labelled + shape.n_unlabelled)
    num_rows = num_pool + 2000
    strong, mixing = make_features(rng, num_rows, shape.d_student, recipe)
    scores = scores_of_rule(rng, strong, mixing, 1 if shape.classes == 2 else shape.classes)
    labels = noisy_labels(rng, scores[:, 0] if shape.classes == 2 else scores, recipe.noise)
    minority = rng.random(num_rows) < 0.5
    strong = strong + minority[:, None] * rng.standard_normal(shape.d_student, dtype=np.float32) / 4
    weak = strong @ rng.standard_normal((shape.d_student, shape.d_teacher), dtype=np.float32)
    weak = weak / weak.std() + 0.3 * rng.standard_normal(weak.shape, dtype=np.float32)
    paths = []
    for name, x in (("teacher", weak), ("student", strong)):
        made = w2s_jax.make_feature_set(
            x,
            labels,
            minority=minority,
            split=np.where(np.arange(num_rows) < num_pool, "train", "test"),
            name=name,
        )
        w2s_jax.save_features(made, folder / name)
        paths.append(str(folder / name))
    return paths[0], paths[1]


def head_keys(config: Any) -> dict[str, tuple[Any, ...]]:
    """What identifies each of the heads that a configuration needs, by kind."""
    teacher = (config.seed, config.eta_l, config.n_labelled, config.n_validation, config.teacher_l2)
    rows = (config.seed, config.eta_u, config.n_unlabelled)
    keys = {
        "teacher": teacher,
        "ceiling": (*rows, config.student_l2),
        "student": (*teacher, *rows, config.student_l2, config.pseudolabels),
    }
    if config.method == "enhanced":
        options = (config.keep_fraction, config.gce_q, config.retrain_l2)
        options = (*options, config.retrain_targets, config.retrain_init)
        keys["retrained"] = (*keys["student"], *options)
    return keys


def distinct_heads(configs: Iterable[Any]) -> dict[str, dict[tuple[Any, ...], Any]]:
    """One configuration for every distinct head, by kind and key."""
    found: dict[str, dict[tuple[Any, ...], Any]] = {kind: {} for kind in KINDS}
    for config in configs:
        for kind, key in head_keys(config).items():
            found[kind].setdefault(key, config)
    return found


def _sample(heads: dict[str, dict[tuple[Any, ...], Any]], size: int, seed: int) -> Any:
    """Sampled configurations by kind, penalties in turn; each retraining belongs to a student."""
    rng = np.random.default_rng(seed)
    chosen = {}
    for kind in ("student", "ceiling"):
        configs = list(heads[kind].values())
        _, level = np.unique([c.student_l2 for c in configs], return_inverse=True)
        chosen[kind] = [configs[i] for i in subset_order(rng, level)[:size]]
    by_student: dict[tuple[Any, ...], list[Any]] = {}
    for config in heads["retrained"].values():
        by_student.setdefault(head_keys(config)["student"], []).append(config)
    start = rng.permutation(size)
    chosen["retrained"] = [
        (own := by_student[head_keys(c)["student"]])[start[i] % len(own)]
        for i, c in enumerate(chosen["student"])
    ]
    unique = {head_keys(c)["teacher"]: c for c in chosen["student"]}
    chosen["teacher"] = list(unique.values())
    return chosen, {key: i for i, key in enumerate(unique)}


def _scaled(features: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Centred, of root mean square 1 over the pool: the grid's default scaling."""
    x = features.astype(np.float64)
    x -= x[pool].mean(axis=0)
    return (x / np.sqrt(np.mean(x[pool] ** 2))).astype(np.float32)


def write_chain(folder: Path, shape: ChainShape, recipe: Recipe) -> None:
    """Makes a chain problem: feature sets for the engine, scaled arrays and jobs for peers."""
    from w2s_jax.sweep.chunks import draw_request

    names = EMBEDDED if shape.embedded else _synthetic_pair(folder, shape, recipe)
    grid = engine_grid(shape, names)
    pairs = w2s_jax.resolve_pairs(grid.pairs)
    ((name, pair),) = pairs.items()
    heads = distinct_heads(grid.configs(pairs))
    chosen, place = _sample(heads, shape.sample, recipe.seed)
    data, pool = pair.data, pair.pool("equal")
    for side, features, index in (
        ("weak", data.teacher, data.teacher_index),
        ("strong", data.student, data.student_index),
    ):
        assert isinstance(features, w2s_jax.FeatureSet)
        np.save(folder / f"{side}.npy", _scaled(features.features[index], data.pool_rows))

    draws = {kind: [pool.draw(c.seed, draw_request(c)) for c in chosen[kind]] for kind in KINDS}
    unlabelled = {kind: [d.unlabelled for d in draws[kind]] for kind in ("ceiling", "student")}
    arrays = {
        "teacher.rows": np.stack([d.labelled for d in draws["teacher"]]),
        "teacher.l2": np.array([c.teacher_l2 for c in chosen["teacher"]]),
        "ceiling.rows": np.stack(unlabelled["ceiling"]),
        "ceiling.l2": np.array([c.student_l2 for c in chosen["ceiling"]]),
        "student.rows": np.stack(unlabelled["student"]),
        "student.l2": np.array([c.student_l2 for c in chosen["student"]]),
        "student.teacher": np.array([place[head_keys(c)["teacher"]] for c in chosen["student"]]),
        "retrained.l2": np.array([c.retrain_l2 for c in chosen["retrained"]]),
        "retrained.q": np.array([c.gce_q for c in chosen["retrained"]]),
        "retrained.count": np.array(
            [max(1, int(c.keep_fraction * c.n_unlabelled + 0.5)) for c in chosen["retrained"]]
        ),
        "retrained.student": np.arange(len(chosen["retrained"])),
    }
    np.savez(
        folder / "chain.npz",
        labels=data.labels,
        minority=data.minority,
        groups=data.groups,
        test=data.test_rows,
        **arrays,
    )
    described = {
        "shape": dataclasses.asdict(shape),
        "pair": names,
        "counts": {kind: len(found) for kind, found in heads.items()},
        "configs": {kind: [dataclasses.asdict(c) for c in chosen[kind]] for kind in KINDS},
    }
    (folder / "chain.json").write_text(json.dumps(described))


def read_chain(folder: Path) -> Chain:
    """Opens what `write_chain` wrote."""
    described = json.loads((folder / "chain.json").read_text())
    jobs: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    rest = {}
    with np.load(folder / "chain.npz") as arrays:
        for name in arrays.files:
            if "." in name:
                kind, field = name.split(".")
                jobs[kind][field] = arrays[name]
            else:
                rest[name] = arrays[name]
    shape = ChainShape(**described["shape"])
    return Chain(
        shape=dataclasses.replace(shape, axes={k: tuple(v) for k, v in shape.axes.items()}),
        pair=tuple(described["pair"]),
        counts=described["counts"],
        weak=np.load(folder / "weak.npy", mmap_mode="r"),
        strong=np.load(folder / "strong.npy", mmap_mode="r"),
        jobs=jobs,
        configs=described["configs"],
        **rest,
    )
