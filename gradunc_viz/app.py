"""The dashboard: state, layout, links. No maths, no drawing: those are in `gradunc_viz.views`."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections.abc import Iterable, Set
from typing import Any

import numpy as np
import panel as pn

from .cache import Cache, open_cache
from .schema import GraduncError
from .views import curves, frame_table, maps, text
from .views.colors import class_palette
from .views.state import ExplorerState
from .views.style import CSS, TABLE_CSS

__all__ = ["Explorer", "ExplorerState", "explore", "serve"]

_BELOW: dict[str, Any] = {"sizing_mode": "stretch_width", "height": maps.COLOR_BAR_HEIGHT, "margin": 0}
"""What stands below the panes of the first row: of one height, so that the second row is level."""

CacheLike = Cache | str | os.PathLike[str]


# --------------------------------------------------------------------------------------------------------------------
# one cache


class _CacheView(pn.viewable.Viewer):
    """Widgets and panes of one cache, linked to an `ExplorerState`."""

    def __init__(self, state: ExplorerState, **params: Any) -> None:
        super().__init__(**params)
        self.state = state
        self._make_widgets()
        self._make_panes()
        watched = ["frame", "values", "message", "scope", "threshold", "task"]
        state.param.watch(self._on_state, watched)
        self._show(set(watched))

    def _make_widgets(self) -> None:
        state = self.state
        self.table = pn.widgets.Tabulator(
            state.rows,
            show_index=False,
            disabled=True,
            selectable=1,
            pagination="local",
            layout="fit_data",
            sizing_mode="stretch_width",
            stylesheets=[TABLE_CSS],
            **frame_table.table_options(state.rows),
        )
        self.table.on_click(self._on_row)
        self.back = pn.widgets.Button(label="◀ Previous", width=100)
        self.forward = pn.widgets.Button(label="Next ▶", width=100)
        self.back.on_click(lambda _: self._step(-1))
        self.forward.on_click(lambda _: self._step(+1))
        self.score = pn.widgets.Select.from_param(
            state.param.score, label="Score", options=text.score_options(state.cache.scores), width=390
        )
        self.scope = pn.widgets.RadioButtonGroup.from_param(
            state.param.scope, options={"this frame": "frame", "whole set": "set"}, width=170
        )
        self.task = pn.widgets.RadioButtonGroup.from_param(
            state.param.task, options={"errors": "error", "anomalies": "anomaly"}, width=170
        )
        self.slider = pn.widgets.FloatSlider(
            label="Threshold", value=state.threshold, start=0, end=1, step=0.001, format="0.000", **_BELOW
        )
        self.slider.param.watch(self._on_slider, "value_throttled")

    def _make_panes(self) -> None:
        cache = self.state.cache
        self.maps = maps.map_figures(cache.classes, class_palette(cache.colors))
        self.slider.jscallback(
            value=maps.THRESHOLD_JS,
            args={
                "source": self.maps.source,
                "mapper": self.maps.mask_mapper,
                "spans": [self.maps.threshold_mark],
            },
        )
        self.figures = {
            name: pn.pane.Bokeh(pane, sizing_mode="scale_width", aspect_ratio=2)
            for name, pane in self.maps.panes.items()
        }
        self.color_bar = pn.pane.Bokeh(self.maps.color_bar, **_BELOW)
        self.caption, self.help, self.legend, self.annotation, self.score_title, self.readout = (
            _html("") for _ in range(6)
        )
        self.alert = pn.pane.Alert("", alert_type="warning", visible=False, sizing_mode="stretch_width")
        self.chart = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=220)

    # ---- from widgets to state

    def _on_row(self, event: Any) -> None:
        # the event's row is a position in `value`, whatever the order on screen
        self.state.frame_id = str(self.table.value[frame_table.FRAME].iloc[event.row])
        self._select_row()

    def _step(self, by: int) -> None:
        self.state.step(by, self.table.current_view[frame_table.FRAME])

    def _on_slider(self, event: Any) -> None:
        self.state.threshold = event.new

    # ---- from state to panes

    def _on_state(self, *events: Any) -> None:
        self._show({event.name for event in events})

    def _show(self, changed: Set[str]) -> None:
        """Draw what follows from the parameters in `changed`, in one message to the browser."""
        state = self.state
        with pn.io.hold():
            if "message" in changed:
                self.alert.param.update(object=text.message(state.message), visible=bool(state.message))
            if "frame" in changed:
                maps.show_frame(self.maps, state.frame)
                self._show_shape()
                self._show_texts()
                self._select_row()
            if {"frame", "values"} & changed:
                maps.show_score(self.maps, state.values)
                self.help.object = text.score_help(state.score) if state.score else ""
            if {"frame", "values", "scope"} & changed:
                self._show_limits()
            if changed != {"message"}:
                self._show_threshold()
        pn.io.push_notebook(*self.figures.values(), self.color_bar)

    def _show_shape(self) -> None:
        for name, pane in self.maps.panes.items():
            self.figures[name].aspect_ratio = pane.aspect_ratio

    def _show_texts(self) -> None:
        frame, cache = self.state.frame, self.state.cache
        present = [] if frame is None else np.unique(frame.prediction).tolist()
        self.caption.object = text.frame_caption(frame)
        self.legend.object = text.class_legend(cache.classes, cache.colors, present)
        self.annotation.object = text.pane_title("Annotation", text.anomaly_legend(frame))

    def _show_limits(self) -> None:
        state = self.state
        if not state.score:
            return
        maps.show_limits(self.maps, state.limits, text.score_axis(state.score))
        self.slider.label = f"Threshold on {state.score} [{text.units_text(state.score)}]"
        self.score_title.object = text.pane_title(f"Score {state.score}", text.range_note(state.scope))

    def _show_threshold(self) -> None:
        state = self.state
        if state.values is not None:
            # the threshold outlives the frame and may lie outside this one's scores
            start = min(float(state.values.min()), state.threshold)
            end = max(float(state.values.max()), state.threshold)
            step = (end - start) / 1000 or 1.0
            self.slider.param.update(start=start, end=end, step=step, value=state.threshold)
        maps.show_threshold(self.maps, state.threshold)
        shown = state.frame is not None
        self.readout.object = (
            text.readout(state.score, state.threshold, state.share_above(), state.task, state.counts()) if shown else ""
        )
        self.chart.object = (
            curves.score_distribution(state.dataset, state.score, state.task, state.limits, state.threshold)
            if shown
            else None
        )

    def _select_row(self) -> None:
        ids = list(self.table.value[frame_table.FRAME])
        self.table.selection = [ids.index(self.state.frame_id)] if self.state.frame_id in ids else []

    # ---- layout

    def __panel__(self) -> pn.viewable.Viewable:
        if not len(self.state.cache):
            return _html(text.empty_cache(str(self.state.cache.path)))
        title = {"image": "Image, pixels at or above the threshold in magenta", "prediction": "Prediction"}
        heads: dict[str, Any] = {name: _html(text.pane_title(words)) for name, words in title.items()}
        heads |= {"score": self.score_title, "annotation": self.annotation}
        below = {"image": [self.slider], "score": [self.color_bar]}

        def column(*names: str) -> pn.Column:
            parts = [part for name in names for part in (heads[name], self.figures[name], *below.get(name, []))]
            return pn.Column(*parts, sizing_mode="stretch_width", margin=(0, 6))

        controls = pn.Row(
            self.score,
            pn.Column(_html("Colour range", margin=(5, 10, 0, 10)), self.scope, width=190),
            pn.Column(_html("Pixels to find", margin=(5, 10, 0, 10)), self.task, width=190),
            sizing_mode="stretch_width",
        )
        side = pn.Column(
            pn.Row(self.back, self.forward),
            self.table,
            self.help,
            self.chart,
            _html(f"<div class='note'>{text.HELP}</div>", margin=(6, 10)),
            width=440,
            margin=(0, 6, 0, 0),
        )
        main = pn.Column(
            self.alert,
            self.caption,
            controls,
            self.readout,
            pn.Row(column("image", "prediction"), column("score", "annotation"), sizing_mode="stretch_width"),
            self.legend,
            sizing_mode="stretch_width",
        )
        return pn.Row(side, main, sizing_mode="stretch_width")


def _html(content: str, **layout: Any) -> pn.pane.HTML:
    return pn.pane.HTML(content, stylesheets=[CSS], **({"margin": 0, "sizing_mode": "stretch_width"} | layout))


# --------------------------------------------------------------------------------------------------------------------
# the page


class Explorer(pn.viewable.Viewer):
    """The page: one cache at a time of those it was given.

    Parameters
    ----------
    caches : sequence of Cache
    title : str
    """

    def __init__(self, caches: Iterable[Cache], title: str = "gradunc-viz", **params: Any) -> None:
        super().__init__(**params)
        self.caches = tuple(caches)
        if not self.caches:
            raise GraduncError("no cache to explore: expected at least one")
        self.title = title
        self._views: dict[int, _CacheView] = {}
        names = {
            f"{number + 1}. {cache.name}" if len(self.caches) > 1 else cache.name: number
            for number, cache in enumerate(self.caches)
        }
        self.select = pn.widgets.Select(options=names, width=220, visible=len(self.caches) > 1)
        self._header = _html("", margin=(6, 0))
        self._body = pn.Column(sizing_mode="stretch_width")
        self.select.param.watch(lambda _: self._show(), "value")
        self._show()

    @property
    def view(self) -> _CacheView:
        """Widgets and panes of the cache shown."""
        number = self.select.value
        if number not in self._views:
            self._views[number] = _CacheView(ExplorerState(self.caches[number]))
        return self._views[number]

    @property
    def state(self) -> ExplorerState:
        """State of the cache shown."""
        return self.view.state

    def _show(self) -> None:
        cache = self.state.cache
        network = str(cache.key["network"]["name"])
        with pn.io.hold():
            self._header.object = text.page_header(self.title, [cache.name], network, len(cache))
            self._body[:] = [self.view]

    def __panel__(self) -> pn.viewable.Viewable:
        return pn.Column(
            pn.Row(self._header, self.select, sizing_mode="stretch_width"),
            self._body,
            sizing_mode="stretch_width",
            margin=(4, 14),
        )


def _caches(caches: CacheLike | Iterable[CacheLike]) -> tuple[Cache, ...]:
    many = [caches] if isinstance(caches, (Cache, str, os.PathLike)) else list(caches)
    return tuple(cache if isinstance(cache, Cache) else open_cache(cache) for cache in many)


def explore(
    caches: CacheLike | Iterable[CacheLike],
    *,
    port: int | None = None,
    open_browser: bool = True,
    title: str = "gradunc-viz",
) -> Explorer | None:
    """Look at one or more caches: frames, predictions and scores side by side.

    As the last line of a notebook cell it shows the page there; in a file for ``panel serve``, call ``.servable()`` on
    what it returns.

    Parameters
    ----------
    caches : Cache, path, or a sequence of them
    port : int, optional
        Serve the page on this port instead, until interrupted, and return None.
    open_browser : bool
        With `port`: whether a browser is opened.
    title : str

    Raises
    ------
    CacheError
        If a path is no cache.
    """
    opened = _caches(caches)
    if port is not None:
        serve(opened, port, open_browser, title=title)
        return None
    if "tabulator" not in pn.extension._loaded_extensions:  # loading twice would add 8 MB to the notebook again
        pn.extension("tabulator", inline=True)
    return Explorer(opened, title)


def serve(
    caches: CacheLike | Iterable[CacheLike],
    port: int = 0,
    open_browser: bool = True,
    *,
    title: str = "gradunc-viz",
) -> None:
    """Serve the dashboard on this machine alone until interrupted; print its address once it answers.

    Parameters
    ----------
    caches : Cache, path, or a sequence of them
    port : int
        0 takes any free one.
    open_browser : bool
    title : str

    Raises
    ------
    CacheError
        If a path is no cache.
    GraduncError
        If the port is taken.
    """
    opened = _caches(caches)
    server, url = _server(opened, port, title)
    server.start()
    print(f"{title}: {url} (Ctrl-C to stop)", flush=True)
    if open_browser:
        # in a thread: a browser in the terminal would wait for the loop that it keeps from serving it
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        server.io_loop.start()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()


def _server(caches: tuple[Cache, ...], port: int, title: str) -> tuple[pn.io.server.Server, str]:
    """Make a server that listens on the loopback address, not started, and its URL."""
    port = _usable_port(port)
    pn.extension("tabulator")
    server = pn.io.server.get_server(
        # opened anew for every session, so that a reload shows the frames that came meanwhile
        lambda: Explorer([open_cache(cache.path) for cache in caches], title),
        port=port,
        address="127.0.0.1",
        websocket_origin=[f"127.0.0.1:{port}", f"localhost:{port}"],
        title=title,
    )
    return server, f"http://127.0.0.1:{port}/"


def _usable_port(port: int) -> int:
    """Return `port`, or a free one for 0: the origins of websockets name it before the server binds it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise GraduncError(f"port {port} cannot be used ({reason}); choose another with --port") from error
        return int(probe.getsockname()[1])
