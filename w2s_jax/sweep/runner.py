"""Runs a grid: plans its stages, fits every distinct head once, and returns long result rows."""

import collections
import dataclasses
import functools
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from absl import logging
from jax.typing import DTypeLike
from jaxtyping import Float

from w2s_jax.errors import GridError
from w2s_jax.features import FeatureSet, Predictions
from w2s_jax.features.scaling import fit_scaling
from w2s_jax.heads import Prepared
from w2s_jax.heads.costs import default_budget, parse_bytes
from w2s_jax.heads.prepared import (
    basis_of_blocks,
    check_dtype,
    find_basis,
    prepare_dealt,
    prepare_in,
)
from w2s_jax.interruption import Interruption
from w2s_jax.methods import get_method
from w2s_jax.metrics import GroupedTest, grouped_test
from w2s_jax.pipeline import (
    Heads,
    Known,
    Labelled,
    Request,
    StudentStage,
    fit_labelled,
    teacher_probabilities,
)
from w2s_jax.splits import Draw, Pool
from w2s_jax.sweep.chunks import Chunk, Group, Pattern, TeacherKey
from w2s_jax.sweep.devices import AT_ONCE, on_devices
from w2s_jax.sweep.grid import Config, Grid
from w2s_jax.sweep.hosts import own_share, this_process
from w2s_jax.sweep.locations import Location, is_remote, location
from w2s_jax.sweep.planning import Pair, Plan, plan_grid
from w2s_jax.sweep.prediction import choose_at_once, choose_row_shards
from w2s_jax.sweep.progress import Progress
from w2s_jax.sweep.rows import (
    Part,
    Scores,
    agreement_columns,
    assemble,
    kept_columns,
    missing_columns,
)
from w2s_jax.sweep.saved_heads import ModelHeads, Transform, check_models, save_heads
from w2s_jax.sweep.store import Store, in_order, read_rows, stored_keys, stored_row_shards

# The memory budget over what heads may take that several pairs share.
_SHARE_OF_LABELLED = 8


def run(
    grid: Grid | Sequence[Config],
    *,
    pairs: Mapping[str, Pair] | None = None,
    out: str | Location | None = None,
    progress: bool = False,
    dtype: DTypeLike = np.float32,
    memory_budget: int | str | None = None,
    collect: bool = True,
    notes: Mapping[str, str] | None = None,
    keep_heads: Sequence[str] = (),
    shard_rows: str = "auto",
) -> pd.DataFrame:
    """Trains all configurations of a grid and returns one long row per configuration and method.

    All local devices share the work. So do the processes of ``jax.distributed`` (see
    `w2s_jax.sweep.hosts`), each of which writes its own rows to `out`.

    Args:
        grid: a `Grid`, or a list of `Config` together with their `pairs`.
        pairs: resolved pairs by name; default the grid's own.
        out: a run directory, or its URL in an object store (``s3://...``; see BUILD.md for what
            that guarantees). Rows are committed to it chunk by chunk, rows that are there
            already are not computed again, and the rows of all its runs are returned. Needed
            where several processes share the work.
        progress: show a progress bar in heads.
        dtype: of the heads, float32 or float64 (needs ``jax_enable_x64``).
        memory_budget: bytes that the batches of heads at work may take on a device beside the
            features, or a size such as "2GiB"; default 40 % of the device's memory.
        collect: with `out`, read all rows at the end; False returns an empty frame, for runs whose
            rows are too many for memory.
        notes: texts to keep in `out`, by file name; another text gets a number.
        keep_heads: models whose heads are kept in `out`, of "student", "teacher", "ceiling" (see
            `evaluate_heads`). Rows that are there already get none.
        shard_rows: whether the rows of features are dealt out to the local devices, which then
            work on each draw together: "auto" where one device's memory does not hold the features
            beside `memory_budget`, or as the rows in `out` were computed; "always"; or "never".
            Results agree to solver tolerance; one `out` holds results of one way, on one number of
            devices.

    Returns:
        A data frame; the README describes its columns.

    Raises:
        W2SError: for anything wrong with the grid, the features or the store, before any head is
            trained.
        Interrupted: after the commit during which SIGINT or SIGTERM came.
    """
    check_dtype(dtype)
    if isinstance(memory_budget, str):
        memory_budget = parse_bytes(memory_budget)
    keep_heads = check_models(keep_heads)
    if keep_heads and out is None:
        raise GridError("heads are kept in a run directory; give out")
    if keep_heads and is_remote(location(out)):
        raise GridError(f"heads are kept in local directories only, and {out} is none; give one")
    plan = plan_grid(grid, pairs)
    if not plan.num_configs:
        raise GridError("there is nothing to run: the list of configurations is empty")
    stored = None if out is None else stored_row_shards(out)
    shards = choose_row_shards(plan, dtype, memory_budget, shard_rows, stored)
    at_once = choose_at_once(plan, dtype, memory_budget, shards)
    if out is None:
        if this_process().count > 1:
            raise GridError("several processes share a run through its directory; give out")
        with _bar(sum(plan.heads.values()), progress) as bar:
            runner = _Runner(
                plan, np.dtype(dtype), memory_budget, bar, row_shards=shards, at_once=at_once
            )
            frames = list(runner.chunks())
        return in_order(pd.concat(frames, ignore_index=True))
    fingerprints = {name: pair.fingerprints for name, pair in plan.pairs.items()}
    process = this_process()
    plan = own_share(plan, process)
    store = Store(out, fingerprints, _settings(grid, dtype, shards), process)
    with store, Interruption() as interruption:
        for name, text in (notes or {}).items():
            store.keep(name, text)
        total = plan.num_configs
        plan = _without(plan, store.keys(), fingerprints)
        watched = Progress(total, total - plan.num_configs)
        if keep_heads and watched.done:
            logging.warning("%d rows are in %s already: they get no heads now", watched.done, out)
        with _bar(sum(plan.heads.values()), progress) as bar:
            keep = functools.partial(save_heads, store.path) if keep_heads else None
            runner = _Runner(
                plan, np.dtype(dtype), memory_budget, bar, keep_heads, keep, shards, at_once
            )
            for rows in runner.chunks(interruption.noted):
                store.add(rows)
                watched.add(len(rows))
                if bar.disable and watched.is_due():  # there is no terminal
                    logging.info("%s", watched.line())
                store.report(watched.document())
        if watched.done < total:
            interruption.check(f"{watched.done} of {total} rows")
        store.report(watched.document())
        if not collect or not store.has_rows():
            return pd.DataFrame()
        return read_rows(store.path)


def remaining(
    grid: Grid | Sequence[Config],
    plan: Plan,
    out: str | Location,
    dtype: DTypeLike,
    row_shards: int = 1,
) -> Plan:
    """What of a plan `run` would compute into a run directory, as far as rows are there already.

    Args:
        grid: what was planned.
        plan: its plan.
        out: the run directory; it need not exist, and stays as it is.
        dtype: of the heads.
        row_shards: devices among which that run deals out the rows of its features.

    Raises:
        StoreError: where that run would be refused.
    """
    fingerprints = {name: pair.fingerprints for name, pair in plan.pairs.items()}
    settings = _settings(grid, dtype, row_shards)
    return _without(plan, stored_keys(out, fingerprints, settings), fingerprints)


def _settings(grid: Grid | Sequence[Config], dtype: DTypeLike, row_shards: int) -> dict[str, Any]:
    """What sweep.json records of one run."""
    recorded: Any = "explicit configurations"
    if isinstance(grid, Grid):
        recorded = {f.name: getattr(grid, f.name) for f in dataclasses.fields(grid)}
        recorded["pairs"] = [_entry_name(entry) for entry in grid.pairs]
        recorded = {k: list(v) if isinstance(v, tuple) else v for k, v in recorded.items()}
    used = ("vanilla", *grid.methods) if isinstance(grid, Grid) else [c.method for c in grid]
    definitions = {name: get_method(name).definition for name in sorted(set(used))}
    devices = sorted({f"{d.platform}:{d.device_kind}" for d in jax.devices()})
    return {
        "grid": recorded,
        "dtype": np.dtype(dtype).name,
        "jax": jax.__version__,
        "devices": devices,
        "methods": definitions,
        **({"row_shards": row_shards} if row_shards > 1 else {}),
    }


def _entry_name(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    named = (s.name if isinstance(s, FeatureSet | Predictions) else str(s) for s in entry)
    return ":".join(named)


def _without(plan: Plan, done: set[str], fingerprints: Mapping[str, tuple[str, str]]) -> Plan:
    """The plan without configurations whose rows exist.

    What is left runs in the company it was planned in, so that a resumed run computes the same
    numbers, bit for bit, as one that was never interrupted.
    """
    if not done:
        return plan
    groups = []
    for group in plan.groups:
        chunks = []
        for chunk in group.chunks:
            missing = [key not in done for key in chunk.keys(fingerprints)]
            if all(missing):
                chunks.append(chunk)
            elif any(missing):
                left = Pattern(tuple(itertools.compress(chunk.pattern.configs, missing)))
                chunks.append(dataclasses.replace(chunk, pattern=left))
        if chunks:
            groups.append(dataclasses.replace(group, chunks=tuple(chunks)))
    return Plan(plan.pairs, tuple(groups))


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit="heads",
        disable=None if progress else True,
        dynamic_ncols=True,
        smoothing=0.1,
        desc="training",
    )


@dataclasses.dataclass(frozen=True)
class _Side:
    """A teacher's or student's features, ready for heads, and what identifies them."""

    prepared: Prepared
    key: str
    transform: Transform

    @property
    def name(self) -> str:
        """The key as a file name."""
        return self.key.replace("/", "-")


def _side_key(pair: Pair, scaling: str, teacher: bool) -> str:
    """What identifies prepared features."""
    data = pair.data
    index = data.teacher_index if teacher else data.student_index
    identity = hashlib.blake2b(digest_size=12)
    identity.update((data.teacher if teacher else data.student).fingerprint.encode())
    identity.update(np.ascontiguousarray(index).tobytes())
    identity.update(data.pool_rows.tobytes())
    return f"{identity.hexdigest()}/{scaling}"


class _Shared(NamedTuple):
    """What all chunks of a group have in common."""

    pair: Pair
    test: GroupedTest
    draws: Mapping[Any, Draw]
    validation: "_Validation"
    teachers: Scores
    index: Mapping[TeacherKey, int]


class _Runner:
    """Executes a plan; features are prepared and shared heads fitted once.

    A chunk is computed by one device from beginning to end, in the batches in which one device
    alone would compute it: how many there are changes no result. Nor does it whether a device has
    two chunks at a time: each has half of the memory budget. Where rows are dealt out, all devices
    compute one chunk after another together.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: np.dtype,
        memory_budget: int | None,
        bar: Any,
        kept_models: Sequence[str] = (),
        keep: Callable[[Sequence[str], dict[str, ModelHeads]], None] | None = None,
        row_shards: int = 1,
        at_once: int = 1,
    ):
        self._plan = plan
        self._kept_models, self._keep = kept_models, keep
        self._dtype = dtype
        self._row_shards = row_shards
        budget = default_budget() if memory_budget is None else memory_budget
        self._at_once = at_once
        self._budget = budget // AT_ONCE
        self._bar = bar
        self._sides: dict[str, _Side] = {}
        self._copies: dict[tuple[str, Any], _Side] = {}
        self._labelled: dict[tuple[str, tuple[tuple[bytes, bytes], ...]], Heads] = {}
        self._room_for_labelled = budget // _SHARE_OF_LABELLED
        self._pool = functools.cache(lambda name, prior: plan.pairs[name].pool(prior))
        self._side_key = functools.cache(_side_key)
        self._groups_left = collections.Counter((g.pair, g.feature_scaling) for g in plan.groups)
        self._shared: dict[int, tuple[_Shared, int]] = {}
        self._locks = [threading.RLock() for _ in plan.groups]
        self._guard = threading.RLock()

    def chunks(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[pd.DataFrame]:
        """Yields the result rows of every chunk, as they are ready, until `stopping`."""
        work = [
            functools.partial(self._rows_of, number, chunk)
            for number, group in enumerate(self._plan.groups)
            for chunk in group.chunks
        ]
        devices = jax.local_devices()
        if self._row_shards > 1:
            devices = devices[:1]
        yield from on_devices(work, devices, stopping, self._at_once)

    def _rows_of(self, number: int, chunk: Chunk) -> pd.DataFrame:
        group = self._plan.groups[number]
        with self._locks[number]:
            if number not in self._shared:
                self._shared[number] = self._share(group), len(group.chunks)
            shared, _ = self._shared[number]
        rows = self._chunk(group, chunk, shared)
        with self._locks[number]:
            left = self._shared[number][1] - 1
            self._shared[number] = shared, left
            if not left:
                del self._shared[number]
                self._release(group)
        return rows

    def _release(self, group: Group) -> None:
        """Forgets features, and heads on them, once no group is left that needs them."""
        with self._guard:
            self._groups_left[group.pair, group.feature_scaling] -= 1
            if self._groups_left[group.pair, group.feature_scaling]:
                return
            needed = {
                self._side_key(self._plan.pairs[name], scaling, teacher)
                for (name, scaling), left in self._groups_left.items()
                for teacher in (True, False)
                if left
            }
            self._sides = {key: side for key, side in self._sides.items() if key in needed}
            self._copies = {key: side for key, side in self._copies.items() if key[0] in needed}
            self._labelled = {key: h for key, h in self._labelled.items() if key[0] in needed}

    def _count(self, heads: int) -> None:
        with self._guard:
            self._bar.update(heads)

    def _side(self, pair: Pair, scaling: str, teacher: bool) -> _Side:
        """Prepared features on the device that this thread works for."""
        with self._guard:
            side = self._prepare_side(pair, scaling, teacher)
            device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
            if device is None or self._row_shards > 1:  # dealt-out rows stay where they are
                return side
            place = side.key, device
            if place not in self._copies:
                copy = jax.device_put(side.prepared, device)
                self._copies[place] = dataclasses.replace(side, prepared=copy)
            return self._copies[place]

    def _prepare_side(self, pair: Pair, scaling: str, teacher: bool) -> _Side:
        """Prepared features in the pair's row order.

        The same features are prepared once, whatever pair and role they appear in.
        """
        data = pair.data
        features = data.teacher if teacher else data.student
        index = data.teacher_index if teacher else data.student_index
        key = self._side_key(pair, scaling, teacher)
        if key not in self._sides:
            assert isinstance(features, FeatureSet)
            if self._row_shards > 1:
                self._sides[key] = self._deal_out(features, index, data.pool_rows, scaling, key)
                return self._sides[key]
            raw = features.features[index]
            scale = fit_scaling(raw, data.pool_rows, scaling, features.name)
            scaled = scale.apply(raw, self._dtype)
            basis = find_basis(scaled, statistics_rows=data.pool_rows, dtype=self._dtype)
            prepared = prepare_in(basis, scaled, dtype=self._dtype)
            self._sides[key] = _Side(prepared, key, Transform(scale, basis))
        return self._sides[key]

    def _deal_out(
        self, features: FeatureSet, index: np.ndarray, pool: np.ndarray, scaling: str, key: str
    ) -> _Side:
        """Features whose rows lie on all local devices; nothing ever holds them all."""
        scale = fit_scaling(features.features, index[pool], scaling)

        def read(rows: np.ndarray) -> np.ndarray:
            return scale.apply(features.features[index[rows]], self._dtype)

        basis = basis_of_blocks(read, pool, dtype=self._dtype)
        prepared = prepare_dealt(
            basis, read, len(index), devices=jax.local_devices(), dtype=self._dtype
        )
        return _Side(prepared, key, Transform(scale, basis))

    def _fit_labelled(
        self, side: _Side, labels: np.ndarray, tasks: Sequence[Labelled], num_classes: int
    ) -> Heads:
        """`fit_labelled`, once for all pairs that ask for the same heads, if there is room."""
        named = [(hashlib.blake2b(t.rows.tobytes()).digest(), t.l2.tobytes()) for t in tasks]
        key = (side.key, tuple(named))
        with self._guard:
            known = self._labelled.get(key)
        if known is not None:
            return known
        fitted = fit_labelled(side.prepared, labels, tasks, num_classes, self._budget)
        size = sum(part.nbytes for part in fitted)
        with self._guard:
            # Where no other pair will ask again, or there is no room, each fits its own.
            held = sum(part.nbytes for heads in self._labelled.values() for part in heads)
            if len(self._plan.pairs) > 1 and held + size <= self._room_for_labelled:
                self._labelled[key] = fitted
        return fitted

    def _share(self, group: Group) -> _Shared:
        pair = self._plan.pairs[group.pair]
        pool = self._pool(group.pair, group.class_prior)
        test = _grouped_test(pair, pool)
        draws = {request: pool.draw(group.seed, request) for request in group.draw_requests}
        validation = _Validation(draws, group)
        teachers, index = self._teachers(pair, group, draws, test, validation)
        return _Shared(pair, test, draws, validation, teachers, index)

    def _teachers(
        self,
        pair: Pair,
        group: Group,
        draws: Mapping[Any, Draw],
        test: GroupedTest,
        validation: "_Validation",
    ) -> tuple[Scores, dict[TeacherKey, int]]:
        """All teachers of a group, and where each is."""
        data, num_classes = pair.data, pair.data.student.num_classes
        if pair.teacher_is_elsewhere:
            assert isinstance(data.teacher, Predictions)
            chosen = data.teacher.probabilities[data.teacher_index].argmax(axis=1)[None]
            classes = chosen[:, np.concatenate([test.rows, validation.rows])]
            scores = Scores.of_classes(classes, data.labels, test, validation.rows, {}, None)
            return scores, {key: 0 for key in group.teachers}
        side = self._side(pair, group.feature_scaling, teacher=True)
        by_rows: dict[tuple[Any, ...], list[TeacherKey]] = {}
        labelled: dict[tuple[Any, ...], np.ndarray] = {}
        for request, draw in draws.items():
            labelled[(request.eta_l, request.n_labelled)] = draw.labelled
        for key in group.teachers:
            by_rows.setdefault(key[:2], []).append(key)
        tasks = [
            Labelled(labelled[rows], np.unique(np.array([key[3] for key in keys], np.float64)))
            for rows, keys in by_rows.items()
        ]
        heads = self._fit_labelled(side, data.labels, tasks, num_classes)
        order = [(rows, l2) for rows, task in zip(by_rows, tasks, strict=True) for l2 in task.l2]
        place = {entry: i for i, entry in enumerate(order)}
        self._count(len(order))
        none = np.empty(0, np.int64)
        scores = self._score(side, heads, data.labels, test, validation, none)
        return scores, {key: place[(key[:2], key[3])] for key in group.teachers}

    def _score(
        self,
        side: _Side,
        heads: Heads,
        labels: np.ndarray,
        test: GroupedTest,
        validation: "_Validation",
        unlabelled: np.ndarray,
    ) -> Scores:
        rows = validation.rows, unlabelled
        return Scores.of_heads(side.prepared, heads, labels, test, *rows, self._budget)

    def _probabilities(
        self, pair: Pair, group: Group, teachers: Scores, used: np.ndarray, rows: np.ndarray
    ) -> Float[np.ndarray, "t n c"]:
        if teachers.heads is None:
            data = pair.data
            assert isinstance(data.teacher, Predictions)
            return data.teacher.probabilities[data.teacher_index[rows]][None]
        side = self._side(pair, group.feature_scaling, teacher=True)
        used_teachers = teachers.heads.take(used)
        return teacher_probabilities(side.prepared, used_teachers, rows, self._budget)

    def _known(
        self,
        group: Group,
        chunk: Chunk,
        shared: _Shared,
        requests: Sequence[Request],
        used: np.ndarray,
    ) -> Known | None:
        """What the rounds of some requests may see beside the pseudolabels; None: nothing."""
        pair, draws = shared.pair, shared.draws
        labelled = any(r.method.sees_labelled(r.options) for r in requests)
        if not labelled and not any(r.method.is_oracle(r.options) for r in requests):
            return None
        rows, own = np.empty(0, np.int64), np.empty((len(used), 0), bool)
        if labelled:
            sets = {(r.eta_l, r.n_labelled): draw.labelled for r, draw in draws.items()}
            # Those of the whole group, so that a resumed run pads as an uninterrupted one does.
            rows = np.unique(np.concatenate(list(sets.values())))
            own = np.stack([np.isin(rows, sets[key[:2]]) for key in chunk.teachers])
        return Known(
            labelled=rows,
            of_teacher=own,
            teacher_probabilities=self._probabilities(pair, group, shared.teachers, used, rows),
            labels=pair.data.labels,
            groups=pair.data.groups,
            num_groups=len(pair.data.student.group_names),
        )

    def _chunk(self, group: Group, chunk: Chunk, shared: _Shared) -> pd.DataFrame:
        """Trains one chunk's students and returns its rows."""
        pair, test, draws, validation, teachers, index = shared
        student = self._side(pair, group.feature_scaling, teacher=False)
        rows = draws[chunk.pattern.draw_requests[0]].unlabelled
        used = np.array([index[key] for key in chunk.teachers])
        probabilities = self._probabilities(pair, group, teachers, used, rows)
        data = pair.data
        requests, served = chunk.requests()
        teacher_side = None
        if any(r.method.sees_teacher_features(r.options) for r in requests):
            teacher_side = self._side(pair, group.feature_scaling, teacher=True).prepared
        stage = StudentStage(
            student.prepared,
            rows,
            probabilities,
            self._budget,
            known=self._known(group, chunk, shared, requests, used),
            teacher_prepared=teacher_side,
        )
        trained = stage.train(requests)
        has_truth = chunk.eta_u is not None
        ceilings = None
        if has_truth:
            task = Labelled(rows, chunk.student_l2)
            heads = self._fit_labelled(student, data.labels, [task], data.student.num_classes)
            ceilings = self._score(student, heads, data.labels, test, validation, rows)
        pseudolabels = probabilities.argmax(axis=-1)
        right = minority = None
        if has_truth:
            right = pseudolabels == data.labels[rows]
            minority = data.minority[rows]

        parts, all_configs = [], chunk.configs
        behind: dict[str, list[tuple[Heads, np.ndarray]]] = {}
        for request, positions, result in zip(requests, served, trained, strict=True):
            configs = [all_configs[i] for i in positions]
            slices = [validation.slices[(c.eta_l, c.n_labelled, c.n_validation)] for c in configs]
            scores = self._score(student, result.heads, data.labels, test, validation, rows)
            columns = teachers.columns("teacher", used[request.teacher], test, slices)
            if teachers.heads is None:
                columns |= {f"teacher_{name}": np.nan for name in ("iterations", "gap")}
            if ceilings is None:
                columns |= missing_columns("ceiling", len(configs), test)
            else:
                own = np.searchsorted(chunk.student_l2, [c.student_l2 for c in configs])
                columns |= ceilings.columns("ceiling", own, test, slices)
                if ceilings.heads is not None:
                    behind.setdefault("ceiling", []).append((ceilings.heads, own))
            if teachers.heads is not None:
                behind.setdefault("teacher", []).append((teachers.heads, used[request.teacher]))
            behind.setdefault("student", []).append((result.heads, result.index))
            columns |= scores.columns("student", result.index, test, slices)
            own = (scores, result.index, teachers, used[request.teacher])
            columns |= agreement_columns(*own, pseudolabels[request.teacher], test, slices)
            own_right = None if right is None else right[request.teacher]
            columns |= kept_columns(result.kept, result.index, own_right, minority)
            parts.append(Part(configs, columns))
        self._count(stage.num_fitted + (0 if ceilings is None else len(chunk.student_l2)))
        rows = assemble(parts, pair, test, self._dtype.name)
        if self._keep is not None:
            self._keep(rows["key"].tolist(), self._heads_behind(pair, group, behind))
        return rows

    def _heads_behind(
        self, pair: Pair, group: Group, behind: Mapping[str, list[tuple[Heads, np.ndarray]]]
    ) -> dict[str, ModelHeads]:
        """The heads to keep of a chunk's rows, which come request by request."""
        kept = {}
        for model in self._kept_models:
            if model not in behind:
                continue
            side = self._side(pair, group.feature_scaling, teacher=model == "teacher")
            tables: dict[int, tuple[int, np.ndarray]] = {}  # requests share teachers
            index, total = [], 0
            for heads, own in behind[model]:
                if id(heads) not in tables:
                    tables[id(heads)] = total, heads.params
                    total += len(heads.params)
                index.append(own + tables[id(heads)][0])
            used, back = np.unique(np.concatenate(index), return_inverse=True)
            params = np.concatenate([table for _, table in tables.values()])[used]
            kept[model] = ModelHeads(params, back.ravel(), side.transform, side.name)
        return kept


class _Validation:
    """The validation sets of a group, one after another, and where each lies."""

    def __init__(self, draws: Mapping[Any, Draw], group: Group):
        self.slices: dict[tuple[Any, ...], slice] = {}
        sets, end = [np.empty(0, np.int64)], 0
        for request, draw in draws.items():
            key = (request.eta_l, request.n_labelled, request.n_validation)
            if key not in self.slices:
                self.slices[key] = slice(end, end + len(draw.validation))
                sets.append(draw.validation)
                end += len(draw.validation)
        self.rows = np.concatenate(sets)


def _grouped_test(pair: Pair, pool: Pool) -> GroupedTest:
    data = pair.data
    return grouped_test(
        data.groups,
        data.test_rows,
        np.flatnonzero(data.split == 0),
        names=data.student.group_names,
        labels=data.student.group_labels,
        minority=data.student.group_minority,
        prior=pool.prior,
    )
