"""What a run will cost, before it starts: floating-point operations, device memory, time."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from w2s_jax.errors import GridError
from w2s_jax.features import FeatureSet
from w2s_jax.heads.costs import (
    FitCost,
    default_budget,
    device_memory,
    expected_passes,
    gemm_flops,
)
from w2s_jax.methods import Train
from w2s_jax.methods.rounds import Round
from w2s_jax.pipeline import plan_rounds, student_cost
from w2s_jax.sweep.chunks import Chunk
from w2s_jax.sweep.planning import Plan

# Share of the matrix product's peak that whole runs reach on draws of thousands of rows, and what
# each draw costs beside its products (seconds): both from ``experiments/benchmark.py`` on 2 cores.
SHARE_OF_PEAK = 0.4
SECONDS_PER_DRAW = 0.2


class Prediction(NamedTuple):
    """The expected cost of a run.

    Attributes:
        flops: floating-point operations of the matrix products.
        peak_bytes: memory of each device, features included.
        seconds: without compilation.
        num_devices: how many share the work.
    """

    flops: float
    peak_bytes: int
    seconds: float
    num_devices: int = 1

    def describe(self) -> str:
        """One line for ``--dry_run``."""
        return (
            f"about {self.flops / 1e12:.3g} Tflop in matrix products, at most "
            f"{self.peak_bytes / 2**20:.0f} MiB of device memory, and, if this device's product is "
            f"a guide, {self.seconds:.0f} s on {self.num_devices} device(s)"
        )


def _round_flops(
    fit: Round, values: Mapping[str, np.ndarray], num_heads: int, one: FitCost
) -> float:
    if isinstance(fit, Train):

        def number(setting: int | str) -> np.ndarray:
            return np.asarray(values[setting] if isinstance(setting, str) else setting)

        batch = number(fit.batch_size)
        share = np.where(batch == 0, 1.0, np.minimum(batch / one.num_rows, 1.0))
        return float(np.sum(np.broadcast_to(number(fit.num_steps) * share, num_heads))) * (
            one.flops_per_pass
        )
    convex = fit.loss({name: jnp.asarray(column) for name, column in values.items()}).convex
    return float(np.sum(expected_passes(values[fit.l2], one.num_classes, convex))) * (
        one.flops_per_pass
    )


def _chunk_cost(
    chunk: Chunk, widths: tuple[int, int], num_classes: int, dtype: DTypeLike, budget: int
) -> tuple[float, int]:
    """Floating-point operations of all heads of a chunk, and the memory they take beside features.

    Args:
        chunk: whose pair, scaling, prior and seed do not matter.
        widths: numbers of the student's and the teacher's features.
        num_classes: c.
        dtype: of the heads.
        budget: bytes.
    """
    n = chunk.n_unlabelled
    one, teacher = (student_cost(n, width, num_classes, dtype, num_heads=1) for width in widths)
    most = student_cost(n, widths[0], num_classes, dtype, num_heads=chunk.num_configs)
    tasks, _, _ = plan_rounds(chunk.requests()[0])
    flops = 0.0
    for task in tasks:
        fit, num_heads = task.rounds[-1], len(task.origin)
        of_one = teacher if fit.on_teacher_features else one
        flops += fit.members * _round_flops(fit, task.values, num_heads, of_one)
    if chunk.eta_u is not None:
        flops += np.sum(expected_passes(chunk.student_l2, one.num_classes)) * one.flops_per_pass
    return float(flops), most.peak_bytes(most.heads_per_call(budget))


def feature_bytes(plan: Plan, dtype: DTypeLike = np.float32) -> int:
    """Most that prepared features take at a time, on each device.

    They stay from the first group that needs them to the last.
    """
    span: dict[tuple[str, str], tuple[int, int]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for number, group in enumerate(plan.groups):
        data = plan.pairs[group.pair].data
        for side in (data.teacher, data.student):
            if isinstance(side, FeatureSet):
                key = side.fingerprint, group.feature_scaling
                width = min(side.features.shape[1], len(data.pool_rows))
                sizes[key] = len(data.labels) * width * np.dtype(dtype).itemsize
                span[key] = span.get(key, (number, number))[0], number
    change = np.zeros(len(plan.groups) + 1, np.int64)
    for key, (first, last) in span.items():
        change[first] += sizes[key]
        change[last + 1] -= sizes[key]
    return int(np.cumsum(change).max())


def check_memory(plan: Plan, dtype: DTypeLike = np.float32) -> None:
    """Refuses a plan whose features do not fit into a device's memory, before any compute.

    Raises:
        GridError: it says what is needed, what is there, and what to do.
    """
    needed, there = feature_bytes(plan, dtype), device_memory()
    if needed > there:
        sizes = {
            f"{side.name} {len(pair.data.labels)} x {side.features.shape[1]}"
            for pair in plan.pairs.values()
            for side in (pair.data.teacher, pair.data.student)
            if isinstance(side, FeatureSet)
        }
        raise GridError(
            f"prepared features take {needed / 2**30:.2f} GiB on each device, which has "
            f"{there / 2**30:.2f} GiB ({', '.join(sorted(sizes))}); use a device with more memory, "
            "one pair or feature_scaling at a time, features with fewer rows, or with fewer "
            "columns, such as their first principal components"
        )


def predict(
    plan: Plan,
    memory_budget: int | None = None,
    dtype: DTypeLike = np.float32,
    num_devices: int = 1,
) -> Prediction:
    """Predicts what a plan costs on devices like this one.

    Args:
        plan: a grid's plan.
        memory_budget: bytes, as of `run`.
        dtype: of the heads.
        num_devices: how many share the draws; CPU devices of one machine share its cores, and are
            one.

    Raises:
        HeadError: if the budget holds no batch of heads.
        GridError: if the features do not fit.
    """
    check_memory(plan, dtype)
    budget = default_budget() if memory_budget is None else memory_budget
    flops, peak, draws = 0.0, 0, 0
    costs: dict[Any, tuple[float, int]] = {}
    for group in plan.groups:
        data = plan.pairs[group.pair].data
        num_classes = data.student.num_classes
        width = min(data.student.features.shape[1], len(data.pool_rows))
        teacher_width = width
        if not plan.pairs[group.pair].teacher_is_elsewhere:
            assert isinstance(data.teacher, FeatureSet)
            teacher_width = min(data.teacher.features.shape[1], len(data.pool_rows))
            for _, n_labelled, _, l2 in group.teachers:
                one = FitCost(int(n_labelled or 0), teacher_width, num_classes, 1)
                flops += float(expected_passes(np.array([l2]), num_classes)[0]) * one.flops_per_pass
        for chunk in group.chunks:
            sizes = (width, teacher_width), num_classes
            if (chunk.pattern, *sizes) not in costs:
                costs[chunk.pattern, *sizes] = _chunk_cost(chunk, *sizes, dtype, budget)
            flops += costs[chunk.pattern, *sizes][0]
            peak = max(peak, costs[chunk.pattern, *sizes][1])
            draws += 1
    seconds = flops / (SHARE_OF_PEAK * gemm_flops()) + SECONDS_PER_DRAW * draws
    if draws:
        # The device with the most draws ends last.
        seconds *= math.ceil(draws / num_devices) / draws
    return Prediction(flops, peak + feature_bytes(plan, dtype), seconds, num_devices)
