"""Threshold curves and their areas from counts per bin: numpy kernels.

Every function takes ``positive`` and ``negative``, the pixels per bin in the order of rising score, (..., bins), and
``tied``, whether a bin holds one value only, (bins,) or (..., bins). A pixel is called positive if its score is at
least the threshold. Through a tied bin curves are what scikit-learn draws; inside any other bin positives and negatives
are taken to be spread evenly, which leaves an error of second order in the width of a bin.

Error
-----
Wrong orders are only possible inside a bin that is not tied, so for any scores whatever

.. math:: |\\Delta \\mathrm{AuROC}| \\le \\tfrac12 \\sum_{b\\ \\text{not tied}} p_b n_b

with the share of positives p_b and of negatives n_b in bin b (`auroc_bound`). The areas average the order inside bins
out; FPR95 is read off one bin and the best F1 is a maximum over ends of bins, so they can be off by that bin's share of
the pixels. Pooled over real frames all four were within 1e-4 of scikit-learn on full-resolution pixels; for one frame,
small images or few positives FPR95 and F1 may differ by some 1e-4 to 1e-3 (see ``tests/test_curves.py``).
"""

from __future__ import annotations

import numpy as np

__all__ = ["auroc", "auroc_bound", "average_precision", "best_f1", "fpr_at_tpr", "pr_curve", "roc_curve"]


def _descending(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts as float, from the highest bin to the lowest."""
    return np.asarray(positive, "f8")[..., ::-1], np.asarray(negative, "f8")[..., ::-1]


def _before(counts: np.ndarray) -> np.ndarray:
    """Sum of all bins before each."""
    return np.cumsum(counts, -1) - counts


def auroc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counting half.

    Returns
    -------
    array (...)
        NaN without a positive or without a negative.
    """
    p, n = _descending(positive, negative)
    total_p, total_n = p.sum(-1), n.sum(-1)
    won = (p * (total_n[..., None] - np.cumsum(n, -1) + n / 2)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where((total_p > 0) & (total_n > 0), won / (total_p * total_n), np.nan)


def auroc_bound(positive: np.ndarray, negative: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """Largest possible error of `auroc`, whatever the order inside bins: half the pairs that share an untied bin."""
    p, n = np.asarray(positive, "f8"), np.asarray(negative, "f8")
    shared = np.where(tied, 0.0, p * n).sum(-1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / (p.sum(-1) * n.sum(-1))


def average_precision(positive: np.ndarray, negative: np.ndarray, tied: np.ndarray) -> np.ndarray:
    r"""Area under the precision-recall curve (AuPRC): the mean over positives of the precision at their score.

    Through a bin with p positives and n negatives, entered with TP true and FP false positives, the mean precision of
    an even mixture is

    .. math:: \int_0^1 \frac{TP + p s}{TP + FP + (p + n) s}\,ds

    and that of a single value is the integrand at s = 1.

    Returns
    -------
    array (...)
        NaN without a positive; 1 without a negative.
    """
    p, n = _descending(positive, negative)
    tied = np.broadcast_to(np.asarray(tied)[..., ::-1], p.shape)
    before_p, before_n = _before(p), _before(n)
    a, c, d = before_p, before_p + before_n, p + n
    with np.errstate(invalid="ignore", divide="ignore"):
        end = (a + p) / (c + d)
        # int (a + p s) / (c + d s) ds = p/d + (a - c p/d) / d ln(1 + d/c); the logarithm's term is 0 where a = c = 0
        share = p / d
        mixed = share + np.where(c > 0, (a - c * share) / d * np.log1p(d / c), 0.0)
        precision = np.where(tied, end, mixed)
        total = p.sum(-1)
        area = np.where(p > 0, p * precision, 0.0).sum(-1) / total
    return np.where(total > 0, area, np.nan)


def fpr_at_tpr(positive: np.ndarray, negative: np.ndarray, tied: np.ndarray, tpr: float = 0.95) -> np.ndarray:
    """False-positive rate at the highest threshold that finds at least `tpr` of the positives (FPR95).

    Returns
    -------
    array (...)
        NaN without a positive or without a negative.
    """
    p, n = _descending(positive, negative)
    tied = np.broadcast_to(np.asarray(tied)[..., ::-1], p.shape)
    total_p, total_n = p.sum(-1), n.sum(-1)
    wanted = (tpr * total_p)[..., None]
    reached = np.cumsum(p, -1) >= wanted * (1 - 1e-15)
    at = reached.argmax(-1)[..., None]
    before_p, before_n = _before(p), _before(n)

    def take(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, at, -1)[..., 0]

    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(take(tied), 1.0, (wanted[..., 0] - take(before_p)) / take(p))
        rate = (take(before_n) + share * take(n)) / total_n
    return np.where((total_p > 0) & (total_n > 0), rate, np.nan)


def best_f1(positive: np.ndarray, negative: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Highest F1 score over all thresholds at bins' lower ends, and its threshold.

    Inside a bin of an even mixture F1 is monotone, so the ends suffice.

    Parameters
    ----------
    low : array (bins,) or (..., bins)
        Smallest score in each bin.

    Returns
    -------
    (array (...), array (...))
        F1 and the oriented score from which on pixels are called positive; NaN without a positive.
    """
    p, n = _descending(positive, negative)
    true, false = np.cumsum(p, -1), np.cumsum(n, -1)
    total = p.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(p + n > 0, 2 * true / (true + false + total), -1.0)
    at = f1.argmax(-1)[..., None]
    threshold = np.take_along_axis(np.broadcast_to(np.asarray(low, "f8")[..., ::-1], p.shape), at, -1)[..., 0]
    best = np.take_along_axis(f1, at, -1)[..., 0]
    some = total[..., 0] > 0
    return np.where(some, best, np.nan), np.where(some, threshold, np.nan)


def roc_curve(positive: np.ndarray, negative: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ROC curve of one histogram: (fpr, tpr, threshold), from the strictest threshold on; empty bins are left out.

    The first point is (0, 0) at threshold +inf.
    """
    p, n = _descending(positive, negative)
    used = (p + n) > 0
    tpr, fpr = np.cumsum(p[used]), np.cumsum(n[used])
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = tpr / p.sum(), fpr / n.sum()
    thresholds = np.asarray(low, "f8")[::-1][used]
    return np.r_[0.0, fpr], np.r_[0.0, tpr], np.r_[np.inf, thresholds]


def pr_curve(positive: np.ndarray, negative: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision-recall curve of one histogram: (recall, precision, threshold), from the strictest threshold on."""
    p, n = _descending(positive, negative)
    used = (p + n) > 0
    true, false = np.cumsum(p[used]), np.cumsum(n[used])
    with np.errstate(invalid="ignore", divide="ignore"):
        return true / p.sum(), true / (true + false), np.asarray(low, "f8")[::-1][used]
