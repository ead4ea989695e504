r"""Mahalanobis distances of features to the classes they were seen in.

With the means :math:`\mu_c` of the classes and one covariance for all of them, that of the features about the mean of
their own class, :math:`\Sigma`, whitened features :math:`z = P (\psi - \mu)`, :math:`P \Sigma P^T = 1`, turn the
distance into a plain one. Features about the mean of all have the covariance :math:`\Sigma_0 = \Sigma + B`, whose
whitened form is 1 plus a matrix of the rank of the number of classes; so the difference of the two distances,

.. math:: \min_c (\|m_c\|^2 - 2 m_c \cdot z) + \sum_k \frac{b_k}{1 + b_k} (v_k \cdot z)^2,

with the whitened means :math:`m_c` and the eigenvalues and directions of :math:`P B P^T`, takes a few directions alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from ..schema.errors import FitError
from .fitted import DrawnPixels, at_logits, by_pixel
from .needs import ForwardPass

__all__ = ["Mahalanobis", "RelativeMahalanobis"]

_CONSTANT = 1e-6  # standard deviation of a feature over its size, which float32 still tells from none
_FLAT = 1e-10  # variance along a direction of standardised features over the largest, likewise


def _whitened(pixels: DrawnPixels, score: str) -> tuple[Tensor, Tensor, Tensor]:
    """Whitening P (r, D), whitened means of the classes that occur (K, r), and their shares of the pixels (K,).

    Raises
    ------
    FitError
        If there are fewer pixels than features, or none of these varies.

    Warns
    -----
    UserWarning
        Where the covariance is singular, and where a class has no pixel.
    """
    pixels.require_dimensions(score)
    pixels.warn_of_absent(score, "left out of the minimum")
    present = pixels.counts > 0
    share = pixels.counts[present].double() / len(pixels)
    means = pixels.class_means[present] - pixels.mean
    covariance = pixels.scatter / len(pixels) - (means.T * share) @ means
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    varies = deviation > _CONSTANT * (pixels.mean.abs() + (pixels.scatter.diagonal() / len(pixels)).sqrt())
    if not bool(varies.any()):
        raise FitError(f"score {score!r}: none of the {len(varies)} features varies within the classes")
    scale = torch.where(varies, 1 / deviation.clamp_min(torch.finfo(torch.float64).tiny), 0)
    values, directions = torch.linalg.eigh(covariance * scale * scale[:, None])
    kept = values > _FLAT * values[-1]
    if not bool(kept.all()):
        _warn_of_singular(score, varies, int(kept.sum()))
    whitening = (directions[:, kept] / values[kept].sqrt()).T * scale
    return whitening, means @ whitening.T, share


def _warn_of_singular(score: str, varies: Tensor, rank: int) -> None:
    constant = (~varies).nonzero()[:, 0].tolist()
    listed = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")
    which = f"; features {listed} do not vary within the classes" if constant else ""
    warnings.warn(
        f"score {score!r}: the covariance is singular, of rank {rank} of {len(varies)}{which}; directions in which "
        "nothing varies are left out (pseudo-inverse), so that what differs in them alone is not seen",
        stacklevel=4,
    )


class Mahalanobis:
    r""":math:`\min_c (\psi - \mu_c)^T \Sigma^{-1} (\psi - \mu_c)`; larger is more uncertain.

    Covariances are those of the drawn pixels, divided by their number.

    Source: Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks"
    (arXiv:1807.03888), section 2.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """Mean of all, whitening, and whitened means of the classes."""
        whitening, means, _ = _whitened(pixels, self.name)
        return {"mean": pixels.mean, "whitening": whitening, "class_means": means}

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Squared distances at the logits' places."""
        mean, whitening, means = state["mean"][:, None], state["whitening"], state["class_means"]
        offset = means.square().sum(1)[:, None]
        columns = means.T.contiguous()

        def distance(psi: Tensor) -> Tensor:
            z = whitening @ (psi - mean)
            nearest = torch.addmm(offset, means, z, alpha=-2).argmin(0)
            # of the nearest mean alone, where nothing cancels
            return (z - columns.index_select(1, nearest)).square_().sum(0)

        return at_logits(run, by_pixel(run.features, distance, len(whitening)))


class RelativeMahalanobis:
    r"""`Mahalanobis` less :math:`(\psi - \mu)^T \Sigma_0^{-1} (\psi - \mu)`, mean and covariance of all together.

    Larger is more uncertain; it is negative where one class fits much better than all of them together.

    Source: Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection" (arXiv:2106.09022).
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """Mean of all, the classes as linear functions of the features, and directions in which they differ."""
        whitening, means, share = _whitened(pixels, self.name)
        between, directions = torch.linalg.eigh((means.T * share) @ means)
        kept = slice(-min(len(means), len(between)), None)
        weight = (between[kept].clamp_min(0) / (1 + between[kept].clamp_min(0))).sqrt()
        return {
            "mean": pixels.mean,
            "linear": 2 * means @ whitening,
            "offset": means.square().sum(1),
            "directions": (directions[:, kept] * weight).T @ whitening,
        }

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Differences of squared distances at the logits' places."""
        mean, offset = state["mean"][:, None], state["offset"][:, None]
        both = torch.cat([state["linear"], state["directions"]])
        n_classes = len(offset)

        def difference(psi: Tensor) -> Tensor:
            found = both @ (psi - mean)
            return (offset - found[:n_classes]).amin(0) + found[n_classes:].square_().sum(0)

        return at_logits(run, by_pixel(run.features, difference, len(both)))
