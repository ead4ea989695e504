"""The tab of frames: table, controls, panes, numbers at the threshold, and the pixel under the mouse."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import holoviews as hv
import pandas as pd
import panel as pn
from bokeh.events import Tap
from bokeh.models import ColumnDataSource
from bokeh.models.callbacks import CustomJS

from ...schema.errors import GraduncError
from ...store.choice import MANY
from .. import text
from ..charts import curves
from ..charts.look import chart_opts
from ..css import compact_css
from ..jobs import Jobs
from ..markup import Markup, render
from ..panes import image_pane as maps
from ..panes import pixel as pixels
from ..state import frame_table
from ..state.pane import letter_of
from ..state.ranges import frame_range, shown_values
from ..state.shared_counts import auprc_by_frame
from ..state.state import READ_ERRORS, STORE, ExplorerState
from .pane_grid import PanesView
from .parts import alert, choice, csv_download, html, is_dark, labelled, score_choice, table, task_choice, wrapped

__all__ = ["FramesTab"]

_SIDE = 400
"""Screen pixels of the column with the table."""

_RESET = 1.5
"""Seconds in which a table may lose its page after it was given data."""

_HINT_HOVER = "Move the mouse over a pane."
_HINT_PIN = "Click into a pane to keep a pixel and see its class probabilities."

# arrows go through the frames wherever the mouse is on a served page, and while it is on a pane in a notebook
_KEYS_JS = """
const id = `gradunc_keys_${keys.id}`
if (window[id] == null) {
  const typing = 'input, textarea, select, [contenteditable], [role=slider], [role=tab]'
  window[id] = event => {
    const target = event.composedPath()[0]
    if (event.ctrlKey || event.metaKey || event.altKey || (target.matches && target.matches(typing))) return
    if (notebook && !window[`${id}_inside`]) return
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key]
    if (by == null) return
    event.preventDefault()
    keys.data = {by: [by], count: [(keys.data.count[0] ?? 0) + 1]}
  }
  document.addEventListener('keydown', window[id], true)
}
"""

_TURN_JS = """
const models = Bokeh.documents.flatMap(document => [...document._all_models.values()])
const model = models.find(model => (model.css_classes ?? []).includes(name))
const turn_to = () => {
  const view = model && Bokeh.index.find_one(model)
  const [page] = turn.data.page
  if (view?.tabulator?.initialized && view.tabulator.getPage() != page && page <= view.tabulator.getPageMax())
    view.tabulator.setPage(page)
}
setTimeout(turn_to, 100)
setTimeout(turn_to, 600)
"""

_ENTER_JS = "window[`gradunc_keys_${keys.id}_inside`] = cb_obj.event_name == 'mouseenter'"


class FramesTab:
    """Widgets and panes of the frames of one cache, linked to an `ExplorerState`."""

    def __init__(self, name: str, state: ExplorerState, jobs: Jobs) -> None:
        self.name, self.state, self.jobs = name, state, jobs
        self.statistic = "mean"
        self._busy = False
        self._direction = 1
        self._charted: tuple[str, str] | None = None
        self._redraw = hv.streams.Counter()
        self._drawn: Any = None
        self._make_table()
        self._make_controls()
        self.panes = PanesView(state)
        self._make_numbers()
        self._link()
        names = [
            "frame", "values", "message", "scope", "fixed", "norms", "threshold", "task", "selection", "classes",
            "panes", "pixel", "score",
        ]  # fmt: skip
        self._watcher = state.param.watch(self._on_state, names)
        self._show(set(names))

    def close(self) -> None:
        """Let go of the state."""
        self.state.param.unwatch(self._watcher)
        self.panes.close()

    # ---- widgets

    def _make_table(self) -> None:
        rows = self.state.rows
        name = f"{self.name}-{id(self)}"  # of no other table in a notebook
        self.table = table(
            rows.copy(),
            css_classes=[name],
            pagination="local",
            sizing_mode="stretch_width",
            **frame_table.table_options(rows),
        )
        self.table.on_click(self._on_row)
        self._page, self._patched = 1, time.monotonic()
        self.turn = ColumnDataSource({"page": [1], "count": [0]})
        self.turn.js_on_change("data", CustomJS(args={"turn": self.turn, "name": name}, code=_TURN_JS))
        self.table.param.watch(self._on_page, "page")
        step = {"width": 88, "margin": (2, 4)}
        self.back = pn.widgets.Button(label="◀ Previous", description="Previous frame listed (left arrow)", **step)
        self.forward = pn.widgets.Button(label="Next ▶", description="Next frame listed (right arrow)", **step)
        self.back.on_click(lambda _: self._step(-1))
        self.forward.on_click(lambda _: self._step(+1))
        titles = {f"columns: {title}": name for name, title in frame_table.STATISTICS.items()}
        self.column = pn.widgets.Select(options=titles, width=160, margin=(2, 4), stylesheets=[compact_css(is_dark())])
        self.column.param.watch(self._on_column, "value")
        self.pick_all = pn.widgets.Button(label="Select listed", width=110, margin=(4, 4))
        self.pick_none = pn.widgets.Button(label="Clear", width=64, margin=(4, 4))
        self.pick_all.on_click(lambda _: setattr(self.state, "selection", self._listed()))
        self.pick_none.on_click(lambda _: setattr(self.state, "selection", []))
        self.csv = csv_download("frames", lambda: self._view().drop(columns=[frame_table.SHOWN]))
        self.picked = html("", margin=(10, 4))

    def _make_controls(self) -> None:
        state = self.state
        self.score = score_choice(state, 190, (0, 4))
        self.task = task_choice(state, 140)
        self.scope = choice(state.param.scope, {"frame": "frame", "set": "set", "fixed": "fixed"}, 138)
        self.norms = choice(state.param.norms, {"log2": "log2", "linear": "linear"}, 104)
        self.overlay = choice(state.param.overlay, {"found": "found", "TP FP FN": "outcomes", "none": "none"}, 168)
        self.layout = choice(state.param.layout, {"grid": "grid", "swipe": "swipe", "flip": "flip"}, 128)
        self.number = pn.widgets.Select(
            options=[2, 3, 4, 5, 6],
            value=len(state.panes),
            width=52,
            margin=(0, 4),
            stylesheets=[compact_css(is_dark())],
        )
        self.number.param.watch(self._on_number, "value")
        self.hide = choice(state.param.hide_ignored, {"shown": False, "hidden": True}, 110)
        self.range_title = html("", margin=(0, 6))
        self.range_row = pn.Column(self.range_title, visible=False, margin=0)
        self.slider = pn.widgets.FloatSlider(
            label="Threshold", value=state.threshold, start=0, end=1, step=0.001, format="0.000",
            sizing_mode="stretch_width", margin=(0, 12, 0, 8),
        )  # fmt: skip

    @cached_property
    def range(self) -> pn.widgets.EditableRangeSlider:
        """Ends of the fixed colour range; made when first asked for, as it is the dearest of the widgets."""
        slider = pn.widgets.EditableRangeSlider(
            label="", start=0, end=1, value=(0, 1), step=0.001, width=330, margin=(0, 8)
        )
        slider.param.watch(self._on_range, "value_throttled")
        self.range_row.append(slider)
        return slider

    def _make_numbers(self) -> None:
        self.caption, self.help, self.legend, self.readout, self.hovered, self.pinned, self.parts = (
            html("") for _ in range(7)
        )
        self.alert = alert()
        self.chart = pn.pane.HoloViews(None, sizing_mode="stretch_width", height=200)

    def _link(self) -> None:
        stage = self.panes.stage
        self.slider.jscallback(value=maps.threshold_js(stage)["code"], args=maps.threshold_js(stage)["args"])
        self.slider.param.watch(self._on_drag, "value")
        self.slider.param.watch(self._on_slider, "value_throttled")
        stage.hover.on_change("data", self._on_hover)
        self.keys = ColumnDataSource({"by": [0], "count": [0]})
        self.keys.on_change("data", lambda _attr, _old, new: self._on_key(new))
        # `turn` is not used there: the page knows what something in it refers to
        self._listen = CustomJS(
            args={"keys": self.keys, "turn": self.turn, "notebook": not self.jobs.served}, code=_KEYS_JS
        )
        self._enter = CustomJS(args={"keys": self.keys}, code=_ENTER_JS)
        self._link_figures()

    def _link_figures(self) -> None:
        """Listen to clicks in panes, also in those made later."""
        for pane in self.panes.all:
            figure = pane.map.figure
            if "linked" in figure.tags:
                continue
            figure.tags = [*figure.tags, "linked"]
            figure.on_event(Tap, self._on_tap)
            figure.js_on_change("inner_width", self._listen)
            figure.js_on_event("mouseenter", self._enter)
            figure.js_on_event("mouseleave", self._enter)

    # ---- from widgets to state

    def _on_row(self, event: Any) -> None:
        # the event's row is a position in `value`, whatever the order on screen
        frame_id = str(self.table.value[frame_table.FRAME].iloc[event.row])
        if event.column == frame_table.PICK:
            chosen = set(self.state.selection) ^ {frame_id}
            self.state.selection = [name for name in self.state.cache.ids if name in chosen]
        else:
            self.state.frame_id = frame_id

    def _view(self) -> pd.DataFrame:
        return frame_table.listed_rows(self.table.current_view, self.table.sorters)

    def _listed(self) -> list[str]:
        return [str(name) for name in self._view()[frame_table.FRAME]]

    def _step(self, by: int) -> None:
        self._direction = by
        self.state.step(by, self._listed())

    def _read_ahead(self) -> None:
        """Read what the panes would show of the frame that is likely to be next."""
        state, ids = self.state, self._listed()
        at = ids.index(state.frame_id) + self._direction if state.frame_id in ids else -1
        if not 0 <= at < len(ids):
            return
        cache, frame_id, score = state.cache, ids[at], state.score

        def work() -> None:
            with suppress(*READ_ERRORS):  # told when it is looked at
                frame = STORE.get(cache, frame_id)
                _ = frame.score(score), frame.prediction, frame.image, frame.label, frame.anomaly

        self.jobs.run("ahead", work, lambda _: None, lambda _: None)

    def _on_key(self, data: Any) -> None:
        by = list(data.get("by", []))
        if by in ([-1], [1]):
            self._step(by[0])

    def _on_column(self, event: Any) -> None:
        self.statistic = event.new
        self._fill_table()

    def _on_number(self, event: Any) -> None:
        if event.new != len(self.state.panes):
            self.state.set_pane_count(event.new)

    def _on_range(self, event: Any) -> None:
        if not self._busy and self.state.scope == "fixed" and event.new[0] < event.new[1]:
            self.state.fixed = {**self.state.fixed, self._ranged(): tuple(event.new)}

    def _on_drag(self, event: Any) -> None:
        # the masks have moved in the browser already: numbers only
        if not self._busy:
            self._show_readout(event.new)

    def _on_slider(self, event: Any) -> None:
        self.state.threshold = event.new

    def _on_tap(self, event: Tap) -> None:
        frame = self.state.frame
        if frame is None or event.x is None or event.y is None:
            return
        y, x = int(event.y // 1), int(event.x // 1)
        self.state.pixel = (y, x) if frame.holds(y, x) and (y, x) != self.state.pixel else None

    def _on_hover(self, _attr: str, _old: Any, new: Any) -> None:
        at = list(new.get("at", []))
        known = len(at) == 2 and all(isinstance(v, (int, float)) for v in at)
        place = (int(at[1]), int(at[0])) if known else None
        self.hovered.object = self._cards(place, "Under the mouse", _HINT_HOVER, few=True)

    def _cards(self, place: tuple[int, int] | None, title: str, hint: str, few: bool = False) -> Markup:
        """What each network says about a pixel (y, x); `few`: of many scores, those that are looked at."""
        state = self.state
        if place is None or state.frame is None:
            return pixels.pixel_card(None, title, hint)
        cards = []
        seen = {state.score}.union(*((pane.what, pane.minus[1] if pane.minus else "") for pane in state.parsed_panes()))
        for number, frame in state.frames().items():
            cache = state.caches[number]
            scores = cache.scores
            if few and len(scores) > MANY:
                scores = tuple(name for name in scores if name in seen)
            if frame.size != state.frame.size:
                continue  # the place means another one there
            whose = f"{title}, {letter_of(number)}" if state.several else title
            with suppress(GraduncError):  # beside the frame, or damaged: its panes say so
                cards.append(pixels.pixel_card(pixels.read_pixel(frame, *place, cache.classes, scores), whose))
        return Markup("").join(cards) or pixels.pixel_card(None, title, hint)

    # ---- from state to widgets

    def _on_state(self, *events: Any) -> None:
        self._show({event.name for event in events})

    def _show(self, changed: set[str]) -> None:
        state = self.state
        with pn.io.hold():
            if "message" in changed:
                self.alert.param.update(object=text.message(state.message), visible=bool(state.message))
            if {"classes", "score", "task"} & changed:
                self._fill_table()
            if {"frame", "selection"} & changed:
                self._mark_rows()
            if "frame" in changed:
                self._turn_to_row()
                self._show_texts()
                if self.jobs.served:
                    self.jobs.soon(self._read_ahead, 300)
            if {"frame", "pixel", "score"} & changed:
                self._show_pixel()
            if "panes" in changed:
                self.number.value = len(state.panes)
                self._link_figures()
            if {"score", "values"} & changed:
                self.help.object = text.score_help(state.score) if state.score else ""
            if {"frame", "values", "scope", "fixed", "norms", "panes"} & changed:
                self._show_range()
            if {"frame", "values", "threshold", "task", "scope"} & changed:
                self._show_threshold()

    def _show_texts(self) -> None:
        frame, cache = self.state.frame, self.state.cache
        present = [] if frame is None else frame.classes_predicted
        ids = cache.ids
        place = f"frame {ids.index(self.state.frame_id) + 1} of {len(ids)}" if self.state.frame_id in ids else ""
        self.caption.object = text.frame_caption(frame, place)
        self.legend.object = text.class_legend(cache.classes, cache.colors, present)

    def _show_pixel(self) -> None:
        state = self.state
        self.pinned.object = self._cards(state.pixel, "Pinned pixel", _HINT_PIN)
        self.parts.object = (
            ""
            if state.pixel is None or state.frame is None or not state.frame.holds(*state.pixel)
            else pixels.probability_bars(state.frame, state.pixel, state.cache.classes, state.cache.colors, state.score)
        )
        self.hovered.object = pixels.pixel_card(None, "Under the mouse", _HINT_HOVER)

    def _ranged(self) -> str:
        """The score whose fixed range is edited: the thresholded one if a pane shows it, else the first shown."""
        shown = [pane.what for pane in self.state.parsed_panes() if pane.is_score]
        return self.state.score if self.state.score in shown or not shown else shown[0]

    def _show_range(self) -> None:
        state = self.state
        self.range_row.visible = state.scope == "fixed"
        if state.scope != "fixed" or state.frame is None:
            return
        name = self._ranged()
        self.range_title.object = text.label(f"Colours of {name} from and to")
        low, high = state.limits(name)
        whole = frame_range(shown_values(state.frame.score(name), name, state.norms))
        start, end = min(low, whole[0]), max(high, whole[1])
        self._busy = True
        try:
            self.range.param.update(start=start, end=end, step=(end - start) / 1000, value=(low, high))
        finally:
            self._busy = False

    def _show_threshold(self) -> None:
        state = self.state
        if not state.score:
            return
        if state.values is not None:
            # the threshold outlives the frame and may lie outside this one's scores
            start = min(float(state.values.min()), state.threshold)
            end = max(float(state.values.max()), state.threshold)
            self._busy = True
            try:
                self.slider.param.update(
                    label=text.threshold_title(state.score),
                    start=start,
                    end=end if end > start else start + 1,
                    step=(end - start) / 1000 or 1.0,
                    value=state.threshold,
                )
            finally:
                self._busy = False
        self._show_readout(state.threshold)
        self.jobs.soon(self._show_chart, 100)

    def _show_chart(self) -> None:
        """Draw the distribution, after what is looked at first has been sent."""
        state = self.state
        self._drawn = drawn = None if state.frame is None or state.values is None else self._distribution()
        kind = None if drawn is None else (state.score, state.task)
        if kind != self._charted:
            self._charted = kind
            dynamic = None if drawn is None else hv.DynamicMap(lambda counter: self._drawn, streams=[self._redraw])
            self.chart.object = dynamic
        elif kind is not None:
            self._redraw.event()  # the same figure, other numbers: the page need not be laid out again

    def _show_readout(self, threshold: float) -> None:
        state = self.state
        self.readout.object = (
            ""
            if state.frame is None
            else text.readout(
                state.score, threshold, state.share_above(threshold), state.task, state.counts_at(threshold)
            )
        )

    def _distribution(self) -> Any:
        state = self.state
        limits = frame_range(state.values)
        chart = curves.score_distribution(state.frame.dataset, state.score, state.task, limits, state.threshold)
        return (
            None if chart is None else chart.opts(height=200, ylabel="pixels [%]", **chart_opts(is_dark()), clone=True)
        )

    # ---- the table

    def _fill_table(self) -> None:
        """Fill the table anew: other statistics, other classes, another AuPRC."""
        cache, state = self.state.cache, self.state
        if "size" not in state.rows:
            return  # there is no summary: ids only
        rows = frame_table.frame_rows(cache.summary, self.statistic)
        keep = frame_table.frames_with(cache.summary, state.classes)
        rows = rows[keep].reset_index(drop=True)
        rows[frame_table.SHOWN] = ["▶" if name == state.frame_id else "" for name in rows[frame_table.FRAME]]
        rows[frame_table.PICK] = rows[frame_table.FRAME].isin(state.selection)
        options = frame_table.table_options(rows, self.statistic)
        with pn.io.hold():
            self.table.param.update(value=rows, header_tooltips=options["header_tooltips"])
        self._turn_to_row()
        self._start_auprc()

    def _start_auprc(self) -> None:
        if frame_table.AUPRC not in self.table.value:
            return
        cache, score, task = self.state.cache, self.state.score, self.state.task
        if not self.jobs.served and len(cache) > 60:
            return  # a notebook has nobody to wait for it

        def show(found: dict[str, float]) -> None:
            if (score, task) == (self.state.score, self.state.task):
                self._show_auprc(found)

        def start() -> None:
            steps = partial(auprc_by_frame, cache, score, task, self.jobs.give_way)
            self.jobs.stream("auprc", steps, show, lambda _problem: None, urgent=False)

        self.jobs.soon(start, 800)  # after what is looked at first

    def _show_auprc(self, found: dict[str, float]) -> None:
        column = [100 * found.get(name, float("nan")) for name in self.table.value[frame_table.FRAME]]
        if column:
            self.table.patch({frame_table.AUPRC: [(slice(0, len(column)), column)]})
            self._keep_page()

    def _mark_rows(self) -> None:
        chosen = self.state.selection
        patches = frame_table.marked(self.table.value, self.state.frame_id, chosen)
        if patches:
            self.table.patch(patches)
            self._keep_page()
        self.picked.object = text.note(
            render("<b>{{ number }}</b> selected", number=f"{len(chosen):,}") if chosen else "none selected"
        )

    def _turn_to_row(self) -> None:
        """Turn the table to the page with the frame shown."""
        listed = self._listed()
        if self.state.frame_id in listed:
            self._page = listed.index(self.state.frame_id) // self.table.page_size + 1
        self._keep_page()

    def _keep_page(self) -> None:
        """Show the page again: a moment after it is given data, Tabulator goes back to the first one."""
        self._patched = time.monotonic()
        self.turn.data = {"page": [self._page], "count": [self.turn.data["count"][0] + 1]}

    def _on_page(self, event: Any) -> None:
        # to the first page Tabulator may have turned by itself
        if event.new != 1 or time.monotonic() - self._patched > _RESET:
            self._page = event.new

    # ---- layout

    def view(self) -> pn.viewable.Viewable:
        """Arrange everything."""
        controls = wrapped(
            labelled("Score, thresholded", self.score, 198),
            labelled("Pixels to find", self.task, 150),
            labelled("Over images", self.overlay, 178),
            labelled("Colour range", self.scope, 148),
            labelled("Norms", self.norms, 114),
            labelled("Panes", self.number, 60),
            labelled("Arranged as", self.layout, 138),
            labelled("Ignored pixels", self.hide, 120),
        )
        side = pn.Column(
            pn.Row(self.back, self.forward, self.column, margin=0),
            self.table,
            pn.Row(self.pick_all, self.pick_none, self.csv, self.picked, margin=0),
            self.hovered,
            self.pinned,
            self.parts,
            self.chart,
            self.help,
            width=_SIDE,
            margin=(0, 4, 0, 0),
        )
        main = pn.Column(
            self.alert,
            self.caption,
            controls,
            self.range_row,
            self.slider,
            self.readout,
            self.panes.body,
            self.legend,
            sizing_mode="stretch_width",
        )
        return pn.Row(side, main, sizing_mode="stretch_width")
