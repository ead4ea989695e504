"""The largest logit, standardised by what is usual where a class is predicted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

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
        deviation = torch.stack([values.std(correction=0) for values in of_class])
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
    classes = F.pad(predicted[:, None].float(), (1, 1, 1, 1), "replicate")
    boundary = F.max_pool2d(classes, 3, 1) != -F.max_pool2d(-classes, 3, 1)
    bands = [boundary]
    for _ in range(_WIDTH - 1):
        bands.append(_widened(bands[-1]))
    maps = values[:, None]
    for band in reversed(bands):
        outside = (~band).to(maps.dtype)
        padded = (F.pad(part, (1, 1, 1, 1), "replicate") for part in (maps * outside, outside))
        total, count = (F.avg_pool2d(part, 3, 1, divisor_override=1) for part in padded)
        maps = torch.where(band & (count > 0), total / count.clamp_min(1), maps)
    return maps[:, 0]


def _widened(band: Tensor) -> Tensor:
    """A band of pixels with their neighbours above, below and at their sides."""
    wide = band.float()
    across, down = F.max_pool2d(wide, (1, 3), 1, (0, 1)), F.max_pool2d(wide, (3, 1), 1, (1, 0))
    return torch.maximum(across, down) > 0


def _smoothed(values: Tensor) -> Tensor:
    """Dilated Gaussian, its rows and columns one after the other."""
    taps = torch.arange(-_REACH, _REACH + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-taps.square() / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    edge = _REACH * _DILATION
    padded = F.pad(values[:, None], (edge, edge, edge, edge), "replicate")
    across = F.conv2d(padded, kernel[:, :, None], dilation=_DILATION)
    return F.conv2d(across, kernel[..., None], dilation=_DILATION)[:, 0]
