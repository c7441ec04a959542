"""Result rows: one per configuration and method, assembled from the heads of a chunk."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from w2s_jax.heads import Prepared
from w2s_jax.heads.status import STATUS_NAMES
from w2s_jax.metrics import AVERAGES, GroupedTest, pgr
from w2s_jax.pipeline import Heads
from w2s_jax.sweep.axes import AXES, Axis
from w2s_jax.sweep.grid import SCHEMA_VERSION, Config
from w2s_jax.sweep.planning import Pair
from w2s_jax.sweep.scoring import predict
from w2s_jax.version import __version__

HEAD_COLUMNS = ("status", "iterations", "gradient_norm", "objective", "gap")
CALIBRATION_COLUMNS = ("negative_log_likelihood", "calibration_error")
# What a configuration's vanilla one reads, but for its method.
_SHARED = (*(axis.name for axis in AXES if not axis.of_methods), "pseudolabels")
KEPT_COLUMNS = (
    "kept_count",
    "kept_minority_fraction",
    "kept_pseudolabel_accuracy",
    "kept_pseudolabel_accuracy_majority",
    "kept_pseudolabel_accuracy_minority",
)


class Scores(NamedTuple):
    """How a table of heads did.

    Attributes:
        classes: predicted on each test row, in the order of `GroupedTest.rows` ``[h, n]``.
        correct: whether that is right ``[h, n]``.
        validation: classes predicted on the union of validation sets ``[h, v]``.
        validation_correct: whether that is right ``[h, v]``.
        unlabelled: classes predicted on the chunk's unlabelled rows; none where nobody asked
            ``[h, u]``.
        calibration: on the test rows, by name ``[h]`` each; empty for a teacher from elsewhere.
        heads: the fits; None for a teacher from elsewhere.
    """

    classes: Int[np.ndarray, "h n"]
    correct: Bool[np.ndarray, "h n"]
    validation: Int[np.ndarray, "h v"]
    validation_correct: Bool[np.ndarray, "h v"]
    unlabelled: Int[np.ndarray, "h u"]
    calibration: Mapping[str, Float[np.ndarray, " h"]]
    heads: Heads | None

    @staticmethod
    def of_classes(
        classes: Int[np.ndarray, "h _"],
        labels: Int[np.ndarray, " all"],
        test: GroupedTest,
        validation: Int[np.ndarray, " v"],
        calibration: Mapping[str, Float[np.ndarray, " h"]],
        heads: Heads | None,
    ) -> "Scores":
        """From the classes predicted on test, validation and unlabelled rows, in this order."""
        on_test, on_validation, unlabelled = np.split(
            classes, [len(test.rows), len(test.rows) + len(validation)], axis=1
        )
        return Scores(
            on_test,
            on_test == labels[test.rows],
            on_validation,
            on_validation == labels[validation],
            unlabelled,
            calibration,
            heads,
        )

    @staticmethod
    def of_heads(
        prepared: Prepared,
        heads: Heads,
        labels: Int[np.ndarray, " all"],
        test: GroupedTest,
        validation: Int[np.ndarray, " v"],
        unlabelled: Int[np.ndarray, " u"],
        memory_budget: int | None = None,
    ) -> "Scores":
        """Scores of heads by their predictions on test, validation and unlabelled rows.

        Args:
            prepared: features of all rows.
            heads: in these coordinates.
            labels: class of every row, -1 where it is unknown.
            test: the grouped test rows.
            validation: union of the validation sets.
            unlabelled: further rows to predict.
            memory_budget: bytes that the logits of one batch may take.
        """
        rows = np.concatenate([test.rows, validation, unlabelled])
        found = predict(prepared, heads, rows, labels, len(test.rows), memory_budget)
        calibration = {name: getattr(found, name) for name in CALIBRATION_COLUMNS}
        return Scores.of_classes(found.classes, labels, test, validation, calibration, heads)

    def columns(
        self,
        model: str,
        index: Int[np.ndarray, " m"],
        test: GroupedTest,
        validation_rows: Sequence[slice],
    ) -> dict[str, Any]:
        """Columns of one model, for rows whose heads are `index`."""
        by_group = test.group_accuracies(self.correct)
        out: dict[str, Any] = {
            f"{model}_{name}": values[index] for name, values in test.averages(by_group).items()
        }
        for g in range(len(test.counts)):
            out[f"{model}_group_{g}_accuracy"] = by_group[index, g]
        out[f"{model}_validation_accuracy"] = _on_validation(
            self.validation_correct[index], validation_rows
        )
        for name in CALIBRATION_COLUMNS:
            known = self.calibration.get(name)
            out[f"{model}_{name}"] = np.nan if known is None else known[index]
        packed = [row.tobytes() for row in np.packbits(self.correct, axis=1)]
        out[f"{model}_correct"] = [packed[head] for head in index]
        if self.heads is not None:
            names = np.array([STATUS_NAMES[code] for code in self.heads.status], dtype=object)
            out[f"{model}_status"] = names[index]
            for name in HEAD_COLUMNS[1:]:
                out[f"{model}_{name}"] = getattr(self.heads, name)[index]
        return out


def _on_validation(right: Bool[np.ndarray, "m v"], sets: Sequence[slice]) -> list[float]:
    """The share of each row's own validation set that is right; NaN where it has none."""
    return [
        float(row[own].mean()) if own.stop > own.start else np.nan
        for row, own in zip(right, sets, strict=True)
    ]


def agreement_columns(
    students: Scores,
    student: Int[np.ndarray, " m"],
    teachers: Scores,
    teacher: Int[np.ndarray, " m"],
    pseudolabels: Int[np.ndarray, "m u"],
    test: GroupedTest,
    validation_rows: Sequence[slice],
) -> dict[str, Any]:
    """How often student and teacher predict the same class; nothing here reads a label.

    Args:
        students: scores that `student` indexes.
        student: head of each row.
        teachers: scores that `teacher` indexes.
        teacher: teacher of each row.
        pseudolabels: classes that each row's teacher predicts on the unlabelled rows.
        test: the grouped test rows.
        validation_rows: where each row's validation set lies.
    """
    same = students.classes[student] == teachers.classes[teacher]
    on_validation = students.validation[student] == teachers.validation[teacher]
    by_group = test.group_accuracies(same)
    return {
        "agreement_test": same.mean(axis=1),
        **{f"agreement_test_group_{g}": by_group[:, g] for g in range(len(test.counts))},
        "agreement_validation": _on_validation(on_validation, validation_rows),
        "agreement_unlabelled": (students.unlabelled[student] == pseudolabels).mean(axis=1),
    }


def missing_columns(model: str, num_rows: int, test: GroupedTest) -> dict[str, Any]:
    """Columns of a model that does not exist, such as the ceiling of unlabelled rows."""
    nan = np.full(num_rows, np.nan)
    out: dict[str, Any] = {f"{model}_{name}": nan for name in AVERAGES}
    out |= {f"{model}_group_{g}_accuracy": nan for g in range(len(test.counts))}
    out |= {f"{model}_{name}": nan for name in ("validation_accuracy", *CALIBRATION_COLUMNS)}
    return out | {f"{model}_correct": None}


def kept_columns(
    kept: Bool[np.ndarray, "h n"],
    index: Int[np.ndarray, " m"],
    pseudolabel_is_right: Bool[np.ndarray, "m n"] | None,
    minority: Bool[np.ndarray, " n"] | None,
) -> dict[str, Any]:
    """Composition of the rows that the last round trained on, and how right the teacher is there.

    Args:
        kept: rows kept by each distinct head.
        index: head of each row.
        pseudolabel_is_right: for each row of the result; None for truly unlabelled rows.
        minority: of the unlabelled rows; None likewise.
    """
    mask = kept[index]
    out: dict[str, Any] = {name: np.full(len(index), np.nan) for name in KEPT_COLUMNS}
    out["kept_count"] = mask.sum(axis=1)
    if pseudolabel_is_right is None or minority is None:
        return out

    def share(of: np.ndarray, among: np.ndarray) -> np.ndarray:
        total = among.sum(axis=1)
        return np.where(total > 0, (of & among).sum(axis=1) / np.maximum(total, 1), np.nan)

    out["kept_minority_fraction"] = share(np.broadcast_to(minority, mask.shape), mask)
    out["kept_pseudolabel_accuracy"] = share(pseudolabel_is_right, mask)
    out["kept_pseudolabel_accuracy_majority"] = share(pseudolabel_is_right, mask & ~minority)
    out["kept_pseudolabel_accuracy_minority"] = share(pseudolabel_is_right, mask & minority)
    return out


def describe_groups(test: GroupedTest) -> str:
    """The ``groups`` column: every group's name, label, weights and counts, as JSON."""
    groups = [
        {
            "name": name,
            "label": int(label),
            "minority": bool(minority),
            "test_count": int(count),
            "prior": float(test.prior[label]),
            "train_share": float(share),
        }
        for name, label, minority, count, share in zip(
            test.names, test.labels, test.minority, test.counts, test.train_share, strict=True
        )
    ]
    return json.dumps(groups)


class Part(NamedTuple):
    """Rows of one request of a chunk.

    Attributes:
        configs: one a row.
        columns: metrics, one value a row each, or one for all rows.
    """

    configs: Sequence[Config]
    columns: Mapping[str, Any]


def assemble(parts: Sequence[Part], pair: Pair, test: GroupedTest, precision: str) -> pd.DataFrame:
    """Result rows of a chunk, identity and axes first; they are keyed and typed all at once.

    Args:
        parts: part after part, all with the same columns.
        pair: of all configurations.
        test: the grouped test rows.
        precision: type of the heads.
    """
    configs = [config for part in parts for config in part.configs]
    fingerprints = {pair.name: pair.fingerprints}
    vanilla_keys: dict[tuple[Any, ...], str] = {}
    for config in configs:
        if (shared := _shared_with_vanilla(config)) not in vanilla_keys:
            vanilla_keys[shared] = vanilla_of(config).key(fingerprints)
    identity = {
        "key": [c.key(fingerprints) for c in configs],
        "vanilla_key": [vanilla_keys[_shared_with_vanilla(c)] for c in configs],
        "schema_version": SCHEMA_VERSION,
        "method": [c.method for c in configs],
        "pair": pair.name,
        "teacher": pair.data.teacher.name,
        "student": pair.data.student.name,
        "teacher_fingerprint": pair.fingerprints[0],
        "student_fingerprint": pair.fingerprints[1],
        "package_version": __version__,
        "precision": precision,
        **{axis.name: _axis_column(axis, configs) for axis in AXES},
        "groups": describe_groups(test),
        **{f"test_count_group_{g}": int(n) for g, n in enumerate(test.counts)},
    }
    columns = {name: _one_after_another(name, parts) for name in parts[0].columns}
    accuracies = (columns[f"{model}_accuracy"] for model in ("student", "teacher", "ceiling"))
    columns["pgr"] = pgr(*accuracies, num_test=int(test.counts.sum()))
    return pd.DataFrame(identity | columns)


def _one_after_another(name: str, parts: Sequence[Part]) -> Any:
    """A column of all parts."""
    values = [
        np.broadcast_to(column, len(part.configs)) if np.ndim(column) == 0 else column
        for part in parts
        for column in (part.columns[name],)
    ]
    if all(isinstance(column, np.ndarray) for column in values):
        return np.concatenate(values)
    return [value for column in values for value in column]


def _axis_column(axis: Axis, configs: Sequence[Config]) -> Any:
    """An axis's values; where some may be missing, as floats or strings."""
    values = [getattr(config, axis.name) for config in configs]
    if axis.choices is not None:
        return pd.array(values, dtype="str") if axis.of_methods else values
    if axis.of_methods or not axis.integer:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return values


def _shared_with_vanilla(config: Config) -> tuple[Any, ...]:
    """What of a configuration its vanilla one depends on."""
    return tuple(getattr(config, name) for name in _SHARED)


def vanilla_of(config: Config) -> Config:
    """The vanilla configuration on the same draws, teacher and student penalty."""
    pseudolabels = config.pseudolabels or "hard"
    return dataclasses.replace(config, method="vanilla", pseudolabels=pseudolabels).canonical()
