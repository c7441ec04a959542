"""Evaluates the heads that a sweep kept, on another feature set.

    python experiments/sweep.py --out=runs/kept --save_heads=student --seeds=0,1
    python experiments/evaluate.py --run=runs/kept --features=reviews_vs_tweets/minilm_last
    python experiments/evaluate.py --run=runs/kept --features=SHIFTED --split=test --out=shifted.csv

SHIFTED is a feature cache, or a file of arrays, of the backbone that the heads were trained on. On
the run's own features every accuracy equals the stored one, and calibration but for rounding.
"""

from pathlib import Path

import pandas as pd
from absl import flags

from w2s_jax.compilation import enable_compilation_cache
from w2s_jax.errors import StoreError, run_script
from w2s_jax.features import load_features
from w2s_jax.sweep import evaluate_heads

flags.DEFINE_string("run", None, "run directory of a sweep with --save_heads", required=True)
flags.DEFINE_string("features", None, "shipped name or path of a feature set", required=True)
flags.DEFINE_enum("model", "student", ["student", "teacher", "ceiling"], "whose heads")
flags.DEFINE_enum("split", "test", ["train", "val", "test"], "rows to evaluate on")
flags.DEFINE_string("minority_cells", None, "label:attribute cells that are minority, for arrays")
flags.DEFINE_string("out", None, "CSV file for the result; default evaluation.csv in the run")
flags.DEFINE_string("compilation_cache", None, "folder of compiled programs; default in ~/.cache")
FLAGS = flags.FLAGS


def main() -> None:
    """Evaluates, writes the CSV, prints means by method."""
    features = load_features(FLAGS.features, minority_cells=FLAGS.minority_cells)
    features.verify()
    enable_compilation_cache(FLAGS.compilation_cache)
    rows = evaluate_heads(FLAGS.run, features, model=FLAGS.model, split=FLAGS.split)
    rows = rows.assign(features=features.name, split=FLAGS.split)
    out = Path(FLAGS.out or Path(FLAGS.run) / "evaluation.csv")
    try:
        rows.to_csv(out, index=False)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}; give another --out") from error
    shown = [f"{FLAGS.model}_accuracy", f"{FLAGS.model}_worst_group_accuracy"]
    means = pd.DataFrame(rows.groupby("method", sort=False)[shown].mean())
    print(means.round(4).to_string())
    print(f"{len(rows)} rows in {out}")


if __name__ == "__main__":
    run_script(main)
