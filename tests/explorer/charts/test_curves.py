"""Curves, markers and thresholds of the explorer against scikit-learn on the pixels of the cached maps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pytest
from bokeh.models import HoverTool
from charting import exact_cache, pixels, words
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from synthetic import CLASSES, SCORES, write_cache

from gradunc_viz.explorer.charts import classes, curves, overview
from gradunc_viz.explorer.charts import look as charts
from gradunc_viz.explorer.state import shared_counts as pooled
from gradunc_viz.metrics.operating_point import OperatingPoint
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.choice import Selection
from gradunc_viz.style.scores import score_look

TASKS = ("error", "anomaly")


SLACK = {"msp": 0, "entropy": 0, "pgn_oh_p0.5": 3, "pgn_uni_p2": 3}
"""Pixels that may lie on the other side of a threshold: norms are resized once more when they are read."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return exact_cache(tmp_path_factory.mktemp("curves") / "cache")


def drawn(chart: hv.Overlay, name: str) -> hv.Curve:
    found = [part for part in chart if isinstance(part, hv.Curve) and part.label.split("  ")[0] == name]
    assert len(found) == 1, [part.label for part in chart]
    return found[0]


CHOICES = [(None, None), (["b"], None), (["a", "c"], [CLASSES[0], CLASSES[3]])]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("frames", "classes"), CHOICES)
@pytest.mark.parametrize("name", SCORES)
def test_roc_is_scikit_learns(cache: Cache, name: str, task: str, frames: list | None, classes: list | None) -> None:
    truth, values = pixels(cache, name, task, frames, classes)
    chart = curves.roc(Selection.of(cache, task, scores=SCORES, frames=frames, classes=classes))
    line = drawn(chart, name)
    fpr, tpr, _ = roc_curve(truth, values)
    x, y = line.dimension_values("fpr"), line.dimension_values("tpr")
    assert len(x) <= 400
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    # horizontal or vertical distance: a step is as wide as a bin
    across = np.abs(np.interp(x, fpr, tpr) - y)
    along = np.abs(np.interp(y, tpr, fpr) - x)
    assert np.minimum(across, along).max() < 5e-3
    assert float(line.label.split()[-1]) == pytest.approx(roc_auc_score(truth, values), abs=1.1e-3)
    for threshold, share in zip(line.dimension_values("threshold")[1:], x[1:], strict=True):
        close = SLACK[name] / (~truth).sum() + 1e-9
        assert (values[~truth] >= np.float32(threshold)).mean() == pytest.approx(share, abs=close)


@pytest.mark.parametrize("task", TASKS)
def test_precision_recall_is_scikit_learns(cache: Cache, task: str) -> None:
    chart = curves.pr(Selection.of(cache, task, scores=SCORES))
    for name in SCORES:
        truth, values = pixels(cache, name, task)
        line = drawn(chart, name)
        precision, recall, _ = precision_recall_curve(truth, values)
        x, y = line.dimension_values("recall"), line.dimension_values("precision")
        for share, at, threshold in zip(x, y, line.dimension_values("threshold"), strict=True):
            found = values >= np.float32(threshold)
            assert at * found.sum() == pytest.approx(truth[found].sum(), abs=SLACK[name] + 1e-6)
            assert share * truth.sum() == pytest.approx(found[truth].sum(), abs=SLACK[name] + 1e-6)
        assert float(line.label.split()[-1]) == pytest.approx(average_precision_score(truth, values), abs=6e-3)
        assert len(x) <= 400
        assert x[-1] == recall.max() == 1
        assert y[-1] == pytest.approx(precision[0])


@pytest.mark.parametrize("name", SCORES)
def test_sparsification_drops_the_most_uncertain(cache: Cache, name: str) -> None:
    wrong, values = pixels(cache, name, "error")
    chart = curves.sparsification(Selection.of(cache, "anomaly", scores=SCORES))  # of errors, whatever the task
    line = drawn(chart, name)
    x, y, threshold = (line.dimension_values(d) for d in ("dropped", "error", "threshold"))
    assert (x[-1], y[-1], threshold[-1]) == pytest.approx((0, 1, np.inf)) or (x[0], y[0]) == pytest.approx((0, 1))
    for share, risk, at in zip(x, y, threshold, strict=True):
        kept = values < np.float32(at)
        assert (1 - share) * len(values) == pytest.approx(kept.sum(), abs=SLACK[name] + 1e-6)
        assert risk * wrong.mean() * kept.sum() == pytest.approx(wrong[kept].sum(), abs=SLACK[name] + 1e-6)
    oracle = next(part for part in chart if isinstance(part, hv.Curve) and len(part) == 100)
    rate = wrong.mean()
    np.testing.assert_allclose(oracle.dimension_values("error")[[0, -1]], [1, 0])
    assert oracle.dimension_values("error")[1] == pytest.approx(max(0, (rate - 0.01) / 0.99 / rate))


@pytest.mark.parametrize("task", TASKS)
def test_reliability_is_the_rate_among_pixels_of_like_rank(cache: Cache, task: str) -> None:
    chart = curves.reliability(Selection.of(cache, task, scores=SCORES))
    truth, values = pixels(cache, "entropy", task)
    line = drawn(chart, "entropy")
    groups = np.array_split(truth[np.argsort(values, kind="stable")], 20)
    x, y = line.dimension_values("rank"), line.dimension_values("rate")
    expected = np.array([group.mean() for group in groups])
    np.testing.assert_allclose(np.interp(np.arange(0.025, 1, 0.05), x, y), expected, atol=0.02)


def test_confidence_diagram_is_accuracy_over_confidence(cache: Cache) -> None:
    chart = curves.confidence_diagram(Selection.of(cache), bins=10)
    wrong, msp = pixels(cache, "msp", "error")
    confidence = 1 - msp.astype("f8")
    place = np.minimum((confidence * 10).astype(int), 9)
    bars = next(part for part in chart if isinstance(part, hv.Rectangles))
    columns = (bars.dimension_values(name) for name in ("confidence", "accuracy", "pixels"))
    found = {round(10 * left): (height, count) for left, height, count in zip(*columns, strict=True)}
    assert set(found) == set(place)
    assert sum(count for _, count in found.values()) == len(wrong)
    for bin_number, (height, count) in found.items():
        own = place == bin_number
        assert count == pytest.approx(own.sum(), abs=1)  # 1 - msp rounds
        assert height == pytest.approx(1 - wrong[own].mean(), abs=0.02)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", SCORES)
def test_counts_at_a_threshold_are_those_of_the_pixels(cache: Cache, name: str, task: str) -> None:
    for frames, chosen in CHOICES:
        truth, values = pixels(cache, name, task, frames, chosen)
        histogram = pooled.set_histograms(Selection.of(cache, task, scores=[name], frames=frames, classes=chosen))[name]
        ends = histogram.low[np.isfinite(histogram.low)]
        for threshold in (*ends[:: max(1, len(ends) // 15)], ends[-1], values.max() + 1, values.min() - 1):
            point = curves.counts_at(
                Selection.of(cache, task, scores=name, frames=frames, classes=chosen), float(threshold)
            )
            found = values >= np.float32(threshold)
            expected = [(found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum(), (~found & ~truth).sum()]
            assert [point.tp, point.fp, point.fn, point.tn] == pytest.approx(expected, abs=SLACK[name])
        # anywhere else it is off by no more than the pixels of one bin
        largest = histogram.weights["counts"].sum(0).max()
        for threshold in np.random.default_rng(0).uniform(values.min(), values.max(), 20):
            point = curves.counts_at(
                Selection.of(cache, task, scores=name, frames=frames, classes=chosen), float(threshold)
            )
            found = values >= np.float32(threshold)
            assert abs(point.tp + point.fp - found.sum()) <= largest + SLACK[name]
            assert point.tp + point.fn == truth.sum()


def test_derived_numbers_of_an_operating_point() -> None:
    point = OperatingPoint(6, 2, 4, 88, score="msp", threshold=0.5)
    assert (point.precision, point.recall, point.fpr) == (0.75, 0.6, 2 / 90)
    assert point.f1 == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert point.above == 0.08
    nothing = OperatingPoint(0, 0, 0, 0, score="msp", threshold=9.0)
    assert all(np.isnan(v) for v in (nothing.precision, nothing.recall, nothing.fpr, nothing.f1, nothing.above))


@pytest.mark.parametrize("kind", list(curves.KINDS))
@pytest.mark.parametrize("task", TASKS)
def test_a_tap_on_a_marker_finds_its_threshold_again(cache: Cache, kind: str, task: str) -> None:
    line = drawn(getattr(curves, kind)(Selection.of(cache, task, scores=["entropy"])), "entropy")
    x, y = line.dimension_values(0), line.dimension_values(1)
    threshold = line.dimension_values("threshold")
    for at in range(1, len(x) - 1, 7):
        name, found = curves.nearest_threshold(Selection.of(cache, task, scores=["entropy"]), kind, (x[at], y[at]))
        assert (name, found) == ("entropy", pytest.approx(threshold[at]))
        (mark,) = curves.marks(Selection.of(cache, task), kind, {"entropy": found}).array([0, 1])
        assert tuple(mark) == pytest.approx((x[at], y[at]), abs=0.05 if kind == "reliability" else 1e-9)


def test_a_tap_chooses_the_nearest_of_several_curves(cache: Cache) -> None:
    for name in SCORES:
        line = drawn(curves.roc(Selection.of(cache, "error", scores=SCORES)), name)
        at = len(line) // 2
        x, y = line.dimension_values("fpr")[at], line.dimension_values("tpr")[at]
        found, threshold = curves.nearest_threshold(Selection.of(cache, "error", scores=SCORES), "roc", (x, y))
        point = curves.counts_at(Selection.of(cache, "error", scores=found), threshold)
        assert np.hypot(point.fpr - x, point.recall - y) < 1e-9
    # in the units of the chart: at a logarithmic axis a small step to the right is a long way
    left = curves.nearest_threshold(Selection.of(cache, "error", scores=["entropy"]), "roc", (1e-4, 0.3), log_x=True)[1]
    assert curves.counts_at(Selection.of(cache, "error", scores="entropy"), left).fpr < 0.05


def test_logarithmic_axis_starts_where_a_curve_rises(cache: Cache) -> None:
    chart = curves.roc(Selection.of(cache, "error", scores=SCORES), log_x=True)
    options = chart.opts.get("plot").kwargs
    assert options["logx"]
    left = options["xlim"][0]
    assert np.log10(left) == pytest.approx(round(np.log10(left)))
    for name in SCORES:
        line = drawn(chart, name)
        assert line.dimension_values("fpr").min() >= left
        # nothing but the lowest percent is left out
        truth, values = pixels(cache, name, "error")
        fpr, tpr, _ = roc_curve(truth, values)
        assert tpr[fpr < left].max(initial=0) <= 0.011


def test_markers_and_colours(cache: Cache) -> None:
    thresholds = {"msp": 0.4, "pgn_oh_p0.5": 3.0}
    chart = curves.roc(Selection.of(cache, "anomaly", scores=SCORES), thresholds=thresholds)
    marks = next(part for part in chart if isinstance(part, hv.Points))
    assert list(marks.dimension_values("score")) == list(thresholds)
    for name, x, y, color in zip(
        thresholds, marks.dimension_values("fpr"), marks.dimension_values("tpr"), marks.dimension_values("color"),
        strict=True,
    ):  # fmt: skip
        point = curves.counts_at(Selection.of(cache, "anomaly", scores=name), thresholds[name])
        assert (x, y) == (point.fpr, point.recall)
        assert color == score_look(name).color
        assert drawn(chart, name).opts.get("style").kwargs["color"] == color


def test_a_tap_base_is_part_of_the_chart(cache: Cache) -> None:
    for kind in curves.KINDS:
        base = curves.tap_base(kind)
        chart = getattr(curves, kind)(Selection.of(cache, "error", scores=SCORES), base=base)
        assert any(part is base for part in chart)
        assert base.opts.get("plot").kwargs["tools"] == ["tap"]


@pytest.mark.slow
def test_charts_render(cache: Cache) -> None:
    """Options exist and fit together: HoloViews makes a Bokeh figure of every chart."""
    renderer = hv.renderer("bokeh")
    thresholds = dict.fromkeys(SCORES, 0.3)
    for chart in (
        curves.roc(Selection.of(cache, "error", scores=SCORES), thresholds=thresholds, log_x=True),
        curves.pr(Selection.of(cache, "anomaly", scores=SCORES), thresholds=thresholds),
        curves.sparsification(Selection.of(cache, "error", scores=SCORES), thresholds=thresholds),
        curves.reliability(Selection.of(cache, "error", scores=SCORES), thresholds=thresholds),
        curves.confidence_diagram(Selection.of(cache)),
        charts.note("nothing to draw"),
    ):
        for dark in (None, False, True):
            figure = renderer.get_plot(chart.opts(**charts.chart_opts(dark), clone=True)).state
            assert figure.background_fill_alpha == 0
            assert figure.border_fill_alpha == 0


def tooltip_columns(figure: Any) -> None:
    """Every column that a tooltip names is among the data of each glyph it is shown for."""
    shown = 0
    for tool in figure.select(HoverTool):
        for renderer in tool.renderers:
            for _, value in tool.tooltips:
                for braced, plain in re.findall(r"@(?:{([^}]*)}|(\w+))", value):
                    assert (braced or plain) in renderer.data_source.data, (value, list(renderer.data_source.data))
                    shown += 1
    assert shown


def test_tooltips_name_columns_that_exist(cache: Cache) -> None:
    renderer = hv.renderer("bokeh")
    for chart in (
        curves.roc(Selection.of(cache, "error", scores=SCORES), thresholds={"msp": 0.3}),
        curves.sparsification(Selection.of(cache, "error", scores=SCORES)),
        curves.reliability(Selection.of(cache, "error", scores=SCORES)),
        curves.confidence_diagram(Selection.of(cache)),
        overview.set_distribution(Selection.of(cache, "error", scores="msp")),
        classes.class_distributions(Selection.of(cache, "error", scores="msp")),
        classes.confusion(Selection.of(cache)),
    ):
        tooltip_columns(renderer.get_plot(chart).state)


def test_what_cannot_be_drawn_is_a_note(cache: Cache, tmp_path: Path) -> None:
    plain = write_cache(tmp_path / "plain", ["a"], label=False)
    empty = write_cache(tmp_path / "empty", [])
    assert "no frame has class labels" in words(curves.roc(Selection.of(plain, "error", scores=SCORES)))
    assert "no frame has class labels" in words(curves.sparsification(Selection.of(plain, "error", scores=SCORES)))
    assert "no frame has class labels" in words(curves.confidence_diagram(Selection.of(plain)))
    assert "holds no frames yet" in words(curves.pr(Selection.of(empty, "anomaly", scores=SCORES)))
    assert "no score is chosen" in words(curves.roc(Selection.of(cache, "error", scores=[])))
    assert "no scores are chosen" in words(overview.set_distribution(Selection.of(cache, "error", scores=[])))
    assert "4 scores are chosen; choose one" in words(overview.set_distribution(Selection.of(cache, "error")))
    # nothing unknown in the sky
    sky = words(curves.roc(Selection.of(cache, "anomaly", scores=SCORES, classes=["sky"])))
    truth, _ = pixels(cache, "msp", "anomaly", classes=["sky"])
    assert ("is no pixel of an unknown object" in sky) == (not truth.any())
    with pytest.raises(GraduncError, match="class labels"):
        curves.counts_at(Selection.of(plain, "error", scores="msp"), 0.5)
    with pytest.raises(GraduncError, match="unknown curve"):
        curves.marks(Selection.of(cache, "error"), "cost", {"msp": 0.5})


# ---- parts


def test_thinning_keeps_the_line() -> None:
    x = np.linspace(0, 1, 16_000)
    for y in (1 - np.exp(-8 * x), np.sqrt(x), (x >= 0.5).astype(float), x * 0):
        keep = charts.thin(x, y)
        assert keep[0] == 0
        assert keep[-1] == len(x) - 1
        assert len(keep) <= 400
        down, along = np.abs(np.interp(x, x[keep], y[keep]) - y), np.abs(np.interp(y, y[keep], x[keep]) - x)
        assert np.minimum(down, along).max() < 1e-3
    assert list(charts.thin(x, 0 * x)) == [0, 15_999]
    noise = np.random.default_rng(0).normal(size=5000)
    assert len(charts.thin(np.arange(5000) / 5000, noise, limit=100)) == 100
    assert list(charts.thin(np.array([1.0]), np.array([2.0]))) == [0]


def test_a_second_chart_reads_no_frame(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    curves.roc(Selection.of(cache, "error", scores=SCORES, classes=[CLASSES[0]]))
    curves.roc(Selection.of(cache, "error", scores=SCORES))
    monkeypatch.setattr(Cache, "__getitem__", lambda *_: pytest.fail("a frame was read"))
    again = Cache(cache.path)
    curves.pr(Selection.of(again, "error", scores=SCORES[:2]), thresholds={"msp": 0.2})
    curves.roc(Selection.of(again, "error", scores=SCORES, classes=[CLASSES[1]]), log_x=True)
    curves.counts_at(Selection.of(again, "error", scores="entropy"), 0.3)
