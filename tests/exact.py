"""Metrics of a binary decision at every threshold there is, in seconds for ten million pixels."""

from __future__ import annotations

import numpy as np


def exact_metrics(scores: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """AuROC, average precision, FPR at 95 % TPR and best F1, as scikit-learn defines them.

    Positives and negatives are sorted apart. Recall changes at the scores of positives only, so these are the
    thresholds that count: what lies at and above one is counted in both lists.
    """
    found, wrong = np.sort(scores[positive]), np.sort(scores[~positive])
    thresholds = np.unique(found)[::-1]
    tp = len(found) - np.searchsorted(found, thresholds, "left")
    fp = len(wrong) - np.searchsorted(wrong, thresholds, "left")
    gained = np.diff(tp, prepend=0)
    below = np.searchsorted(wrong, thresholds, "left") + np.searchsorted(wrong, thresholds, "right")
    return {
        "auroc": float((gained * below).sum() / (2 * len(found) * len(wrong))),
        "auprc": float((gained * (tp / (tp + fp))).sum() / len(found)),
        "fpr95": float(fp[(tp >= 0.95 * len(found)).argmax()] / len(wrong)),
        "f1": float((2 * tp / (tp + fp + len(found))).max()),
    }
