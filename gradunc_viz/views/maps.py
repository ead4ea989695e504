"""Image panes as plain Bokeh figures: linked, fed from one data source, threshold and hover without a round trip.

All panes draw columns of one `ColumnDataSource` with a single row. A change of frame replaces the columns, a change of
score only the codes; figures, ranges and tools stay, and with them the zoom of the person looking.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    BoxAnnotation,
    ColumnDataSource,
    CustomJSHover,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Span,
)
from bokeh.plotting import figure
from PIL import Image

from ..schema import IGNORE
from .colors import ANOMALY, GREY, SCORE_PALETTE, THRESHOLD, TRANSPARENT
from .frame_data import FrameArrays, Scale, encode, shrink_factor, shrink_max, shrink_nearest

__all__ = [
    "COLOR_BAR_HEIGHT",
    "PANES",
    "THRESHOLD_JS",
    "MapFigures",
    "aspect_ratio",
    "blank_columns",
    "color_codes",
    "frame_columns",
    "home_ranges",
    "map_figures",
    "score_columns",
    "show_frame",
    "show_limits",
    "show_score",
    "show_threshold",
    "threshold_code",
]

PANES = ("image", "prediction", "annotation", "score")

COLOR_BAR_HEIGHT = 64

_NOTHING = np.full((1, 1), IGNORE, "u1")
_JPEG_QUALITY = 90
_ASPECTS = (
    1.3,
    2.4,
)  # a pane is at least this wide, and at most, for its height; frames outside are letterboxed

THRESHOLD_JS = """
const {low, step} = source.data
mapper.low = Math.floor((cb_obj.value - low[0]) / step[0])
for (const span of spans) span.location = cb_obj.value
"""
"""What dragging the threshold does in the browser; the code as by `threshold_code`."""

_CLASS_JS = "return names[value] ?? (value === undefined ? 'no label' : 'ignored')"
_ANOMALY_JS = "return ['known', 'unknown object'][value] ?? (value === undefined ? 'no label' : 'ignored')"
_SCORE_JS = """
const {low, step} = source.data
return (low[0] + value * step[0]).toPrecision(4)
"""


@dataclass(frozen=True)
class MapFigures:
    """The panes of one session and what is changed to make them show something.

    Attributes
    ----------
    source
        One row; see `frame_columns` and `score_columns`.
    panes
        Figure by name, see `PANES`.
    x_range, y_range
        Shared by all panes.
    score_mapper, mask_mapper, anomaly_mapper
        Work on codes; `mask_mapper.low` is the threshold.
    color_bar
        A figure of its own, so that the score pane keeps the size of the others.
    color_source, threshold_mark
        Extent of the colour bar; where the threshold is on it.
    """

    source: ColumnDataSource
    panes: Mapping[str, figure]
    x_range: Range1d
    y_range: Range1d
    score_mapper: LinearColorMapper
    mask_mapper: LinearColorMapper
    anomaly_mapper: LinearColorMapper
    color_bar: figure
    color_source: ColumnDataSource
    threshold_mark: Span


# --------------------------------------------------------------------------------------------------------------------
# data


def _jpeg_url(image: np.ndarray, factor: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).reduce(factor).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def frame_columns(frame: FrameArrays) -> dict[str, list[Any]]:
    """Columns of the source that depend on the frame alone; absent labels are one ignored pixel."""
    factor = shrink_factor(frame.size)
    small = shrink_nearest(frame.prediction, factor)
    # the last block of a shrunk map may reach beyond the frame
    rows, columns = small.shape[0] * factor, small.shape[1] * factor
    anomaly = _NOTHING
    if frame.anomaly is not None:
        # 0 < 255 < 1 in importance: an anomaly of one pixel outweighs its block, and so does "ignore" a known one
        order = np.array([0, 2, 1], "u1")[np.minimum(frame.anomaly, 2)]
        anomaly = np.array([0, IGNORE, 1], "u1")[shrink_max(order, factor)] if factor > 1 else frame.anomaly
    return {
        "url": [_jpeg_url(frame.image, factor)],
        "prediction": [small],
        "label": [_NOTHING if frame.label is None else shrink_nearest(frame.label, factor)],
        "anomaly": [anomaly],
        "width": [columns],
        "height": [rows],
    }


def score_columns(values: np.ndarray) -> tuple[dict[str, list[Any]], Scale]:
    """Columns of the source that depend on the score: codes and how to read them."""
    codes, scale = encode(values)
    factor = shrink_factor((values.shape[0], values.shape[1]))
    small = shrink_max(codes, factor) if factor > 1 else codes
    return {"codes": [small], "low": [scale.low], "step": [scale.step]}, scale


def blank_columns() -> dict[str, list[Any]]:
    """All columns where there is no frame to show."""
    return {
        "url": [""],
        **{name: [_NOTHING] for name in ("prediction", "label", "anomaly")},
        **{name: [1] for name in ("width", "height")},
        "codes": [np.zeros((1, 1), "u2")],
        "low": [0.0],
        "step": [1.0],
    }


def threshold_code(threshold: float, scale: Scale) -> float:
    """`low` of the mask's mapper, rounded down as `encode` rounds."""
    return float(np.floor(scale.code(threshold)))


def color_codes(limits: tuple[float, float], scale: Scale) -> tuple[float, float]:
    """`low` and `high` of the score's mapper for a colour range in the score's units."""
    return scale.code(limits[0]), scale.code(limits[1])


def aspect_ratio(size: tuple[int, int]) -> float:
    """Width over height of the panes of a frame of (height, width)."""
    return float(np.clip(size[1] / size[0], *_ASPECTS))


def home_ranges(size: tuple[int, int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """X and y range, (start, end) each, that show a whole frame undistorted; row 0 is at the top."""
    height, width = size
    ratio = aspect_ratio(size)
    across, down = max(width, height * ratio), max(height, width / ratio)
    left, top = (width - across) / 2, (height - down) / 2
    return (left, left + across), (top + down, top)


# --------------------------------------------------------------------------------------------------------------------
# showing: what a change of state does to figures that exist


def show_frame(figures: MapFigures, frame: FrameArrays | None) -> None:
    """Put a frame into the panes, or empty them; the zoom is kept unless the frame has another size."""
    if frame is None:
        figures.source.data.update(blank_columns())
        return
    figures.source.data.update(frame_columns(frame))
    # where classes are drawn below, known pixels let them through
    figures.anomaly_mapper.palette = [GREY if frame.label is None else TRANSPARENT, ANOMALY]
    x_limits, y_limits = home_ranges(frame.size)
    for shared, (start, end) in ((figures.x_range, x_limits), (figures.y_range, y_limits)):
        if (shared.reset_start, shared.reset_end) != (start, end):
            shared.update(start=start, end=end, reset_start=start, reset_end=end)
    for pane in figures.panes.values():
        pane.aspect_ratio = aspect_ratio(frame.size)


def show_score(figures: MapFigures, values: np.ndarray | None) -> None:
    """Put a score map into the panes; it has to be of the size of the frame shown."""
    if values is not None:
        figures.source.data.update(score_columns(values)[0])


def show_limits(figures: MapFigures, limits: tuple[float, float], label: str) -> None:
    """Set the colour range of the score pane, in the score's units, and the colour bar that tells it."""
    low, high = color_codes(limits, _scale(figures))
    figures.score_mapper.update(low=low, high=high)
    figures.color_source.data.update(x=[limits[0]], width=[limits[1] - limits[0]])
    figures.color_bar.x_range.update(start=limits[0], end=limits[1])
    figures.color_bar.xaxis.axis_label = label


def show_threshold(figures: MapFigures, threshold: float) -> None:
    """Move the threshold of mask and colour bar; in the browser `THRESHOLD_JS` does the same while dragging."""
    figures.mask_mapper.low = threshold_code(threshold, _scale(figures))
    figures.threshold_mark.location = threshold


def _scale(figures: MapFigures) -> Scale:
    data = figures.source.data
    return Scale(data["low"][0], data["step"][0])


# --------------------------------------------------------------------------------------------------------------------
# figures


def map_figures(classes: Sequence[str], palette: Sequence[str]) -> MapFigures:
    """Build the panes, empty.

    Parameters
    ----------
    classes : sequence of str
        Names in id order.
    palette : sequence of str
        Colour of each class, as hex.
    """
    source = ColumnDataSource(blank_columns())
    x_range, y_range = Range1d(0, 1), Range1d(1, 0)
    score_mapper = LinearColorMapper(SCORE_PALETTE, low=0, high=1)
    mask_mapper = LinearColorMapper([THRESHOLD], low=1, high=2**20, low_color=TRANSPARENT)
    class_mapper = LinearColorMapper(palette, low=-0.5, high=len(palette) - 0.5, high_color=TRANSPARENT)
    anomaly_mapper = LinearColorMapper([GREY, ANOMALY], low=-0.5, high=1.5, high_color=TRANSPARENT)

    panes = {name: _pane(name, x_range, y_range) for name in PANES}
    extent = {"x": 0, "y": 0, "dw": "width", "dh": "height"}
    panes["image"].image_url("url", x=0, y=0, w="width", h="height", anchor="top_left", source=source)
    mask = panes["image"].image(
        "codes", **extent, source=source, color_mapper=mask_mapper, global_alpha=0.65, name="mask"
    )
    drawn = {
        "image": mask,
        "prediction": panes["prediction"].image("prediction", **extent, source=source, color_mapper=class_mapper),
        "annotation": panes["annotation"].image("label", **extent, source=source, color_mapper=class_mapper),
        "score": panes["score"].image("codes", **extent, source=source, color_mapper=score_mapper),
    }
    marked = panes["annotation"].image("anomaly", **extent, source=source, color_mapper=anomaly_mapper, name="anomaly")
    for name, pane in panes.items():
        renderers = [drawn[name], marked] if name == "annotation" else [drawn[name]]
        pane.add_tools(_hover(renderers[-1:], source, classes))
    color_bar, color_source, mark = _color_bar()
    return MapFigures(
        source,
        panes,
        x_range,
        y_range,
        score_mapper,
        mask_mapper,
        anomaly_mapper,
        color_bar,
        color_source,
        mark,
    )


def _pane(name: str, x_range: Range1d, y_range: Range1d) -> figure:
    pane = figure(
        name=name,
        x_range=x_range,
        y_range=y_range,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        toolbar_location="right",
        toolbar_inner=True,
        sizing_mode="scale_width",
        aspect_ratio=2,
        min_border=0,
        frame_align=False,  # panes in one column would all get the margins of the widest axis
        outline_line_color=None,
        background_fill_color="#f3f4f6",
    )
    # seen where every glyph is transparent; a hatched plot background does not render in Bokeh 3.9
    pane.add_layout(
        BoxAnnotation(
            level="underlay",
            fill_color=None,
            line_color=None,
            hatch_pattern="right_diagonal_line",
            hatch_color="#c3c8ce",
            hatch_scale=8,
            hatch_weight=1,
        )
    )
    pane.toolbar.autohide = True
    pane.toolbar.logo = None
    pane.axis.visible = False
    pane.grid.visible = False
    return pane


def _hover(renderers: list[Any], source: ColumnDataSource, classes: Sequence[str]) -> HoverTool:
    """Prediction, annotations and score of the pixel under the cursor, whichever pane it is in."""
    named = CustomJSHover(args={"names": list(classes)}, code=_CLASS_JS)
    return HoverTool(
        renderers=renderers,
        tooltips=[
            ("pixel (x, y)", "$x{0}, $y{0}"),
            ("prediction", "@prediction{custom}"),
            ("label", "@label{custom}"),
            ("anomaly", "@anomaly{custom}"),
            ("score", "@codes{custom}"),
        ],
        formatters={
            "@prediction": named,
            "@label": named,
            "@anomaly": CustomJSHover(code=_ANOMALY_JS),
            "@codes": CustomJSHover(args={"source": source}, code=_SCORE_JS),
        },
        point_policy="follow_mouse",
    )


def _color_bar() -> tuple[figure, ColumnDataSource, Span]:
    ramp = np.arange(256, dtype="u1")[None]
    source = ColumnDataSource({"image": [ramp], "x": [0.0], "width": [1.0]})
    bar = figure(
        name="color_bar",
        x_range=Range1d(0, 1),
        y_range=Range1d(0, 1),
        height=COLOR_BAR_HEIGHT,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        outline_line_color=None,
        frame_align=False,
        min_border_left=18,
        min_border_right=18,
    )
    mapper = LinearColorMapper(SCORE_PALETTE, low=0, high=255)
    bar.image("image", x="x", y=0, dw="width", dh=1, source=source, color_mapper=mapper)
    bar.yaxis.visible = False
    bar.grid.visible = False
    bar.xaxis.ticker = BasicTicker(desired_num_ticks=6)
    bar.xaxis.axis_label_text_font_style = "normal"
    bar.xaxis.axis_line_color = None
    bar.axis.axis_label_standoff = 2
    mark = Span(location=0, dimension="height", line_color=THRESHOLD, line_width=3)
    bar.add_layout(mark)
    return bar, source, mark
