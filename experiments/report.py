"""Turns the rows of a run into a table in the terminal and a page with figures.

    python experiments/report.py --run=runs/demo --keep_fraction=0.5 --gce_q=0.7

The page is RUN/report/index.html unless --out names another folder; it opens without a network.
Without --keep_fraction and --gce_q the methods are shown at the middle of the grid.
"""

from absl import flags

from w2s_jax.errors import W2SError, run_script

flags.DEFINE_string("run", None, "run directory of experiments/sweep.py", required=True)
flags.DEFINE_string("out", None, "folder of the page; default RUN/report")
flags.DEFINE_string("title", "Weak-to-strong generalization: results", "heading of the page")
flags.DEFINE_float("keep_fraction", None, "share p of rows kept at which methods are shown")
flags.DEFINE_float("gce_q", None, "exponent q at which methods are shown")
flags.DEFINE_list("eta_t", ["0.1", "0.5"], "minority fractions of the test data; the last leads")
FLAGS = flags.FLAGS


def test_fractions() -> list[float]:
    """The numbers of --eta_t."""
    try:
        return [float(text) for text in FLAGS.eta_t]
    except ValueError:
        raise W2SError(
            f"--eta_t takes numbers between 0 and 1 with commas between them, found"
            f" {','.join(FLAGS.eta_t)!r}"
        ) from None


def main() -> None:
    """Reads the rows, prints the table, writes the page."""
    eta_t = test_fractions()

    if "://" in FLAGS.run and not FLAGS.out:
        raise W2SError(f"the page is made in a local folder, and {FLAGS.run} is none; give --out")

    from w2s_jax.report import format_table, write_report
    from w2s_jax.sweep import read_rows

    rows = read_rows(FLAGS.run)
    choice = {"keep_fraction": FLAGS.keep_fraction, "gce_q": FLAGS.gce_q, "eta_t": eta_t}
    print(format_table(rows, **choice))
    page = write_report(rows, FLAGS.out or f"{FLAGS.run}/report", title=FLAGS.title, **choice)
    print(f"\npage: {page}")


if __name__ == "__main__":
    run_script(main)
