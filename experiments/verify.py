"""Checks run directories and feature caches, every byte of them.

    python experiments/verify.py --run=runs/demo --features=caches/vit,caches/resnet

Prints one line for each, and one for each defect; ends with 1 where there is any.
"""

import sys

from absl import flags

import w2s_jax
from w2s_jax.errors import W2SError, run_script
from w2s_jax.sweep.verification import count_rows, verify_run

flags.DEFINE_list("run", [], "run directories of experiments/sweep.py")
flags.DEFINE_list("features", [], "feature caches, files of features, or shipped names")
FLAGS = flags.FLAGS


def main() -> None:
    """Checks all that is named."""
    runs, features = FLAGS.run or (), FLAGS.features or ()
    if not runs and not features:
        raise W2SError("nothing to check; give --run=DIR or --features=PATH")
    defects = []
    for run in runs:
        try:
            found = verify_run(run)
        except W2SError as error:
            found = [str(error)]
        if not found:
            parts, rows, aside = count_rows(run)
            more = f", {aside} damaged part(s) set aside earlier" if aside else ""
            print(f"{run}: {rows} rows in {parts} parts are whole{more}")
        defects += found
    for name in features:
        try:
            loaded = w2s_jax.load_features(name)
            loaded.verify()
        except W2SError as error:
            defects.append(str(error))
        else:
            print(f"{name}: {loaded.features.shape[0]} rows, fingerprint {loaded.fingerprint[:12]}")
    for defect in defects:
        print(f"defect: {defect}")
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    run_script(main)
