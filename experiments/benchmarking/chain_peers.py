"""Peers for whole chains: an honest script that, too, trains every distinct head once.

It is timed on a random sample of the distinct heads of each kind; the total is extrapolated, kind
by kind, by the number of heads. A job is all that a head needs: gather its rows, fit, predict,
count correct test rows by group; a retraining also ranks and selects its rows. The draws and scaled
features are given to it for free.
"""

import abc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax

from .chains import JUDGED, KINDS, Chain, read_chain
from .objective import Fit, logistic_objective, minimize_gce
from .solvers import Solver


class Given(NamedTuple):
    """What every job may read; arrays are memory mapped.

    Attributes:
        weak: teacher's features of all rows.
        strong: student's features of all rows.
        labels: of all rows.
        groups: of all rows.
        minority: of all rows.
        test: test rows.
    """

    weak: np.ndarray
    strong: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    minority: np.ndarray
    test: np.ndarray


class Job(NamedTuple):
    """One head to train.

    Attributes:
        kind: of `KINDS`.
        rows: training rows, before any selection ``[n]``.
        y: their labels or pseudolabels ``[n]``.
        l2: penalty.
        q: exponent of a retraining.
        count: rows that a retraining keeps.
        parent: the student that a retraining starts from.
    """

    kind: str
    rows: np.ndarray
    y: np.ndarray
    l2: float
    q: float = 0.0
    count: int = 0
    parent: Fit | None = None


class Done(NamedTuple):
    """What a job brings: a head, the rows it was trained on, and the metrics of a result row.

    Attributes:
        fit: the head.
        kept: positions of the rows that it was trained on.
        accuracy: on the test rows.
        by_group: accuracy of each group of test rows.
        composition: share of the minority, and of right pseudolabels, among the kept rows.
    """

    fit: Fit
    kept: np.ndarray
    accuracy: float
    by_group: np.ndarray
    composition: np.ndarray


FitCE = Callable[[np.ndarray, np.ndarray, float], Fit]
FitGCE = Callable[[np.ndarray, np.ndarray, float, float], Fit]


def classes_of(logits: np.ndarray) -> np.ndarray:
    """Most probable class of every row."""
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(axis=1)


def most_confident(logits: np.ndarray, count: int) -> np.ndarray:
    """The rows of lowest entropy, ascending ``[count]``."""
    if logits.shape[1] == 1:
        score = -np.abs(logits[:, 0])
    else:
        log_p = log_softmax(logits, axis=1)
        score = -np.sum(np.exp(log_p) * log_p, axis=1)
    return np.sort(np.argsort(score, kind="stable")[:count])


def do_job(given: Given, job: Job, fit_ce: FitCE, fit_gce: FitGCE) -> Done:
    """Trains one head and scores it."""
    features = given.weak if job.kind == "teacher" else given.strong
    x, y, kept = features[job.rows], job.y, np.arange(len(job.rows))
    if job.parent is None:
        fit = fit_ce(x, y, job.l2)
    else:
        kept = most_confident(x @ job.parent.w.astype(x.dtype) + job.parent.b, job.count)
        fit = fit_gce(x[kept], y[kept], job.l2, job.q)
    composition = np.stack(
        [given.minority[job.rows[kept]], y[kept] == given.labels[job.rows[kept]]]
    )
    w, b = fit.w.astype(x.dtype), fit.b.astype(x.dtype)
    if job.kind == "teacher":
        right = classes_of(features @ w + b)[given.test] == given.labels[given.test]
    else:
        right = classes_of(features[given.test] @ w + b) == given.labels[given.test]
    groups = given.groups[given.test]
    by_group = np.bincount(groups, right) / np.maximum(np.bincount(groups), 1)
    return Done(fit, kept, float(right.mean()), by_group, composition.mean(axis=1))


def make_jobs(chain: Chain, reference: dict[str, np.ndarray]) -> dict[str, list[Job]]:
    """The sampled jobs; pseudolabels and parents are the judge's, the same for every solver."""
    jobs: dict[str, list[Job]] = {kind: [] for kind in KINDS}
    for kind in ("teacher", "ceiling", "student"):
        for i, (rows, l2) in enumerate(
            zip(chain.jobs[kind]["rows"], chain.jobs[kind]["l2"], strict=True)
        ):
            y = reference["pseudolabels"][i] if kind == "student" else chain.labels[rows]
            jobs[kind].append(Job(kind, rows, y, float(l2)))
    arrays = chain.jobs["retrained"]
    for i, student in enumerate(arrays["student"]):
        base = jobs["student"][student]
        parent = Fit(reference["student.w"][student], reference["student.b"][student])
        q, count = float(arrays["q"][i]), int(arrays["count"][i])
        l2 = float(arrays["l2"][i])
        jobs["retrained"].append(Job("retrained", base.rows, base.y, l2, q, count, parent))
    return jobs


def judge(chain: Chain, jobs: dict[str, list[Job]], done: dict[str, list[Done]]) -> dict[str, Any]:
    """Float64 objectives and test accuracies of the first jobs of each kind."""
    out: dict[str, np.ndarray] = {}
    for kind in KINDS:
        features = chain.weak if kind == "teacher" else chain.strong
        values = []
        for job, result in zip(jobs[kind][:JUDGED], done[kind][:JUDGED], strict=True):
            x, y = features[job.rows[result.kept]].astype(np.float64), job.y[result.kept]
            q = None if job.parent is None else job.q
            values.append(logistic_objective(x, y, result.fit, job.l2, q))
        out[f"{kind}.objective"] = np.array(values)
        out[f"{kind}.accuracy"] = np.array([d.accuracy for d in done[kind][:JUDGED]])
    return out


class _Script(Solver):
    """Times the sampled jobs, kind by kind."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._chain = chain = read_chain(folder)
        with np.load(folder / "reference.npz") as reference:
            self._jobs = make_jobs(chain, dict(reference))
        self._given = Given(
            chain.weak, chain.strong, chain.labels, chain.groups, chain.minority, chain.test
        )
        self._done: dict[str, list[Done]] = {}
        self._seconds: dict[str, float] = {}

    @abc.abstractmethod
    def _all(self, jobs: list[Job]) -> list[Done]:
        """Does jobs of one kind."""

    def solve(self) -> dict[str, float]:
        """Seconds for all distinct heads, from those of the sampled ones."""
        total = 0.0
        for kind, jobs in self._jobs.items():
            start = time.perf_counter()
            self._done[kind] = self._all(jobs)
            self._seconds[kind] = (time.perf_counter() - start) / len(jobs)
            total += self._seconds[kind] * self._chain.counts[kind]
        return {"fit": total}

    def solution(self) -> dict[str, np.ndarray]:
        """Objectives and accuracies."""
        return judge(self._chain, self._jobs, self._done)

    def facts(self) -> dict[str, Any]:
        """Which part was measured."""
        return {
            "sampled_heads": {kind: len(jobs) for kind, jobs in self._jobs.items()},
            "extrapolated_to": self._chain.counts,
            "seconds_per_head": self._seconds,
        }


class ScikitLearn(_Script):
    """scikit-learn for cross entropy, scipy's L-BFGS for generalized cross entropy, in joblib."""

    def __init__(self, folder: Path, units: np.ndarray):
        import sklearn as sklearn

        super().__init__(folder, units)

    def _all(self, jobs: list[Job]) -> list[Done]:
        from .sklearn_peer import on_all_cores

        return on_all_cores(_with_sklearn, [(self._given, job) for job in jobs])


def _with_sklearn(given: Given, job: Job) -> Done:
    from .sklearn_peer import fit_cross_entropy

    num_logits = 1 if given.labels.max() == 1 else int(given.labels.max()) + 1
    return do_job(
        given,
        job,
        fit_cross_entropy,
        lambda x, y, l2, q: minimize_gce(x, y, l2, q, num_logits),
    )


class Torch(_Script):
    """torch's L-BFGS for every head, one after another, on all cores or the GPU."""

    def __init__(self, folder: Path, units: np.ndarray):
        from . import torch_peer

        super().__init__(folder, units)
        self._torch = torch_peer

    def _all(self, jobs: list[Job]) -> list[Done]:
        peer, k = self._torch, self._chain.logits

        def fit(x: np.ndarray, y: np.ndarray, l2: float, q: float | None = None) -> Fit:
            features = peer.torch.as_tensor(x, device=peer.device())
            w, b = peer.minimize(features, peer.labels_for(y, k), l2, k, q)
            return Fit(w.cpu().numpy(), b.cpu().numpy())

        return [do_job(self._given, job, fit, fit) for job in jobs]

    def facts(self) -> dict[str, Any]:
        """Which part was measured, and where."""
        return super().facts() | {"runs_on": str(self._torch.device())}
