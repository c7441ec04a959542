"""From configurations to stages: which heads exist, on which rows, and whether they can exist."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from w2s_jax.errors import GridError
from w2s_jax.features import (
    FeaturePair,
    FeatureSet,
    Predictions,
    load_features,
    load_predictions,
    pair,
)
from w2s_jax.methods import get_method
from w2s_jax.pipeline import Request, count_heads
from w2s_jax.splits import Pool
from w2s_jax.splits import Request as DrawRequest
from w2s_jax.sweep.grid import Config, Grid, hyperparameters_of

PREDICTIONS_PREFIX = "predictions="


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """A named teacher-student pair, checked and joined.

    Attributes:
        name: "teacher:student".
        data: the joined rows.
    """

    name: str
    data: FeaturePair

    @property
    def teacher_is_elsewhere(self) -> bool:
        """Whether predictions stand in for a teacher."""
        return isinstance(self.data.teacher, Predictions)

    @property
    def eta_o(self) -> float | None:
        """The benchmark's own minority fraction."""
        return self.data.eta_o

    @cached_property
    def fingerprints(self) -> tuple[str, str]:
        """Content hashes of teacher and student."""
        return self.data.teacher.fingerprint, self.data.student.fingerprint

    def pool(self, class_prior: str) -> Pool:
        """The rows that draws may take, under a class prior."""
        data = self.data
        return Pool(
            data.ids,
            data.labels,
            data.minority,
            data.pool_rows,
            num_classes=data.student.num_classes,
            class_prior=class_prior,
            source_ids=data.source_ids,
            class_names=data.student.class_names,
        )


def _load_side(side: Any, teacher: bool, minority_cells: str | None, pool: str | None) -> Any:
    if isinstance(side, FeatureSet) or (teacher and isinstance(side, Predictions)):
        return side
    text = str(side)
    if teacher and text.startswith(PREDICTIONS_PREFIX):
        return load_predictions(text.removeprefix(PREDICTIONS_PREFIX))
    cells = minority_cells if _has_arrays(side) else None
    return load_features(text, minority_cells=cells, pool=pool)


def _has_arrays(side: Any) -> bool:
    """Whether a side is a file of arrays, whose minority cells can be chosen."""
    return isinstance(side, str | Path) and Path(side).suffix in (".npz", ".npy")


def resolve_pairs(
    entries: Iterable[Any],
    join: str = "exact",
    *,
    minority_cells: str | None = None,
    pool: str | None = None,
) -> dict[str, Pair]:
    """Loads, verifies and joins the pairs of a grid.

    Args:
        entries: each "teacher:student" or a tuple of two; a side is a shipped name, a path, a
            `FeatureSet`, or, for teachers, ``predictions=PATH`` or `Predictions`.
        join: "exact", or "inner" to keep the common ids only.
        minority_cells: of sides that are files of arrays, see `load_features`; caches have theirs.
        pool: splits to draw from, "train" or "train+val"; default each side's own.

    Returns:
        Pairs by name, in order.

    Raises:
        GridError: where an entry is no pair, two different pairs have one name, or no side of a
            pair takes `minority_cells`.
        FeatureError: where a side cannot be read, is damaged, or does not fit the other.
    """
    loaded: dict[Any, Any] = {}
    pairs: dict[str, Pair] = {}
    for entry in entries:
        sides = entry.split(":") if isinstance(entry, str) else entry
        if not isinstance(sides, tuple | list):
            raise GridError(f"a pair is teacher:student or (teacher, student), found {entry!r}")
        if len(sides) != 2 or not all(isinstance(s, FeatureSet | Predictions) or s for s in sides):
            raise GridError(f"a pair is teacher:student, found {entry!r}")
        if minority_cells is not None and not any(map(_has_arrays, sides)):
            raise GridError(
                f"minority_cells {minority_cells!r} would change nothing: both sides of {entry!r} "
                "have cells of their own; leave it out, or give the features as .npz or .npy"
            )
        both = []
        for side, is_teacher in zip(sides, (True, False), strict=True):
            key = (id(side) if isinstance(side, FeatureSet | Predictions) else side, is_teacher)
            if key not in loaded:
                loaded[key] = _load_side(side, is_teacher, minority_cells, pool)
                if isinstance(loaded[key], FeatureSet):
                    loaded[key].verify()
            both.append(loaded[key])
        data = pair(both[0], both[1], join=join)
        resolved = Pair(data.name, data)
        earlier = pairs.setdefault(data.name, resolved)
        if earlier.fingerprints != resolved.fingerprints:
            raise GridError(f"two different pairs are called {data.name!r}; rename one")
    return pairs


def draw_request(config: Config) -> DrawRequest:
    """The rows that a configuration asks for."""
    return DrawRequest(
        eta_l=config.eta_l,
        n_labelled=config.n_labelled,
        eta_u=config.eta_u,
        n_unlabelled=config.n_unlabelled,
        n_validation=config.n_validation,
    )


TeacherKey = tuple[float | None, int | None, int, float | None]


def teacher_key(config: Config) -> TeacherKey:
    """What distinguishes the teachers of one group: labelled rows and penalty."""
    return config.eta_l, config.n_labelled, config.n_validation, config.teacher_l2


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Configurations that share one draw of unlabelled rows; the unit of work and of commit.

    Attributes:
        configs: in grid order.
        teachers: distinct teachers, in order of first appearance.
    """

    configs: tuple[Config, ...]
    teachers: tuple[TeacherKey, ...]

    @cached_property
    def student_l2(self) -> Float[np.ndarray, " m"]:
        """Distinct penalties of students, one ceiling each."""
        return np.unique([config.student_l2 for config in self.configs])

    def requests(self) -> tuple[list[Request], list[Int[np.ndarray, " h"]]]:
        """One request per method and options, and the configurations it serves."""
        return self._requests

    @cached_property
    def _requests(self) -> tuple[list[Request], list[Int[np.ndarray, " h"]]]:
        index = {key: i for i, key in enumerate(self.teachers)}
        names = {m: tuple(sorted(get_method(m).options)) for m in {c.method for c in self.configs}}
        members: dict[tuple[Any, ...], list[int]] = {}
        for i, config in enumerate(self.configs):
            options = tuple([getattr(config, name) for name in names[config.method]])
            members.setdefault((config.method, options), []).append(i)
        requests, served = [], []
        for (name, values), positions in members.items():
            chosen = [self.configs[i] for i in positions]
            method, options = get_method(name), dict(zip(names[name], values, strict=True))
            read = hyperparameters_of(method, tuple(options.items()))
            requests.append(
                Request(
                    method,
                    options,
                    np.array([index[teacher_key(c)] for c in chosen]),
                    {n: np.array([getattr(c, n) for c in chosen], np.float64) for n in read},
                )
            )
            served.append(np.array(positions))
        return requests, served


@dataclasses.dataclass(frozen=True)
class Group:
    """Chunks that share features, scaling, class prior and seed, and so their teachers.

    Attributes:
        pair: name of the pair.
        feature_scaling: of both sides.
        class_prior: of the draws.
        seed: of the draws.
        chunks: those to run.
        company: all that were planned together, those with rows already included.
    """

    pair: str
    feature_scaling: str
    class_prior: str
    seed: int
    chunks: tuple[Chunk, ...]
    company: tuple[Chunk, ...]

    @cached_property
    def teachers(self) -> tuple[TeacherKey, ...]:
        """Distinct teachers of the whole company."""
        return tuple(dict.fromkeys(key for chunk in self.company for key in chunk.teachers))


@dataclasses.dataclass(frozen=True)
class Plan:
    """All stages of a run.

    Attributes:
        pairs: by name.
        groups: in order of execution.
    """

    pairs: dict[str, Pair]
    groups: tuple[Group, ...]

    @cached_property
    def num_configs(self) -> int:
        """Result rows."""
        return sum(len(c.configs) for g in self.groups for c in g.chunks)

    @cached_property
    def heads(self) -> dict[str, int]:
        """Distinct heads to fit: teachers, students (all rounds), ceilings."""
        count = {"teachers": 0, "students": 0, "ceilings": 0}
        for group in self.groups:
            if not self.pairs[group.pair].teacher_is_elsewhere:
                count["teachers"] += len(group.teachers)
            for chunk in group.chunks:
                count["students"] += count_heads(chunk.requests()[0])
                if chunk.configs[0].eta_u is not None:
                    count["ceilings"] += len(chunk.student_l2)
        return count

    def describe(self) -> str:
        """A few lines for ``--dry_run``."""
        chunks = sum(len(g.chunks) for g in self.groups)
        heads = self.heads
        lines = [
            f"{self.num_configs} configurations on {len(self.pairs)} pair(s): "
            + ", ".join([*list(self.pairs)[:4], *(["..."] if len(self.pairs) > 4 else [])]),
            f"{chunks} draws of unlabelled rows in {len(self.groups)} group(s)",
            f"{sum(heads.values())} distinct heads: "
            + ", ".join(f"{number} {name}" for name, number in heads.items()),
        ]
        return "\n".join(lines)


def make_plan(configs: Sequence[Config], pairs: Mapping[str, Pair]) -> Plan:
    """Groups configurations into stages, and checks every draw before anything is computed.

    Args:
        configs: canonical configurations.
        pairs: by name.

    Raises:
        DrawError: for the first draw that its pool cannot serve.
        GridError: for a configuration of an unknown pair.
    """
    by_group: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Config]]] = {}
    kinds: dict[tuple[str, str, bool], Config] = {}
    for c in configs:
        if c.pair not in pairs:
            raise GridError(f"unknown pair {c.pair!r}; known: {', '.join(pairs)}")
        kinds.setdefault((c.pair, c.method, c.eta_u is None), c)
        chunks = by_group.setdefault((c.pair, c.feature_scaling, c.class_prior, c.seed), {})
        chunks.setdefault((c.eta_u, c.n_unlabelled), []).append(c)
    for c in kinds.values():
        _check_sight(c, pairs[c.pair])
    requests: dict[tuple[str, str], dict[tuple[int, DrawRequest], None]] = {}
    distinct = {
        (c.pair, c.class_prior, c.seed, c.eta_l, c.eta_u)
        + (c.n_labelled, c.n_unlabelled, c.n_validation): c
        for c in configs
    }
    for c in distinct.values():
        requests.setdefault((c.pair, c.class_prior), {})[c.seed, draw_request(c)] = None
    for (name, prior), wanted in requests.items():
        pool = pairs[name].pool(prior)
        for request in dict.fromkeys(request for _, request in wanted):
            pool.check(request)
        if pairs[name].data.source_ids is not None:
            for seed, request in sorted(wanted, key=lambda item: item[0]):
                pool.draw(seed, request)  # only the draw itself tells which sources meet
    groups = []
    for (name, scaling, prior, seed), chunks in by_group.items():
        made = tuple(
            Chunk(tuple(members), tuple(dict.fromkeys(map(teacher_key, members))))
            for members in chunks.values()
        )
        groups.append(Group(name, scaling, prior, seed, made, made))
    return Plan(dict(pairs), tuple(groups))


def _check_sight(config: Config, pair: Pair) -> None:
    """Refuses methods that would look at labels which do not exist."""
    method, options = get_method(config.method), config.options()
    if method.sees_labelled(options) and pair.teacher_is_elsewhere:
        raise GridError(
            f"method {method.name!r} trains on the rows that the teacher learned from, but the "
            f"teacher of {pair.name} comes from elsewhere; leave the method out"
        )
    if method.sees_teacher_features(options) and pair.teacher_is_elsewhere:
        raise GridError(
            f"method {method.name!r} trains on the teacher's features, but the teacher of "
            f"{pair.name} comes from elsewhere; leave the method out"
        )
    if method.is_oracle(options) and config.eta_u is None:
        raise GridError(
            f"method {method.name!r} is an oracle that sees true labels, but eta_u is unlabelled; "
            "leave the method out"
        )


def plan_grid(
    grid: Grid | Sequence[Config], pairs: Mapping[str, Pair] | None = None, join: str = "exact"
) -> Plan:
    """Resolves a grid's pairs and plans all its configurations (see `make_plan`)."""
    if isinstance(grid, Grid):
        pairs = resolve_pairs(grid.pairs, join) if pairs is None else pairs
        return make_plan(list(grid.configs(pairs)), pairs)
    if pairs is None:
        raise GridError("a list of configurations needs its pairs; pass pairs=resolve_pairs(...)")
    return make_plan(list(dict.fromkeys(c.canonical() for c in grid)), pairs)
