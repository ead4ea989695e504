"""What the views would draw: data of glyphs, ranges of mappers, texts, palettes."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bokeh.models import HoverTool
from PIL import Image
from synthetic import CLASSES, COLORS, SCORES, write_cache

from gradunc_viz.cache import Cache, score
from gradunc_viz.views import colors, curves, frame_data, frame_table, maps, text

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("views") / "cache"
    return write_cache(folder, ["a", "b", HOSTILE], [(64, 128), (64, 128), (50, 40)])


@pytest.fixture
def figures() -> maps.MapFigures:
    return maps.map_figures(CLASSES, colors.class_palette(COLORS))


def image_glyphs(figures: maps.MapFigures, pane: str) -> dict[str, object]:
    """Glyph renderers of a pane by the column they draw."""
    renderers = figures.panes[pane].renderers
    return {r.glyph.image: r for r in renderers if hasattr(r.glyph, "image")}


# ---- arrays


@pytest.mark.parametrize("dtype", ["f4", "f2"])
def test_codes_never_miss_a_pixel_at_or_above_the_threshold(dtype: str) -> None:
    values = np.random.default_rng(0).normal(5, 3, (40, 50)).astype(dtype).astype("f4")
    codes, scale = frame_data.encode(values)
    assert codes.dtype == np.uint16
    assert codes.min() == 0
    assert codes.max() >= 65534
    np.testing.assert_allclose(scale.low + codes * scale.step, values, atol=1.5 * scale.step)
    for threshold in values.ravel()[::97]:
        drawn = codes >= maps.threshold_code(float(threshold), scale)
        above = values >= threshold
        assert drawn[above].all()
        assert (drawn & ~above).sum() <= (np.abs(values - threshold) <= 2 * scale.step).sum()


def test_codes_of_a_constant_map() -> None:
    codes, scale = frame_data.encode(np.full((2, 3), 7.0, "f4"))
    assert (codes == 0).all()
    assert scale.low == 7
    assert frame_data.frame_range(np.full((2, 3), 7.0, "f4")) == (6.5, 7.5)


def test_shrinking_keeps_the_single_pixel_and_blends_no_labels() -> None:
    codes = np.zeros((7, 10), "u2")
    codes[6, 9] = 500
    small = frame_data.shrink_max(codes, 3)
    assert small.shape == (3, 4)
    assert small[2, 3] == 500
    assert small.sum() == 500
    labels = np.arange(70, dtype="u1").reshape(7, 10)
    assert (frame_data.shrink_nearest(labels, 3) == labels[::3, ::3]).all()


@pytest.mark.parametrize(("size", "factor"), [((1024, 2048), 1), ((2160, 3840), 2), ((4000, 6000), 3)])
def test_only_huge_frames_are_shrunk(size: tuple[int, int], factor: int) -> None:
    assert frame_data.shrink_factor(size) == factor


def test_a_shrunk_frame_keeps_a_single_pixel_of_an_unknown_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_data.shrink_factor, "__defaults__", (20,))
    anomaly = np.full((9, 13), 255, "u1")
    anomaly[:, :6] = 0
    anomaly[8, 1] = 1
    frame = frame_data.FrameArrays("a", np.zeros((9, 13, 3), "u1"), np.zeros((9, 13), "u1"), None, anomaly)
    columns = maps.frame_columns(frame)
    factor = columns["width"][0] // columns["anomaly"][0].shape[1]
    assert factor > 1
    assert columns["prediction"][0].shape == columns["anomaly"][0].shape
    assert columns["anomaly"][0][8 // factor, 1 // factor] == 1
    assert columns["anomaly"][0][0, -1] == 255
    assert (columns["anomaly"][0] == 1).sum() == 1


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_threshold_counts_equal_numpys(cache: Cache, task: str) -> None:
    dataset = cache["a"]
    frame, values = frame_data.read_frame(dataset), frame_data.read_score(dataset, "msp")
    target = frame.target(task)
    assert target is not None
    positive, evaluated = target
    for threshold in (*np.quantile(values, [0, 0.3, 0.99, 1]), 2.0):
        counts = frame_data.threshold_counts(values, target, threshold)
        found = values >= np.float32(threshold)
        assert counts.tp == (found & positive & evaluated).sum()
        assert counts.fp == (found & ~positive & evaluated).sum()
        assert counts.fn == (~found & positive & evaluated).sum()
        assert counts.tn == (~found & ~positive & evaluated).sum()
        if counts.tp + counts.fp:
            assert counts.precision == pytest.approx(positive[found & evaluated].mean())
    assert np.isnan(counts.precision)  # nothing reaches 2
    assert counts.recall == 0


# ---- panes


def test_panes_draw_the_cached_arrays(cache: Cache, figures: maps.MapFigures) -> None:
    dataset = cache["a"]
    frame, values = frame_data.read_frame(dataset), frame_data.read_score(dataset, "pgn_oh_p0.5")
    maps.show_frame(figures, frame)
    maps.show_score(figures, values)
    data = figures.source.data
    for name in ("prediction", "label", "anomaly"):
        assert (data[name][0] == dataset[name].values).all()
        assert data[name][0].dtype == np.uint8
    decoded = data["low"][0] + data["codes"][0] * data["step"][0]
    np.testing.assert_allclose(decoded, score(dataset, "pgn_oh_p0.5").values, atol=1e-3)
    head, _, encoded = data["url"][0].partition(",")
    assert head == "data:image/jpeg;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), "f4")
    assert picture.shape == (64, 128, 3)
    assert abs(picture - frame.image).mean() < 20
    assert {len(column) for column in data.values()} == {1}


def test_class_ids_meet_their_own_colour_and_ignored_ones_none(figures: maps.MapFigures) -> None:
    mapper = image_glyphs(figures, "prediction")["prediction"].glyph.color_mapper
    assert mapper.palette == ["#804080", "#464646", "#4682b4", "#00008e"]
    assert (mapper.low, mapper.high) == (-0.5, 3.5)
    width = (mapper.high - mapper.low) / len(mapper.palette)
    assert [int((number - mapper.low) / width) for number in range(4)] == [0, 1, 2, 3]
    assert mapper.high_color == colors.TRANSPARENT
    assert image_glyphs(figures, "annotation")["label"].glyph.color_mapper is mapper
    with pytest.raises(ValueError, match="300"):
        colors.class_palette([(0, 0, 300)])


def test_annotation_pane_follows_the_labels_there_are(cache: Cache, figures: maps.MapFigures) -> None:
    both = frame_data.read_frame(cache["a"])
    maps.show_frame(figures, both)
    assert figures.anomaly_mapper.palette == [colors.TRANSPARENT, colors.ANOMALY]
    only = frame_data.FrameArrays("a", both.image, both.prediction, None, both.anomaly)
    maps.show_frame(figures, only)
    assert figures.anomaly_mapper.palette == [colors.GREY, colors.ANOMALY]
    assert (figures.source.data["label"][0] == 255).all()
    assert "unknown object" in text.anomaly_legend(only)
    assert "no labels" in text.anomaly_legend(frame_data.FrameArrays("a", both.image, both.prediction, None, None))


def test_ranges_are_shared_and_zoom_survives_a_frame_of_the_same_size(cache: Cache, figures: maps.MapFigures) -> None:
    first, second, other = (frame_data.read_frame(cache[name]) for name in ("a", "b", HOSTILE))
    maps.show_frame(figures, first)
    x, y = figures.x_range, figures.y_range
    assert all(pane.x_range is x and pane.y_range is y for pane in figures.panes.values())
    assert (x.start, x.end, y.start, y.end) == (0, 128, 64, 0)
    x.update(start=10, end=20)
    maps.show_frame(figures, second)
    assert (x.start, x.end) == (10, 20)
    maps.show_frame(figures, other)  # 50 x 40 is narrower than a pane: letterboxed, undistorted
    assert (y.start, y.end) == (50, 0)
    assert x.end - x.start == pytest.approx(50 * maps.aspect_ratio((50, 40)))
    assert (x.start + x.end) / 2 == pytest.approx(20)
    assert (x.reset_start, x.reset_end) == (x.start, x.end)


def test_limits_and_threshold_are_in_units_of_the_score(cache: Cache, figures: maps.MapFigures) -> None:
    values = frame_data.read_score(cache["a"], "entropy")
    maps.show_score(figures, values)
    low, high = frame_data.frame_range(values)
    maps.show_limits(figures, (low, high), text.score_axis("entropy"))
    scale = frame_data.Scale(figures.source.data["low"][0], figures.source.data["step"][0])
    assert scale.low + figures.score_mapper.low * scale.step == pytest.approx(low)
    assert scale.low + figures.score_mapper.high * scale.step == pytest.approx(high)
    assert (low, high) == pytest.approx(tuple(np.percentile(values, (1, 99.9))))
    assert figures.color_bar.xaxis.axis_label == "entropy [nats], larger = more uncertain"
    assert (figures.color_bar.x_range.start, figures.color_bar.x_range.end) == (low, high)
    maps.show_threshold(figures, 0.4)
    mask = image_glyphs(figures, "image")["codes"]
    assert mask.glyph.color_mapper is figures.mask_mapper
    assert mask.data_source is image_glyphs(figures, "score")["codes"].data_source
    drawn = figures.source.data["codes"][0] >= figures.mask_mapper.low
    assert abs(int(drawn.sum()) - int((values >= 0.4).sum())) <= 1
    assert figures.threshold_mark.location == 0.4


def test_hover_tells_names_of_classes_and_the_score_in_every_pane(figures: maps.MapFigures) -> None:
    for pane in figures.panes.values():
        (hover,) = pane.select(HoverTool)
        assert [row[0] for row in hover.tooltips] == ["pixel (x, y)", "prediction", "label", "anomaly", "score"]
        assert hover.formatters["@prediction"].args["names"] == list(CLASSES)
        assert hover.formatters["@codes"].args["source"] is figures.source


def test_set_range_spans_all_frames(cache: Cache) -> None:
    low, high = frame_data.set_range(cache.summary, "msp")
    ours = cache.summary["score_quantile"].sel(score="msp")
    assert low == ours.sel(quantile=0.05).min()
    assert high == ours.sel(quantile=0.99).max()


# ---- table, texts, charts


def test_table_has_a_row_per_frame_and_a_column_per_score(cache: Cache) -> None:
    rows = frame_table.frame_rows(cache.summary)
    assert list(rows.columns) == ["frame", "error_rate", "anomaly_rate", *SCORES, "size"]
    assert list(rows["frame"]) == list(cache.ids)
    row = rows[rows["frame"] == "a"].iloc[0]
    dataset = cache["a"]
    known = dataset["label"].values != 255
    wrong = (dataset["prediction"].values != dataset["label"].values)[known]
    assert row["size"] == "128 × 64"
    assert row["error_rate"] == pytest.approx(100 * wrong.mean())
    assert row["msp"] == pytest.approx(float(score(dataset, "msp").mean()), rel=1e-3)
    options = frame_table.table_options(rows)
    assert options["titles"]["pgn_uni_p2"] == "pgn_uni_p2"
    assert "[log2]" in options["header_tooltips"]["pgn_uni_p2"]
    assert set(options["titles"]) == set(rows.columns)
    assert options["formatters"]["frame"] == {"type": "plaintext"}  # ids are file names, never HTML


def test_table_of_ids_needs_no_summary() -> None:
    rows = frame_table.ids_only(("a", "b"))
    assert isinstance(rows, pd.DataFrame)
    assert set(frame_table.table_options(rows)["widths"]) == {"frame"}


def test_texts_escape_what_comes_from_data(cache: Cache) -> None:
    frame = frame_data.read_frame(cache[HOSTILE])
    pieces = [
        text.frame_caption(frame),
        text.page_header("title", [HOSTILE], HOSTILE, 3),
        text.class_legend([HOSTILE], [(0, 0, 0)], [0]),
        text.message(HOSTILE),
        text.empty_cache(HOSTILE),
    ]
    for piece in pieces:
        assert "<img" not in piece
        assert "&lt;img" in piece


def test_texts_tell_units_and_orientation() -> None:
    assert "sign turned" in text.score_help("pgn_uni_p2")
    assert "sign turned" not in text.score_help("msp")
    assert set(text.score_options(SCORES).values()) == set(SCORES)
    shown = text.readout("msp", 0.25, 0.031, "error", frame_data.ThresholdCounts(1, 3, 1, 5))
    for part in ("0.25", "3.10%", "25.0%", "50.0%"):
        assert part in shown
    assert "no anomaly labels" in text.readout("msp", 0.25, 0.031, "anomaly", None)
    assert "–" in text.readout("msp", 0.25, 0.0, "error", frame_data.ThresholdCounts(0, 0, 0, 5))
    assert "enet.py:load" in text.page_header("t", ["c"], "/far/away/enet.py:load", 1)
    assert "/far" not in text.page_header("t", ["c"], "/far/away/enet.py:load", 1)


def test_text_on_a_colour_is_readable() -> None:
    assert colors.text_color((255, 255, 0)) == "#000000"
    assert colors.text_color((0, 0, 142)) == "#ffffff"


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_distribution_is_that_of_the_pixels(cache: Cache, task: str) -> None:
    dataset = cache["a"]
    frame, values = frame_data.read_frame(dataset), frame_data.read_score(dataset, "pgn_uni_p2")
    target = frame.target(task)
    assert target is not None
    positive, evaluated = target
    limits = (float(values.min()), float(values.max()))
    chart = curves.score_distribution(dataset, "pgn_uni_p2", task, limits, 0.5)
    assert chart is not None
    low, high = curves.TASK_OUTCOMES[task]
    edges = np.linspace(*limits, 81)
    for outcome, pixels in ((low, ~positive & evaluated), (high, positive & evaluated)):
        drawn = np.cumsum(curves.density(dataset, "pgn_uni_p2", outcome, edges))
        wanted = np.cumsum(np.histogram(values[pixels], edges)[0] / pixels.sum())
        # a pixel may be in the neighbouring interval, for its cached bin is counted where the middle of that lies
        np.testing.assert_allclose(drawn, wanted, atol=0.02 + 1 / pixels.sum())
        assert drawn[-1] == pytest.approx(1)
    assert chart.get(0).label == low
    assert chart.get(0).kdims[0].label == "pgn_uni_p2 [log2], larger = more uncertain"
    assert chart.VLine.I.data == 0.5


def test_no_distribution_without_labels(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", ["a"], label=False, anomaly=False)
    assert curves.score_distribution(cache["a"], "msp", "error", (0, 1), 0.5) is None
