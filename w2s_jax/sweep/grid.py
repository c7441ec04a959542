"""A grid of experiments, and the single configurations it stands for."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from w2s_jax.errors import GridError
from w2s_jax.methods import Method, get_method
from w2s_jax.sweep.axes import (
    AXES,
    ETA_O,
    METHOD_NUMBERS,
    METHOD_OPTIONS,
    UNLABELLED,
    as_tuple,
    canonical,
    check_numbers,
)

SCHEMA_VERSION = 1
_GAP = "\0"
# Axes on which the values that a method reads of its own axes may depend.
_DECIDING = tuple({n: None for a in METHOD_NUMBERS for n in (a.defaults_to, a.at_most) if n})


class Place(NamedTuple):
    """Where a configuration is computed: what all that share its features and seed have in common.

    Attributes:
        pair: name of the teacher-student pair.
        feature_scaling: of both sides.
        class_prior: of the draws.
        seed: of the draws.
    """

    pair: str
    feature_scaling: str
    class_prior: str
    seed: int

    def key_values(self, fingerprints: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
        """What keys hash of it, in the order of `Config.key_pieces`."""
        values = {**self._asdict(), "pair": fingerprints[self.pair]}
        return tuple(json.dumps(values[name]) for name in sorted(values))


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """One configuration; fields that its method does not read are None (see `canonical`).

    Attributes:
        pair: name of the teacher-student pair, "teacher:student".
        method: "vanilla", "enhanced", ...
        seed: of the draw.
        eta_l: minority fraction of labelled rows; None with a teacher from elsewhere.
        eta_u: minority fraction of unlabelled rows; None for truly unlabelled rows.
        n_labelled: labelled rows; None with a teacher from elsewhere.
        n_unlabelled: unlabelled rows.
        n_validation: further labelled rows on which heads are scored, for choosing among them.
        teacher_l2: penalty of the teacher; None with a teacher from elsewhere.
        student_l2: penalty of the student and of its ceiling.
        keep_fraction: share of most confident rows kept for retraining.
        gce_q: exponent of the retraining's loss.
        retrain_l2: penalty of the retraining; None in a grid means student_l2.
        num_steps: steps of a training.
        learning_rate: of the training.
        batch_size: rows of a minibatch, at most n_unlabelled; 0 for all rows.
        patience: evaluations without improvement after which training stops; 0 for never.
        confidence_weight: final weight of the student's own hard labels.
        warmup_fraction: share of the steps in which the weight of own labels rises.
        confidence_temperature: of the adaptive weight of own labels.
        smoothing: share of the uniform distribution in pseudolabels.
        bootstrap_weight: weight of own beliefs in bootstrapping.
        entropy_weight: of the entropy in the loss.
        anchor_quantile: of a class's probability at which its label noise is read off.
        identity_weight: share of the identity in the noise matrix.
        sinkhorn_steps: scalings of pseudolabels to their class prior.
        upweight: weight of rows on which student and teacher disagree.
        group_step: step size of group weights in group DRO.
        pseudolabels: "hard" or "soft".
        retrain_targets: "teacher" or "student".
        retrain_init: "zero" or "warm".
        optimizer: "adam", "sgd" or "momentum".
        sinkhorn_prior: "uniform" or "pseudolabels".
        feature_scaling: "rms", "none" or "standardize".
        class_prior: "equal" or "pool".
    """

    pair: str
    method: str
    seed: int
    eta_l: float | None
    eta_u: float | None
    n_labelled: int | None
    n_unlabelled: int
    n_validation: int
    teacher_l2: float | None
    student_l2: float
    keep_fraction: float | None = None
    gce_q: float | None = None
    retrain_l2: float | None = None
    num_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    patience: int | None = None
    confidence_weight: float | None = None
    warmup_fraction: float | None = None
    confidence_temperature: float | None = None
    smoothing: float | None = None
    bootstrap_weight: float | None = None
    entropy_weight: float | None = None
    anchor_quantile: float | None = None
    identity_weight: float | None = None
    sinkhorn_steps: int | None = None
    upweight: float | None = None
    group_step: float | None = None
    pseudolabels: str | None = "hard"
    retrain_targets: str | None = None
    retrain_init: str | None = None
    optimizer: str | None = None
    sinkhorn_prior: str | None = None
    feature_scaling: str = "rms"
    class_prior: str = "equal"

    @classmethod
    def from_row(cls, row: Mapping[str, Any] | pd.Series, **changes: Any) -> "Config":
        """The configuration of a result row, with some fields changed.

        Args:
            row: a row of the data frame, or any mapping of its columns; NaN stands for None.
            **changes: fields to replace, such as ``method="enhanced", gce_q=0.7``.
        """
        kinds = {f.name: f.type for f in dataclasses.fields(cls)}
        fields: dict[str, Any] = {}
        for name, kind in kinds.items():
            value = changes[name] if name in changes else row.get(name)
            if value is None or value != value:
                fields[name] = None
            elif "int" in str(kind):
                fields[name] = int(value)
            else:
                fields[name] = float(value) if "float" in str(kind) else str(value)
        return cls(**fields)

    def options(self) -> dict[str, str]:
        """Values of the options that the method reads."""
        return {name: getattr(self, name) for name in get_method(self.method).options}

    def canonical(self) -> "Config":
        """Drops what the method does not read, and fills in defaults that depend on other fields.

        Raises:
            GridError: where a value is out of range, or the method reads one that is not given.
        """
        checked = {
            axis.name: axis.check((getattr(self, axis.name),), axis.name, resolved=True)[0]
            for axis in AXES
            if getattr(self, axis.name) is not None
        }
        return dataclasses.replace(self, **checked)._as_read()

    def _as_read(self) -> "Config":
        """`canonical` for values that a grid has checked."""
        method = get_method(self.method)
        _refuse_unknown(method.name, method.options, {axis.name for axis in METHOD_OPTIONS})
        kept: dict[str, Any] = {name: getattr(self, name) for name in method.options}
        self._refuse_missing(kept)
        read = hyperparameters_of(method, tuple(sorted(kept.items())))
        _refuse_unknown(method.name, read, {axis.name for axis in AXES if axis.choices is None})
        for axis in METHOD_NUMBERS:
            if axis.name in read:
                value = getattr(self, axis.name)
                if value is None and axis.defaults_to is not None:
                    value = getattr(self, axis.defaults_to)
                kept[axis.name] = value
        self._refuse_missing(kept)
        for axis in METHOD_NUMBERS:
            limit = None if axis.at_most is None else getattr(self, axis.at_most)
            if limit is not None and kept.get(axis.name, 0) > limit:
                raise GridError(
                    f"{axis.name} must be at most {axis.at_most}, found {kept[axis.name]} with "
                    f"{axis.at_most} {limit}; give smaller values"
                )
        others = {axis.name: None for axis in (*METHOD_OPTIONS, *METHOD_NUMBERS)}
        return dataclasses.replace(self, **{**others, **kept})

    def _refuse_missing(self, values: Mapping[str, Any]) -> None:
        names = [name for name, value in values.items() if value is None]
        if names:
            raise GridError(f"method {self.method!r} needs {', '.join(names)}; give a value")

    def key(self, fingerprints: Mapping[str, tuple[str, str]]) -> str:
        """Identity of the result row: a hash of the fields the method reads.

        Args:
            fingerprints: of each pair's teacher and student.
        """
        return hash_key(self.key_pieces(), self.place.key_values(fingerprints))

    @property
    def place(self) -> Place:
        """What it has in common with all that share its features and seed."""
        return Place(self.pair, self.feature_scaling, self.class_prior, self.seed)

    def key_pieces(self) -> tuple[str, ...]:
        """What the key hashes before, between and after the texts of `Place.key_values`."""
        fields = {name: getattr(self, name) for name in _names()}
        fields |= dict.fromkeys(Place._fields, _GAP)
        fields["schema"] = SCHEMA_VERSION
        given = {name: value for name, value in fields.items() if value is not None}
        return tuple(json.dumps(given, sort_keys=True).split(json.dumps(_GAP)))


def hash_key(pieces: tuple[str, ...], values: tuple[str, ...]) -> str:
    """The key of a configuration from both its parts: a hash of one JSON text."""
    (start, *others) = pieces
    text = start + "".join(map("".join, zip(values, others, strict=True)))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@functools.cache
def _names() -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(Config))


def _refuse_unknown(method: str, names: Sequence[str], known: set[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GridError(
            f"method {method!r} reads {', '.join(unknown)}, which is no axis of a grid; add it to "
            "AXES in w2s_jax/sweep/axes.py, and as a field to Config and Grid"
        )


@functools.lru_cache(maxsize=256)
def hyperparameters_of(method: Method, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Hyperparameters that a method's rounds read under given options."""
    read = {n for fit in method.checked_rounds(dict(options)) for n in fit.hyperparameters}
    return tuple(sorted(read))


@dataclasses.dataclass(frozen=True)
class Grid:
    """All combinations of its axes; each axis takes one value or several.

    ``retrain_l2=None`` retrains with the student's own penalty. No default is the published
    paper's, which does not state these values.

    Attributes:
        pairs: teacher and student, as "teacher:student" or a tuple of two; each side a shipped
            name, a path, a `FeatureSet`, or (teachers only) `Predictions`.
        eta_l: minority fractions of the labelled set, numbers in [0, 1] or "eta_o".
        eta_u: minority fractions of the unlabelled set, in [0, 1], "eta_o", or "unlabelled" for
            rows that have no label at all.
        n_labelled: sizes of the labelled set.
        n_unlabelled: sizes of the unlabelled set.
        n_validation: size of the labelled validation set, at eta_l.
        teacher_l2: penalties of the teacher.
        student_l2: penalties of the student and its ceiling.
        keep_fraction: shares of most confident rows kept, in (0, 1].
        gce_q: exponents of generalized cross entropy, in (0, 1].
        retrain_l2: penalties of the retraining.
        num_steps: numbers of training steps, for methods that train step by step.
        learning_rate: learning rates, > 0.
        batch_size: rows of a minibatch, at most n_unlabelled; 0 for all rows.
        patience: evaluations on held-out pseudolabels without improvement after which training
            stops; 0 for no early stopping.
        confidence_weight: final weights of the student's own hard labels, in [0, 1].
        warmup_fraction: shares of the steps in which the weight of own labels rises, in [0, 1].
        confidence_temperature: temperatures of the adaptive weight of own labels, > 0.
        smoothing: shares of the uniform distribution in pseudolabels, in [0, 1].
        bootstrap_weight: weights of own beliefs in bootstrapping, in [0, 1].
        entropy_weight: weights of the entropy in the loss, >= 0.
        anchor_quantile: quantiles of a class's probability at which its label noise is read off, in
            (0, 1].
        identity_weight: shares of the identity in the noise matrix, in [0, 1].
        sinkhorn_steps: scalings of pseudolabels to their class prior.
        upweight: weights of rows on which student and teacher disagree, > 0.
        group_step: step sizes of group weights in group DRO, >= 0.
        seeds: of the draws.
        methods: names of methods; vanilla is always among them.
        pseudolabels: "hard", "soft".
        retrain_targets: "teacher", "student".
        retrain_init: "zero", "warm".
        optimizer: "adam", "sgd", "momentum" (0.9).
        sinkhorn_prior: "uniform", "pseudolabels".
        feature_scaling: "rms", "none", "standardize".
        class_prior: "equal" or "pool".
        eta_o: what "eta_o" stands for; default each benchmark's own fraction.

    Raises:
        GridError: for a value out of range or an unknown word, before anything is computed.

    >>> grid = Grid(pairs="a:b", eta_u=(0.1, 0.5), seeds=range(3))
    >>> len(list(grid.configs({"a:b": None})))
    24
    """

    pairs: Any
    eta_l: Any = (0.1, 0.5)
    eta_u: Any = (0.1, 0.2, 0.3, 0.4, 0.5)
    n_labelled: Any = (200,)
    n_unlabelled: Any = (2000,)
    n_validation: int = 0
    teacher_l2: Any = (0.01,)
    student_l2: Any = (0.1,)
    keep_fraction: Any = (0.5,)
    gce_q: Any = (0.7,)
    retrain_l2: Any = (None,)
    num_steps: Any = (500,)
    learning_rate: Any = (0.01,)
    batch_size: Any = (0,)
    patience: Any = (0,)
    confidence_weight: Any = (0.5,)
    warmup_fraction: Any = (0.2,)
    confidence_temperature: Any = (1.0,)
    smoothing: Any = (0.1,)
    bootstrap_weight: Any = (0.2,)
    entropy_weight: Any = (0.1,)
    anchor_quantile: Any = (0.97,)
    identity_weight: Any = (0.0,)
    sinkhorn_steps: Any = (20,)
    upweight: Any = (5.0,)
    group_step: Any = (0.01,)
    seeds: Any = (0, 1, 2, 3, 4)
    methods: Any = ("vanilla", "enhanced")
    pseudolabels: Any = ("hard",)
    retrain_targets: Any = ("teacher",)
    retrain_init: Any = ("zero",)
    optimizer: Any = ("adam",)
    sinkhorn_prior: Any = ("uniform",)
    feature_scaling: Any = ("rms",)
    class_prior: Any = ("equal",)
    eta_o: float | None = None

    def __post_init__(self) -> None:
        """Checks every axis and stores it as a tuple."""
        for axis in AXES:
            values = getattr(self, axis.field)
            if axis.single:
                self._set(axis.field, axis.check((values,), axis.field)[0])
                continue
            values = as_tuple(values, axis.field)
            given = values
            if axis.defaults_to is not None:
                given = tuple(value for value in values if value is not None)
            implied = (None,) if len(given) < len(values) else ()
            self._set(axis.field, implied + axis.check(given, axis.field))
        if self.eta_o is not None:
            self._set("eta_o", check_numbers((self.eta_o,), "eta_o", low=0, high=1)[0])
        self._set("methods", as_tuple(self.methods, "methods"))
        for method in self.methods:
            get_method(method)
        pairs = self.pairs
        if isinstance(pairs, str) or (
            isinstance(pairs, tuple | list) and len(pairs) == 2 and not _are_pairs(pairs)
        ):
            pairs = (pairs,)
        if not isinstance(pairs, tuple | list):
            raise GridError(
                f"pairs must be 'teacher:student' or (teacher, student), found {pairs!r}"
            )
        self._set("pairs", tuple(pairs))
        if not self.pairs:
            raise GridError("pairs has no values; give at least one teacher and student")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def configs(self, pairs: Mapping[str, Any]) -> Iterator[Config]:
        """Distinct canonical configurations.

        Args:
            pairs: the grid's pairs by name (see `w2s_jax.sweep.planning.resolve_pairs`); a
                pair's ``eta_o`` stands in for the word, and one whose teacher comes from
                elsewhere has no labelled axes.

        Raises:
            GridError: where "eta_o" is asked of a pair that has none.
        """
        read: dict[Any, list[dict[str, Any]]] = {}
        for place in self.places(pairs):
            yield from self.configs_at(place, pairs[place.pair], read)

    def places(self, pairs: Iterable[str]) -> Iterator[Place]:
        """Names of pairs with every feature scaling, class prior and seed."""
        axes = pairs, self.feature_scaling, self.class_prior, self.seeds
        return itertools.starmap(Place, itertools.product(*axes))

    def configs_at(
        self,
        place: Place,
        pair: Any,
        read: dict[Any, list[dict[str, Any]]] | None = None,
    ) -> Iterator[Config]:
        """Those of `configs` at one place.

        Args:
            place: one of `places`.
            pair: of its name.
            read: what methods make of their axes, to be filled and used again.
        """
        read = {} if read is None else read
        elsewhere, all_eta_l, all_eta_u = self.alike(place.pair, pair)
        # Every method is compared with vanilla, whose heads most methods begin with anyway.
        methods = tuple(dict.fromkeys(("vanilla", *self.methods)))
        axes: dict[str, Sequence[Any]] = {
            "n_labelled": (None,) if elsewhere else self.n_labelled,
            "eta_l": all_eta_l,
            "eta_u": all_eta_u,
            "n_unlabelled": self.n_unlabelled,
            "teacher_l2": (None,) if elsewhere else self.teacher_l2,
            "student_l2": self.student_l2,
            "method": methods,
        }
        common = {**place._asdict(), "n_validation": 0 if elsewhere else self.n_validation}
        for values in itertools.product(*axes.values()):
            base = {**common, **dict(zip(axes, values, strict=True))}
            # What a method makes of its axes depends on these others alone.
            decides = tuple(base[name] for name in ("method", *_DECIDING))
            if decides not in read:
                read[decides] = self._as_method_reads(base)
            for extra in read[decides]:
                yield Config(**base, **extra)

    def alike(self, name: str, pair: Any) -> tuple[bool, tuple[Any, ...], tuple[Any, ...]]:
        """What of a pair decides its configurations beside its name: equal for pairs alike.

        Returns:
            Whether its teacher comes from elsewhere, and the distinct minority fractions of the
            labelled and of the unlabelled rows.

        Raises:
            GridError: where "eta_o" is asked of a pair that has none.
        """
        elsewhere = getattr(pair, "teacher_is_elsewhere", False)
        all_eta_l = (None,) if elsewhere else (self._resolve(e, pair, name) for e in self.eta_l)
        all_eta_u = (self._resolve(eta, pair, name) for eta in self.eta_u)
        return elsewhere, tuple(dict.fromkeys(all_eta_l)), tuple(dict.fromkeys(all_eta_u))

    def _as_method_reads(self, base: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The distinct canonical values of the axes that belong to methods, for one method."""
        configs = {
            Config(**base, **extra)._as_read(): None
            for extra in self._method_axes(get_method(base["method"]))
        }
        names = [axis.name for axis in (*METHOD_OPTIONS, *METHOD_NUMBERS)]
        return [{name: getattr(config, name) for name in names} for config in configs]

    def _resolve(self, eta: float | str, pair: Any, name: str) -> float | None:
        """A minority fraction as a number; None for truly unlabelled rows."""
        if eta == UNLABELLED:
            return None
        if eta == ETA_O:
            eta_o = pair.eta_o if self.eta_o is None else self.eta_o
            if eta_o is None:
                raise GridError(f"{name} has no natural minority fraction; give eta_o as a number")
            # Canonical, as every number of the axes: vanilla_key relies on it.
            return canonical(float(eta_o))
        return float(eta)

    def _method_axes(self, method: Method) -> list[dict[str, Any]]:
        """Combinations of the axes that a method reads beyond the common ones."""
        _refuse_unknown(method.name, method.options, {axis.name for axis in METHOD_OPTIONS})
        out = []
        for values in itertools.product(*(getattr(self, name) for name in method.options)):
            options = dict(zip(method.options, values, strict=True))
            read = hyperparameters_of(method, tuple(sorted(options.items())))
            names = [axis.name for axis in METHOD_NUMBERS if axis.name in read]
            for combination in itertools.product(*(getattr(self, name) for name in names)):
                out.append({**options, **dict(zip(names, combination, strict=True))})
        return out


def _are_pairs(entries: Sequence[Any]) -> bool:
    return all(isinstance(e, tuple | list) or (isinstance(e, str) and ":" in e) for e in entries)
