"""Draws what the theory says, with simulation as its judge, and compares it with real features.

    python experiments/theory.py --out=runs/theory

Cost: about 70 seconds on 2 cores. Writes OUT/index.html, OUT/figures, OUT/series.csv (all
numbers drawn) and OUT/agreement.csv (how well the order of gains on real features is predicted).
"""

import os

from absl import flags

from w2s_jax.errors import W2SError, run_script

TEACHER = "reviews_vs_tweets/minilm_embeddings"
STUDENT = "reviews_vs_tweets/minilm_last"

flags.DEFINE_string("out", "runs/theory", "folder of the page, its figures and the tables")
flags.DEFINE_integer("d_z", 48, "dimension of the core features in simulations", lower_bound=2)
flags.DEFINE_integer("num_draws", 32, "draws for each simulated point", lower_bound=2)
flags.DEFINE_integer("labels_per_draw", 16, "labels for the features of a draw", lower_bound=1)
flags.DEFINE_integer("num_dots", 5, "simulated points on a curve", lower_bound=2)
flags.DEFINE_integer("num_seeds", 5, "draws of the benchmark; 0 leaves it out", lower_bound=0)
flags.DEFINE_float(
    "spectral_mass", 0.9, "share of the within-group variance that counts, > 0", 0.0, 1.0
)
flags.DEFINE_integer("seed", 0, "of the simulations")
FLAGS = flags.FLAGS


def benchmark():
    """Predicted beside measured gains of the embedded pair."""
    from w2s_jax import Grid, load_features, run
    from w2s_jax.report.theory_page import benchmark_agreement
    from w2s_jax.theory.estimation import estimate_pair

    features = [load_features(name) for name in (TEACHER, STUDENT)]
    estimate = estimate_pair(*features, spectral_mass=FLAGS.spectral_mass, num_resamples=30)
    grid = Grid(
        pairs=((TEACHER, STUDENT),),
        eta_l=(0.1, 0.5),
        eta_u=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        n_labelled=200,
        n_unlabelled=2000,
        teacher_l2=(0.01, 0.1),
        student_l2=(0.03, 0.3),
        seeds=tuple(range(FLAGS.num_seeds)),
        methods="vanilla",
    )
    return benchmark_agreement(run(grid), estimate)


def main() -> None:
    """Computes every study, measures the benchmark, writes the page."""
    from w2s_jax import enable_compilation_cache
    from w2s_jax.report.theory_page import agreement_sentence, write_theory_page
    from w2s_jax.theory.findings import findings
    from w2s_jax.theory.study import STUDIES, Setup, distance_at_practical_ratios

    if os.path.isfile(FLAGS.out):
        raise W2SError(f"--out={FLAGS.out} is a file; give a folder to write the page to")
    enable_compilation_cache()
    effort = (FLAGS.num_draws, FLAGS.labels_per_draw, FLAGS.num_dots)
    setup = Setup(FLAGS.d_z, *effort, FLAGS.seed)
    studies = []
    for name, study in STUDIES.items():
        print(f"{len(studies) + 1}/{len(STUDIES)}  {name}", flush=True)
        studies.append(study(setup))
    far = distance_at_practical_ratios(setup)
    distance = (
        "On the first figure's problem (p_T gamma = 0.2, p_S nu = 0.1), over eta_u and eta_t, the "
        f"student's risk by a leading order is up to {100 * far['mixture']:.0f} % (mixture) and "
        f"{100 * far['published']:.0f} % (published) away from the proportional form."
    )
    agreement = benchmark() if FLAGS.num_seeds else None
    simulated = (
        f"{FLAGS.num_draws} draws a dot with {FLAGS.labels_per_draw} labels each, d_z = "
        f"{FLAGS.d_z} or as an example says"
    )
    texts = {"effort": simulated, "distance": distance}
    page = write_theory_page(studies, findings(), FLAGS.out, **texts, agreement=agreement)
    print(f"\n{distance}" + (f"\n{agreement_sentence(agreement)}" if agreement else ""))
    print(f"\npage: {page}")


if __name__ == "__main__":
    # Small factorisations gain nothing from BLAS threads, and lose much to those that wait.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    run_script(main)
