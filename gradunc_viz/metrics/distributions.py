"""How a score is distributed over right and wrong, or normal and unknown, pixels: all at once and per class.

From cached counts alone. The explorer's charts and the figures draw what is computed here, so that they show the same
numbers: a cached bin counts in the interval its middle lies in, and what lies outside of all intervals in the first or
last one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram, frame_histograms
from ..counts.pool import pool
from ..store.cache import Cache
from ..store.choice import Selection
from .operating_point import groups

__all__ = [
    "INTERVALS",
    "density",
    "distribution",
    "quantile",
    "score_distributions",
    "score_limits",
    "spread",
]

INTERVALS = 80
"""Equal-width intervals of a distribution."""

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def score_distributions(
    cache: Cache | str | os.PathLike[str],
    task: str | None = None,
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    bins: int = INTERVALS,
) -> xr.Dataset:
    """Distributions of scores over the two groups of a task, from the cached counts.

    Parameters
    ----------
    cache : Cache or path
    task : "error" or "anomaly"
        By default ``anomaly`` where there are anomaly labels.
    scores, frames, classes : optional
        Subsets; classes are those of the prediction.
    bins : int
        Equal-width intervals between the edges, which are `score_limits` of all the chosen classes together.

    Returns
    -------
    xarray.Dataset
        ``share`` (score, class, outcome, bin): share of the group's pixels in each interval, what lies outside of the
        edges in the first or last one; ``edges`` (score, edge), oriented; ``quantiles`` (score, class, outcome,
        quantile); ``pixels`` (class, outcome). The first class is ``"all"``: all the chosen classes together.

    Raises
    ------
    GraduncError
        For an unknown task, score, frame or class, or a cache without labels of the task.
    """
    selection = Selection.of(cache, task, scores=scores, frames=frames, classes=classes)
    which, every = selection.task, replace(selection, classes=None)
    by_class = pool(every, by="class")
    if not by_class.frames:
        raise selection.without_labels(repr(which.name))
    index = range(len(every.class_names)) if selection.classes is None else selection.classes
    names = list(by_class.histograms)
    if selection.classes is None:  # counted in finer bins, as the charts of whole sets are
        whole = pool(every).histograms
    else:
        whole = {name: _of_classes(histogram, index) for name, histogram in by_class.histograms.items()}
    shape = (len(names), len(index) + 1, 2)
    share, quantiles = np.zeros((*shape, bins)), np.full((*shape, len(_QUANTILES)), np.nan)
    edges, pixels = np.zeros((len(names), bins + 1)), np.zeros(shape[1:], "i8")
    for s, name in enumerate(names):
        edges[s] = np.linspace(*score_limits(whole[name]), bins + 1)
        rows = [whole[name], *(_of_classes(by_class.histograms[name], [i]) for i in index)]
        for c, row in enumerate(rows):
            for o, group in enumerate(groups(row)):
                pixels[c, o] = group.sum()
                share[s, c, o] = spread(row, group, edges[s]) / max(pixels[c, o], 1)
                quantiles[s, c, o] = quantile(row, group, _QUANTILES)
    return xr.Dataset(
        {
            "share": (("score", "class", "outcome", "bin"), share),
            "quantiles": (("score", "class", "outcome", "quantile"), quantiles),
            "edges": (("score", "edge"), edges),
            "pixels": (("class", "outcome"), pixels),
        },
        coords={
            "score": np.array(names, dtype=object),
            "class": np.array(["all", *selection.class_names], dtype=object),
            "outcome": list(which.outcomes),
            "quantile": list(_QUANTILES),
        },
        attrs={"task": which.name, "n_frames": len(by_class.frames)},
    )


def _of_classes(histogram: Histogram, index: Sequence[int]) -> Histogram:
    """Counts of some predicted classes together, of a histogram that keeps them apart."""
    return replace(histogram, weights={"counts": histogram.weights["counts"][:, list(index)].sum(1)})


def distribution(histogram: Histogram, bins: int = INTERVALS) -> tuple[np.ndarray, np.ndarray]:
    """Edges of equal-width intervals over `score_limits`, (bins + 1,), and positives and negatives in each, (2, bins).

    Parameters
    ----------
    histogram : Histogram
        Its counts have the axes (positive or negative, bins).
    """
    edges = np.linspace(*score_limits(histogram), bins + 1)
    return edges, spread(histogram, histogram.weights["counts"], edges)


def density(dataset: xr.Dataset, name: str, outcome: str, edges: np.ndarray) -> np.ndarray:
    """Share of the pixels of an outcome in one frame per interval of `edges`, as `spread` counts them.

    Raises
    ------
    ValueError
        If the frame was not counted for `outcome`.
    """
    row = [str(found) for found in dataset["outcome"].values].index(outcome)
    histogram = frame_histograms(dataset, [name], ("counts",))[name]
    found = spread(histogram, histogram.weights["counts"][row].sum(0, dtype="i8"), edges)
    return np.asarray(found / max(found.sum(), 1))


def spread(histogram: Histogram, counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Pixels per interval of `edges`; what lies outside is in the first or last one.

    Parameters
    ----------
    counts : array (..., bins)
        Bins of `histogram`; each counts where its middle lies: its width is far below that of an interval of a chart.
    edges : array (k + 1,)

    Returns
    -------
    array (..., k)
    """
    middle = (histogram.low + histogram.high) / 2
    used = np.flatnonzero(np.isfinite(middle))
    place = np.clip(np.searchsorted(edges, middle[used], side="right") - 1, 0, len(edges) - 2)
    result = np.zeros((*counts.shape[:-1], len(edges) - 1), "i8")
    for row in np.ndindex(*counts.shape[:-1]):
        result[row] = np.bincount(place, counts[row][used], len(edges) - 1)
    return result


def score_limits(histogram: Histogram, tail: float = 0.001, least: int = 1) -> tuple[float, float]:
    """Range of a score that holds all but a `tail` of any group on each side; never empty.

    Parameters
    ----------
    histogram : Histogram
        Each row of its counts, (..., bins), is a group: positives and negatives, or these of each class.
    tail : float
    least : int
        Groups of fewer pixels do not matter, unless there is no other.
    """
    counts = histogram.weights["counts"]
    rows = counts.reshape(-1, counts.shape[-1])
    sizes = rows.sum(-1)
    shown = rows[sizes >= least] if (sizes >= least).any() else rows[sizes > 0]
    if not len(shown):
        return 0.0, 1.0
    ends = np.array([quantile(histogram, row, (tail, 1 - tail)) for row in shown])
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def quantile(histogram: Histogram, counts: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles of the pixels counted in `counts` (bins,), interpolated inside bins; NaN without a pixel."""
    used = np.flatnonzero(counts)
    if not len(used):
        return np.full(len(shares), np.nan)
    number = np.cumsum(counts[used], dtype="f8")
    rank = np.asarray(shares, "f8") * number[-1]
    at = np.searchsorted(number, rank).clip(0, len(used) - 1)
    inside = 1 - (number[at] - rank) / counts[used][at]
    low, high = histogram.low[used][at], histogram.high[used][at]
    return np.asarray(low + (high - low) * inside.clip(0, 1), "f8")
