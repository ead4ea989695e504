"""The largest logit, standardised by what is usual where a class is predicted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .fitted import DrawnPixels, named_classes
from .needs import ForwardPass

__all__ = ["Sml"]

_WIDTH = 4  # pixels on each side of a boundary, which are dealt with from outside to inside
_SIGMA, _REACH, _DILATION = 1.0, 3, 6


class Sml:
    r""":math:`-(\max_c \phi_c - \mu_y) / \sigma_y` at the image's resolution; larger is more uncertain.

    :math:`y` is the class of the largest logit, :math:`\mu_y` and :math:`\sigma_y` mean and standard deviation of the
    largest logit where that class is predicted on the drawn pixels.

    Parameters
    ----------
    name : str
    boundary_suppression : bool
        Whether values within four pixels of a boundary between predicted classes are replaced by the mean of those of
        their eight neighbours that lie further out, in four steps.
    dilated_smoothing : bool
        Whether the map is then smoothed by a Gaussian of 7 x 7 taps that are six pixels apart, of a standard deviation
        of one tap.

    Source: Jung et al., "Standardized Max Logits" (arXiv:2107.11264), section 3, with their constants.
    """

    def __init__(self, name: str, boundary_suppression: bool = False, dilated_smoothing: bool = False) -> None:
        self.name = name
        self.boundary_suppression, self.dilated_smoothing = boundary_suppression, dilated_smoothing

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """Mean and standard deviation of the largest logit for each predicted class.

        Warns
        -----
        UserWarning
            Naming classes that are predicted nowhere, or with one largest logit alone: those of all pixels stand for
            theirs.
        """
        largest, predicted = pixels.logits.double().max(1)
        of_class = [largest[predicted == c] for c in range(pixels.logits.shape[1])]
        mean = torch.stack([values.mean() for values in of_class])
        deviation = torch.stack([(values - values.mean()).square().mean().sqrt() for values in of_class])
        usual = largest.std(correction=0).clamp_min(torch.finfo(torch.float32).eps * largest.abs().amax() + 1e-30)
        lacking = ~(deviation > 1e-6 * usual)  # of no pixel it is NaN
        if bool(lacking.any()):
            names = named_classes(pixels.classes, lacking.nonzero()[:, 0].tolist())
            warnings.warn(
                f"score {self.name!r}: the drawn pixels do not tell how the largest logit varies where {names} is "
                "predicted; mean and standard deviation of all pixels are taken there",
                stacklevel=2,
            )
        return {"mean": mean.where(~lacking, largest.mean()), "deviation": deviation.where(~lacking, usual)}

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Standardised values of every pixel of the image."""
        largest, predicted = run.largest
        values = (state["mean"][predicted] - largest) / state["deviation"][predicted]
        if self.boundary_suppression:
            values = _boundaries_suppressed(values, predicted)
        return _smoothed(values) if self.dilated_smoothing else values


def _boundaries_suppressed(values: Tensor, predicted: Tensor) -> Tensor:
    """Values near boundaries, from outside to inside, replaced by the mean of their neighbours outside."""
    classes = predicted.short()
    band = _square(torch.maximum, classes) != _square(torch.minimum, classes)
    bands = [band]
    for _ in range(_WIDTH - 1):
        band = _line(torch.logical_or, band, -1) | _line(torch.logical_or, band, -2)
        bands.append(band)
    for band in reversed(bands):
        outside = (~band).to(values.dtype)
        total, count = _square(torch.add, values * outside), _square(torch.add, outside)
        values = torch.where(band & (count > 0), total / count.clamp_min_(1), values)
    return values


def _line(operation: Callable[[Tensor, Tensor], Tensor], maps: Tensor, axis: int) -> Tensor:
    """An operation on each pixel and its two neighbours along an axis; the outermost pixel is its own neighbour."""
    first, last = maps.narrow(axis, 0, 1), maps.narrow(axis, -1, 1)
    padded, length = torch.cat([first, maps, last], axis), maps.shape[axis]
    return operation(operation(padded.narrow(axis, 0, length), maps), padded.narrow(axis, 2, length))


def _square(operation: Callable[[Tensor, Tensor], Tensor], maps: Tensor) -> Tensor:
    """The same on each pixel and its eight neighbours."""
    return _line(operation, _line(operation, maps, -1), -2)


def _smoothed(values: Tensor) -> Tensor:
    """Dilated Gaussian, along rows and then along columns; outermost pixels are repeated outside."""
    taps = range(-_REACH, _REACH + 1)
    weights = [math.exp(-(tap**2) / (2 * _SIGMA**2)) for tap in taps]
    for axis in (-1, -2):
        length, edge = values.shape[axis], _REACH * _DILATION
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
        padded = torch.cat([*[first] * edge, values, *[last] * edge], axis)
        values = torch.zeros_like(values)
        for place, weight in enumerate(weights):
            values.add_(padded.narrow(axis, place * _DILATION, length), alpha=weight / sum(weights))
    return values
