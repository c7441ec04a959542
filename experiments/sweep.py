"""Trains a grid of teacher-student configurations and stores long result rows.

    python experiments/sweep.py --out=runs/demo --eta_u=0:0.5:6 --student_l2=0.01:1:3:log

Every axis takes a comma list whose entries may be ranges start:stop:num or start:stop:num:log.
Started again with the same --out, it computes only what is missing. A grid can be written as a file
of flags, and any run be repeated from its own:

    python experiments/sweep.py --flagfile=experiments/configs/embedded_10000.flags --out=runs/grid
    python experiments/sweep.py --flagfile=runs/grid/flags.txt --out=runs/again --seeds=0:19:20
"""

import dataclasses
import itertools
import sys
from typing import Any

import jax
from absl import flags

from w2s_jax.compilation import enable_compilation_cache
from w2s_jax.errors import W2SError, run_script
from w2s_jax.heads.costs import parse_bytes
from w2s_jax.methods import METHODS
from w2s_jax.sweep import (
    Grid,
    Plan,
    Prediction,
    hosts,
    parse_axis,
    plan_grid,
    predict,
    resolve_pairs,
    run,
)
from w2s_jax.sweep.axes import AXES
from w2s_jax.sweep.hosts import Process, own_share
from w2s_jax.sweep.prediction import SHARD_ROWS, choose_row_shards
from w2s_jax.sweep.runner import remaining
from w2s_jax.sweep.saved_heads import check_models
from w2s_jax.sweep.store import stored_row_shards
from w2s_jax.sweep.verification import count_rows

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Grid)}
for _axis in AXES:
    _default = DEFAULTS[_axis.field]
    if _axis.single:
        flags.DEFINE_integer(_axis.field, _default, _axis.help)
    elif _axis.choices is not None:
        _help = f"{_axis.help}: {', '.join(_axis.choices)}"
        flags.DEFINE_list(_axis.field, list(_default), _help)
    else:
        _words = f" (numbers, {', '.join(_axis.words)})" if _axis.words else ""
        _words += f"; empty: {_axis.defaults_to}" if _axis.defaults_to else ""
        _text = ",".join(f"{value:g}" for value in _default if value is not None)
        flags.DEFINE_string(_axis.field, _text, _axis.help + _words)
flags.DEFINE_list("methods", list(DEFAULTS["methods"]), f"methods to run: {', '.join(METHODS)}")
flags.DEFINE_string("teacher", "reviews_vs_tweets/minilm_embeddings", "shipped name or path")
flags.DEFINE_string("student", "reviews_vs_tweets/minilm_last", "shipped name or path")
flags.DEFINE_list("pairs", [], "teacher:student pairs, in place of --teacher and --student")
flags.DEFINE_list("every_pair_of", [], "feature sets, each of which teaches each other one")
flags.DEFINE_string("teacher_predictions", None, "file with predictions, in place of --teacher")
flags.DEFINE_float("eta_o", None, "what the word eta_o stands for; default the benchmark's own")
flags.DEFINE_string("out", None, "run directory, or its URL, such as s3://...", required=True)
flags.DEFINE_enum("join", "exact", ["exact", "inner"], "inner drops ids that one side lacks")
flags.DEFINE_string(
    "minority_cells", None, "label:attribute cells that are minority, such as 0:1,1:0, for arrays"
)
flags.DEFINE_enum("pool", None, ["train", "train+val"], "splits to draw from; default their own")
flags.DEFINE_list("save_heads", [], "models whose heads to keep: student, teacher, ceiling")
flags.DEFINE_bool("dry_run", False, "print the plan of what is not in --out yet, and stop")
flags.DEFINE_string(
    "memory_budget",
    None,
    "device memory for batches of heads at work, such as 2GiB; default 40 % of it",
)
flags.DEFINE_enum(
    "shard_rows", "auto", SHARD_ROWS, "deal the features' rows out to the local devices"
)
flags.DEFINE_string("compilation_cache", None, "folder of compiled programs; default in ~/.cache")
flags.DEFINE_enum("precision", "float32", ["float32", "float64"], "type of the heads")
flags.DEFINE_bool("distributed", False, "one of several processes; Slurm or a TPU pod tells which")
flags.DEFINE_string("coordinator", None, "host:port of process 0, where nothing else tells")
flags.DEFINE_integer("num_processes", None, "processes of this run, with --coordinator")
flags.DEFINE_integer("process_id", None, "number of this process from 0, with --coordinator")
FLAGS = flags.FLAGS


def axis_values() -> dict[str, Any]:
    """The values of every axis, as a `Grid` takes them."""
    values: dict[str, Any] = {}
    for axis in AXES:
        given = FLAGS[axis.field].value
        if axis.choices is not None:
            values[axis.field] = tuple(given or ())
        elif axis.single:
            values[axis.field] = given
        elif given or axis.defaults_to is None:
            values[axis.field] = parse_axis(str(given), axis.field)
    return values


def chosen_pairs() -> tuple[Any, ...]:
    """The pairs that the flags name, in one of three ways."""
    if len(FLAGS.every_pair_of) == 1:
        raise W2SError(f"--every_pair_of has {FLAGS.every_pair_of[0]} only; give two sets or more")
    several = (*FLAGS.pairs, *itertools.permutations(FLAGS.every_pair_of, 2))
    one = ("teacher_predictions", "teacher", "student")
    given = [name for name in one if FLAGS[name].value != FLAGS[name].default]
    if several and given:
        raise W2SError(
            f"--{given[0]} belongs to a single pair, and --pairs or --every_pair_of name others; "
            "give one or the other"
        )
    if {"teacher_predictions", "teacher"} <= set(given):
        raise W2SError("--teacher and --teacher_predictions both name a teacher; give one of them")
    if FLAGS.teacher_predictions:
        return ((f"predictions={FLAGS.teacher_predictions}", FLAGS.student),)
    return several or ((FLAGS.teacher, FLAGS.student),)


def settings() -> str:
    """All flags of this script that decide results, for ``--flagfile``."""
    elsewhere = ("out", "dry_run", "distributed", "coordinator", "num_processes", "process_id")
    own = FLAGS.get_key_flags_for_module(sys.argv[0])
    return "".join(
        f"{flag.serialize()}\n"
        for flag in own
        if flag.value is not None and flag.name not in elsewhere
    )


def prediction(plan: Plan, budget: int | None, row_shards: int) -> Prediction:
    """What the plan costs on the local devices and those of the other processes."""
    local = 1 if jax.default_backend() == "cpu" else jax.local_device_count()
    devices = local * (FLAGS.num_processes or 1)
    return predict(plan, budget, FLAGS.precision, devices, row_shards)


def share(grid: Grid, plan: Plan, row_shards: int) -> str:
    """What of a dry run is this process's own, where the flags tell that there are others."""
    count, index = FLAGS.num_processes, FLAGS.process_id
    if not (count or FLAGS.distributed):
        return ""
    text = "this is what all processes compute together"
    if count and index is not None:
        own = own_share(plan, Process(index, count))
        own = remaining(grid, own, FLAGS.out, FLAGS.precision, row_shards)
        chunks = sum(len(group.chunks) for group in own.groups)
        text += f"; process {index} of {count}: {own.num_configs} configurations, {chunks} draws"
    return text + "\n"


def main() -> None:
    """Parses the axes, runs the grid, prints where the rows are."""
    jax.config.update("jax_enable_x64", FLAGS.precision == "float64")
    processes = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    if not FLAGS.dry_run and (FLAGS.distributed or processes != (None, None, None)):
        hosts.join(*processes)
    keep_heads = check_models(FLAGS.save_heads or ())
    grid = Grid(
        pairs=chosen_pairs(),
        methods=tuple(FLAGS.methods or ()),
        eta_o=FLAGS.eta_o,
        **axis_values(),
    )
    budget = parse_bytes(FLAGS.memory_budget) if FLAGS.memory_budget else None
    pairs = resolve_pairs(
        grid.pairs, FLAGS.join, minority_cells=FLAGS.minority_cells, pool=FLAGS.pool
    )
    if FLAGS.dry_run:
        plan = plan_grid(grid, pairs)
        shards = choose_row_shards(
            plan, FLAGS.precision, budget, FLAGS.shard_rows, stored_row_shards(FLAGS.out)
        )
        left = remaining(grid, plan, FLAGS.out, FLAGS.precision, shards)
        if left is not plan:
            print(f"{plan.num_configs - left.num_configs} rows of this grid are in {FLAGS.out}")
        print(f"{left.describe()}\n{prediction(left, budget, shards).describe()}")
        print(share(grid, plan, shards), end="")
        return
    enable_compilation_cache(FLAGS.compilation_cache)
    run(
        grid,
        pairs=pairs,
        out=FLAGS.out,
        progress=True,
        dtype=FLAGS.precision,
        memory_budget=budget,
        collect=False,
        keep_heads=keep_heads,
        shard_rows=FLAGS.shard_rows,
        notes={} if jax.process_index() else {"flags.txt": settings()},
    )
    _, rows, _ = count_rows(FLAGS.out)
    if jax.process_count() > 1:
        print(
            f"process_id={jax.process_index()} of {jax.process_count()}: its share is done; all "
            f"processes together have {rows} rows in {FLAGS.out} so far; waiting for the others to "
            "end (Ctrl-C: no longer)",
            flush=True,
        )
        hosts.let_go()
        return
    print(f"{rows} rows in {FLAGS.out}; next: python experiments/report.py --run={FLAGS.out}")


if __name__ == "__main__":
    run_script(main)
