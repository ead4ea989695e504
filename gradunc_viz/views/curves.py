"""Charts of the dashboard as HoloViews elements, from cached counts."""

from __future__ import annotations

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
import xarray as xr

from .colors import GROUPS, THRESHOLD
from .text import score_axis

__all__ = ["TASK_OUTCOMES", "density", "score_distribution"]

TASK_OUTCOMES = {"error": ("right", "wrong"), "anomaly": ("normal", "anomaly")}
"""Outcomes that a task sets against each other: what should score low, what should score high."""

_BINS = 80


def density(dataset: xr.Dataset, name: str, outcome: str, edges: np.ndarray) -> np.ndarray:
    """Share of the pixels of an outcome per interval of `edges`; what lies outside is in the first or last one.

    A cached bin counts where its middle lies: its width is far below that of an interval of a chart.

    Raises
    ------
    KeyError
        If the frame was not counted for `outcome`.
    """
    scores = [str(found) for found in dataset["score"].values]
    at = scores.index(name)
    counts = dataset["counts"].sel(outcome=outcome).isel(score=at).sum("class").values
    middle = (dataset["bin_min"].isel(score=at).values + dataset["bin_max"].isel(score=at).values) / 2
    used = counts > 0
    place = np.clip(np.searchsorted(edges, middle[used], side="right") - 1, 0, len(edges) - 2)
    found = np.bincount(place, counts[used], len(edges) - 1)
    return found / max(found.sum(), 1)


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
    if not set(TASK_OUTCOMES[task]) <= set(outcomes):
        return None
    edges = np.linspace(*limits, _BINS + 1)
    axis = hv.Dimension("score", label=score_axis(name))
    share = hv.Dimension("share", label="pixels of the group [%]")
    parts = [
        hv.Histogram(
            (edges, 100 * density(dataset, name, outcome, edges)), kdims=axis, vdims=share, label=outcome
        ).opts(color=GROUPS[outcome], fill_alpha=0.45, line_color=GROUPS[outcome], line_width=1, backend="bokeh")
        for outcome in TASK_OUTCOMES[task]
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
