"""The judge's own solutions: tight minima in float64, with a proof where the problem is convex."""

import time
from pathlib import Path

import numpy as np

from .chain_peers import Done, Given, Job, classes_of, do_job, judge, make_jobs
from .chains import JUDGED, KINDS, read_chain
from .data import Problem, read_problem
from .objective import (
    Fit,
    lower_bound,
    minimize_gce,
    minimize_tightly,
    ridge_minima,
)
from .solvers import Solver

# Relative distance of a minimum from the proven bound below it that needs no further work.
PROVEN = 1e-9
# Features of this size are scipy's alone: compiling for them would take longer.
SMALL = 100_000


class TightHeads(Solver):
    """F* of logistic heads: the engine in float64, checked by a bound that trusts nobody.

    What the bound does not confirm goes on in scipy.
    """

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._found: dict[str, np.ndarray] = {}

    def solve(self) -> dict[str, float]:
        """Minimises and proves."""
        start = time.perf_counter()
        problem, units = read_problem(self.folder), self.units
        fits = self._by_engine(problem) if problem.x.size > SMALL else [None] * len(units)
        minima, bounds = np.empty(len(units)), np.empty(len(units))
        for i, (unit, fit) in enumerate(zip(units, fits, strict=True)):
            x, y = problem.training(int(unit), np.float64)
            l2 = float(problem.l2[unit])
            if fit is not None:
                minima[i], bounds[i] = lower_bound(x, y, fit, l2)
            if fit is None or minima[i] - bounds[i] > PROVEN * minima[i]:
                fit = minimize_tightly(x, y, l2, problem.shape.logits, fit)
                minima[i], bounds[i] = lower_bound(x, y, fit, l2)
        self._found = {"minimum": minima, "bound": bounds}
        return {"fit": time.perf_counter() - start}

    def _by_engine(self, problem: Problem) -> list[Fit]:
        """All units in float64 at once."""
        import jax

        import w2s_jax

        jax.config.update("jax_enable_x64", True)
        own_set = problem.set_of(self.units)
        heads = w2s_jax.fit_logistic(
            w2s_jax.prepare(np.asarray(problem.x, np.float64), dtype=np.float64),
            problem.targets[self.units],
            rows=problem.rows[0] if problem.shape.sets == 1 else problem.rows[own_set],
            l2=problem.l2[self.units],
            num_classes=problem.shape.classes,
            rtol=1e-12,
            atol=0.0,
        )
        return [Fit(*pair) for pair in zip(np.asarray(heads.w), np.asarray(heads.b), strict=True)]

    def solution(self) -> dict[str, np.ndarray]:
        """Minimum of every unit, and the bound below it."""
        return self._found


class TightRidge(Solver):
    """F* of ridge heads, from float64 SVDs in numpy."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._minimum = np.empty(0)

    def solve(self) -> dict[str, float]:
        """Minimises directly."""
        problem, start = read_problem(self.folder), time.perf_counter()
        minimum = np.empty((len(self.units), problem.shape.targets))
        own_set = problem.set_of(self.units)
        for own in np.unique(own_set):
            members = np.flatnonzero(own_set == own)
            x, t = problem.training(int(self.units[members[0]]), np.float64)
            minimum[members] = ridge_minima(x, t, problem.l2[self.units[members]])
        self._minimum = minimum
        return {"fit": time.perf_counter() - start}

    def solution(self) -> dict[str, np.ndarray]:
        """Minimum of every unit and target."""
        return {"minimum": self._minimum}


class TightChain(Solver):
    """Tight teachers, their pseudolabels, tight students, and good retrainings (not convex)."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._found: dict[str, np.ndarray] = {}

    def solve(self) -> dict[str, float]:
        """Trains the sampled jobs in float64."""
        start = time.perf_counter()
        chain = read_chain(self.folder)
        k = chain.logits
        weak = np.asarray(chain.weak, np.float64)
        strong = np.asarray(chain.strong, np.float64)
        given = Given(weak, strong, chain.labels, chain.groups, chain.minority, chain.test)

        def do(job: Job) -> Done:
            return do_job(
                given,
                job,
                lambda x, y, l2: minimize_tightly(x, y, l2, k),
                lambda x, y, l2, q: minimize_gce(x, y, l2, q, k, tol=1e-9),
            )

        found: dict[str, np.ndarray] = {}
        teacher_rows = chain.jobs["teacher"]
        teachers = [
            do(Job("teacher", rows, chain.labels[rows], float(l2)))
            for rows, l2 in zip(teacher_rows["rows"], teacher_rows["l2"], strict=True)
        ]
        predictions = np.stack([classes_of(weak @ t.fit.w + t.fit.b) for t in teachers])
        own = chain.jobs["student"]
        found["predictions"] = predictions
        found["pseudolabels"] = predictions[own["teacher"][:, None], own["rows"]]
        students = [
            do(Job("student", rows, y, float(l2)))
            for rows, y, l2 in zip(own["rows"], found["pseudolabels"], own["l2"], strict=True)
        ]
        found["student.w"] = np.stack([s.fit.w for s in students])
        found["student.b"] = np.stack([s.fit.b for s in students])
        jobs = make_jobs(chain, found)
        done = {"teacher": teachers, "student": students}
        for kind in ("ceiling", "retrained"):
            done[kind] = [do(job) for job in jobs[kind][:JUDGED]]
        self._found = found | judge(chain, jobs, {kind: done[kind] for kind in KINDS})
        return {"fit": time.perf_counter() - start}

    def solution(self) -> dict[str, np.ndarray]:
        """Objectives and accuracies, and what all solvers' jobs start from."""
        return self._found
