"""Trains a grid of teacher-student configurations and stores long result rows.

    python experiments/sweep.py --out=runs/demo --eta_u=0:0.5:6 --student_l2=0.01:1:3:log

Every axis takes a comma list whose entries may be ranges start:stop:num or start:stop:num:log.
Started again with the same --out, it computes only what is missing.
"""

from absl import app, flags

from w2s_jax.errors import script

AXES = {
    "eta_l": ("0.1,0.5", "minority fractions of the labelled set (numbers or eta_o)"),
    "eta_u": ("0.1:0.5:5", "minority fractions of the unlabelled set (numbers, eta_o, unlabelled)"),
    "n_labelled": ("200", "sizes of the labelled set"),
    "n_unlabelled": ("2000", "sizes of the unlabelled set"),
    "teacher_l2": ("0.01", "penalties of the teacher"),
    "student_l2": ("0.1", "penalties of the student and its ceiling"),
    "keep_fraction": ("0.5", "shares of most confident rows kept for retraining"),
    "gce_q": ("0.7", "exponents of generalized cross entropy"),
    "retrain_l2": ("", "penalties of the retraining; empty: student_l2"),
    "seeds": ("0:4:5", "seeds of the draws"),
}
WORDS = {
    "methods": ("vanilla,enhanced", "methods to run"),
    "feature_scaling": ("rms", "rms, none or standardize"),
    "class_prior": ("equal", "equal or pool"),
    "pseudolabels": ("hard", "hard or soft"),
    "retrain_targets": ("teacher", "labels to retrain on: teacher or student"),
    "retrain_init": ("zero", "start of the retraining: zero or warm"),
}
for _name, (_default, _help) in AXES.items():
    flags.DEFINE_string(_name, _default, _help)
for _name, (_default, _help) in WORDS.items():
    flags.DEFINE_list(_name, _default.split(","), _help)
flags.DEFINE_string("teacher", "reviews_vs_tweets/minilm_embeddings", "shipped name or path")
flags.DEFINE_string("student", "reviews_vs_tweets/minilm_last", "shipped name or path")
flags.DEFINE_list("pairs", [], "teacher:student pairs, in place of --teacher and --student")
flags.DEFINE_string("teacher_predictions", None, "file with predictions, in place of --teacher")
flags.DEFINE_integer("n_validation", 0, "size of the labelled validation set")
flags.DEFINE_float("eta_o", None, "what the word eta_o stands for; default the benchmark's own")
flags.DEFINE_string("out", None, "run directory", required=True)
flags.DEFINE_enum("join", "exact", ["exact", "inner"], "inner drops ids that one side lacks")
flags.DEFINE_bool("dry_run", False, "print the plan and stop")
flags.DEFINE_enum("precision", "float32", ["float32", "float64"], "type of the heads")
FLAGS = flags.FLAGS


def main() -> None:
    """Parses the axes, runs the grid, prints where the rows are."""
    import jax

    from w2s_jax.sweep import Grid, parse_axis, plan_grid, resolve_pairs, run

    jax.config.update("jax_enable_x64", FLAGS.precision == "float64")
    axes = {
        name: parse_axis(str(FLAGS[name].value), name)
        for name in AXES
        if FLAGS[name].value or name != "retrain_l2"
    }
    teacher = FLAGS.teacher
    if FLAGS.teacher_predictions:
        teacher = f"predictions={FLAGS.teacher_predictions}"
    grid = Grid(
        pairs=tuple(FLAGS.pairs) or ((teacher, FLAGS.student),),
        n_validation=FLAGS.n_validation,
        eta_o=FLAGS.eta_o,
        **axes,
        **{name: tuple(FLAGS[name].value or ()) for name in WORDS},
    )
    pairs = resolve_pairs(grid.pairs, FLAGS.join)
    if FLAGS.dry_run:
        print(plan_grid(grid, pairs).describe())
        return
    rows = run(grid, pairs=pairs, out=FLAGS.out, progress=True, dtype=FLAGS.precision)
    print(f"{len(rows)} rows in {FLAGS.out}; next: python experiments/report.py --run={FLAGS.out}")


if __name__ == "__main__":
    app.run(script(main))
