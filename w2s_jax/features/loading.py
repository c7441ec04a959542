"""load_features: one entry for shipped sets, caches and a user's own arrays."""

import os
from pathlib import Path

from numpy.typing import ArrayLike

from w2s_jax.errors import FeatureError
from w2s_jax.features import checks
from w2s_jax.features.cache import MANIFEST, load_cache
from w2s_jax.features.feature_set import FeatureSet
from w2s_jax.features.importing import import_npy, import_npz

_DATA = Path(__file__).resolve().parent.parent / "data"


def shipped_names() -> tuple[str, ...]:
    """Names of the feature sets that come with the package, "benchmark/set"."""
    return tuple(
        sorted(f"{m.parent.parent.name}/{m.parent.name}" for m in _DATA.glob(f"*/*/{MANIFEST}"))
    )


def load_features(
    name_or_path: str | os.PathLike[str],
    *,
    csv: str | os.PathLike[str] | None = None,
    minority_cells: ArrayLike | str | None = None,
    eta_o: float | None = None,
    pool: str | None = None,
) -> FeatureSet:
    """Load a feature set that ships with the package, a cache directory, an .npz or a .npy file.

    A string that names a shipped set means that one; write "./name" for a directory called so.
    Caches and .npy features are memory mapped; a cache opens without reading its arrays.

    Args:
        name_or_path: name from `shipped_names()`, cache directory, .npz, or .npy with a CSV.
        csv: the CSV of a .npy file; default the one beside it with the same name.
        minority_cells: for .npz and .npy, see `make_feature_set`; a cache has its own.
        eta_o: native minority fraction. Default: what a cache says, and for .npz and .npy the
            minority share of the labelled train rows (None where all are of one kind).
        pool: "train" or "train+val". Default: what a cache says, and "train" for .npz and .npy.

    Raises:
        FeatureError: saying what is wrong with the name or file and what to do.
    """
    path = checks.as_path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in shipped_names():
        path = _DATA / name_or_path
    if path.suffix == ".npy" and not path.is_dir():
        _check_exists(path)
        return import_npy(
            path, csv, minority_cells=minority_cells, eta_o=eta_o, pool=pool or "train"
        )
    if csv is not None:
        raise FeatureError(f"csv goes with a .npy file, not with {path}; leave it out")
    if path.suffix == ".npz" and not path.is_dir():
        _check_exists(path)
        return import_npz(path, minority_cells=minority_cells, eta_o=eta_o, pool=pool or "train")
    if path.is_file():
        raise FeatureError(
            f"{path} is a file of unknown kind {path.suffix!r}; give a cache directory, an .npz, "
            "or a .npy with a CSV beside it"
        )
    if minority_cells is not None:
        raise FeatureError(
            "minority_cells is part of a feature cache and cannot be replaced on loading; "
            "make the cache again from the arrays"
        )
    # load_cache also finds a cache that a killed overwrite left aside.
    try:
        return load_cache(path, eta_o=eta_o, pool=pool)
    except FeatureError:
        if path.exists():
            raise
        _check_exists(path)
        raise


def _check_exists(path: Path) -> None:
    if path.exists():
        return
    known = shipped_names()
    raise FeatureError(
        f"there is no feature set {str(path)!r}{checks.did_you_mean(str(path), known)}: "
        "no such file or directory, and the sets that ship with the package are "
        f"{', '.join(known) or 'none'}"
    )
