"""Figures and page of the theory, from small made-up numbers."""

import dataclasses
import html

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from w2s_jax.report import ReportError
from w2s_jax.report.theory_figures import draw_agreement, draw_study
from w2s_jax.report.theory_page import (
    agreement_sentence,
    benchmark_agreement,
    series_table,
    write_theory_page,
)
from w2s_jax.theory.estimation import Interval, PairEstimate, predicted_gains
from w2s_jax.theory.findings import findings
from w2s_jax.theory.study import STUDIES, Series, Setup, Study, distance_at_practical_ratios

X = np.linspace(0, 1, 4)


def study(name, panels=("one", "two"), sources=("proportional", "published"), **options):
    series = []
    for number, panel in enumerate(panels):
        for label in ("first", "second"):
            for source in sources:
                series.append(Series(panel, label, source, X, 0.1 * X - 0.05 + number))
            series.append(Series(panel, label, "simulated", X, 0.1 * X, np.full(4, 0.02)))
    return Study(name, f"What {name} shows.", "x", "y", tuple(series), **options)


def failure():
    series = [Series("p", "from here", "proportional", X / 3, X)]
    series += [Series("p", "up to here", "proportional", 1 - X / 3, X)]
    for label in ("gain", "loss", "undecided"):
        series.append(Series("p", label, "simulated", X[:2], X[2:]))
    return Study("failure", "Where it fails.", "x", "y", tuple(series))


def judged():
    series = []
    for finding in findings():
        k = len(finding.settings)
        label = "; ".join("0, 1" for _ in range(k))
        for source in ("proportional", "mixture", "published"):
            series.append(Series(finding.name, label, source, np.arange(k), np.linspace(-1, 1, k)))
        own = (np.arange(k), np.linspace(-1, 1, k), np.full(k, 0.125))
        series.append(Series(finding.name, label, "simulated", *own))
    return Study("findings", "The examples.", "x", "gain", tuple(series))


def examples():
    sides = np.arange(2.0)
    values = {"proportional": 0.25, "mixture": 0.2, "published": 0.125}
    series = [
        Series(f"p_S ν = {v}", "teacher; student", source, sides, np.array([v, v * value]))
        for v in (0.5, 3)
        for source, value in values.items()
    ]
    for v in (0.5, 3):
        own = (sides, np.array([v, v / 2]), np.array([0.25, 0.5]))
        series.append(Series(f"p_S ν = {v}", "teacher; student", "simulated", *own))
    return Study("examples", "Known risks.", "", "risk", tuple(series))


ALL = (study("gain"), study("best"), failure(), study("groups"), judged(), examples())


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_figures_draw_with_legends_outside_the_axes(one):
    figure = draw_study(one)
    FigureCanvasAgg(figure).draw()
    titles = dict.fromkeys(series.panel.replace("p_S ν", r"$p_S\nu$") for series in one.series)
    assert [axis.get_title() for axis in figure.axes if axis.axison] == list(titles)
    (legend,) = figure.legends
    renderer = figure.canvas.get_renderer()
    box = legend.get_window_extent(renderer)
    shown = [axis for axis in figure.axes if axis.axison]
    assert all(not box.overlaps(axis.get_tightbbox(renderer)) for axis in shown)


def test_lines_are_theory_and_dots_are_simulation():
    axis = draw_study(study("gain", panels=("one",))).axes[0]
    solid = [
        line for line in axis.lines if line.get_linestyle() == "-" and line.get_label()[0] != "_"
    ]
    assert [line.get_label() for line in solid] == ["first", "second"]
    np.testing.assert_array_equal(solid[0].get_ydata(), 0.1 * X - 0.05)
    (dots, *_), *_ = axis.containers
    np.testing.assert_array_equal(dots.get_ydata(), 0.1 * X)
    bars = axis.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[1][1] - bar[0][1] for bar in bars], 0.08)  # two errors each way


def test_series_table_holds_every_number():
    table = series_table(ALL)
    assert len(table) == sum(len(series.x) for one in ALL for series in one.series)
    own = table[(table.study == "gain") & (table.source == "simulated")]
    assert set(own.error) == {0.02}
    assert table[table.source == "published"].error.isna().all()


def test_studies_have_theory_and_simulation_of_every_panel():
    """The real computation at its smallest, on the cheapest study."""
    one = STUDIES["groups"](Setup(d_z=8, num_draws=4, num_dots=2))
    for panel in {series.panel for series in one.series}:
        sources = {series.source for series in one.series if series.panel == panel}
        assert sources == {"proportional", "published", "simulated"}
    for series in one.series:
        assert series.x.shape == series.y.shape
        assert (series.error is not None) == (series.source == "simulated")
        assert np.isfinite(series.y).all()


def test_distance_of_the_leading_orders():
    far = distance_at_practical_ratios(Setup())
    assert 0.1 < far["mixture"] < far["published"] < 1


def estimate():
    one = Interval(1.0, 0.5, 1.5)
    arrays = {"correlations": np.array([0.5]), "Xi": np.array([[0.5]])}
    means = {"mu_T": np.array([[2.0], [1.0]]), "mu_S": np.array([[1.0], [3.0]])}
    return PairEstimate(0.9, *[one] * 6, **arrays, **means)


def rows(factor=1.0, seeds=3):
    """Result rows whose gains in accuracy are the predicted ones times a factor."""
    found = []
    sizes = {"n_labelled": 50, "n_unlabelled": 500}
    fractions = [np.array([0.1, 0.5])[:, None, None], np.array([0.1, 0.3, 0.5])[:, None]]
    predicted = predicted_gains(estimate(), *fractions, np.array([0.0, 1.0]), **sizes)
    for seed in range(seeds):
        for l2 in (0.1, 1.0):
            for i, eta_l in enumerate((0.1, 0.5)):
                for j, eta_u in enumerate((0.1, 0.3, 0.5)):
                    gains = predicted[i, j]
                    row = {"method": "vanilla", "seed": seed, "eta_l": eta_l, "eta_u": eta_u}
                    row |= sizes | {"teacher_l2": 0.1, "student_l2": l2}
                    for part, gain in zip(("majority", "minority"), gains, strict=True):
                        row[f"teacher_{part}_accuracy"] = 0.5
                        row[f"student_{part}_accuracy"] = 0.5 + factor * gain
                    found.append(row)
    return pd.DataFrame(found)


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_agreement_tells_an_order_from_its_reverse(factor):
    found = benchmark_agreement(rows(factor).sample(frac=1, random_state=0), estimate())
    own = found.table[found.table.form == "mixture"]
    assert set(own.eta_t) == {"0", "0.1", "0.5", "1", "all"}
    np.testing.assert_allclose(own.correlation, factor, atol=0.01)  # near ties are rounded
    np.testing.assert_allclose(found.measured, factor * found.predicted, rtol=1e-9)
    assert ("+1.00" if factor > 0 else "−1.00") in agreement_sentence(found)


def test_agreement_needs_every_setting_once_and_one_size():
    with pytest.raises(ReportError, match="same settings, once each"):
        benchmark_agreement(rows().iloc[1:], estimate())
    mixed = rows()
    mixed.loc[0, "n_labelled"] = 51
    with pytest.raises(ReportError, match="rows must have one n_labelled"):
        benchmark_agreement(mixed, estimate())


def test_page_is_whole_with_and_without_features(tmp_path):
    texts = {"effort": "4 draws <a dot>", "distance": "Far away."}
    page = write_theory_page(ALL, findings(), tmp_path / "plain", **texts)
    assert "4 draws &lt;a dot&gt;" in page.read_text()
    text = html.unescape(page.read_text())
    assert "From features to theory" not in text
    for finding in findings():
        assert finding.assumption in text
    assert "± 0.2500" in text
    assert "± 0.50" in text  # risks from 1 on have two digits
    assert "0.0625" in text
    assert len(list((page.parent / "figures").glob("*.png"))) == len(ALL)
    table = pd.read_csv(page.parent / "series.csv")
    assert len(table) == len(series_table(ALL))

    agreement = benchmark_agreement(rows(), estimate())
    page = write_theory_page(ALL, findings(), tmp_path / "full", **texts, agreement=agreement)
    text = html.unescape(page.read_text())
    assert agreement_sentence(agreement) in text
    assert 'src="figures/07-agreement.png"' in text
    assert (page.parent / "figures" / "07-agreement.png").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="is a file"):
        write_theory_page(ALL, findings(), tmp_path / "file", **texts)


def test_agreement_figure_has_a_panel_an_eta_t():
    settings = np.array([[0.1, 0.1, 0.5, 0.5], [0.3, 0.2, 0.2, 0.3]])
    tables = (np.arange(12.0).reshape(3, 4), np.ones((3, 4)), np.full((3, 4), np.nan))
    figure = draw_agreement(*tables, settings, np.array([0.0, 0.5, 1.0]))
    assert len(figure.axes) == 3
    _, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == [r"$\eta_\ell$ = 0.1", r"$\eta_\ell$ = 0.5"]
    (line, *_), *_ = figure.axes[1].containers
    np.testing.assert_array_equal(line.get_xdata(), [5, 4])  # in the order of eta_u


def test_studies_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ALL[0].name = "other"
