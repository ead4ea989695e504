"""Image panes as plain Bokeh figures: linked, each fed from a source of its own, threshold without a round trip.

Every pane can show anything: its figure has one glyph per layer, and what it shows decides which of them are visible.
Figures, ranges and tools stay while the content changes, and with them the zoom of the person looking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import (
    AllIndices,
    BasicTicker,
    BoxAnnotation,
    BoxZoomTool,
    CDSView,
    ColorBar,
    ColumnDataSource,
    CrosshairTool,
    Image,
    ImageURL,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    Scatter,
    Span,
    WheelZoomTool,
)
from bokeh.models.callbacks import CustomJS
from bokeh.plotting import figure

from ...schema.frame import IGNORE
from ...style.palette import ANOMALY, FALSE_ALARM, GREY, MISSED, PIN, THRESHOLD, TRANSPARENT
from .drawing import Drawing
from .palettes import DIFFERENCE_PALETTE, SCORE_PALETTE
from .tiles import View

__all__ = [
    "HOVER_JS",
    "MapPane",
    "PaneStage",
    "aspect_ratio",
    "home_view",
    "make_pane",
    "make_stage",
    "show_drawing",
    "show_pin",
    "show_threshold",
    "show_view",
    "threshold_js",
]

_ASPECTS = (1.3, 2.4)
"""A pane is at least this wide, and at most, for its height; frames outside are letterboxed."""

_FAR = 1e30

_WIDE = "float64"
"""Tag of the mapper whose values are not float32."""

LAYERS = ("picture", "classes", "marks", "score", "found", "alarms")

_BLANK: dict[str, list[Any]] = {
    "url": [""],
    "classes": [np.full((1, 1), IGNORE, "u1")],
    "marks": [np.full((1, 1), IGNORE, "u1")],
    **{name: [np.full((1, 1), np.nan, "f4")] for name in ("score", "found", "alarms")},
    **{name: [0] for name in ("x", "y")},
    **{name: [1] for name in ("dw", "dh", "w", "h")},
}

# after a gesture has rested: one message to the server, not one per step of the wheel
_VIEW_JS = """
const memory = window[`gradunc_view_${view.id}`] ??= {across: new Map(), timer: null}
if (cb_obj.inner_width != null) memory.across.set(cb_obj.id, cb_obj.inner_width)
clearTimeout(memory.timer)
memory.timer = setTimeout(() => {
  const across = Math.round(Math.max(0, ...memory.across.values()))
  if (across == 0) return
  const now = [x.start, x.end, y.end, y.start, across]
  const old = view.data.now
  if (old.length == now.length && now.every((v, i) => v === old[i])) return
  view.data = {now}
}, 90)
"""

HOVER_JS = """
const at = cb_obj.event_name == 'mouseleave' ? [] : [Math.floor(cb_obj.x), Math.floor(cb_obj.y)]
const key = `gradunc_hover_${hover.id}`
const memory = window[key] ??= {busy: null, next: null, last: ''}
const send = () => {
  memory.busy = null
  if (memory.next === null || String(memory.next) === memory.last) return
  memory.last = String(memory.next)
  hover.data = {at: memory.next}
  memory.next = null
  memory.busy = setTimeout(send, 60)
}
memory.next = at
if (memory.busy === null) send()
"""
"""What moving the mouse does: at most one message per 60 ms, and always the last position."""


@dataclass(frozen=True)
class PaneStage:
    """What the panes of one session share.

    Attributes
    ----------
    x_range, y_range
        Row 0 is at the top.
    found_mapper, alarm_mapper
        Their `low` is the threshold: what lies below is transparent, or marked as missed.
    class_mapper
    view, hover
        What the browser tells: ``now`` = left, right, top, bottom, width of a pane in pixels of the screen; ``at`` =
        x, y of the pixel under the mouse.
    pin
        Pinned pixel, no row without.
    cross
        Lines through the mouse in all panes.
    hatch
        What is seen where every glyph is transparent.
    rows
        Every row of a source. Views hold it, and cannot be shared themselves: Bokeh's page then never comes to rest.
    report, follow
        Code that fills `view` and `hover` in the browser.
    """

    x_range: Range1d
    y_range: Range1d
    found_mapper: LinearColorMapper
    alarm_mapper: LinearColorMapper
    class_mapper: LinearColorMapper
    view: ColumnDataSource
    hover: ColumnDataSource
    pin: ColumnDataSource
    cross: tuple[Span, Span]
    hatch: BoxAnnotation
    rows: AllIndices
    report: CustomJS
    follow: CustomJS


@dataclass(frozen=True)
class MapPane:
    """One pane.

    Attributes
    ----------
    figure
    source
        One row; a column per layer and where it lies.
    layers
        Glyph renderer by name, see `LAYERS`.
    score_mapper, mark_mapper
        Colours of score and marks.
    color_bar
    save
        Tool that saves a PNG; its file name is set with the content.
    """

    figure: figure
    source: ColumnDataSource
    layers: dict[str, Any]
    score_mapper: LinearColorMapper
    mark_mapper: LinearColorMapper
    color_bar: ColorBar
    save: SaveTool


# --------------------------------------------------------------------------------------------------------------------
# places


def aspect_ratio(size: tuple[int, int]) -> float:
    """Width over height of the panes of a frame of (height, width)."""
    return float(np.clip(size[1] / size[0], *_ASPECTS))


def home_view(size: tuple[int, int]) -> View:
    """Left, right, top, bottom that show a whole frame undistorted."""
    height, width = size
    ratio = aspect_ratio(size)
    across, down = max(width, height * ratio), max(height, width / ratio)
    left, top = (width - across) / 2, (height - down) / 2
    return left, left + across, top, top + down


# --------------------------------------------------------------------------------------------------------------------
# showing: what a change of state does to figures that exist


def show_drawing(pane: MapPane, drawing: Drawing) -> None:
    """Put what was drawn into a pane."""
    if drawing.limits is not None:
        pane.score_mapper.update(
            palette=list(DIFFERENCE_PALETTE if drawing.signed else SCORE_PALETTE),
            low=drawing.limits[0],
            high=drawing.limits[1],
        )
        pane.color_bar.title = drawing.units
    pane.color_bar.visible = drawing.limits is not None
    if "marks" in drawing.columns:
        pane.mark_mapper.palette = [GREY if drawing.grey else TRANSPARENT, ANOMALY]
    pane.save.filename = drawing.filename
    pane.source.data = {**_BLANK, **drawing.columns}
    for name, layer in pane.layers.items():
        layer.visible = ("url" if name == "picture" else name) in drawing.columns


def show_view(stage: PaneStage, panes: Sequence[MapPane], size: tuple[int, int], view: View | None) -> None:
    """Show a part of a frame of `size` in all panes, all of it for None; what reset returns to follows the size."""
    home = home_view(size)
    left, right, top, bottom = home if view is None else view
    stage.x_range.update(start=left, end=right, reset_start=home[0], reset_end=home[1])
    stage.y_range.update(start=bottom, end=top, reset_start=home[3], reset_end=home[2])
    for pane in panes:
        pane.figure.aspect_ratio = aspect_ratio(size)


def show_threshold(stage: PaneStage, threshold: float, overlay: str, wide: bool = False) -> None:
    """Move the threshold of the masks; in the browser `threshold_js` does the same while dragging.

    Parameters
    ----------
    overlay : "found", "outcomes" or "none"
        With ``outcomes``, what should be found and is not is marked too.
    wide : bool
        Whether values are float64.
    """
    low = threshold if wide else float(np.float32(threshold))  # as the values are: one that is among them finds it
    tags = [_WIDE] if wide else []
    stage.found_mapper.update(low=low, low_color=MISSED if overlay == "outcomes" else TRANSPARENT, tags=tags)
    stage.alarm_mapper.low = low


def show_pin(stage: PaneStage, pixel: tuple[int, int] | None) -> None:
    """Mark the pinned pixel (y, x) in all panes."""
    stage.pin.data = {"x": [], "y": []} if pixel is None else {"x": [pixel[1] + 0.5], "y": [pixel[0] + 0.5]}


def threshold_js(stage: PaneStage) -> dict[str, Any]:
    """Code and arguments of what dragging the threshold does in the browser."""
    code = (
        f"const low = mappers[0].tags.includes('{_WIDE}') ? cb_obj.value : Math.fround(cb_obj.value)\n"
        "for (const mapper of mappers) mapper.low = low"
    )
    return {"code": code, "args": {"mappers": [stage.found_mapper, stage.alarm_mapper]}}


# --------------------------------------------------------------------------------------------------------------------
# figures


def make_stage(palette: Sequence[str], dark: bool = False) -> PaneStage:
    """Build what panes share.

    Parameters
    ----------
    palette : sequence of str
        Colour of each class, as hex, in id order.
    dark : bool
        Whether the page is.
    """
    x_range, y_range = Range1d(0, 1), Range1d(1, 0)
    view, hover = ColumnDataSource({"now": []}), ColumnDataSource({"at": []})
    report = CustomJS(args={"x": x_range, "y": y_range, "view": view}, code=_VIEW_JS)
    for shared in (x_range, y_range):
        shared.js_on_change("start", report)
        shared.js_on_change("end", report)
    line = {"line_color": "#8895a5", "line_width": 1, "line_alpha": 0.7}
    return PaneStage(
        x_range,
        y_range,
        found_mapper=_threshold_mapper(THRESHOLD),
        alarm_mapper=_threshold_mapper(FALSE_ALARM),
        class_mapper=LinearColorMapper(
            list(palette), low=-0.5, high=len(palette) - 0.5, high_color=TRANSPARENT, nan_color=TRANSPARENT
        ),
        view=view,
        hover=hover,
        pin=ColumnDataSource({"x": [], "y": []}),
        cross=(Span(dimension="width", **line), Span(dimension="height", **line)),
        # a hatched plot background does not render in Bokeh 3.9
        hatch=BoxAnnotation(
            level="underlay",
            fill_color=None,
            line_color=None,
            hatch_pattern="right_diagonal_line",
            hatch_color="#56616d" if dark else "#c3c8ce",
            hatch_scale=8,
            hatch_weight=1,
        ),
        rows=AllIndices(),
        report=report,
        follow=CustomJS(args={"hover": hover}, code=HOVER_JS),
    )


def _threshold_mapper(color: str) -> LinearColorMapper:
    return LinearColorMapper([color], low=0, high=_FAR, low_color=TRANSPARENT, nan_color=TRANSPARENT)


def make_pane(stage: PaneStage, name: str, dark: bool = False) -> MapPane:
    """Build one pane, empty, for a light or a dark page.

    Every model in it costs time at each opening of the page: what can be shared is.
    """
    save = SaveTool(filename=name)
    wheel = WheelZoomTool()
    pane = figure(
        name=name,
        x_range=stage.x_range,
        y_range=stage.y_range,
        x_axis_type=None,
        y_axis_type=None,
        tools=[PanTool(), wheel, BoxZoomTool(match_aspect=True), ResetTool(), save],
        toolbar_location="right",
        toolbar_inner=True,
        sizing_mode="scale_width",
        aspect_ratio=2,
        min_border=0,
        frame_align=False,
        outline_line_color=None,
        background_fill_color="#2b333c" if dark else "#eceef1",
        border_fill_color=None,
    )
    pane.toolbar.active_scroll = wheel
    pane.toolbar.autohide = True
    pane.toolbar.logo = None
    pane.add_tools(CrosshairTool(overlay=list(stage.cross)))
    pane.add_layout(stage.hatch)
    source = ColumnDataSource(dict(_BLANK))
    score_mapper = LinearColorMapper(list(SCORE_PALETTE), low=0, high=1, nan_color=TRANSPARENT)
    mark_mapper = LinearColorMapper([GREY, ANOMALY], low=-0.5, high=1.5, high_color=TRANSPARENT, nan_color=TRANSPARENT)
    layers = {
        "picture": _layer(stage, pane, source, ImageURL(url="url", x="x", y="y", w="w", h="h", anchor="top_left")),
        "classes": _layer(stage, pane, source, _image("classes", stage.class_mapper)),
        "marks": _layer(stage, pane, source, _image("marks", mark_mapper)),
        "score": _layer(stage, pane, source, _image("score", score_mapper)),
        "found": _layer(stage, pane, source, _image("found", stage.found_mapper, 0.7)),
        "alarms": _layer(stage, pane, source, _image("alarms", stage.alarm_mapper, 0.7)),
    }
    for name_of_layer, layer in layers.items():
        layer.name = name_of_layer
        layer.visible = False
    for size, color, width in ((15, "#ffffff", 4), (15, PIN, 2)):
        mark = Scatter(
            x="x", y="y", marker="square_cross", size=size, fill_color=None, line_color=color, line_width=width
        )
        _layer(stage, pane, stage.pin, mark)
    bar = _color_bar(score_mapper, dark)
    pane.add_layout(bar, "center")
    # let the browser tell how wide the pane is, and which of its pixels is under the mouse
    pane.js_on_change("inner_width", stage.report)
    pane.js_on_event("mousemove", stage.follow)
    pane.js_on_event("mouseleave", stage.follow)
    return MapPane(pane, source, layers, score_mapper, mark_mapper, bar, save)


def _image(column: str, mapper: LinearColorMapper, alpha: float = 1) -> Image:
    return Image(image=column, x="x", y="y", dw="dw", dh="dh", color_mapper=mapper, global_alpha=alpha)


def _layer(stage: PaneStage, pane: figure, source: ColumnDataSource, glyph: Any) -> Any:
    """Add a glyph that looks the same whether selected or not: without saying so a copy of it is made for each."""
    view = CDSView(filter=stage.rows)
    return pane.add_glyph(source, glyph, view=view, selection_glyph=glyph, nonselection_glyph=glyph, muted_glyph=glyph)


def _color_bar(mapper: LinearColorMapper, dark: bool) -> ColorBar:
    ink = "#e6eaef" if dark else "#1d2733"
    # inside the frame, so that panes with and without one are of the same size
    return ColorBar(
        color_mapper=mapper,
        orientation="horizontal",
        location="bottom_left",
        width=150,
        height=7,
        margin=4,
        padding=5,
        title_standoff=2,
        label_standoff=2,
        ticker=BasicTicker(desired_num_ticks=4),
        background_fill_color="#1a2028" if dark else "#fdfdfd",  # the default would be replaced by a dark theme
        background_fill_alpha=0.85,
        title_text_font_size="10px",
        title_text_font_style="normal",
        title_text_color=ink,
        major_label_text_font_size="10px",
        major_label_text_color=ink,
        major_tick_line_color=None,
        visible=False,
    )
