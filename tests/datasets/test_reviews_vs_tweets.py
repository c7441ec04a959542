import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vader_archive import REVIEWS, TWEETS, random_files, random_rows, to_bytes, write_sdist

from w2s_jax.datasets import reviews_vs_tweets as benchmark
from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.reviews_vs_tweets import (
    ReviewsVsTweets,
    Text,
    assign_splits,
    count_rated,
    count_splits,
    keep_rated,
    make_texts,
    remove_duplicates,
    sample_reviews,
)


def test_labels_attributes_and_ids_of_texts_beyond_the_threshold(tmp_path):
    reviews = [(4, 0.5, "a"), (5, 0.51, "b"), (60, -0.5, "c"), (7, -0.50001, "d"), (8, 0, "e")]
    path = write_sdist(tmp_path, {REVIEWS: to_bytes(reviews), TWEETS: to_bytes([(5, -4, "f")])})
    assert keep_rated(path) == [
        Text("r5", "b", 1, 0),
        Text("r7", "d", 0, 0),
        Text("t5", "f", 0, 1),
    ]


def test_duplicates():
    texts = [
        Text("r1", "Great  film", 1, 0),
        Text("r2", "great FILM ", 1, 0),
        Text("r3", "great film!", 1, 0),
        Text("r4", "Same words", 1, 0),
        Text("r5", "same WORDS", 0, 0),
        Text("r6", "Elsewhere", 1, 0),
        Text("t1", "elsewhere", 1, 1),
        Text("t2", "Straße", 0, 1),
        Text("t3", "STRASSE", 0, 1),
    ]
    assert [text.id for text in remove_duplicates(texts)] == ["r1", "r3", "t2"]


def test_sample_takes_all_tweets_and_is_nested():
    texts = [
        Text(f"{'rt'[i % 3 == 0]}{i}", f"text {i}", i % 2, int(i % 3 == 0)) for i in range(120)
    ]
    small, large = sample_reviews(texts, 10), sample_reviews(texts, 25)
    for sample, size in ((small, 10), (large, 25)):
        assert count_rated(sample) == {(0, 0): size, (0, 1): 20, (1, 0): size, (1, 1): 20}
        assert sample == [text for text in texts if text in sample]
    assert set(small) < set(large)
    assert {t.id for t in sample_reviews(texts[::-1], 10)} == {t.id for t in small}
    with pytest.raises(DatasetError, match="40 negative reviews, 41 are needed"):
        sample_reviews(texts, 41)


def test_variants_of_one_text_share_a_split():
    variants = ["Yay. Fun", "YAY!! fun!!", "yay fun :)", "@yay_fun"]
    texts = [
        Text(f"t{100 * family + i}", text.replace("un", "un " * family), 1, 1)
        for family in range(1, 60)
        for i, text in enumerate(variants)
    ]
    splits = [text.split for text in assign_splits(texts)]
    families = [set(splits[start : start + 4]) for start in range(0, len(splits), 4)]
    assert all(len(family) == 1 for family in families)
    assert 8 < sum(family == {"test"} for family in families) < 28


def test_texts_without_words_are_families_of_their_own():
    texts = [Text(f"t{i}", ":) " * i, 1, 1) for i in range(1, 80)]
    assert {text.split for text in assign_splits(texts)} == {"train", "test"}


@given(st.sets(st.integers(1, 99999), min_size=1, max_size=40), st.randoms())
def test_split_depends_on_the_id_alone(numbers, random):
    texts = [Text(f"r{i}", f"text {i}", 1, 0) for i in numbers]
    expected = {text.id: text.split for text in assign_splits(texts)}
    random.shuffle(texts)
    kept = texts[: 1 + len(texts) // 2]
    assert all(expected[text.id] == text.split for text in assign_splits(kept))


def test_test_fraction():
    texts = assign_splits([Text(f"r{i}", f"text {i}", 0, 0) for i in range(20000)])
    ((_, test),) = count_splits(texts).values()
    assert abs(test / 20000 - 0.3) < 0.01


def test_hashes_are_fixed():
    assert benchmark._unit_hash("split", "r1") == pytest.approx(0.590542, abs=1e-6)
    assert benchmark._unit_hash("sample", "t4200") == pytest.approx(0.144294, abs=1e-6)


def test_numbers_that_differ_are_errors(tmp_path):
    path = write_sdist(tmp_path, random_files())
    texts = make_texts(path, reviews_per_class=20)
    rated, splits = count_rated(keep_rated(path)), count_splits(texts)
    again = make_texts(path, reviews_per_class=20, rated_counts=rated, split_counts=splits)
    assert again == texts
    with pytest.raises(DatasetError, match=r"rating threshold by \(label, attribute\) are .*5061"):
        make_texts(path, reviews_per_class=20, rated_counts=benchmark.RATED_COUNTS)
    with pytest.raises(DatasetError, match=r"training and test texts .* use the texts of vaderSe"):
        make_texts(path, reviews_per_class=20, split_counts={**splits, (0, 0): (1, 19)})


class SmallReviewsVsTweets(ReviewsVsTweets):
    """The benchmark on the small archive."""

    REVIEWS_PER_CLASS = 20
    RATED_COUNTS = None
    SPLIT_COUNTS = None


def test_builder_serves_what_the_rules_say(tmp_path):
    path = write_sdist(tmp_path / "texts", random_files())
    builder = SmallReviewsVsTweets(texts=path, data_dir=tmp_path / "data")
    builder.download_and_prepare()
    texts = make_texts(path, reviews_per_class=20)
    assert Counter(text.split for text in texts).keys() == {"train", "test"}
    for split in ("train", "test"):
        source = builder.as_data_source(split=split)
        found = [source[index] for index in range(len(source))]
        assert [
            (row["id"].decode(), row["text"].decode(), int(row["label"]), int(row["attribute"]))
            for row in found
        ] == [text[:4] for text in texts if text.split == split]
    assert builder.info.features["label"].names == ["negative", "positive"]
    assert builder.info.features["attribute"].names == ["review", "tweet"]
    assert "tensorflow" not in sys.modules


def test_builder_reads_the_manual_folder(tmp_path):
    import tensorflow_datasets as tfds

    write_sdist(tmp_path / "manual", random_files())
    builder = SmallReviewsVsTweets(data_dir=tmp_path / "data")
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    builder.download_and_prepare(download_config=config)
    assert builder.info.splits.total_num_examples == 80


def test_builder_refuses_other_texts(tmp_path):
    path = write_sdist(tmp_path / "texts", random_files())
    builder = ReviewsVsTweets(texts=path, data_dir=tmp_path / "data")
    with pytest.raises(DatasetError, match="expected .*5061"):
        builder.download_and_prepare()
    broken = {**random_files(), TWEETS: to_bytes([*random_rows(9, 3), (10, "x", "y")])}
    path = write_sdist(tmp_path / "broken", broken)
    builder = SmallReviewsVsTweets(texts=path, data_dir=tmp_path / "other")
    with pytest.raises(DatasetError, match="line 10: rating 'x'"):
        builder.download_and_prepare()
