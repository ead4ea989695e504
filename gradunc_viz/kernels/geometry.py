"""The geometry of a last layer without its weights: what a kernel of ones would sum up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..schema.errors import HeadError

__all__ = ["Geometry", "sum_over_taps", "taps"]


@dataclass(frozen=True)
class Geometry:
    """How the places and channels that leave a last layer are connected to those that enter it.

    As it stands, with its defaults, that of a 1 x 1 convolution: every place by itself.

    Attributes
    ----------
    inputs, outputs : int
        Channels of the features and of the logits.
    groups : int
        Equal parts that the channels fall into, each connected within itself.
    bias : bool
        Whether the layer has one.
    kernel_size, stride, dilation : (vertical, horizontal)
        As of `torch.nn.Conv2d`; where `transposed`, as of `torch.nn.ConvTranspose2d`.
    padding : (left, right, top, bottom)
        What is put around the features; where `transposed`, what is cut off the output, equally on both sides.
    padding_mode : str
        ``"zeros"``, or a mode of `torch.nn.functional.pad`.
    transposed : bool
    name : str
        The layer in words, for errors.
    """

    inputs: int
    outputs: int
    groups: int = 1
    bias: bool = False
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    padding_mode: str = "zeros"
    transposed: bool = False
    name: str = "the last layer"

    @property
    def pointwise(self) -> bool:
        """Whether every place of the output is of the same place of the input alone."""
        return self.kernel_size == (1, 1) == self.stride and not any(self.padding)

    def before(self, axis: int) -> int:
        """Padding at the top (axis 0) or on the left (axis 1)."""
        return self.padding[2 - 2 * axis]

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Size of what the layer makes of features of a size; where `transposed`, the least, without output padding."""
        down, across = (
            (int(size[axis]) - 1) * stride - 2 * self.before(axis) + dilation * (kernel - 1) + 1
            if self.transposed
            else (int(size[axis]) + sum(self.padding[2 - 2 * axis :][:2]) - dilation * (kernel - 1) - 1) // stride + 1
            for axis, (kernel, stride, dilation) in enumerate(
                zip(self.kernel_size, self.stride, self.dilation, strict=True)
            )
        )
        return down, across

    def makes(self, size: Sequence[int], of: Sequence[int]) -> bool:
        """Whether the layer makes an output of this size of features of another."""
        least = self.output_size(of)
        if not self.transposed:
            return min(least) > 0 and least == tuple(size)
        steps = zip(self.stride, self.dilation, strict=True)
        return all(0 <= size[axis] - least[axis] < max(step) for axis, step in enumerate(steps))

    def padded(self, planes: Tensor) -> Tensor:
        """Features, (N, planes, h, w), with what the layer puts around them."""
        if not any(self.padding):
            return planes
        return F.pad(planes, self.padding, "constant" if self.padding_mode == "zeros" else self.padding_mode)


def sum_over_taps(planes: Tensor, layer: Geometry, size: Sequence[int]) -> Tensor:
    """Apply the layer's geometry with a kernel of ones to every plane of (N, planes, h', w').

    Parameters
    ----------
    planes : Tensor (N, planes, h', w')
        Sums over the channels that enter the layer.
    layer : Geometry
    size : (h, w)
        Of the layer's output.

    Returns
    -------
    Tensor (N, planes, h, w)

    Raises
    ------
    HeadError
        If the layer does not make an output of this size of these features.

    Notes
    -----
    The kernel is separable and its sums are of views, without the rounding of a convolution: nothing cancels, so a
    sum of zeros is zero and a small sum beside a large one keeps its digits.
    """
    if layer.transposed:
        return _transposed(planes, layer, size)
    found = tuple(planes.shape[2:])
    planes = layer.padded(planes)
    for axis, (kernel, dilation) in enumerate(zip(layer.kernel_size, layer.dilation, strict=True)):
        span = dilation * (kernel - 1) + 1
        if planes.shape[2 + axis] < span:
            raise HeadError(f"features of size {found} are smaller than the kernel of {layer.name}")
        taps = planes.unfold(2 + axis, span, layer.stride[axis])
        planes = taps[..., 0]
        for tap in range(1, kernel):
            planes = planes + taps[..., tap * dilation]
    _check_size(planes, size, layer)
    return planes


def taps(features: Tensor, layer: Geometry, size: Sequence[int]) -> Iterator[Tensor]:
    """What each tap of the kernel multiplies, at every place of the output: maps (N, D, h, w), one after the other.

    Raises
    ------
    HeadError
        If the layer does not make an output of this size of these features.
    """
    starts, strides = [], layer.stride
    if layer.transposed:
        spread = features.new_zeros((*features.shape[:2], *_spread_size(features.shape[2:], layer, size)))
        origin = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        spread[:, :, origin[0] :: layer.stride[0], origin[1] :: layer.stride[1]][
            :, :, : features.shape[2], : features.shape[3]
        ] = features
        features, strides = spread, (1, 1)
        starts = [
            [origin[axis] + layer.before(axis) - tap * layer.dilation[axis] for tap in range(layer.kernel_size[axis])]
            for axis in (0, 1)
        ]
    else:
        features = layer.padded(features)
        starts = [[tap * layer.dilation[axis] for tap in range(layer.kernel_size[axis])] for axis in (0, 1)]
    for top in starts[0]:
        for left in starts[1]:
            tap = features[:, :, top :: strides[0], left :: strides[1]][:, :, : size[0], : size[1]]
            if tuple(tap.shape[2:]) != tuple(size):
                raise HeadError(f"{layer.name} does not make logits of size {tuple(size)} of these features")
            yield tap


def _spread_size(found: Sequence[int], layer: Geometry, size: Sequence[int]) -> list[int]:
    """Size of features with zeros between and around them, in which each tap finds what it multiplies."""
    sizes = []
    for axis in (0, 1):
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        length = (found[axis] - 1) * layer.stride[axis] + 1
        sizes.append(max(reach + length, reach + layer.before(axis) + int(size[axis])))
    return sizes


def _transposed(planes: Tensor, layer: Geometry, size: Sequence[int]) -> Tensor:
    """Put every value where each tap of the transposed kernel takes it, one axis after the other."""
    found = tuple(planes.shape[2:])
    if not layer.makes(size, found):
        raise HeadError(
            f"logits of size {tuple(size)} cannot come from features {found[0]} x {found[1]} by {layer.name}"
        )
    for axis in (0, 1):
        stride, kernel, dilation = layer.stride[axis], layer.kernel_size[axis], layer.dilation[axis]
        padding, length, target = layer.before(axis), found[axis], int(size[axis])
        shape = list(planes.shape)
        shape[2 + axis] = target
        spread = planes.new_zeros(shape)
        for tap in range(kernel):
            start = tap * dilation - padding
            first, stop = max(0, -(start // stride)), min(length, (target - 1 - start) // stride + 1)
            if first < stop:
                begin, end = start + first * stride, start + (stop - 1) * stride + 1
                taken = planes.narrow(2 + axis, first, stop - first)
                (spread[:, :, begin:end:stride] if axis == 0 else spread[:, :, :, begin:end:stride]).add_(taken)
        planes = spread
    return planes


def _check_size(planes: Tensor, size: Sequence[int], layer: Geometry) -> None:
    if tuple(planes.shape[2:]) != tuple(size):
        raise HeadError(
            f"logits have size {tuple(size)}, but {layer.name} makes {tuple(planes.shape[2:])} of these features; "
            "expected the layer's own output, before any resizing"
        )
