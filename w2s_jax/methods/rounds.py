"""What a method is made of: rounds, each written for one head and vmapped over the grid.

A round is a `Fit`, a problem that the solver brings to its minimum, or a `Train`, a number of steps
of any rule.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from w2s_jax.errors import HeadError
from w2s_jax.heads.buckets import head_bucket, padded_size
from w2s_jax.heads.lbfgs import logits_on_rows
from w2s_jax.heads.losses import Loss, cross_entropy
from w2s_jax.heads.prepared import Prepared
from w2s_jax.heads.row_sharding import DealtRows
from w2s_jax.heads.targets import num_logits_of
from w2s_jax.heads.training import Schedule, Step, TrainedRows, train_rows
from w2s_jax.methods.definition import source_digest

# What shows a round the fields of its inputs that not every round sees.
_SHOWN_BY = {
    "labelled": "on_labelled=True",
    "labels": "oracle=True (on_labelled=True shows those of the teacher's labelled rows)",
    "in_group": "oracle=True",
    "last_held": "a Train with record_every before it",
}


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RoundInputs:
    """What one head's round may look at.

    Rows are in draw order, padded to a bucket. No true label and no group of an unlabelled row is
    in it, unless the round says that it is an oracle. Asking for a field that the round does not
    see is a `HeadError`.

    Attributes:
        teacher_probabilities: teacher's class probabilities on the rows ``[n, c]``.
        logits: the previous round's head's ``[k, n]``, on the features that it was fitted to; zeros
            before the first round. Of several members, those of their mean probabilities.
        valid: False for padding, and for labelled rows of other teachers ``[n]``.
        hyperparameters: scalars by name, those the round reads; with ``keep_fraction`` also
            ``keep_count``, the unlabelled rows that it keeps, and with several members ``member``,
            the head's number. ``seed`` is two words of 32 bits ``[2]``.
        labelled: whether the teacher learned from the row ``[n]``; in a round with `on_labelled`.
        labels: true classes ``[n]``, -1 where they are hidden; in a round that sees any.
        in_group: whether each row belongs to each group ``[g, n]``; for oracles.
        last_held: what each of the m members of the previous round recorded ``[m, n]`` (see
            `Train`), -1 on labelled rows; where it recorded something.
    """

    teacher_probabilities: Float[Array, "n c"]
    logits: Float[Array, "k n"]
    valid: Bool[Array, " n"]
    hyperparameters: Mapping[str, Array]
    labelled: Bool[Array, " n"] | None = None
    labels: Int[Array, " n"] | None = None
    in_group: Bool[Array, "g n"] | None = None
    last_held: Int[Array, "m n"] | None = None

    def __getattribute__(self, name: str) -> Any:
        """A field; None would compare with arrays and weigh all rows as nothing, unseen."""
        value = super().__getattribute__(name)
        if value is None and name in _SHOWN_BY:
            raise HeadError(f"it looks at {name}, which it does not see; give it {_SHOWN_BY[name]}")
        return value

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """All fields, seen or not."""
        return tuple(vars(self).values()), None

    @classmethod
    def tree_unflatten(cls, _: None, fields: tuple[Any, ...]) -> "RoundInputs":
        """Back from the fields, which may be any leaves."""
        inputs = object.__new__(cls)
        names = (field.name for field in dataclasses.fields(cls))
        vars(inputs).update(zip(names, fields, strict=True))
        return inputs


Function = Callable[[RoundInputs], Array]


def _cross_entropy(hyperparameters: Mapping[str, Array]) -> Loss:
    return cross_entropy()


@dataclasses.dataclass(frozen=True)
class Fit:
    """One convex-style problem for the solver, on the unlabelled rows where nothing else is said.

    Its functions must be module-level: two methods whose first rounds are equal share their heads.

    Attributes:
        targets: one head's targets: class indices ``[n]`` (integers) or soft targets ``[n, c]``
            that sum to one and may be negative.
        weights: one head's sample weights ``[n]``, >= 0; None weighs all rows alike.
        loss: the loss, from hyperparameters of all heads ``[h]``.
        l2: name of the hyperparameter that is the penalty.
        reads: hyperparameters that `targets`, `weights` and `loss` read.
        warm_start: start from the previous round's head instead of zero.
        on_labelled: the rows that the teacher learned from, with their labels, follow the
            unlabelled ones.
        on_unlabelled: whether the unlabelled rows are among the round's; False needs `on_labelled`.
        oracle: true labels and groups of all rows are seen. Such a round is an upper bound, or a
            method that needs group labels.
        on_teacher_features: the head is fitted to the teacher's features of the rows. The last
            round of a method is on the student's.
        members: heads that are fitted where one is asked for, told apart by the hyperparameter
            ``member``. A next round of as many members goes on from each; any other sees the mean
            of their probabilities. The last round of a method has one.
    """

    targets: Function
    weights: Function | None = None
    loss: Callable[[Mapping[str, Array]], Loss] = _cross_entropy
    l2: str = "student_l2"
    reads: tuple[str, ...] = ()
    warm_start: bool = False
    on_labelled: bool = False
    on_unlabelled: bool = True
    oracle: bool = False
    on_teacher_features: bool = False
    members: int = 1

    def __post_init__(self) -> None:
        """Checks that there are rows."""
        if not (self.on_labelled or self.on_unlabelled):
            raise HeadError("a round has no rows; set on_labelled or on_unlabelled")

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """All hyperparameters that decide this round's heads."""
        return tuple(sorted({self.l2, *self.reads}))

    def groups(
        self, values: Mapping[str, Float[np.ndarray, " h"]], num_heads: int
    ) -> list[Int[np.ndarray, " _"]]:
        """The heads in the order in which batches take them: by penalty."""
        return [np.argsort(values[self.l2], kind="stable")]

    def padded(self, num_heads: int) -> int:
        """Heads of a batch with padding."""
        return head_bucket(num_heads)


@dataclasses.dataclass(frozen=True)
class Train:
    """A number of steps of a rule on the unlabelled rows.

    Numbers are given as such, or as the name of the hyperparameter that holds them for each head.
    Parameters start at zero, or at the previous round's head.

    Attributes:
        step: the rule; an optax transformation and a loss make a `GradientStep`.
        num_steps: steps to take.
        batch_size: rows of a minibatch; 0 for all. All heads see the same batches, reshuffled every
            epoch by the draw's seed; an epoch leaves no row out, its last batch may be smaller.
        patience: evaluations without improvement after which a head stops, 0 for never. Such heads
            do not train on a share `held_out` of the rows, on which they are scored against the
            pseudolabels, and keep their best parameters, be it the start.
        warm_start: start from the previous round's head instead of zero.
        held_out: share of rows that early stopping holds out, in (0, 1): the last ones of the draw,
            whose order is random.
        evaluate_every: steps between evaluations.
        oracle: as of `Fit`.
        members: as of `Fit`.
        record_every: steps between checkpoints at which the rule's ``holds`` is asked of every row;
            0 for none. The next round's inputs have, for each row, the last checkpoint at which it
            held: 0 before the first step, i after i times so many steps, -1 never.

    Raises:
        HeadError: for numbers that make no sense.
    """

    step: Step
    num_steps: str | int
    batch_size: str | int = 0
    patience: str | int = 0
    warm_start: bool = False
    held_out: float = 0.1
    evaluate_every: int = 20
    oracle: bool = False
    members: int = 1
    record_every: int = 0
    on_labelled: ClassVar[bool] = False
    on_unlabelled: ClassVar[bool] = True
    on_teacher_features: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Checks the numbers that are no hyperparameters."""
        for name, low in {"num_steps": 1, "batch_size": 0, "patience": 0}.items():
            number = getattr(self, name)
            if not isinstance(number, str):
                _check_counts(np.array([number]), name, low)
        _check_counts(np.array([self.evaluate_every]), "evaluate_every", 1)
        _check_counts(np.array([self.record_every]), "record_every", 0)
        if not 0 < self.held_out < 1:
            raise HeadError(f"held_out must lie in (0, 1), found {self.held_out}")

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """All hyperparameters that decide this round's heads."""
        names = {n for n in (self.num_steps, self.batch_size, self.patience) if isinstance(n, str)}
        if self.batch_size != 0:
            names.add("seed")
        return tuple(sorted(names.union(self.step.hyperparameters)))

    def groups(
        self, values: Mapping[str, Float[np.ndarray, " h"]], num_heads: int
    ) -> list[Int[np.ndarray, " _"]]:
        """Heads that share their batches and take similarly many steps, in this order."""
        counts = self._counts(values, num_heads)
        num_steps = counts["num_steps"]
        seed = values["seed"] if "seed" in self.hyperparameters else np.zeros(num_heads)
        # Heads run until the last of their group has ended.
        alike = (counts["batch_size"], counts["patience"] > 0, seed, np.log2(num_steps) // 1)
        _, group = np.unique(np.stack(alike, axis=1), axis=0, return_inverse=True)
        order = np.lexsort((num_steps, group.ravel()))
        return np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1)

    def padded(self, num_heads: int) -> int:
        """Heads of a batch with padding."""
        return padded_size(num_heads, least=8)

    def _counts(
        self, values: Mapping[str, Float[np.ndarray, " h"]], num_heads: int
    ) -> dict[str, Int[np.ndarray, " h"]]:
        """Steps, batch size and patience of every head."""
        counts = {}
        for name, low in {"num_steps": 1, "batch_size": 0, "patience": 0}.items():
            number = getattr(self, name)
            column = values[number] if isinstance(number, str) else np.full(num_heads, number)
            counts[name] = _check_counts(column, name, low)
        return counts

    def run(
        self,
        prepared: Prepared,
        rows: Int[np.ndarray, " n"],
        num_rows: int,
        teacher: Float[Array, "h n c"],
        previous: Float[Array, "h m k p"] | None,
        values: Mapping[str, Float[np.ndarray, " h"]],
        hyperparameters: Mapping[str, Array],
        known: Mapping[str, Array] | None = None,
        previous_x: Float[Array, "all r"] | None = None,
    ) -> TrainedRows:
        """Trains heads of one of the `groups`.

        Args:
            prepared: the student's features of all rows.
            rows: unlabelled rows in draw order, padded.
            num_rows: how many of them are real.
            teacher: class probabilities of each head's teacher on these rows.
            previous: each head's m predecessors in the previous round; None in the first.
            values: hyperparameters on the host.
            hyperparameters: the same, as the rule sees them.
            known: further fields of each head's `RoundInputs`.
            previous_x: the features that `previous` was fitted to; default those of `prepared`.
        """
        counts = self._counts(values, len(teacher))
        num_logits = num_logits_of(teacher.shape[-1])
        zero = np.zeros((len(teacher), num_logits, prepared.x.shape[1] + 1), prepared.x.dtype)
        if previous is None:
            logits = np.zeros((*zero.shape[:2], len(rows)), zero.dtype)
        else:
            x = prepared.x if previous_x is None else previous_x
            logits = previous_logits(previous, x, rows)
        batch_size, patience = int(counts["batch_size"][0]), counts["patience"]
        if batch_size > num_rows:
            raise HeadError(f"batch_size {batch_size} exceeds the {num_rows} unlabelled rows")
        num_held = 0
        if patience[0]:
            num_held = max(1, math.floor(self.held_out * num_rows + 0.5))
            if num_held >= num_rows:
                raise HeadError(
                    f"early stopping would hold out {num_held} of {num_rows} unlabelled rows; "
                    "give more rows, or patience 0"
                )
        schedule = Schedule(
            num_steps=counts["num_steps"],
            num_rows=num_rows,
            batch_size=batch_size,
            patience=patience if patience[0] else None,
            num_held=num_held,
            evaluate_every=self.evaluate_every,
            seed=int(values["seed"][0]) if "seed" in values else 0,
            record_every=self.record_every,
        )
        data = (teacher.astype(zero.dtype), logits, dict(hyperparameters), dict(known or {}))
        start = previous[:, 0] if previous is not None and self.warm_start else zero
        return train_rows(prepared, rows, self.step, _inputs_of_rows, data, schedule, start)


Round = Fit | Train


def previous_logits(
    previous: Float[Array, "h m k p"],
    x: Float[Array, "all r"],
    rows: Int[Array | np.ndarray, " n"] | DealtRows,
) -> Float[Array, "h k n"]:
    """Logits of each head's predecessor on some rows of `x`; of several, of their mean probability.

    The mean is taken in log space, so that confident rows keep their order.
    """
    if not isinstance(rows, DealtRows):
        rows = jnp.asarray(rows)
    first = logits_on_rows(previous[:, 0], x, rows)
    if previous.shape[1] == 1:
        return first

    def log_p(logits: Array) -> Array:
        if logits.shape[1] == 1:
            return jax.nn.log_sigmoid(jnp.concatenate([-logits, logits], axis=1))
        return jax.nn.log_softmax(logits, axis=1)

    def add(total: Array, params: Array) -> tuple[Array, None]:
        return jnp.logaddexp(total, log_p(logits_on_rows(params, x, rows))), None

    total, _ = jax.lax.scan(add, log_p(first), jnp.swapaxes(previous[:, 1:], 0, 1))
    if previous.shape[2] == 1:
        return total[:, 1:] - total[:, :1]
    return total - np.log(previous.shape[1])


def _check_counts(numbers: np.ndarray, name: str, low: int) -> Int[np.ndarray, " h"]:
    """Whole numbers that are large enough, as integers."""
    wrong = [n for n in numbers.tolist() if isinstance(n, bool) or not low <= n <= 2**31 - 1]
    wrong += [n for n in numbers.tolist() if n not in wrong and n != int(n)]
    if wrong:
        raise HeadError(f"{name} must be whole numbers from {low}, found {wrong[0]!r}")
    return numbers.astype(np.int64)


def _inputs_of_rows(
    own: tuple[Array, Array, Mapping[str, Array], Mapping[str, Array]],
    index: Array | None,
    valid: Array,
) -> RoundInputs:
    """One head's inputs for some rows; all of them where `index` is None."""
    teacher, logits, hyperparameters, known = own
    if index is not None:
        teacher, logits = teacher[index], logits[:, index]
        known = {name: values[..., index] for name, values in known.items()}
    return RoundInputs(teacher, logits, valid, hyperparameters, **known)


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to train a student from a teacher's pseudolabels.

    Attributes:
        name: as in result rows and flags.
        rounds: the rounds, given the options' values by name.
        options: names of the grid's categorical axes that `rounds` reads.
        version: of its meaning; where it is None, that of the package's own methods is 1, and other
            methods are known by their source.
    """

    name: str
    rounds: Callable[[Mapping[str, str]], tuple[Round, ...]]
    options: tuple[str, ...] = ()
    version: int | None = None

    @property
    def definition(self) -> str | None:
        """What tells it from another method of its name; None where nothing does."""
        if self.version is None and not str(self.rounds.__module__).startswith("w2s_jax."):
            digest = source_digest(self.rounds)
            return None if digest is None else f"source {digest}"
        return f"version {self.version or 1}"

    def checked_rounds(self, options: Mapping[str, str]) -> tuple[Round, ...]:
        """The rounds, if they can follow one another.

        Raises:
            HeadError: where the last is no single student, or a warm start has no head to start at,
                or something is no round.
        """
        rounds = self.rounds(options)
        if not isinstance(rounds, tuple) or not all(isinstance(r, Round) for r in rounds):
            raise HeadError(
                f"method {self.name!r} must be a tuple of Fit and Train, found {rounds!r}"
            )
        if rounds and (rounds[-1].on_teacher_features or rounds[-1].members > 1):
            raise HeadError(
                f"method {self.name!r} ends with a round on the teacher's features or of several "
                "members; end with one student"
            )
        for before, after in itertools.pairwise(rounds):
            alike = before.on_teacher_features == after.on_teacher_features
            if after.warm_start and not (alike and before.members in (1, after.members)):
                raise HeadError(
                    f"method {self.name!r} warm-starts a round from one on other features or of "
                    "other members; start it from zero"
                )
        return rounds

    def trains_by_steps(self, options: Mapping[str, str]) -> bool:
        """Whether a round is trained for a number of steps instead of fitted."""
        return any(isinstance(fit, Train) for fit in self.rounds(options))

    def sees_labelled(self, options: Mapping[str, str]) -> bool:
        """Whether a round looks at the rows that the teacher learned from."""
        return any(fit.on_labelled for fit in self.rounds(options))

    def sees_teacher_features(self, options: Mapping[str, str]) -> bool:
        """Whether a round is fitted to the teacher's features."""
        return any(fit.on_teacher_features for fit in self.rounds(options))

    def is_oracle(self, options: Mapping[str, str]) -> bool:
        """Whether a round sees true labels and groups."""
        return any(fit.oracle for fit in self.rounds(options))


def hard_pseudolabels(inputs: RoundInputs) -> Array:
    """The teacher's most probable class of each row ``[n]``; ties go to the lower class."""
    p = inputs.teacher_probabilities
    if p.shape[-1] == 2:  # what argmax gives, several times faster on a CPU
        return (p[:, 1] > p[:, 0]).astype(jnp.int32)
    return jnp.argmax(inputs.teacher_probabilities, axis=-1).astype(jnp.int32)


def as_probabilities(labels: Array, inputs: RoundInputs) -> Array:
    """Hard or soft labels as probabilities ``[n, c]``."""
    if labels.ndim == 2:
        return labels
    num_classes = inputs.teacher_probabilities.shape[-1]
    return jax.nn.one_hot(labels, num_classes, dtype=inputs.logits.dtype)


def soft_pseudolabels(inputs: RoundInputs) -> Array:
    """The teacher's probabilities ``[n, c]``."""
    return inputs.teacher_probabilities
