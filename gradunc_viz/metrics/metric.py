"""The registry of metrics: title, direction and function of each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..counts.histogram import Histogram
from .arrays.thresholds import all_metrics, auroc, average_precision, best_f1, fpr_at_tpr

__all__ = ["METRICS"]


METRICS: Mapping[str, tuple[str, int]] = {
    "auroc": ("AuROC", +1),
    "auprc": ("AuPRC (average precision)", +1),
    "fpr95": ("false-positive rate at 95 % true positives", -1),
    "f1": ("best F1", +1),
}
"""Title of each pixel metric, and +1 where larger is better."""


_COLUMNS = (*METRICS, "threshold")


def _bin_metrics(histogram: Histogram, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """All pixel metrics of counts (..., positive or negative, bins), those of the histogram by default."""
    counts = histogram.weights["counts"] if counts is None else counts
    positive, negative, tied = counts[..., 0, :], counts[..., 1, :], histogram.tied
    f1, threshold = best_f1(positive, negative, histogram.low)
    return {
        "auroc": auroc(positive, negative),
        "auprc": average_precision(positive, negative, tied),
        "fpr95": fpr_at_tpr(positive, negative, tied),
        "f1": f1,
        "threshold": threshold,
    }


def _metrics(histogram: Histogram) -> dict[str, float]:
    """All pixel metrics of counts (positive or negative, bins)."""
    positive, negative = histogram.weights["counts"]
    found = all_metrics(positive, negative, histogram.tied)
    at = found.pop("bin")
    return found | {"threshold": np.nan if np.isnan(at) else float(histogram.low[int(at)])}


_SHORT = {
    "auroc": "AuROC",
    "auprc": "AuPRC",
    "fpr95": "FPR95",
    "f1": "F1",
    "component_siou": "sIoU",
    "component_ppv": "PPV",
    "component_f1": "mean F1",
}
