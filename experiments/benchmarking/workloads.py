"""The workloads: which problems, and how many heads each solver is given of them."""

import dataclasses
from collections.abc import Sequence

from .chains import ChainShape
from .data import Shape

GEMM = ("gemm XLA", "gemm numpy", "gemm torch")
# Heads that each peer is given of a problem of n d k = 5000 x 512; fewer where a head is larger.
PEER_HEADS = {
    "scikit-learn": 64,
    "torch L-BFGS": 32,
    "torch vmap Adam": 32,
    "optax vmapped": 8,
    "optax looped": 8,
}
LEAST_HEADS = {"scikit-learn": 8, "torch L-BFGS": 8}
JUDGED = 64


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem and those who solve it.

    Attributes:
        workload: as `--workloads` names it.
        name: of this case.
        kind: "heads", "trained", "ridge" or "chain".
        shape: its sizes.
        solvers: by name, the units to measure; None is all. The peers' are random subsets.
        judged: units whose objective is compared with its minimum.
    """

    workload: str
    name: str
    kind: str
    shape: Shape | ChainShape
    solvers: dict[str, int | None]
    judged: int = JUDGED


def _heads_case(workload: str, shape: Shape, peers: tuple[str, ...], name: str = "") -> Case:
    larger = shape.n * shape.d * shape.logits / (5000 * 512)

    def given(peer: str) -> int:
        least = min(LEAST_HEADS.get(peer, 4), shape.units)
        fitting = PEER_HEADS[peer] if larger < 1 else int(PEER_HEADS[peer] / larger)
        return min(shape.units, max(least, fitting - fitting % 4))

    solvers: dict[str, int | None] = {"engine": None}
    solvers |= {peer: given(peer) for peer in peers}
    solvers |= {gemm: None for gemm in GEMM}
    judged = max(8, min(JUDGED, int(2 * JUDGED / max(larger, 1))))
    return Case(workload, name or workload, "heads", shape, solvers, judged)


def _all_workloads(scale: float) -> dict[str, list[Case]]:
    heads = {
        "heads_1x512": Shape(5000, 512, 2, 1, 512),
        "heads_64x8": Shape(5000, 512, 2, 64, 8),
        "heads_512x1": Shape(5000, 512, 2, 512, 1),
        "heads_9_classes": Shape(5000, 512, 9, 1, 64),
        "heads_20000": Shape(20_000, 1024, 2, 1, 128),
        "heads_100000": Shape(100_000, 1024, 2, 1, 256),
    }
    everyone = tuple(PEER_HEADS)
    workloads = {
        name: [_heads_case(name, shape.scaled(scale), everyone)] for name, shape in heads.items()
    }

    axes = {
        "eta_l": (0.1,),
        "eta_u": (0.1, 0.5),
        "teacher_l2": (0.01, 0.1),
        "student_l2": (0.001, 0.01, 0.1, 1.0),
        "keep_fraction": (0.4, 0.8),
        "gce_q": (0.2, 0.7),
    }
    chains = {
        "chain_2": ChainShape(classes=2, num_seeds=4, axes=axes, sample=24),
        "chain_9": ChainShape(classes=9, num_seeds=2, axes=axes, sample=8),
        # 10 seeds x 2 x 5 x 2 x 5 settings, vanilla and nine (p, q) each: 10,000 rows.
        "grid_10000": ChainShape(
            embedded=True,
            d_teacher=384,
            d_student=384,
            n_labelled=200,
            n_unlabelled=2000,
            num_seeds=10,
            axes={
                "eta_l": (0.1, 0.5),
                "eta_u": (0.1, 0.2, 0.3, 0.4, 0.5),
                "teacher_l2": (0.01, 0.1),
                "student_l2": (0.01, 0.03, 0.1, 0.3, 1.0),
                "keep_fraction": (0.3, 0.5, 0.8),
                "gce_q": (0.2, 0.5, 0.7),
            },
            sample=64,
        ),
    }
    for name, shape in chains.items():
        peers = ("scikit-learn",) if shape.embedded else ("scikit-learn", "torch L-BFGS")
        solvers = {"engine": None} | dict.fromkeys(peers)
        workloads[name] = [Case(name, name, "chain", shape.scaled(scale), solvers)]

    sizes = (1, 4, 16, 64, 256, 1024, 4096) if scale == 1 else (1, 4)
    workloads["scaling"] = []
    for size in sizes:
        shape = dataclasses.replace(Shape(5000, 512).scaled(scale), per_set=size)
        peers = ("scikit-learn", "torch L-BFGS", "optax vmapped")
        workloads["scaling"].append(_heads_case("scaling", shape, peers, f"scaling_{size}"))

    trained = {
        "trained_full": Shape(5000, 512, 2, 1, 128, steps=200),
        "trained_batches": Shape(5000, 512, 2, 1, 128, steps=400, batch=256),
    }
    for name, shape in trained.items():
        solvers = {"engine": None, "torch vmap Adam": None, "optax vmapped": None, "torch Adam": 8}
        workloads[name] = [Case(name, name, "trained", shape.scaled(scale), solvers)]

    ridge = {
        "ridge_one_set": Shape(5000, 512, 0, 1, 64, 32),
        "ridge_many_sets": Shape(2000, 512, 0, 64, 8, 1),
    }
    names = ("engine", "scikit-learn", "himalaya", "himalaya torch")
    for name, shape in ridge.items():
        workloads[name] = [Case(name, name, "ridge", shape.scaled(scale), dict.fromkeys(names))]
    return workloads


NAMES = tuple(_all_workloads(1))


def select(names: list[str], scale: float) -> list[Case]:
    """The cases of some workloads; a name may be a beginning that several share, or "all".

    Raises:
        ValueError: for a name that no workload begins with; it lists the known ones.
    """
    workloads = _all_workloads(scale)
    chosen: dict[str, list[Case]] = {}
    for name in names:
        found = {w: c for w, c in workloads.items() if name == "all" or w.startswith(name)}
        if not found:
            raise ValueError(f"unknown workload {name!r}; known: all, {', '.join(workloads)}")
        chosen |= found
    return [case for cases in chosen.values() for case in cases]


def check_peers(peers: Sequence[str], cases: Sequence[Case]) -> None:
    """Refuses peers that no case has.

    Raises:
        ValueError: for such a peer; it lists the known ones.
    """
    known = dict.fromkeys(name for case in cases for name in case.solvers if name != "engine")
    for peer in peers:
        if peer not in known:
            raise ValueError(
                f"unknown peer {peer!r}; known for these workloads: {', '.join(known)}"
            )
