"""Scores that are fitted on pixels of in-distribution frames: what they are handed, and what they have to do.

`Fitted` is the seam: a score whose entry in the registry needs ``"fit"`` names an object of this form as its `compute`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks.head import geometry_of
from ..schema.errors import FitError
from .needs import LAYER, ForwardPass

__all__ = ["DrawnPixels", "Fitted", "at_logits", "by_pixel", "class_kernel", "length_of", "named_classes", "principal"]


class Fitted(Protocol):
    """A score with a state that is fitted once."""

    def fit(self, pixels: DrawnPixels) -> dict[str, Tensor]:
        """What is kept of drawn pixels: tensors by name, finite. Called without gradients."""
        ...

    def __call__(self, run: ForwardPass, state: Mapping[str, Tensor]) -> Tensor:
        """Map of the score, not oriented.

        Parameters
        ----------
        run : ForwardPass
            `run.features` are those that it was fitted on.
        state : mapping of str to Tensor
            What `fit` returned, on the device of the forward pass.

        Returns
        -------
        Tensor (N, h, w)
            Of the size of `run.head.logits` at the head, else of the image.
        """
        ...


@dataclass(frozen=True, eq=False)
class DrawnPixels:
    """Pixels drawn from in-distribution frames.

    Attributes
    ----------
    features : Tensor (n, D), float32
        What enters the head there, or leaves the layer that was asked for.
    logits : Tensor (n, C), float32
        Of the classes.
    prediction : LongTensor (n,)
        Class that is predicted.
    label : LongTensor (n,) or None
        Class of the label, -1 where a frame has none; None without any.
    classes : tuple of str
    by : "prediction" or "label"
        What classes go by.
    source : str
        ``"head"`` or ``"layer:NAME"``: what the features are of.
    layer : nn.Module or None
        The head.
    channels : LongTensor (C,) or None
        Which of the output channels of the network the logits are, where some were left out.
    """

    features: Tensor
    logits: Tensor
    prediction: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] = ()
    by: str = "prediction"
    source: str = "head"
    layer: nn.Module | None = None
    channels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def group(self) -> Tensor:
        """Class of each pixel, (n,), by prediction or label as was asked for."""
        return self.prediction if self.by == "prediction" or self.label is None else self.label

    @cached_property
    def counts(self) -> Tensor:
        """Pixels of each class, (C,)."""
        return torch.bincount(self.group, minlength=self.logits.shape[1])

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the features, (D,), float64."""
        return self.features.mean(0, dtype=torch.float64)

    @cached_property
    def scatter(self) -> Tensor:
        """Sum of (psi - mean)(psi - mean)^T, (D, D), float64."""
        return self.second_moment(self.mean)

    @cached_property
    def class_means(self) -> Tensor:
        """Mean of the features of each class, (C, D), float64; NaN where a class has no pixel."""
        sums = self.features.new_zeros((len(self.counts), self.features.shape[1]), dtype=torch.float64)
        for start in range(0, len(self), _ROWS):
            rows = slice(start, start + _ROWS)
            sums.index_add_(0, self.group[rows], self.features[rows].double())
        return sums / self.counts[:, None]

    def second_moment(self, origin: Tensor) -> Tensor:
        """Sum of (psi - origin)(psi - origin)^T, (D, D), float64: a part of the pixels at a time is in double."""
        total = self.features.new_zeros((self.features.shape[1],) * 2, dtype=torch.float64)
        for rows in self.features.split(_ROWS):
            centred = rows.double() - origin
            total.addmm_(centred.T, centred)
        return total

    def require_dimensions(self, score: str) -> None:
        """Check that there are as many pixels as features.

        Raises
        ------
        FitError
            Naming the score.
        """
        n, dimensions = self.features.shape
        if n < dimensions:
            raise FitError(
                f"score {score!r}: {n} pixels were drawn for {dimensions} features; expected {dimensions} or more "
                "(--pixels, or more frames)"
            )

    def require_head(self, score: str) -> nn.Module:
        """The head, of whose features the pixels are.

        Raises
        ------
        FitError
            Naming the score, if they are of another layer.
        """
        if self.source.startswith(LAYER) or self.layer is None:
            raise FitError(
                f"score {score!r} needs the head's kernel, and so its features, not those of {self.source!r}"
            )
        return self.layer

    def warn_of_absent(self, score: str, what: str) -> None:
        """Warn of classes that no drawn pixel has."""
        absent = (self.counts == 0).nonzero()[:, 0].tolist()
        if absent:
            done = "predicted" if self.by == "prediction" else "labelled"
            names = named_classes(self.classes, absent)
            warnings.warn(f"score {score!r}: no drawn pixel is {done} as {names}; {what}", stacklevel=2)


_ROWS = 1 << 14  # pixels that are in float64 at once


def named_classes(classes: Sequence[str], ids: Sequence[int]) -> str:
    """Names of some classes, or their numbers where they have none."""
    return ", ".join(repr(classes[id]) if id < len(classes) else f"class {id}" for id in ids)


def principal(second_moment: Tensor) -> tuple[Tensor, Tensor]:
    """Principal directions, a column each, and the variance along them, largest first."""
    values, directions = torch.linalg.eigh(second_moment)
    return directions.flip(1), values.flip(0).clamp_min(0)


def class_kernel(pixels: DrawnPixels, score: str) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the head by class, as a constant feature map meets them, float64.

    The kernel of a k x k convolution is summed over its taps; that of a transposed one divided by its strides besides,
    as each place of its output is reached by that share of the taps.

    Parameters
    ----------
    pixels : DrawnPixels
    score : str
        For errors.

    Returns
    -------
    Tensor (C, D), Tensor (C,)
        Of the one logit that stands for two classes where there is one.

    Raises
    ------
    FitError
        If the features are not the head's, or the kernel is not one of the network's logits.
    """
    layer = pixels.require_head(score)
    geometry, groups = geometry_of(layer), geometry_of(layer).groups
    kernel, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    shape = (geometry.outputs, geometry.inputs // groups)
    if geometry.transposed:
        shape = (geometry.inputs, geometry.outputs // groups)
    if kernel is None:
        raise FitError(
            f"score {score!r} is made of the weights of the last layer, and those of {geometry.name} are not known"
        )
    if not isinstance(kernel, Tensor) or tuple(kernel.shape[:2]) != shape:
        raise FitError(f"score {score!r}: {geometry.name} has no kernel of {shape[0]} x {shape[1]} x taps")
    blocks = kernel.detach().double().cpu().reshape(*shape, -1).sum(2).chunk(groups)
    if geometry.transposed:
        blocks = tuple(block.T / (geometry.stride[0] * geometry.stride[1]) for block in blocks)
    whole = torch.block_diag(*blocks)
    offset = whole.new_zeros(len(whole)) if bias is None else bias.detach().double().cpu()
    n_classes, kept = pixels.logits.shape[1], pixels.channels
    if len(whole) == 1 and n_classes == 2:
        return whole, offset
    if kept is not None and int(kept.max()) < len(whole):
        whole, offset = whole[kept.cpu()], offset[kept.cpu()]
    if len(whole) != n_classes:
        raise FitError(
            f"score {score!r} needs the kernel of the network's {n_classes} logits; {geometry.name} makes {len(whole)}"
        )
    return whole, offset


_TILE = 1 << 20  # numbers made of pixels at once: they stay in a core's cache
_GPU_TILE = 1 << 27


def by_pixel(features: Tensor, function: Callable[[Tensor], Tensor], width: int) -> Tensor:
    """A map of what a function says of each pixel, some pixels at a time.

    Parameters
    ----------
    features : Tensor (N, D, h, w)
    function : callable
        From (D, pixels), float32, to (pixels,).
    width : int
        How many numbers it makes of a pixel meanwhile.

    Returns
    -------
    Tensor (N, h, w), float32
    """
    maps = features.new_empty((len(features), features[0, 0].numel()), dtype=torch.float32)
    step = max(256, (_TILE if features.device.type == "cpu" else _GPU_TILE) // width)
    for image, values in zip(features.flatten(2), maps, strict=True):
        for start in range(0, len(values), step):
            pixels = slice(start, start + step)
            values[pixels] = function(image[:, pixels].float())
    return maps.unflatten(1, features.shape[2:])


def length_of(vectors: Tensor) -> Tensor:
    """Lengths of the columns of (D, pixels); `torch.linalg.norm` takes several times as long on a CPU."""
    return vectors.square().sum(0).sqrt_()


def at_logits(run: ForwardPass, values: Tensor) -> Tensor:
    """A map (N, h', w') on the grid of the features on that of the logits, bilinearly."""
    size = run.head.logits.shape[2:]
    if values.shape[1:] == size:
        return values
    return F.interpolate(values[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]
