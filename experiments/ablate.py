"""Compares all methods with vanilla, each at hyperparameters that one rule chose, over seeds.

    python experiments/ablate.py --out=runs/ablation
    python experiments/ablate.py --methods=enhanced,product --choose=oracle --seeds=0:49:50

Cost: 8,160 distinct heads for 31 methods, 75 seconds on 2 cores, less once compiled.
Prints tables of accuracy, of differences to vanilla with intervals and adjusted p-values, and of
diagnostics; writes OUT/report/index.html, comparison.csv and diagnostics.csv. Every axis of a grid
is a flag, a method is tried at all values that it reads, and rows stay in --out.
"""

import dataclasses
import time
from typing import Any

from absl import flags

from w2s_jax.errors import W2SError, run_script
from w2s_jax.methods import METHODS
from w2s_jax.sweep import Grid, parse_axis, resolve_pairs
from w2s_jax.sweep.axes import AXES

DEFAULTS: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Grid)} | {
    "seeds": range(20),
    "n_validation": 100,
    "teacher_l2": (0.001, 0.01, 0.1),
    "student_l2": (0.03, 0.3, 1.0),
    "keep_fraction": (0.5, 0.8),
    "num_steps": (100,),
    "learning_rate": (0.03,),
    "smoothing": (0.1, 0.3),
    "entropy_weight": (0.1, 0.5),
    "upweight": (1.5, 5.0),
    "group_step": (0.01, 0.1),
}
VARIED = [axis for axis in AXES if axis.name not in ("eta_l", "eta_u")]
for _axis in VARIED:
    _values = DEFAULTS[_axis.field]
    _values = (_values,) if isinstance(_values, int) else _values
    _text = ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in _values if v is not None)
    _known = f": {', '.join(_axis.choices)}" if _axis.choices else ""
    flags.DEFINE_string(_axis.field, _text, _axis.help + _known)
flags.DEFINE_list("settings", ["0.1:0.5", "0.5:0.1"], "eta_l:eta_u pairs; eta_o is a word")
flags.DEFINE_list("methods", list(METHODS), "methods to compare with vanilla")
flags.DEFINE_string("teacher", "reviews_vs_tweets/minilm_embeddings", "shipped name or path")
flags.DEFINE_string("student", "reviews_vs_tweets/minilm_last", "shipped name or path")
flags.DEFINE_list("pairs", [], "teacher:student pairs, in place of --teacher and --student")
flags.DEFINE_float("eta_o", None, "what the word eta_o stands for; default the benchmark's own")
flags.DEFINE_enum("join", "exact", ["exact", "inner"], "inner drops ids that one side lacks")
flags.DEFINE_string("minority_cells", None, "label:attribute cells of arrays, such as 0:1,1:0")
flags.DEFINE_enum("pool", None, ["train", "train+val"], "splits to draw from; default their own")
flags.DEFINE_enum(
    "choose", "validation", ["validation", "pseudolabels", "oracle"], "rule of choice"
)
flags.DEFINE_float("eta_t", None, "minority fraction of the test average; default the test set's")
flags.DEFINE_string("out", "runs/ablation", "run directory for rows and report")
FLAGS = flags.FLAGS


def settings() -> list[tuple[Any, Any]]:
    """The pairs of --settings."""
    found = []
    for entry in FLAGS.settings:
        sides = entry.split(":")
        if len(sides) != 2:
            raise W2SError(f"--settings takes eta_l:eta_u pairs such as eta_o:0.5, found {entry!r}")
        found.append(tuple(parse_axis(side, "settings")[0] for side in sides))
    return found


def axis_values() -> dict[str, Any]:
    """The values of all other axes, as a `Grid` takes them."""
    values: dict[str, Any] = {}
    for axis in VARIED:
        text = str(FLAGS[axis.field].value)
        if axis.choices is not None:
            values[axis.field] = tuple(text.split(","))
        elif text or axis.defaults_to is None:
            values[axis.field] = parse_axis(text, axis.field)
        if axis.single:
            values[axis.field] = values[axis.field][0]
    return values


def looks_at_groups(name: str) -> bool:
    """Whether a method's rounds see true labels and groups of unlabelled rows."""
    method = METHODS[name]
    return method.is_oracle({option: DEFAULTS[option][0] for option in method.options})


def main() -> None:
    """Trains, chooses, compares, reports."""
    start = time.perf_counter()
    from w2s_jax import enable_compilation_cache
    from w2s_jax.report.ablation_run import run_ablation
    from w2s_jax.report.correctness import check_metric

    enable_compilation_cache()
    metric = "accuracy" if FLAGS.eta_t is None else FLAGS.eta_t
    check_metric(metric)
    axes = {**axis_values(), "methods": tuple(FLAGS.methods), "eta_o": FLAGS.eta_o}
    pairs = tuple(FLAGS.pairs) or ((FLAGS.teacher, FLAGS.student),)
    of_arrays = {"minority_cells": FLAGS.minority_cells, "pool": FLAGS.pool}
    resolved = resolve_pairs(pairs, FLAGS.join, **of_arrays)
    options = {"rule": FLAGS.choose, "out": FLAGS.out, "progress": True}
    ablation = run_ablation(resolved, settings(), axes, **options)
    trained = time.perf_counter() - start

    from w2s_jax.report.ablation_page import write_ablation

    oracles = [name for name in FLAGS.methods if looks_at_groups(name)]
    text, page = write_ablation(ablation, f"{FLAGS.out}/report", metric=metric, oracles=oracles)
    print(text)
    print(
        f"\n{ablation.num_heads} distinct heads trained, {ablation.num_stored} rows were there;"
        f" {trained:.1f} s to the rows, {time.perf_counter() - start:.1f} s in all"
    )
    print(f"page: {page}")


if __name__ == "__main__":
    run_script(main)
