"""One case: its solvers take turns in rounds, then their solutions are judged in float64."""

import dataclasses
import datetime
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .chains import ChainShape, read_chain, write_chain
from .data import Recipe, describe, read_problem, units_of, write_problem
from .judging import judge_chain, judge_heads
from .processes import Worker, WorkerError, environment
from .solvers import REFERENCE
from .workloads import Case

ENGINE = "engine"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure; all of it is in the JSON.

    Attributes:
        repeats: rounds.
        peer_seconds: a peer that has measured for so long in a case sits out further rounds.
        limit: seconds that one call of a solver may take.
        peers: names of the peers to run; empty runs all.
    """

    repeats: int = 5
    peer_seconds: float = 120.0
    limit: float = 1800.0
    peers: tuple[str, ...] = ()


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range."""
    return {
        "median": float(np.median(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "all": [float(v) for v in values],
    }


@dataclasses.dataclass
class _Turn:
    """A solver's worker in a case, and what it has shown so far."""

    name: str
    units: np.ndarray
    worker: Worker
    entry: dict[str, Any]
    laps: list[dict[str, float]] = dataclasses.field(default_factory=list)
    spent: float = 0.0
    compiled: int = 0

    @property
    def alive(self) -> bool:
        return self.entry["status"] == "ok"

    def ask(self, do: str, limit: float, **arguments: Any) -> dict[str, Any] | None:
        """A request; None, and never another, once the solver failed."""
        if not self.alive:
            return None
        try:
            return self.worker.ask(do, limit, **arguments)
        except WorkerError as error:
            self.entry |= {"status": "failed", "note": str(error)}
            return None


def run_case(case: Case, recipe: Recipe, settings: Settings, say: Say) -> dict[str, Any]:
    """Measures one case.

    Args:
        case: what to measure.
        recipe: of its data.
        settings: how to measure.
        say: takes lines about the progress.

    Returns:
        The case's entry in the JSON.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "problem"
        folder.mkdir()
        entry: dict[str, Any] = {
            "workload": case.workload,
            "case": case.name,
            "kind": case.kind,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "settings": dataclasses.asdict(settings),
            "load_average_before": list(os.getloadavg()),
        }
        if isinstance(case.shape, ChainShape):
            write_chain(folder, case.shape, recipe)
            chain = read_chain(folder)
            heads = sum(chain.counts.values())
            entry |= {"recipe": dataclasses.asdict(recipe), "shape": dataclasses.asdict(case.shape)}
            entry |= {"distinct_heads": chain.counts}
            judged = np.empty(0, int)
        else:
            write_problem(folder, case.shape, recipe)
            entry |= describe(recipe, case.shape)
            heads = case.shape.heads
            judged = read_problem(folder).order[: case.judged]
        entry["heads"] = heads
        say(f"{case.name}: {heads} heads; reference")
        entry["reference"], found = _reference(case, folder, judged, settings)
        turns = _start(case, folder, settings)
        try:
            _rounds(turns, settings, lambda text: say(f"{case.name}: {text}"))
            for turn in turns:
                _conclude(turn, case, folder, heads, found, judged, settings)
        finally:
            for turn in turns:
                turn.worker.stop()
        entry["solvers"] = {turn.name: turn.entry for turn in turns}
        entry["load_average_after"] = list(os.getloadavg())
    _relate(entry, case)
    return entry


def _reference(
    case: Case, folder: Path, judged: np.ndarray, settings: Settings
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Minima of the judged heads; other workers find them beside the problem."""
    out = folder / "reference.npz"
    worker = Worker(folder.parent, environment(folder.parent / REFERENCE))
    start = {"kind": case.kind, "solver": REFERENCE, "folder": str(folder)}
    try:
        worker.ask("start", settings.limit, **start, units=judged.tolist())
        seconds = worker.ask("solve", 10 * settings.limit)["wall"]
        worker.ask("finish", settings.limit, out=str(out))
    finally:
        worker.stop()
    with np.load(out) as arrays:
        found = dict(arrays)
    told: dict[str, Any] = {"seconds": seconds}
    if "bound" in found:
        told["unproven_max"] = float(np.max(found["minimum"] / found["bound"] - 1))
    return told, found


def _start(case: Case, folder: Path, settings: Settings) -> list[_Turn]:
    """All workers of a case with the problem loaded; they load it at the same time."""
    turns = []
    for name, count in case.solvers.items():
        if name != ENGINE and settings.peers and name not in settings.peers:
            continue
        units = np.empty(0, int)
        if not isinstance(case.shape, ChainShape):
            units = units_of(read_problem(folder), case.shape.units if count is None else count)
        scratch = folder.parent / f"worker {len(turns)}"
        scratch.mkdir()
        turn = _Turn(name, units, Worker(scratch, environment(scratch)), {"status": "ok"})
        turn.worker.send(
            "start", kind=case.kind, solver=name, folder=str(folder), units=units.tolist()
        )
        turns.append(turn)
    for turn in turns:
        try:
            reply = turn.worker.receive(settings.limit)
        except WorkerError as error:
            turn.entry |= {"status": "failed", "note": str(error)}
            continue
        if "missing" in reply:
            turn.entry |= {"status": "skipped", "note": reply["missing"]}
        else:
            turn.entry["software"] = reply["software"]
    return turns


def _rounds(turns: list[_Turn], settings: Settings, say: Say) -> None:
    """A warm-up each, then rounds in which all take turns, each round beginning with another."""
    for turn in turns:
        reply = turn.ask("solve", settings.limit)
        if reply is not None:
            turn.entry["warm_up_s"] = reply["wall"]
            turn.entry["compiled_in_warm_up"] = reply["compiled"]
            say(f"{turn.name} warm after {reply['wall']:.3g} s")
    for number in range(settings.repeats):
        first = number % max(len(turns), 1)
        for turn in turns[first:] + turns[:first]:
            if turn.spent > settings.peer_seconds and turn.name != ENGINE:
                continue
            reply = turn.ask("solve", settings.limit)
            if reply is not None:
                turn.laps.append(reply["laps"])
                turn.spent += reply["wall"]
                turn.compiled += reply["compiled"]
        say(f"round {number + 1} of {settings.repeats}")


def _conclude(
    turn: _Turn,
    case: Case,
    folder: Path,
    heads: int,
    found: Mapping[str, np.ndarray],
    judged: np.ndarray,
    settings: Settings,
) -> None:
    """Speeds, gaps and memory of one solver."""
    out = folder.parent / "solution.npz"
    reply = turn.ask("finish", settings.limit, out=str(out))
    if reply is None:
        return
    entry = turn.entry
    entry |= {"rounds": len(turn.laps), "compiled_in_rounds": turn.compiled}
    entry |= {"memory_mib": reply["memory_mib"], **reply["facts"]}
    if turn.name.startswith("gemm"):
        for name in turn.laps[0]:
            entry[f"{name}_gflops"] = spread([lap[name] for lap in turn.laps])
        return
    measured = heads
    if not isinstance(case.shape, ChainShape):
        measured = len(turn.units) * heads // case.shape.units
        entry["quoted_per_head"] = measured < heads
    elif "sampled_heads" in entry:
        entry["quoted_per_head"] = entry["sampled_heads"] != entry["extrapolated_to"]
    entry["heads_measured"] = measured
    for name in turn.laps[0]:
        entry[f"{name}_s"] = spread([lap[name] for lap in turn.laps])
    entry["heads_per_s"] = spread([measured / lap["fit"] for lap in turn.laps])
    if "prepare" in turn.laps[0]:
        both = [measured / (lap["fit"] + lap["prepare"]) for lap in turn.laps]
        entry["heads_per_s_with_prepare"] = spread(both)
    with np.load(out) as arrays:
        solution = dict(arrays)
    if isinstance(case.shape, ChainShape):
        entry |= judge_chain(solution, found)
    else:
        entry["gap"] = judge_heads(folder, turn.units, solution, judged, found["minimum"])


def _relate(entry: dict[str, Any], case: Case) -> None:
    """Useful flops against the best product of any round, and every peer against the engine."""
    solvers = entry["solvers"]
    for name in ("peak", "peak_one_set"):
        rates = {
            solver: found[f"{name}_gflops"]["max"]
            for solver, found in solvers.items()
            if f"{name}_gflops" in found
        }
        if rates:
            best = max(rates, key=lambda solver: rates[solver])
            entry[name] = {"gflops": rates[best], "by": best}
    engine = solvers[ENGINE]
    if engine["status"] != "ok":
        return
    if "passes_sum" in engine and not isinstance(case.shape, ChainShape):
        flops = 4.0 * case.shape.n * case.shape.d * case.shape.logits * engine["passes_sum"]
        engine["useful_gflops"] = flops / engine["fit_s"]["median"] / 1e9
        for name in ("peak", "peak_one_set"):
            if name in entry:
                engine[f"share_of_{name}"] = engine["useful_gflops"] / entry[name]["gflops"]
    for found in solvers.values():
        if "heads_per_s" in found:
            rate = found["heads_per_s"]["median"]
            found["engine_is_faster_by"] = engine["heads_per_s"]["median"] / rate
            # From its slowest round against the peer's fastest, to the opposite.
            found["engine_is_faster_by_range"] = [
                engine["heads_per_s"]["min"] / found["heads_per_s"]["max"],
                engine["heads_per_s"]["max"] / found["heads_per_s"]["min"],
            ]
            if "heads_per_s_with_prepare" in engine:
                with_prepare = engine["heads_per_s_with_prepare"]["median"]
                found["engine_with_prepare_is_faster_by"] = with_prepare / rate
