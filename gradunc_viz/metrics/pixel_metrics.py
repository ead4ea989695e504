"""The built-in metrics of pixels, and all registered ones of a histogram at once."""

from __future__ import annotations

import numpy as np

from ..counts.histogram import Histogram
from .arrays.thresholds import all_metrics, average_precision, best_f1, fpr_at_tpr
from .arrays.thresholds import auroc as area_under_roc
from .metric import BinCounts, pixel_metrics

__all__ = ["auprc", "auroc", "bin_metrics", "evaluated_columns", "f1", "fpr95", "set_metrics"]


def auroc(counts: BinCounts) -> np.ndarray:
    """Area under the ROC curve, see `gradunc_viz.metrics.arrays.thresholds.auroc`."""
    return area_under_roc(counts.positive, counts.negative)


def auprc(counts: BinCounts) -> np.ndarray:
    """Average precision, see `gradunc_viz.metrics.arrays.thresholds.average_precision`."""
    return average_precision(counts.positive, counts.negative, counts.tied)


def fpr95(counts: BinCounts) -> np.ndarray:
    """False-positive rate at 95 % true positives, see `gradunc_viz.metrics.arrays.thresholds.fpr_at_tpr`."""
    return fpr_at_tpr(counts.positive, counts.negative, counts.tied)


def f1(counts: BinCounts) -> np.ndarray:
    """Highest F1 over all thresholds, see `gradunc_viz.metrics.arrays.thresholds.best_f1`."""
    return best_f1(counts.positive, counts.negative, counts.low)[0]


def evaluated_columns() -> tuple[str, ...]:
    """Variables that an evaluation has for every score: the metrics of pixels, and the threshold of the best F1."""
    return (*pixel_metrics(), "threshold")


def _bins(histogram: Histogram, counts: np.ndarray | None = None) -> BinCounts:
    counts = histogram.weights["counts"] if counts is None else counts
    return BinCounts(counts[..., 0, :], counts[..., 1, :], histogram.tied, histogram.low)


def bin_metrics(histogram: Histogram, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """All `evaluated_columns` of counts (..., positive or negative, bins), those of the histogram by default."""
    bins = _bins(histogram, counts)
    best, threshold = best_f1(bins.positive, bins.negative, bins.low)
    known = {"f1": best}  # comes with its threshold
    found = {name: known[name] if name in known else m(bins) for name, m in pixel_metrics().items()}
    return found | {"threshold": threshold}


def set_metrics(histogram: Histogram) -> dict[str, float]:
    """All `evaluated_columns` of counts (positive or negative, bins)."""
    bins = _bins(histogram)
    known = all_metrics(bins.positive, bins.negative, bins.tied)  # the built-in ones in one go
    at = known.pop("bin")
    found = {name: known[name] if name in known else float(m(bins)) for name, m in pixel_metrics().items()}
    return found | {"threshold": np.nan if np.isnan(at) else float(histogram.low[int(at)])}
