"""The dashboard without a browser: its state is driven, and what panes and widgets then hold is looked at."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panel as pn
import pytest
from synthetic import write_cache

import gradunc_viz as gv
from gradunc_viz import app
from gradunc_viz.cache import Cache, open_cache
from gradunc_viz.views.state import ExplorerState

# Panel 1.9 calls pandas in a way that pandas 3.1 announces to remove
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")

IDS = ["b", "a", "c", "<b>d"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return write_cache(tmp_path_factory.mktemp("app") / "cache", IDS, [(64, 128), (64, 128), (64, 128), (50, 40)])


@pytest.fixture
def explorer(cache: Cache) -> app.Explorer:
    return app.Explorer([cache])


def click(explorer: app.Explorer, frame_id: str) -> None:
    """What Panel does when the row of a frame is clicked, wherever it is on screen."""
    rows = list(explorer.view.table.value["frame"])
    explorer.view._on_row(SimpleNamespace(row=rows.index(frame_id)))


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
    assert (state.values == gv.score(state.dataset, "entropy").values).all()
    state.score = "msp"
    assert state.threshold == 0.123


def test_step_stops_at_the_ends_and_follows_the_order_given(cache: Cache) -> None:
    state = ExplorerState(cache, frame_id="a")
    state.step(+1, ["c", "a", "b"])
    assert state.frame_id == "b"
    state.step(+1, ["c", "a", "b"])
    assert state.frame_id == "b"
    state.step(-1, ["c", "a"])  # the frame shown was filtered away
    assert state.frame_id == "c"


# ---- page


def test_clicked_row_is_found_by_id_under_sort_and_filter(explorer: app.Explorer) -> None:
    table = explorer.view.table
    table.sorters = [{"field": "frame", "dir": "desc"}]
    click(explorer, "c")
    assert explorer.state.frame_id == "c"
    assert table.value["frame"].iloc[table.selection[0]] == "c"
    explorer.view._step(+1)
    assert explorer.state.frame_id == "b"  # descending
    table.filters = [{"field": "frame", "type": "like", "value": "a"}]
    explorer.view._step(-1)
    assert explorer.state.frame_id == "a"


def test_change_of_frame_and_of_score_replace_what_they_must(explorer: app.Explorer, cache: Cache) -> None:
    source = explorer.view.maps.source
    click(explorer, "a")
    url, codes, prediction = (source.data[name][0] for name in ("url", "codes", "prediction"))
    explorer.state.score = "msp"
    assert source.data["prediction"][0] is prediction
    assert source.data["url"][0] is url
    assert (source.data["codes"][0] != codes).any()
    values = gv.score(cache["a"], "msp").values
    decoded = source.data["low"][0] + source.data["codes"][0] * source.data["step"][0]
    np.testing.assert_allclose(decoded, values, atol=1e-4)
    assert explorer.view.maps.color_bar.xaxis.axis_label.startswith("msp [0 to 1]")
    assert "msp" in explorer.view.score_title.object
    click(explorer, "b")
    assert (source.data["prediction"][0] == cache["b"]["prediction"].values).all()
    assert "<b>b</b>" in explorer.view.caption.object


def test_colour_range_of_frame_or_set(explorer: app.Explorer, cache: Cache) -> None:
    bar = explorer.view.maps.color_bar.x_range
    frame = (bar.start, bar.end)
    explorer.view.scope.value = "set"
    quantiles = cache.summary["score_quantile"].sel(score=explorer.state.score)
    assert (bar.start, bar.end) == (quantiles.min(), quantiles.max())
    assert frame != (bar.start, bar.end)


def test_slider_moves_the_mask_in_the_browser_and_the_numbers_at_the_end(explorer: app.Explorer) -> None:
    view, state = explorer.view, explorer.state
    before = view.readout.object
    view.slider.value = state.threshold + 0.5  # while dragging: nothing for the server to do
    assert view.readout.object == before
    with pn.io.hold():
        view._on_slider(SimpleNamespace(new=state.threshold + 0.5))
    assert f"{state.threshold:.4g}" in view.readout.object
    data = view.maps.source.data
    assert view.maps.mask_mapper.low == np.floor((state.threshold - data["low"][0]) / data["step"][0])
    assert view.slider.start <= state.threshold <= view.slider.end


def test_pages_share_no_models(cache: Cache) -> None:
    first, second = app.Explorer([cache]), app.Explorer([cache])
    assert first.view.maps.source is not second.view.maps.source
    for page in (first, second):
        assert page._create_view().get_root() is not None


def test_broken_frame_is_a_message_and_the_rest_works(cache: Cache, tmp_path: Path) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache.path, copy)
    files = (copy / "frames" / "a" / "prediction").rglob("*")
    chunk = next(path for path in files if path.is_file() and path.name != "zarr.json")
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    explorer = app.Explorer([open_cache(copy)])
    click(explorer, "a")
    assert explorer.view.alert.visible
    assert "a" in explorer.view.alert.object
    assert explorer.view.chart.object is None
    assert explorer.view.maps.source.data["url"] == [""]
    click(explorer, "b")
    assert not explorer.view.alert.visible
    assert explorer.view.maps.source.data["url"] != [""]


def test_cache_without_frames_says_so(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", [])
    root = app.Explorer([cache])
    assert root._create_view().get_root() is not None
    assert "no frames" in root.view.__panel__().object


@pytest.mark.parametrize(("label", "anomaly", "task"), [(True, False, "error"), (False, True, "anomaly")])
def test_task_is_one_that_has_labels(tmp_path: Path, label: bool, anomaly: bool, task: str) -> None:
    cache = write_cache(tmp_path / "cache", ["a"], label=label, anomaly=anomaly)
    explorer = app.Explorer([cache])
    assert explorer.state.task == task
    assert "Precision" in explorer.view.readout.object
    explorer.state.task = "anomaly" if task == "error" else "error"
    assert "nothing to compare with" in explorer.view.readout.object
    assert explorer.view.chart.object is None


def test_several_caches_are_chosen_by_name(cache: Cache, tmp_path: Path) -> None:
    other = write_cache(tmp_path / "other", ["z"], scores=("msp",))
    explorer = app.Explorer([cache, other])
    explorer.select.value = 1
    assert explorer.state.cache is other
    assert explorer.state.frame_id == "z"
    assert "other" in explorer._header.object
    explorer.select.value = 0
    assert explorer.state.cache is cache


def test_explore_takes_caches_and_paths(cache: Cache) -> None:
    assert isinstance(gv.explore(cache), app.Explorer)
    assert [found.path for found in gv.explore([cache, str(cache.path)]).caches] == [cache.path] * 2
    with pytest.raises(gv.GraduncError, match="no such folder"):
        gv.explore("nowhere")
    with pytest.raises(gv.GraduncError, match="at least one"):
        gv.explore([])


def test_server_listens_to_this_machine_only_and_says_when_a_port_is_taken(cache: Cache) -> None:
    server, url = app._server((cache,), 0, "title")
    try:
        port = int(url.rstrip("/").rpartition(":")[2])
        assert server.address == "127.0.0.1"
        assert server._tornado.websocket_origins == {f"127.0.0.1:{port}", f"localhost:{port}"}
        with pytest.raises(gv.GraduncError, match=f"port {port}"):
            app._server((cache,), port, "title")
    finally:
        server.stop()


def test_dashboard_needs_no_torch(cache: Cache) -> None:
    code = (
        "import sys; from gradunc_viz import app, open_cache;"
        f"app.Explorer([open_cache({str(cache.path)!r})]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
