"""What the views would draw: data of glyphs, ranges of mappers, texts, palettes, links, code."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from synthetic import CLASSES, COLORS, SCORES, write_cache
from torch import nn

import gradunc_viz as gv
from gradunc_viz.explorer import Explorer, text
from gradunc_viz.explorer import css as style
from gradunc_viz.explorer.panes import drawing, tiles
from gradunc_viz.explorer.panes import image_pane as maps
from gradunc_viz.explorer.panes import pixel as pixels
from gradunc_viz.explorer.panes.drawing import PaneLook
from gradunc_viz.explorer.state import frame_store as frame_data
from gradunc_viz.explorer.state import frame_table, permalink, reproduce
from gradunc_viz.explorer.state import pane as panes
from gradunc_viz.explorer.state.ranges import frame_range, pair_range, ranks, set_range, shown_values
from gradunc_viz.explorer.state.state import ExplorerState
from gradunc_viz.explorer.tabs import frames as tab
from gradunc_viz.metrics.operating_point import ThresholdCounts, threshold_counts
from gradunc_viz.schema.errors import GraduncError
from gradunc_viz.scores.gradients import gradient_factors, gradient_norms
from gradunc_viz.store.cache import Cache
from gradunc_viz.store.frame import class_probabilities, score
from gradunc_viz.style.palette import MISSED, TRANSPARENT, class_palette, text_color
from gradunc_viz.style.scores import units_text

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("views") / "cache"
    return write_cache(folder, ["a", "b", HOSTILE], [(64, 128), (64, 128), (50, 40)])


@pytest.fixture
def frame(cache: Cache) -> frame_data.FrameData:
    return frame_data.FrameData(cache["a"])


def whole(frame: frame_data.FrameData, across: int = 1000) -> tiles.Tile:
    return tiles.tile_for(frame.size, None, across)


def look(frame: frame_data.FrameData, **options) -> PaneLook:
    def limits(name: str) -> tuple[float, float]:
        return frame_range(frame.score(name))

    return PaneLook(**({"score": "msp", "task": "error", "limits": limits} | options))


# ---- frames


def test_scores_of_one_pixel_are_those_of_the_map(cache: Cache) -> None:
    for name in ("a", HOSTILE):
        fresh, mapped = frame_data.FrameData(cache[name]), frame_data.FrameData(cache[name])
        height, width = fresh.size
        for y, x in ((0, 0), (height - 1, width - 1), (height // 2, width // 3), (7, 12)):
            found = fresh.scores_at(y, x, SCORES)
            for score_name in SCORES:
                assert found[score_name] == pytest.approx(float(mapped.score(score_name)[y, x]), rel=1e-4, abs=1e-4)
    assert sorted(fresh._arrays) == ["head_score", "pixel_score"]  # no whole map was made for it


def test_probabilities_of_one_pixel_are_the_caches(cache: Cache, frame: frame_data.FrameData) -> None:
    for y, x in ((0, 0), (63, 127), (20, 31)):
        np.testing.assert_allclose(frame.probabilities(y, x), class_probabilities(cache["a"], y, x), atol=1e-4)


def test_store_shares_frames_and_keeps_within_its_limit(cache: Cache) -> None:
    store = frame_data.FrameStore(limit=10_000)
    first = store.get(cache, "a")
    assert store.get(cache, "a") is first
    assert first.score("msp").nbytes > store.limit
    store.get(cache, "b")
    assert len(store) == 1
    assert store.get(cache, "a") is not first
    with pytest.raises(KeyError, match="nowhere"):
        store.get(cache, "nowhere")


@pytest.mark.parametrize("task", ["error", "anomaly"])
def test_threshold_counts_equal_numpys(frame: frame_data.FrameData, task: str) -> None:
    values, target = frame.score("msp"), frame.target(task)
    assert target is not None
    positive, evaluated = target
    for threshold in (*np.quantile(values, [0, 0.3, 0.99, 1]), 2.0):
        counts = threshold_counts(values, target, threshold)
        found = values >= np.float32(threshold)
        assert counts.tp == (found & positive & evaluated).sum()
        assert counts.fp == (found & ~positive & evaluated).sum()
        assert counts.fn == (~found & positive & evaluated).sum()
        assert counts.tn == (~found & ~positive & evaluated).sum()
        assert counts.fpr == pytest.approx((found & ~positive & evaluated).sum() / (~positive & evaluated).sum())
        if counts.tp + counts.fp:
            assert counts.precision == pytest.approx(positive[found & evaluated].mean())
    assert np.isnan(counts.precision)  # nothing reaches 2
    assert counts.recall == 0


def test_linear_norms_keep_the_order_and_the_sign() -> None:
    values = np.array([-3.0, 0.0, 2.0], "f4")
    assert shown_values(values, "pgn_oh_p1", "linear").tolist() == [0.125, 1, 4]
    assert shown_values(values, "pgn_uni_p2", "linear").tolist() == [-8, -1, -0.25]
    assert shown_values(values, "msp", "linear") is values
    assert np.isfinite(shown_values(np.array([500.0], "f4"), "pgn_oh_p0.1", "linear")).all()


def test_ranks_are_percentiles() -> None:
    values = np.random.default_rng(0).normal(size=(20, 30)).astype("f4")
    found = ranks(values)
    assert (np.argsort(found.ravel()) == np.argsort(values.ravel())).all()
    assert 0 < found.min() < found.max() < 100
    assert (ranks(np.ones((3, 4), "f4")) == 50).all()


def test_ranges_are_never_empty(cache: Cache) -> None:
    assert frame_range(np.full((2, 3), 7.0, "f4")) == (6.5, 7.5)
    low, high = set_range(cache.summary, "msp")
    ours = cache.summary["score_quantile"].sel(score="msp")
    assert (low, high) == (ours.sel(quantile=0.05).min(), ours.sel(quantile=0.99).max())
    assert pair_range(np.zeros((4, 4), "f4")) == (-1, 1)


# ---- tiles


def test_tile_is_of_about_the_resolution_of_the_screen() -> None:
    tile = tiles.tile_for((1024, 2048), None, 600)
    assert (tile.left, tile.top, tile.right, tile.bottom, tile.factor) == (0, 0, 2048, 1024, 4)
    assert tile.shape == (256, 512)
    close = tiles.tile_for((1024, 2048), (100.0, 200.0, 50.0, 100.0), 600)
    assert close.factor == 1
    assert close.left < 100 < 200 < close.right
    assert close.shape == (close.bottom - close.top, close.right - close.left)
    odd = tiles.tile_for((1023, 2047), (500.0, 2100.0, 300.0, 1100.0), 600)
    assert odd.left % odd.factor == odd.top % odd.factor == 0
    assert (odd.right, odd.bottom) == (2047, 1023)
    beside = tiles.tile_for((1024, 2048), (5000.0, 6000.0, 0.0, 500.0), 600)
    assert beside.shape == (1, 1)


def test_a_single_pixel_survives_zooming_out_and_labels_are_not_blended() -> None:
    tile = tiles.Tile(0, 0, 10, 7, 3)
    values = np.zeros((7, 10), "f4")
    values[6, 9] = 5
    small = tiles.pool_max(values, tile)
    assert small.shape == tile.shape == (3, 4)
    assert small[2, 3] == 5
    assert small.sum() == 5
    labels = np.arange(70, dtype="u1").reshape(7, 10)
    assert (tiles.pick(labels, tile) == labels[::3, ::3]).all()
    marks = np.full((7, 10), 255, "u1")
    marks[:, :5] = 0
    marks[4, 1] = 1
    found = tiles.pool_marks(marks, tile)
    assert found[1, 0] == 1
    assert (found == 1).sum() == 1
    assert (found[:, 1] == 255).all()  # a block half ignored
    assert found[0, 0] == 0
    signed = np.zeros((7, 10), "f4")
    signed[0, 0], signed[0, 1] = 1, -3
    assert tiles.pool_signed(signed, tile)[0, 0] == -3
    holes = np.full((7, 10), np.nan, "f4")
    holes[0, 0] = 2
    assert tiles.pool_max(holes, tile)[0, 0] == 2
    assert np.isnan(tiles.pool_max(holes, tile)[2, 3])


def test_tiles_of_a_part_are_cut_where_they_say(frame: frame_data.FrameData) -> None:
    tile = tiles.tile_for(frame.size, (30.0, 60.0, 10.0, 25.0), 600)
    assert tile.factor == 1
    cut = tiles.pick(frame.prediction, tile)
    assert (cut == frame.prediction[tile.top : tile.bottom, tile.left : tile.right]).all()
    head, _, encoded = tiles.jpeg_url(frame.image, tile).partition(",")
    assert head == "data:image/jpeg;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), "f4")
    assert picture.shape == (*tile.shape, 3)
    assert abs(picture - tile.of(frame.image)).mean() < 25


# ---- panes


@pytest.mark.parametrize("written", ["A:image", "A:msp", "A:pgn_oh_p0.5~A:msp", "A:label"])
def test_panes_are_read_as_they_are_written(cache: Cache, written: str) -> None:
    assert str(panes.parse_pane(written, [cache])) == written


@pytest.mark.parametrize("wrong", ["", "image", "B:image", "A:margin", "A:image~A:msp", "A:msp~A:msp~A:msp", "a:msp"])
def test_other_panes_are_errors(cache: Cache, wrong: str) -> None:
    with pytest.raises(GraduncError, match="pane"):
        panes.parse_pane(wrong, [cache])


def test_two_caches_start_side_by_side(cache: Cache) -> None:
    shown = panes.default_panes([cache, cache], 0)
    assert shown[1:4] == ["A:pgn_oh_p0.5", "B:pgn_oh_p0.5", "A:pgn_oh_p0.5~B:pgn_oh_p0.5"]
    assert all(panes.parse_pane(pane, [cache, cache]) for pane in shown)
    assert list(panes.pane_options([cache, cache])) == [
        "A: cache", "A: cache, Gradients", "A: cache, Softmax", "B: cache", "B: cache, Gradients", "B: cache, Softmax"
    ]  # fmt: skip


def test_drawings_hold_the_cached_arrays(cache: Cache, frame: frame_data.FrameData) -> None:
    dataset, tile = cache["a"], whole(frame)

    def columns(what: str, **options) -> dict:
        return drawing.draw(panes.Pane(0, what), {0: frame}, look(frame, **options), tile).columns

    assert (columns("prediction")["classes"][0] == dataset["prediction"].values).all()
    label = columns("label")
    assert (label["classes"][0] == dataset["label"].values).all()
    assert (label["marks"][0] == dataset["anomaly"].values).all()
    np.testing.assert_array_equal(columns("msp")["score"][0], score(dataset, "msp").values)
    wrong = columns("error")["marks"][0]
    known = dataset["label"].values != 255
    assert (wrong[known] == (dataset["prediction"].values != dataset["label"].values)[known]).all()
    assert (wrong[~known] == 255).all()
    hidden = columns("msp", hide_ignored=True)["score"][0]
    assert (np.isnan(hidden) == ~known).all()
    for name, column in columns("image").items():
        assert len(column) == 1, name


def test_outcomes_are_told_apart_at_any_threshold(frame: frame_data.FrameData) -> None:
    drawn = drawing.draw(panes.Pane(0, "image"), {0: frame}, look(frame, overlay="outcomes"), whole(frame))
    found, alarms = drawn.columns["found"][0], drawn.columns["alarms"][0]
    positive, evaluated = frame.target("error")
    for threshold in (0.1, 0.5):
        counts = threshold_counts(frame.score("msp"), (positive, evaluated), threshold)
        assert (found >= np.float32(threshold)).sum() == counts.tp
        assert (found < np.float32(threshold)).sum() == counts.fn
        assert (alarms >= np.float32(threshold)).sum() == counts.fp


def test_difference_is_signed_and_by_rank_where_units_differ(frame: frame_data.FrameData) -> None:
    plain = panes.Pane(0, "pgn_oh_p0.5", minus=(0, "pgn_oh_p0.5"))
    assert (drawing.difference(plain, {0: frame}) == 0).all()
    ranked = panes.Pane(0, "msp", minus=(0, "entropy"))
    assert ranked.by_rank
    values = drawing.difference(ranked, {0: frame})
    assert -100 < values.min() < 0 < values.max() < 100
    drawn = drawing.draw(ranked, {0: frame}, look(frame), whole(frame))
    assert drawn.signed
    assert drawn.limits[0] == -drawn.limits[1]
    assert "percentiles" in drawn.units
    with pytest.raises(GraduncError, match="no such frame"):
        drawing.draw(panes.Pane(1, "msp"), {0: frame}, look(frame), whole(frame))


def test_frames_of_other_sizes_have_no_difference(cache: Cache, frame: frame_data.FrameData) -> None:
    other = frame_data.FrameData(cache[HOSTILE])
    with pytest.raises(GraduncError, match="128 × 64 and 40 × 50"):
        drawing.difference(panes.Pane(0, "msp", minus=(1, "msp")), {0: frame, 1: other})


# ---- figures


def test_a_pane_shows_what_was_drawn_and_nothing_else(frame: frame_data.FrameData) -> None:
    stage = maps.make_stage(class_palette(COLORS))
    pane = maps.make_pane(stage, "one")
    for what, layers in {
        "image": {"picture", "found"},
        "label": {"classes", "marks"},
        "msp": {"score"},
        "prediction": {"classes"},
    }.items():
        drawn = drawing.draw(panes.Pane(0, what), {0: frame}, look(frame), whole(frame))
        maps.show_drawing(pane, drawn)
        assert {name for name, layer in pane.layers.items() if layer.visible} == layers
        assert {len(column) for column in pane.source.data.values()} == {1}
        assert pane.color_bar.visible == (what == "msp")
    assert pane.save.filename == "a_A-prediction"
    mapper = stage.class_mapper
    assert mapper.palette == ["#804080", "#464646", "#4682b4", "#00008e"]
    width = (mapper.high - mapper.low) / len(mapper.palette)
    assert [int((number - mapper.low) / width) for number in range(4)] == [0, 1, 2, 3]
    assert mapper.high_color == TRANSPARENT


def test_panes_share_what_they_can_and_suit_the_page(frame: frame_data.FrameData) -> None:
    stage = maps.make_stage(["#000000"], dark=True)
    panes_ = [maps.make_pane(stage, name, dark=True) for name in ("one", "two")]
    one, two = (set(pane.figure.references()) for pane in panes_)
    assert {stage.hatch, stage.rows, stage.report, stage.follow, *stage.cross} <= one & two
    assert len(one - two) < 60, "every model of a pane is made, sent and drawn at each opening of the page"
    for layer in panes_[0].layers.values():
        assert layer.selection_glyph is layer.nonselection_glyph is layer.muted_glyph is layer.glyph
    light = maps.make_pane(maps.make_stage(["#000000"]), "one")
    assert light.color_bar.background_fill_color != panes_[0].color_bar.background_fill_color
    assert light.figure.background_fill_color != panes_[0].figure.background_fill_color


def test_threshold_reaches_the_same_pixels_in_the_browser(frame: frame_data.FrameData) -> None:
    stage = maps.make_stage(class_palette(COLORS))
    threshold = float(frame.score("msp")[10, 10])
    maps.show_threshold(stage, threshold, "found")
    assert (frame.score("msp") >= stage.found_mapper.low).sum() == (frame.score("msp") >= np.float32(threshold)).sum()
    assert stage.found_mapper.low_color == TRANSPARENT
    maps.show_threshold(stage, 0.4, "outcomes")
    assert stage.found_mapper.low_color == MISSED
    assert stage.alarm_mapper.low == np.float32(0.4)
    assert not stage.found_mapper.tags
    maps.show_threshold(stage, 0.4, "found", wide=True)  # of maps in float64
    assert stage.found_mapper.low == stage.alarm_mapper.low == 0.4
    assert all(tag in maps.threshold_js(stage)["code"] for tag in stage.found_mapper.tags)


def test_views_are_shared_and_undistorted() -> None:
    stage = maps.make_stage(["#000000"])
    two = [maps.make_pane(stage, name) for name in ("one", "two")]
    maps.show_view(stage, two, (64, 128), None)
    assert all(pane.figure.x_range is stage.x_range for pane in two)
    assert (stage.x_range.start, stage.x_range.end, stage.y_range.start, stage.y_range.end) == (0, 128, 64, 0)
    maps.show_view(stage, two, (64, 128), (10, 20, 30, 35))
    assert (stage.x_range.start, stage.y_range.start, stage.y_range.end) == (10, 35, 30)
    assert (stage.x_range.reset_end, stage.y_range.reset_start) == (128, 64)
    left, right, top, bottom = maps.home_view((50, 40))  # narrower than a pane: letterboxed
    assert (top, bottom) == (0, 50)
    assert right - left == pytest.approx(50 * maps.aspect_ratio((50, 40)))
    assert (left + right) / 2 == pytest.approx(20)


# ---- one pixel


@pytest.mark.parametrize(
    ("label", "variant"), [("oh", "exact"), ("oh", "paper"), ("uni", "exact"), ("uni", "paper"), ("exp", "exact")]
)
@pytest.mark.parametrize("p", [0.3, 1.0, 2.0])
def test_label_part_of_a_norm_is_that_of_the_closed_form(label: str, variant: str, p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((1, 5, 2, 3), generator=generator, dtype=torch.float64) * 3
    features = torch.rand((1, 4, 2, 3), generator=generator, dtype=torch.float64)
    wanted, _ = gradient_factors(logits, features, nn.Conv2d(4, 5, 1), p=p, label=label, variant=variant)
    found = pixels._label_norm(logits[0, :, 1, 2].numpy(), label, p, variant)
    assert found == pytest.approx(float(wanted[0, 1, 2]), abs=1e-9)


def test_parts_of_a_norm_add_up(cache: Cache, frame: frame_data.FrameData) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand((1, 8, 32, 64), generator=generator) + 0.1  # as in `write_frame`
    logits = torch.from_numpy(cache["a"]["logits"].values.astype("f4"))[None]
    for name, label, p in (("pgn_oh_p0.5", "oh", 0.5), ("pgn_uni_p2", "uni", 2.0)):
        parts = pixels.norm_parts(frame, name, 21, 40)
        norm = gradient_norms(logits, features, nn.Conv2d(8, 4, 1), p=p, labels=label)[0, 0, 10, 20]
        _, feature = gradient_factors(logits, features, nn.Conv2d(8, 4, 1), p=p, label=label)
        assert parts.label + parts.feature == pytest.approx(parts.norm)
        assert parts.norm == pytest.approx(float(norm), abs=0.02)
        assert parts.feature == pytest.approx(float(feature[0, 10, 20]), abs=0.03)  # logits are kept as float16
    assert pixels.norm_parts(frame, "msp", 1, 1) is None


def test_pixel_is_told_in_words(frame: frame_data.FrameData) -> None:
    pixel = pixels.read_pixel(frame, 40, 20, CLASSES, SCORES)
    assert pixel.label == "car <b>& co</b>"
    assert pixel.anomaly == "known"
    card = pixels.pixel_card(pixel, "title")
    assert "car &lt;b&gt;&amp; co" in card
    assert all(name in card.replace("<wbr>", "") for name in SCORES)
    bars = pixels.probability_bars(frame, (40, 20), CLASSES, COLORS, "pgn_oh_p0.5")
    assert "label part" in bars
    assert "<b>& co" not in bars
    with pytest.raises(GraduncError, match="outside"):
        pixels.read_pixel(frame, 64, 0, CLASSES, SCORES)


# ---- links and code


def test_link_restores_the_state(cache: Cache) -> None:
    state = ExplorerState(
        [cache, cache], 1, frame_id="b", score="entropy", task="anomaly", threshold=0.25, tab="curves",
        panes=["A:image", "B:msp~A:msp", "B:error"], layout="swipe", overlay="outcomes", norms="linear",
        hide_ignored=True, classes=[CLASSES[3]], selection=["a", "b"], pixel=(3, 4), view=(1.0, 50.0, 2.0, 30.0),
        curve="pr", log_fpr=True, failure="false_alarms", curve_scores=["msp"], curve_frames="selected",
        scope="fixed", fixed={"msp": (0.0, 0.5)}, worst="highest_mean",
    )  # fmt: skip
    main, params, problems = permalink.read_query(dict(parse_qsl(permalink.to_query(state))), state.caches)
    assert problems == []
    assert main == 1
    again = ExplorerState(state.caches, main, **params)
    for name in params:
        assert getattr(again, name) == getattr(state, name), name
    assert permalink.to_query(again) == permalink.to_query(state)
    assert len(params) == 22


def test_a_link_names_frames_by_their_place_in_the_order_of_text(tmp_path: Path) -> None:
    numbered = write_cache(tmp_path / "c", ["f1", "f2", "f10", "f11"])
    state = ExplorerState([numbered], selection=["f2", "f10"])
    query = dict(parse_qsl(permalink.to_query(state)))
    assert query["frames"].partition(".")[2] == "1_3"  # of f1, f10, f11, f2, as links have always been made
    assert permalink.read_query(query, [numbered])[1]["selection"] == ["f2", "f10"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("frame", "../../etc/passwd"),
        ("frame", "nowhere"),
        ("score", "margin"),
        ("score", "__class__"),
        ("threshold", "nan"),
        ("threshold", "1;import os"),
        ("panes", "A:image"),
        ("panes", "A:image,A:/etc/passwd"),
        ("panes", "A:image,Z:msp"),
        ("tab", "admin"),
        ("task", "x"),
        ("classes", '["' + HOSTILE + '"]'),
        ("classes", "{"),
        ("classes", '{"a": 1}'),
        ("frames", "00000000.0-2"),
        ("frames", "0-99"),
        ("fixed", "msp=1=0"),
        ("fixed", "margin=0=1"),
        ("curve_scores", "msp," + HOSTILE),
        ("layout", HOSTILE),
        ("hide_ignored", "yes"),
        ("worst", "x"),
        ("main", "B"),
        ("main", "../x"),
        ("frame", "a" * 30_000),
        ("classes", "[" * 9000),
    ],
)
def test_hostile_links_are_passed_over_and_said_so(cache: Cache, key: str, value: str) -> None:
    main, params, problems = permalink.read_query({key: value, "cache": "/etc", "caches": "x"}, [cache])
    assert (main, params) == (0, {})
    assert len(problems) == 1
    assert "link" in problems[0]
    assert len(problems[0]) < 300


@pytest.mark.parametrize(
    ("key", "value"), [("pixel", "1,-2"), ("pixel", "1"), ("view", "5,1,0,3"), ("view", "1,2,3,inf")]
)
def test_places_in_links_are_checked(cache: Cache, key: str, value: str) -> None:
    _, params, problems = permalink.read_query({"frame": "a", key: value}, [cache])
    assert params == {"frame_id": "a"}
    assert len(problems) == 1


def test_code_reproduces_what_the_panes_show(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradunc_viz as gv

    state = ExplorerState(
        cache, frame_id=HOSTILE, score="msp", threshold=0.3,
        panes=["A:image", "A:entropy", "A:error", "A:label", "A:msp~A:pgn_oh_p0.5", "A:msp~A:msp"], selection=["a"],
    )  # fmt: skip
    seen = {}
    monkeypatch.setattr(gv, "explore", lambda caches, view: seen.update(view=view))
    space: dict = {}
    exec(reproduce.python_code(state), space)
    assert int(space["found"].sum()) == (state.values >= np.float32(0.3)).sum()
    assert len(space["panes"]) == 6
    np.testing.assert_array_equal(space["panes"][1].values, state.frame.score("entropy"))
    assert float(space["panes"][2].sum()) == (state.frame.mistakes() == 1).sum()
    ours = drawing.difference(state.parsed_panes()[4], {0: state.frame})
    theirs = space["panes"][4].transpose("y", "x").values
    np.testing.assert_allclose(theirs - theirs.mean(), ours - ours.mean(), atol=0.2)
    assert space["frames"] == ["a"]
    assert seen["view"] == permalink.to_query(state)
    assert len(space["table"]) > 0


# ---- table, texts


def test_table_has_a_row_per_frame_and_a_column_per_score(cache: Cache) -> None:
    rows = frame_table.frame_rows(cache.summary)
    assert list(rows.columns) == ["shown", "pick", "frame", "error_rate", "anomaly_rate", "auprc", *SCORES, "size"]
    assert list(rows["frame"]) == list(cache.ids)
    row = rows[rows["frame"] == "a"].iloc[0]
    dataset = cache["a"]
    known = dataset["label"].values != 255
    wrong = (dataset["prediction"].values != dataset["label"].values)[known]
    assert row["size"] == "128 × 64"
    assert row["error_rate"] == pytest.approx(100 * wrong.mean())
    assert row["msp"] == pytest.approx(float(score(dataset, "msp").mean()), rel=1e-3)
    high = frame_table.frame_rows(cache.summary, "q99")
    wanted = cache.summary["score_quantile"].sel(score="msp", quantile=0.99, frame="a")
    assert high[high["frame"] == "a"].iloc[0]["msp"] == wanted
    options = frame_table.table_options(rows)
    assert "[log2]" in options["header_tooltips"]["pgn_uni_p2"]
    assert set(options["titles"]) >= set(rows.columns)
    assert options["formatters"]["frame"] == {"type": "plaintext"}  # ids are file names, never HTML


def test_table_follows_frame_selection_and_classes(cache: Cache) -> None:
    rows = frame_table.frame_rows(cache.summary)
    patches = frame_table.marked(rows, "b", ["a", "b"])
    at = list(rows["frame"]).index
    assert patches == {"shown": [(at("b"), "▶")], "pick": [(at("a"), True), (at("b"), True)]} or patches["shown"]
    assert frame_table.frames_with(cache.summary, []).all()
    assert frame_table.frames_with(cache.summary, [CLASSES[3]]).tolist() == [True] * 3


def test_table_of_ids_needs_no_summary() -> None:
    rows = frame_table.ids_only(("a", "b"))
    assert isinstance(rows, pd.DataFrame)
    assert set(frame_table.table_options(rows)["widths"]) == {"shown", "pick", "frame"}


def test_texts_escape_what_comes_from_data(cache: Cache) -> None:
    pieces = [
        text.frame_caption(frame_data.FrameData(cache[HOSTILE])),
        text.page_header("title", [HOSTILE], HOSTILE, 3),
        text.class_legend([HOSTILE], [(0, 0, 0)], [0]),
        text.message(HOSTILE),
        text.empty_cache(HOSTILE),
        text.pane_note(HOSTILE),
        text.plain_note(HOSTILE),
    ]
    for piece in pieces:
        assert "<img" not in piece
        assert "&lt;img" in piece


def test_texts_tell_units_and_orientation() -> None:
    assert "sign turned" in text.score_help("pgn_uni_p2")
    assert "sign turned" not in text.score_help("msp")
    groups = text.score_groups([*gv.SCORES, "rank:entropy+msp", "ext:mine"])
    assert list(groups) == [
        "Gradients", "Softmax", "Logits", "Fitted", "Several passes", "Queries", "Combined", "Imported"
    ]  # fmt: skip
    assert {*gv.SCORES, "rank:entropy+msp", "ext:mine"} == {name for own in groups.values() for name in own.values()}
    assert units_text("ext:mine") == "as given"
    assert units_text("msp") == "0 to 1"
    shown = text.readout("msp", 0.25, 0.031, "error", ThresholdCounts(1, 3, 1, 5))
    for part in ("0.25", "3.10%", "25.0%", "50.0%", "37.5%"):
        assert part in shown
    assert "no anomaly labels" in text.readout("msp", 0.25, 0.031, "anomaly", None)
    assert "no errors" in text.readout("msp", 0.25, 0.0, "error", ThresholdCounts(0, 0, 0, 5))
    assert "–" in text.readout("msp", 0.25, 0.0, "error", ThresholdCounts(0, 0, 2, 5))
    assert text.left_out({}) == ""
    assert "<i>a" not in text.left_out({"<i>a": "<b>gone"})
    assert "enet.py:load" in text.page_header("t", ["c"], "/far/away/enet.py:load", 1)
    assert "/far" not in text.page_header("t", ["c"], "/far/away/enet.py:load", 1)
    assert text.bar_title("pgn_uni_p2", "linear") == "−norm, linear"


def test_text_on_a_colour_is_readable() -> None:
    assert text_color((255, 255, 0)) == "#000000"
    assert text_color((0, 0, 142)) == "#ffffff"
    with pytest.raises(ValueError, match="300"):
        class_palette([(0, 0, 300)])
    assert style.css(True) != style.css(False)


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_of_many_scores_the_pixel_under_the_mouse_tells_those_that_are_looked_at(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Explorer([cache], view="tab=frames")
    view = page.desk.frames
    looked_at = {name for name in SCORES if f"A:{name}" in page.state.panes} | {page.state.score}
    assert looked_at < set(SCORES)
    for many, told in ((tab.MANY, set(SCORES)), (1, looked_at)):
        monkeypatch.setattr(tab, "MANY", many)
        view._on_hover("data", None, {"at": [20, 40]})
        shown = view.hovered.object.replace("<wbr>", "")
        assert {name for name in SCORES if f">{name}<" in shown} == told
    page.close()
