"""Joining a teacher's and a student's rows by id."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from w2s_jax.errors import FeatureError
from w2s_jax.features import checks
from w2s_jax.features.checks import POOLS, SPLITS
from w2s_jax.features.feature_set import FeatureSet
from w2s_jax.features.ordering import common_rows
from w2s_jax.features.predictions import Predictions


@dataclass(frozen=True, eq=False)
class FeaturePair:
    """m rows that a teacher and a student share, sorted by id, whatever order the files have.

    Attributes:
        teacher: FeatureSet, or Predictions with a column for each of the student's classes.
        student: FeatureSet.
        teacher_index: [m] rows of `teacher`.
        student_index: [m] rows of `student`.
        ids: [m] unicode, ascending.
        labels: [m] int32, -1 = unlabelled.
        minority: [m] bool.
        split: [m] int8 codes into SPLITS.
        groups: [m] int32 group index of the student's set, -1 = unlabelled.
        attributes: [m] int32 or None.
        source_ids: [m] unicode, of the student or else of the teacher; None where neither has any.
    """

    teacher: FeatureSet | Predictions
    student: FeatureSet
    teacher_index: np.ndarray
    student_index: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    minority: np.ndarray
    split: np.ndarray
    groups: np.ndarray
    attributes: np.ndarray | None
    source_ids: np.ndarray | None

    def __repr__(self) -> str:
        return f"FeaturePair({self.name!r}, {self.num_rows} rows)"

    @property
    def name(self) -> str:
        """The names of the two, "teacher:student"."""
        return f"{self.teacher.name}:{self.student.name}"

    @property
    def num_rows(self) -> int:
        """Number of shared rows m."""
        return len(self.ids)

    @property
    def pool(self) -> str:
        """The splits that draws may take, "train" or "train+val"."""
        return self.student.pool

    @property
    def eta_o(self) -> float | None:
        """The student set's native minority fraction, None where there is no natural one."""
        return self.student.eta_o

    @cached_property
    def pool_rows(self) -> np.ndarray:
        """Indices (into the m rows) of the rows that draws may take."""
        return np.flatnonzero(np.isin(self.split, POOLS[self.pool]))

    @cached_property
    def test_rows(self) -> np.ndarray:
        """Indices (into the m rows) of the test rows."""
        return np.flatnonzero(self.split == SPLITS.index("test"))

    @cached_property
    def val_rows(self) -> np.ndarray:
        """Indices (into the m rows) of the rows of the val split."""
        return np.flatnonzero(self.split == SPLITS.index("val"))


def pair(
    teacher: FeatureSet | Predictions, student: FeatureSet, *, join: str = "exact"
) -> FeaturePair:
    """Join a teacher's and a student's rows by id.

    Args:
        teacher: feature set, or predictions from elsewhere.
        student: feature set.
        join: "exact" refuses ids on one side only, "inner" drops them.

    Returns:
        FeaturePair whose rows do not depend on the order of either file.

    Raises:
        FeatureError: ids on one side only, no common id, or a row whose label, attribute,
            minority, split or source differs between the two.

    >>> from w2s_jax.features import make_feature_set
    >>> x = np.ones((3, 2), np.float32)
    >>> def one(*ids):
    ...     y = [int(i in "bc") for i in ids]
    ...     split = ["test" if i == "c" else "train" for i in ids]
    ...     return make_feature_set(x, y, minority=y, split=split, ids=ids)
    >>> both = pair(one("c", "a", "b"), one("b", "c", "a"))
    >>> both.ids.tolist(), both.teacher_index.tolist(), both.student_index.tolist()
    (['a', 'b', 'c'], [1, 2, 0], [2, 0, 1])
    """
    if join not in ("exact", "inner"):
        raise FeatureError(f"join is {join!r}; known are 'exact' and 'inner'")
    teacher_index, student_index = _join(teacher, student, join)
    if isinstance(teacher, Predictions):
        teacher = teacher.with_num_classes(student.num_classes)
    else:
        _check_agreement(teacher, student, teacher_index, student_index)
    sources = _take(student.source_ids, student_index)
    if sources is None and isinstance(teacher, FeatureSet):
        sources = _take(teacher.source_ids, teacher_index)
    split = np.asarray(student.split[student_index])
    checks.check_pool(np.bincount(split, minlength=3).tolist(), student.pool)
    return FeaturePair(
        teacher=teacher,
        student=student,
        teacher_index=teacher_index,
        student_index=student_index,
        ids=np.asarray(student.ids[student_index]),
        labels=np.asarray(student.labels[student_index]),
        minority=np.asarray(student.minority[student_index]),
        split=split,
        groups=student.groups[student_index],
        attributes=_take(student.attributes, student_index),
        source_ids=sources,
    )


def _take(array: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if array is None else np.asarray(array[rows])


def _join(
    teacher: FeatureSet | Predictions, student: FeatureSet, join: str
) -> tuple[np.ndarray, np.ndarray]:
    """Row indices of the common ids, in id order."""
    if np.array_equal(teacher.ids, student.ids):
        return student.id_order, student.id_order
    rows = common_rows(teacher.ids, student.ids, teacher.id_order, student.id_order)
    num_common = len(rows[0])
    if not num_common:
        raise FeatureError(
            f"teacher {teacher.name!r} and student {student.name!r} have no id in common, for "
            f"instance {str(teacher.ids[0])!r} and {str(student.ids[0])!r}; name the rows alike"
        )
    if join == "exact" and not num_common == len(teacher.ids) == len(student.ids):
        sides = [
            f"{_examples(np.delete(side.ids, index))} only in {role} {side.name!r}"
            for role, side, index in zip(
                ("teacher", "student"), (teacher, student), rows, strict=True
            )
        ]
        raise FeatureError(
            f"ids differ: {sides[0]}, {sides[1]}, {num_common} in both; "
            'join="inner" (--join=inner) keeps the common rows only'
        )
    return rows


def _examples(ids: np.ndarray) -> str:
    if not len(ids):
        return "0"
    shown = ", ".join(repr(str(i)) for i in ids[:3])
    return f"{len(ids)} ({shown}{', ...' if len(ids) > 3 else ''})"


def _check_agreement(
    teacher: FeatureSet, student: FeatureSet, teacher_index: np.ndarray, student_index: np.ndarray
) -> None:
    """Refuse sets that describe the same id differently."""
    if teacher.pool != student.pool:
        raise FeatureError(
            f"teacher {teacher.name!r} has the pool {teacher.pool!r} and student "
            f"{student.name!r} {student.pool!r}; load both with the same pool"
        )
    if teacher.num_classes != student.num_classes:
        raise FeatureError(
            f"teacher {teacher.name!r} has {teacher.num_classes} classes and student "
            f"{student.name!r} {student.num_classes}; number the classes alike"
        )
    for name in ("labels", "attributes", "minority", "split", "source_ids"):
        left, right = getattr(teacher, name), getattr(student, name)
        if left is None or right is None:
            continue
        left, right = left[teacher_index], right[student_index]
        different = np.flatnonzero(left != right)
        if len(different):
            row = different[0]
            values = [side[row] for side in (left, right)]
            shown = [SPLITS[v] if name == "split" else v.item() for v in values]
            raise FeatureError(
                f"{name} differ on {len(different)} rows, first for id "
                f"{str(student.ids[student_index[row]])!r}: {shown[0]!r} in teacher "
                f"{teacher.name!r}, {shown[1]!r} in student {student.name!r}; "
                "the two files must describe the same samples"
            )
