"""Scaling of logits so that their softmax is calibrated: one temperature, or a weight and a bias for each class.

Both minimise the negative log-likelihood of labelled pixels, which is convex in 1/T as in weights and biases.

Source: Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599), section 4.2.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax

__all__ = ["COLDEST", "HOTTEST", "fit_temperature", "fit_vector_scaling", "nll"]

COLDEST, HOTTEST = 0.01, 100.0
"""Between which a temperature is searched."""

_STEPS = 1000


def nll(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean negative log-likelihood -ln pi of the labels, in nats.

    Parameters
    ----------
    logits : array (pixels, C)
    label : int array (pixels,)
    """
    return float(-log_softmax(logits, 1)[np.arange(len(label)), label].mean())


def fit_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """Temperature T that minimises the mean negative log-likelihood of softmax(phi / T).

    Its derivative by 1/T, the mean of sum_c pi_c phi_c - phi_y, grows with 1/T and vanishes at one temperature.

    Parameters
    ----------
    logits : array (pixels, C)
    label : int array (pixels,)

    Raises
    ------
    ValueError
        If no temperature between `COLDEST` and `HOTTEST` does.
    """
    wide = np.asarray(logits, "f8")
    # relative to the label's logit, so that digits remain
    above = wide - np.take_along_axis(wide, label[:, None], 1)

    def slope(log_temperature: float) -> float:
        pi = np.exp(log_softmax(wide * np.exp(-log_temperature), 1))
        return float((pi * above).sum(1).mean())

    ends = np.log([COLDEST, HOTTEST])
    cold, hot = (slope(end) for end in ends)
    if cold <= 0:
        raise ValueError(
            f"the smaller the temperature the better, down to {COLDEST:g} at least: {_share(above)} of the pixels are "
            "predicted right"
        )
    if hot >= 0:
        raise ValueError(
            f"the larger the temperature the better, up to {HOTTEST:g} at least: the logits say nothing of the labels, "
            f"{_share(above)} of the pixels are predicted right"
        )
    return float(np.exp(brentq(slope, *ends, xtol=1e-12, rtol=1e-12)))


def _share(above: np.ndarray) -> str:
    return f"{(above.max(1) <= 0).mean():.4%}"


def fit_vector_scaling(
    logits: np.ndarray, label: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights w and biases b that minimise the mean negative log-likelihood of softmax(w phi + b).

    The search starts at w = 1 / T and b = 0, and only goes where the likelihood grows.

    Parameters
    ----------
    logits : array (pixels, C)
    label : int array (pixels,)
    temperature : float
        T. What it says of classes that no pixel has stays: of these the likelihood would grow without an end.

    Returns
    -------
    weight, bias : array (C,)
        Where every class occurs the biases add up to 0, as a number added to all of them changes nothing.

    Raises
    ------
    ValueError
        If the search does not end.
    """
    wide = np.asarray(logits, "f8")
    n, classes = wide.shape
    place = np.arange(n)
    seen = np.bincount(label, minlength=classes) > 0
    # of logits of mean 0 and variance 1 weights and biases are searched that are alike in size and hardly correlated
    middle, width = wide.mean(0), np.maximum(wide.std(0), 1e-6)
    standard = (wide - middle) / width
    start = np.full(classes, 1 / temperature)

    def scaling(free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = start.copy(), np.zeros(classes)
        slope, height = free.reshape(2, -1)
        weight[seen] = slope / width[seen]
        bias[seen] = height - slope * middle[seen] / width[seen]
        return weight, bias

    def objective(free: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = scaling(free)
        log_pi = log_softmax(wide * weight + bias, 1)
        value = -log_pi[place, label].mean()
        residual = np.exp(log_pi)
        residual[place, label] -= 1
        gradient = np.stack([(residual * standard).mean(0), residual.mean(0)])
        return float(value), gradient[:, seen].ravel()

    first = np.stack([start * width, start * middle])[:, seen].ravel()
    done = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS, "gtol": 1e-7, "ftol": 0})
    if done.nit >= _STEPS:
        raise ValueError(
            f"vector scaling is not done after {_STEPS} steps; the likelihood still grows by {abs(done.jac).max():.1e}"
        )
    weight, bias = scaling(done.x)
    return weight, bias - bias.mean() if seen.all() else bias
