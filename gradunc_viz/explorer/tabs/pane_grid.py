"""The image panes: choosers, figures and their arrangement, linked to the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import panel as pn

from ...schema.errors import GraduncError
from ...style.palette import class_palette
from ..css import compact_css
from ..panes import drawing, tiles
from ..panes import image_pane as maps
from ..panes.drawing import Drawing, PaneLook
from ..state.pane import MAX_PANES, pane_options, parse_pane
from ..state.state import READ_ERRORS, ExplorerState
from .parts import html, is_dark

__all__ = ["PanesView"]

_ASSUMED_WIDTH = 560
"""Screen pixels of a pane until the browser has told."""

_COLUMNS = {2: 2, 3: 3, 4: 2, 5: 3, 6: 3}

_DRAWN = ("frame", "values", "panes", "scope", "fixed", "norms", "overlay", "hide_ignored", "task")

_SWIPE_JS = """
const rest = Object.fromEntries(Object.entries(figure.styles).filter(([key]) => key != 'clip-path'))
figure.styles = {...rest, 'clip-path': `inset(0 0 0 ${cb_obj.value}%)`}
"""

_FLIP_JS = """
const hidden = (figure.styles['clip-path'] ?? '').includes('100%')
figure.styles = {...figure.styles, 'clip-path': hidden ? 'inset(0 0 0 0%)' : 'inset(0 0 0 100%)'}
"""


class _PaneView:
    """One pane: what it shows is chosen above it, a word of help stands below the chooser."""

    def __init__(self, owner: PanesView, place: int) -> None:
        self.owner, self.place = owner, place
        caches = owner.state.caches
        groups = pane_options(caches)
        self.map = maps.make_pane(owner.stage, f"pane{place}", is_dark())
        sheets = [compact_css(is_dark())]
        self.chooser = pn.widgets.Select(
            groups=groups, sizing_mode="stretch_width", margin=(0, 2), height=30, stylesheets=sheets
        )
        scores = {
            title: text
            for options in groups.values()
            for title, text in options.items()
            if parse_pane(text, caches).is_score
        }
        self.minus = pn.widgets.Select(
            options={"− nothing": ""} | {f"− {title}": text for title, text in scores.items()},
            width=130,
            margin=(0, 2),
            height=30,
            stylesheets=sheets,
        )
        self.note = html("", margin=(0, 4))
        self.figure = pn.pane.Bokeh(self.map.figure, sizing_mode="scale_width", aspect_ratio=2, margin=0)
        self.view = pn.Column(
            pn.Row(self.chooser, self.minus, sizing_mode="stretch_width", margin=0),
            self.note,
            self.figure,
            sizing_mode="stretch_width",
            margin=(0, 4, 6, 4),
        )
        self.chooser.param.watch(self._on_choice, "value")
        self.minus.param.watch(self._on_choice, "value")
        self._busy = False

    def _on_choice(self, *_: Any) -> None:
        if self._busy:
            return
        text = self.chooser.value
        if self.minus.value and parse_pane(text, self.owner.state.caches).is_score:
            text = f"{text}~{self.minus.value}"
        self.owner.state.set_pane(self.place, text)

    def show_choice(self, text: str) -> None:
        """Bring the choosers in line with the state."""
        first, _, second = text.partition("~")
        self._busy = True
        try:
            self.chooser.value = first
            self.minus.value = second
            self.minus.visible = parse_pane(first, self.owner.state.caches).is_score
        finally:
            self._busy = False

    def show(self, drawn: Drawing) -> None:
        """Show what was drawn."""
        maps.show_drawing(self.map, drawn)
        self.note.object = drawn.note


class PanesView:
    """All panes, in a grid, or two of them on top of each other to swipe or flip between."""

    def __init__(self, state: ExplorerState) -> None:
        self.state = state
        cache = state.cache
        self.stage = maps.make_stage(class_palette(cache.colors), is_dark())
        self.across = _ASSUMED_WIDTH
        self.all: list[_PaneView] = []
        self._drawn: list[tuple[Any, ...]] = []
        self._from_browser = False
        self.stage.view.on_change("data", self._on_view)
        self.body = pn.Column(sizing_mode="stretch_width", margin=0)
        self._watcher = state.param.watch(self._on_state, [*_DRAWN, "view", "threshold", "pixel", "layout"])
        self._arrange()
        self._show({"frame", "view", "threshold", "pixel"})

    @property
    def shown(self) -> list[_PaneView]:
        """The panes in use."""
        return self.all[: len(self.state.panes)]

    def close(self) -> None:
        """Let go of the state."""
        self.state.param.unwatch(self._watcher)

    # ---- from the browser

    def _on_view(self, _attr: str, _old: Any, new: Any) -> None:
        now = list(new.get("now", []))
        frame = self.state.frame
        if len(now) != 5 or frame is None or not all(isinstance(v, (int, float)) for v in now):
            return
        found, self.across = (float(now[0]), float(now[1]), float(now[2]), float(now[3])), max(int(now[4]), 50)
        home = maps.home_view(frame.size)
        near_home = all(abs(a - b) < 0.5 for a, b in zip(found, home, strict=True))
        view = None if near_home or not (found[0] < found[1] and found[2] < found[3]) else found
        self._from_browser = True
        try:
            self.state.view = view
        finally:
            self._from_browser = False
        with pn.io.hold():
            self._draw(only_changed_tile=True)
        self._push()

    # ---- from the state

    def _on_state(self, *events: Any) -> None:
        changed = {event.name for event in events}
        if changed == {"view"} and self._from_browser:
            return
        with pn.io.hold():
            if {"layout", "panes"} & changed:
                self._arrange()
            self._show(changed)

    def _show(self, changed: set[str]) -> None:
        state = self.state
        if {"frame", "view"} & changed and state.frame is not None:
            maps.show_view(self.stage, [pane.map for pane in self.all], state.frame.size, state.view)
            for pane in self.all:
                pane.figure.aspect_ratio = pane.map.figure.aspect_ratio
        if {"threshold", "overlay", "values"} & changed or "frame" in changed:
            wide = state.values is not None and state.values.dtype == np.float64
            maps.show_threshold(self.stage, state.threshold, state.overlay, wide)
        if "pixel" in changed:
            maps.show_pin(self.stage, state.pixel)
        if set(_DRAWN) & changed or "view" in changed:
            self._draw(only_changed_tile=not set(_DRAWN) & changed)
        self._push()

    def _draw(self, only_changed_tile: bool = False) -> None:
        state = self.state
        if state.frame is None:
            for pane in self.shown:
                pane.show(drawing.blank(state.message or "nothing to show"))
            self._drawn = []
            return
        tile = tiles.tile_for(state.frame.size, state.view, self.across)
        if only_changed_tile and self._drawn == [(tile, state.frame.id, tuple(state.panes))]:
            return
        self._drawn = [(tile, state.frame.id, tuple(state.panes))]
        look = PaneLook(
            score=state.score,
            task=state.task,
            overlay=state.overlay,
            norms=state.norms,
            hide_ignored=state.hide_ignored,
            limits=state.limits,
            several=state.several,
        )
        frames = state.frames()
        for pane, what in zip(self.shown, state.parsed_panes(), strict=True):
            damaged = [state.unreadable[network] for network in what.networks if network in state.unreadable]
            if damaged:
                pane.show(drawing.blank(damaged[0]))
                continue
            try:
                own = frames.get(what.network, state.frame)
                # another network may have seen the frame at another size
                fitting = tile if own.size == state.frame.size else tiles.tile_for(own.size, None, self.across)
                pane.show(drawing.draw(what, frames, look, fitting))
            except GraduncError as error:
                pane.show(drawing.blank(str(error)))
            except READ_ERRORS as error:
                pane.show(drawing.blank(f"cannot be read: {type(error).__name__}: {error}"))

    def _push(self) -> None:
        pn.io.push_notebook(*(pane.figure for pane in self.shown))

    # ---- arrangement

    def _arrange(self) -> None:
        state = self.state
        while len(self.all) < min(len(state.panes), MAX_PANES):
            self.all.append(_PaneView(self, len(self.all)))
            if state.frame is not None:
                maps.show_view(self.stage, [self.all[-1].map], state.frame.size, state.view)
                self.all[-1].figure.aspect_ratio = self.all[-1].map.figure.aspect_ratio
        for pane, text in zip(self.shown, state.panes, strict=True):
            pane.show_choice(text)
        wanted = (state.layout, len(state.panes))
        if getattr(self, "_arranged", None) == wanted:
            return
        self._arranged = wanted
        for pane in self.all:
            pane.map.figure.styles = {}
        self.body[:] = self._grid() if state.layout == "grid" else [self._stack()]

    def _grid(self) -> list[Any]:
        panes, columns = self.shown, _COLUMNS[len(self.state.panes)]
        rows = [panes[start : start + columns] for start in range(0, len(panes), columns)]
        return [pn.Row(*(p.view for p in row), sizing_mode="stretch_width", margin=0) for row in rows]

    def _stack(self) -> pn.Column:
        """Two panes on top of each other; what moves the upper one's edge never leaves the browser."""
        first, second = self.shown[:2]
        top = second.map.figure
        place = {"grid-area": "1 / 1"}  # both in the only cell of a grid
        first.map.figure.styles = place
        control: pn.widgets.Widget
        if self.state.layout == "flip":
            top.styles = place | {"clip-path": "inset(0 0 0 0%)"}
            control = pn.widgets.Button(label="⇄ Flip", width=110, description="Show the other of the first two panes")
            control.jscallback(args={"figure": top}, clicks=_FLIP_JS)
        else:
            top.styles = place | {"clip-path": "inset(0 0 0 50%)"}
            control = pn.widgets.FloatSlider(
                label="Swipe: first pane to the left, second to the right", value=50, start=0, end=100, step=0.5,
                sizing_mode="stretch_width", show_value=False, margin=(0, 10),
            )  # fmt: skip
            control.jscallback(args={"figure": top}, value=_SWIPE_JS)
        heads = [pn.Column(*pane.view[:2], sizing_mode="stretch_width", margin=(0, 4)) for pane in (first, second)]
        both = pn.Column(
            first.figure,
            second.figure,
            sizing_mode="stretch_width",
            margin=4,
            styles={"display": "grid", "grid-template-columns": "100%"},
        )
        return pn.Column(
            pn.Row(*heads, sizing_mode="stretch_width"), control, both, sizing_mode="stretch_width", margin=0
        )
