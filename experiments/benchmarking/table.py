"""The published view of a result: markdown tables by kind, and speed against number of heads."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "heads": "Logistic heads",
    "chain": "Whole chains",
    "trained": "Heads trained step by step",
    "ridge": "Ridge heads",
}
FEW_ROUNDS = 3  # of less there is no median


def number(value: float) -> str:
    """Three digits, with a thousands separator.

    >>> number(12345.6), number(0.01234), number(56.78)
    ('12,300', '0.0123', '56.8')
    """
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def _speed(spread: dict[str, Any]) -> str:
    return f"{number(spread['median'])} ({number(spread['min'])}–{number(spread['max'])})"


def _gap(solver: dict[str, Any]) -> str:
    """Its p95, or the largest where too few heads were judged for one."""
    if "gap" not in solver:
        return "–"
    gap = solver["gap"]
    value = gap["p95"] if gap["heads"] >= 20 else gap["max"]
    return f"{max(value, 0):.0e}"


def _peer(case: dict[str, Any], name: str) -> str:
    """Speed, factor and gap; a factor below one, where the peer wins, is bold."""
    solver = case["solvers"].get(name)
    if solver is None:
        return ""
    if "heads_per_s" not in solver:
        return solver["status"]
    text = number(solver["heads_per_s"]["median"])
    if solver.get("quoted_per_head"):
        text += "*"
    if solver.get("rounds", FEW_ROUNDS) < FEW_ROUNDS:
        text += "†"
    if "engine_is_faster_by" in solver:
        factor = solver["engine_is_faster_by"]
        times = f"{number(factor)}×"
        text += f", **{times}**" if factor < 1 else f", {times}"
    return f"{text}, {_gap(solver)}"


def _memory(solver: dict[str, Any]) -> str:
    memory = solver.get("memory_mib", {})
    device = memory.get("device_peak")
    peak = memory.get("peak") if device is None else device
    return "–" if peak is None else f"{number(peak)} MiB"


def _share(case: dict[str, Any]) -> str:
    share = case["solvers"]["engine"].get("share_of_peak")
    return "–" if share is None else f"{100 * share:.0f} % of {number(case['peak']['gflops'])}"


def _name(case: dict[str, Any]) -> str:
    shape = case["shape"]
    if case["kind"] == "chain":
        return f"{case['case']}: {case['heads']:,} heads"
    what = f"{shape['classes']} classes" if shape["classes"] else f"{shape['targets']} targets"
    if shape.get("steps"):
        what += f", {shape['steps']} steps of {shape['batch'] or 'all'} rows"
    sets = f"{shape['sets']} × {shape['per_set']}"
    return f"{case['case']}: n {shape['n']:,}, d {shape['d']}, {what}, {sets}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _one_kind(cases: Sequence[dict[str, Any]]) -> list[str]:
    kind = cases[0]["kind"]
    names = dict.fromkeys(name for case in cases for name in case["solvers"])
    peers = [n for n in names if n != "engine" and not n.startswith("gemm")]
    head = ["workload", "engine (range)"]
    head += [] if kind == "chain" else ["with prepare"]
    head += ["gap", "memory"] + (["useful GFLOP/s"] if kind == "heads" else []) + peers
    lines = [_row(head), _row("---" for _ in head)]
    for case in cases:
        engine = case["solvers"]["engine"]
        if "heads_per_s" not in engine:
            lines.append(_row([_name(case), engine["status"]] + [""] * (len(head) - 2)))
            continue
        cells = [_name(case), _speed(engine["heads_per_s"])]
        if kind != "chain":
            cells.append(number(engine["heads_per_s_with_prepare"]["median"]))
        cells += [_gap(engine), _memory(engine)]
        if kind == "heads":
            cells.append(_share(case))
        lines.append(_row(cells + [_peer(case, name) for name in peers]))
    return lines


def _versions(result: dict[str, Any]) -> str:
    versions: dict[str, str] = {}
    for case in result["cases"]:
        for solver in case["solvers"].values():
            versions |= solver.get("software", {}).get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def render(result: dict[str, Any]) -> str:
    """Markdown of all cases, made from the JSON alone."""
    lines = [
        f"{result['device']}, {result['date']}; {_versions(result)}.",
        "",
        "Distinct heads per second, medians over interleaved rounds. A peer's cell: its speed, by "
        "which factor the engine is faster (bold where the peer wins), and its gap. gap: relative "
        "objective gap in float64, p95 (largest below 20 heads). \\*: measured on a random subset "
        "or sample and quoted per head. †: fewer than three rounds, because it takes long.",
    ]
    for kind, title in TITLES.items():
        cases = [case for case in result["cases"] if case["kind"] == kind]
        if cases:
            lines += ["", f"**{title}**", "", *_one_kind(cases)]
    return "\n".join(lines)


def draw_scaling(result: dict[str, Any], path: str) -> Path:
    """A log-log figure of heads per second against the number of heads.

    Raises:
        ValueError: where the result has no scaling workload.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = [case for case in result["cases"] if case["workload"] == "scaling"]
    if not cases:
        raise ValueError("the result has no scaling workload; run --workloads=scaling first")
    cases.sort(key=lambda case: case["heads"])
    names = dict.fromkeys(
        name
        for case in cases
        for name, solver in case["solvers"].items()
        if "heads_per_s" in solver
    )
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for name in names:
        found = [(c["heads"], c["solvers"][name]) for c in cases if name in c["solvers"]]
        found = [(heads, s["heads_per_s"]) for heads, s in found if "heads_per_s" in s]
        sizes = [heads for heads, _ in found]
        median = [s["median"] for _, s in found]
        low = [m - s["min"] for m, (_, s) in zip(median, found, strict=True)]
        high = [s["max"] - m for m, (_, s) in zip(median, found, strict=True)]
        engine = name == "engine"
        axes.errorbar(
            sizes,
            median,
            yerr=[low, high],
            label="w2s_jax" if engine else name,
            marker="o",
            markersize=4,
            linewidth=2.2 if engine else 1.2,
            zorder=3 if engine else 2,
            capsize=2,
        )
    shape = cases[0]["shape"]
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="heads trained together",
        ylabel="heads per second",
        title=f"n = {shape['n']:,}, d = {shape['d']}, two classes; {result['device']}",
    )
    axes.title.set_fontsize(10)
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    plt.close(figure)
    return target
