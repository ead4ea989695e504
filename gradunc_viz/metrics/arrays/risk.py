"""Sparsification and risk-coverage from counts per bin: numpy kernels.

Pixels are dropped from the most uncertain on; the *risk* at coverage c is the mean error of the share c that is kept.
``errors`` is the sum of the error (wrong pixels, or their Brier scores) and ``pixels`` the number of pixels per bin in
the order of rising score, (..., bins).
"""

from __future__ import annotations

import numpy as np

__all__ = ["aurc", "ause", "oracle_aurc", "risk_coverage", "sparsification_curve"]


def aurc(errors: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    r"""Area under the risk-coverage curve, the mean over coverages of the mean error of what is kept.

    .. math:: \mathrm{AURC} = \int_0^1 \frac{E(c)}{c}\,dc

    with E(c) the error of the most certain share c. Pixels of equal score, or of one bin, are in random order, so that
    ties have their expected risk. Smaller is better.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks" (arXiv:1705.08500).

    Returns
    -------
    array (...)
        NaN without a pixel.
    """
    e, n = np.asarray(errors, "f8"), np.asarray(pixels, "f8")
    before_e, before_n = np.cumsum(e, -1) - e, np.cumsum(n, -1) - n
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = e / n
        # int_0^1 (E + e s) / (N + n s) n ds = e + (E - N e/n) ln(1 + n/N)
        area = e + np.where(before_n > 0, (before_e - before_n * rate) * np.log1p(n / before_n), 0.0)
        total = n.sum(-1)
        return np.where(total > 0, np.where(n > 0, area, 0.0).sum(-1) / total, np.nan)


def oracle_aurc(error_rate: np.ndarray | float) -> np.ndarray:
    """AURC of an order that drops every wrong pixel first: r + (1 - r) ln(1 - r)."""
    r = np.asarray(error_rate, "f8")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(r < 1, r + (1 - r) * np.log1p(-np.minimum(r, 1)), 1.0)


def ause(errors: np.ndarray, pixels: np.ndarray, oracle: np.ndarray) -> np.ndarray:
    r"""Area between the sparsification curve and the oracle's, both normalised by the error at 0 %.

    .. math:: \mathrm{AuSE} = (\mathrm{AURC}_\text{score} - \mathrm{AURC}_\text{oracle}) / \bar e

    as the area under risk over the share dropped is that over the share kept. Smaller is better; 0 is the oracle.

    Parameters
    ----------
    oracle : array (...)
        AURC of the order by true error: `oracle_aurc` for the error rate, `aurc` of the errors' own histogram
        for a Brier score.

    Returns
    -------
    array (...)
        NaN without a pixel or without an error.
    """
    e, n = np.asarray(errors, "f8"), np.asarray(pixels, "f8")
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = e.sum(-1) / n.sum(-1)
        return np.where(mean > 0, (aurc(e, n) - oracle) / mean, np.nan)


def risk_coverage(errors: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Risk-coverage curve of one histogram: (coverage, risk), rising coverage; empty bins are left out."""
    e, n = np.asarray(errors, "f8"), np.asarray(pixels, "f8")
    used = n > 0
    kept = np.cumsum(n[used])
    return kept / max(kept[-1], 1) if len(kept) else kept, np.cumsum(e[used]) / kept


def sparsification_curve(
    errors: np.ndarray, pixels: np.ndarray, dropped: np.ndarray, normalise: bool = True
) -> np.ndarray:
    """Error of the pixels kept after dropping the most uncertain share, over the error at 0 %.

    Parameters
    ----------
    dropped : array (k,)
        Shares dropped, in [0, 1).

    Returns
    -------
    array (k,)
    """
    e, n = np.asarray(errors, "f8"), np.asarray(pixels, "f8")
    kept, error = np.r_[0.0, np.cumsum(n)], np.r_[0.0, np.cumsum(e)]
    wanted = (1 - np.asarray(dropped, "f8")) * kept[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        risk = np.interp(wanted, kept, error) / wanted
        return risk / (error[-1] / kept[-1]) if normalise else risk
