"""Feature caches under the published names and counts, with planted signals in place of images."""

from pathlib import Path

import numpy as np

from w2s_jax.features import make_feature_set, save_features

# How well a backbone sees the class; all see the attribute well.
SIGNALS = {
    "resnet18_pooled": 0.6,
    "mae_vit_b16_mean": 0.8,
    "clip_vit_b32_projected": 1.1,
    "convnext_large_pooled": 1.5,
    "dinov2_vitl14_cls": 2.0,
}
# Rows of each (class, majority or minority) by split. Those of Waterbirds and of BFFHQ's train are
# the published ones, those of BG-COCO our recipe's.
COUNTS = {
    "waterbirds": {
        "train": ((3498, 184), (1057, 56)),
        "val": ((467, 466), (133, 133)),
        "test": ((2255, 2255), (642, 642)),
    },
    "bffhq-0.5pct": {
        "train": ((9552, 48),) * 2,
        "val": ((250, 250),) * 2,
        "test": ((250, 250),) * 2,
    },
    "imagenet9": {"train": ((600, 600),) * 9, "test": ((450, 450),) * 9},
    "bg_coco": {"train": ((950, 50),) * 2, "val": ((400, 400),) * 2, "test": ((250, 250),) * 2},
}
ETA_O = {"waterbirds": 240 / 4795, "bffhq-0.5pct": 0.005, "imagenet9": None, "bg_coco": 0.05}
TRAIN_AND_VAL = ("waterbirds",)


def write_stand_ins(folder: Path, benchmark: str, num_features: int = 8) -> None:
    """Writes `folder/features/<benchmark>/<backbone>_<layer>` for the five backbones."""
    label, minority, split = [], [], []
    for name, table in COUNTS[benchmark].items():
        for (y, rare), count in np.ndenumerate(np.array(table)):
            label += [y] * count
            minority += [bool(rare)] * count
            split += [name] * count
    label, minority = np.array(label), np.array(minority)
    num_classes = label.max() + 1
    seen = np.where(minority, (label + 1) % num_classes, label)
    rng = np.random.default_rng(0)
    for backbone, signal in SIGNALS.items():
        directions = rng.normal(size=(2, num_classes, num_features))
        features = signal * directions[0][label] + directions[1][seen]
        features += 1.5 * rng.normal(size=features.shape)
        made = make_feature_set(
            features.astype(np.float16),
            label,
            minority=minority,
            split=np.array(split),
            eta_o=ETA_O[benchmark],
            pool="train+val" if benchmark in TRAIN_AND_VAL else "train",
            name=f"{benchmark}/{backbone}",
        )
        save_features(made, folder / "features" / benchmark / backbone)
