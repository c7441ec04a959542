"""The axes of a grid: one table of what each may be, and how values are written and checked."""

import dataclasses
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np

from w2s_jax.errors import GridError
from w2s_jax.features.scaling import SCALINGS
from w2s_jax.methods.sinkhorn import PRIORS
from w2s_jax.methods.trained import OPTIMIZERS
from w2s_jax.splits import CLASS_PRIORS

ETA_O = "eta_o"  # the benchmark's own minority fraction
UNLABELLED = "unlabelled"  # eta_u of truly unlabelled rows


@dataclasses.dataclass(frozen=True)
class Axis:
    """A setting of a configuration: what its values may be, and whose they are.

    Attributes:
        name: field of `Config` and column of result rows.
        help: what it is, in a few words.
        choices: known words; None for numbers, which the following describe.
        low: smallest number.
        high: largest number.
        open_low: whether `low` itself is excluded.
        integer: whether numbers are whole.
        words: words that stand for numbers.
        of_methods: whether it belongs to methods that read it and to no other configuration.
        defaults_to: the axis whose value stands in where none is given.
        at_most: the axis whose value it may not exceed.
        plural: field of `Grid` and flag where it is not `name`.
        single: whether a grid takes one value only.
    """

    name: str
    help: str
    _: dataclasses.KW_ONLY
    choices: tuple[str, ...] | None = None
    low: float = 0
    high: float = float("inf")
    open_low: bool = False
    integer: bool = False
    words: tuple[str, ...] = ()
    of_methods: bool = False
    defaults_to: str | None = None
    at_most: str | None = None
    plural: str | None = None
    single: bool = False

    @property
    def field(self) -> str:
        """Name in a grid and as a flag."""
        return self.plural or self.name

    def check(
        self, values: tuple[Any, ...], name: str, *, resolved: bool = False
    ) -> tuple[Any, ...]:
        """The values in canonical form, duplicates dropped.

        Args:
            values: of this axis.
            name: of the axis, as the user wrote it.
            resolved: whether words must have given way to numbers.

        Raises:
            GridError: naming the axis, the value found and what is allowed.
        """
        if self.choices is not None:
            for value in values:
                if value not in self.choices:
                    known = ", ".join(self.choices)
                    raise GridError(f"unknown {name} {value!r}; known: {known}")
            return values
        return check_numbers(
            values,
            name,
            low=self.low,
            high=self.high,
            open_low=self.open_low,
            integer=self.integer,
            words=() if resolved else self.words,
        )


# Another setting is an entry here and a field in `Config` and in `Grid`. Checks, keys, columns of
# result rows and flags follow. The order is that of the columns.
AXES = (
    Axis("seed", "seeds of the draws", high=2**53, integer=True, plural="seeds"),
    Axis("eta_l", "minority fractions of the labelled set", high=1, words=(ETA_O,)),
    Axis("eta_u", "minority fractions of the unlabelled set", high=1, words=(ETA_O, UNLABELLED)),
    Axis("n_labelled", "sizes of the labelled set", low=1, integer=True),
    Axis("n_unlabelled", "sizes of the unlabelled set", low=1, integer=True),
    Axis("n_validation", "size of the labelled validation set", integer=True, single=True),
    Axis("teacher_l2", "penalties of the teacher"),
    Axis("student_l2", "penalties of the student and its ceiling"),
    Axis(
        "keep_fraction",
        "shares of most confident rows kept for retraining",
        high=1,
        open_low=True,
        of_methods=True,
    ),
    Axis("gce_q", "exponents of generalized cross entropy", high=1, open_low=True, of_methods=True),
    Axis("retrain_l2", "penalties of the retraining", of_methods=True, defaults_to="student_l2"),
    Axis(
        "num_steps",
        "steps of training",
        low=1,
        high=10**9,
        integer=True,
        of_methods=True,
    ),
    Axis("learning_rate", "learning rates of training", open_low=True, of_methods=True),
    Axis(
        "batch_size",
        "rows of a minibatch, 0 for all rows",
        integer=True,
        of_methods=True,
        at_most="n_unlabelled",
    ),
    Axis(
        "patience",
        "evaluations on held-out pseudolabels without improvement before training stops, "
        "0 for no early stopping",
        high=10**9,
        integer=True,
        of_methods=True,
    ),
    Axis(
        "confidence_weight",
        "final weights of the student's own hard labels",
        high=1,
        of_methods=True,
    ),
    Axis(
        "warmup_fraction",
        "shares of the steps in which the weight of own labels rises",
        high=1,
        of_methods=True,
    ),
    Axis(
        "confidence_temperature",
        "temperatures of the adaptive weight of own labels",
        open_low=True,
        of_methods=True,
    ),
    Axis(
        "smoothing", "shares of the uniform distribution in pseudolabels", high=1, of_methods=True
    ),
    Axis("bootstrap_weight", "weights of own beliefs in bootstrapping", high=1, of_methods=True),
    Axis("entropy_weight", "weights of the entropy in the loss", of_methods=True),
    Axis(
        "anchor_quantile",
        "quantiles of probability at which noise is read off",
        high=1,
        open_low=True,
        of_methods=True,
    ),
    Axis("identity_weight", "shares of the identity in the noise matrix", high=1, of_methods=True),
    Axis(
        "sinkhorn_steps",
        "scalings of pseudolabels to their class prior",
        high=10**6,
        integer=True,
        of_methods=True,
    ),
    Axis("upweight", "weights of rows of disagreement", open_low=True, of_methods=True),
    Axis("group_step", "step sizes of group weights in group DRO", of_methods=True),
    Axis("pseudolabels", "pseudolabels", choices=("hard", "soft"), of_methods=True),
    Axis(
        "retrain_targets",
        "whose labels to retrain on",
        choices=("teacher", "student"),
        of_methods=True,
    ),
    Axis("retrain_init", "start of the retraining", choices=("zero", "warm"), of_methods=True),
    Axis("optimizer", "optimizer of training", choices=tuple(OPTIMIZERS), of_methods=True),
    Axis(
        "sinkhorn_prior",
        "class shares that pseudolabels are scaled to",
        choices=tuple(PRIORS),
        of_methods=True,
    ),
    Axis("feature_scaling", "scaling of the features", choices=SCALINGS),
    Axis("class_prior", "class prior of the draws", choices=CLASS_PRIORS),
)
METHOD_OPTIONS = tuple(a for a in AXES if a.of_methods and a.choices is not None)
METHOD_NUMBERS = tuple(a for a in AXES if a.of_methods and a.choices is None)


def canonical(value: float) -> float:
    """The float that 12 significant decimals stand for, so that equal settings have equal keys.

    >>> canonical(0.1 + 0.2)
    0.3
    """
    return float(f"{value:.12g}")


def parse_axis(text: str, name: str) -> tuple[float | str, ...]:
    """Numbers from a comma list whose entries may be ranges.

    ``start:stop:num`` gives num evenly spaced values, both ends included;
    ``start:stop:num:log`` spaces them by equal factors. The words eta_o and unlabelled pass
    through.

    Args:
        text: as a flag has it, such as ``0.1,0.2:0.5:4``.
        name: of the flag, for errors.

    Raises:
        GridError: where an entry is no number, range or known word.

    >>> parse_axis("0:0.5:3,eta_o", "eta_u")
    (0.0, 0.25, 0.5, 'eta_o')
    >>> parse_axis("0.001:1:4:log", "teacher_l2")
    (0.001, 0.01, 0.1, 1.0)
    """
    values: list[float | str] = []
    for entry in text.split(","):
        entry = entry.strip()
        if entry in (ETA_O, UNLABELLED):
            values.append(entry)
            continue
        parts = entry.split(":")
        try:
            if len(parts) == 1:
                values.append(canonical(float(Decimal(entry))))
                continue
            start, stop = Decimal(parts[0]), Decimal(parts[1])
            num = int(parts[2])
            log = parts[3:] == ["log"]
            if num < 2 or (parts[3:] and not log) or (log and (start <= 0 or stop <= 0)):
                raise ValueError
        except (InvalidOperation, ValueError, IndexError):
            raise GridError(
                f"--{name}: cannot read {entry!r}; give numbers such as 0.1,0.5, or ranges "
                "start:stop:num or start:stop:num:log (both ends included, and positive with log; "
                "ten seeds are 0:9:10)"
            ) from None
        if log:
            spaced = np.geomspace(float(start), float(stop), num)
            values.extend(canonical(v) for v in spaced)
        else:
            values.extend(
                canonical(float(start + (stop - start) * i / (num - 1))) for i in range(num)
            )
    return tuple(values)


def as_tuple(values: Any, name: str) -> tuple[Any, ...]:
    """An axis as a tuple: a scalar or string stands for itself, duplicates are dropped."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        values = (values,)
    try:
        unique = tuple(dict.fromkeys(values))
    except TypeError:
        raise GridError(f"{name} must be one value or a flat list, found {values!r:.60}") from None
    if not unique:
        raise GridError(f"{name} has no values; give at least one")
    return unique


def check_numbers(
    values: tuple[Any, ...],
    name: str,
    *,
    low: float,
    high: float = float("inf"),
    open_low: bool = False,
    integer: bool = False,
    words: tuple[str, ...] = (),
) -> tuple[Any, ...]:
    """Canonical numbers within a range; words that the axis knows pass through.

    Raises:
        GridError: naming the axis, the value found and the range.
    """
    out: list[Any] = []
    for value in values:
        if value in words:
            out.append(value)
            continue
        number = isinstance(value, int | float | np.integer | np.floating)
        if number and not isinstance(value, bool):
            whole = not integer or float(value).is_integer()
            above = value > low if open_low else value >= low
            if whole and above and value <= high and np.isfinite(value):
                out.append(int(value) if integer else canonical(float(value)))
                continue
        kind = "a whole number" if integer else "a number"
        left = "(" if open_low else "["
        right = "inf)" if high == float("inf") else f"{high:.0f}]" if integer else f"{high:g}]"
        known = f", or {' or '.join(words)}" if words else ""
        found = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else repr(value)
        raise GridError(f"{name} must be {kind} in {left}{low:g}, {right}{known}; found {found}")
    return tuple(dict.fromkeys(out))
