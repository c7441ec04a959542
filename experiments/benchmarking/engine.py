"""The engine under test, through the functions that the README and BUILD.md show."""

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import w2s_jax

from .chains import JUDGED, KINDS, Chain, engine_grid, head_keys, read_chain
from .data import read_problem
from .solvers import TRAINING_RATE, Solver


def _statuses(status: Any) -> dict[str, int]:
    from w2s_jax.heads import STATUS_NAMES

    codes, counts = np.unique(np.asarray(status), return_counts=True)
    return {STATUS_NAMES[int(c)]: int(n) for c, n in zip(codes, counts, strict=True)}


class _Fitted(Solver):
    """Heads on a problem's rows; `prepare` and the fit are timed apart."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._problem = read_problem(folder)
        self.x = np.array(self._problem.x)
        self._heads: Any = None

    def fit(self, prepared: Any) -> Any:
        """Fits all heads on prepared features."""
        raise NotImplementedError

    def solve(self) -> dict[str, float]:
        """Prepares, then fits."""
        start = time.perf_counter()
        prepared = jax.block_until_ready(w2s_jax.prepare(self.x))
        middle = time.perf_counter()
        self._heads = jax.block_until_ready(self.fit(prepared))
        return {"prepare": middle - start, "fit": time.perf_counter() - middle}

    def solution(self) -> dict[str, np.ndarray]:
        """Weights and intercepts."""
        return {"w": np.asarray(self._heads.w), "b": np.asarray(self._heads.b)}

    def facts(self) -> dict[str, Any]:
        """How the fits ended, and where they ran."""
        return {
            "head_status": _statuses(self._heads.status),
            "runs_on": jax.devices()[0].platform,
        }


class Heads(_Fitted):
    """All logistic heads in one call."""

    def fit(self, prepared: Any) -> Any:
        """Fits all heads on prepared features."""
        problem, units = self._problem, self.units
        own_set = problem.set_of(units)
        return w2s_jax.fit_logistic(
            prepared,
            problem.targets[units],
            rows=problem.rows[0] if problem.shape.sets == 1 else problem.rows[own_set],
            l2=problem.l2[units],
            num_classes=problem.shape.classes,
        )

    def facts(self) -> dict[str, Any]:
        """Passes over the data, how the fits ended, and where they ran."""
        passes = np.asarray(self._heads.iterations)
        own_gap = np.asarray(self._heads.gap) / np.asarray(self._heads.objective)
        return super().facts() | {
            "passes_sum": int(passes.sum()),
            "passes_mean": float(passes.mean()),
            "passes_max": int(passes.max()),
            "own_gap_p95": float(np.quantile(own_gap, 0.95)),
        }


class Trained(_Fitted):
    """All heads by a given number of steps of Adam, as a round of a method trains them."""

    def fit(self, prepared: Any) -> Any:
        """Trains all heads in lock step."""
        from w2s_jax.methods.gradient import GradientStep
        from w2s_jax.methods.rounds import Train
        from w2s_jax.methods.trained import adam, hard_loss

        problem, units, shape = self._problem, self.units, self._problem.shape
        rule = GradientStep(hard_loss, adam, reads=("learning_rate",))
        training = Train(rule, num_steps=shape.steps, batch_size=shape.batch)
        values = {
            "student_l2": problem.l2[units],
            "learning_rate": np.full(len(units), TRAINING_RATE),
            "seed": np.zeros(len(units)),
        }
        traced = {name: jnp.asarray(values[name], jnp.float32) for name in rule.hyperparameters}
        labels = np.eye(shape.classes, dtype=np.float32)[problem.targets[units]]
        found = training.run(
            prepared, problem.rows[0], shape.n, jnp.asarray(labels), None, values, traced
        )
        highest = jax.lax.Precision.HIGHEST
        inside = found.params[..., :-1]
        w = jnp.einsum("dr,hkr->hdk", prepared.rotation, inside, precision=highest)
        b = found.params[..., -1] - jnp.einsum("d,hdk->hk", prepared.mean, w, precision=highest)
        return _TrainedHeads(w, b, found.status)


class _TrainedHeads(NamedTuple):
    w: Any
    b: Any
    status: Any


class Ridge(_Fitted):
    """All ridge heads in one call: targets of one set as columns, sets as heads."""

    def fit(self, prepared: Any) -> Any:
        """Fits all heads on prepared features."""
        problem, units = self._problem, self.units
        shared = problem.shape.sets == 1
        own_set = problem.set_of(units)
        return w2s_jax.fit_ridge(
            prepared,
            problem.targets[0] if shared else problem.targets[own_set],
            rows=problem.rows[0] if shared else problem.rows[own_set],
            l2=problem.l2[units],
        )


class WholeChain(Solver):
    """`w2s_jax.run` on a grid: draws, features, all heads, selection, metrics, result rows."""

    def __init__(self, folder: Path, units: np.ndarray):
        super().__init__(folder, units)
        self._chain = read_chain(folder)
        self._grid = engine_grid(self._chain.shape, self._chain.pair)
        self._pairs = w2s_jax.resolve_pairs(self._grid.pairs)
        self._rows: Any = None

    def solve(self) -> dict[str, float]:
        """Runs the grid; features are prepared anew in every run."""
        start = time.perf_counter()
        self._rows = w2s_jax.run(self._grid, pairs=self._pairs)
        return {"fit": time.perf_counter() - start}

    def solution(self) -> dict[str, np.ndarray]:
        """Objectives and accuracies of the judged jobs.

        Teachers and ceilings are those of the run. Students are trained again, by the engine, on
        the judge's pseudolabels, because a prediction that flips at a logit of zero makes another
        problem. A retraining still ranks its own student's rows.
        """
        chain, out = self._chain, {}
        fingerprints = {name: pair.fingerprints for name, pair in self._pairs.items()}
        by_key = self._rows.set_index("key")
        judged_rows = _on_given_pseudolabels(chain, self.folder)
        for kind in KINDS:
            judged = chain.configs[kind][:JUDGED]
            if kind in ("teacher", "ceiling"):
                configs = [w2s_jax.Config(**fields) for fields in judged]
                rows, column = by_key.loc[[c.key(fingerprints) for c in configs]], kind
            else:
                rows, column = judged_rows[kind], "student"
            out[f"{kind}.objective"] = rows[f"{column}_objective"].to_numpy(np.float64)
            out[f"{kind}.accuracy"] = rows[f"{column}_accuracy"].to_numpy(np.float64)
        return out

    def facts(self) -> dict[str, Any]:
        """Rows, how the fits ended, and where they ran."""
        rows = self._rows
        status = {m: rows[f"{m}_status"].value_counts().to_dict() for m in _MODELS}
        return {"rows": len(rows), "head_status": status, "runs_on": jax.devices()[0].platform}


_MODELS = ("teacher", "ceiling", "student")


def _on_given_pseudolabels(chain: Chain, folder: Path) -> dict[str, Any]:
    """Result rows of the judged students and retrainings, their teachers' answers given."""
    student_set = w2s_jax.load_features(chain.pair[1])
    (pair,) = w2s_jax.resolve_pairs([chain.pair]).values()
    with np.load(folder / "reference.npz") as reference:
        predictions = reference["predictions"]
    place = {
        head_keys(w2s_jax.Config(**fields))["teacher"]: i
        for i, fields in enumerate(chain.configs["teacher"])
    }
    pairs, wanted = {}, {"student": [], "retrained": []}
    for kind, found in wanted.items():
        for fields in chain.configs[kind][:JUDGED]:
            config = w2s_jax.Config(**fields)
            teacher = place[head_keys(config)["teacher"]]
            given = w2s_jax.make_predictions(
                pair.data.ids, predictions[teacher], name=f"given {teacher}"
            )
            pairs |= w2s_jax.resolve_pairs([(given, student_set)])
            method = "vanilla" if kind == "student" else "enhanced"
            changed = dataclasses.replace(
                config,
                pair=f"given {teacher}:{student_set.name}",
                method=method,
                eta_l=None,
                n_labelled=None,
                n_validation=0,
                teacher_l2=None,
            )
            found.append(changed.canonical())
    rows = w2s_jax.run([*wanted["student"], *wanted["retrained"]], pairs=pairs).set_index("key")
    fingerprints = {name: pair.fingerprints for name, pair in pairs.items()}
    return {k: rows.loc[[c.key(fingerprints) for c in found]] for k, found in wanted.items()}
