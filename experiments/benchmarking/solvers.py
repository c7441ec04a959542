"""What a solver is to the benchmark, and where each is found."""

import abc
import importlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

# Adam's, of heads that are trained for a given number of steps.
TRAINING_RATE = 0.02
# Solver by kind of problem: module and class. A module's imports may be absent.
REFERENCE = "reference"
HOMES = {
    "heads": {
        REFERENCE: ("reference", "TightHeads"),
        "engine": ("engine", "Heads"),
        "scikit-learn": ("sklearn_peer", "Loop"),
        "torch L-BFGS": ("torch_peer", "Loop"),
        "torch vmap Adam": ("torch_peer", "VmapAdam"),
        "optax vmapped": ("optax_peer", "Vmapped"),
        "optax looped": ("optax_peer", "Looped"),
        "gemm XLA": ("gemm", "XLA"),
        "gemm numpy": ("gemm", "Numpy"),
        "gemm torch": ("gemm", "Torch"),
    },
    "trained": {
        REFERENCE: ("reference", "TightHeads"),
        "engine": ("engine", "Trained"),
        "torch vmap Adam": ("training_torch", "Vmapped"),
        "torch Adam": ("training_torch", "Looped"),
        "optax vmapped": ("training_optax", "Vmapped"),
    },
    "ridge": {
        REFERENCE: ("reference", "TightRidge"),
        "engine": ("engine", "Ridge"),
        "scikit-learn": ("ridge_peers", "ScikitLearn"),
        "himalaya": ("ridge_peers", "HimalayaNumpy"),
        "himalaya torch": ("ridge_peers", "HimalayaTorch"),
    },
    "chain": {
        REFERENCE: ("reference", "TightChain"),
        "engine": ("engine", "WholeChain"),
        "scikit-learn": ("chain_peers", "ScikitLearn"),
        "torch L-BFGS": ("chain_peers", "Torch"),
    },
    "images": {
        "engine": ("images_engine", "Engine"),
        "transformers": ("images_torch", "Transformers"),
    },
}


class Solver(abc.ABC):
    """One way to solve the problem in a folder; it lives in a process of its own.

    Args:
        folder: with the problem.
        units: which of its fits to do; empty where the solver has no choice.
    """

    dtype: ClassVar[str] = "float32"

    def __init__(self, folder: Path, units: np.ndarray):
        self.folder = folder
        self.units = units

    @abc.abstractmethod
    def solve(self) -> dict[str, float]:
        """Does all of the work once, and returns the seconds of its parts."""

    @abc.abstractmethod
    def solution(self) -> dict[str, np.ndarray]:
        """Arrays by which the last result can be judged; heads have w ``[u, d, k]``, b."""

    def facts(self) -> dict[str, Any]:
        """Further facts about the last result, for the JSON."""
        return {}


def batches_of(num_rows: int, steps: int, batch: int, seed: int = 0) -> np.ndarray:
    """Rows of every step ``[steps, batch]``, epoch after epoch in random order."""
    rng = np.random.default_rng(seed)
    epochs = -(-steps * batch // num_rows)
    rows = np.concatenate([rng.permutation(num_rows) for _ in range(epochs)])
    return rows[: steps * batch].reshape(steps, batch)


def find_solver(kind: str, name: str) -> type[Solver]:
    """The class of a solver.

    Raises:
        ImportError: where a package that it needs is absent.
    """
    module, attribute = HOMES[kind][name]
    return getattr(importlib.import_module(f"{__package__}.{module}"), attribute)
