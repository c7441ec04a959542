"""`reviews_vs_tweets`: sentiment (label) of texts that are movie reviews or tweets (attribute).

Texts and mean ratings by some twenty people each are those of Hutto and Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014 (MIT
licence). In order, the rules are:

1. Kept are texts of the movie-review and tweet files whose mean rating is above 0.5 (positive, 1)
   or below -0.5 (negative, 0). An id is `r` or `t` (the file) and the id in that file.
2. Two texts are duplicates when they are equal after case folding and with every run of white space
   as one blank. The first in file order stays; all go where copies differ in label or attribute.
3. All tweets stay, and of each class the 3,200 reviews with the smallest hash of their id.
4. A text is a test row when the hash of its family is in the lowest 30 %, else a training row.
   A family is all texts with the same words (letters and digits only, case folded), named by
   its first id: 126 of the texts are such variants ("Yay!!", "YAY.") of 33, and no family has
   members in both splits.

Minority cells are negative tweets and positive reviews: most tweets of the source are positive.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.vader import read_rated_texts

CLASS_NAMES = ("negative", "positive")
ATTRIBUTE_NAMES = ("review", "tweet")
# [class, attribute]
MINORITY_CELLS = ((False, True), (True, False))

RATING_THRESHOLD = 0.5
REVIEWS_PER_CLASS = 3200
TEST_FRACTION = 0.3

# (label, attribute) -> texts beyond the rating threshold, and after rules 2 to 4 -> (train, test).
RATED_COUNTS = {(0, 0): 5061, (0, 1): 1062, (1, 0): 4982, (1, 1): 2300}
SPLIT_COUNTS = {(0, 0): (2272, 928), (0, 1): (711, 321), (1, 0): (2213, 987), (1, 1): (1593, 677)}


class Text(NamedTuple):
    """One text with its label, attribute and split (`""` before it is assigned)."""

    id: str
    text: str
    label: int
    attribute: int
    split: str = ""


def keep_rated(source: str | Path) -> list[Text]:
    """Rule 1: reviews, then tweets, with a rating beyond the threshold, in file order.

    Args:
        source: As for `w2s_jax.datasets.vader.read_text_files`.

    Returns:
        The texts, duplicates included.

    Raises:
        DatasetError: A file is absent or malformed.
    """
    return [
        Text(f"{'rt'[attribute]}{rated.id}", rated.text, int(rated.rating > 0), attribute)
        for attribute, texts in enumerate(read_rated_texts(source))
        for rated in texts
        if abs(rated.rating) > RATING_THRESHOLD
    ]


def remove_duplicates(texts: Sequence[Text]) -> list[Text]:
    """Rule 2: the first of equal texts, or none where the copies disagree.

    Args:
        texts: In file order.

    Returns:
        The texts that stay, in the same order.
    """
    copies = defaultdict(list)
    for text in texts:
        copies[" ".join(text.text.casefold().split())].append(text)
    stay = {
        group[0].id
        for group in copies.values()
        if len({(t.label, t.attribute) for t in group}) == 1
    }
    return [text for text in texts if text.id in stay]


def sample_reviews(texts: Sequence[Text], num_per_class: int) -> list[Text]:
    """Rule 3: all tweets, and the reviews of each class with the smallest hashes.

    Args:
        texts: The texts.
        num_per_class: Reviews to keep of each class.

    Returns:
        The texts that stay, in the same order.

    Raises:
        DatasetError: A class has fewer reviews.
    """
    stay = {text.id for text in texts if text.attribute == 1}
    for label, name in enumerate(CLASS_NAMES):
        reviews = [t.id for t in texts if (t.label, t.attribute) == (label, 0)]
        if len(reviews) < num_per_class:
            raise DatasetError(f"{len(reviews)} {name} reviews, {num_per_class} are needed.")
        stay.update(sorted(reviews, key=lambda i: _unit_hash("sample", i))[:num_per_class])
    return [text for text in texts if text.id in stay]


def assign_splits(texts: Sequence[Text]) -> list[Text]:
    """Rule 4: training and test rows, families kept together.

    Args:
        texts: The texts, in file order.

    Returns:
        The texts with their splits.
    """
    first_ids: dict[str, str] = {}
    split_texts = []
    for text in texts:
        words = " ".join(re.findall(r"[^\W_]+", text.text.casefold()))
        family = first_ids.setdefault(words or text.id, text.id)
        test = _unit_hash("split", family) < TEST_FRACTION
        split_texts.append(text._replace(split="test" if test else "train"))
    return split_texts


def count_rated(texts: Sequence[Text]) -> dict[tuple[int, int], int]:
    """Number of texts by (label, attribute).

    Args:
        texts: The texts.

    Returns:
        (label, attribute) to count.
    """
    return dict(sorted(Counter((t.label, t.attribute) for t in texts).items()))


def count_splits(texts: Sequence[Text]) -> dict[tuple[int, int], tuple[int, int]]:
    """Numbers of training and test texts by (label, attribute).

    Args:
        texts: The texts with their splits.

    Returns:
        (label, attribute) to (train, test).
    """
    counts = Counter((t.label, t.attribute, t.split) for t in texts)
    cells = sorted({key[:2] for key in counts})
    return {cell: (counts[*cell, "train"], counts[*cell, "test"]) for cell in cells}


def make_texts(
    source: str | Path,
    *,
    reviews_per_class: int = REVIEWS_PER_CLASS,
    rated_counts: Mapping[tuple[int, int], int] | None = None,
    split_counts: Mapping[tuple[int, int], tuple[int, int]] | None = None,
) -> list[Text]:
    """The benchmark's texts by all four rules, with their numbers checked.

    Args:
        source: As for `w2s_jax.datasets.vader.read_text_files`.
        reviews_per_class: Reviews to keep of each class.
        rated_counts: Expected counts after rule 1; None checks nothing.
        split_counts: Expected counts after rule 4; None checks nothing.

    Returns:
        The texts, reviews before tweets, each in file order.

    Raises:
        DatasetError: A file is absent or malformed, or a count differs.
    """
    rated = keep_rated(source)
    _check_counts("texts beyond the rating threshold", count_rated(rated), rated_counts)
    texts = assign_splits(sample_reviews(remove_duplicates(rated), reviews_per_class))
    _check_counts("training and test texts", count_splits(texts), split_counts)
    return texts


class ReviewsVsTweets(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of `reviews_vs_tweets`; needs no TensorFlow with `as_data_source`.

    Args:
        texts: As for `make_texts`; None looks into TFDS's manual folder.
        **kwargs: Of `tfds.core.DatasetBuilder`, such as `data_dir`; files are array_record.
    """

    VERSION = tfds.core.Version("1.0.0")
    # There are no download checksums beside this file, and to look for them TFDS 4.9.10 imports
    # importlib_resources, which it does not depend on.
    code_path = None
    MANUAL_DOWNLOAD_INSTRUCTIONS = "pip download --no-deps --no-binary :all: vaderSentiment==3.3.2"
    MINORITY_CELLS = MINORITY_CELLS
    ETA_O = None  # The texts come from two sources, so no fraction between them is natural.
    POOL = "train"
    REVIEWS_PER_CLASS = REVIEWS_PER_CLASS
    RATED_COUNTS = RATED_COUNTS
    SPLIT_COUNTS = SPLIT_COUNTS

    def __init__(self, *, texts: str | Path | None = None, **kwargs):
        self.texts = texts
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                    "attribute": tfds.features.ClassLabel(names=list(ATTRIBUTE_NAMES)),
                }
            ),
            homepage="https://github.com/cjhutto/vaderSentiment",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        texts = make_texts(
            self.texts or str(dl_manager.manual_dir),
            reviews_per_class=self.REVIEWS_PER_CLASS,
            rated_counts=self.RATED_COUNTS,
            split_counts=self.SPLIT_COUNTS,
        )
        return {split: self._generate_examples(texts, split) for split in ("train", "test")}

    def _generate_examples(self, texts: Sequence[Text], split: str) -> Iterator:
        rows = [text for text in texts if text.split == split]
        for row, text in enumerate(rows):
            example = text._asdict()
            del example["split"]
            yield row, example


def _unit_hash(purpose: str, identifier: str) -> float:
    """Hash of an id as a number in [0, 1), independent for each purpose."""
    digest = hashlib.sha256(f"reviews_vs_tweets/{purpose}/{identifier}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _check_counts(what: str, found: Mapping, expected: Mapping | None) -> None:
    if expected is not None and found != expected:
        raise DatasetError(
            f"Numbers of {what} by (label, attribute) are {found}, expected {dict(expected)}; "
            "use the texts of vaderSentiment 3.3.2."
        )
