import tarfile

import pytest
from vader_archive import (
    INNER,
    REVIEWS,
    SDIST,
    TWEETS,
    make_inner,
    make_tar,
    random_files,
    to_bytes,
    write_sdist,
)

from w2s_jax.datasets import archives
from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.vader import read_rated_texts, read_text_files

FILES = {
    REVIEWS: to_bytes([(1, "2.26666666667", "Fine café\x85film."), (2, "-0.6", "  Dull. ")]),
    TWEETS: to_bytes([(1, "1", "@anonymous yay &amp; :)"), (7, "-3.9", "no no")]) + b"\r\n",
}


def test_lines_are_read_as_they_stand(tmp_path):
    reviews, tweets = read_rated_texts(write_sdist(tmp_path, FILES))
    assert reviews == [(1, 2.26666666667, "Fine café\x85film."), (2, -0.6, "  Dull. ")]
    assert tweets == [(1, 1.0, "@anonymous yay &amp; :)"), (7, -3.9, "no no")]


def test_every_form_of_the_source_gives_the_same(tmp_path):
    sdist = write_sdist(tmp_path / "sdist", FILES)
    inner = tmp_path / "inner" / "hutto_ICWSM_2014.tar.gz"
    inner.parent.mkdir()
    inner.write_bytes(make_inner(FILES))
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "extracted", filter="data")
    with tarfile.open(inner) as archive:
        archive.extractall(tmp_path / "files", filter="data")
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as archive:
        archive.add(tmp_path / "files")
    sources = [sdist, sdist.parent, inner, inner.parent, plain]
    sources += [tmp_path / "extracted", tmp_path / "files", tmp_path / "files" / "hutto_ICWSM_2014"]
    for source in sources:
        assert read_text_files(source) == FILES, source
        assert read_text_files(str(source)) == FILES
    assert list(read_text_files(inner)) == [REVIEWS, TWEETS]


def test_nothing_is_written(tmp_path):
    path = write_sdist(tmp_path, FILES)
    read_rated_texts(path)
    assert [p.name for p in tmp_path.rglob("*")] == [SDIST]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3\t1.5", "line 3 has 2 fields, expected id, rating and text"),
        ("3\t1.5\ta\tb", "line 3 has 4 fields"),
        ("", "line 3 has 1 fields"),
        ("x3\t1.5\ta", "line 3: id 'x3' is not a positive whole number"),
        ("0\t1.5\ta", "line 3: id '0'"),
        ("٣\t1.5\ta", "line 3: id '٣'"),
        ("2\t1.5\ta", "line 3: id 2 occurs twice"),
        ("3\tgood\ta", "line 3: rating 'good' is not a number in -4 … 4"),
        ("3\tnan\ta", "line 3: rating 'nan'"),
        ("3\t-4.5\ta", "line 3: rating '-4.5'"),
        ("3\t1.5\t ", "line 3 has no text"),
    ],
)
@pytest.mark.parametrize("name", [REVIEWS, TWEETS])
def test_malformed_line(tmp_path, name, line, message):
    rows = to_bytes([(1, 1, "a"), (2, 2, "b")]) + f"\r\n{line}\r\n".encode()
    path = write_sdist(tmp_path, {**FILES, name: rows})
    with pytest.raises(DatasetError, match=f"^{name}, {message}"):
        read_rated_texts(path)


def test_empty_file_and_other_encoding(tmp_path):
    path = write_sdist(tmp_path, {**FILES, TWEETS: b""})
    with pytest.raises(DatasetError, match=f"{TWEETS} is empty"):
        read_rated_texts(path)
    path = write_sdist(tmp_path, {**FILES, TWEETS: b"1\t1\tcaf\xe9\r\n"})
    with pytest.raises(DatasetError, match=f"{TWEETS} is not UTF-8"):
        read_rated_texts(path)


@pytest.mark.parametrize("name", [REVIEWS, TWEETS])
def test_missing_file(tmp_path, name):
    files = {key: value for key, value in FILES.items() if key != name}
    with pytest.raises(DatasetError, match=f"{SDIST} lacks {name}; give the published archive"):
        read_text_files(write_sdist(tmp_path, files))


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match="There is nothing at"):
        read_text_files(tmp_path / "none")
    with pytest.raises(DatasetError, match=f"lacks {REVIEWS}, {TWEETS}"):
        read_text_files(tmp_path)


@pytest.mark.parametrize(
    "name", [f"../{REVIEWS}", f"/tmp/{TWEETS}", "a/../../b", "..\\b", "hutto/../.."]
)
def test_members_outside_of_the_archive(tmp_path, name):
    outer = write_sdist(tmp_path / "outer", FILES, **{name: b"1\t1\ta"})
    inner = write_sdist(tmp_path / "inner", FILES, **{INNER: make_inner(FILES, **{name: b"x"})})
    for path in (outer, inner):
        with pytest.raises(DatasetError, match="lies outside of the archive"):
            read_text_files(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE]
)
def test_members_that_are_no_files(tmp_path, kind):
    info = tarfile.TarInfo(f"hutto_ICWSM_2014/{TWEETS}")
    info.type, info.linkname = kind, "/etc/hostname"
    path = tmp_path / "inner.tar.gz"
    path.write_bytes(make_tar({REVIEWS: FILES[REVIEWS], "link": info}))
    with pytest.raises(DatasetError, match="is not a regular file"):
        read_text_files(path)


def test_ambiguous_files(tmp_path):
    path = write_sdist(tmp_path / "tar", FILES, **{f"a/{TWEETS}": b"x", f"b/{TWEETS}": b"y"})
    with pytest.raises(DatasetError, match=f"has several members named {TWEETS}"):
        read_text_files(path)
    for name in ("a", "b"):
        (tmp_path / "folder" / name).mkdir(parents=True)
        for key, value in FILES.items():
            (tmp_path / "folder" / name / key).write_bytes(value)
    with pytest.raises(DatasetError, match=f"has 2 files named {REVIEWS}"):
        read_text_files(tmp_path / "folder")


def test_large_member_is_not_read(tmp_path, monkeypatch):
    path = write_sdist(tmp_path, random_files())
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    with pytest.raises(DatasetError, match="bytes, more than 1000 expected"):
        read_text_files(path)


def test_damaged_archives(tmp_path):
    path = write_sdist(tmp_path, random_files())
    whole = path.read_bytes()
    for damaged in (b"", b"not a tar", whole[: len(whole) // 2], whole[:40] + whole[60:]):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match="cannot be read as a tar archive|lacks"):
            read_text_files(path)
    inner = write_sdist(tmp_path / "inner", FILES, **{INNER: b"\x80\x04cos\nsystem\n"})
    with pytest.raises(DatasetError, match="hutto_ICWSM_2014.tar.gz cannot be read as a tar"):
        read_text_files(inner)


def test_flipped_bytes_never_escape_as_other_errors(tmp_path):
    path = write_sdist(tmp_path, FILES)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 0x5A
        path.write_bytes(damaged)
        try:
            read_rated_texts(path)
        except DatasetError:
            continue
