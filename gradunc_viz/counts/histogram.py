"""Adding up the cached counts of frames, exactly: the first step of every evaluation.

Frames keep their counts on windows of lattices that no frame chose (see `gradunc_viz.counts.frame`). Merging makes each
score's lattice as coarse as the coarsest frame needs, lays the windows over each other and adds. The result has the
same form as a frame's counts, so it merges again: order and grouping do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from ..schema.frame import MAX_BINS

__all__ = ["POOLED_BINS", "Histogram", "HistogramSum", "coarsen", "frame_histograms"]

POOLED_BINS = 4 * MAX_BINS
"""Inner bins that a sum of frames may occupy per score; frames that lie apart need more than each of them."""


@dataclass
class Histogram:
    """Counts of one score on a window of its lattice.

    Attributes
    ----------
    start : int
        Number of the first inner bin on the lattice of this level.
    level : int
        log2 of the step over the finest step.
    weights : dict of name -> array (..., bins)
        Counts or sums per bin. The first bin holds the lowest value a score can take and the last the highest; the
        bins between them are ``start, start + 1, ...`` of the lattice.
    low, high : array (bins,)
        Smallest and largest oriented score in each bin, NaN where it is empty.
    wide : bool
        Whether scores are float64 numbers, else float32.
    """

    start: int
    level: int
    weights: dict[str, np.ndarray]
    low: np.ndarray
    high: np.ndarray
    wide: bool = False

    @property
    def inner(self) -> int:
        """Number of bins between the two ends."""
        return len(self.low) - 2

    @property
    def tied(self) -> np.ndarray:
        """Whether a bin holds one single value, through which curves are exact."""
        return self.low == self.high


def coarsen(histogram: Histogram, level: int) -> Histogram:
    """The same counts on the lattice of a coarser level; exact, as coarse bins are unions of fine ones."""
    if level == histogram.level:
        return histogram
    if level < histogram.level:
        raise ValueError(f"level {level} is finer than the counts, which have level {histogram.level}")
    # numbers of bins fit 32 bits, so that beyond 62 levels every bin is 0 or -1 already
    shift = min(level - histogram.level, 62)
    start = histogram.start >> shift
    number = ((histogram.start + np.arange(histogram.inner)) >> shift) - start
    inner = int(number[-1]) + 1 if len(number) else 0
    index = np.concatenate([[0], number + 1, [inner + 1]])
    return _scatter(histogram, index, inner + 2, start, level)


def _scatter(histogram: Histogram, index: np.ndarray, width: int, start: int, level: int) -> Histogram:
    """Move each bin to `index` of a new window, adding up."""
    first = np.concatenate([[True], index[1:] != index[:-1]])
    starts = np.flatnonzero(first)
    target = index[starts]
    weights = {}
    for name, values in histogram.weights.items():
        moved = np.zeros((*values.shape[:-1], width), values.dtype)
        moved[..., target] = np.add.reduceat(values, starts, axis=-1)
        weights[name] = moved
    low, high = np.full(width, np.nan), np.full(width, np.nan)
    low[target] = np.fmin.reduceat(histogram.low, starts)
    high[target] = np.fmax.reduceat(histogram.high, starts)
    return Histogram(start, level, weights, low, high, histogram.wide)


class HistogramSum:
    """Running sum of the histograms of one score.

    Its window spans all that were added; where that takes more than `POOLED_BINS` the lattice is made coarser, so that
    memory does not depend on how many there are. The outcome does not depend on their order.
    """

    def __init__(self) -> None:
        self.total: Histogram | None = None

    def add(self, histogram: Histogram) -> None:
        """Add a histogram; its arrays are left as they are."""
        other = _trimmed(histogram)
        if self.total is None:
            self.total = _empty_like(other)
        level = _common_level(self.total, other)
        mine, other = coarsen(self.total, level), coarsen(other, level)
        spans = [h for h in (mine, other) if h.inner]
        start = min((h.start for h in spans), default=0)
        width = max((h.start + h.inner for h in spans), default=start) - start + 2
        if (mine.start, len(mine.low)) != (start, width):
            mine = _scatter(mine, _places(mine, start, width), width, start, level)
        inner = slice(other.start - start + 1, other.start - start + 1 + other.inner)
        for name, values in other.weights.items():
            # both ends and the inner run are contiguous: slices, where an index array would cost as much as a sum
            total = mine.weights[name]
            for place, part in ((0, values[..., 0]), (-1, values[..., -1]), (inner, values[..., 1:-1])):
                total[..., place] += part.astype(total.dtype, copy=False)
        places = _places(other, start, width)
        mine.low[places] = np.fmin(mine.low[places], other.low)
        mine.high[places] = np.fmax(mine.high[places], other.high)
        mine.wide |= other.wide
        self.total = mine


def _trimmed(histogram: Histogram) -> Histogram:
    """Without the empty bins on either side, which pad the windows of a frame to one length."""
    used = np.flatnonzero(~np.isnan(histogram.low[1:-1]))
    first, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    if stop - first == histogram.inner:
        return histogram
    keep = np.r_[0, first + 1 : stop + 1, len(histogram.low) - 1]
    weights = {name: values[..., keep] for name, values in histogram.weights.items()}
    low, high = histogram.low[keep], histogram.high[keep]
    return replace(histogram, start=histogram.start + first, weights=weights, low=low, high=high)


def _empty_like(histogram: Histogram) -> Histogram:
    """No counts on no window, in types that many frames can be added to."""
    weights = {
        name: np.zeros((*values.shape[:-1], 2), "i8" if values.dtype.kind in "ui" else "f8")
        for name, values in histogram.weights.items()
    }
    return Histogram(0, histogram.level, weights, np.full(2, np.nan), np.full(2, np.nan), histogram.wide)


def _common_level(*histograms: Histogram) -> int:
    """The finest level on which all histograms fit one window."""
    level = max(h.level for h in histograms)
    spans = [(h.start, h.start + h.inner - 1, h.level) for h in histograms if h.inner]
    while spans:
        first = min(start >> (level - own) for start, _, own in spans)
        last = max(stop >> (level - own) for _, stop, own in spans)
        if last - first < POOLED_BINS:
            break
        level += 1
    return level


def _places(histogram: Histogram, start: int, width: int) -> np.ndarray:
    inner = histogram.start - start + 1 + np.arange(histogram.inner)
    return np.concatenate([[0], inner, [width - 1]])


BIN_VARIABLES = ("score", "bin_start", "bin_level", "bin_min", "bin_max")
"""What `frame_histograms` reads of a frame, beside the variables it is asked for."""


def frame_histograms(dataset: xr.Dataset, scores: Sequence[str], names: Iterable[str]) -> dict[str, Histogram]:
    """Histograms of a cached frame.

    Parameters
    ----------
    dataset : xarray.Dataset
        A frame of a cache, or anything with its counting variables.
    scores : sequence of str
        Scores to read; each is stored in a chunk of its own.
    names : iterable of str
        Variables to take along: ``counts`` (outcome, class, bin), ``brier_sum`` (class, bin); absent ones are left out.

    Returns
    -------
    dict of score -> Histogram
    """
    cached = [str(name) for name in dataset["score"].values]
    start, level = dataset["bin_start"].values, dataset["bin_level"].values
    low, high = dataset["bin_min"].values, dataset["bin_max"].values
    histograms = {}
    for score in scores:
        index = cached.index(score)
        weights = {name: dataset[name].isel(score=index).values for name in names if name in dataset}
        place = int(start[index]), int(level[index])
        histograms[score] = Histogram(*place, weights, low[index], high[index], wide=low.dtype == np.float64)
    return histograms
