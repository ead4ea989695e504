"""Calibration of the class probabilities and quality of the segmentation, from cached counts: numpy kernels."""

from __future__ import annotations

import numpy as np

__all__ = ["ece", "mce", "rebin", "reliability"]


def rebin(values: np.ndarray, bins: int) -> np.ndarray:
    """Join the equal-width bins of the last axis to `bins` wider ones.

    Raises
    ------
    ValueError
        If the number of bins is no multiple of `bins`.
    """
    fine = values.shape[-1]
    if bins < 1 or fine % bins:
        divisors = [n for n in range(1, fine + 1) if fine % n == 0]
        raise ValueError(f"bins is {bins}; expected a divisor of the {fine} cached bins: {divisors}")
    return values.reshape(*values.shape[:-1], bins, fine // bins).sum(-1)


def reliability(
    right: np.ndarray, wrong: np.ndarray, confidence: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reliability diagram: (pixels, mean confidence, accuracy) per equal-width bin of confidence.

    Parameters
    ----------
    right, wrong : array (..., fine bins)
        Labelled pixels per bin of confidence (maximum softmax).
    confidence : array (..., fine bins)
        Sum of their confidence.
    bins : int
        A divisor of the number of fine bins. Bins are [a, b), the last one is closed at 1.

    Returns
    -------
    (array, array, array), each (..., bins)
        Mean confidence and accuracy are NaN in empty bins.
    """
    hits = rebin(np.asarray(right, "f8"), bins)
    pixels = hits + rebin(np.asarray(wrong, "f8"), bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        return pixels, rebin(np.asarray(confidence, "f8"), bins) / pixels, hits / pixels


def ece(pixels: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    r"""Expected calibration error of a reliability diagram, :math:`\sum_b n_b/N\,|\mathrm{acc}_b - \mathrm{conf}_b|`.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
    """
    total = pixels.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, np.nansum(pixels * np.abs(accuracy - confidence), -1) / total, np.nan)


def mce(pixels: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Maximum calibration error: the largest gap of a reliability diagram over the bins that hold a pixel."""
    gap = np.where(pixels > 0, np.abs(accuracy - confidence), -np.inf)
    largest = gap.max(-1)
    return np.where(np.isfinite(largest), largest, np.nan)
