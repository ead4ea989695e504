"""Threshold curves and their areas from counts per bin: numpy kernels.

Every function takes ``positive`` and ``negative``, the pixels per bin in the order of rising score, (..., bins), and
``tied``, whether a bin holds one value only, (bins,) or (..., bins). A pixel is called positive if its score is at
least the threshold. Through a tied bin curves are what scikit-learn draws; inside any other bin positives and negatives
are taken to be spread evenly, which leaves an error of second order in the width of a bin.

Error
-----
Wrong orders are only possible inside a bin that is not tied, so for any scores whatever

.. math:: |\\Delta \\mathrm{AuROC}| \\le \\tfrac12 \\sum_{b\\ \\text{not tied}} p_b n_b

with the share of positives p_b and of negatives n_b in bin b (`auroc_bound`). FPR95 is read off one bin and the best F1
is a maximum over ends of bins, so they can be off by that bin's share of the negatives, and of all called positive.

Over all classes a frame's pixels are counted in up to 65536 cells of float32 numbers: pooled over real frames every
metric is within 1e-4 of scikit-learn on the full-resolution pixels (``tests/test_evaluation.py``), and a frame of fewer
pixels than cells is hardly rounded at all. Counts by class lie in 512 to 4096 bins; pooled over real frames all four
were within 1e-4, but where a class has few pixels they may differ by some 1e-4 to 1e-3 (``tests/test_curves.py``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

__all__ = [
    "all_metrics",
    "auroc",
    "auroc_bound",
    "average_precision",
    "best_f1",
    "fpr_at_tpr",
    "pr_curve",
    "roc_curve",
]


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

    Through a bin with p positives and n negatives, entered with TP true and FP false positives, the precision of a
    single value is (TP + p) / (TP + FP + p + n); that of many values is its expectation over their orders.

    Returns
    -------
    array (...)
        NaN without a positive; 1 without a negative.
    """
    p, n = _descending(positive, negative)
    tied = np.broadcast_to(np.asarray(tied)[..., ::-1], p.shape)
    a, d = _before(p), p + n
    c = a + _before(n)
    with np.errstate(invalid="ignore", divide="ignore"):
        end = (a + p) / (c + d)
        precision = np.where(tied, end, _mean_precision(a, c, p, d))
        total = p.sum(-1)
        area = np.where(p > 0, p * precision, 0.0).sum(-1) / total
    return np.where(total > 0, area, np.nan)


def _mean_precision(above_p: np.ndarray, above: np.ndarray, p: np.ndarray, d: np.ndarray) -> np.ndarray:
    r"""Mean precision at the p positives of a bin of d pixels in any order, below `above` pixels, `above_p` positives.

    A positive at place j of the bin has (p - 1)(j - 1)/(d - 1) others before it on average, so that this is

    .. math:: \frac{1}{d} \sum_{j=1}^{d} \frac{TP + 1 + (p - 1)(j - 1)/(d - 1)}{TP + FP + j}
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.where(d > 1, (p - 1) / (d - 1), 0.0)
        return slope + (above_p + 1 - slope * (above + 1)) * _harmonic(above, d) / d


def _harmonic(c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """1/(c + 1) + ... + 1/(c + d), to 1e-9 of it."""
    first, last = c + 0.5, c + d + 0.5
    far = np.log(last / first) + (1 / last**2 - 1 / first**2) / 24
    near = c < 50
    if near.any():
        far[near] = digamma(last[near] + 0.5) - digamma(first[near] + 0.5)
    return far


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


def all_metrics(positive: np.ndarray, negative: np.ndarray, tied: np.ndarray, tpr: float = 0.95) -> dict[str, float]:
    """All four metrics of one histogram of many bins in one go, several times faster than one by one.

    Returns
    -------
    dict
        ``auroc``, ``auprc``, ``fpr95``, ``f1`` as the functions above give them, and ``bin``, the index of the bin from
        which on pixels are called positive for that F1; NaN where they are.
    """
    used = np.flatnonzero(positive + negative)[::-1]
    p, n, one = positive[used].astype("f8"), negative[used].astype("f8"), np.asarray(tied)[used]
    true, false = np.cumsum(p), np.cumsum(n)
    total_p, total_n = (float(c[-1]) if len(c) else 0.0 for c in (true, false))
    if total_p == 0:
        return dict.fromkeys(("auroc", "auprc", "fpr95", "f1", "bin"), np.nan)
    found = np.flatnonzero(p)  # precision counts where there are positives
    precision = true[found] / (true[found] + false[found])
    spread = found[~one[found]]
    a, d = true[spread] - p[spread], p[spread] + n[spread]
    c = a + false[spread] - n[spread]
    precision[~one[found]] = _mean_precision(a, c, p[spread], d)
    f1 = 2 * true / (true + false + total_p)
    best = int(f1.argmax())
    at = int(np.searchsorted(true, tpr * total_p * (1 - 1e-15)))
    share = 1.0 if one[at] else (tpr * total_p - true[at] + p[at]) / p[at]
    both = total_n > 0
    return {
        "auroc": float(n @ (true - p / 2)) / (total_p * total_n) if both else np.nan,
        "auprc": float(p[found] @ precision) / total_p,
        "fpr95": float(false[at] - (1 - share) * n[at]) / total_n if both else np.nan,
        "f1": float(f1[best]),
        "bin": float(used[best]),
    }


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
