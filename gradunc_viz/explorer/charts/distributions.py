"""Distributions of a score over the two groups of a task, in one frame or in a set, from cached counts."""

from __future__ import annotations

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
import xarray as xr

from ...metrics.distributions import INTERVALS, density, distribution
from ...schema.tasks import find_task
from ...store.choice import Selection
from ...style.palette import GROUPS, THRESHOLD
from ..state.shared_counts import set_histograms
from ..text import score_axis
from .look import chart_opts, noted

__all__ = ["score_distribution", "set_distribution"]


def score_distribution(
    dataset: xr.Dataset, name: str, task: str, limits: tuple[float, float], threshold: float
) -> hv.Overlay | None:
    """Distributions of a score over the two groups of a task in one frame, with the threshold.

    Parameters
    ----------
    dataset : xarray.Dataset
        A cached frame.
    limits : (low, high)
        Range of the score's axis.
    threshold : float

    Returns
    -------
    holoviews.Overlay or None
        None if the frame has no labels for the task.
    """
    outcomes = [str(found) for found in dataset["outcome"].values] if "outcome" in dataset.coords else []
    groups = find_task(task).outcomes[::-1]
    if not set(groups) <= set(outcomes):
        return None
    edges = np.linspace(*limits, INTERVALS + 1)
    axis = hv.Dimension("score", label=score_axis(name))
    share = hv.Dimension("share", label="pixels of the group [%]")
    parts = [
        hv.Histogram(
            (edges, 100 * density(dataset, name, outcome, edges)), kdims=axis, vdims=share, label=outcome
        ).opts(color=GROUPS[outcome], fill_alpha=0.45, line_color=GROUPS[outcome], line_width=1, backend="bokeh")
        for outcome in groups
    ]
    mark = hv.VLine(threshold).opts(color=THRESHOLD, line_width=2, backend="bokeh")
    return (hv.Overlay(parts) * mark).opts(
        responsive=True,
        height=220,
        xlim=limits,
        legend_position="top",
        legend_cols=2,
        show_title=False,
        toolbar=None,
        show_frame=False,
        backend="bokeh",
    )


@noted
def set_distribution(selection: Selection, *, log: bool = False, threshold: float | None = None) -> hv.Overlay:
    """Distributions of a score over the two groups of a task in a set of frames.

    Parameters
    ----------
    selection : Selection
        Of one score.
    log : bool
        Pixels on a logarithmic axis instead of the share of each group: shows the few among the many.
    threshold : float, optional
        Where to draw a line.

    Returns
    -------
    holoviews.Overlay
        A note instead if there are no labels of the task.
    """
    score, histogram = selection.score, set_histograms(selection)[selection.score]
    edges, counts = distribution(histogram)
    axis = hv.Dimension("score", label=score_axis(score))
    height = hv.Dimension("height", label="pixels" if log else "pixels of the group [%]")
    floor = 0.5 if log else 0.0
    parts = []
    for outcome, pixels in zip(selection.task.outcomes[::-1], counts[::-1], strict=True):
        total = int(pixels.sum())
        used = pixels > 0
        share = 100 * pixels[used] / max(total, 1)
        top = pixels[used] if log else share
        data = (edges[:-1][used], np.full(used.sum(), floor), edges[1:][used], top, pixels[used], share)
        bars = hv.Rectangles(
            data, [axis, "bottom", "end", height], ["pixels", "share"], label=f"{outcome}, {total:,} pixels"
        )
        parts.append(
            bars.opts(
                color=GROUPS[outcome],
                fill_alpha=0.45,
                line_color=GROUPS[outcome],
                line_alpha=0.6,
                line_width=1,
                tools=["hover"],
                hover_tooltips=[
                    (outcome, "@pixels{0,0} px"),
                    ("of the group", "@share{0.00} %"),
                    ("score", "@score{0.000} to @end{0.000}"),
                ],
                backend="bokeh",
            )
        )
    if threshold is not None:
        parts.append(hv.VLine(threshold).opts(color=THRESHOLD, line_width=2, backend="bokeh"))
    return (
        hv.Overlay(parts)
        .opts(
            responsive=True,
            min_height=260,
            title="Scores of the pixels to be found and of the others",
            xlabel=axis.label,
            ylabel=height.label,
            xlim=(edges[0], edges[-1]),
            ylim=(floor, None),
            logy=log,
            legend_position="top",
            legend_cols=2,
            legend_opts={"click_policy": "hide"},
            toolbar="above",
            active_tools=[],
            shared_axes=False,
            show_frame=False,
            backend="bokeh",
        )
        .opts(**chart_opts())
    )
