"""The geometry of a last layer without its weights: what a kernel of ones would sum up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ..schema.errors import HeadError

__all__ = ["sum_over_taps"]


def sum_over_taps(planes: Tensor, layer: nn.Module, size: Sequence[int]) -> Tensor:
    """Apply the layer's geometry with a kernel of ones to every plane of (N, planes, h', w').

    Parameters
    ----------
    planes : Tensor (N, planes, h', w')
        Sums over the channels that enter the layer.
    layer : Conv2d, ConvTranspose2d or Linear
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
    if isinstance(layer, nn.Linear):
        _check_size(planes, size, layer)
        return planes
    if isinstance(layer, nn.ConvTranspose2d):
        return _transposed(planes, layer, size)
    assert isinstance(layer, nn.Conv2d)
    found = tuple(planes.shape[2:])
    padding = _padding(layer)
    if any(padding):
        planes = F.pad(planes, padding, "constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    for axis, (kernel, dilation) in enumerate(zip(layer.kernel_size, layer.dilation, strict=True)):
        span = dilation * (kernel - 1) + 1
        if planes.shape[2 + axis] < span:
            raise HeadError(f"features of size {found} are smaller than the kernel of {layer}")
        taps = planes.unfold(2 + axis, span, layer.stride[axis])
        planes = taps[..., 0]
        for tap in range(1, kernel):
            planes = planes + taps[..., tap * dilation]
    _check_size(planes, size, layer)
    return planes


def _transposed(planes: Tensor, layer: nn.ConvTranspose2d, size: Sequence[int]) -> Tensor:
    """Put every value where each tap of the transposed kernel takes it, one axis after the other."""
    found = tuple(planes.shape[2:])
    for axis in (0, 1):
        stride, kernel, dilation = layer.stride[axis], layer.kernel_size[axis], layer.dilation[axis]
        padding, length, target = int(layer.padding[axis]), found[axis], int(size[axis])
        # the size of the output, which the call may have chosen, tells the output padding
        extra = target - ((length - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
        if not 0 <= extra < max(stride, dilation):
            raise HeadError(
                f"logits of size {tuple(size)} cannot come from features {found[0]} x {found[1]} by {layer}"
            )
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


def _padding(layer: nn.Conv2d) -> list[int]:
    """Return the padding as `torch.nn.functional.pad` wants it: left, right, top, bottom."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2]
    vertical, horizontal = (int(edge) for edge in layer.padding)
    return [horizontal, horizontal, vertical, vertical]


def _check_size(planes: Tensor, size: Sequence[int], layer: nn.Module) -> None:
    if tuple(planes.shape[2:]) != tuple(size):
        raise HeadError(
            f"logits have size {tuple(size)}, but {layer} makes {tuple(planes.shape[2:])} of these features; "
            "expected the layer's own output, before any resizing"
        )
