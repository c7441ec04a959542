"""The columns of an image source are what feature sets and draws take."""

import numpy as np
from image_files import write_waterbirds
from test_imagenet9 import write_imagenet9

from w2s_jax.datasets import open_benchmark
from w2s_jax.features import make_feature_set
from w2s_jax.splits import Pool, Request


def feature_set(source):
    columns, benchmark = source.columns, source.benchmark
    groups = {"minority": columns["minority"].astype(bool)}
    if benchmark.attributes:
        groups = {
            "attributes": columns["attribute"],
            "attribute_names": benchmark.attributes,
            "minority_cells": benchmark.minority_cells,
        }
    return make_feature_set(
        np.zeros((len(source), 2), np.float32),
        columns["label"],
        split=columns["split"],
        ids=columns["id"],
        source_ids=columns["source_id"] if columns["source_id"].all() else None,
        class_names=benchmark.classes,
        eta_o=benchmark.eta_o,
        pool=benchmark.pool,
        name=benchmark.name,
        **groups,
    )


def test_waterbirds(tmp_path):
    write_waterbirds(tmp_path)
    source = open_benchmark("waterbirds", tmp_path, check_counts=False)
    features = feature_set(source)
    np.testing.assert_array_equal(features.minority, source.columns["minority"])
    assert len(features.pool_rows) == 11
    assert features.group_names[1] == "landbird/water"


def test_imagenet9_draws_keep_objects_in_one_role(tmp_path):
    source = open_benchmark("imagenet9", write_imagenet9(tmp_path), check_counts=False)
    features = feature_set(source)
    assert features.group_names[4:6] == ("wheeled vehicle/majority", "wheeled vehicle/minority")
    pool = Pool(
        features.ids,
        features.labels,
        features.minority,
        features.pool_rows,
        num_classes=9,
        source_ids=features.source_ids,
    )
    draw = pool.draw(0, Request(eta_l=0.5, n_labelled=18, eta_u=0.5, n_unlabelled=18))
    labelled, unlabelled = (
        set(source.columns["source_id"][rows].tolist()) for rows in (draw.labelled, draw.unlabelled)
    )
    assert len(labelled) == len(unlabelled) == 9
    assert not labelled & unlabelled
