"""How a score is distributed over right and wrong, or normal and unknown, pixels: all at once and per class."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import xarray as xr

from ..counts.histogram import Histogram
from ..counts.pool import pool
from ..schema.errors import GraduncError
from ..schema.tasks import TASKS
from ..store.cache import Cache
from ..store.choice import Selection, class_index, default_task, named_caches
from .operating_point import groups

__all__ = ["density", "quantile", "score_distributions", "score_limits", "spread"]

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_TAIL = 0.002
"""Share of all pixels that may lie outside of the edges, on either side."""


def score_distributions(
    cache: Cache | str | os.PathLike[str],
    task: str | None = None,
    *,
    scores: Sequence[str] | str | None = None,
    frames: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    bins: int = 80,
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
        Equal-width intervals between the edges.

    Returns
    -------
    xarray.Dataset
        ``share`` (score, class, outcome, bin): share of the group's pixels in each interval (what lies outside of the
        edges is in none); ``edges`` (score, edge), oriented; ``quantiles`` (score, class, outcome, quantile);
        ``pixels`` (class, outcome). The first class is ``"all"``: all the chosen classes together.

    Raises
    ------
    GraduncError
        For an unknown score, frame or class, or a cache without labels of the task.
    """
    opened = next(iter(named_caches(cache).values()))
    task = task or default_task({"": opened})
    pooled = pool(Selection.of(opened, task, scores=scores, frames=frames), by="class")
    if not pooled.frames:
        what = "class labels" if task == "error" else "anomaly labels"
        raise GraduncError(f"{opened.path}: no frame has {what}, which {task!r} needs")
    index = list(range(len(opened.classes))) if classes is None else class_index(opened, classes)
    names = list(pooled.histograms)
    shape = (len(names), len(index) + 1, 2)
    share, quantiles = np.zeros((*shape, bins)), np.full((*shape, len(_QUANTILES)), np.nan)
    edges, pixels = np.zeros((len(names), bins + 1)), np.zeros(shape[1:], "i8")
    for s, name in enumerate(names):
        histogram = pooled.histograms[name]
        counts = np.moveaxis(histogram.weights["counts"][:, index], 0, 1).astype("f8")
        counts = np.concatenate([counts.sum(0, keepdims=True), counts])
        edges[s] = _edges(histogram, counts[0].sum(0), bins)
        pixels = counts.sum(-1).astype("i8")
        for c in range(shape[1]):
            for o in range(2):
                cumulative = _Cumulative(histogram, counts[c, o])
                share[s, c, o] = np.diff(cumulative.at(edges[s]))
                quantiles[s, c, o] = cumulative.quantile(_QUANTILES)
    return xr.Dataset(
        {
            "share": (("score", "class", "outcome", "bin"), share),
            "quantiles": (("score", "class", "outcome", "quantile"), quantiles),
            "edges": (("score", "edge"), edges),
            "pixels": (("class", "outcome"), pixels),
        },
        coords={
            "score": np.array(names, dtype=object),
            "class": np.array(["all", *(opened.classes[i] for i in index)], dtype=object),
            "outcome": list(TASKS[task].outcomes),
            "quantile": list(_QUANTILES),
        },
        attrs={"task": task, "n_frames": len(pooled.frames)},
    )


class _Cumulative:
    """Cumulative distribution of counts per bin, linear inside a bin and a step where a bin holds one value."""

    def __init__(self, histogram: Histogram, counts: np.ndarray) -> None:
        used = counts > 0
        self.total = counts.sum()
        self.low, self.high = histogram.low[used].astype("f8"), histogram.high[used].astype("f8")
        self.after = np.cumsum(counts[used]) / max(self.total, 1)
        self.before = np.r_[0.0, self.after[:-1]]

    def at(self, values: np.ndarray) -> np.ndarray:
        """Share of pixels up to each value."""
        if not self.total:
            return np.zeros(len(values))
        place = np.searchsorted(self.low, values, side="right") - 1
        inside = place.clip(0)
        width = self.high[inside] - self.low[inside]
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(width > 0, (values - self.low[inside]) / width, 1.0).clip(0, 1)
        found = self.before[inside] + part * (self.after - self.before)[inside]
        return np.where(place < 0, 0.0, found)

    def quantile(self, shares: Sequence[float]) -> np.ndarray:
        """Values below which a share of the pixels lies."""
        if not self.total:
            return np.full(len(shares), np.nan)
        place = np.searchsorted(self.after, np.asarray(shares) - 1e-12).clip(0, len(self.after) - 1)
        mass = self.after[place] - self.before[place]
        part = (np.asarray(shares) - self.before[place]) / mass
        return self.low[place] + part * (self.high[place] - self.low[place])


def _edges(histogram: Histogram, counts: np.ndarray, bins: int) -> np.ndarray:
    low, high = _Cumulative(histogram, counts).quantile((_TAIL, 1 - _TAIL))
    span = (high - low) or 1.0
    # a closed end: the smallest value of a score with many ties belongs to the first interval
    return np.linspace(low - 1e-9 * span, high + (0.0 if high > low else 1.0), bins + 1)


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


def spread(histogram: Histogram, counts: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Pixels per interval of `edges`; what lies outside is in the first or last one.

    Parameters
    ----------
    counts : array (..., bins)
        Bins of `histogram`; each counts where its middle lies.
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


def score_limits(histogram: Histogram) -> tuple[float, float]:
    """Range of a score that holds all but 0.1 % of either group on each side; never empty."""
    sums = [group.reshape(-1, group.shape[-1]).sum(0) for group in groups(histogram)]
    ends = np.array([quantile(histogram, group, (0.001, 0.999)) for group in sums if group.any()])
    if not len(ends):
        return 0.0, 1.0
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
