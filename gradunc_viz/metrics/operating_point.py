"""What a threshold finds and what it flags by mistake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..counts.histogram import Histogram

__all__ = ["OperatingPoint", "ThresholdCounts", "groups", "read_at", "threshold_counts"]


@dataclass(frozen=True)
class OperatingPoint:
    """Pixels by truth and by whether their score reaches a threshold.

    Attributes
    ----------
    score : str
    threshold : float
        In the units of the oriented score.
    tp, fp, fn, tn : int
    """

    score: str
    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float:
        """TP / (TP + FP); NaN if nothing reaches the threshold."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), the true-positive rate; NaN without a positive."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def fpr(self) -> float:
        """FP / (FP + TN), the false-positive rate; NaN without a negative."""
        return _share(self.fp, self.fp + self.tn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; NaN without a positive."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn) if self.tp + self.fn else float("nan")

    @property
    def above(self) -> float:
        """Share of all pixels at or above the threshold."""
        return _share(self.tp + self.fp, self.tp + self.fp + self.fn + self.tn)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def groups(histogram: Histogram) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives per bin, (..., bins) each."""
    counts = histogram.weights["counts"]
    return counts[0], counts[1]


def read_at(score: str, histogram: Histogram, threshold: float) -> OperatingPoint:
    """Count the pixels with ``score >= threshold``.

    Exact where the threshold is the smallest or largest score of a bin, as those are that `nearest_threshold` returns;
    inside a bin its pixels are taken to be spread evenly between the two.
    """
    low, high = histogram.low, histogram.high
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > low, (high - threshold) / (high - low), 1.0)
        # float32 rounds the threshold of a slider, so that a tied bin is compared as the panes compare pixels
        share = np.where(low >= np.float32(threshold), 1.0, np.where(high < np.float32(threshold), 0.0, share))
    share = np.nan_to_num(share)
    positive, negative = groups(histogram)
    tp, fp = (round(float((part * share).sum())) for part in (positive, negative))
    return OperatingPoint(score, threshold, tp, fp, int(positive.sum()) - tp, int(negative.sum()) - fp)


@dataclass(frozen=True)
class ThresholdCounts:
    """Evaluated pixels of one frame by truth and by whether their score reaches the threshold."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float:
        """Share of true ones among the pixels found; NaN if none is found."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")

    @property
    def recall(self) -> float:
        """Share of found ones among the true pixels; NaN if there is none."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else float("nan")

    @property
    def fpr(self) -> float:
        """Share of found ones among the pixels that should not be found; NaN if there is none."""
        return self.fp / (self.fp + self.tn) if self.fp + self.tn else float("nan")


def threshold_counts(values: np.ndarray, target: tuple[np.ndarray, np.ndarray], threshold: float) -> ThresholdCounts:
    """Count pixels with ``values >= threshold`` against `target`, see `FrameData.target`."""
    positive, evaluated = target
    # float32 as the values are: a threshold that is one of them finds it
    found = (values >= np.float32(threshold)) & evaluated
    positive = positive & evaluated
    tp = int(np.count_nonzero(found & positive))
    fp = int(np.count_nonzero(found)) - tp
    fn = int(np.count_nonzero(positive)) - tp
    return ThresholdCounts(tp, fp, fn, int(np.count_nonzero(evaluated)) - tp - fp - fn)
