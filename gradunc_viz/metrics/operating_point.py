"""What a threshold finds and what it flags by mistake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..counts.histogram import Histogram

__all__ = ["OperatingPoint", "ThresholdCounts", "groups", "reaches", "read_at", "threshold_counts"]


def reaches(values: np.ndarray, threshold: float) -> np.ndarray:
    """Whether oriented scores reach a threshold: ``values >= threshold``, in the precision of the scores.

    Scores are float32, or float64 where maps were imported that need it. A threshold that comes from a slider, a link
    or a table, and is one of them, finds it only if it is rounded as they are.

    Parameters
    ----------
    values : float32 or float64 array
    threshold : float

    Returns
    -------
    bool array
        False where a score is NaN.
    """
    return np.asarray(values >= values.dtype.type(threshold))


@dataclass(frozen=True)
class ThresholdCounts:
    """Evaluated pixels by truth and by whether their score reaches a threshold.

    Attributes
    ----------
    tp, fp, fn, tn : int
    """

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


@dataclass(frozen=True, kw_only=True)
class OperatingPoint(ThresholdCounts):
    """Counts at a threshold that is known.

    Attributes
    ----------
    score : str
    threshold : float
        In the units of the oriented score.
    """

    score: str
    threshold: float


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
    kind = "f8" if histogram.wide else "f4"
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(high > low, (high - threshold) / (high - low), 1.0)
        # the ends of a bin are scores: they are compared as the pixels are
        share = np.where(
            reaches(low.astype(kind), threshold), 1.0, np.where(reaches(high.astype(kind), threshold), share, 0.0)
        )
    share = np.nan_to_num(share)
    positive, negative = groups(histogram)
    tp, fp = (round(float((part * share).sum())) for part in (positive, negative))
    fn, tn = int(positive.sum()) - tp, int(negative.sum()) - fp
    return OperatingPoint(tp, fp, fn, tn, score=score, threshold=threshold)


def threshold_counts(values: np.ndarray, target: tuple[np.ndarray, np.ndarray], threshold: float) -> ThresholdCounts:
    """Count the pixels whose score reaches a threshold.

    Parameters
    ----------
    values : float32 or float64 array
        Oriented scores.
    target : pair of bool arrays
        Pixels to be found, and pixels that count, as `gradunc_viz.schema.tasks.Task.truth` tells them.
    threshold : float
    """
    positive, evaluated = target
    found = reaches(values, threshold) & evaluated
    positive = positive & evaluated
    tp = int(np.count_nonzero(found & positive))
    fp = int(np.count_nonzero(found)) - tp
    fn = int(np.count_nonzero(positive)) - tp
    return ThresholdCounts(tp, fp, fn, int(np.count_nonzero(evaluated)) - tp - fp - fn)
