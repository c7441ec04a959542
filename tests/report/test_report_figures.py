import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from report_rows import make_groups, make_rows

from w2s_jax.report import ReportError, select_l2, setting_table, style
from w2s_jax.report.figures import gain_curves, group_bars, kept_subset
from w2s_jax.report.frame import check_rows
from w2s_jax.report.heatmaps import l2_heatmap, pq_heatmap
from w2s_jax.report.style import COLOURS, save, settings_of_interest
from w2s_jax.report.tables import group_table, improvement_map, kept_table, l2_map


@pytest.fixture(scope="module")
def rows():
    return check_rows(make_rows(seeds=4))


@pytest.fixture(scope="module")
def chosen(rows):
    return select_l2(rows)


def axes_of(figure):
    return [axis for axis in figure.axes if axis.axison]


def texts_of(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def legend_is_outside(figure):
    axes = axes_of(figure)
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    (legend,) = figure.legends
    box = legend.get_window_extent(renderer)
    inside = figure.bbox.contains(box.x0 + 1, box.y0 + 1) and figure.bbox.contains(
        box.x1 - 1, box.y1 - 1
    )
    apart = [not box.overlaps(axis.get_tightbbox(renderer)) for axis in axes]
    return inside and all(apart)


def test_gain_curves_show_the_table(chosen):
    table = setting_table(chosen, metrics=(0.1, 0.5))
    figure = gain_curves(table, "enhanced")
    axes = axes_of(figure)
    assert [axis.get_title() for axis in axes] == [
        r"test data at $\eta_t$ = 0.1",
        r"test data at $\eta_t$ = 0.5",
    ]
    part = table[(table.metric == 0.5) & (table.eta_l == 0.1) & (table.variant == "vanilla")]
    solid = next(li for li in axes[1].lines if li.get_label() == r"vanilla, $\eta_\ell$ = 0.1")
    np.testing.assert_allclose(solid.get_ydata(), 100 * part["gain"])
    band = axes[1].collections[0].get_paths()[0].get_extents()
    assert band.y1 == pytest.approx(100 * part["gain_high"].max())
    assert len(figure.legends[0].get_texts()) == 4
    assert legend_is_outside(figure)
    unknown = table.assign(eta_u=np.nan)
    with pytest.raises(ReportError, match="known eta_u"):
        gain_curves(unknown)


def test_curves_with_one_eta_u_stand_side_by_side():
    rows = select_l2(make_rows(seeds=1, eta_u=(0.3,), eta_l=(0.1, 0.3, 0.5), pq=()))
    figure = gain_curves(setting_table(rows, metrics=(0.5,)))
    (axis,) = axes_of(figure)
    places = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 1]
    assert len(set(places)) == 3
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0.3"]


def test_group_bars_for_few_groups(chosen):
    figure = group_bars(group_table(chosen), "enhanced")
    axes = axes_of(figure)
    assert len(axes) == 4
    bars = axes[0].patches
    assert len(bars) == 4 * 4
    assert {to_hex(bar.get_facecolor()).upper() for bar in bars} == set(COLOURS.values())
    labels = [label.get_text() for label in axes[2].get_xticklabels()]
    assert labels[1] == "class 0,\nattribute 1\nminority, n=53"
    assert legend_is_outside(figure)


@pytest.mark.parametrize(("classes", "attributes", "shown"), [(9, 2, 18), (9, 9, 30)])
def test_group_dots_for_many_groups(classes, attributes, shown):
    groups = make_groups(classes, attributes, 12)
    rows = select_l2(make_rows(seeds=2, eta_l=(0.1,), pq=(), groups=groups))
    table = group_table(rows)
    figure = group_bars(table)
    axes = axes_of(figure)
    assert len(axes[0].get_yticks()) == shown
    assert len(figure.legends[0].get_texts()) == 3  # no other method
    assert legend_is_outside(figure)
    if shown == 30:
        teacher = table[table["model"] == "teacher"].groupby("group")["accuracy"].mean()
        kept = [label.get_text().rsplit(",", 2)[0] for label in axes[0].get_yticklabels()]
        assert teacher[kept].max() <= teacher.drop(kept).min()


def test_names_that_look_like_formulas_are_shown_as_they_are(tmp_path):
    names = [r"$\frac{", "<b>& long " * 12]
    rows = select_l2(make_rows(seeds=2, eta_u=(0.1,), pq=(), groups=make_groups(names=names)))
    figure = group_bars(group_table(rows))
    save(figure, tmp_path / "a.png")  # lays the text out
    labels = [label.get_text() for label in axes_of(figure)[0].get_xticklabels()]
    assert labels[0].startswith(r"\$\frac{")
    assert "…" in labels[2]


def test_pq_heatmap_prints_and_marks_every_cell(chosen):
    table = improvement_map(chosen, metrics=(0.5,))
    figure = pq_heatmap(table)
    panels = [axis for axis in axes_of(figure) if axis.images]
    assert len(panels) == 6
    norm = panels[0].images[0].norm
    assert norm.vmin == -norm.vmax
    assert norm.vmax == pytest.approx(100 * table["effect"].abs().max())
    part = table[(table.eta_l == 0.1) & (table.eta_u == 0.1)]
    clear = (part["effect_low"] > 0) | (part["effect_high"] < 0)
    printed = panels[0].texts
    assert len(printed) == 6
    assert sum(text.get_fontweight() == "bold" for text in printed) == clear.sum()
    assert len(panels[0].patches) == clear.sum()
    cell = part[(part.keep_fraction == 0.2) & (part.gce_q == 0.3)].iloc[0]
    assert float(printed[0].get_text().replace("−", "-")) == pytest.approx(
        100 * cell["effect"], abs=0.051
    )


def test_heatmap_cells_that_were_not_run_are_dashes(rows):
    table = l2_map(rows, metrics=(0.5,))
    figure = l2_heatmap(table[(table.teacher_l2 == 0.1) | (table.student_l2 == 0.1)], limit=30.0)
    texts = texts_of(figure)
    assert texts.count("–") == 6
    assert figure.axes[0].images[0].norm.vmax == 30.0
    many = table.loc[table.index.repeat(1)].assign(eta_l=0.1, eta_u=np.arange(len(table)) / 50)
    assert len([a for a in axes_of(l2_heatmap(many)) if a.images]) == 12


def test_kept_subset(chosen, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "DPI", 30)
    figure = kept_subset(kept_table(chosen))
    axes = axes_of(figure)
    assert len(axes) == 8
    assert axes[0].get_ylim()[0] == 0
    assert legend_is_outside(figure)
    first, again = save(figure, tmp_path / "a.png"), save(figure, tmp_path / "b.png")
    assert first.read_bytes() == again.read_bytes()


def test_settings_of_interest():
    grid = [(low, high) for low in (0.1, 0.5) for high in (0.05, 0.1, 0.3, 0.5)]
    assert settings_of_interest(grid) == [(0.1, 0.1), (0.1, 0.5), (0.5, 0.05), (0.5, 0.5)]
    assert settings_of_interest([(0.1, 0.1)]) == [(0.1, 0.1)]
    assert len(settings_of_interest([(np.nan, np.nan)])) == 1
