import numpy as np
import pytest


def toy_arrays(num_rows=24, **changes):
    """Arguments of make_feature_set for a small valid set; a change of None removes one."""
    rng = np.random.default_rng(0)
    row = np.arange(num_rows)
    arrays = {
        "features": rng.normal(size=(num_rows, 5)).astype(np.float32),
        "labels": row % 2,
        "attributes": row // 2 % 2,
        "split": np.array(["train", "val", "test"])[row // 4 % 3],
        "ids": np.array([f"row-{i:02d}" for i in row]),
    }
    kept = arrays | changes
    nullable = ("eta_o",)
    return {k: v for k, v in kept.items() if v is not None or k in nullable}


@pytest.fixture(scope="session")
def toy():
    return toy_arrays
