"""A small source distribution in the layout of vaderSentiment, with texts made up here."""

import io
import tarfile

import numpy as np

REVIEWS = "movieReviewSnippets_GroundTruth.txt"
TWEETS = "tweets_GroundTruth.txt"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SDIST = "vaderSentiment-3.3.2.tar.gz"


def to_bytes(rows):
    """Rows of (id, rating, text) as one of the published files: tabs, CRLF, no last line end."""
    return "\r\n".join(f"{i}\t{rating}\t{text}" for i, rating, text in rows).encode()


def make_tar(members):
    """A gzipped tar of name to content; a TarInfo instead of content is added as it is."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def make_inner(files, **extra):
    """The inner archive with the rated texts."""
    files = {f"hutto_ICWSM_2014/{name}": content for name, content in files.items()}
    return make_tar({"hutto_ICWSM_2014/_README_.txt": b"Readme \x96", **files, **extra})


def write_sdist(folder, files, **extra):
    """The source distribution; `files` is name to content of the rated texts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SDIST
    content = {"vaderSentiment-3.3.2/setup.py": b"raise SystemExit('never run')"}
    path.write_bytes(make_tar({**content, INNER: make_inner(files), **extra}))
    return path


def random_rows(num_rows, seed, positive=0.5):
    """Rows with distinct texts and ratings that are all beyond the threshold."""
    rng = np.random.default_rng(seed)
    signs = np.where(rng.random(num_rows) < positive, 1, -1)
    ratings = np.round(signs * rng.uniform(0.6, 3.9, num_rows), 3)
    return [(i + 1, rating, f"text {seed} number {i}") for i, rating in enumerate(ratings)]


def random_files(num_reviews=80, num_tweets=40):
    """Both files with random rows."""
    return {
        REVIEWS: to_bytes(random_rows(num_reviews, 1)),
        TWEETS: to_bytes(random_rows(num_tweets, 2, positive=0.7)),
    }
