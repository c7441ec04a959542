"""A grid of experiments, and the single configurations it stands for."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from w2s_jax.errors import GridError
from w2s_jax.features.scaling import SCALINGS
from w2s_jax.methods import Method, get_method
from w2s_jax.splits import CLASS_PRIORS
from w2s_jax.sweep.axes import ETA_O, UNLABELLED, as_tuple, check_numbers

SCHEMA_VERSION = 1
OPTIONS = {
    "pseudolabels": ("hard", "soft"),
    "retrain_targets": ("teacher", "student"),
    "retrain_init": ("zero", "warm"),
}
METHOD_HYPERPARAMETERS = ("keep_fraction", "gce_q", "retrain_l2")
CHOICES = {**OPTIONS, "feature_scaling": SCALINGS, "class_prior": CLASS_PRIORS}
# What a number may be, for grids and single configurations alike (see `check_numbers`).
NUMBERS: dict[str, dict[str, Any]] = {
    "eta_l": {"low": 0, "high": 1},
    "eta_u": {"low": 0, "high": 1},
    "n_labelled": {"low": 1, "integer": True},
    "n_unlabelled": {"low": 1, "integer": True},
    "n_validation": {"low": 0, "integer": True},
    "teacher_l2": {"low": 0},
    "student_l2": {"low": 0},
    "keep_fraction": {"low": 0, "high": 1, "open_low": True},
    "gce_q": {"low": 0, "high": 1, "open_low": True},
    "retrain_l2": {"low": 0},
    "seed": {"low": 0, "high": 2**53, "integer": True},
}
WORDS = {"eta_l": (ETA_O,), "eta_u": (ETA_O, UNLABELLED)}


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
        pseudolabels: "hard" or "soft".
        retrain_targets: "teacher" or "student".
        retrain_init: "zero" or "warm".
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
    pseudolabels: str | None = "hard"
    retrain_targets: str | None = None
    retrain_init: str | None = None
    feature_scaling: str = "rms"
    class_prior: str = "equal"

    @classmethod
    def from_row(cls, row: Mapping[str, Any], **changes: Any) -> "Config":
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
            name: check_numbers((getattr(self, name),), name, **axis)[0]
            for name, axis in NUMBERS.items()
            if getattr(self, name) is not None
        }
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                raise GridError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        return dataclasses.replace(self, **checked)._as_read()

    def _as_read(self) -> "Config":
        """`canonical` for values that a grid has checked."""
        method = get_method(self.method)
        options = {
            name: getattr(self, name) if name in method.options else None for name in OPTIONS
        }
        self._refuse_missing([name for name in method.options if options[name] is None])
        read = hyperparameters_of(method, tuple(sorted(self.options().items())))
        values: dict[str, Any] = {
            name: getattr(self, name) if name in read else None for name in METHOD_HYPERPARAMETERS
        }
        if "retrain_l2" in read and values["retrain_l2"] is None:
            values["retrain_l2"] = self.student_l2
        unknown = [name for name in read if name not in NUMBERS]
        if unknown:
            raise GridError(
                f"method {self.method!r} reads {', '.join(unknown)}, which is no axis of a grid; "
                "add it to NUMBERS and METHOD_HYPERPARAMETERS"
            )
        self._refuse_missing([name for name in read if name in values and values[name] is None])
        return dataclasses.replace(self, **options, **values)

    def _refuse_missing(self, names: Sequence[str]) -> None:
        if names:
            raise GridError(f"method {self.method!r} needs {', '.join(names)}; give a value")

    def key(self, fingerprints: Mapping[str, tuple[str, str]]) -> str:
        """Identity of the result row: a hash of the fields the method reads.

        Args:
            fingerprints: of each pair's teacher and student.
        """
        fields = dataclasses.asdict(self)
        fields["pair"] = fingerprints[self.pair]
        fields["schema"] = SCHEMA_VERSION
        given = {name: value for name, value in fields.items() if value is not None}
        text = json.dumps(given, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@functools.lru_cache(maxsize=256)
def hyperparameters_of(method: Method, options: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Hyperparameters that a method's rounds read under given options."""
    read = {n for fit in method.rounds(dict(options)) for n in fit.hyperparameters}
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
        seeds: of the draws.
        methods: names of methods; vanilla is always among them.
        pseudolabels: "hard", "soft".
        retrain_targets: "teacher", "student".
        retrain_init: "zero", "warm".
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
    seeds: Any = (0, 1, 2, 3, 4)
    methods: Any = ("vanilla", "enhanced")
    pseudolabels: Any = ("hard",)
    retrain_targets: Any = ("teacher",)
    retrain_init: Any = ("zero",)
    feature_scaling: Any = ("rms",)
    class_prior: Any = ("equal",)
    eta_o: float | None = None

    def __post_init__(self) -> None:
        """Checks every axis and stores it as a tuple."""
        for name, axis in NUMBERS.items():
            field, words = ("seeds" if name == "seed" else name), WORDS.get(name, ())
            if name in ("retrain_l2", "n_validation"):
                continue
            values = as_tuple(getattr(self, field), field)
            self._set(field, check_numbers(values, field, words=words, **axis))
        retrain = as_tuple(self.retrain_l2, "retrain_l2")
        given = check_numbers(tuple(v for v in retrain if v is not None), "retrain_l2", low=0)
        self._set("retrain_l2", ((None,) if None in retrain else ()) + given)
        size = check_numbers((self.n_validation,), "n_validation", low=0, integer=True)
        object.__setattr__(self, "n_validation", size[0])
        if self.eta_o is not None:
            eta_o = check_numbers((self.eta_o,), "eta_o", low=0, high=1)
            object.__setattr__(self, "eta_o", eta_o[0])
        for name, words in CHOICES.items():
            values = as_tuple(getattr(self, name), name)
            for value in values:
                if value not in words:
                    raise GridError(f"unknown {name} {value!r}; known: {', '.join(words)}")
            self._set(name, values)
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

    def _set(self, name: str, value: tuple[Any, ...]) -> None:
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
        seen = set()
        # Every method is compared with vanilla, whose heads most methods begin with anyway.
        methods = dict.fromkeys(("vanilla", *self.methods))
        common: Any = itertools.product(
            pairs, self.feature_scaling, self.class_prior, self.seeds, self.n_labelled
        )
        for pair, scaling, prior, seed, n_labelled in common:
            elsewhere = getattr(pairs[pair], "teacher_is_elsewhere", False)
            for eta_l, eta_u, n_unlabelled, teacher_l2, student_l2, method in itertools.product(
                self.eta_l,
                self.eta_u,
                self.n_unlabelled,
                self.teacher_l2,
                self.student_l2,
                methods,
            ):
                base = Config(
                    pair=pair,
                    method=method,
                    seed=seed,
                    eta_l=None if elsewhere else self._resolve(eta_l, pairs[pair], pair),
                    eta_u=self._resolve(eta_u, pairs[pair], pair),
                    n_labelled=None if elsewhere else n_labelled,
                    n_unlabelled=n_unlabelled,
                    n_validation=0 if elsewhere else self.n_validation,
                    teacher_l2=None if elsewhere else teacher_l2,
                    student_l2=student_l2,
                    feature_scaling=scaling,
                    class_prior=prior,
                )
                for extra in self._method_axes(get_method(method)):
                    config = dataclasses.replace(base, **extra)._as_read()
                    if config not in seen:
                        seen.add(config)
                        yield config

    def _resolve(self, eta: float | str, pair: Any, name: str) -> float | None:
        """A minority fraction as a number; None for truly unlabelled rows."""
        if eta == UNLABELLED:
            return None
        if eta == ETA_O:
            eta_o = pair.eta_o if self.eta_o is None else self.eta_o
            if eta_o is None:
                raise GridError(f"{name} has no natural minority fraction; give eta_o as a number")
            return float(eta_o)
        return float(eta)

    def _method_axes(self, method: Method) -> list[dict[str, Any]]:
        """Combinations of the axes that a method reads beyond the common ones."""
        out = []
        for values in itertools.product(*(getattr(self, name) for name in method.options)):
            options = dict(zip(method.options, values, strict=True))
            read = hyperparameters_of(method, tuple(sorted(options.items())))
            names = [n for n in METHOD_HYPERPARAMETERS if n in read]
            for combination in itertools.product(*(getattr(self, name) for name in names)):
                out.append({**options, **dict(zip(names, combination, strict=True))})
        return out


def _are_pairs(entries: Sequence[Any]) -> bool:
    return all(isinstance(e, tuple | list) or (isinstance(e, str) and ":" in e) for e in entries)
