import html
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_rows import make_groups, make_rows

from w2s_jax.report import (
    ReportError,
    album,
    select_l2,
    setting_table,
    style,
    wording,
    write_report,
)

SMALL = {"teacher_l2": (0.1,), "student_l2": (1.0,)}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(style, "DPI", 30)


def text_of(page):
    """The page's text, without tags, entities resolved."""
    body = page.read_text(encoding="utf-8").split("<body>")[1]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(style, "DPI", 30)
    rows = make_rows(pairs=("a:b",), eta_u=(0.1, 0.5), seeds=3)
    page = write_report(
        rows,
        tmp_path_factory.mktemp("full") / "x" / "y",
        keep_fraction=0.6,
        gce_q=0.7,
        title="T & Co",
    )
    patch.undo()
    return rows, page


def test_page_is_complete_and_self_contained(full):
    rows, page = full
    source, text = page.read_text(encoding="utf-8"), text_of(page)
    assert page.name == "index.html"
    assert not re.search(r"https?:|<script|<link|url\(|@import", source)
    links = re.findall(r'<img src="([^"]+)"', source)
    assert len(links) == 1 + 1 + 2 + 1 + 2  # curves, groups, (p, q), kept, l2
    for link in links:
        assert (page.parent / link).stat().st_size > 1000
    assert sorted(p.name for p in page.parent.iterdir()) == ["figures", "index.html"]
    assert sorted(f"figures/{p.name}" for p in (page.parent / "figures").iterdir()) == sorted(links)
    numbers = [int(n) for n in re.findall(r"<b>Figure (\d+)\.</b>", source)]
    assert sorted(numbers) == list(range(1, len(links) + 1))
    assert "<title>T &amp; Co</title>" in source
    for words in (
        "Question and answer",
        "Relative improvement (%) of enhanced over vanilla at p = 0.6, q = 0.7",
        "ORACLE, peeks at the test set",
        "chosen in every draw by accuracy on labelled validation rows",
        "p = 0.6 (as declared)",
        "distinct heads did not converge",
        "7e1f7e1f7e1f",
        "package_version 0.1.0",
        "Nothing is corrected for the number of comparisons",
    ):
        assert words in text


def test_claims_are_made_only_where_an_interval_excludes_zero(full):
    rows, page = full
    table = setting_table(select_l2(rows), metrics=(0.5,))
    text = text_of(page)
    for eta_l in (0.1, 0.5):
        part = table[(table.eta_l == eta_l) & (table.variant == "vanilla")]
        sentence = wording.gain_sentence(part)
        assert sentence[1:] in text
        found = wording.directions(part, "gain")
        assert ("beats its teacher" in sentence) == (found > 0).any()
        assert ("falls short" in sentence) == (found < 0).any()
        assert ("no clear difference" in sentence) == (found == 0).any()


def test_sentences_from_given_numbers():
    table = pd.DataFrame(
        {
            "pair": "a:b", "variant": "vanilla", "eta_l": 0.1, "eta_u": [0.1, 0.3, 0.4, 0.5],
            "gain": [0.03, 0.01, 0.02, -0.04], "gain_low": [0.01, -0.01, 0.01, -0.05],
            "gain_high": [0.05, 0.03, 0.03, -0.03], "num_seeds": [5, 5, 5, 1],
            "num_sizes": [2, 2, 1, 2],
        }
    )  # fmt: skip
    assert wording.gain_sentence(table, "a:b") == (
        "For a:b, with labelled data at eta_l = 0.1, the student beats its teacher at eta_u = 0.1"
        " and 0.4 (+2.0 to +3.0 points), shows no clear difference from its teacher at eta_u = 0.3"
        " (+1.0 points) and falls short of its teacher at eta_u = 0.5 (−4.0 points)."
    )
    assert "in 2 of 4 settings (pair, eta_l, eta_u), falls short of it in 1" in wording.gain_counts(
        table
    )
    method = table.rename(columns=lambda name: name.replace("gain", "effect"))
    method = method.assign(variant="enhanced", keep_fraction=0.5, gce_q=np.nan)
    assert wording.effect_sentence(method, "enhanced") == (
        "Method enhanced (p = 0.5) improves on the vanilla student in 2 of 4 settings (+2.0 to +3.0"
        " points), makes it worse in 1 (−4.0 points), and shows no clear difference in 1."
    )
    assert wording.effect_sentence(method, "other") == ""
    assert "one seed" in wording.seeds_sentence(table)
    assert "from 1 to 2" in wording.sizes_sentence(table)
    assert wording.seeds_sentence(table.iloc[:2]) == wording.sizes_sentence(table.iloc[:2]) == ""
    assert wording.signed(-0.001) == "0.0"
    assert wording.signed(np.nan) == "–"


def test_names_from_data_are_escaped(tmp_path):
    evil = ["<script>alert(1)</script>", '"><img src=x onerror=y>']
    rows = make_rows(
        pairs=("<b>t</b>:s&amp;",), seeds=2, eta_u=(0.1,), groups=make_groups(names=evil), **SMALL
    )
    rows.loc[rows["method"] == "enhanced", "method"] = "<i>m</i>"
    rows["feature_scaling"] = "<u>rms</u>"
    page = write_report(rows, tmp_path, title="<script>")
    source = page.read_text(encoding="utf-8")
    assert "<script>" not in source
    for tag in ("<b>t", "<i>m", "<u>rms", "onerror=y>"):
        assert tag not in source
    assert "&lt;b&gt;t&lt;/b&gt;:s&amp;amp;" in source
    assert "&lt;i&gt;m&lt;/i&gt;" in source


POOR = {
    "no method": ({"pq": ()}, "no method besides vanilla"),
    "no validation": ({"n_validation": 0, "student_l2": (0.1, 1.0)}, "middle of the grid"),
    "no ceiling": ({"ceiling": False}, "no ceiling"),
    "one l2": ({}, "sensitivity to l2 is not shown"),
    "one seed": ({"seeds": 1}, "rest on one seed"),
    "one (p, q)": ({"pq": ((0.5, 0.7),)}, "no map over (p, q)"),
    "unlabelled": ({"unlabelled": True}, "eta_u of truly unlabelled rows is not known"),
    "elsewhere": ({"outside_teacher": True}, "with a teacher from elsewhere, the student"),
    "nine classes": ({"groups": make_groups(9, 9, 12)}, "Only the 30 groups with the lowest"),
}


@pytest.mark.parametrize("case", POOR)
def test_sections_that_rows_cannot_support_are_left_out(tmp_path, monkeypatch, case):
    change, sentence = POOR[case]
    if case not in {"one seed", "unlabelled", "elsewhere"}:  # others' figures differ in data only
        monkeypatch.setattr(album, "save", lambda figure, path: path.touch())
    arguments = {"seeds": 2, "eta_l": (0.1,), "eta_u": (0.1, 0.5), "pq": ((0.5, 0.3), (1.0, 0.3))}
    page = write_report(make_rows(**{**arguments, **SMALL, **change}), tmp_path, eta_t=0.5)
    assert sentence in text_of(page)
    assert not re.search(r"\b([Nn]a[Nn]|None|null)\b", text_of(page))


def test_poorest_rows(tmp_path):
    groups = make_groups()
    groups[1]["test_count"] = 0  # a class without minority test rows
    rows = make_rows(
        seeds=1,
        unlabelled=True,
        outside_teacher=True,
        pq=(),
        n_validation=0,
        groups=groups,
        **SMALL,
    )
    text = text_of(write_report(rows, tmp_path))
    assert "accuracy is not defined: a class has no test rows in one part" in text
    assert "accuracy at these eta_t is not defined" in text
    assert "Plain test accuracy" in text


def test_a_method_of_some_pairs_and_another_without_p_or_q(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "save", lambda figure, path: path.touch())
    arguments = {"seeds": 2, "eta_l": (0.1,), "eta_u": (0.1,), **SMALL}
    other = make_rows(pairs=("e:f",), pq=((0.1, 0.2),), **arguments)
    other.loc[other["method"] == "enhanced", ["keep_fraction", "gce_q"]] = np.nan
    other.loc[other["method"] == "enhanced", "method"] = "other"
    rows = pd.concat(
        [
            make_rows(pairs=("a:b",), pq=((0.5, 0.7), (0.6, 0.7), (0.9, 0.7)), **arguments),
            make_rows(pairs=("c:d",), pq=((0.2, 0.7),), **arguments),
            other,
        ]
    )
    text = text_of(write_report(rows, tmp_path, eta_t=0.5))
    assert "Relative improvement (%) of other over vanilla: 100" in text
    assert "enhanced is shown at p = 0.6" in text.lower()
    assert "one (p, q) of other" not in text
    assert (
        "c:d: accuracy in each group of the test set (n test rows): teacher, vanilla student and"
        in text
    )
    assert "a:b: accuracy in each group" in text
    assert "teacher, vanilla student, enhanced at p = 0.6, q = 0.7 and" in text


def test_conditions_have_sections_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "save", lambda figure, path: path.touch())
    arguments = {"seeds": 2, "eta_l": (0.1,), "eta_u": (0.1,), "pq": (), **SMALL}
    rows = pd.concat([make_rows(**arguments), make_rows(feature_scaling="none", **arguments)])
    text = text_of(write_report(rows, tmp_path, eta_t=[0.5]))
    assert "feature_scaling = none: All numbers here" in text
    assert "resnet18:clip_vit_b32 (feature_scaling = rms)" in text


def test_many_pairs_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(album, "save", lambda figure, path: path.touch())
    pairs, pq = ("a:b", "c:d", "e:f"), ((0.5, 0.7),)
    rows = make_rows(pairs=pairs, seeds=2, eta_l=(0.1,), eta_u=(0.1,), pq=pq, **SMALL)
    text = text_of(write_report(rows, tmp_path, eta_t=0.5))
    assert "over 3 pairs, the student beats its teacher in" in text
    assert "eta_l eta_u a:b c:d e:f plain test accuracy 0.1 0.1" in text


def test_a_rerun_replaces_the_page_and_nothing_else(tmp_path, monkeypatch):
    arguments = {"seeds": 2, "eta_l": (0.1,), "eta_u": (0.1,), "pq": (), **SMALL}
    page = write_report(make_rows(pairs=("first:pair",), **arguments), tmp_path)
    mine = tmp_path / "figures" / "mine.png"
    mine.write_bytes(b"kept")
    old = set((tmp_path / "figures").iterdir()) - {mine}
    write_report(make_rows(pairs=("second:pair",), **arguments), tmp_path)
    now = set((tmp_path / "figures").iterdir())
    assert not now & old
    assert mine in now
    assert "first:pair" not in page.read_text(encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(album, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(make_rows(pairs=("third:pair",), **arguments), tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_bad_requests_are_refused_before_anything_is_written(tmp_path):
    rows = make_rows(seeds=1, eta_u=(0.1,), **SMALL)
    with pytest.raises(ReportError, match="eta_t is empty"):
        write_report(rows, tmp_path / "x", eta_t=())
    with pytest.raises(ReportError, match=r"in \[0, 1\]; found 2.0"):
        write_report(rows, tmp_path / "x", eta_t=(0.5, 2))
    with pytest.raises(ReportError, match="no row has gce_q = 0.5; the rows have 0.3, 0.7"):
        write_report(rows, tmp_path / "x", gce_q=0.5)
    assert not list(tmp_path.rglob("*.html"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="is a file"):
        write_report(rows, tmp_path / "file")


def test_script_prints_a_table_and_errors_in_one_line(tmp_path):
    script = Path(__file__).parents[2] / "experiments" / "report.py"
    source = (
        "import runpy, sys; sys.path.insert(0, {here!r});"
        "import w2s_jax, w2s_jax.report;"
        "assert not {{'pandas', 'matplotlib', 'jinja2'}} & set(sys.modules);"
        "from report_rows import make_rows; import w2s_jax.sweep as sweep;"
        "rows = make_rows(seeds=2, eta_l=(.1,), eta_u=(.1,), pq=(), {small});"
        "sweep.read_rows = lambda run: rows;"
        "import atexit;"
        "atexit.register(lambda: print('pyplot', 'matplotlib.pyplot' in sys.modules));"
        "sys.argv = ['report.py', *sys.argv[1:]];"
        "runpy.run_path({script!r}, run_name='__main__')"
    ).format(
        here=str(Path(__file__).parent),
        small="teacher_l2=(.1,), student_l2=(1.,)",
        script=str(script),
    )

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", source, *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = call(f"--run={tmp_path}", "--eta_t=0.5")
    assert done.returncode == 0, done.stderr
    assert "teacher  vanilla  ceiling" in done.stdout
    assert f"page: {tmp_path}/report/index.html" in done.stdout
    assert "pyplot False" in done.stdout
    bad = call(f"--run={tmp_path}", "--eta_t=0.5,x")
    assert bad.returncode == 2
    assert bad.stderr.strip() == (
        "error: --eta_t takes numbers between 0 and 1 with commas between them, found '0.5,x'"
    )
