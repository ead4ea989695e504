"""Curves of several scores over a set of frames as HoloViews elements, and the way back from a tap to a threshold.

Charts that cannot be drawn (no labels, an empty choice, a damaged frame) are notes that say why; functions that return
numbers raise `GraduncError` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import numpy as np

from ...metrics import METRICS, calibration
from ...metrics.operating_point import OperatingPoint, read_at
from ...metrics.threshold_curves import Curve, curve, log_start, oracle_sparsification
from ...schema.errors import GraduncError
from ...schema.tasks import TASKS
from ...store.choice import Selection
from ...style.palette import RIGHT
from ...style.scores import score_look
from ..state.memo import remember
from ..state.shared_counts import on_wrong_side, set_histograms
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
        METRICS["auroc"].short,
    ),
    "pr": _Kind(
        "Precision and recall",
        hv.Dimension("recall", label="recall"),
        hv.Dimension("precision", label="precision"),
        METRICS["auprc"].short,
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
        METRICS["auroc"].short,
    ),
}
"""Kinds of curves by name."""


def _judged(selection: Selection, kind: str) -> Selection:
    """What a kind of curve is about: what is dropped is judged by the mistakes that remain, whatever the task."""
    return replace(selection, task=TASKS["error"]) if kind == "sparsification" else selection


def _lines(selection: Selection, kind: str) -> dict[str, Curve]:
    if not selection.scores:
        raise GraduncError("no score is chosen; choose at least one")
    selection = _judged(selection, kind)
    cache, task = selection.cache, selection.task
    found = set_histograms(selection)
    chosen = None if selection.classes is None else tuple(sorted(selection.classes))
    lines = {
        name: remember(cache, ("line", kind, task.name, name, selection.key, chosen), partial(curve, kind, histogram))
        for name, histogram in found.items()
    }
    rate = next(iter(lines.values())).base_rate
    if not rate > 0:
        raise GraduncError(f"{cache.name}: among the chosen pixels is no {task.pixel}; nothing to find")
    if rate == 1:
        raise GraduncError(f"{cache.name}: every chosen pixel is a {task.pixel}; nothing to tell apart")
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
    selection: Selection,
    kind: str,
    thresholds: Mapping[str, float] | None,
    base: hv.Curve | None,
    log_x: bool = False,
) -> hv.Overlay:
    which = KINDS[kind]
    lines = _lines(selection, kind)
    parts: list[Any] = [tap_base(kind) if base is None else base]
    left = _left(lines) if log_x else 0.0
    wrong = on_wrong_side(_judged(selection, kind))
    for name, line in lines.items():
        x, y = (np.maximum(line.x, left) if log_x else line.x), line.y
        keep = thin(np.log(x) / -np.log(left) if log_x else x, y)
        label = f"{name} †  {line.area:.3f}" if name in wrong else f"{name}  {line.area:.3f}"
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
        parts.append(marks(selection, kind, thresholds, log_x=log_x))
    limits = {"xlim": (left, 1.0)} if log_x else {"xlim": (0.0, 1.0)}
    top = 1.0 if kind != "reliability" else None
    return (
        hv.Overlay(parts)
        .opts(
            title=which.title,
            xlabel=which.x.label,
            ylabel=f"{selection.task.share} of 5 % of the pixels" if kind == "reliability" else which.y.label,
            logx=log_x,
            **limits,
            ylim=(0.0, None if top is None else 1.02),
            legend_position="right",
            legend_limit=len(parts),  # however many they are
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
    selection: Selection,
    *,
    thresholds: Mapping[str, float] | None = None,
    log_x: bool = False,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """ROC curves: true-positive rate over false-positive rate; AuROC in the legend.

    Parameters
    ----------
    selection : Selection
        One curve for each of its scores; where classes are chosen, of the pixels predicted as one of them.
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
    return _chart(selection, "roc", thresholds, base, log_x)


@noted
def pr(
    selection: Selection,
    *,
    thresholds: Mapping[str, float] | None = None,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """Precision over recall; AuPRC in the legend, the share of positives as a dotted line. Parameters as `roc`."""
    return _chart(selection, "pr", thresholds, base)


@noted
def sparsification(
    selection: Selection,
    *,
    thresholds: Mapping[str, float] | None = None,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """Error rate of the pixels that are kept, over that of all, as the most uncertain are dropped; AuSE in the legend.

    The dotted lines are an order by chance (1) and the oracle that drops every wrong pixel first. Parameters as `roc`;
    always about errors of the segmentation, whatever the task.
    """
    return _chart(selection, "sparsification", thresholds, base)


@noted
def reliability(
    selection: Selection,
    *,
    thresholds: Mapping[str, float] | None = None,
    base: hv.Curve | None = None,
) -> hv.Overlay:
    """Observed rate of errors (or unknown objects) among pixels of like rank, for each score.

    Pixels are cut into 20 equally large groups by their score, so that scores in different units compare. A good score
    stays at 0 and rises at the right end; the dotted line is the rate over all pixels. Parameters as `roc`.
    """
    return _chart(selection, "reliability", thresholds, base)


@noted
def confidence_diagram(selection: Selection, *, bins: int = 15) -> hv.Overlay:
    """Reliability diagram of the class probabilities: accuracy over confidence (maximum softmax), ECE in the title."""
    cache, chosen = selection.require_frames().cache, selection.key
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


def counts_at(selection: Selection, threshold: float) -> OperatingPoint:
    """TP, FP, FN, TN, precision, recall and false-positive rate over a set of frames, from cached counts.

    Parameters
    ----------
    selection : Selection
        Of one score.
    threshold : float

    Raises
    ------
    GraduncError
        Without labels of the task.
    """
    return read_at(selection.score, set_histograms(selection)[selection.score], threshold)


def marks(selection: Selection, kind: str, thresholds: Mapping[str, float], *, log_x: bool = False) -> hv.Points:
    """Where the thresholds of scores lie on their curves.

    Cheap once the curves were drawn, so that a `DynamicMap` of it can follow a slider.

    Parameters
    ----------
    selection : Selection
        That of the curves; only scores that have a threshold are marked.
    kind : str
        In `KINDS`.
    thresholds : mapping of score -> float

    Raises
    ------
    GraduncError
        As `counts_at`.
    """
    marked = _judged(replace(selection, scores=tuple(thresholds)), kind)
    lines = _lines(marked, kind)
    which = KINDS[kind]
    rows = []
    left = _left(lines) if log_x else 0.0
    found = set_histograms(marked)
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
    selection: Selection, kind: str, tap: tuple[float, float], *, log_x: bool = False
) -> tuple[str, float]:
    """Score and threshold of the point of all curves that is nearest to a tap.

    Parameters
    ----------
    selection : Selection
        That of the curves.
    kind : str
        In `KINDS`.
    tap : (x, y)
        In the units of the axes.

    Raises
    ------
    GraduncError
        As `counts_at`.
    """
    lines = _lines(selection, kind)
    left = _left(lines) if log_x else 0.0
    x, y = tap

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
