"""Curves over all thresholds: ROC, precision-recall, sparsification."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import Pooled, pool
from ..schema.errors import GraduncError
from ..store.cache import Cache
from ..store.choice import Caches, Choice, Selection
from .arrays.risk import aurc, ause, oracle_aurc, risk_coverage, sparsification_curve
from .arrays.thresholds import auroc, average_precision, pr_curve, roc_curve
from .evaluation import named_coords, set_sizes, side_by_side
from .operating_point import groups

__all__ = ["CURVES", "Curve", "curve", "log_start", "oracle_sparsification", "sparsification", "threshold_curves"]


def threshold_curves(
    cache: Cache | str | os.PathLike[str],
    task: str | None = None,
    kind: str = "roc",
    **choice: Unpack[Choice],
) -> xr.Dataset:
    """ROC or precision-recall curves with every threshold, pooled over pixels.

    Parameters
    ----------
    cache : Cache or path
    task : "error" or "anomaly"
        By default ``anomaly`` where there are anomaly labels.
    kind : "roc" or "pr"
    scores, frames, classes : optional
        As for `gradunc_viz.evaluate`.

    Returns
    -------
    xarray.Dataset (score, point)
        ``fpr`` and ``tpr``, or ``recall`` and ``precision``, and ``threshold`` on the oriented score; from the
        strictest threshold on, shorter curves padded with NaN.

    Raises
    ------
    GraduncError
        For an unknown task, kind, score, frame or class.
    """
    if kind not in ("roc", "pr"):
        raise GraduncError(f"kind is {kind!r}; expected 'roc' or 'pr'")
    selection = Selection.of(cache, task, **choice)
    pooled = pool(selection)
    draw: Callable[..., tuple[np.ndarray, ...]] = roc_curve if kind == "roc" else pr_curve
    curves = {name: draw(*h.weights["counts"], h.low) for name, h in pooled.histograms.items()}
    names = ("fpr", "tpr", "threshold") if kind == "roc" else ("recall", "precision", "threshold")
    longest = max((len(curve[0]) for curve in curves.values()), default=0)
    arrays = {name: np.full((len(curves), longest), np.nan) for name in names}
    for s, curve in enumerate(curves.values()):
        for name, values in zip(names, curve, strict=True):
            arrays[name][s, : len(values)] = values
    return xr.Dataset(
        {name: (("score", "point"), array) for name, array in arrays.items()},
        coords=named_coords(score=tuple(curves)),
        attrs={"task": selection.task.name, "kind": kind, **set_sizes(pooled)},
    )


def sparsification(
    caches: Caches,
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    by: str | None = None,
    points: int = 100,
) -> xr.Dataset:
    """Sparsification curves, AuSE and AURC of every score, for the error rate and the Brier score.

    Parameters
    ----------
    caches : Cache, path, a sequence of these, or a mapping from names to these
    scores, frames : optional
        As for `gradunc_viz.evaluate`.
    by : None, "class"
        Whether classes of the prediction are kept apart.
    points : int
        Points of the curves: shares 0, 1/points, ... of pixels dropped.

    Returns
    -------
    xarray.Dataset
        ``ause`` and ``aurc`` (cache, error, score[, class]), smaller is better; ``curve`` (..., dropped), the error of
        the pixels kept over that at 0 %, and ``oracle`` (cache, error[, class], dropped).

    Raises
    ------
    GraduncError
        For an unknown score, frame or `by`, or a cache without class labels or class probabilities.
    """
    if by not in (None, "class"):
        raise GraduncError(f"by is {by!r}; expected None or 'class'")
    dropped = np.arange(points) / points
    selections = Selection.of_each(caches, "error", scores=scores, frames=frames)
    tables = []
    for selection in selections.values():
        pooled = pool(selection, by=by, also=("brier", "tables"))
        pooled.need(selection, "brier_count", "sparsification")
        tables.append(_sparsified(selection, pooled, by, dropped))
    return side_by_side(tables, selections)


def _sparsified(selection: Selection, pooled: Pooled, by: str | None, dropped: np.ndarray) -> xr.Dataset:
    names, classes = selection.scores, selection.cache.classes
    rows = list(range(len(classes))) if by else [None]
    shape = (2, len(names), len(rows))
    area, gain = np.full(shape, np.nan), np.full(shape, np.nan)
    curve, best = np.full((*shape, len(dropped)), np.nan), np.full((2, len(rows), len(dropped)), np.nan)
    for r, row in enumerate(rows):
        own = pooled.tables["brier_count"], pooled.tables["brier_bin_sum"]
        count, total = (t[row] if row is not None else t.sum(0) for t in own)
        for s, name in enumerate(names):
            weights = pooled.histograms[name].weights
            counts, brier = weights["counts"], weights["brier_sum"]
            wrong, right = (counts[0, row], counts[1, row]) if row is not None else (counts[0], counts[1])
            pixels = wrong + right
            if pixels.sum() == 0:
                continue
            rate = float(wrong.sum() / pixels.sum())
            errors = (wrong, brier[row] if row is not None else brier)
            oracles = (oracle_aurc(rate), aurc(total, count))
            for e in range(2):
                area[e, s, r] = aurc(errors[e], pixels)
                gain[e, s, r] = ause(errors[e], pixels, oracles[e])
                curve[e, s, r] = sparsification_curve(errors[e], pixels, dropped)
            best[0, r] = oracle_sparsification(rate, dropped)
            best[1, r] = sparsification_curve(total, count, dropped)
    dims: tuple[str, ...] = ("error", "score", "class")
    coords: dict[str, Any] = named_coords(error=("error_rate", "brier"), score=names)
    coords["dropped"] = dropped
    if by:
        coords["class"] = np.array(classes, dtype=object)
    data = {
        "aurc": (dims, area, {"long_name": "area under the risk-coverage curve", "orientation": "smaller is better"}),
        "ause": (dims, gain, {"long_name": "area under the sparsification error", "orientation": "smaller is better"}),
        "curve": ((*dims, "dropped"), curve, {"long_name": "error of the pixels kept / error of all"}),
        "oracle": (("error", "class", "dropped"), best),
    }
    table = xr.Dataset(data, coords=coords)
    return table if by else table.isel({"class": 0})


# --------------------------------------------------------------------------------------------------------------------
# one curve of one histogram, as it is drawn


CURVES = ("roc", "pr", "sparsification", "reliability")
"""Kinds of curves over thresholds."""

_RANKS = 20
_RISEN = 0.01
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Curve:
    """All points of one curve, from the strictest threshold on.

    Attributes
    ----------
    x, y, threshold : array (point,)
    area : float
        AuROC, AuPRC, AuSE, or for the reliability AuROC.
    base_rate : float
        Share of positives; NaN without a pixel.
    """

    x: np.ndarray
    y: np.ndarray
    threshold: np.ndarray
    area: float
    base_rate: float


def curve(kind: str, histogram: Histogram) -> Curve:
    """Curve of a pooled histogram, whose counts have the axes (positive or negative, bins).

    Parameters
    ----------
    kind : str
        ``"roc"``, true- over false-positive rate. ``"pr"``, precision over recall. ``"sparsification"``, error rate of
        the pixels kept over that of all, over the share of the most uncertain that is dropped.
        ``"reliability"``, rate of positives among pixels of like rank, in 20 groups of equal size.

    Raises
    ------
    GraduncError
        For another kind.
    """
    if kind not in CURVES:
        raise GraduncError(f"unknown curve {kind!r}; expected one of {', '.join(CURVES)}")
    positive, negative = groups(histogram)
    pixels = positive + negative
    total = pixels.sum()
    rate = float(positive.sum() / total) if total else float("nan")
    if kind == "roc":
        x, y, threshold = roc_curve(positive, negative, histogram.low)
        area = auroc(positive, negative)
    elif kind == "pr":
        x, y, threshold = pr_curve(positive, negative, histogram.low)
        area = average_precision(positive, negative, histogram.tied)
    elif kind == "sparsification":
        kept, risk = risk_coverage(positive, pixels)
        # at the threshold of a bin all from that bin on are dropped: what is kept ends one bin earlier
        threshold = np.r_[histogram.low[pixels > 0], np.inf][1:][::-1]
        x, y = 1 - kept[::-1], risk[::-1] / rate if rate else np.full(len(risk), np.nan)
        area = ause(positive, pixels, oracle_aurc(rate))
    else:
        x, y, threshold = _rates(positive, pixels, histogram.low)
        area = auroc(positive, negative)
    return Curve(x, y, threshold, float(area), rate)


def _rates(positive: np.ndarray, pixels: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rate of positives among pixels of like rank; a bin that straddles a border is shared between both sides."""
    used = pixels > 0
    number, found = np.r_[0.0, np.cumsum(pixels[used])], np.r_[0.0, np.cumsum(positive[used])]
    if number[-1] == 0:
        return np.empty(0), np.empty(0), np.empty(0)
    edges = np.linspace(0, 1, _RANKS + 1)
    at = np.interp(edges * number[-1], number, found)
    bottoms = low[used]
    middle = (edges[1:] + edges[:-1]) / 2
    place = np.searchsorted(number[1:], middle * number[-1]).clip(0, len(bottoms) - 1)
    return middle, np.diff(at) / (number[-1] / _RANKS), bottoms[place]


def oracle_sparsification(error_rate: float, dropped: np.ndarray) -> np.ndarray:
    """Relative error rate of what is kept if wrong pixels are dropped first: max(0, (r - d) / (1 - d)) / r."""
    if not error_rate > 0:
        return np.full(len(dropped), np.nan)
    return np.asarray(np.maximum(0, (error_rate - dropped) / (1 - dropped)) / error_rate)


def log_start(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Left end of a logarithmic axis of the false-positive rate.

    The power of ten below the first positive rate at which 1 % of the positives are found; at least a decade is shown.

    Parameters
    ----------
    fpr, tpr : array
        Points of all the curves that are drawn, in any order; NaN is passed over.
    """
    visible = fpr[(tpr >= _RISEN) & (fpr > 0)]
    first = float(visible.min()) if visible.size else 1e-4
    return float(10.0 ** np.floor(np.log10(np.clip(first, _SMALLEST, 0.0999))))
