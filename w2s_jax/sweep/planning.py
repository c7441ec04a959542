"""From configurations to stages: which heads exist, on which rows, and whether they can exist."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from w2s_jax.errors import GridError
from w2s_jax.features import (
    FeaturePair,
    FeatureSet,
    Predictions,
    load_features,
    load_predictions,
    pair,
)
from w2s_jax.pipeline import Request
from w2s_jax.splits import Pool
from w2s_jax.splits import Request as DrawRequest
from w2s_jax.sweep.chunks import Chunk, Group, Pattern
from w2s_jax.sweep.grid import Config, Grid, Place

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
        return sum(c.num_configs for g in self.groups for c in g.chunks)

    @cached_property
    def heads(self) -> dict[str, int]:
        """Distinct heads to fit: teachers, students (all rounds), ceilings."""
        count = {"teachers": 0, "students": 0, "ceilings": 0}
        for group in self.groups:
            if not self.pairs[group.pair].teacher_is_elsewhere:
                count["teachers"] += len(group.teachers)
            for chunk in group.chunks:
                count["students"] += chunk.pattern.num_heads
                if chunk.eta_u is not None:
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
        GridError: for a configuration of an unknown pair, or whose method cannot run on its pair.
    """
    by_place: dict[Place, list[Config]] = {}
    for c in configs:
        if c.pair not in pairs:
            raise GridError(f"unknown pair {c.pair!r}; known: {', '.join(pairs)}")
        by_place.setdefault(c.place, []).append(c)
    groups = [_group(place, _patterns(members)) for place, members in by_place.items()]
    return _checked(groups, pairs)


def _grid_plan(grid: Grid, pairs: Mapping[str, Pair]) -> Plan:
    """`make_plan` of all configurations of a grid, made once for all places that repeat them."""
    known: dict[Any, tuple[Pattern, ...]] = {}
    groups = []
    for place in grid.places(pairs):
        alike = grid.alike(place.pair, pairs[place.pair])
        if alike not in known:
            known[alike] = _patterns(grid.configs_at(place, pairs[place.pair]))
        groups.append(_group(place, known[alike]))
    return _checked(groups, pairs)


def _patterns(configs: Iterable[Config]) -> tuple[Pattern, ...]:
    by_draw: dict[tuple[float | None, int], list[Config]] = {}
    for c in configs:
        by_draw.setdefault((c.eta_u, c.n_unlabelled), []).append(c)
    return tuple(Pattern(tuple(members)) for members in by_draw.values())


def _group(place: Place, patterns: Iterable[Pattern]) -> Group:
    chunks = tuple(Chunk(pattern, place) for pattern in patterns)
    return Group(*place, chunks, chunks)


def _checked(groups: Sequence[Group], pairs: Mapping[str, Pair]) -> Plan:
    """A plan whose methods can run on their pairs, and whose draws their pools can serve."""
    seen = set()
    for group in groups:
        for chunk in group.chunks:
            if (group.pair, chunk.pattern) not in seen:
                seen.add((group.pair, chunk.pattern))
                for request in chunk.requests()[0]:
                    _check_sight(request, chunk.eta_u is None, pairs[group.pair])
    wanted: dict[tuple[str, str], dict[tuple[int, DrawRequest], None]] = {}
    for group in groups:
        of_pool = wanted.setdefault((group.pair, group.class_prior), {})
        of_pool.update(dict.fromkeys((group.seed, request) for request in group.draw_requests))
    for (name, prior), of_pool in wanted.items():
        pool = pairs[name].pool(prior)
        for request in dict.fromkeys(request for _, request in of_pool):
            pool.check(request)
        if pairs[name].data.source_ids is not None:
            for seed, request in sorted(of_pool, key=lambda item: item[0]):
                pool.draw(seed, request)  # only the draw itself tells which sources meet
    return Plan(dict(pairs), tuple(groups))


def _check_sight(request: Request, unlabelled: bool, pair: Pair) -> None:
    """Refuses methods that would look at labels which do not exist."""
    method, options = request.method, request.options
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
    if method.is_oracle(options) and unlabelled:
        raise GridError(
            f"method {method.name!r} is an oracle that sees true labels, but eta_u is unlabelled; "
            "leave the method out"
        )


def plan_grid(
    grid: Grid | Sequence[Config], pairs: Mapping[str, Pair] | None = None, join: str = "exact"
) -> Plan:
    """Resolves a grid's pairs and plans all its configurations (see `make_plan`)."""
    if isinstance(grid, Grid):
        return _grid_plan(grid, resolve_pairs(grid.pairs, join) if pairs is None else pairs)
    if pairs is None:
        raise GridError("a list of configurations needs its pairs; pass pairs=resolve_pairs(...)")
    return make_plan(list(dict.fromkeys(c.canonical() for c in grid)), pairs)
