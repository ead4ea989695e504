"""Look of the charts: one calm style for light and dark pages, a colour per score, notes where nothing can be drawn."""

from __future__ import annotations

import functools
import heapq
import textwrap
from collections.abc import Callable
from typing import Any, ParamSpec

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np

from ...schema.errors import GraduncError
from ...style.scores import DASHES, score_look

__all__ = ["GUIDE", "LINE_WIDTH", "chart_opts", "line_style", "note", "noted", "thin"]

P = ParamSpec("P")

GUIDE = "#8a929c"
"""Reference lines (chance, oracle) and texts; stands out from white as from black."""

LINE_WIDTH = 2
"""Pixels of the line of a score."""

_INK = {None: "#7b8591", False: "#4a5563", True: "#aab4c0"}
_GRID = {None: "#8a929c", False: "#c9cfd6", True: "#4b5563"}


def line_style(name: str) -> dict[str, Any]:
    """Colour, dash and width of a score's line, as Bokeh takes them."""
    look = score_look(name)
    pixels = " ".join(str(round(LINE_WIDTH * length)) for length in DASHES[look.dash])
    return {"color": look.color, "line_dash": pixels or "solid", "line_width": LINE_WIDTH}


def chart_opts(dark: bool | None = None) -> dict[str, Any]:
    """Options of any chart, for ``chart.opts(**chart_opts(dark), clone=True)``.

    Parameters
    ----------
    dark : bool, optional
        Whether the page is dark. By default colours are such that they can be read on both.
    """
    return {"hooks": [functools.partial(_style, dark)], "backend": "bokeh"}


def _style(dark: bool | None, plot: Any, _element: Any) -> None:
    figure, ink = plot.state, _INK[dark]
    if not hasattr(figure, "background_fill_alpha"):
        return
    figure.output_backend = "canvas"  # a few hundred points; WebGL would copy them back from the graphics card
    figure.background_fill_alpha = 0
    figure.border_fill_alpha = 0
    figure.outline_line_color = None
    if figure.title is not None:
        figure.title.text_color, figure.title.text_font_size = ink, "13px"
    # calm until the pointer is there
    figure.toolbar.logo, figure.toolbar.autohide = None, True
    for axis in figure.axis:
        axis.axis_label_text_color = axis.major_label_text_color = ink
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = ink
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "12px", "11px"
    for grid in figure.grid:
        grid.grid_line_color, grid.grid_line_alpha = _GRID[dark], 0.35
        grid.visible = any(axis.visible for axis in figure.axis)
    for legend in figure.legend:
        legend.background_fill_alpha, legend.border_line_color = 0, None
        legend.label_text_color, legend.label_text_font_size = ink, "11px"
        legend.title_text_color, legend.title_text_font_size = ink, "11px"
        legend.inactive_fill_alpha = 0
        legend.spacing, legend.padding, legend.margin, legend.label_height, legend.glyph_height = 0, 4, 4, 16, 14
        legend.title_text_font_style = "normal"
        if legend in figure.right:
            legend.location = "top_left"
    for bar in (item for items in (figure.right, figure.left, figure.below, figure.above) for item in items):
        if hasattr(bar, "color_mapper"):
            bar.background_fill_alpha = 0
            bar.major_label_text_color = bar.title_text_color = ink


def note(text: str) -> hv.Overlay:
    """Draw a text where there is nothing else to draw."""
    lines = "\n".join(textwrap.wrap(text, 56))
    words = hv.Text(0.5, 0.5, lines).opts(color=GUIDE, text_font_size="13px", backend="bokeh")
    return (
        hv.Overlay([words])
        .opts(
            xaxis=None,
            yaxis=None,
            xlim=(0, 1),
            ylim=(0, 1),
            toolbar=None,
            show_frame=False,
            responsive=True,
            min_height=160,
            default_tools=[],
            shared_axes=False,
            backend="bokeh",
        )
        .opts(**chart_opts())
    )


def noted(draw: Callable[P, Any]) -> Callable[P, Any]:
    """Make a chart that cannot be drawn a `note` that says why."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return draw(*args, **kwargs)
        except GraduncError as error:
            return note(str(error))

    return wrapped


def thin(x: np.ndarray, y: np.ndarray, limit: int = 400, tolerance: float = 2e-4) -> np.ndarray:
    """Indices of the points of a line that have to be kept for it to look the same.

    The point farthest from the line drawn so far is added (Douglas and Peucker 1973), until none is farther than
    `tolerance` or `limit` is reached.

    Parameters
    ----------
    x, y : array (n,)
        In units of the chart's width and height.

    Returns
    -------
    int array, at most `limit` long, rising, with both ends
    """
    n = len(x)
    if n <= 2:
        return np.arange(n)

    def farthest(first: int, last: int) -> tuple[float, int]:
        if last - first < 2:
            return 0.0, first
        dx, dy = x[last] - x[first], y[last] - y[first]
        px, py = x[first + 1 : last] - x[first], y[first + 1 : last] - y[first]
        length = dx * dx + dy * dy
        along = np.clip((px * dx + py * dy) / length, 0, 1) if length else np.zeros(len(px))
        distance = (px - along * dx) ** 2 + (py - along * dy) ** 2
        at = int(distance.argmax())
        return float(distance[at]) ** 0.5, first + 1 + at

    kept = {0, n - 1}
    distance, at = farthest(0, n - 1)
    heap = [(-distance, 0, at, n - 1)]
    while heap and len(kept) < limit:
        negative, first, at, last = heapq.heappop(heap)
        if -negative <= tolerance:
            break
        kept.add(at)
        for start, stop in ((first, at), (at, last)):
            distance, place = farthest(start, stop)
            heapq.heappush(heap, (-distance, start, place, stop))
    return np.array(sorted(kept))
