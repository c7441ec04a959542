"""Teacher, pseudolabels, rounds of students: stage by stage, each stage over many heads.

A stage fits every distinct head once. Heads travel between stages as host tables; whatever runs on
the device has bucketed shapes, so that few programs are ever compiled.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.errors import HeadError
from w2s_jax.heads.buckets import HEAD_BUCKETS, head_bucket, row_bucket
from w2s_jax.heads.costs import FitCost, default_budget, pool_is_cheaper
from w2s_jax.heads.lanes import fit_rows
from w2s_jax.heads.lbfgs import Solution, logits_on_rows
from w2s_jax.heads.logistic import probabilities_of
from w2s_jax.heads.losses import cross_entropy
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.row_sharding import DealtRows, place_rows
from w2s_jax.heads.targets import Targets, num_logits_of
from w2s_jax.heads.training import TrainedRows, seed_words
from w2s_jax.methods.rounds import Fit, Method, Round, RoundInputs, Train, previous_logits
from w2s_jax.methods.selection import keep_count

# Heads whose logits on some rows are computed together, if memory allows.
MAX_BATCH = 512


class Heads(NamedTuple):
    """A host table of fitted heads in prepared coordinates (see `LogisticHeads` for the rest)."""

    params: Float[np.ndarray, "h k p"]
    objective: Float[np.ndarray, " h"]
    gradient_norm: Float[np.ndarray, " h"]
    gap: Float[np.ndarray, " h"]
    iterations: Int[np.ndarray, " h"]
    status: Int[np.ndarray, " h"]

    def take(self, heads: np.ndarray) -> "Heads":
        """Some of the heads."""
        return Heads(*(field[heads] for field in self))

    @staticmethod
    def join(parts: Sequence["Heads"]) -> "Heads":
        """One table after another."""
        return Heads(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def _to_host(solution: Solution | TrainedRows, num_heads: int) -> Heads:
    host = jax.device_get(solution)
    return Heads(*(getattr(host, field)[:num_heads] for field in Heads._fields))


def _pad_heads(array: np.ndarray, size: int) -> np.ndarray:
    """Fills the leading axis up to a bucket by repeating the first head."""
    return np.concatenate([array, np.repeat(array[:1], size - len(array), axis=0)])


def batch_within(budget: int | None, bytes_per_head: int, most: int) -> int:
    """Heads of a batch: `most`, or the bucket that a budget (bytes) holds, or the smallest."""
    fitting = (default_budget() if budget is None else budget) // bytes_per_head
    if fitting >= most:
        return most
    return max((bucket for bucket in HEAD_BUCKETS if bucket <= fitting), default=HEAD_BUCKETS[0])


def batches(params: Float[np.ndarray, "h k p"], batch: int) -> Iterator[tuple[slice, Array]]:
    """Heads in batches on the device, padded to buckets, and where each batch lies."""
    for start in range(0, len(params), batch):
        part = slice(start, min(start + batch, len(params)))
        size = head_bucket(part.stop - part.start)
        yield part, jnp.asarray(_pad_heads(params[part], size))


def pad_rows(rows: Int[np.ndarray, " n"]) -> tuple[np.ndarray, np.ndarray]:
    """Row indices up to a bucket, and which of them are real."""
    size = row_bucket(len(rows))
    padded = np.zeros(size, np.int32)
    padded[: len(rows)] = rows
    return padded, np.arange(size) < len(rows)


class Labelled(NamedTuple):
    """Heads to train on one set of labelled rows.

    Attributes:
        rows: row indices ``[n]``.
        l2: distinct penalties ``[m]``, one head each.
    """

    rows: Int[np.ndarray, " n"]
    l2: Float[np.ndarray, " m"]


def fit_labelled(
    prepared: Prepared,
    labels: Int[np.ndarray, " all"],
    tasks: Sequence[Labelled],
    num_classes: int,
    memory_budget: int | None = None,
) -> Heads:
    """Cross-entropy heads on true labels: teachers, and the student's ceiling.

    Tasks run one by one, or together on all their rows where that is cheaper.

    Args:
        prepared: features of all rows.
        labels: class of every row.
        tasks: one set of rows each.
        num_classes: c.
        memory_budget: bytes, as of `fit_rows`.

    Returns:
        All heads, task after task, in the order of each task's penalties.
    """
    dtype = prepared.x.dtype if num_classes == 2 else jnp.int32

    def fit(rows: np.ndarray, members: Sequence[Labelled]) -> Heads:
        padded, valid = pad_rows(rows)
        heads_of = [len(task.l2) for task in members]
        num_heads = sum(heads_of)
        if len(members) == 1:
            weights = valid[None]
        else:
            weights = np.stack([np.isin(padded, task.rows) & valid for task in members])
            weights = np.repeat(weights, heads_of, axis=0)
            weights = _pad_heads(weights, head_bucket(num_heads))
        # One row of targets would do, but would be another program than the students'.
        targets = np.broadcast_to(labels[padded], (head_bucket(num_heads), len(padded)))
        solution = fit_rows(
            prepared,
            padded,
            Targets(jnp.asarray(targets, dtype), num_classes),
            weights=weights.astype(prepared.x.dtype),
            l2=_pad_heads(np.concatenate([task.l2 for task in members]), len(targets)),
            loss=cross_entropy(),
            chains=_pad_heads(np.repeat(np.arange(len(members)), heads_of), len(targets)),
            num_heads=num_heads,
            num_rows=len(rows),
            memory_budget=memory_budget,
        )
        return _to_host(solution, num_heads)

    if len(tasks) > 1:
        pool = np.unique(np.concatenate([task.rows for task in tasks]))
        sizes, heads = (np.array([len(p) for p in parts]) for parts in zip(*tasks, strict=True))
        num_features = prepared.x.shape[1]
        if pool_is_cheaper(sizes, heads, len(pool), num_features, num_logits_of(num_classes)):
            return fit(pool, tasks)
    return Heads.join([fit(task.rows, [task]) for task in tasks])


def teacher_probabilities(
    prepared: Prepared,
    teachers: Heads,
    rows: Int[np.ndarray, " n"],
    memory_budget: int | None = None,
) -> Float[np.ndarray, "t n c"]:
    """Class probabilities of every teacher on some rows; the budget (bytes) holds a batch."""
    padded, _ = pad_rows(rows)
    placed = place_rows(prepared.x, padded, len(rows))
    num_logits, itemsize = teachers.params.shape[1], teachers.params.itemsize
    # Logits, probabilities and a temporary of either.
    bytes_per_head = len(padded) * (2 * num_logits + 2 * max(num_logits, 2)) * itemsize
    parts = []
    for part, params in batches(
        teachers.params, batch_within(memory_budget, bytes_per_head, MAX_BATCH)
    ):
        probabilities = probabilities_of(logits_on_rows(params, prepared.x, placed))
        parts.append(np.asarray(probabilities)[: part.stop - part.start, : len(rows)])
    return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Request:
    """Students to train with one method.

    Attributes:
        method: the method.
        options: its options' values by name.
        teacher: index of each student's teacher ``[h]``.
        hyperparameters: values by name, ``[h]`` each; those that the rounds read.
    """

    method: Method
    options: Mapping[str, str]
    teacher: Int[np.ndarray, " h"]
    hyperparameters: Mapping[str, Float[np.ndarray, " h"]]


class Trained(NamedTuple):
    """The students of one request.

    Attributes:
        heads: last round's distinct heads.
        kept: rows of positive weight in the last round, for each distinct head ``[m, n]``.
        index: which distinct head each student of the request is ``[h]``.
    """

    heads: Heads
    kept: Bool[np.ndarray, "m n"]
    index: Int[np.ndarray, " h"]


Rounds = tuple[Round, ...]


class Task(NamedTuple):
    """The distinct heads to fit in the last of some rounds; each stands for all members.

    Attributes:
        rounds: the rounds up to this one.
        origin: each head's predecessor in the round before, its teacher in the first ``[m]``.
        values: each head's hyperparameters ``[m]``.
    """

    rounds: Rounds
    origin: Int[np.ndarray, " m"]
    values: dict[str, Float[np.ndarray, " m"]]

    @property
    def num_heads(self) -> int:
        """Heads to fit, every member counted."""
        return len(self.origin) * self.rounds[-1].members


def plan_rounds(requests: Sequence[Request]) -> tuple[list[Task], list[Rounds], list[np.ndarray]]:
    """Tasks in order, and for each request its rounds and the head of each of its students.

    Requests whose rounds begin alike share the heads of these rounds.
    """
    rounds = [r.method.checked_rounds(r.options) for r in requests]
    position = [np.asarray(r.teacher) for r in requests]
    tasks = []
    for depth in range(max(map(len, rounds), default=0)):
        waiting = [i for i, fits in enumerate(rounds) if len(fits) > depth]
        for prefix in dict.fromkeys(rounds[i][: depth + 1] for i in waiting):
            members = [i for i in waiting if rounds[i][: depth + 1] == prefix]
            names = prefix[-1].hyperparameters
            columns = [np.concatenate([position[i] for i in members])]
            for name in names:
                columns.append(np.concatenate([requests[i].hyperparameters[name] for i in members]))
            distinct, index = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
            values = {name: distinct[:, 1 + j] for j, name in enumerate(names)}
            tasks.append(Task(prefix, distinct[:, 0].astype(np.int64), values))
            ends = np.cumsum([len(position[i]) for i in members])[:-1]
            for i, part in zip(members, np.split(index.ravel(), ends), strict=True):
                position[i] = part
    return tasks, rounds, position


def count_heads(requests: Sequence[Request]) -> int:
    """Distinct heads that `StudentStage.train` fits for some requests."""
    return sum(task.num_heads for task in plan_rounds(requests)[0])


class _Node(NamedTuple):
    """The heads of one task, and what they leave to the next round.

    Attributes:
        round: the task's last round.
        heads: all members of the first distinct head, of the second, and so on ``[m members]``.
        kept: rows of positive weight of each ``[m members, n]``.
        last_held: what each recorded of the unlabelled rows ``[m members, n]``, or None.
        teacher: of each distinct head ``[m]``.
    """

    round: Round
    heads: Heads
    kept: np.ndarray
    last_held: np.ndarray | None
    teacher: np.ndarray

    def predecessors(self, after: Round, head: np.ndarray, member: np.ndarray) -> np.ndarray:
        """Which heads those of a next round come from ``[h, members]``."""
        members = self.round.members
        if after.members == members:
            return (head * members + member)[:, None]
        return head[:, None] * members + np.arange(members)


def student_cost(
    num_rows: int,
    num_features: int,
    num_classes: int,
    dtype: DTypeLike,
    num_heads: int = HEAD_BUCKETS[-1],
    num_devices: int = 1,
) -> FitCost:
    """What heads of a student's round take, at most."""
    return FitCost(
        num_rows=num_rows,
        num_features=num_features,
        num_classes=num_classes,
        num_heads=num_heads,
        soft=True,
        weighted=True,
        warm=True,
        # A round's inputs: teacher's probabilities, own logits, and temporaries.
        held=2 * num_classes + 2 * num_logits_of(num_classes),
        itemsize=np.dtype(dtype).itemsize,
        num_devices=num_devices,
    )


class Known(NamedTuple):
    """What rounds may see beside the pseudolabels, if they say so.

    Attributes:
        labelled: rows that any teacher learned from ``[m]``.
        of_teacher: which of them each teacher learned from ``[t, m]``.
        teacher_probabilities: of every teacher on these rows ``[t, m, c]``.
        labels: true class of every row of the features, for labelled rows and oracles ``[all]``.
        groups: group of every row, for oracles ``[all]``.
        num_groups: g.
    """

    labelled: Int[np.ndarray, " m"]
    of_teacher: Bool[np.ndarray, "t m"]
    teacher_probabilities: Float[np.ndarray, "t m c"]
    labels: Int[np.ndarray, " all"]
    groups: Int[np.ndarray, " all"]
    num_groups: int


class _Scope(NamedTuple):
    """The rows that a round sees, padded, and what it sees of them; heads are told by teacher.

    Attributes:
        rows: unlabelled ones first ``[n]``.
        num_rows: of them, without padding.
        num_unlabelled: of them, all or none of the draw's.
        valid: ``[n]``, or ``[t, n]`` where teachers have labelled rows of their own.
        teacher: class probabilities ``[t, n, c]``.
        known: further fields of `RoundInputs`, for each teacher.
        batch: heads that are fitted together.
    """

    rows: np.ndarray
    num_rows: int
    num_unlabelled: int
    valid: np.ndarray
    teacher: np.ndarray
    known: Mapping[str, np.ndarray]
    batch: int


class StudentStage:
    """Trains students on one draw of unlabelled rows, whose labels only oracles see.

    Args:
        prepared: the student's features of all rows.
        rows: unlabelled rows in draw order ``[n]``.
        teacher_probabilities: of every teacher on these rows ``[t, n, c]``.
        memory_budget: bytes that one batch of heads may take beside the features.
        known: what rounds may see that need labelled rows or are oracles.
        teacher_prepared: the teacher's features of all rows, for rounds that are fitted to them.
    """

    def __init__(
        self,
        prepared: Prepared,
        rows: Int[np.ndarray, " n"],
        teacher_probabilities: Float[np.ndarray, "t n c"],
        memory_budget: int | None = None,
        known: Known | None = None,
        teacher_prepared: Prepared | None = None,
    ):
        self._prepared = prepared
        self._teacher_prepared = teacher_prepared
        self._unlabelled = rows
        self.num_classes = teacher_probabilities.shape[-1]
        self._teacher = teacher_probabilities
        self._budget = default_budget() if memory_budget is None else memory_budget
        self._known = known
        self._scopes: dict[tuple[bool, ...], _Scope] = {}
        self.num_fitted = 0

    def _scope(self, fit: Round) -> _Scope:
        """What a round sees."""
        key = fit.on_labelled, fit.on_unlabelled, fit.oracle, fit.on_teacher_features
        if key not in self._scopes:
            self._scopes[key] = self._make_scope(fit, self._features(fit))
        return self._scopes[key]

    def _features(self, fit: Round) -> Prepared:
        """The features that a round is fitted to."""
        if not fit.on_teacher_features:
            return self._prepared
        if self._teacher_prepared is None:
            raise HeadError(
                "a round is fitted to the teacher's features, but this stage was given none; pass "
                "teacher_prepared"
            )
        return self._teacher_prepared

    def _make_scope(self, fit: Round, prepared: Prepared) -> _Scope:
        on_labelled, oracle = fit.on_labelled, fit.oracle
        num_unlabelled = len(self._unlabelled) if fit.on_unlabelled else 0
        rows, teacher = self._unlabelled[:num_unlabelled], self._teacher[:, :num_unlabelled]
        seen = self._known
        known: dict[str, np.ndarray] = {}
        if not (on_labelled or oracle):
            padded, valid = pad_rows(rows)
        elif seen is None:
            raise HeadError("a round looks at labels, but this stage was given none; pass known")
        else:
            if on_labelled:
                rows = np.concatenate([rows, seen.labelled])
                teacher = np.concatenate([teacher, seen.teacher_probabilities], axis=1)
            padded, valid = pad_rows(rows)
            visible = np.broadcast_to(valid, (len(teacher), len(padded)))
            if on_labelled:
                own = np.pad(seen.of_teacher, [(0, 0), (num_unlabelled, len(padded) - len(rows))])
                valid = own | (np.arange(len(padded)) < num_unlabelled)
                visible = valid if oracle else own
                known["labelled"] = own
            known["labels"] = np.where(visible, seen.labels[padded], -1).astype(np.int32)
            if oracle:
                in_group = seen.groups[padded] == np.arange(seen.num_groups)[:, None]
                known["in_group"] = in_group & visible[:, None]
        num_features, dtype = prepared.x.shape[1], prepared.x.dtype
        devices = prepared.row_shards
        cost = student_cost(len(rows), num_features, self.num_classes, dtype, num_devices=devices)
        return _Scope(
            rows=padded,
            num_rows=len(rows),
            num_unlabelled=num_unlabelled,
            valid=valid,
            teacher=np.pad(
                teacher, [(0, 0), (0, len(padded) - len(rows)), (0, 0)], constant_values=0.5
            ),
            known=known,
            batch=cost.heads_per_call(self._budget),
        )

    def train(self, requests: Sequence[Request]) -> list[Trained]:
        """Trains all requested students round by round; equal beginnings are trained once."""
        tasks, rounds, position = plan_rounds(requests)
        nodes: dict[Rounds, _Node] = {}
        for task in tasks:
            parent, depth = nodes.get(task.rounds[:-1]), len(task.rounds)
            try:
                nodes[task.rounds] = self._fit(task.rounds[-1], parent, task.origin, task.values)
            except (HeadError, KeyError) as error:
                users = [i for i, fits in enumerate(rounds) if fits[:depth] == task.rounds]
                where = f"method {requests[users[0]].method.name!r}, round {depth}"
                if isinstance(error, HeadError):
                    raise HeadError(f"{where}: {error}") from error
                missing = {"keep_count": "keep_fraction"}.get(error.args[0], error.args[0])
                if missing in task.values:
                    raise
                raise HeadError(
                    f"{where}: it looks up {error}, which it does not say it reads; name "
                    f"{missing!r} among its reads (or the hyperparameters of its rule)"
                ) from error
        return [
            Trained(nodes[fits].heads, nodes[fits].kept, index)
            for fits, index in zip(rounds, position, strict=True)
        ]

    def _fit(
        self,
        fit: Round,
        parent: _Node | None,
        origin: Int[np.ndarray, " h"],
        values: Mapping[str, Float[np.ndarray, " h"]],
    ) -> _Node:
        """One round's distinct heads, in batches of heads that are alike."""
        own_teacher = origin if parent is None else parent.teacher[origin]
        member = np.tile(np.arange(fit.members), len(origin))
        origin, teacher = (np.repeat(v, fit.members) for v in (origin, own_teacher))
        values = {name: np.repeat(column, fit.members) for name, column in values.items()}
        if fit.members > 1:
            values["member"] = member
        groups = fit.groups(values, len(origin))
        prepared, scope = self._features(fit), self._scope(fit)
        size = scope.batch
        batches = [g[i : i + size] for g in groups for i in range(0, len(g), size)]
        parts, kept, held = [], [], []
        for heads in batches:
            padded = _pad_heads(heads, fit.padded(len(heads)))
            known = {name: jnp.asarray(v[teacher[padded]]) for name, v in scope.known.items()}
            previous, previous_x = None, prepared.x
            if parent is not None:
                before = parent.predecessors(fit, origin[padded], member[padded])
                previous = jnp.asarray(parent.heads.params[before])
                previous_x = self._features(parent.round).x
                if parent.last_held is not None:
                    recorded = parent.last_held[before][..., : scope.num_unlabelled]
                    beyond = [(0, 0), (0, 0), (0, len(scope.rows) - scope.num_unlabelled)]
                    known["last_held"] = jnp.asarray(np.pad(recorded, beyond, constant_values=-1))
            own = {name: column[padded] for name, column in values.items()}
            hyperparameters = self._hyperparameters(own)
            probabilities = jnp.asarray(scope.teacher[teacher[padded]])
            if isinstance(fit, Train):
                solution = fit.run(
                    prepared,
                    scope.rows,
                    scope.num_rows,
                    probabilities,
                    previous,
                    own,
                    hyperparameters,
                    known,
                    previous_x,
                )
                mask = np.asarray(solution.kept)
                if solution.last_held is not None:
                    recorded = np.asarray(solution.last_held)
                    held.append(recorded[: len(heads), : len(self._unlabelled)])
            else:
                # Heads of one chain differ in their penalty alone.
                others = [own[name] for name in own if name != fit.l2]
                alike = np.stack([origin[padded], *others], axis=1)
                chains = np.unique(alike, axis=0, return_inverse=True)[1].ravel()
                valid = scope.valid if scope.valid.ndim == 1 else scope.valid[teacher[padded]]
                targets, weights, defects = _round(
                    fit,
                    previous,
                    previous_x,
                    place_rows(previous_x, scope.rows, scope.num_rows),
                    valid,
                    probabilities,
                    hyperparameters,
                    known,
                )
                loss = fit.loss(hyperparameters)
                solution = fit_rows(
                    prepared,
                    scope.rows,
                    Targets(targets, self.num_classes),
                    weights=weights,
                    l2=own[fit.l2],
                    loss=loss,
                    init=previous[:, 0] if previous is not None and fit.warm_start else None,
                    chains=chains if loss.convex and not fit.warm_start else None,
                    num_heads=len(heads),
                    num_rows=scope.num_rows,
                    memory_budget=self._budget,
                )
                if defects is not None:
                    _check_values(np.asarray(defects))  # waits for nothing that the fit did not
                mask = np.asarray(weights) > 0
                mask = np.broadcast_to(mask, (len(padded), mask.shape[1]))
            parts.append(_to_host(solution, len(heads)))
            beyond = [(0, 0), (0, len(self._unlabelled) - scope.num_unlabelled)]
            kept.append(np.pad(mask[: len(heads), : scope.num_unlabelled], beyond))
        order = np.concatenate(batches)
        self.num_fitted += len(order)
        back = np.argsort(order)
        return _Node(
            fit,
            Heads.join(parts).take(back),
            np.concatenate(kept)[back],
            np.concatenate(held)[back] if held else None,
            own_teacher,
        )

    def _hyperparameters(self, values: Mapping[str, np.ndarray]) -> dict[str, Array]:
        dtype = self._prepared.x.dtype
        traced = {name: jnp.asarray(column, dtype) for name, column in values.items()}
        if "keep_fraction" in values:
            counts = [keep_count(p, len(self._unlabelled)) for p in values["keep_fraction"]]
            traced["keep_count"] = jnp.asarray(counts, jnp.int32)
        if "member" in values:
            traced["member"] = jnp.asarray(values["member"], jnp.int32)
        if "seed" in values:
            seeds = [seed_words(int(seed)) for seed in values["seed"]]
            traced["seed"] = jnp.asarray(np.stack(seeds))
        return traced


def _round_body(
    fit: Fit,
    previous: Array | None,
    previous_x: Array,
    rows: Array | DealtRows,
    valid: Array,
    teacher: Array,
    hyperparameters: Mapping[str, Array],
    known: Mapping[str, Array],
) -> tuple[Array, Array, Bool[Array, "4"] | None]:
    """Targets and weights of one round, in the solver's layout, and which `_DEFECTS` they have.

    `valid` is of all heads or each. Heads whose teacher or predecessor failed have no defects of
    their own. Code of this package is not looked at: its results are to the bit what they were.
    """
    num_heads, num_rows, num_classes = teacher.shape
    num_logits, dtype = num_logits_of(num_classes), previous_x.dtype
    if previous is None:
        logits = jnp.zeros((num_heads, num_logits, num_rows), dtype)
    else:
        logits = previous_logits(previous, previous_x, rows)

    def of_all_heads(function: Callable[[RoundInputs], Array]) -> Array:
        def of_one(probabilities: Array, z: Array, valid: Array, values: Any, known: Any) -> Array:
            found = function(RoundInputs(probabilities, z, valid, values, **known))
            if not isinstance(found, Array | np.ndarray):
                raise HeadError(f"its targets and weights must be arrays, found {found!r:.60}")
            return jnp.asarray(found)

        axes = 0, 0, 0 if valid.ndim == 2 else None, 0, 0
        of_each = jax.vmap(of_one, in_axes=axes)
        return of_each(teacher.astype(dtype), logits, valid, hyperparameters, dict(known))

    targets = of_all_heads(fit.targets)
    weights = None if fit.weights is None else of_all_heads(fit.weights)
    _check_shapes(targets, weights, teacher.shape)
    defects = None
    if not (_is_ours(fit.targets) and _is_ours(fit.weights)):
        given = jnp.isfinite(teacher).all((1, 2)) & jnp.isfinite(logits).all((1, 2))
        defects = jnp.any(_defects(targets, weights, valid, num_classes) & given, axis=1)
    if targets.ndim == 3:
        targets = targets[..., 1] if num_classes == 2 else jnp.swapaxes(targets, 1, 2)
    elif num_classes == 2:
        targets = targets.astype(dtype)
    if weights is None:
        return targets, jnp.atleast_2d(valid).astype(dtype), defects
    return targets, jnp.where(valid, weights, 0.0).astype(dtype), defects


def _is_ours(function: Callable[[RoundInputs], Array] | None) -> bool:
    return function is None or str(function.__module__).startswith("w2s_jax.")


def _check_shapes(targets: Array, weights: Array | None, shape: tuple[int, ...]) -> None:
    """Refuses what a round's functions return where it is not one target and weight a row."""
    _, num_rows, num_classes = shape
    whole = jnp.issubdtype(targets.dtype, jnp.integer) or targets.dtype == bool
    if targets.shape[1:] != ((num_rows,) if whole else (num_rows, num_classes)):
        raise HeadError(
            f"its targets must be class indices [n] = [{num_rows}] (integers) or soft targets "
            f"[n, c] = [{num_rows}, {num_classes}], found {targets.dtype} of shape "
            f"{list(targets.shape[1:])}"
        )
    if weights is not None and weights.shape[1:] != (num_rows,):
        raise HeadError(
            f"its weights must be one a row, [n] = [{num_rows}], found shape "
            f"{list(weights.shape[1:])}"
        )


_DEFECTS = (
    "its targets are NaN or infinite in some row; guard divisions and logarithms",
    "its targets are class indices outside 0..c-1 in some row; give any class, with weight 0",
    "its soft targets do not sum to one in some row; divide them by their sum",
    "its weights are negative, NaN or infinite in some row; give finite ones, >= 0",
)


def _defects(
    targets: Array, weights: Array | None, valid: Array, num_classes: int
) -> Bool[Array, "4 h"]:
    """Which of `_DEFECTS` each head has, on rows that are no padding."""
    zero = jnp.zeros(len(targets), bool)
    nan = outside = unnormalised = zero
    if targets.ndim == 2:
        outside = jnp.any(valid & ((targets < 0) | (targets >= num_classes)), axis=1)
    else:
        sums, sizes = jnp.sum(targets, -1), 1 + jnp.sum(jnp.abs(targets), -1)
        nan = jnp.any(valid & ~jnp.isfinite(sums), axis=1)
        unnormalised = jnp.any(valid & (jnp.abs(sums - 1) > 1e-3 * sizes), axis=1)
    wrong = zero
    if weights is not None:
        wrong = jnp.any(valid & ~(jnp.isfinite(weights) & (weights >= 0)), axis=1)
    return jnp.stack([nan, outside, unnormalised, wrong])


def _check_values(defects: np.ndarray) -> None:
    if defects.any():
        raise HeadError(_DEFECTS[int(np.argmax(defects))])


_round = jax.jit(_round_body, static_argnums=0)
