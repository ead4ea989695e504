"""Classes: how a score tells right from wrong within each, how well each is segmented, and what it is taken for.

Charts that cannot be drawn are notes that say why; `class_table` raises `GraduncError` with a text to show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np
import pandas as pd

from ...metrics import calibration, segmentation
from ...metrics.arrays.thresholds import auroc, average_precision
from ...metrics.distributions import quantile, score_limits, spread
from ...metrics.operating_point import groups
from ...schema.errors import GraduncError
from ...store.choice import Selection
from ...style.palette import GROUPS, THRESHOLD
from ..state.memo import remember
from ..state.shared_counts import class_histogram
from ..text import score_axis
from .look import chart_opts, noted

__all__ = ["class_distributions", "class_table", "confusion"]

_BINS = 72
_ROW = 0.82  # height of the tallest ridge in rows
_QUANTILES = ["q05", "q25", "median", "q75", "q95"]
_LEAST = 50  # pixels below which a distribution is no shape but points


@noted
def class_distributions(selection: Selection, *, threshold: float | None = None) -> hv.Overlay:
    """Ridge of each predicted class: the score's distribution over right and wrong (normal and anomalous) pixels.

    A ridge has the height of its most frequent score; the dot is its median, the bar below spans the quartiles.

    Parameters
    ----------
    selection : Selection
        Of one score; the chosen classes are shown, all that occur by default.
    threshold : float, optional
        Where to draw a line.

    Returns
    -------
    holoviews.Overlay
        A note instead if there are no labels of the task.
    """
    cache = selection.cache
    histogram = class_histogram(selection)
    counts = histogram.weights["counts"]
    chosen = range(len(cache.classes)) if selection.classes is None else sorted(selection.classes)
    rows = [i for i in chosen if counts[:, i].any()]
    if not rows:
        raise GraduncError(f"{cache.name}: no pixel was predicted as one of the chosen classes")
    shown = replace(histogram, weights={"counts": counts[:, rows]})
    edges = np.linspace(*score_limits(shown, tail=0.005, least=_LEAST), _BINS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    axis = hv.Dimension("score_value", label=score_axis(selection.score))
    place = hv.Dimension("row", label="predicted class")
    parts: list[Any] = []
    for side, (outcome, group) in enumerate(zip(selection.task.outcomes[::-1], groups(histogram)[::-1], strict=True)):
        color = GROUPS[outcome]
        shapes, rows_of_marks = [], []
        for height, number in enumerate(reversed(rows)):
            pixels = int(group[number].sum())
            if not pixels:
                continue
            quantiles = quantile(histogram, group[number], (0.05, 0.25, 0.5, 0.75, 0.95))
            rows_of_marks.append((quantiles[2], height - 0.07 * side, cache.classes[number], pixels, *quantiles))
            if pixels < _LEAST:
                continue
            inside = spread(histogram, group[number], np.r_[-np.inf, edges, np.inf])[1:-1]
            top = height + _ROW * inside / max(inside.max(), 1)
            shapes.append({axis.name: np.r_[middle[0], middle, middle[-1]], "row": np.r_[height, top, height]})
        columns = tuple(zip(*rows_of_marks, strict=True)) or ((),) * 9
        parts += [
            hv.Polygons(shapes, [axis, place]).opts(
                color=color, fill_alpha=0.35, line_color=color, line_width=1, backend="bokeh"
            ),
            hv.Segments((columns[5], columns[1], columns[7], columns[1]), ["q25", "row", "q75", "row2"]).opts(
                color=color, line_width=3, show_legend=False, backend="bokeh"
            ),
            hv.Points(columns, [axis, place], ["class", "pixels", *_QUANTILES], label=outcome).opts(
                color=color, size=8, line_color="white", tools=["hover"], backend="bokeh",
                hover_tooltips=[
                    ("predicted", "@class"), (outcome, "@pixels{0,0} px"), ("median", "@median{0.000}"),
                    ("quartiles", "@q25{0.000} to @q75{0.000}"), ("5 % to 95 %", "@q05{0.000} to @q95{0.000}"),
                ],
            ),
        ]  # fmt: skip
    if threshold is not None:
        parts.append(hv.VLine(threshold).opts(color=THRESHOLD, line_width=2, backend="bokeh"))
    ticks = [(height, cache.classes[number]) for height, number in enumerate(reversed(rows))]
    return (
        hv.Overlay(parts)
        .opts(
            title="Scores within each predicted class",
            yticks=ticks,
            xlabel=axis.label,
            ylabel=place.label,
            xlim=(edges[0] - 0.02 * (edges[-1] - edges[0]), edges[-1]),
            ylim=(-0.25, len(rows)),
            legend_position="top",
            legend_cols=2,
            toolbar="above",
            active_tools=[],
            shared_axes=False,
            responsive=True,
            min_height=max(240, 34 * len(rows) + 110),
            show_frame=False,
            backend="bokeh",
        )
        .opts(**chart_opts())
    )


def class_table(selection: Selection) -> pd.DataFrame:
    """One row per class: how well it is segmented, and how well a score works within it.

    Parameters
    ----------
    selection : Selection
        Of one score, and the task: what it should find among the pixels predicted as the class. All classes are told.

    Returns
    -------
    pandas.DataFrame
        ``class``; ``pixels`` of the label; ``predicted`` pixels that are evaluated for the task; ``positives``, the
        wrong (or unknown) ones of these in percent; ``iou``; ``auroc`` and ``auprc`` of the score within the class, in
        percent; ``ece`` of the class probabilities in percent. NaN is what cannot be told.

    Raises
    ------
    GraduncError
        Without labels of the task.
    """
    key = ("classes", selection.score, selection.task.name, selection.key)
    return remember(selection.cache, key, lambda: _class_table(selection)).copy()


def _class_table(selection: Selection) -> pd.DataFrame:
    histogram = class_histogram(selection)
    cache, frames = selection.cache, selection.key
    positive, negative = groups(histogram)
    found, total = positive.sum(-1), (positive + negative).sum(-1)
    quality = segmentation(cache, frames=frames)
    matrix = quality["confusion"].values
    nothing = np.full(len(cache.classes), np.nan)
    try:
        ece = remember(cache, ("class ece", frames), lambda: _class_ece(selection))
    except GraduncError:  # imported maps have no class probabilities, frames may have no class labels
        ece = nothing
    with np.errstate(invalid="ignore", divide="ignore"):
        return pd.DataFrame(
            {
                "class": list(cache.classes),
                "pixels": matrix.sum(1),
                "predicted": total,
                "positives": np.where(total > 0, 100 * found / total, np.nan),
                "iou": 100 * quality["iou"].values,
                "auroc": 100 * auroc(positive, negative),
                "auprc": 100 * average_precision(positive, negative, histogram.tied),
                "ece": 100 * ece,
            }
        )


def _class_ece(selection: Selection) -> np.ndarray:
    return np.asarray(calibration(selection.cache, frames=selection.key, by="class")["ece"].isel(cache=0).values)


@noted
def confusion(selection: Selection) -> hv.Overlay:
    """Confusion matrix: the share of each label's pixels that is predicted as each class; pixels on hover.

    Returns
    -------
    holoviews.Overlay
        Classes that occur neither in labels nor in predictions are left out. A note instead without class labels.
    """
    cache = selection.require_frames().cache
    matrix = segmentation(cache, frames=selection.key)["confusion"].values
    if not matrix.sum():
        raise GraduncError(f"{cache.name}: no frame here has class labels, which a confusion matrix needs")
    keep = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    names = [cache.classes[i] for i in keep]
    matrix = matrix[np.ix_(keep, keep)]
    total = matrix.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(total > 0, 100 * matrix / total, np.nan)
    rows, columns = np.indices(matrix.shape).reshape(2, -1)
    data = ([names[i] for i in columns], [names[i] for i in rows], share.ravel(), matrix.ravel())
    dims = [hv.Dimension("prediction", values=names), hv.Dimension("label", values=names[::-1])]
    values = [hv.Dimension("share", label="share", unit="%", range=(0, 100)), "pixels"]
    heat = hv.HeatMap(data, dims, values).opts(
        cmap="cividis", clim=(0, 100), colorbar=True,
        clabel="", clipping_colors={"NaN": "#00000000"}, tools=["hover"],
        hover_tooltips=[
            ("label", "@label"), ("predicted", "@prediction"), ("share of the label", "@share{0.00} %"),
            ("pixels", "@pixels{0,0}"),
        ],
        backend="bokeh",
    )  # fmt: skip
    written = [
        (names[c], names[r], f"{s:.0f}", _on(s)) for r, c, s in zip(rows, columns, share.ravel(), strict=True) if s >= 1
    ]
    labels = hv.Labels(written, dims, ["text", "ink"]).opts(
        text_color="ink", text_font_size="10px" if len(names) <= 12 else "8px", backend="bokeh"
    )
    return (
        hv.Overlay([heat, labels])
        .opts(
            title="Confusion: share of each label [%]",
            xlabel="prediction",
            ylabel="label",
            xrotation=45,
            responsive=True,
            min_height=max(300, 22 * len(names) + 150),
            toolbar="above",
            active_tools=[],
            shared_axes=False,
            show_legend=False,
            backend="bokeh",
        )
        .opts(**chart_opts())
    )


def _on(share: float) -> str:
    """Ink that can be read on the cell of a share."""
    return "#111111" if share > 50 else "#f4f4f4"
