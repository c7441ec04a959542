"""The Gaussian regression problem of weak-to-strong theory, checked when it is made.

Core features z ~ N(0, I) of dimension d_z carry the target, y = z'beta + N(0, sigma_y^2); a group
feature xi given g is N(g mu_xi, sigma_xi^2 I), independent of z, where g = 1 marks the minority.
The teacher sees z (x) w with w = [1; T'xi], the student z (x) psi with psi = [1; S'xi].
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from w2s_jax.errors import W2SError

# Largest deviation of a map's Gram matrix from the identity.
ORTHONORMAL = 1e-8


class TheoryError(W2SError):
    """A problem, fraction or penalty for which the theory has no answer."""


class Reduced(NamedTuple):
    """All that the asymptotic risks read of a problem.

    Attributes:
      gamma: ratio d_z / n_labelled.
      nu: ratio d_z / n_unlabelled.
      sigma_y: standard deviation of the label noise.
      sigma_xi: standard deviation of the group feature in any direction.
      mu_T: mean of the minority in the teacher's directions ``[p_T - 1]``.
      mu_S: the same in the student's ``[p_S - 1]``.
      Xi: inner products of the teacher's directions with the student's ``[p_T - 1, p_S - 1]``.
    """

    gamma: Float[Array, ""]
    nu: Float[Array, ""]
    sigma_y: Float[Array, ""]
    sigma_xi: Float[Array, ""]
    mu_T: Float[Array, " a"]
    mu_S: Float[Array, " b"]
    Xi: Float[Array, "a b"]


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianProblem:
    """Sizes, group feature and the two feature maps; a pytree, its sizes static.

    Attributes:
      d_z: dimension of the core features.
      n_labelled: samples that the teacher is fitted to.
      n_unlabelled: samples that the student is fitted to, with the teacher's predictions.
      mu_xi: mean of the minority's group feature ``[p]``.
      teacher_map: T, orthonormal columns ``[p, p_T - 1]``; None or no columns: the teacher sees no
        group feature.
      student_map: S, likewise ``[p, p_S - 1]``.
      sigma_y: standard deviation of the label noise, >= 0.
      sigma_xi: standard deviation of the group feature, > 0.

    Raises:
      TheoryError: for sizes, maps or deviations that make no sense.

    >>> problem = GaussianProblem(100, 1000, 5000, [0.0, 4.0], [[1.0], [0.0]], [[0.8], [0.6]])
    >>> problem.p_T, problem.gamma, problem.Xi.tolist(), problem.mu_S.tolist()
    (2, 0.1, [[0.8]], [2.4])
    """

    d_z: int
    n_labelled: int
    n_unlabelled: int
    mu_xi: Any
    teacher_map: Any = None
    student_map: Any = None
    sigma_y: Any = 1.0
    sigma_xi: Any = 1.0

    def __post_init__(self):
        for name in ("d_z", "n_labelled", "n_unlabelled"):
            object.__setattr__(self, name, checked_count(name, getattr(self, name)))
        mean = as_numbers(self.mu_xi, "mu_xi")
        if mean.ndim != 1 or not np.isfinite(mean).all():
            raise TheoryError(f"mu_xi must be a finite vector [p], found shape {mean.shape}")
        object.__setattr__(self, "mu_xi", mean)
        for name in ("teacher_map", "student_map"):
            object.__setattr__(self, name, _checked_map(name, getattr(self, name), len(mean)))
        for name, least in (("sigma_y", "at least"), ("sigma_xi", "greater than")):
            value = _checked_number(name, getattr(self, name))
            if not math.isfinite(value) or value < 0 or (value == 0 and least == "greater than"):
                raise TheoryError(f"{name} must be finite and {least} 0, found {value}")
            object.__setattr__(self, name, value)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[int, int, int]]:
        """Arrays and deviations as children, sizes as static data."""
        children = (self.mu_xi, self.teacher_map, self.student_map, self.sigma_y, self.sigma_xi)
        return children, (self.d_z, self.n_labelled, self.n_unlabelled)

    @classmethod
    def tree_unflatten(cls, sizes: tuple[int, int, int], children: Any) -> "GaussianProblem":
        """The problem of these children, unchecked: JAX puts tracers and placeholders here."""
        problem = object.__new__(cls)
        fields = dataclasses.fields(cls)
        for field, value in zip(fields, (*sizes, *children), strict=True):
            object.__setattr__(problem, field.name, value)
        return problem

    @property
    def p_T(self) -> int:
        """Number of the teacher's features for each core feature."""
        return self.teacher_map.shape[1] + 1

    @property
    def p_S(self) -> int:
        """Number of the student's features for each core feature."""
        return self.student_map.shape[1] + 1

    @property
    def gamma(self) -> float:
        """Ratio d_z / n_labelled."""
        return self.d_z / self.n_labelled

    @property
    def nu(self) -> float:
        """Ratio d_z / n_unlabelled."""
        return self.d_z / self.n_unlabelled

    @property
    def mu_T(self) -> Any:
        """Mean of the minority as the teacher sees it ``[p_T - 1]``."""
        return self.teacher_map.T @ self.mu_xi

    @property
    def mu_S(self) -> Any:
        """Mean of the minority as the student sees it ``[p_S - 1]``."""
        return self.student_map.T @ self.mu_xi

    @property
    def Xi(self) -> Any:
        """Teacher's directions times student's, T'S ``[p_T - 1, p_S - 1]``."""
        return self.teacher_map.T @ self.student_map

    @property
    def shared_dim(self) -> Any:
        """Effective number of shared features, 1 + ||Xi||_F^2."""
        return 1 + (self.Xi**2).sum()

    def reduced(self) -> Reduced:
        """What the formulas read, in float64 where JAX has it enabled."""
        ratios = (self.gamma, self.nu, self.sigma_y, self.sigma_xi)
        values = (*ratios, self.mu_T, self.mu_S, self.Xi)
        return Reduced(*(jnp.asarray(value, float) for value in values))

    def replace(self, **changes: Any) -> "GaussianProblem":
        """The problem with other values of some attributes, checked again."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_overlap(
        cls,
        Xi: ArrayLike,
        mu_T: ArrayLike,
        mu_S: ArrayLike,
        *,
        d_z: int,
        n_labelled: int,
        n_unlabelled: int,
        sigma_y: float = 1.0,
        sigma_xi: float = 1.0,
    ) -> "GaussianProblem":
        """A problem with given T'S and given means on either side, by explicit maps.

        With T = [I; 0] and S = [Xi; (I - Xi'Xi)^(1/2)], mu_xi is the shortest vector with these
        two projections.

        Args:
          Xi: ``[p_T - 1, p_S - 1]``, singular values at most 1.
          mu_T: ``[p_T - 1]``.
          mu_S: ``[p_S - 1]``.
          d_z: as in the class, like all that follow.
          n_labelled: see `GaussianProblem`.
          n_unlabelled: see `GaussianProblem`.
          sigma_y: see `GaussianProblem`.
          sigma_xi: see `GaussianProblem`.

        Raises:
          TheoryError: where no orthonormal maps and no mean have these products.
        """
        left, right = np.asarray(mu_T, np.float64), np.asarray(mu_S, np.float64)
        a, b = left.size, right.size
        overlap = np.asarray(Xi, np.float64)
        if overlap.shape != (a, b):
            raise TheoryError(
                f"Xi must be [p_T - 1, p_S - 1] = [{a}, {b}] as mu_T and mu_S say, found "
                f"{list(overlap.shape)}"
            )
        largest = np.linalg.norm(overlap, 2) if overlap.size else 0.0
        if largest > 1 + ORTHONORMAL:
            raise TheoryError(
                f"no orthonormal maps have T'S = Xi: its largest singular value is {largest:.6g}; "
                "it can be 1 at most"
            )
        values, vectors = np.linalg.eigh(np.eye(b) - overlap.T @ overlap)
        values = np.where(values > ORTHONORMAL, values, 0.0)  # shared directions are shared exactly
        own = (vectors * np.sqrt(values)) @ vectors.T
        teacher, student = np.eye(a + b)[:, :a], np.concatenate([overlap, own])
        maps, means = np.concatenate([teacher, student], axis=1), np.concatenate([left, right])
        mu_xi = np.linalg.lstsq(maps.T, means, rcond=1e-10)[0]
        error = np.abs(maps.T @ mu_xi - means).max(initial=0.0)
        if error > 1e-6 * max(1.0, np.abs(means).max(initial=0.0)):
            raise TheoryError(
                "no mu_xi has these projections: directions that teacher and student share must "
                f"see the same mean, and they differ by {error:.3g}; change mu_T, mu_S or Xi"
            )
        sizes = (d_z, n_labelled, n_unlabelled)
        return cls(*sizes, mu_xi, teacher, student, sigma_y, sigma_xi)

    @classmethod
    def from_similarity(
        cls,
        p_T: int,
        p_S: int,
        similarity: float,
        mu_T: float,
        mu_S: float,
        *,
        d_z: int,
        n_labelled: int,
        n_unlabelled: int,
        sigma_y: float = 1.0,
        sigma_xi: float = 1.0,
    ) -> "GaussianProblem":
        """A problem with given feature counts, ||Xi||_F^2, ||mu_T|| and ||mu_S||.

        Of the many that have these numbers, the one in which all min(p_T, p_S) - 1 pairs of
        principal directions are equally similar and the mean lies in the plane of the first pair.

        Args:
          p_T: the teacher's features for each core feature, from 1 on.
          p_S: the student's.
          similarity: ||Xi||_F^2, from 0 to min(p_T, p_S) - 1.
          mu_T: length of the mean as the teacher sees it.
          mu_S: length of the mean as the student sees it.
          d_z: as in the class, like all that follow.
          n_labelled: see `GaussianProblem`.
          n_unlabelled: see `GaussianProblem`.
          sigma_y: see `GaussianProblem`.
          sigma_xi: see `GaussianProblem`.

        Raises:
          TheoryError: where no maps have these numbers.

        >>> sizes = dict(d_z=100, n_labelled=1000, n_unlabelled=5000)
        >>> problem = GaussianProblem.from_similarity(4, 3, 0.5, 2.0, 1.0, **sizes)
        >>> round(float(problem.shared_dim), 12), np.round(problem.mu_T, 12).tolist()
        (1.5, [2.0, 0.0, 0.0])
        """
        a, b = (checked_count(name, count) - 1 for name, count in (("p_T", p_T), ("p_S", p_S)))
        similarity = _checked_number("similarity", similarity)
        most = min(a, b)
        if not 0 <= similarity <= most:
            raise TheoryError(
                f"similarity must be from 0 to min(p_T, p_S) - 1 = {most}, found {similarity:g}"
            )
        means = []
        for name, length, size in (("mu_T", mu_T, a), ("mu_S", mu_S, b)):
            length = _checked_number(name, length)
            if not math.isfinite(length) or length < 0 or (length > 0 and not size):
                raise TheoryError(
                    f"{name} must be a length >= 0, and 0 where there is no group feature; found "
                    f"{length:g} with {size} of them"
                )
            means.append(length * np.eye(1, size)[0] if size else np.zeros(0))
        Xi = math.sqrt(similarity / most) * np.eye(a, b) if most else np.zeros((a, b))
        return cls.from_overlap(
            Xi,
            *means,
            d_z=d_z,
            n_labelled=n_labelled,
            n_unlabelled=n_unlabelled,
            sigma_y=sigma_y,
            sigma_xi=sigma_xi,
        )


def as_numbers(value: ArrayLike, name: str) -> np.ndarray:
    """An array of numbers; anything else is a `TheoryError`."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TheoryError(f"{name} must be numbers, found {value!r:.60}") from None


def checked_count(name: str, count: Any, least: int = 1) -> int:
    """A whole number that is large enough."""
    number = as_numbers(count, name)
    if isinstance(count, bool) or number.ndim or not number >= least or number % 1:
        raise TheoryError(f"{name} must be a whole number from {least} on, found {count!r}")
    return int(count)


def _checked_number(name: str, value: Any) -> float:
    number = as_numbers(value, name)
    if number.ndim:
        raise TheoryError(f"{name} must be one number, found shape {number.shape}")
    return float(number)


def _checked_map(name: str, value: Any, p: int) -> np.ndarray:
    columns = np.zeros((p, 0)) if value is None else as_numbers(value, name)
    if columns.ndim != 2 or columns.shape[0] != p:
        raise TheoryError(
            f"{name} must be [p, k] with p = {p} as mu_xi says, found shape {columns.shape}"
        )
    gram = columns.T @ columns
    error = np.abs(gram - np.eye(columns.shape[1])).max(initial=0.0)
    if not error <= ORTHONORMAL:
        raise TheoryError(
            f"columns of {name} must be orthonormal; their products are off by {error:.3g}; "
            "numpy.linalg.qr makes them so"
        )
    return columns
