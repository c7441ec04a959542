"""Does weak-to-strong happen on the embedded benchmark, and does retraining repair it?

    python experiments/quickstart.py

Cost: 3,740 distinct heads, about half a minute on 2 cores. Teachers and students are trained over
a grid of penalties; each draw's penalties are chosen by its own labelled validation rows;
Enhanced-W2S is trained at these. Ends with a table and the path of a page with figures. The rows
stay in --out, and a second start computes only what is missing.
"""

from absl import flags

from w2s_jax.errors import run_script

TEACHER = "reviews_vs_tweets/minilm_embeddings"
STUDENT = "reviews_vs_tweets/minilm_last"
KEEP_FRACTIONS = (0.2, 0.4, 0.6, 0.8)
GCE_QS = (0.2, 0.7)

flags.DEFINE_string("out", "runs/quickstart", "run directory for rows and report")
flags.DEFINE_integer("num_seeds", 10, "draws for each setting")
FLAGS = flags.FLAGS


def main() -> None:
    """Trains, chooses, retrains, reports."""
    import dataclasses

    from w2s_jax import (
        Config,
        Grid,
        enable_compilation_cache,
        format_table,
        resolve_pairs,
        run,
        select_l2,
    )

    enable_compilation_cache()
    grid = Grid(
        pairs=((TEACHER, STUDENT),),
        eta_l=(0.1, 0.5),
        eta_u=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        n_labelled=200,
        n_unlabelled=2000,
        n_validation=100,
        teacher_l2=(0.001, 0.01, 0.1, 1.0),
        student_l2=(0.01, 0.03, 0.1, 0.3, 1.0),
        seeds=tuple(range(FLAGS.num_seeds)),
        methods="vanilla",
    )
    pairs = resolve_pairs(grid.pairs)
    # One draw first, for an answer within seconds; its rows are part of the grid.
    first = dataclasses.replace(grid, eta_l=0.5, eta_u=0.5, seeds=0)
    draw = "method == 'vanilla' and eta_l == 0.5 and eta_u == 0.5 and seed == 0"
    chosen = select_l2(run(first, pairs=pairs, out=FLAGS.out).query(draw))
    names = [f"{model}_accuracy" for model in ("teacher", "student", "ceiling")]
    teacher, student, ceiling = 100 * chosen[names].mean()
    print(
        f"one draw, eta_l = eta_u = 0.5: teacher {teacher:.1f} %, its student {student:.1f} %, "
        f"a student of true labels {ceiling:.1f} %\n"
    )
    print("1/3  teachers, students and ceilings over a grid of penalties")
    vanilla = run(grid, pairs=pairs, out=FLAGS.out, progress=True)

    print("2/3  Enhanced-W2S at the penalties that labelled validation rows choose")
    chosen = select_l2(vanilla.query("method == 'vanilla'"))
    configs = [
        Config.from_row(
            row,
            method="enhanced",
            keep_fraction=p,
            gce_q=q,
            retrain_targets="teacher",
            retrain_init="zero",
        )
        for row in chosen.to_dict("records")
        for p in KEEP_FRACTIONS
        for q in GCE_QS
    ]
    rows = run(configs, pairs=pairs, out=FLAGS.out, progress=True)

    from w2s_jax import write_report  # matplotlib would delay the first result

    print("3/3  report\n")
    shown = {"keep_fraction": 0.6, "gce_q": 0.7}
    print(format_table(rows, **shown))
    page = write_report(
        rows, f"{FLAGS.out}/report", title="Movie reviews against tweets: W2S", **shown
    )
    print(f"\npage: {page}")


if __name__ == "__main__":
    run_script(main)
