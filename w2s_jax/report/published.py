"""Published ranges of the relative improvement of Enhanced-W2S over vanilla W2S.

Liu, Dong and Lei, "Does Weak-to-strong Generalization Happen under Spurious Correlations?",
arXiv 2509.24005, ICLR 2026: relative improvement (%) of average accuracy, averaged over all (n, N),
lowest and highest over those of the ten pairs of five backbones that are reported on a benchmark.
"""

import re
from typing import NamedTuple

CITATION = "Liu, Dong and Lei, arXiv 2509.24005"
BALANCED = 0.5

Range = tuple[float, float] | None


class Published(NamedTuple):
    """What is published of a benchmark.

    Attributes:
        title: Its name in the paper.
        balanced_labels: Range at eta_l = 0.5, eta_u = eta_o, percent; None where there is none.
        balanced_unlabelled: Range at eta_l = eta_o, eta_u = 0.5.
        note: What the range leaves out.
    """

    title: str
    balanced_labels: Range
    balanced_unlabelled: Range
    note: str = ""


RANGES = {
    "waterbirds": Published("Waterbirds", (0.77, 16.68), (1.32, 14.54)),
    "bffhq": Published("BFFHQ", (2.75, 8.42), None),
    "imagenet9": Published("ImageNet-9", (4.22, 24.11), (1.81, 23.24)),
    "bg_coco": Published(
        "BG-COCO",
        (2.05, 24.01),
        None,
        "The published range leaves out one pair at −3.52. The images here are by a recipe of our"
        " own: none is published.",
    ),
}

# What may follow a benchmark's name: options that leave its test set as it is, or take a part of it
# at random.
OPTIONS = {"bffhq": r"[\d.]+pct", "imagenet9": "(release)?"}


def find_published(benchmark: str) -> Published | None:
    """What is published of a benchmark, by its name here; None for other test sets than its own.

    >>> find_published("bffhq-0.5pct").title
    'BFFHQ'
    """
    name, _, option = benchmark.partition("-")
    return RANGES.get(name) if re.fullmatch(OPTIONS.get(name, ""), option) else None
