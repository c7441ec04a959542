"""Draws: which rows are labelled, unlabelled, validation and test, at given minority fractions.

Per seed, each (class, minority) cell of the pool has one random order, by a hash of (seed, id).
Labelled rows come from the front of each cell, validation rows follow them, unlabelled rows come
from the back. So a set is a threshold on ranks: sets are nested cell by cell in size and fraction,
roles never overlap, and reordering a file changes nothing.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal

import numpy as np
from jaxtyping import Bool, Int, UInt64

from w2s_jax.errors import DrawError

CLASS_PRIORS = ("equal", "pool")
MAJORITY, MINORITY = 0, 1


def minority_count(n: int, eta: float | Decimal) -> int:
    """Rows of the minority in a set of n at fraction eta: floor(n eta + 1/2), in decimals.

    >>> minority_count(50, 0.05), minority_count(10, 0.25)
    (3, 3)
    """
    exact = n * Decimal(str(eta)) + Decimal("0.5")
    return int(exact.to_integral_value(rounding=ROUND_FLOOR))


@functools.lru_cache(maxsize=4096)
def _seats(n: int, votes: tuple[int, ...]) -> tuple[int, ...]:
    """Sainte-Laguë seats: rounded shares, then the few seats that rounding left over or overspent.

    Rounding at a divisor is Sainte-Laguë for its own total, so priorities lead from there to n.
    Divisions round correctly: equal quotients are equal floats, and ties are seen as ties.
    """
    total, shares = sum(votes), np.array(votes, np.float64)
    if not total:
        return (0,) * len(votes)
    seats = np.array([max(0, -((total - 2 * n * v) // (2 * total))) for v in votes])
    while seats.sum() < n:
        seats[np.argmax(shares / (2 * seats + 1))] += 1
    while seats.sum() > n:
        last = np.where(seats > 0, shares / np.maximum(2 * seats - 1, 1), np.inf)
        seats[len(last) - 1 - np.argmin(last[::-1])] -= 1
    return tuple(int(s) for s in seats)


def class_seats(n: int, votes: Sequence[int]) -> Int[np.ndarray, " c"]:
    """Divides n rows among classes in proportion to votes; no class loses a row as n grows.

    Ties go to the lower class.

    >>> class_seats(5, (1, 1)).tolist(), class_seats(10, (3, 1)).tolist()
    ([3, 2], [8, 2])
    """
    return np.array(_seats(n, tuple(votes)))


def cell_counts(n: int, eta: float | Decimal, votes: Sequence[int]) -> Int[np.ndarray, "c 2"]:
    """Rows of each class in the majority (column 0) and the minority (column 1).

    Both follow the same class prior, so that eta never shifts the label distribution.

    >>> cell_counts(10, 0.2, (1, 1)).tolist()
    [[4, 1], [4, 1]]
    """
    minority = minority_count(n, eta)
    return np.stack([class_seats(n - minority, votes), class_seats(minority, votes)], axis=1)


@dataclasses.dataclass(frozen=True)
class Request:
    """What one draw asks for.

    Attributes:
      eta_l: minority fraction of labelled and validation rows; None with a teacher from elsewhere.
      n_labelled: number of labelled rows; None likewise.
      eta_u: minority fraction of unlabelled rows; None draws truly unlabelled rows (label -1).
      n_unlabelled: number of unlabelled rows.
      n_validation: number of further labelled rows, for choosing hyperparameters.
    """

    eta_l: float | None
    n_labelled: int | None
    eta_u: float | None
    n_unlabelled: int
    n_validation: int = 0


@dataclasses.dataclass(frozen=True)
class Draw:
    """Rows of one draw, each set in draw order (by the hash of (seed, id), blind to labels)."""

    labelled: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " v"]
    unlabelled: Int[np.ndarray, " m"]


def _mix(values: UInt64[np.ndarray, " n"], seed: int) -> UInt64[np.ndarray, " n"]:
    """Hash of (seed, value): two rounds of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""

    def splitmix(z: np.ndarray) -> np.ndarray:
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    return splitmix(values ^ splitmix(np.array([seed], np.uint64)))


def _hash_ids(ids: np.ndarray) -> UInt64[np.ndarray, " n"]:
    digests = [hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids]
    return np.frombuffer(b"".join(digests), np.dtype("<u8")).astype(np.uint64)


class Pool:
    """The rows that draws may take, and the draws from them.

    Args:
      ids: unique row ids ``[n]``; only their hash matters, not their order.
      labels: class of each row ``[n]``, -1 for truly unlabelled rows.
      minority: whether a row belongs to the minority ``[n]``.
      rows: indices of the pool's rows within these arrays.
      num_classes: number of classes c.
      class_prior: "equal", or "pool" for the pool's own P(y).
      source_ids: rows that share one stay in one role ``[n]``; None where there are none.
      class_names: for error messages ``[c]``.

    Raises:
      DrawError: on an unknown class prior.
    """

    def __init__(
        self,
        ids: np.ndarray,
        labels: Int[np.ndarray, " n"],
        minority: Bool[np.ndarray, " n"],
        rows: Int[np.ndarray, " p"],
        *,
        num_classes: int,
        class_prior: str = "equal",
        source_ids: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ):
        if class_prior not in CLASS_PRIORS:
            raise DrawError(
                f"unknown class_prior {class_prior!r}; known: {', '.join(CLASS_PRIORS)}"
            )
        self.rows = np.asarray(rows)
        self.class_prior = class_prior
        self.num_classes = num_classes
        self.class_names = tuple(class_names) or tuple(map(str, range(num_classes)))
        self._labels = np.asarray(labels)[self.rows]
        self._minority = np.asarray(minority)[self.rows]
        self._id_hash = _hash_ids(np.asarray(ids)[self.rows])
        self._sources = None if source_ids is None else np.asarray(source_ids)[self.rows]
        self._source_hash = self._id_hash if self._sources is None else _hash_ids(self._sources)
        cell = np.where(self._labels >= 0, 2 * self._labels + self._minority, 2 * num_classes)
        self._cell = cell.astype(np.int64)
        self.sizes = np.bincount(self._cell, minlength=2 * num_classes + 1)[:-1].reshape(-1, 2)
        self.num_unlabelled = int(np.sum(self._labels < 0))
        if class_prior == "pool" and not self.sizes.any():
            raise DrawError(
                "class_prior='pool' needs labelled rows in the pool, found none; use 'equal'"
            )
        self._last_ranks: tuple[int, tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def votes(self) -> tuple[int, ...]:
        """Class prior as whole-number votes: one each, or the pool's class counts."""
        if self.class_prior == "equal":
            return (1,) * self.num_classes
        return tuple(int(v) for v in self.sizes.sum(axis=1))

    @property
    def prior(self) -> np.ndarray:
        """Class prior ``[c]``, summing to one."""
        votes = np.array(self.votes, np.float64)
        return votes / votes.sum()

    def _counts(self, request: Request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows wanted in each cell ``[c, 2]``: labelled, validation, unlabelled."""
        none = np.zeros_like(self.sizes)
        labelled = validation = none
        if request.n_labelled is not None and request.eta_l is not None:
            labelled = cell_counts(request.n_labelled, request.eta_l, self.votes)
            validation = cell_counts(request.n_validation, request.eta_l, self.votes)
        unlabelled = none
        if request.eta_u is not None:
            unlabelled = cell_counts(request.n_unlabelled, request.eta_u, self.votes)
        return labelled, validation, unlabelled

    def _validation_start(self, labelled: np.ndarray) -> np.ndarray:
        """Rank where a cell's validation rows begin.

        Where rows share sources, both cells of a class begin after the larger labelled count, so
        that a source labelled in one cell does not validate in the other.
        """
        if self._sources is None:
            return labelled
        return np.broadcast_to(labelled.max(axis=1, keepdims=True), labelled.shape)

    def _fits(self, request: Request) -> bool:
        labelled, validation, unlabelled = self._counts(request)
        front = np.where(validation > 0, self._validation_start(labelled) + validation, labelled)
        enough = bool(np.all(front + unlabelled <= self.sizes))
        return enough and (request.eta_u is not None or request.n_unlabelled <= self.num_unlabelled)

    def check(self, request: Request) -> None:
        """Raises a `DrawError` that explains why a request has no draw, if it has none."""
        for name, eta in (("eta_l", request.eta_l), ("eta_u", request.eta_u)):
            if eta is not None and not 0 <= eta <= 1:
                raise DrawError(f"{name} must lie in [0, 1], found {eta}")
        if self._fits(request):
            return
        if request.eta_u is None and request.n_unlabelled > self.num_unlabelled:
            raise DrawError(
                f"n_unlabelled={request.n_unlabelled} truly unlabelled rows (label -1) were asked "
                f"for, the pool has {self.num_unlabelled}; lower n_unlabelled or give eta_u"
            )
        labelled, validation, unlabelled = self._counts(request)
        need = labelled + validation + unlabelled
        short = np.argwhere(need > self.sizes)
        y, group = short[0] if len(short) else np.argwhere(need == need.max())[0]
        cell = f"class {self.class_names[y]!r}, {('majority', 'minority')[group]}"
        raise DrawError(
            f"infeasible draw: {cell} needs {labelled[y, group]} labelled + "
            f"{validation[y, group]} validation + {unlabelled[y, group]} unlabelled = "
            f"{need[y, group]} rows, the pool has {self.sizes[y, group]}"
            + self._largest_feasible(request)
        )

    def _largest_feasible(self, request: Request) -> str:
        for name, eta in (("n_unlabelled", "eta_u"), ("n_labelled", "eta_l")):
            size = getattr(request, name)
            if not size:
                continue
            low, high = 0, size
            while low < high:
                middle = (low + high + 1) // 2
                if self._fits(dataclasses.replace(request, **{name: middle})):
                    low = middle
                else:
                    high = middle - 1
            if low:
                value = getattr(request, eta)
                return f"; with all else equal, the largest {name} at {eta}={value} is {low}"
        return "; lower n_labelled, n_unlabelled or n_validation, or move eta_l or eta_u"

    def _ranks(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank of every pool row within its cell, and the pool rows in draw order."""
        last = self._last_ranks  # another thread may draw from the same pool
        if last is None or last[0] != seed:
            last = self._last_ranks = (seed, self._rank(seed))
        return last[1]

    def _rank(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        own = _mix(self._id_hash, seed)
        order = np.lexsort((own, _mix(self._source_hash, seed), self._cell))
        starts = np.searchsorted(self._cell[order], np.arange(2 * self.num_classes + 1))
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - starts[self._cell[order]]
        # Another hash than the ranks': how deep a cell is drawn from must not show in the order.
        return rank, np.argsort(_mix(~self._id_hash, seed), kind="stable")

    def draw(self, seed: int, request: Request) -> Draw:
        """Draws the rows of one seed.

        Args:
          seed: any integer >= 0.
          request: sizes and fractions.

        Returns:
          Disjoint sets of row indices, each in draw order.

        Raises:
          DrawError: if the pool cannot serve the request; it names the cell, what it needs and
            has, and the largest feasible size.
        """
        self.check(request)
        labelled, validation, unlabelled = (c.ravel() for c in self._counts(request))
        start = self._validation_start(labelled.reshape(-1, 2)).ravel()
        rank, order = self._ranks(seed)
        known = self._cell < 2 * self.num_classes
        cell = np.where(known, self._cell, 0)
        in_labelled = known & (rank < labelled[cell])
        in_validation = known & (rank >= start[cell]) & (rank < start[cell] + validation[cell])
        in_unlabelled = known & (rank >= self.sizes.ravel()[cell] - unlabelled[cell])
        if request.eta_u is None:
            in_unlabelled = ~known & (rank < request.n_unlabelled)
        self._check_sources(request, in_labelled, in_validation, in_unlabelled)
        return Draw(
            *(self.rows[order[m[order]]] for m in (in_labelled, in_validation, in_unlabelled))
        )

    def _check_sources(self, request: Request, *roles: np.ndarray) -> None:
        if self._sources is None:
            return
        names = ("labelled", "validation", "unlabelled")
        for i in range(3):
            for j in range(i + 1, 3):
                shared = np.intersect1d(self._sources[roles[i]], self._sources[roles[j]])
                if len(shared):
                    raise DrawError(
                        f"{len(shared)} sources (the first is {shared[0]!r}) would serve both "
                        f"{names[i]} and {names[j]} rows in {request}; rows of one source stay in "
                        "one role, so lower n_labelled, n_validation or n_unlabelled"
                    )
