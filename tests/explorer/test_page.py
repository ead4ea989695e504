"""The dashboard without a browser: its state is driven, and what panes and widgets then hold is looked at."""

from __future__ import annotations

import queue
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panel as pn
import pytest
from frame_files import copy_frame, unpacked
from synthetic import CLASSES, write_cache

import gradunc_viz as gv
from gradunc_viz import explorer as app
from gradunc_viz.explorer import server as serving
from gradunc_viz.explorer.jobs import Jobs
from gradunc_viz.explorer.state.state import STORE, ExplorerState, StateValues
from gradunc_viz.explorer.state.tabs import tabs
from gradunc_viz.store.cache import Cache, open_cache

# Panel 1.9 calls pandas in a way that pandas 3.1 announces to remove
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")

IDS = ["b", "a", "c", "<b>d"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("app") / "cache", IDS, [(64, 128), (64, 128), (64, 128), (50, 40)])


@pytest.fixture
def explorer(cache: Cache) -> app.Explorer:
    return app.Explorer([cache], view="tab=frames")


def click(explorer: app.Explorer, frame_id: str, column: str = "frame") -> None:
    """What Panel does when the row of a frame is clicked, wherever it is on screen."""
    tab = explorer.desk.frames
    rows = list(tab.table.value["frame"])
    tab._on_row(SimpleNamespace(row=rows.index(frame_id), column=column))


def source(explorer: app.Explorer, place: int) -> dict:
    return explorer.desk.frames.panes.all[place].map.source.data


# ---- state


def test_state_starts_with_the_first_frame(cache: Cache) -> None:
    state = ExplorerState(cache)
    assert state.frame_id == cache.ids[0]
    assert state.frame.id == cache.ids[0]
    assert state.score == cache.scores[0]
    assert (state.values == gv.score(cache[0], state.score).values).all()
    assert state.message == ""


def test_state_may_start_anywhere(cache: Cache) -> None:
    state = ExplorerState(cache, frame_id="c", score="msp", threshold=0.3, task="anomaly")
    assert (state.frame.id, state.threshold, state.task) == ("c", 0.3, "anomaly")
    assert (state.values == gv.score(cache["c"], "msp").values).all()


def test_what_a_state_takes_is_what_it_has(cache: Cache) -> None:
    state = ExplorerState(cache)
    assert set(StateValues.__annotations__) == {n for n in state.param if n != "name" and not state.param[n].constant}


def test_unknown_frame_is_a_message_and_the_next_one_works(cache: Cache) -> None:
    state = ExplorerState(cache)
    state.frame_id = "nowhere"
    assert state.frame is None
    assert "nowhere" in state.message
    assert state.counts() is None
    assert state.share_above() is None
    state.frame_id = "a"
    assert state.frame.id == "a"
    assert state.message == ""


def test_share_and_counts_follow_the_threshold(cache: Cache) -> None:
    state = ExplorerState(cache, score="entropy", task="anomaly")
    state.threshold = float(np.quantile(state.values, 0.9))
    assert state.share_above() == pytest.approx((state.values >= np.float32(state.threshold)).mean())
    counts = state.counts()
    evaluated = state.frame.anomaly != 255
    assert counts.tp + counts.fp + counts.fn + counts.tn == evaluated.sum()
    assert counts.tp + counts.fn == (state.frame.anomaly == 1).sum()


def test_each_score_keeps_its_threshold(cache: Cache) -> None:
    state = ExplorerState(cache, score="msp")
    state.threshold = 0.123
    state.score = "entropy"
    assert state.threshold != 0.123
    assert (state.values == gv.score(cache[state.frame_id], "entropy").values).all()
    state.score = "msp"
    assert state.threshold == 0.123
    state.set_threshold("entropy", 0.7)
    assert (state.score, state.threshold) == ("entropy", 0.7)
    assert state.threshold_of("entropy") == 0.7
    assert state.threshold_of("msp") == 0.123


def test_step_stops_at_the_ends_and_follows_the_order_given(cache: Cache) -> None:
    state = ExplorerState(cache, frame_id="a")
    state.step(+1, ["c", "a", "b"])
    assert state.frame_id == "b"
    state.step(+1, ["c", "a", "b"])
    assert state.frame_id == "b"
    state.step(-1, ["c", "a"])  # the frame shown was filtered away
    assert state.frame_id == "c"


def test_colour_ranges_are_shared_between_networks_and_can_be_kept(cache: Cache, tmp_path: Path) -> None:
    other = write_cache(tmp_path / "other", ["a", "b"], scores=("msp", "entropy"))
    state = ExplorerState([cache, other], frame_id="a", panes=["A:msp", "B:msp", "A:entropy"])
    values = [gv.score(found["a"], "msp").values for found in (cache, other)]
    low, high = state.limits("msp")
    assert low == pytest.approx(min(np.percentile(v, 1) for v in values))
    assert high == pytest.approx(max(np.percentile(v, 99.9) for v in values))
    state.scope = "set"
    quantiles = [found.summary["score_quantile"].sel(score="msp") for found in (cache, other)]
    assert state.limits("msp") == pytest.approx(
        (min(float(q.min()) for q in quantiles), max(float(q.max()) for q in quantiles))
    )
    before = state.limits("msp")
    state.scope = "fixed"
    state.frame_id = "b"
    assert state.limits("msp") == before


def test_look_at_zooms_onto_a_box(cache: Cache) -> None:
    state = ExplorerState(cache, tab="failures", frame_id="a")
    state.look_at("<b>d", (10, 20, 5, 15))
    left, right, top, bottom = state.view
    assert left < 5 < 15 < right
    assert top < 10 < 20 < bottom
    assert (state.frame.id, state.tab) == ("<b>d", "frames")
    state.look_at("a")
    assert state.view is None


def test_pins_and_zoom_end_where_they_mean_nothing(cache: Cache) -> None:
    state = ExplorerState(cache, frame_id="a")
    state.param.update(pixel=(3, 4), view=(10.0, 40.0, 5.0, 20.0))
    state.frame_id = "b"
    assert state.pixel is None
    assert state.view == (10.0, 40.0, 5.0, 20.0)
    state.frame_id = "<b>d"  # of another size
    assert state.view is None


# ---- the tab of frames


def test_clicked_row_is_found_by_id_under_sort_and_filter(explorer: app.Explorer) -> None:
    tab = explorer.desk.frames
    tab.table.sorters = [{"field": "frame", "dir": "desc"}]
    click(explorer, "c")
    assert explorer.state.frame_id == "c"
    rows = tab.table.value
    assert rows["frame"][rows["shown"] == "▶"].tolist() == ["c"]
    tab._step(+1)
    assert explorer.state.frame_id == "b"  # descending
    tab.table.filters = [{"field": "frame", "type": "like", "value": "a"}]
    tab._on_key({"by": [-1]})
    assert explorer.state.frame_id == "a"
    tab._on_key({"by": ["x"]})
    assert explorer.state.frame_id == "a"


def test_caches_are_called_as_a_mapping_says(cache: Cache) -> None:
    explorer = gv.explore({"ours": cache, "theirs": str(cache.path)})
    assert explorer is not None
    assert list(explorer.select.options) == ["A: ours", "B: theirs"]
    assert "<b>A: ours, B: theirs</b>" in explorer._header.object
    assert [one.reopened().name for one in explorer.caches] == ["ours", "theirs"]
    assert cache.name == "cache"


def test_frames_are_listed_as_people_count(tmp_path: Path) -> None:
    ids = ["f1", "f2", "F9", "f10", "f100"]
    tab = app.Explorer([write_cache(tmp_path / "c", ids)], view="tab=frames").desk.frames
    listed = {"asc": ids, "desc": ids[::-1]}
    for way, expected in listed.items():
        tab.table.sorters = [{"field": "frame", "dir": way}]
        assert tab._listed() == list(tab._view()["frame"]) == expected
    tab.table.sorters = [{"field": "msp", "dir": "asc"}]
    means = tab._view()["msp"]
    assert list(means) == sorted(means)


def test_frames_are_selected_by_their_box(explorer: app.Explorer) -> None:
    before = explorer.state.frame_id
    for name in ("c", "a"):
        click(explorer, name, "pick")
    assert explorer.selection == ["a", "c"]
    assert explorer.state.frame_id == before
    rows = explorer.desk.frames.table.value
    assert rows["frame"][rows["pick"]].tolist() == ["a", "c"]
    click(explorer, "a", "pick")
    assert explorer.selection == ["c"]
    explorer.desk.frames.pick_all.clicks += 1
    assert explorer.selection == sorted(IDS)
    explorer.desk.frames.pick_none.clicks += 1
    assert explorer.selection == []


@pytest.mark.slow
def test_table_has_the_auprc_of_each_frame(explorer: app.Explorer, cache: Cache) -> None:
    wanted = gv.evaluate(cache, "error", scores="msp", by="frame", bootstrap=0)["auprc"].isel(cache=0, score=0)
    explorer.state.score = "msp"
    rows = explorer.desk.frames.table.value.set_index("frame")["auprc"]
    for name in IDS:
        assert rows[name] == pytest.approx(100 * float(wanted.sel(frame=name)))
    explorer.desk.frames.column.value = "q99"
    high = cache.summary["score_quantile"].sel(score="msp", quantile=0.99, frame="a")
    assert explorer.desk.frames.table.value.set_index("frame")["msp"]["a"] == high


def test_every_pane_follows_its_chooser(explorer: app.Explorer, cache: Cache) -> None:
    click(explorer, "a")
    panes = explorer.desk.frames.panes
    panes.all[1].chooser.value = "A:entropy"
    assert explorer.state.panes[1] == "A:entropy"
    np.testing.assert_array_equal(source(explorer, 1)["score"][0], gv.score(cache["a"], "entropy").values)
    panes.all[1].minus.value = "A:msp"
    assert explorer.state.panes[1] == "A:entropy~A:msp"
    assert panes.all[1].map.color_bar.title == "difference of percentiles"
    panes.all[1].chooser.value = "A:error"
    assert not panes.all[1].minus.visible
    assert (source(explorer, 1)["marks"][0] == explorer.state.frame.mistakes()).all()
    assert (source(explorer, 2)["classes"][0] == cache["a"]["prediction"].values).all()
    explorer.desk.frames.number.value = 6
    assert len(panes.shown) == len(set(explorer.state.panes)) == 6
    explorer.desk.frames.number.value = 2
    assert len(panes.shown) == 2


@pytest.mark.parametrize("layout", ["swipe", "flip"])
def test_two_panes_lie_on_top_of_each_other(explorer: app.Explorer, layout: str) -> None:
    explorer.state.layout = layout
    panes = explorer.desk.frames.panes
    assert panes.all[0].map.figure.styles["grid-area"] == panes.all[1].map.figure.styles["grid-area"]
    assert explorer._create_view().get_root() is not None
    explorer.state.layout = "grid"
    assert panes.all[1].map.figure.styles == {}


def test_change_of_score_moves_mask_numbers_and_threshold(explorer: app.Explorer, cache: Cache) -> None:
    click(explorer, "a")
    explorer.state.score = "msp"
    tab = explorer.desk.frames
    np.testing.assert_array_equal(source(explorer, 0)["found"][0], gv.score(cache["a"], "msp").values)
    assert "Threshold on msp [0 to 1]" in tab.slider.label
    tab._on_slider(SimpleNamespace(new=0.4))
    assert tab.panes.stage.found_mapper.low == np.float32(0.4)
    assert "0.4 " in tab.readout.object
    before = explorer.state.threshold
    tab._on_drag(SimpleNamespace(new=0.6))  # while dragging: numbers only
    assert "0.6 " in tab.readout.object
    assert explorer.state.threshold == before


def test_the_pane_beside_the_image_follows_the_score_while_it_shows_it(cache: Cache) -> None:
    state = ExplorerState((cache,))
    first, second, third = cache.scores[:3]
    state.score = first
    state.set_pane(1, f"A:{first}")
    state.score = second
    assert state.panes[1] == f"A:{second}"
    state.set_pane(1, "A:prediction")
    state.score = third
    assert state.panes[1] == "A:prediction"


@pytest.mark.slow
def test_a_new_frame_keeps_the_figure_of_the_distribution(explorer: app.Explorer) -> None:
    tab, state = explorer.desk.frames, explorer.state
    before = tab.chart.object
    shown = before[()]
    state.frame_id = state.cache.ids[1]
    assert tab.chart.object is before
    assert before[()] is not shown
    state.score = next(name for name in state.cache.scores if name != state.score)
    assert tab.chart.object is not before


@pytest.mark.slow
def test_view_of_the_browser_brings_finer_tiles(tmp_path: Path) -> None:
    big = write_cache(tmp_path / "big", ["a"], [(400, 800)])
    explorer = app.Explorer([big], view="tab=frames")
    panes = explorer.desk.frames.panes
    panes._on_view("data", None, {"now": [0, 800, 0, 400, 200]})
    assert explorer.state.view is None
    assert source(explorer, 2)["classes"][0].shape == (100, 200)
    panes._on_view("data", None, {"now": [100, 200, 50, 100, 200]})
    assert explorer.state.view == (100, 200, 50, 100)
    data = source(explorer, 2)
    left, top = data["x"][0], data["y"][0]
    part = big["a"]["prediction"].values[top : top + data["dh"][0], left : left + data["dw"][0]]
    assert (data["classes"][0] == part).all()
    assert data["dw"][0] < 400
    for wrong in ({"now": []}, {"now": [1, 2]}, {"now": ["a", 1, 2, 3, 4]}, {}):
        panes._on_view("data", None, wrong)
    assert explorer.state.view == (100, 200, 50, 100)


def test_hover_and_pin_tell_every_score(explorer: app.Explorer, cache: Cache) -> None:
    click(explorer, "a")
    tab = explorer.desk.frames
    tab._on_hover("data", None, {"at": [20, 40]})
    assert "car &lt;b&gt;" in tab.hovered.object
    assert f"{float(gv.score(cache['a'], 'msp')[40, 20]):.4g}" in tab.hovered.object
    for beside in ([-5, 3], [], [1e9, 1], ["x", 1]):
        tab._on_hover("data", None, {"at": beside})
        assert "Move the mouse" in tab.hovered.object
    tab._on_tap(SimpleNamespace(x=20.4, y=40.9))
    assert explorer.state.pixel == (40, 20)
    assert "label part" in tab.parts.object
    assert tab.panes.stage.pin.data == {"x": [20.5], "y": [40.5]}
    tab._on_tap(SimpleNamespace(x=20.4, y=40.9))
    assert explorer.state.pixel is None


@pytest.mark.slow
def test_broken_frame_is_a_message_and_the_rest_works(cache: Cache, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache.path, copy)
    with unpacked(copy / "frames" / "a") as files:
        chunk = next((files / "prediction").glob("c*"))
        chunk.write_bytes(b"\0" * chunk.stat().st_size)
    explorer = app.Explorer([open_cache(copy)], view="tab=frames")
    click(explorer, "a")
    tab = explorer.desk.frames
    assert tab.alert.visible
    assert "a" in tab.alert.object
    assert tab.chart.object is None
    assert source(explorer, 0)["url"] == [""]
    click(explorer, "b")
    assert not tab.alert.visible
    assert source(explorer, 0)["url"] != [""]


def test_range_can_be_fixed(explorer: app.Explorer) -> None:
    tab = explorer.desk.frames
    explorer.state.scope = "fixed"
    assert explorer.state.scope == "fixed"
    assert tab.range_row.visible
    name = explorer.state.score
    tab._on_range(SimpleNamespace(new=(1.0, 2.0)))
    assert explorer.state.limits(name) == (1.0, 2.0)
    mapper = tab.panes.all[1].map.score_mapper
    assert (mapper.low, mapper.high) == (1.0, 2.0)
    click(explorer, "c")
    assert explorer.state.limits(name) == (1.0, 2.0)
    explorer.state.scope = "frame"
    assert explorer.state.limits(name) != (1.0, 2.0)
    assert not tab.range_row.visible


# ---- the other tabs


@pytest.mark.parametrize("tab", list(tabs()))
@pytest.mark.parametrize("task", ["error", "anomaly"])
@pytest.mark.slow
def test_every_tab_is_built_when_first_looked_at(cache: Cache, tab: str, task: str) -> None:
    explorer = app.Explorer([cache], view=f"tab={tab}&task={task}")
    assert list(explorer.desk.built) == [tab]
    assert not explorer.desk.built[tab].alert.visible
    assert explorer._create_view().get_root() is not None


def test_overview_leads_to_frames(cache: Cache) -> None:
    explorer = app.Explorer([cache], view="tab=overview")
    tab = explorer.desk.built["overview"]
    assert "4" in tab.card.object
    assert set(tab.metrics.value["score"]) == set(cache.scores)
    worst = cache.summary["error_rate"]
    assert tab.gallery.items[0] == str(worst["frame"].values[int(worst.values.argmax())])
    tab.gallery.view[1].clicks += 1
    assert explorer.state.tab == "frames"
    assert explorer.state.frame_id == tab.gallery.items[1]


@pytest.mark.slow
def test_tap_on_a_curve_sets_score_threshold_mask_and_marks(cache: Cache) -> None:
    explorer = app.Explorer([cache], view="tab=frames&curve_scores=msp,entropy&score=entropy")
    explorer.state.tab = "curves"
    tab = explorer.desk.built["curves"]
    from gradunc_viz.explorer.charts import curves
    from gradunc_viz.store.choice import Selection

    tab._on_tap(0.1, 0.5)
    wanted = curves.nearest_threshold(Selection.of(cache, "error", scores=["msp", "entropy"]), "roc", (0.1, 0.5))
    assert (explorer.state.score, explorer.state.threshold) == wanted
    assert explorer.desk.frames.panes.stage.found_mapper.low == np.float32(wanted[1])
    counts = curves.counts_at(Selection.of(cache, "error", scores=wanted[0]), wanted[1])
    assert f"{counts.tp:,}" in tab.readout.object
    assert tab.slider.value == wanted[1]
    point = tab._points(0)
    assert set(point.dimension_values("score")) == {"msp", "entropy"}
    assert dict(zip(*(point.dimension_values(d) for d in ("score", "threshold")), strict=True))[wanted[0]] == wanted[1]


def test_curves_of_selected_frames_and_classes(cache: Cache) -> None:
    explorer = app.Explorer([cache], view="tab=curves")
    tab = explorer.desk.built["curves"]
    whole = tab.readout.object
    explorer.state.param.update(selection=["a"], curve_frames="selected")
    some = tab.readout.object
    assert some != whole
    assert "1 selected frames" in tab.scope.object
    explorer.state.classes = [CLASSES[0]]
    assert tab.readout.object != some
    for kind in ("pr", "sparsification", "reliability"):
        explorer.state.curve = kind
        assert tab.chart.object is not None
        assert not tab.alert.visible


def test_chosen_class_filters_the_table(cache: Cache, tmp_path: Path) -> None:
    explorer = app.Explorer([cache], view="tab=classes")
    tab = explorer.desk.built["classes"]
    rows = list(tab.table.value["class"])
    tab._on_class(SimpleNamespace(row=rows.index(CLASSES[3])))
    assert explorer.state.classes == [CLASSES[3]]
    assert len(explorer.desk.frames.table.value) == 4
    tab._on_class(SimpleNamespace(row=rows.index(CLASSES[3])))
    assert explorer.state.classes == []


def test_failure_zooms_the_panes_onto_it(cache: Cache) -> None:
    explorer = app.Explorer([cache], view="tab=failures&score=msp&threshold=0.2")
    tab = explorer.desk.built["failures"]
    failure = tab.gallery.items[0]
    assert tab._rows()["frame"].iloc[0] == failure.frame
    tab.gallery.view[0].clicks += 1
    stage = explorer.desk.frames.panes.stage
    assert stage.x_range.start < failure.left <= failure.right < stage.x_range.end
    assert stage.y_range.end < failure.top <= failure.bottom < stage.y_range.start
    assert explorer.state.frame_id == failure.frame


# ---- the page


def test_pages_share_no_models(cache: Cache) -> None:
    first, second = app.Explorer([cache], view="tab=frames"), app.Explorer([cache], view="tab=frames")
    assert first.desk.frames.panes.stage.pin is not second.desk.frames.panes.stage.pin
    assert first.state.frame is second.state.frame  # data are shared
    for page in (first, second):
        assert page._create_view().get_root() is not None


def test_link_leads_back_and_problems_are_told(cache: Cache) -> None:
    explorer = app.Explorer([cache], view="tab=frames&frame=c&score=msp&threshold=0.25")
    assert explorer._link.data["query"] == [explorer.link]
    again = app.Explorer([cache], view=explorer.link)
    assert again.link == explorer.link
    assert not again._problems.visible
    wrong = app.Explorer([cache], view="frame=<script>")
    assert wrong._problems.visible
    assert "&lt;script&gt;" in wrong._problems.object


def test_code_and_frames_are_shown_on_demand(explorer: app.Explorer) -> None:
    explorer.take.value = True
    assert explorer._away.visible
    assert "gv.open_cache" in explorer._texts.data["code"][0]
    click(explorer, "c", "pick")
    assert explorer._texts.data["frames"] == ["frames = ['c']\n"]
    explorer.take.value = False
    assert not explorer._away.visible


def test_cache_without_frames_says_so(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", [])
    page = app.Explorer([cache])
    assert page._create_view().get_root() is not None
    assert "no frames" in page._body[0].object


@pytest.mark.parametrize(("label", "anomaly", "task"), [(True, False, "error"), (False, True, "anomaly")])
@pytest.mark.slow
def test_task_is_one_that_has_labels(tmp_path: Path, label: bool, anomaly: bool, task: str) -> None:
    cache = write_cache(tmp_path / "cache", ["a"], label=label, anomaly=anomaly)
    explorer = app.Explorer([cache], view="tab=frames")
    tab = explorer.desk.frames
    assert explorer.state.task == task
    assert "Precision" in tab.readout.object
    explorer.state.task = "anomaly" if task == "error" else "error"
    assert "nothing to compare with" in tab.readout.object
    assert tab.chart.object is None
    for name in list(tabs()):
        explorer.state.tab = name
    assert "anomaly labels" in explorer.desk.built["failures"].alert.object or task == "anomaly"


@pytest.mark.slow
def test_cache_without_any_labels_works(tmp_path: Path) -> None:
    explorer = app.Explorer([write_cache(tmp_path / "cache", ["a"], label=False, anomaly=False)])
    for name in list(tabs()):
        explorer.state.tab = name
        assert explorer._create_view().get_root() is not None
    assert "error" in explorer.desk.frames.panes.all[3].note.object or explorer.state.panes[3] != "A:error"
    assert "no labels" in explorer.desk.frames.panes.all[3].note.object


@pytest.mark.slow
def test_several_caches_are_compared_and_chosen(cache: Cache, tmp_path: Path) -> None:
    other = write_cache(tmp_path / "other", ["a", "z"], scores=("msp",))
    explorer = app.Explorer([cache, other], view="tab=frames&frame=a&panes=A:msp,B:msp,A:msp~B:msp")
    assert explorer.select.visible
    data = [source(explorer, place)["score"][0] for place in range(3)]
    np.testing.assert_allclose(data[2], data[0] - data[1])
    click(explorer, "b")
    assert "no such frame" in explorer.desk.frames.panes.all[1].note.object
    explorer.select.value = 1
    assert explorer.state.cache is other
    assert explorer.state.frame_id == "a"
    assert "other" in explorer._header.object
    explorer.select.value = 0
    assert explorer.state.frame_id == "b"


def test_closed_pages_let_go(cache: Cache) -> None:
    page = app.Explorer([cache], view="tab=frames")
    state = page.state
    page.close()
    state.frame_id = "c"
    assert not page._desks
    assert len(STORE) > 0


def test_background_work_is_delivered_once_and_errors_are_told() -> None:
    jobs, told = Jobs(), []
    jobs.run("a", lambda: 1, told.append, told.append)
    jobs.run("a", lambda: 1 / 0, told.append, told.append)
    jobs.stream("b", lambda: iter([1, 2, 3]), told.append, told.append)
    assert told == [1, "ZeroDivisionError: division by zero", 3]
    jobs.close()
    jobs.run("a", lambda: 1, told.append, told.append)
    assert len(told) == 3


def test_spinner_turns_while_work_is_under_way() -> None:
    class Session:
        """A served document whose callbacks wait until they are asked for."""

        session_context = object()
        later: queue.Queue[Callable[[], None]] = queue.Queue()

        def add_next_tick_callback(self, callback: Callable[[], None]) -> None:
            self.later.put(callback)

    jobs, told, busy = Jobs(), [], []
    jobs.on_busy = busy.append
    jobs._document = Session()  # type: ignore[assignment]
    jobs.run("a", lambda: 3, told.append, told.append)
    assert jobs.busy
    while jobs.busy:
        Session.later.get(timeout=10)()
    assert (told, busy) == ([3], [True, False])


def test_the_next_frame_is_read_ahead_in_the_direction_taken(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    tab = app.Explorer([cache], view="tab=frames").desk.frames
    read, seen = [], SimpleNamespace(score=len, prediction=0, image=0, label=0, anomaly=0)
    monkeypatch.setattr(STORE, "get", lambda _, frame_id: read.append(frame_id) or seen)
    tab._read_ahead()
    tab._direction = -1
    tab._read_ahead()  # there is none before the first
    assert read == [cache.ids[1]]


def test_explore_takes_caches_and_paths(cache: Cache) -> None:
    assert isinstance(gv.explore(cache), app.Explorer)
    assert [found.path for found in gv.explore([cache, str(cache.path)]).caches] == [cache.path] * 2
    assert gv.explore(cache, view="frame=c").state.frame_id == "c"
    with pytest.raises(gv.GraduncError, match="no such folder"):
        gv.explore("nowhere")
    with pytest.raises(gv.GraduncError, match="at least one"):
        gv.explore([])


@pytest.mark.slow
def test_a_large_cache_opens_no_more_frames_than_a_small_one(
    cache: Cache, tmp_path: Path, opened_files: list[str]
) -> None:
    many = tmp_path / "many"
    shutil.copytree(cache.path, many)
    for number in range(100):
        copy_frame(many / "frames" / "a", many / "frames" / f"x{number:03}")
    assert len(open_cache(many).summary["frame"]) == 104
    opened = []
    for path in (cache.path, many):
        opened_files.clear()
        app.Explorer([open_cache(path)], view="tab=frames")._create_view().get_root()
        frames = f"{path}/frames/"
        opened.append({name.removeprefix(frames).split("/")[0] for name in opened_files if name.startswith(frames)})
    assert opened[1] <= opened[0]


@pytest.mark.slow
def test_table_turns_to_the_frame_shown(tmp_path: Path) -> None:
    ids = [f"f{number:02}" for number in range(25)]
    many = write_cache(tmp_path / "many", ids, [(24, 32)])
    explorer = app.Explorer([many], view="tab=frames&frame=f12")
    turn = explorer.desk.frames.turn
    assert turn.data["page"] == [2]
    explorer.state.frame_id = "f24"
    assert turn.data["page"] == [3]
    explorer.state.selection = ["f00"]  # selecting does not turn away
    assert turn.data["page"] == [3]


def test_pixels_are_read_in_every_network_and_damage_of_one_is_told(cache: Cache, tmp_path: Path) -> None:
    other = write_cache(tmp_path / "other", ["a", "b"], scores=("msp",))
    explorer = app.Explorer([cache, other], view="frame=a&pixel=5,6&panes=A%3Amsp,B%3Amsp,A%3Amsp~B%3Amsp")
    shown = explorer.desk.frames.pinned.object
    assert "Pinned pixel, A" in shown
    assert "Pinned pixel, B" in shown
    assert shown.count(">entropy<") == 1  # B has not cached it
    with unpacked(other.path / "frames" / "b") as files:
        shutil.rmtree(files / "pixel_score")
    explorer.state.frame_id = "b"
    notes = [pane.note.object for pane in explorer.desk.frames.panes.shown]
    assert "damaged" not in notes[0]
    assert "B: " in notes[1]
    assert "damaged" in notes[1]
    assert "damaged" in notes[2]


def test_analysis_leaves_a_damaged_frame_out_and_says_so(tmp_path: Path) -> None:
    broken = write_cache(tmp_path / "broken", ["a", "b", "c"], [(48, 64)])
    _ = broken.summary
    with unpacked(broken.path / "frames" / "b") as files:
        next((files / "cell").glob("c*")).write_bytes(b"")
    for tab in ("overview", "curves"):
        explorer = app.Explorer([open_cache(broken.path)], view=f"tab={tab}")
        alert = explorer.desk.built[tab].alert
        assert alert.visible
        assert "Left out" in alert.object
        assert "b" in alert.object
    assert explorer.desk.built["curves"].chart.object is not None


def test_server_listens_to_this_machine_only_and_says_when_a_port_is_taken(cache: Cache) -> None:
    server, url = serving._server((cache,), 0, "title")
    try:
        port = int(url.rstrip("/").rpartition(":")[2])
        assert server.address == "127.0.0.1"
        assert server._tornado.websocket_origins == {f"127.0.0.1:{port}", f"localhost:{port}"}
        with pytest.raises(gv.GraduncError, match=f"port {port}"):
            serving._server((cache,), port, "title")
    finally:
        server.stop()


@pytest.mark.slow
def test_dashboard_needs_no_torch(cache: Cache) -> None:
    code = (
        "import sys; from gradunc_viz import explorer as app, open_cache;"
        f"app.Explorer([open_cache({str(cache.path)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_page_is_embedded_like_any_viewer(cache: Cache) -> None:
    assert pn.Column(gv.explore(cache)).get_root() is not None
