"""Curves of several scores over a set of frames as HoloViews elements, and the way back from a tap to a threshold.

Charts that cannot be drawn (no labels, an empty choice, a damaged frame) are notes that say why; functions that return
numbers raise `GraduncError` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np

from ...metrics import calibration
from ...metrics.operating_point import OperatingPoint, read_at
from ...metrics.threshold_curves import Curve, curve, log_start, oracle_sparsification
from ...schema.errors import GraduncError
from ...schema.tasks import find_task
from ...store.cache import Cache
from ...store.choice import frame_key
from ...style.palette import RIGHT
from ...style.scores import score_look
from ..state.memo import remember
from ..state.shared_counts import set_histograms
from .distributions import score_distribution
from .look import GUIDE, LINE_WIDTH, chart_opts, line_style, noted, thin

__all__ = [
    "KINDS",
    "confidence_diagram",
    "counts_at",
    "marks",
    "nearest_threshold",
    "pr",
    "reliability",
    "roc",
    "score_distribution",
    "sparsification",
    "tap_base",
]

_SMALLEST = 1e-6


@dataclass(frozen=True)
class _Kind:
    """What a kind of curve is called and measures."""

    title: str
    x: hv.Dimension
    y: hv.Dimension
    area: str


KINDS = {
    "roc": _Kind(
        "ROC",
        hv.Dimension("fpr", label="false-positive rate"),
        hv.Dimension("tpr", label="true-positive rate (recall)"),
        "AuROC",
    ),
    "pr": _Kind(
        "Precision and recall",
        hv.Dimension("recall", label="recall"),
        hv.Dimension("precision", label="precision"),
        "AuPRC",
    ),
    "sparsification": _Kind(
        "Sparsification",
        hv.Dimension("dropped", label="share of the pixels dropped, most uncertain first"),
        hv.Dimension("error", label="error of the rest / error of all"),
        "AuSE",
    ),
    "reliability": _Kind(
        "Reliability",
        hv.Dimension("rank", label="rank of the score (share of pixels below)"),
        hv.Dimension("rate", label="observed rate"),
        "AuROC",
    ),
}
"""Kinds of curves by name."""


def _lines(
    cache: Cache,
    kind: str,
    scores: Sequence[str],
    task: str,
    frames: Sequence[str] | None,
    classes: Sequence[str] | None,
) -> dict[str, Curve]:
    if not scores:
        raise GraduncError("no score is chosen; choose at least one")
    if kind == "sparsification":
        task = "error"  # what is dropped is judged by the mistakes that remain
    frames = frame_key(cache, frames)
    found = set_histograms(cache, task, scores, frames=frames, classes=classes)
    chosen = None if classes is None else tuple(classes)
    lines = {
        name: remember(cache, ("line", kind, task, name, frames, chosen), partial(curve, kind, histogram))
        for name, histogram in found.items()
    }
    rate = next(iter(lines.values())).base_rate
    what = find_task(task).pixel
    if not rate > 0:
        raise GraduncError(f"{cache.name}: among the chosen pixels is no {what}; nothing to find")
    if rate == 1:
        raise GraduncError(f"{cache.name}: every chosen pixel is a {what}; nothing to tell apart")
    return lines


# --------------------------------------------------------------------------------------------------------------------
# drawing


def tap_base(kind: str) -> hv.Curve:
    """Line of reference (chance, or the oracle's end) on which to attach a `Tap` stream: make one per session.

    Pass it as `base` to the chart; ``hv.streams.Tap(source=base)`` then reports taps anywhere in the chart. An overlay
    cannot be the source of a stream.
    """
    which = KINDS[kind]
    if kind == "roc":
        x = np.r_[0.0, np.geomspace(_SMALLEST, 1, 61)]
        y = x
    elif kind == "sparsification":
        x, y = np.array([0.0, 1.0]), np.array([1.0, 1.0])
    else:
        x, y = np.array([0.0, 1.0]), np.array([np.nan, np.nan])
    return hv.Curve((x, y), which.x, which.y).opts(
        color=GUIDE, line_dash="dotted", line_width=1, tools=["tap"], show_legend=False, backend="bokeh"
    )


def _chart(
    cache: Cache,
    kind: str,
    scores: Sequence[str],
    task: str,
    frames: Sequence[str] | None,
    classes: Sequence[str] | None,
    thresholds: Mapping[str, float] | None,
    base: hv.Curve | None,
    log_x: bool = False,
) -> hv.Overlay:
    which = KINDS[kind]
    lines = _lines(cache, kind, scores, task, frames, classes)
    parts: list[Any] = [tap_base(kind) if base is None else base]
    left = _left(lines) if log_x else 0.0
    for name, line in lines.items():
        x, y = (np.maximum(line.x, left) if log_x else line.x), line.y
        keep = thin(np.log(x) / -np.log(left) if log_x else x, y)
        label = f"{name}  {line.area:.3f}"
        curve = hv.Curve((x[keep], y[keep], line.threshold[keep]), which.x, [which.y, "threshold"], label=label)
        tooltips = [
            ("score", _plain(name)),
            (which.x.label, f"@{which.x.name}{{0.0000}}"),
            (which.y.label, f"@{which.y.name}{{0.0000}}"),
            ("threshold", "@threshold{0.000}"),
        ]
        parts.append(curve.opts(**line_style(name), tools=["hover"], hover_tooltips=tooltips, backend="bokeh"))
    rate = next(iter(lines.values())).base_rate
    if kind in ("pr", "reliability"):
        parts.append(_guide(which, [0, 1], [rate, rate]))
    if kind == "sparsification":
        dropped = np.linspace(0, 1, 101)[:-1]
        parts.append(_guide(which, dropped, oracle_sparsification(rate, dropped)))
    if thresholds:
        parts.append(marks(cache, kind, thresholds, task, frames=frames, classes=classes, log_x=log_x))
    limits = {"xlim": (left, 1.0)} if log_x else {"xlim": (0.0, 1.0)}
    top = 1.0 if kind != "reliability" else None
    return (
        hv.Overlay(parts)
        .opts(
            title=which.title,
            xlabel=which.x.label,
            ylabel=f"{find_task(task).share} of 5 % of the pixels" if kind == "reliability" else which.y.label,
            logx=log_x,
            **limits,
            ylim=(0.0, None if top is None else 1.02),
            legend_position="right",
            legend_opts={"click_policy": "hide", "title": which.area},
            toolbar="above",
            show_grid=True,
            responsive=True,
            min_height=max(320, 17 * len(lines) + 60),
            active_tools=[],
            shared_axes=False,
            backend="bokeh",
        )
        .opts(**chart_opts())
    )


def _left(lines: Mapping[str, Curve]) -> float:
    """Left end of a logarithmic axis."""
    return log_start(*(np.concatenate([getattr(line, axis) for line in lines.values()]) for axis in ("x", "y")))


def _guide(which: _Kind, x: Any, y: Any) -> hv.Curve:
    return hv.Curve((np.asarray(x, "f8"), np.asarray(y, "f8")), which.x, which.y).opts(
        color=GUIDE, line_dash="dotted", line_width=1, show_legend=False, backend="bokeh"
    )


def _plain(name: str) -> str:
    """Text that a tooltip shows as it is."""
    return name.replace("@", "").replace("$", "")


@noted
def roc(
    cache: Cache,
    scores: Sequence[str],
    task: str,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    log_x: bool = False,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """ROC curves: true-positive rate over false-positive rate; AuROC in the legend.

    Parameters
    ----------
    scores : sequence of str
    task : "error" or "anomaly"
    frames : optional
        Ids; the whole set by default.
    classes : optional
        Names; only pixels predicted as one of them.
    thresholds : mapping of score -> float, optional
        Where to mark each curve.
    log_x : bool
        Whether the axis of the false-positive rate is logarithmic.
    base : holoviews.Curve, optional
        From `tap_base`, to listen to taps.

    Returns
    -------
    holoviews.Overlay
        A note instead if there is nothing to draw.
    """
    return _chart(cache, "roc", scores, task, frames, classes, thresholds, base, log_x)


@noted
def pr(
    cache: Cache,
    scores: Sequence[str],
    task: str,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """Precision over recall; AuPRC in the legend, the share of positives as a dotted line. Parameters as `roc`."""
    return _chart(cache, "pr", scores, task, frames, classes, thresholds, base)


@noted
def sparsification(
    cache: Cache,
    scores: Sequence[str],
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """Error rate of the pixels that are kept, over that of all, as the most uncertain are dropped; AuSE in the legend.

    The dotted lines are an order by chance (1) and the oracle that drops every wrong pixel first. Parameters as `roc`;
    always about errors of the segmentation.
    """
    return _chart(cache, "sparsification", scores, "error", frames, classes, thresholds, base)


@noted
def reliability(
    cache: Cache,
    scores: Sequence[str],
    task: str,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """Observed rate of errors (or unknown objects) among pixels of like rank, for each score.

    Pixels are cut into 20 equally large groups by their score, so that scores in different units compare. A good score
    stays at 0 and rises at the right end; the dotted line is the rate over all pixels. Parameters as `roc`.
    """
    return _chart(cache, "reliability", scores, task, frames, classes, thresholds, base)


@noted
def confidence_diagram(cache: Cache, *, frames: Sequence[str] | None = None, bins: int = 15) -> hv.Overlay:
    """Reliability diagram of the class probabilities: accuracy over confidence (maximum softmax), ECE in the title."""
    chosen = frame_key(cache, frames)
    table = remember(cache, ("calibration", chosen, bins), lambda: _Kept(calibration(cache, frames=chosen, bins=bins)))
    found = table.dataset.isel(cache=0)
    x = hv.Dimension("confidence", label="confidence (maximum softmax)")
    y = hv.Dimension("accuracy", label="accuracy")
    edges = np.linspace(0, 1, bins + 1)
    height = found["accuracy"].values
    used = np.isfinite(height)
    data = (
        edges[:-1][used],
        np.zeros(used.sum()),
        edges[1:][used],
        height[used],
        found["confidence"].values[used],
        found["pixels"].values[used].astype("i8"),
    )
    bars = hv.Rectangles(data, ["left", "bottom", "right", "accuracy"], ["mean confidence", "pixels"])
    bars = bars.redim(left=x).opts(
        color=RIGHT,
        fill_alpha=0.45,
        line_color=RIGHT,
        tools=["hover"],
        backend="bokeh",
        hover_tooltips=[
            ("confidence", "@{left}{0.00} to @{right}{0.00}"),
            ("mean confidence", "@{mean confidence}{0.000}"),
            ("accuracy", "@{accuracy}{0.000}"),
            ("pixels", "@{pixels}{0,0}"),
        ],
    )
    diagonal = hv.Curve(([0, 1], [0, 1]), x, y).opts(color=GUIDE, line_dash="dotted", line_width=1, backend="bokeh")
    points = hv.Curve((found["confidence"].values[used], height[used]), x, y).opts(
        color=RIGHT, line_width=LINE_WIDTH, backend="bokeh"
    )
    ece = float(found["ece"])
    return (
        hv.Overlay([diagonal, bars, points])
        .opts(
            title=f"Are the class probabilities right?  ECE {100 * ece:.2f} %",
            xlim=(0, 1),
            ylim=(0, 1),
            xlabel=x.label,
            ylabel=y.label,
            show_legend=False,
            toolbar="above",
            show_grid=True,
            responsive=True,
            min_height=320,
            active_tools=[],
            shared_axes=False,
            backend="bokeh",
        )
        .opts(**chart_opts())
    )


@dataclass
class _Kept:
    dataset: Any


# --------------------------------------------------------------------------------------------------------------------
# thresholds


def counts_at(
    cache: Cache,
    score: str,
    task: str,
    threshold: float,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> OperatingPoint:
    """TP, FP, FN, TN, precision, recall and false-positive rate over a set of frames, from cached counts.

    Raises
    ------
    GraduncError
        Without labels of the task.
    """
    return read_at(score, set_histograms(cache, task, [score], frames=frames, classes=classes)[score], threshold)


def marks(
    cache: Cache,
    kind: str,
    thresholds: Mapping[str, float],
    task: str,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    log_x: bool = False,
) -> hv.Points:
    """Where the thresholds of scores lie on their curves.

    Cheap once the curves were drawn, so that a `DynamicMap` of it can follow a slider.

    Raises
    ------
    GraduncError
        As `counts_at`.
    """
    lines = _lines(cache, kind, list(thresholds), task, frames, classes)
    which = KINDS[kind]
    own = "error" if kind == "sparsification" else task
    rows = []
    left = _left(lines) if log_x else 0.0
    found = set_histograms(cache, own, list(thresholds), frames=frames, classes=classes)
    for name, threshold in thresholds.items():
        point = read_at(name, found[name], threshold)
        x, y = _place(kind, point, lines[name])
        rows.append((max(x, left), y, name, threshold, score_look(name).color))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    return hv.Points(tuple(columns), [which.x, which.y], ["score", "threshold", "color"]).opts(
        color="color",
        size=11,
        line_color="white",
        line_width=1.5,
        marker="circle",
        tools=["hover"],
        hover_tooltips=[
            ("threshold of", "@score"),
            ("threshold", "@threshold{0.000}"),
            (which.x.label, f"@{which.x.name}{{0.0000}}"),
            (which.y.label, f"@{which.y.name}{{0.0000}}"),
        ],
        show_legend=False,
        backend="bokeh",
    )


def _place(kind: str, point: OperatingPoint, line: Curve) -> tuple[float, float]:
    kept = point.fn + point.tn
    if kind == "roc":
        return point.fpr, point.recall
    if kind == "pr":
        return point.recall, point.precision
    if kind == "sparsification":
        return point.above, point.fn / kept / line.base_rate if kept and line.base_rate else float("nan")
    return 1 - point.above, float(np.interp(1 - point.above, line.x, line.y))


def nearest_threshold(
    cache: Cache,
    kind: str,
    scores: Sequence[str],
    task: str,
    x: float,
    y: float,
    *,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    log_x: bool = False,
) -> tuple[str, float]:
    """Score and threshold of the point of all curves that is nearest to a tap.

    Parameters
    ----------
    kind : str
        In `KINDS`.
    x, y : float
        Of the tap, in the units of the axes.

    Raises
    ------
    GraduncError
        As `counts_at`.
    """
    lines = _lines(cache, kind, scores, task, frames, classes)
    left = _left(lines) if log_x else 0.0

    def across(values: Any) -> np.ndarray:
        return np.log(np.maximum(values, left)) / -np.log(left) if log_x else np.asarray(values, "f8")

    best = (np.inf, "", 0.0)
    for name, line in lines.items():
        usable = np.isfinite(line.threshold) & np.isfinite(line.y)
        if not usable.any():
            continue
        distance = (across(line.x[usable]) - across(x)) ** 2 + (line.y[usable] - y) ** 2
        at = int(distance.argmin())
        best = min(best, (float(distance[at]), name, float(line.threshold[usable][at])))
    if not best[1]:
        raise GraduncError("no curve has a point with a threshold")
    return best[1], best[2]
