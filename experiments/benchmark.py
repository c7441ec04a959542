"""Measures the engine beside its peers, interleaved, with float64 objective gaps.

    python experiments/benchmark.py --workloads=heads,ridge --out=benchmarks
    python experiments/benchmark.py --table=benchmarks/X.json --figure=scaling.png
    python experiments/benchmark.py --workloads=images --backbones=clip_vit_b32,resnet18
    python experiments/benchmark.py --workloads=store --rows=1000,10000,100000,1000000
    python experiments/benchmark.py --workloads=profile

Peers come with pip install '.[benchmark]' (for scikit-learn alone, '.[test]' and joblib); an absent
one is skipped, and the JSON says so. A full run takes an hour or two on 2 cores; --scale=0.02
--repeats=1 is a smoke test. Cases that the file of the result holds already stay there. `--table`
prints a result as markdown.
"""

from absl import flags

from w2s_jax.errors import W2SError, run_script

flags.DEFINE_list("workloads", ["all"], "workloads, or beginnings of their names, or all")
flags.DEFINE_list("peers", [], "peers to measure, such as scikit-learn; empty: all")
flags.DEFINE_float("scale", 1.0, "shrinks all sizes, for a smoke test", 0.0, 1.0)
flags.DEFINE_integer("repeats", 5, "rounds in which all solvers take turns", 1)
flags.DEFINE_float("peer_seconds", 120.0, "after so long in a case a peer sits out later rounds")
flags.DEFINE_float("limit", 1800.0, "seconds that one call of a solver may take")
flags.DEFINE_integer("seed", 0, "of all data")
flags.DEFINE_string("out", "runs/benchmark", "a .json file, or a folder for DEVICE-DATE.json")
flags.DEFINE_string("table", None, "print this result as markdown, and measure nothing")
flags.DEFINE_string("figure", None, "with --table: write speed against number of heads here")
flags.DEFINE_list("backbones", ["clip_vit_b32", "resnet18"], "networks of the workload images")
flags.DEFINE_integer("num_images", 64, "of the workload images", 1)
flags.DEFINE_list("rows", ["1000", "10000"], "configurations of the workload store; 10**6: planned")
flags.DEFINE_integer("batch_size", 16, "images a call of a network", 1)
FLAGS = flags.FLAGS


def show() -> None:
    """Prints a result, and draws it."""
    from benchmarking import profiling, results, stores, table

    result = results.load(FLAGS.table)
    for own in (profiling, stores):
        if all(case["kind"] == own.KIND for case in result["cases"]):
            print(own.render(result))
            return
    print(table.render(result))
    if FLAGS.figure:
        print(f"\nfigure: {table.draw_scaling(result, FLAGS.figure)}")


def measure() -> None:
    """Measures case by case; the result is saved after each."""
    from benchmarking import results, table
    from benchmarking.data import Recipe
    from benchmarking.measure import Settings, run_case
    from benchmarking.processes import WorkerError
    from benchmarking.workloads import check_peers, select

    settings = Settings(FLAGS.repeats, FLAGS.peer_seconds, FLAGS.limit, peers=tuple(FLAGS.peers))
    cases = select(FLAGS.workloads, FLAGS.scale)
    check_peers(FLAGS.peers, cases)
    result = results.new_result()
    path = None
    for case in cases:
        try:
            entry = run_case(case, Recipe(seed=FLAGS.seed), settings, print)
        except WorkerError as error:
            print(f"{case.name}: no reference, left out: {error}")
            continue
        results.add_case(result, entry)
        path = results.save(result, FLAGS.out)
    print(f"\n{table.render(result)}\n\nresult: {path}")


def measure_images() -> None:
    """Measures the extraction of features from images beside transformers."""
    from benchmarking import images

    result, path = images.measure(
        FLAGS.backbones,
        FLAGS.num_images,
        FLAGS.batch_size,
        repeats=FLAGS.repeats,
        seed=FLAGS.seed,
        limit=FLAGS.limit,
        out=FLAGS.out,
        say=print,
    )
    print(f"\n{images.render(result)}\n\nresult: {path}")


def measure_stores() -> None:
    """Measures whole grids: planning, running, reading."""
    from benchmarking import stores

    rows = [int(text) for text in FLAGS.rows]
    result, path = stores.measure(rows, FLAGS.out, say=print)
    print(f"\n{stores.render(result)}\n\nresult: {path}")


def measure_profile() -> None:
    """Measures where the engine's time goes."""
    from benchmarking import profiling

    result, path = profiling.measure(FLAGS.repeats, FLAGS.scale, FLAGS.seed, FLAGS.out, print)
    print(f"\n{profiling.render(result)}\n\nresult: {path}")


ALONE = {"images": measure_images, "store": measure_stores, "profile": measure_profile}


def main() -> None:
    """Measures, or shows what was measured."""
    try:
        if FLAGS.table:
            show()
        elif alone := set(ALONE).intersection(FLAGS.workloads):
            if len(FLAGS.workloads) > 1:
                raise W2SError(
                    f"--workloads={alone.pop()} is measured by itself; name no other beside it"
                )
            if FLAGS.peers:
                raise W2SError("--peers chooses among those of the other workloads; leave it out")
            ALONE[alone.pop()]()
        else:
            measure()
    except ValueError as error:
        raise W2SError(str(error)) from None


if __name__ == "__main__":
    run_script(main)
