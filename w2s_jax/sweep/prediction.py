"""What a run will cost, before it starts: floating-point operations, device memory, time."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from w2s_jax.errors import GridError, HeadError
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
from w2s_jax.sweep.devices import AT_ONCE
from w2s_jax.sweep.planning import Group, Plan

# Share of the matrix product's peak that whole runs reach on draws of thousands of rows, and what
# each draw costs beside its products (seconds): both from ``experiments/benchmark.py`` on 2 cores.
SHARE_OF_PEAK = 0.4
SECONDS_PER_DRAW = 0.2
SHARD_ROWS = ("auto", "always", "never")


class Prediction(NamedTuple):
    """The expected cost of a run.

    Attributes:
        flops: floating-point operations of the matrix products.
        peak_bytes: memory of each device, features included.
        seconds: without compilation.
        num_devices: how many share the work.
        row_shards: devices of each process among which rows are dealt out; 1: none of them.
    """

    flops: float
    peak_bytes: int
    seconds: float
    num_devices: int = 1
    row_shards: int = 1

    def describe(self) -> str:
        """One line for ``--dry_run``."""
        dealt = ""
        if self.row_shards > 1:
            dealt = f"; the features' rows are dealt out to {self.row_shards} devices"
        return (
            f"about {self.flops / 1e12:.3g} Tflop in matrix products, at most "
            f"{self.peak_bytes / 2**20:.0f} MiB of device memory, and, if this device's product is "
            f"a guide, {self.seconds:.0f} s on {self.num_devices} device(s)"
            f"{dealt}"
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


def _chunk_flops(
    chunk: Chunk, widths: tuple[int, int], num_classes: int, dtype: DTypeLike
) -> float:
    """Floating-point operations of all heads of a chunk.

    Args:
        chunk: whose pair, scaling, prior and seed do not matter.
        widths: numbers of the student's and the teacher's features.
        num_classes: c.
        dtype: of the heads.
    """
    n = chunk.n_unlabelled
    one, teacher = (student_cost(n, width, num_classes, dtype, num_heads=1) for width in widths)
    tasks, _, _ = plan_rounds(chunk.requests()[0])
    flops = 0.0
    for task in tasks:
        fit, num_heads = task.rounds[-1], len(task.origin)
        of_one = teacher if fit.on_teacher_features else one
        flops += fit.members * _round_flops(fit, task.values, num_heads, of_one)
    if chunk.eta_u is not None:
        flops += np.sum(expected_passes(chunk.student_l2, one.num_classes)) * one.flops_per_pass
    return float(flops)


def feature_bytes(
    plan: Plan, dtype: DTypeLike = np.float32, row_shards: int = 1, together: bool = False
) -> int:
    """Most that prepared features take at a time, on each device.

    They stay from the first group that needs them to the last.

    Args:
        plan: a grid's plan.
        dtype: of the heads.
        row_shards: devices among which rows are dealt out.
        together: of all groups, as if none ended before another began.
    """
    span: dict[tuple[str, str], tuple[int, int]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for number, group in enumerate(plan.groups):
        data = plan.pairs[group.pair].data
        for side in (data.teacher, data.student):
            if isinstance(side, FeatureSet):
                key = side.fingerprint, group.feature_scaling
                width = min(side.features.shape[1], len(data.pool_rows))
                num_rows = -(-len(data.labels) // row_shards)
                sizes[key] = num_rows * width * np.dtype(dtype).itemsize
                span[key] = span.get(key, (number, number))[0], number
    if together:
        return sum(sizes.values())
    change = np.zeros(len(plan.groups) + 1, np.int64)
    for key, (first, last) in span.items():
        change[first] += sizes[key]
        change[last + 1] -= sizes[key]
    return int(np.cumsum(change).max())


def batch_bytes(plan: Plan, budget: int, dtype: DTypeLike = np.float32, row_shards: int = 1) -> int:
    """Most that one batch of heads takes on each device beside the prepared features.

    A batch has its part of the budget, whether or not there is another beside it.

    Raises:
        HeadError: if the budget holds no batch of heads.
    """
    sizes, labelled = set(), {}
    for group in plan.groups:
        teacher, student = _widths(plan, group)
        for _, n_labelled, _, _ in group.teachers if teacher else ():
            sizes.add((group.pair, int(n_labelled or 0), teacher, len(group.teachers)))
        all_labelled = sum(n or 0 for _, n in {key[:2] for key in group.teachers})
        for chunk in group.chunks:
            if chunk.pattern not in labelled:
                requests = chunk.requests()[0]
                labelled[chunk.pattern] = any(r.method.sees_labelled(r.options) for r in requests)
            num_rows = chunk.n_unlabelled + all_labelled * labelled[chunk.pattern]
            sizes.add((group.pair, num_rows, max(teacher, student), chunk.num_configs))
    most = 0
    for name, num_rows, width, num_heads in sizes:
        num_classes = plan.pairs[name].data.student.num_classes
        cost = student_cost(num_rows, width, num_classes, dtype, num_heads, row_shards)
        most = max(most, cost.peak_bytes(cost.heads_per_call(budget, AT_ONCE)))
    return most


def _widths(plan: Plan, group: Group) -> tuple[int, int]:
    """Axes of the teacher's and the student's features; 0 for a teacher from elsewhere."""
    data = plan.pairs[group.pair].data
    sides = data.teacher, data.student
    widths = (
        min(side.features.shape[1], len(data.pool_rows)) if isinstance(side, FeatureSet) else 0
        for side in sides
    )
    teacher, student = widths
    return teacher, student


def choose_row_shards(
    plan: Plan,
    dtype: DTypeLike = np.float32,
    memory_budget: int | None = None,
    shard_rows: str = "auto",
    stored: int | None = None,
) -> int:
    """Among how many local devices a run deals out the rows of its features, before any compute.

    Args:
        plan: a grid's plan, with the rows that are there already.
        dtype: of the heads.
        memory_budget: bytes, as of `run`.
        shard_rows: "auto" deals them out where one device's memory does not hold the features
            beside the budget, and there are several; or "always", or "never".
        stored: the devices of the rows that are there already, to which "auto" keeps.

    Returns:
        The number of devices; 1: each has all features.

    Raises:
        GridError: if the features do not fit; it says what is needed, what is there, and what to
            do. Or if some method needs them on one device.
        HeadError: if the budget holds no batch of heads.
    """
    if shard_rows not in SHARD_ROWS:
        raise GridError(f"unknown shard_rows {shard_rows!r}; known: {', '.join(SHARD_ROWS)}")
    devices, there = jax.local_device_count(), device_memory()
    budget = default_budget() if memory_budget is None else memory_budget
    if shard_rows == "always" and devices == 1:
        raise GridError("shard_rows=always needs several local devices, found one; use auto")
    shards = devices if shard_rows == "always" else 1
    if shard_rows == "auto" and devices > 1:
        shards = _needed_shards(plan, dtype, budget, there) if stored is None else stored
        shards = 1 if shards == 1 else devices
    _check_features(plan, feature_bytes(plan, dtype, shards), there, shards)
    batch_bytes(plan, budget, dtype, shards)
    if shards > 1 and (stepwise := _stepwise(plan)):
        raise GridError(
            f"the features' rows are dealt out to several devices, and {', '.join(stepwise)} train "
            "step by step on features of one device; leave these methods out, or give "
            "shard_rows=never where the features fit"
        )
    return shards


def choose_at_once(
    plan: Plan,
    dtype: DTypeLike = np.float32,
    memory_budget: int | None = None,
    row_shards: int = 1,
) -> int:
    """Chunks that a device has at a time; it changes no result.

    One, where its memory does not hold the features of all pairs beside the budget, and these are
    let go one after another; or where rows are dealt out, and all devices have one chunk together.

    Args:
        plan: a grid's plan.
        dtype: of the heads.
        memory_budget: bytes, as of `run`.
        row_shards: devices among which rows are dealt out.
    """
    budget = default_budget() if memory_budget is None else memory_budget
    if row_shards > 1:
        return 1
    together = feature_bytes(plan, dtype, together=True)
    one_by_one = feature_bytes(plan, dtype)
    return AT_ONCE if together == one_by_one or together + budget <= device_memory() else 1


def _needed_shards(plan: Plan, dtype: DTypeLike, budget: int, there: int) -> int:
    """1, or all local devices: by sizes that more settings of the same pairs leave as they are."""
    features = feature_bytes(plan, dtype)
    try:
        batch_bytes(plan, budget, dtype)
    except HeadError:  # a batch on one device exceeds the budget
        return jax.local_device_count()
    if features + budget <= there or (features <= there and _stepwise(plan)):
        return 1
    return jax.local_device_count()


def _check_features(plan: Plan, needed: int, there: int, row_shards: int) -> None:
    """Refuses features that exceed a device's memory."""
    if needed <= there:
        return
    sizes = {
        f"{side.name} {len(pair.data.labels)} x {side.features.shape[1]}"
        for pair in plan.pairs.values()
        for side in (pair.data.teacher, pair.data.student)
        if isinstance(side, FeatureSet)
    }
    dealt = f", their rows dealt out to {row_shards} devices," if row_shards > 1 else ""
    others = ""
    if row_shards == 1 and jax.local_device_count() > 1:
        others = "deal out the rows (shard_rows=auto), "
    raise GridError(
        f"prepared features{dealt} take {needed / 2**30:.2f} GiB on each device, which has "
        f"{there / 2**30:.2f} GiB ({', '.join(sorted(sizes))}); {others}use a device with more "
        "memory, one pair or feature_scaling at a time, features with fewer rows, or with fewer "
        "columns, such as their first principal components"
    )


def _stepwise(plan: Plan) -> list[str]:
    """Methods that train step by step, which needs the features on one device."""
    chunks = {chunk.pattern: chunk for group in plan.groups for chunk in group.chunks}
    requests = (request for chunk in chunks.values() for request in chunk.requests()[0])
    return sorted({r.method.name for r in requests if r.method.trains_by_steps(r.options)})


def predict(
    plan: Plan,
    memory_budget: int | None = None,
    dtype: DTypeLike = np.float32,
    num_devices: int = 1,
    row_shards: int | None = None,
) -> Prediction:
    """Predicts what a plan costs on devices like this one.

    Args:
        plan: a grid's plan.
        memory_budget: bytes, as of `run`.
        dtype: of the heads.
        num_devices: how many share the draws; CPU devices of one machine share its cores, and are
            one.
        row_shards: devices among which rows are dealt out; default as `choose_row_shards` says.

    Raises:
        HeadError: if the budget holds no batch of heads.
        GridError: if the features do not fit.
    """
    shards = row_shards or choose_row_shards(plan, dtype, memory_budget)
    budget = default_budget() if memory_budget is None else memory_budget
    at_once = choose_at_once(plan, dtype, memory_budget, shards)
    batches = at_once * batch_bytes(plan, budget, dtype, shards)
    peak = feature_bytes(plan, dtype, shards, together=at_once > 1) + batches
    flops, draws = 0.0, 0
    flops_of: dict[Any, float] = {}
    for group in plan.groups:
        data = plan.pairs[group.pair].data
        num_classes = data.student.num_classes
        teacher_width, width = _widths(plan, group)
        if teacher_width:
            for _, n_labelled, _, l2 in group.teachers:
                one = FitCost(int(n_labelled or 0), teacher_width, num_classes, 1)
                flops += float(expected_passes(np.array([l2]), num_classes)[0]) * one.flops_per_pass
        for chunk in group.chunks:
            sizes = (width, teacher_width), num_classes
            if (chunk.pattern, *sizes) not in flops_of:
                flops_of[chunk.pattern, *sizes] = _chunk_flops(chunk, *sizes, dtype)
            flops += flops_of[chunk.pattern, *sizes]
            draws += 1
    seconds = flops / (SHARE_OF_PEAK * gemm_flops()) + SECONDS_PER_DRAW * draws
    if shards > 1:
        seconds /= num_devices
    elif draws:
        # The device with the most draws ends last.
        seconds *= math.ceil(draws / num_devices) / draws
    return Prediction(flops, peak, seconds, num_devices, shards)
