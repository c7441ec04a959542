"""Reading the rated texts of Hutto and Gilbert (ICWSM 2014) as `vaderSentiment` distributes them.

A file has one text a line: id, mean rating in -4 … 4 by some twenty people, and text, with tabs
between them; UTF-8, lines end in CRLF.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

from w2s_jax.datasets.archives import DatasetError, read_files

REVIEWS_FILE = "movieReviewSnippets_GroundTruth.txt"
TWEETS_FILE = "tweets_GroundTruth.txt"
ARCHIVE_NAME = "hutto_ICWSM_2014.tar.gz"
MAX_RATING = 4.0


class RatedText(NamedTuple):
    """One line of a file: its id there, the mean rating and the text as it stands."""

    id: int
    rating: float
    text: str


def read_text_files(source: str | Path) -> dict[str, bytes]:
    """The two files of rated texts.

    Args:
        source: The `vaderSentiment` source distribution, the archive `hutto_ICWSM_2014.tar.gz`
            inside of it, or a folder with the extracted files or either archive.

    Returns:
        File name to content, movie reviews first.

    Raises:
        DatasetError: A file is absent or ambiguous, or the archive is damaged or unsafe.
    """
    source = Path(source)
    if source.is_dir():
        archives = sorted(source.glob("vaderSentiment-*.tar.gz"))
        source = archives[-1] if archives else source
    return read_files(source, (REVIEWS_FILE, TWEETS_FILE), nested=ARCHIVE_NAME)


def read_rated_texts(source: str | Path) -> tuple[list[RatedText], list[RatedText]]:
    """All rated movie-review sentences and all rated tweets, each in file order.

    Args:
        source: As for `read_text_files`.

    Returns:
        Reviews and tweets.

    Raises:
        DatasetError: A file is absent, or a line is not id, rating and text.
    """
    reviews, tweets = (_parse(data, name) for name, data in read_text_files(source).items())
    return reviews, tweets


def _parse(content: bytes, name: str) -> list[RatedText]:
    # Not splitlines: it also splits at characters that occur inside texts.
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name} is not UTF-8 ({error}); download it again.") from error
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise DatasetError(f"{name} is empty; download it again.")
    texts, seen = [], set()
    for number, line in enumerate(lines, start=1):
        text = _parse_line(line.removesuffix("\r"), f"{name}, line {number}")
        if text.id in seen:
            raise DatasetError(f"{name}, line {number}: id {text.id} occurs twice.")
        seen.add(text.id)
        texts.append(text)
    return texts


def _parse_line(line: str, where: str) -> RatedText:
    fields = line.split("\t")
    if len(fields) != 3:
        raise DatasetError(f"{where} has {len(fields)} fields, expected id, rating and text.")
    identifier, rating, text = fields
    if not re.fullmatch(r"[1-9][0-9]{0,8}", identifier):
        raise DatasetError(f"{where}: id {identifier!r} is not a positive whole number.")
    try:
        value = float(rating)
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_RATING:
        raise DatasetError(f"{where}: rating {rating!r} is not a number in -4 … 4.")
    if not text.strip():
        raise DatasetError(f"{where} has no text.")
    return RatedText(int(identifier), value, text)
