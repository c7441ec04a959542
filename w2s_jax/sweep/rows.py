"""Result rows: one per configuration and method, assembled from the heads of a chunk."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from w2s_jax.heads.status import STATUS_NAMES
from w2s_jax.metrics import AVERAGES, GroupedTest, pgr
from w2s_jax.pipeline import Heads
from w2s_jax.sweep.axes import AXES, METHOD_OPTIONS
from w2s_jax.sweep.grid import SCHEMA_VERSION, Config
from w2s_jax.sweep.planning import Pair
from w2s_jax.version import __version__

MODELS = ("teacher", "ceiling", "student")
HEAD_COLUMNS = ("status", "iterations", "gradient_norm", "objective", "gap")
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
        correct: on each test row, in the order of `GroupedTest.rows` ``[h, n]``.
        validation: on each row of the union of validation sets ``[h, v]``.
        heads: the fits; None for a teacher from elsewhere.
    """

    correct: Bool[np.ndarray, "h n"]
    validation: Bool[np.ndarray, "h v"]
    heads: Heads | None

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
        out[f"{model}_validation_accuracy"] = [
            self.validation[head, rows].mean() if rows.stop > rows.start else np.nan
            for head, rows in zip(index, validation_rows, strict=True)
        ]
        packed = [row.tobytes() for row in np.packbits(self.correct, axis=1)]
        out[f"{model}_correct"] = [packed[head] for head in index]
        if self.heads is not None:
            names = np.array([STATUS_NAMES[code] for code in self.heads.status], dtype=object)
            out[f"{model}_status"] = names[index]
            for name in HEAD_COLUMNS[1:]:
                out[f"{model}_{name}"] = getattr(self.heads, name)[index]
        return out


def missing_columns(model: str, num_rows: int, test: GroupedTest) -> dict[str, Any]:
    """Columns of a model that does not exist, such as the ceiling of unlabelled rows."""
    nan = np.full(num_rows, np.nan)
    out: dict[str, Any] = {f"{model}_{name}": nan for name in AVERAGES}
    out |= {f"{model}_group_{g}_accuracy": nan for g in range(len(test.counts))}
    out[f"{model}_validation_accuracy"] = nan
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


def assemble(
    configs: Sequence[Config], pair: Pair, test: GroupedTest, columns: dict[str, Any]
) -> pd.DataFrame:
    """Result rows of configurations that share a pair, identity and axes first.

    Args:
        configs: one a row.
        pair: their pair.
        test: the grouped test rows.
        columns: metrics, one value a row each.
    """
    fingerprints = {pair.name: pair.fingerprints}
    identity = {
        "key": [c.key(fingerprints) for c in configs],
        "vanilla_key": [vanilla_of(c).key(fingerprints) for c in configs],
        "schema_version": SCHEMA_VERSION,
        "method": [c.method for c in configs],
        "pair": pair.name,
        "teacher": pair.data.teacher.name,
        "student": pair.data.student.name,
        "teacher_fingerprint": pair.fingerprints[0],
        "student_fingerprint": pair.fingerprints[1],
        "package_version": __version__,
        **{axis.name: [getattr(c, axis.name) for c in configs] for axis in AXES},
        "groups": describe_groups(test),
        **{f"test_count_group_{g}": int(n) for g, n in enumerate(test.counts)},
    }
    rows = pd.DataFrame({**identity, **columns})
    ceiling = rows["ceiling_accuracy"].to_numpy(np.float64)
    teacher = rows["teacher_accuracy"].to_numpy(np.float64)
    student = rows["student_accuracy"].to_numpy(np.float64)
    rows["pgr"] = pgr(student, teacher, ceiling, int(test.counts.sum()))
    return rows.astype(_axis_types())


def _axis_types() -> dict[str, str]:
    """Types of the columns whose values may be missing."""
    numbers = [a.name for a in AXES if a.choices is None and (a.of_methods or not a.integer)]
    options = [a.name for a in METHOD_OPTIONS]
    return {**dict.fromkeys(numbers, "float64"), **dict.fromkeys(options, "str")}


def vanilla_of(config: Config) -> Config:
    """The vanilla configuration on the same draws, teacher and student penalty."""
    pseudolabels = config.pseudolabels or "hard"
    return dataclasses.replace(config, method="vanilla", pseudolabels=pseudolabels).canonical()
