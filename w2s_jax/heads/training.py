"""Heads trained step by step: any update rule, many heads in lock step on the same rows.

A rule (`Step`) is written for one head and vmapped. All heads see the same rows in the same order,
so that a step's products with the features are one matrix product over all heads. Training takes
place in the features' own coordinates (centred, as the caller scaled them): a rule that scales
single coordinates, such as Adam, is not invariant under the rotation of `prepare`.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt

from w2s_jax.errors import HeadError
from w2s_jax.heads.buckets import padded_size, row_bucket
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.status import DIVERGED, EARLY_STOPPED, RUNNING, TRAINED

HIGHEST = jax.lax.Precision.HIGHEST


class Batch(NamedTuple):
    """The rows of one step, as one head sees them.

    Attributes:
        x: features ``[m, d]``, centred; the same for all heads.
        valid: False for padding ``[m]``.
        inputs: what else the head knows of these rows (see ``select`` of `train_rows`).
        step: number of steps taken before this one.
    """

    x: Float[Array, "m d"]
    valid: Bool[Array, " m"]
    inputs: Any
    step: Int[Array, ""]


class Step(abc.ABC):
    """A rule of training, written for one head; parameters are ``[k, d + 1]``, intercept last.

    Subclasses must be hashable by value, such as frozen dataclasses of module-level functions:
    equal rules share their compiled program. Numbers that vary between heads are no fields but
    come with the batch's inputs.
    """

    @abc.abstractmethod
    def init(self, params: Float[Array, "k p"], batch: Batch) -> Any:
        """The state before the first step, any tree of arrays; `batch` has all training rows."""

    @abc.abstractmethod
    def update(
        self, params: Float[Array, "k p"], state: Any, batch: Batch
    ) -> tuple[Float[Array, "k p"], Any]:
        """Parameters and state after a step."""

    @abc.abstractmethod
    def objective(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """What the steps are to lower; reported at the end, on all training rows."""

    def score(self, params: Float[Array, "k p"], batch: Batch) -> Float[Array, ""]:
        """What early stopping compares on held-out rows, the lower the better."""
        return self.objective(params, batch)

    def row_weights(self, params: Float[Array, "k p"], batch: Batch) -> Array:
        """Weight of each row ``[m]``; the result tells which rows had a positive one at the end."""
        return batch.valid

    def holds(self, params: Float[Array, "k p"], batch: Batch) -> Bool[Array, " m"]:
        """What is recorded of each row at checkpoints, such as whether it is predicted rightly."""
        raise HeadError(
            f"its rule, a {type(self).__name__}, has nothing to record; give it holding (a Step of "
            "your own: holds), or leave out record_every"
        )

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """Names of the hyperparameters that the rule reads."""
        return ()


class Schedule(NamedTuple):
    """How long heads train, and on which rows.

    Rows are in an order that tells nothing about them. The last `num_held` are held out, the others
    trained on: all of them in every step, or batches of `batch_size`. Before every epoch the
    training rows are shuffled, by seed and epoch alone, so that all heads see the same batches; the
    last batch of an epoch is smaller where the size does not divide the rows, and no row is left
    out.

    Attributes:
        num_steps: of each head ``[h]``.
        num_rows: rows, without padding.
        batch_size: rows of a batch; 0 for all. A batch never exceeds the training rows.
        patience: evaluations without improvement after which each head stops ``[h]``; None trains
            for all steps and keeps the last parameters. Otherwise the best ones are kept, be it the
            start.
        num_held: rows held out; 0 without patience.
        evaluate_every: steps between evaluations on the held-out rows.
        seed: of the shuffling.
        record_every: steps between checkpoints at which `Step.holds` is asked; 0 for none.
    """

    num_steps: Int[np.ndarray, " h"]
    num_rows: int
    batch_size: int = 0
    patience: Int[np.ndarray, " h"] | None = None
    num_held: int = 0
    evaluate_every: int = 20
    seed: int = 0
    record_every: int = 0


class TrainedRows(NamedTuple):
    """Trained heads in prepared coordinates.

    Attributes:
        params: ``[h, k, r + 1]``, intercept last.
        objective: at the end, on all training rows ``[h]``.
        gradient_norm: Euclidean norm of its gradient ``[h]``.
        gap: NaN: training does not estimate its distance from a minimum ``[h]``.
        iterations: steps taken ``[h]``.
        status: trained (all steps), early_stopped, or diverged (parameters or objective were not
            finite: w = 0, b = 0) ``[h]``.
        kept: training rows of positive weight at the end ``[h, n]``.
        last_held: last checkpoint at which `Step.holds` was true of each row ``[h, n]``: 0 before
            the first step, i after ``i record_every`` steps, -1 never; None without checkpoints.
    """

    params: Float[Array, "h k p"]
    objective: Float[Array, " h"]
    gradient_norm: Float[Array, " h"]
    gap: Float[Array, " h"]
    iterations: Int[Array, " h"]
    status: Int[Array, " h"]
    kept: Bool[Array, "h n"]
    last_held: Int[Array, "h n"] | None = None


def head_logits(params: Float[Array, "k p"], x: Float[Array, "m d"]) -> Float[Array, "k m"]:
    """Logits of one head; over many heads with the same rows one matrix product."""
    return jnp.matmul(params[:, :-1], x.T, precision=HIGHEST) + params[:, -1:]


def epoch_order(
    seed: Array | np.ndarray, epoch: Array | int, num_training: Array | int, size: int
) -> Int[Array, " n"]:
    """The training rows in the order in which an epoch takes them, padding last.

    Args:
        seed: as `seed_words` splits it.
        epoch: number of the epoch.
        num_training: rows to shuffle; they are the first ones.
        size: rows with padding, n. It changes nothing in the order of the others.
    """
    padding = jnp.arange(size) >= num_training
    return jnp.lexsort((position_bits(seed, epoch, size), padding)).astype(jnp.int32)


def position_bits(seed: Array | np.ndarray, number: Array | int, size: int) -> UInt[Array, " n"]:
    """32 random bits for each of n positions, which do not depend on n.

    Args:
        seed: as `seed_words` splits it.
        number: of the sequence.
        size: n.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed[0]), seed[1]), number)
    of_one = jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), dtype=jnp.uint32))
    return of_one(jnp.arange(size))


def seed_words(seed: int) -> np.ndarray:
    """A seed below 2^64 as two words of 32 bits, lower first.

    >>> seed_words(2**32 + 5).tolist()
    [5, 1]
    """
    return np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)


class _Rows(NamedTuple):
    """Rows of a batch; `index` is None for all rows in their order."""

    x: Array
    index: Array | None
    valid: Array


class _Run(NamedTuple):
    """Loop state: the heads under way, what is kept of them, and how each stands."""

    step: Array
    order: Array
    params: Array
    state: Any
    kept: Array
    best: Array
    waited: Array
    iterations: Array
    status: Array
    last_held: Array | None


def train_rows(
    prepared: Prepared,
    rows: Int[Array | np.ndarray, " n"],
    step: Step,
    select: Callable[[Any, Array | None, Array], Any],
    data: Any,
    schedule: Schedule,
    init: Float[Array | np.ndarray, "h k p"],
) -> TrainedRows:
    """Trains heads that share their rows, in lock step and without input checks.

    Another number of steps, batch size within a bucket, patience, seed or number of rows within the
    padding compiles nothing.

    Args:
        prepared: features of all rows.
        rows: the rows to train on, padded at the end.
        step: the rule.
        select: gives one head's inputs for some rows, from its part of `data`, the rows' indices
            (None for all, in order) and which are valid; a module-level function.
        data: tree of arrays whose leading axis is h.
        schedule: steps and batches.
        init: starting parameters in prepared coordinates.

    Raises:
        HeadError: for features whose rows are dealt out to several devices.
    """
    if prepared.row_shards > 1:
        raise HeadError(
            "heads are trained step by step on features of one device, found rows dealt out to "
            f"{prepared.row_shards}; prepare them without devices"
        )
    batched = 0 < schedule.batch_size < schedule.num_rows - schedule.num_held
    arrays = {
        "num_steps": np.asarray(schedule.num_steps, np.int32),
        "num_rows": np.int32(schedule.num_rows),
        "num_training": np.int32(schedule.num_rows - schedule.num_held),
        "batch_size": np.int32(schedule.batch_size),
        "evaluate_every": np.int32(schedule.evaluate_every),
        "seed": seed_words(schedule.seed),
    }
    if schedule.record_every:
        arrays["record_every"] = np.int32(schedule.record_every)
    if schedule.patience is not None:
        arrays["patience"] = np.asarray(schedule.patience, np.int32)
    return _train(
        prepared.x,
        prepared.rotation,
        rows,
        init,
        data,
        arrays,
        step=step,
        select=select,
        batch_rows=padded_size(schedule.batch_size, least=8) if batched else 0,
        held_rows=0 if schedule.patience is None else row_bucket(schedule.num_held),
    )


class _Trainer:
    """The parts of the compiled program, which share features, inputs and schedule."""

    def __init__(self, x: Array, data: Any, schedule: Mapping[str, Array], step: Step, select: Any):
        self.x, self.data, self.schedule = x, data, schedule
        self.step, self.select = step, select
        self.all_rows = _Rows(x, None, jnp.arange(len(x)) < schedule["num_training"])

    def of_heads(self, function: Callable[..., Any], rows: _Rows, step: Array, *per_head: Any):
        """Applies a function of one head and its batch to all heads; they share the rows."""

        def of_one(own: Any, step: Array, *args: Any) -> Any:
            inputs = self.select(own, rows.index, rows.valid)
            return function(*args, Batch(rows.x, rows.valid, inputs, step))

        axes = (0, 0 if jnp.ndim(step) else None, *([0] * len(per_head)))
        return jax.vmap(of_one, in_axes=axes)(self.data, step, *per_head)

    def held_out(self, size: int) -> _Rows:
        """The rows held out, in a bucket of a given size."""
        index = self.schedule["num_training"] + jnp.arange(size)
        valid = index < self.schedule["num_rows"]
        index = jnp.minimum(index, len(self.x) - 1)
        return _Rows(self.x[index], index, valid)

    def batch(self, step: Array, order: Array, size: int) -> tuple[_Rows, Array]:
        """The batch of one step, and the order of its epoch."""
        num_training, batch_size = self.schedule["num_training"], self.schedule["batch_size"]
        per_epoch = (num_training + batch_size - 1) // batch_size
        order = jax.lax.cond(
            step % per_epoch == 0,
            lambda: epoch_order(
                self.schedule["seed"], step // per_epoch, num_training, len(self.x)
            ),
            lambda: order,
        )
        place = jnp.arange(size)
        valid = place < batch_size
        place = (step % per_epoch) * batch_size + place
        valid = valid & (place < num_training)
        index = order[jnp.minimum(place, len(self.x) - 1)]
        return _Rows(self.x[index], index, valid), order

    def settle(self, params: Array, iterations: Array) -> tuple[Array, Array, Array, Array]:
        """Parameters, objective, squared gradient norm, and whether a head had to be given up."""

        def evaluate(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            params, _, _, diverged = carry
            objective, gradient = self.of_heads(
                jax.value_and_grad(self.step.objective), self.all_rows, iterations, params
            )
            square = jnp.sum(gradient**2, axis=(-2, -1))
            bad = ~(jnp.isfinite(objective) & jnp.isfinite(square))
            bad = bad | ~jnp.all(jnp.isfinite(params), axis=(-2, -1))
            return jnp.where(bad[:, None, None], 0.0, params), objective, square, diverged | bad

        zeros = jnp.zeros(len(params), params.dtype)
        start = (params, zeros, zeros, jnp.zeros(len(params), bool))
        # Twice, because a head that was given up is described at zero.
        return jax.lax.fori_loop(0, 2, evaluate, start)


@functools.partial(jax.jit, static_argnames=("step", "select", "batch_rows", "held_rows"))
def _train(
    x: Array,
    rotation: Array,
    rows: Array,
    init: Array,
    data: Any,
    schedule: Mapping[str, Array],
    *,
    step: Step,
    select: Any,
    batch_rows: int,
    held_rows: int,
) -> TrainedRows:
    real = jnp.arange(len(rows)) < schedule["num_rows"]
    x = jnp.where(real[:, None], jnp.matmul(x[rows], rotation.T, precision=HIGHEST), 0.0)
    trainer = _Trainer(x, data, schedule, step, select)
    held = trainer.held_out(held_rows) if held_rows else None
    num_steps, every = schedule["num_steps"], schedule["evaluate_every"]
    record_every = schedule.get("record_every")
    never = jnp.iinfo(jnp.int32).max

    def advance(number: Array, carry: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        params, state, order = carry
        batch = trainer.all_rows
        if batch_rows:
            batch, order = trainer.batch(number, order, batch_rows)
        params, state = trainer.of_heads(step.update, batch, number, params, state)
        return params, state, order

    def until_next_stop(run: _Run) -> _Run:
        """Steps until a head ends or is to be evaluated."""
        running = run.status == RUNNING
        number = jnp.min(jnp.where(running, num_steps, never))
        if held is not None:
            number = jnp.minimum(number, (run.step // every + 1) * every)
        if record_every is not None:
            number = jnp.minimum(number, (run.step // record_every + 1) * record_every)
        carry = jax.lax.fori_loop(run.step, number, advance, (run.params, run.state, run.order))
        params, state, order = carry
        ended = running & (number == num_steps)
        better, best, waited = ended, run.best, run.waited
        status = jnp.where(ended, TRAINED, run.status)
        if held is not None:
            due = ended | (running & (number % every == 0))
            score = trainer.of_heads(step.score, held, number, params)
            better = due & (score < run.best)
            best = jnp.where(better, score, run.best)
            waited = jnp.where(better, 0, run.waited + due)
            gave_up = running & ~ended & (waited >= schedule["patience"])
            status = jnp.where(gave_up, EARLY_STOPPED, status)
        last_held = run.last_held
        if record_every is not None and last_held is not None:
            holds = trainer.of_heads(step.holds, trainer.all_rows, number, params)
            due = (running & (number % record_every == 0))[:, None]
            last_held = jnp.where(due & holds, number // record_every, last_held)
        return _Run(
            step=number,
            order=order,
            params=params,
            state=state,
            kept=jnp.where(better[:, None, None], params, run.kept),
            best=best,
            waited=waited,
            iterations=jnp.where(running, number, run.iterations),
            status=status,
            last_held=last_held,
        )

    start = _to_features(init, rotation)
    heads, first = len(start), jnp.int32(0)
    best = jnp.zeros(heads, x.dtype)
    if held is not None:
        best = trainer.of_heads(step.score, held, first, start)
    last_held = None
    if record_every is not None:
        holds = trainer.of_heads(step.holds, trainer.all_rows, first, start)
        last_held = jnp.where(holds, 0, -1).astype(jnp.int32)
    run = _Run(
        step=first,
        order=jnp.arange(len(x), dtype=jnp.int32),
        params=start,
        state=trainer.of_heads(step.init, trainer.all_rows, first, start),
        kept=start,
        best=best,
        waited=jnp.zeros(heads, jnp.int32),
        iterations=jnp.zeros(heads, jnp.int32),
        status=jnp.full(heads, RUNNING, jnp.int32),
        last_held=last_held,
    )
    run = jax.lax.while_loop(lambda run: jnp.any(run.status == RUNNING), until_next_stop, run)
    params, objective, square, diverged = trainer.settle(run.kept, run.iterations)
    weights = trainer.of_heads(step.row_weights, trainer.all_rows, run.iterations, params)
    return TrainedRows(
        params=_from_features(params, rotation),
        objective=objective,
        gradient_norm=jnp.sqrt(square),
        gap=jnp.full(heads, jnp.nan, x.dtype),
        iterations=run.iterations,
        status=jnp.where(diverged, DIVERGED, run.status),
        kept=(weights > 0) & trainer.all_rows.valid,
        last_held=run.last_held,
    )


def _to_features(params: Float[Array, "h k q"], rotation: Float[Array, "d r"]) -> Array:
    """Parameters of the unrotated features, from those in prepared coordinates."""
    w = jnp.einsum("hkr,dr->hkd", params[..., :-1], rotation, precision=HIGHEST)
    return jnp.concatenate([w, params[..., -1:]], axis=-1)


def _from_features(params: Float[Array, "h k p"], rotation: Float[Array, "d r"]) -> Array:
    w = jnp.einsum("hkd,dr->hkr", params[..., :-1], rotation, precision=HIGHEST)
    return jnp.concatenate([w, params[..., -1:]], axis=-1)
