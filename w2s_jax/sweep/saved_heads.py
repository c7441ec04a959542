"""Trained heads kept beside their result rows, and evaluated again on other features.

A run directory gets ``heads/``: one Orbax checkpoint a chunk of configurations, with the distinct
heads of each model and the key of the result row that each belongs to, and one a set of features,
with the float64 centring, scaling and rotation that lead from raw features to the heads'
coordinates. A chunk's heads are written before its rows are committed, so that a row of a run that
keeps heads is never without them.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from w2s_jax.errors import GridError, StoreError
from w2s_jax.features import SPLITS, FeatureSet
from w2s_jax.features.scaling import Scaling
from w2s_jax.heads import Prepared
from w2s_jax.heads.prepared import Basis, check_dtype, prepare_in
from w2s_jax.metrics import GroupedTest, grouped_test
from w2s_jax.pipeline import Heads
from w2s_jax.sweep.axes import AXES
from w2s_jax.sweep.head_writer import write_elsewhere
from w2s_jax.sweep.hosts import this_process
from w2s_jax.sweep.locations import Location, is_remote, location
from w2s_jax.sweep.scoring import predict
from w2s_jax.sweep.store import read_rows

MODELS = ("teacher", "ceiling", "student")
HEADS = "heads"
# The threads of a device or several share features.
_WRITING = threading.Lock()


class Transform(NamedTuple):
    """From raw features to the coordinates of heads."""

    scaling: Scaling
    basis: Basis

    def prepared(self, features: np.ndarray, dtype: np.dtype) -> Prepared:
        """Raw features ``[n, d]`` as rows that the heads can be evaluated on."""
        return prepare_in(self.basis, self.scaling.apply(features, dtype), dtype=dtype)


class ModelHeads(NamedTuple):
    """The heads of one model behind some result rows.

    Attributes:
        params: of distinct heads ``[m, k, r + 1]``, intercept last.
        index: which head each row has ``[rows]``.
        transform: of the features that they are trained on.
        features: name of the transform.
    """

    params: Float[np.ndarray, "m k p"]
    index: Int[np.ndarray, " rows"]
    transform: Transform
    features: str


def check_models(models: Sequence[str]) -> tuple[str, ...]:
    """The models whose heads are to be kept.

    Raises:
        GridError: for an unknown one.
    """
    models = (models,) if isinstance(models, str) else models
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        known = ", ".join(MODELS)
        raise GridError(f"save_heads: unknown model {unknown[0]!r}; known: {known}")
    return tuple(dict.fromkeys(models))


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").addFilter(_is_no_chatter)
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler())


def _is_no_chatter(record: logging.LogRecord) -> bool:
    """False for what Orbax tells of every file that it writes."""
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname


def _save(path: Path, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all; one that is there already is the same."""
    if path.exists():
        return
    process = this_process()
    temporary = path.with_name(f".{path.name}{process.suffix()}.tmp")
    write = write_checkpoint if process.alone else write_elsewhere
    write(path.absolute(), temporary.absolute(), arrays, about)


def write_checkpoint(
    path: Path, temporary: Path, arrays: dict[str, Any], about: dict[str, Any]
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: where it is to be. Where another process writes the same there, one of both stays.
        temporary: where it is until then.
        arrays: by name.
        about: anything that JSON holds.

    Raises:
        StoreError: where it cannot be written.
    """
    import orbax.checkpoint as ocp

    made = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),  # pyright: ignore[reportCallIssue]
        about=ocp.args.JsonSave(about),  # pyright: ignore[reportCallIssue]
    )
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        with _checkpointer() as checkpointer:
            checkpointer.save(temporary, args=made)
        try:
            os.replace(temporary, path)
        except OSError:
            if not path.exists():
                raise
            shutil.rmtree(temporary)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(f"cannot write heads to {path}: {error}; make room, go on") from error


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import orbax.checkpoint as ocp

    wanted = ocp.args.Composite(
        arrays=ocp.args.StandardRestore(),
        about=ocp.args.JsonRestore(),  # pyright: ignore[reportCallIssue]
    )
    try:
        with _checkpointer() as checkpointer:
            found = checkpointer.restore(path.absolute(), args=wanted)
    except Exception as error:  # noqa: BLE001 - Orbax and TensorStore raise many kinds
        raise StoreError(
            f"the heads in {path} cannot be read ({type(error).__name__}); move the folder away, "
            "and run the sweep in a new directory to have them again"
        ) from error
    return found["arrays"], found["about"]


def save_heads(run: str | Location, keys: Sequence[str], models: dict[str, ModelHeads]) -> None:
    """Writes the heads behind some result rows.

    Args:
        run: the run directory.
        keys: of the rows.
        models: heads by model.

    Raises:
        StoreError: where they cannot be written.
    """
    folder = Path(run) / HEADS
    folder.mkdir(exist_ok=True)
    with _WRITING:
        _save_all(folder, keys, models)


def _save_all(folder: Path, keys: Sequence[str], models: dict[str, ModelHeads]) -> None:
    arrays: dict[str, Any] = {}
    for name, own in models.items():
        scaling, basis = own.transform
        parts = {
            "mean": scaling.mean,
            "multiplier": scaling.multiplier,
            "basis_mean": basis.mean,
            "basis_axes": basis.axes,
            "basis_spectrum": basis.spectrum,
        }
        _save(folder / f"features-{own.features}", parts, {})
        arrays[f"{name}_params"] = own.params
        arrays[f"{name}_index"] = own.index
    about = {"keys": list(keys), "features": {name: own.features for name, own in models.items()}}
    identity = hashlib.blake2b(json.dumps(about).encode(), digest_size=12).hexdigest()
    _save(folder / f"chunk-{identity}", arrays, about)


class _Loaded(NamedTuple):
    keys: list[str]
    params: np.ndarray
    index: np.ndarray
    features: str


def _chunks(folder: Path, model: str) -> list[_Loaded]:
    loaded = []
    for path in sorted(folder.glob("chunk-*")):
        arrays, about = _load(path)
        if model not in about["features"]:
            continue
        params, index = (np.asarray(arrays[f"{model}_{part}"]) for part in ("params", "index"))
        loaded.append(_Loaded(about["keys"], params, index, about["features"][model]))
    return loaded


def _transform(folder: Path, features: str) -> Transform:
    arrays, _ = _load(folder / f"features-{features}")
    parts = {name: np.asarray(array) for name, array in arrays.items()}
    return Transform(
        Scaling(parts["mean"], parts["multiplier"]),
        Basis(parts["basis_mean"], parts["basis_axes"], parts["basis_spectrum"]),
    )


def evaluate_heads(
    run: str | Location, features: FeatureSet, *, model: str = "student", split: str = "test"
) -> pd.DataFrame:
    """Evaluates the kept heads of a run on a feature set.

    The features go through the centring, scaling and rotation that the heads were trained in, whose
    statistics are those of the run's own pool. On the run's own features accuracies equal the
    stored ones, and calibration does but for rounding.

    Args:
        run: a run directory whose sweep kept heads (``--save_heads``).
        features: labelled features of the model's backbone.
        model: "student", "teacher" or "ceiling".
        split: rows to evaluate on: "train", "val" or "test".

    Returns:
        A row for each result row with heads: its key, its axes, and the columns
        ``{model}_accuracy``, ... as in result rows. Averages that need the run's training shares
        are NaN where the groups of `features` are others than the run's.

    Raises:
        GridError: for an unknown model or split, or one without rows.
        StoreError: where the run kept no such heads, or they are damaged.
    """
    (model,) = check_models((model,))
    if split not in SPLITS:
        raise GridError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    path = location(run)
    if is_remote(path):
        raise StoreError(f"{run} is in an object store, where no heads are kept; give a local run")
    folder = path / HEADS
    chunks = _chunks(folder, model) if folder.is_dir() else []
    if not chunks:
        raise StoreError(
            f"{run} holds no {model} heads; run the sweep with --save_heads={model} in a new "
            "directory"
        )
    test_rows = np.flatnonzero((features.split == SPLITS.index(split)) & (features.labels >= 0))
    if not len(test_rows):
        raise GridError(f"{features.name} has no labelled rows of split {split}; choose another")
    rows = read_rows(run).set_index("key")
    side, other = ("teacher", "student") if model == "teacher" else ("student", "teacher")
    if features.fingerprint in set(rows[f"{other}_fingerprint"]) - set(rows[f"{side}_fingerprint"]):
        raise GridError(
            f"{features.name} are the {other}'s features in {run}; the {model} heads take the "
            f"{side}'s, or others of the same backbone and layer"
        )
    prepared: dict[str, Prepared] = {}
    frames = []
    for chunk in chunks:
        if chunk.features not in prepared:
            transform = _transform(folder, chunk.features)
            wanted = len(transform.scaling.mean)
            if features.features.shape[1] != wanted:
                raise GridError(
                    f"the {model} heads of {run} take {wanted} features, {features.name} has "
                    f"{features.features.shape[1]}; give features of the same backbone and layer"
                )
            dtype = np.dtype(check_dtype(chunk.params.dtype))
            rows_in_order = _grouped(features, test_rows, []).rows
            raw = features.features[rows_in_order]
            prepared[chunk.features] = transform.prepared(raw, dtype)
        known = [i for i, key in enumerate(chunk.keys) if key in rows.index]
        own = rows.loc[[chunk.keys[i] for i in known]]
        for described, positions in own.groupby("groups", sort=False).indices.items():
            test = _grouped(features, test_rows, json.loads(str(described)))
            index = chunk.index[[known[i] for i in positions]]
            own_prepared = prepared[chunk.features]
            columns = _metrics(chunk.params, index, own_prepared, features.labels, test, model)
            axes = own.iloc[positions][["method", "pair", *(axis.name for axis in AXES)]]
            frames.append(pd.concat([axes.reset_index(), pd.DataFrame(columns)], axis=1))
    return pd.concat(frames, ignore_index=True).drop_duplicates("key", ignore_index=True)


def _grouped(
    features: FeatureSet, test_rows: np.ndarray, groups: list[dict[str, Any]]
) -> GroupedTest:
    """The rows by group; class prior and training shares are those of the run."""
    stored = {group["name"]: group for group in groups}
    prior = np.zeros(features.num_classes)
    for group in groups:
        if group["label"] < len(prior):
            prior[group["label"]] = group["prior"]
    test = grouped_test(
        features.groups,
        test_rows,
        np.flatnonzero(features.split == 0),
        names=features.group_names,
        labels=features.group_labels,
        minority=features.group_minority,
        prior=prior,
    )
    shares = [stored.get(name, {}).get("train_share", 0.0) for name in test.names]
    return dataclasses.replace(test, train_share=np.array(shares))


def _metrics(
    params: np.ndarray,
    index: np.ndarray,
    prepared: Prepared,
    labels: np.ndarray,
    test: GroupedTest,
    model: str,
) -> dict[str, np.ndarray]:
    """Columns of the model, one value a row; `prepared` has the test rows in their order."""
    used, back = np.unique(index, return_inverse=True)
    nothing = np.zeros(len(used))
    heads = Heads(params[used], nothing, nothing, nothing, nothing.astype(int), nothing.astype(int))
    labels = labels[test.rows]
    here = np.arange(len(labels))
    found = predict(prepared, heads, here, labels, len(labels))
    by_group = test.group_accuracies(found.classes == labels)
    columns = {f"{model}_{name}": values for name, values in test.averages(by_group).items()}
    for g in range(len(test.counts)):
        columns[f"{model}_group_{g}_accuracy"] = by_group[:, g]
    columns[f"{model}_negative_log_likelihood"] = found.negative_log_likelihood
    columns[f"{model}_calibration_error"] = found.calibration_error
    return {name: values[back] for name, values in columns.items()}
